"""The conditional study end to end in seconds, its continuous part against closed forms, and what it may say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.claims.base import Context
from rl_contrastive.claims.energy.conditional import candidates, conditional
from rl_contrastive.claims.energy.conditional_config import LEARNERS, ONE_DRAW, ConditionalConfig
from rl_contrastive.claims.energy.conditional_continuous import (
    METHODS,
    ContinuousOptions,
    Truth,
    fit_continuous,
    quadrature,
)
from rl_contrastive.claims.energy.conditional_report import (
    AS_IT_IS,
    EXACT_PSI,
    EXACT_U,
    OWN,
    REPAIRS,
    _cause,
    _verdict,
    three,
)
from rl_contrastive.energy.noise import Gaussian
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import get


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("conditional")
    lines: list[str] = []
    return out, conditional(ConditionalConfig.quick(), Context(out, device="cpu", say=lines.append)), lines


@pytest.mark.long
def test_the_quick_study_reports_every_method_variant_and_plot(quick):
    out, report, _ = quick
    tv, normalised, one, continuum, *failed = report.tables
    assert not failed
    assert {row[0] for row in tv.rows} == {"counts", *LEARNERS}
    assert {row[0] for row in normalised.rows} == set(LEARNERS)
    assert {row[0] for row in one.rows} == set(ONE_DRAW)
    assert {row[0] for row in continuum.rows} == set(METHODS)
    for table in report.tables:
        assert all(len(row) == len(table.columns) for row in table.rows), table.title
    assert len(report.bars) == 6
    for name in report.plots:
        assert (out / name).stat().st_size > 5000
        assert (out / name).with_suffix(".svg").exists()


@pytest.mark.long
def test_nce_as_it_stands_is_its_own_normalisation_and_the_others_know_theirs_or_none(quick):
    rows = {row[0]: row for row in quick[1].tables[1].rows}
    assert rows["NCE, 16 a row"][2] == rows["NCE, 16 a row"][4]
    assert rows["exact likelihood"][2] == "-"
    assert rows["MECO vector, 16 shared"][2] != rows["MECO vector, 16 shared"][4]


@pytest.mark.long
def test_a_second_run_measures_nothing_again_and_says_the_same(quick):
    out, report, lines = quick
    before = len(lines)
    assert before > 0
    again = conditional(ConditionalConfig.quick(), Context(out, device="cpu", say=lines.append))
    assert len(lines) == before
    assert again.tables == report.tables
    assert again.answer == report.answer


def test_methods_are_tuned_equally():
    config = ConditionalConfig()
    assert {len(candidates(learner, config)) for learner in LEARNERS.values()} == {3}
    assert not set(config.seeds) & set(config.tune_seeds)
    entry, _ = get("claim", "energy/conditional")
    assert entry.config is ConditionalConfig


@pytest.mark.parametrize("change", [{"sizes": (0,)}, {"steps": 0}, {"lrs": (0.1, 0.0, 0.1)}])
def test_configurations_that_make_no_sense_are_refused(change):
    with pytest.raises(RlcError, match="conditional"):
        ConditionalConfig(**change)


def test_words_of_numbers():
    assert three(Interval(0.0671, 0.0652, 0.0689)) == "0.067 [0.065, 0.069]"
    assert three(Interval(np.nan, np.nan, np.nan)) == "failed"
    assert "does not differ" in _verdict(Interval(0.001, -0.001, 0.003))
    assert "does not differ" not in _verdict(Interval(0.002, 0.001, 0.003))


def test_a_cause_is_named_only_when_the_oracles_name_it():
    found = {AS_IT_IS: 0.5, EXACT_U: 0.4, EXACT_PSI: 0.001} | dict.fromkeys(REPAIRS, 0.3) | {OWN: 0.002}
    assert "psi's gradient" in _cause(found)
    assert _cause(found).endswith(f"Within .01 of likelihood: {OWN}.")
    for changed in ({EXACT_U: 0.0}, {EXACT_PSI: 0.4}, {AS_IT_IS: 0.01}):
        assert "do not single out" in _cause(found | changed)


def test_the_truth_is_a_law_and_its_samples_have_its_distribution():
    rng = np.random.Generator(np.random.PCG64(0))
    truth = Truth.draw(3, rng=rng)
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    y = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    p = torch.exp(truth.log_prob(x, y)).squeeze(0).numpy()
    cumulative = np.cumsum(p) * 0.005
    assert cumulative[-1] == pytest.approx(1.0, abs=1e-6)
    sample = np.sort(truth.sample(x.expand(4000, 2), rng=rng).numpy())
    distance = np.abs(np.interp(sample, y.numpy(), cumulative) - np.arange(4000) / 4000).max()
    assert distance < 1.63 / np.sqrt(4000)  # Kolmogorov's 1% point


def test_quadrature_holds_the_noise_law():
    q = Gaussian(torch.tensor([0.5], dtype=torch.float64), torch.tensor([[4.0]], dtype=torch.float64))
    grid, weight = quadrature(q)
    assert float(weight.sum()) == pytest.approx(1.0)
    assert float((weight * grid.squeeze(-1)).sum()) == pytest.approx(0.5)
    assert float((weight * grid.squeeze(-1).square()).sum()) == pytest.approx(4.25, abs=1e-5)


@pytest.mark.long
def test_the_d_vector_learns_and_normalises_contexts_it_never_saw():
    options = ContinuousOptions(transitions=2000, steps=300, lr=0.003)
    before = fit_continuous("vector", 10, ContinuousOptions(transitions=2000, steps=1, lr=1e-9))
    after = fit_continuous("vector", 10, options)
    assert after["tv"] < 0.2 < 0.5 * before["tv"]
    assert after["log_z_error"] < 0.3
    assert abs(after["tv_draws"] - after["tv"]) < 0.05
    assert "tv_own" not in fit_continuous("table", 10, ContinuousOptions(transitions=200, steps=2))
    with pytest.raises(RlcError, match="vector"):
        fit_continuous("vektor", 10, options)
