"""Inverse propensity: the partners' laws, bars computed from numbers, a sabotaged sampler, same seed same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rl_contrastive.claims.base import Context
from rl_contrastive.claims.objectives import propensity as claim
from rl_contrastive.errors import RlcError

QUICK = claim.PropensityClaimConfig.quick()
TINY = replace(QUICK, items=80, k=8, steps=3, batch=16)


def numbers(**values: float) -> dict[str, np.ndarray]:
    base = {
        claim.PLAIN: 0.4,
        claim.BIASED: 0.5,
        claim.OURS: 0.65,
        "inverse propensity, positives": 0.64,
        "hard negatives, similarity": 0.51,
    }
    return {name: np.array([v, v + 0.01]) for name, v in {**base, **values}.items()}


def test_bars_follow_the_numbers(tmp_path):
    report = claim.report(TINY, Context(tmp_path), numbers(), numbers())
    assert report.holds
    assert "0.150" in report.bars[0].measured
    worse = {
        0: numbers(**{claim.OURS: 0.59}),
        1: numbers(**{claim.PLAIN: 0.7}),
        2: numbers(**{"hard negatives, similarity": 0.62}),
    }
    for bar, values in worse.items():
        found = claim.report(TINY, Context(tmp_path), values, numbers()).bars
        assert [not b.ok for b in found] == [i == bar for i in range(3)]


def test_debiased_positives_share_the_surface_less_often():
    items = claim.make_items(replace(QUICK, items=400), 3)
    config = replace(QUICK, items=400)
    near = claim.cosines(items.surface)
    mean = {}
    for kind in (claim.SIMILAR, claim.DEBIASED, claim.HARD):
        partners = claim.partners_of(items, config, kind, np.random.default_rng(0))
        assert partners.shape == (400, config.steps)
        mean[kind] = near[np.arange(400)[:, None], partners].mean()
    assert mean[claim.DEBIASED] + 0.1 < mean[claim.SIMILAR]
    assert mean[claim.HARD] > near[np.triu_indices(400, 1)].mean() + 0.2


def test_same_seed_same_bytes_and_a_seed_is_alone(tmp_path):
    first, again = (claim.propensity(TINY, Context(tmp_path)) for _ in range(2))
    assert str(first.numbers) == str(again.numbers)
    other = claim.propensity(replace(TINY, seeds=(500, 7)), Context(tmp_path))
    for name, values in first.numbers["meaning"].items():
        np.testing.assert_allclose(values[0], other.numbers["meaning"][name][0], rtol=1e-5)
        assert values[1] != other.numbers["meaning"][name][1]


def test_one_seed_is_refused():
    with pytest.raises(RlcError, match="two seeds"):
        claim.PropensityClaimConfig(seeds=(1,))


@pytest.mark.long
def test_quick_gains_but_not_with_a_sabotaged_sampler(tmp_path, monkeypatch):
    def gain() -> float:
        report = claim.propensity(QUICK, Context(tmp_path))
        assert (tmp_path / report.plots[0]).read_bytes().startswith(b"\x89PNG")
        found = report.numbers["meaning"]
        assert report.bars[2].ok
        assert float(report.bars[0].measured.split()[0]) == pytest.approx(
            (found[claim.OURS] - found[claim.BIASED]).mean(), abs=6e-4
        )
        return float((found["inverse propensity, positives"] - found[claim.BIASED]).mean())

    assert gain() > 0.05  # of 150 steps; the bar is for the full size
    real = claim.partners_of
    monkeypatch.setattr(claim, "partners_of", lambda items, config, kind, rng: real(items, config, claim.SIMILAR, rng))
    assert abs(gain()) < 1e-6
