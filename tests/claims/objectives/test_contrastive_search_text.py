"""Contrastive search on text: diversity and nucleus by hand, what is written, bars from the numbers, same bytes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rl_contrastive.analysis.figures import rng_of
from rl_contrastive.claims.base import Context
from rl_contrastive.claims.objectives import contrastive_search_text as claim
from rl_contrastive.claims.objectives import docstrings
from rl_contrastive.claims.runner import run_claims

TINY = dataclasses.replace(claim.TextConfig.quick(), words=40, hidden=8, steps=3, prompts=3, length=8, seeds=(500, 501))


@pytest.fixture(autouse=True)
def _few_docstrings(monkeypatch):
    """Parsing the whole library takes seconds."""
    rng = rng_of(0)
    words = [f"w{i}" for i in range(60)]
    texts = tuple(tuple(words[min(59, int(rng.exponential(12)))] for _ in range(30)) for _ in range(50))
    monkeypatch.setattr(docstrings, "docstrings", lambda: texts)


def test_diversity_by_hand():
    assert claim.diversity(np.array([[1, 2, 3, 4, 5, 6]])) == 1.0
    assert claim.diversity(np.array([[1, 1, 1, 1, 1, 1]])) == pytest.approx(1 / 5 * 1 / 4 * 1 / 3)
    assert claim.diversity(np.array([[1, 2, 1, 2, 1, 2]])) == pytest.approx(2 / 5 * 2 / 4 * 2 / 3)


def test_the_nucleus_is_the_fewest_words_of_its_mass():
    p = np.tile([0.1, 0.5, 0.3, 0.1], (4000, 1))
    drawn = claim.nucleus(p, 0.7, rng=rng_of(0))  # .5 + .3 reach it
    assert set(drawn.tolist()) == {1, 2}
    assert abs((drawn == 1).mean() - 5 / 8) < 0.03
    assert (claim.nucleus(p, 0.5, rng=rng_of(0)) == 1).all()


def test_a_tenth_of_the_docstrings_is_held_out_and_numbers_are_by_frequency():
    text = claim.corpus(10, rng=rng_of(1))
    assert len(text.held) == 5 * 30
    assert len(text.train) == 45 * 30
    count = np.bincount(np.concatenate([text.train, text.held]), minlength=10)
    assert (np.diff(count[1:]) <= 0).all()
    assert count[claim.UNKNOWN] > 0


@pytest.mark.parametrize("method", [claim.GREEDY, claim.SEARCH, claim.RANDOM, claim.NUCLEUS])
def test_what_is_written_has_the_log_p_of_the_model_and_no_unknown_word(method):
    text = claim.corpus(TINY.words, rng=rng_of(0))
    model = claim.trained(TINY, text, 0)
    prompts = torch.from_numpy(text.held[:30].reshape(3, 10))
    words, log_p, states = claim.write(model, prompts, TINY, method, 0.6, rng=rng_of(1))
    assert words.shape == log_p.shape == (3, 8)
    assert (words != claim.UNKNOWN).all()
    whole = torch.cat([prompts, torch.from_numpy(words)], dim=1)
    with torch.no_grad():
        h = model(whole)
        expected = model.log_p(h[:, 9:-1]).gather(-1, whole[:, 10:, None])[..., 0]
    np.testing.assert_allclose(states, h.numpy(), atol=1e-5)
    np.testing.assert_allclose(log_p, expected.numpy(), atol=1e-4)


def test_alpha_0_is_greedy():
    text = claim.corpus(TINY.words, rng=rng_of(0))
    model = claim.trained(TINY, text, 0)
    prompts = torch.from_numpy(text.held[:30].reshape(3, 10))
    greedy, *_ = claim.write(model, prompts, TINY, claim.GREEDY, 0.0, rng=rng_of(1))
    search, *_ = claim.write(model, prompts, TINY, claim.SEARCH, 0.0, rng=rng_of(1))
    np.testing.assert_array_equal(greedy, search)


GOOD = {"greedy": (0.02, -1.0), "contrastive search @ 0.6": (0.95, -2.0), "random penalty @ 0.6": (0.8, -2.5)}
GOOD |= {"nucleus": (0.97, -4.0)}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, []),
        ({"contrastive search @ 0.6": (0.85, -2.0)}, [0]),
        ({"random penalty @ 0.6": (0.96, -2.5)}, [1]),
        ({"random penalty @ 0.6": (0.8, -1.5)}, [2]),
        ({"nucleus": (0.97, -1.5)}, [3]),
        ({"greedy": (0.5, -1.0)}, [4]),
    ],
)
def test_bars_and_controls_come_from_the_numbers(change, wrong, tmp_path, monkeypatch):
    def fit(config, task):
        jitter = 1e-4 * (task.seeds[0] - 500)
        found = {"perplexity": [50.0]}
        for i, (method, (diverse, log_p)) in enumerate((GOOD | change).items()):
            found |= {f"diversity, {method}": [diverse + i * jitter], f"log p, {method}": [log_p + i * jitter]}
            found |= {f"isotropy, {method}": [0.7]}
        return found

    monkeypatch.setattr(claim, "fit", fit)
    report = claim.contrastive_search_text(TINY, Context(tmp_path))
    assert [i for i, bar in enumerate(report.bars) if not bar.ok] == wrong
    assert ("all bars are met" in report.answer) == (not wrong)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    written = []
    for name in ("one", "two"):
        run_claims(["objectives/contrastive-search-text"], out=tmp_path / name, config=TINY)
        folder = tmp_path / name / "objectives/contrastive-search-text"
        names = ("report.json", "report.md", "contrastive-search-text.png")
        written.append([(folder / file).read_bytes() for file in names])
    assert written[0] == written[1]


def test_the_standard_library_is_a_corpus(monkeypatch):
    monkeypatch.undo()
    texts = docstrings.docstrings()
    assert sum(map(len, texts)) > 100_000
    assert any(text[:3] == ("return", "a", "list") or "list" in text for text in texts)
