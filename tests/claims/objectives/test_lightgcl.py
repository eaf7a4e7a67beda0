"""LightGCL's claim: data, recall and coverage by hand, bars from the numbers, MovieLens or none, the same bytes."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch

from rl_contrastive.analysis.figures import rng_of
from rl_contrastive.claims.base import Context
from rl_contrastive.claims.objectives import lightgcl as claim
from rl_contrastive.claims.objectives import movielens
from rl_contrastive.claims.runner import run_claims
from rl_contrastive.errors import RlcError

TINY = dataclasses.replace(
    claim.LightGCLClaimConfig.quick(), pairs=30, successors=40, settings=("300",), steps=5, seeds=(500, 501)
)


def test_counts_are_of_the_transitions_and_noise_adds_half_as_many_edges():
    counts = claim.low_rank_counts(TINY, 500, rng=rng_of(0))
    assert counts.sum() == 500
    train, held = claim.split(counts, rng=rng_of(1))
    assert ((train > 0) & (held > 0)).sum() == 0
    np.testing.assert_array_equal((train > 0) | (held > 0), counts > 0)
    assert 0.1 < held.sum() / (counts > 0).sum() < 0.3
    plain, noisy = (claim.data(TINY, name, 3) for name in ("300", "300 noise"))
    np.testing.assert_array_equal(plain[1], noisy[1])  # the same edges are held out
    added = noisy[0] - plain[0]
    assert (added >= 0).all()
    assert (added[plain[1] > 0] == 0).all()
    assert 0 < added.sum() <= 0.5 * (plain[0] > 0).sum()


def test_recall_and_coverage_by_hand():
    train, held = np.zeros((2, 30)), np.zeros((2, 30))
    train[0, 0] = 1.0  # best score, but seen: not recommended
    held[0, [5, 25]] = 1.0
    scores = -torch.arange(30.0).expand(2, 30)
    found = claim.judged(scores, train, held)
    assert found["recall"] == [0.5]  # columns 1..20: 5 is there, 25 is not; row 1 holds nothing
    assert found["coverage"] == [20 / 30]


def test_a_setting_is_a_number_of_transitions():
    with pytest.raises(RlcError, match="setting"):
        claim.LightGCLClaimConfig(settings=("many",))


def test_unit_vectors_do_not_feel_lengths():
    z = [torch.randn(6, 4, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    nodes = torch.arange(6)
    one = claim.unit_sides(claim.Layers(*z), nodes, nodes)
    other = claim.unit_sides(claim.Layers(*(3.0 * x for x in z)), nodes, nodes)
    torch.testing.assert_close(one, other)


def test_bars_and_controls_come_from_the_numbers(tmp_path, monkeypatch):
    def bars(wide, name):
        def fit(config, task):
            jitter = 0.001 * task.seeds[0]
            return {"recall": [0.3 + jitter], "coverage": [0.3 + wide.get(task.method, 0.0)]}

        monkeypatch.setattr(claim, "fit", fit)
        return [(bar.met, bar.ok) for bar in claim.lightgcl(TINY, Context(tmp_path / name)).bars]

    assert bars({"SVD view x 0.2": 0.2}, "held") == [(True, True), (False, True)]
    assert bars({"SVD view x 0.2": -0.1}, "missed") == [(False, False), (False, True)]
    assert bars({"SVD view x 0.2": 0.2, claim.POPULARITY: 0.1}, "control")[1] == (True, False)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    written = []
    for name in ("one", "two"):
        run_claims(["objectives/lightgcl"], out=tmp_path / name, config=TINY)
        folder = tmp_path / name / "objectives/lightgcl"
        written.append([(folder / file).read_bytes() for file in ("report.json", "report.md", "lightgcl.png")])
    assert written[0] == written[1]


def test_without_movielens_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(movielens, "path", lambda: None)
    config = dataclasses.replace(TINY, movie_steps=5)
    report = claim.lightgcl(config, Context(tmp_path))
    assert "pip install --no-deps recbole==1.2.1" in report.answer
    assert list(report.numbers) == ["300"]
    with pytest.raises(RlcError, match="pip install"):
        movielens.edges()


def test_edges_of_a_file_are_numbered_by_id(tmp_path):
    file = tmp_path / "ml-100k.inter"
    file.write_text(f"{movielens.HEAD}\n196\t242\t3\t881250949\n22\t377\t1\t878887116\n196\t51\t5\t1\n")
    np.testing.assert_array_equal(movielens.edges(file), [[1, 1], [0, 2], [1, 0]])
    file.write_text("a\tb\n1\t2\n")
    with pytest.raises(RlcError, match="columns"):
        movielens.edges(file)


def test_movielens_is_whole_and_recbole_is_not_imported():
    if movielens.path() is None:
        pytest.skip(movielens.HOW)
    edges = movielens.edges()
    assert edges.shape == (100_000, 2)
    np.testing.assert_array_equal(edges.max(axis=0), [942, 1681])
    assert len(np.unique(edges, axis=0)) == 100_000
    assert "recbole" not in sys.modules


@pytest.mark.long
def test_the_claim_in_quick_size_reports_what_it_found(tmp_path):
    (report,) = run_claims(["objectives/lightgcl"], out=tmp_path, quick=True)
    assert report.bars[1].ok
    assert set(report.numbers["4000"]) >= {claim.POPULARITY, claim.RAW, claim.NONE, "SVD view x 0.2", "dropping x 0.2"}
