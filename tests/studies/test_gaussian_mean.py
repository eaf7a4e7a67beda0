"""The sampled mean: laws, streams and counts by hand, invariances of the estimators, the whole study in small."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_contrastive.energy.noise import Gaussian, Mixture
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import get
from rl_contrastive.studies import gaussian_report
from rl_contrastive.studies.base import Context, Report
from rl_contrastive.studies.gaussian_mean import GaussianMeanConfig, exact_fit, gaussian_mean
from rl_contrastive.studies.gaussian_sampled import (
    METHODS,
    Mean,
    Setting,
    Stream,
    Trace,
    estimate,
    noise_law,
    suffix_average,
    sustained,
)
from rl_contrastive.studies.grid import Cell
from rl_contrastive.studies.ledger import Task

CPU = torch.device("cpu")


def run(setting: str, method: str, *rates: float, seeds: tuple[int, ...] = (3, 4), steps: int = 200) -> Trace:
    parsed = Setting.parse(setting)
    return estimate(parsed, METHODS[method], rates=rates, seeds=seeds, steps=steps, data=500, device=CPU)


# --- pieces ----------------------------------------------------------------------------------------------------------


def test_settings_have_names_that_parse() -> None:
    setting = Setting(2.5, 10, "narrow", "raw")
    assert setting.name == "R=2.5 B=10 narrow raw"
    assert Setting.parse(setting.name) == setting
    with pytest.raises(RlcError, match="noise is mix or narrow"):
        Setting(1.0, 10, "wide", "raw")  # type: ignore[arg-type]
    with pytest.raises(RlcError, match="batch must be >= 1"):
        Setting(1.0, 0, "mix", "raw")


def test_model_by_hand() -> None:
    model = Mean(torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    with torch.no_grad():
        model.theta.copy_(torch.tensor([[3.0, 0.5]]))
    x = torch.tensor([4.0, 0.0], dtype=torch.float64).reshape(1, 1, 2, 1).expand(1, 2, 2, 1)
    assert model(x).tolist() == [[[3.0 * 3.0 - 8.0, -3.0], [0.5 * 2.0 - 8.0, -1.0]]]


def test_every_seed_has_the_noise_law_it_says() -> None:
    centres = torch.tensor([3.0, 16.0], dtype=torch.float64)
    x = torch.linspace(-12.0, 40.0, 2601, dtype=torch.float64)[:, None]  # (n, 1)
    both = x.expand(2, *x.shape)
    values = noise_law("mix", centres).log_prob(both)
    for s, centre in enumerate(centres):
        law = Mixture([normal_law(0.0, 1.0), normal_law(float(centre), 4.0)], [0.5, 0.5])
        assert torch.allclose(values[s], law.log_prob(x), atol=1e-12)
    narrow = noise_law("narrow", centres)
    assert torch.allclose(narrow.log_prob(both)[1], normal_law(0.0, 1.0).log_prob(x), atol=1e-12)
    with pytest.raises(RlcError, match="draws its noise itself"):
        narrow.sample(3, rng=torch.Generator())


def normal_law(mean: float, variance: float) -> Gaussian:
    return Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([[variance]], dtype=torch.float64))


def test_a_seeds_stream_depends_on_that_seed_alone() -> None:
    setting = Setting(8.0, 50, "mix", "centred")
    both, alone = Stream(setting, (5, 6), 300, CPU), Stream(setting, (6,), 300, CPU)
    draws: list[Tensor] = []
    for _ in range(300):  # beyond one chunk
        (x, z), (x_alone, z_alone) = both.next(), alone.next()
        assert torch.equal(x[1], x_alone[0])
        assert torch.equal(z[1], z_alone[0])
        assert np.isin(x[1].numpy(), both.data[1]).all()
        draws.append(z[0, :, 0])
    z = torch.cat(draws)
    assert len(torch.unique(z)) == len(z)
    assert float(z.mean()) == pytest.approx(4.0, abs=0.2)  # half at 0, half at the data's mean 8
    assert float(((z - 4.0) ** 2).mean()) == pytest.approx(16.0 + 2.5, abs=0.5)


def test_suffix_average_by_hand() -> None:
    theta = np.array([[0.0], [2.0], [4.0], [6.0], [8.0]])
    assert suffix_average(theta)[:, 0].tolist() == [0.0, 1.0, 3.0, 4.0, 6.0]  # t=3: (2+4+6)/3, t=4: (4+6+8)/3


def test_sustained_is_no_first_hit() -> None:
    averages = np.full((101, 5), 10.0)
    averages[:30, 0] = 0.0  # right from 30 on
    averages[:, 1] = np.linspace(0.0, 20.0, 101)  # passes through 10 and leaves
    averages[:95, 2] = 0.0  # right only in the last twentieth
    averages[70, 3] = np.nan  # not a number once
    assert sustained(averages, 10.0, tolerance=0.1).tolist() == [30.0, np.inf, np.inf, 71.0, 0.0]


# --- estimators ------------------------------------------------------------------------------------------------------


def test_step_sizes_side_by_side_change_nothing() -> None:
    for method in ("MECO(.9)", "MSTORM(.3)", "eNCE-NGD", "NCE-Adam"):
        many = run("R=4 B=20 mix centred", method, 0.05, 0.3, steps=60)
        one = run("R=4 B=20 mix centred", method, 0.3, seeds=(4,), steps=60)
        assert np.allclose(many.theta[:, 1, 1], one.theta[:, 0, 0], rtol=0, atol=1e-9), method
        assert not np.allclose(many.theta[:, 0, 1], one.theta[:, 0, 0], atol=0.1)


def test_self_normalised_weights_do_not_feel_the_shift_and_a_moving_average_does() -> None:
    for method, same in (("SNIS", True), ("MECO(.9)", False), ("NCE-GD", False)):
        centred, raw = (run(f"R=8 B=50 mix {form}", method, 0.1) for form in ("centred", "raw"))
        assert np.allclose(centred.theta, raw.theta, rtol=0, atol=1e-6) is same, method


def test_all_methods_find_a_near_mean_and_none_a_far_one_without_noise_there() -> None:
    rates = {"eNCE-NGD": 0.05, "NCE-Adam": 0.1}
    for method in METHODS:
        near = run("R=2 B=100 mix centred", method, rates.get(method, 0.3), steps=250)
        assert np.abs(suffix_average(near.theta)[-1] - 2.0).max() < 0.15, method
        far = run("R=8 B=100 narrow raw", method, rates.get(method, 0.3), steps=250)
        assert np.isinf(sustained(suffix_average(far.theta), 8.0, tolerance=0.1)).all(), method


@pytest.mark.slow
def test_bars_of_the_far_mean_with_covering_noise() -> None:
    for method, rate, most in (("SNIS", 0.3, 50), ("MECO(.9)", 0.3, 250), ("eNCE-NGD", 0.3, 250), ("NCE-GD", 1.0, 350)):
        setting = Setting(16.0, 100, "mix", "centred")
        trace = estimate(setting, METHODS[method], rates=(rate,), seeds=(0, 1), steps=2000, data=2000, device=CPU)
        assert sustained(suffix_average(trace.theta), 16.0, tolerance=0.1).max() <= most, method


# --- the study -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("gaussian-mean")
    return gaussian_mean(GaussianMeanConfig.quick(), Context(out)), out


def test_quick_study(study: tuple[Report, Path]) -> None:
    report, out = study
    assert get("study", "gaussian-mean")[0].factory is gaussian_mean
    json.dumps(report.numbers, allow_nan=False)
    assert {bar.what for bar in report.bars} >= {"exact, likelihood-GD, R = 2"}
    assert all(len(row) == len(table.columns) for table in report.tables for row in table.rows)
    for plot in report.plots:
        assert (out / plot).stat().st_size > 10_000
        assert (out / plot).with_suffix(".svg").exists()
    # Exact numbers by hand: step 1 is Newton's; at step 0.1 the error is 2 * 0.9^k, below 0.1 from k = 29 on.
    exact = report.numbers["exact"]
    assert exact["R=2, likelihood-GD"]["metrics"]["iterations"] == [1.0]
    assert exact["R=2, likelihood-GD"]["metrics"]["rate 0.1"] == [29.0]


def test_a_second_run_measures_nothing(study: tuple[Report, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    report, out = study
    monkeypatch.setattr(gaussian_report.gaussian_plots, "exact", lambda *_: report.plots[0])
    monkeypatch.setattr(gaussian_report.gaussian_plots, "sampled", lambda *_: report.plots[1])
    lines: list[str] = []
    again = gaussian_mean(GaussianMeanConfig.quick(), Context(out, say=lines.append))
    assert lines == []
    assert again == report


def cells(iterations: float, error: float, seeds: tuple[int, ...], **more: float) -> dict[str, np.ndarray]:
    values = {"iterations": iterations, "error": error, "score": min(iterations, 1e6), **more}
    return {name: np.full(len(seeds), value) for name, value in values.items()}


def ours(method: str, iterations: float) -> float:
    return iterations if method == "MECO(.9)" else 100.0


def test_bars_and_answer_follow_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forged cells: the same text machinery must say the opposite when the numbers do."""
    monkeypatch.setattr(gaussian_report.gaussian_plots, "exact", lambda *_: "a.png")
    monkeypatch.setattr(gaussian_report.gaussian_plots, "sampled", lambda *_: "b.png")
    config = replace(GaussianMeanConfig(), exact_distances=(8.0,), distances=(16.0,), small_distances=())

    seeds = config.seeds

    def made(arrives: float, meco: float) -> Report:
        exact = {
            ("R=8", m): Cell("R=8", m, {}, (0,), cells(arrives, 0.5, (0,), rate=0.1, log_z_error=3.0))
            for m in gaussian_report.DESCENTS
        }
        parts = {
            part: {
                (s.name, m): Cell(s.name, m, {"rate": 0.3}, seeds, cells(ours(m, meco), 0.01, seeds))
                for s in settings
                for m in METHODS
            }
            for part, settings in config.settings.items()
        }
        return gaussian_report.report(config, tmp_path, exact, parts)

    met = {bar.what: bar.met for bar in made(np.inf, 300.0).bars}
    assert met["exact, NCE-GD, R = 8"]
    assert "fails (mean off 0.50, log Z off 3.00)" in made(np.inf, 300.0).tables[0].rows[0]
    assert not met["exact, eNCE-NGD, R = 8"]
    assert not met["exact, likelihood-GD, R = 8"]
    assert not met["sampled, R=16 B=100 mix centred, SNIS"]  # 100 > 50
    assert not met["sampled, R=16 B=100 mix centred, MECO(.9)"]
    assert met["sampled, R=16 B=100 mix centred, NCE-GD"]
    assert not met["sampled, noise N(0, 1), R >= 8, all methods"]  # forged runs solve it
    other = made(500.0, 20.0)
    met = {bar.what: bar.met for bar in other.bars}
    assert not met["exact, NCE-GD, R = 8"]
    assert met["exact, eNCE-NGD, R = 8"]
    assert "MECO(.9) is faster than SNIS" in other.answer
    assert "MECO(.9) is slower than SNIS" in made(500.0, 300.0).answer
    assert "not shown to differ from SNIS" in made(500.0, 100.0).answer
    assert "not comparable with SNIS" in made(500.0, np.inf).answer


def test_bad_configurations_are_sentences() -> None:
    with pytest.raises(RlcError, match="distances must be > 0"):
        GaussianMeanConfig(distances=(0.0,))
    with pytest.raises(RlcError, match="1 <= hold <= budget"):
        GaussianMeanConfig(budget=50)
    with pytest.raises(RlcError, match="step sizes must be > 0"):
        GaussianMeanConfig(rates=(0.1, -1.0))


def test_exact_fit_reports_what_is_missing(tmp_path: Path) -> None:
    config = replace(GaussianMeanConfig(), exact_rates=(0.01, 0.1), budget=150)
    task = Task("R=8", "eNCE-NGD", {}, (0,), "cpu", tmp_path / "fit")
    found = exact_fit(config, task)
    assert found["iterations"] == [np.inf]
    assert found["rate"] == [0.1]  # the closest
    # 150 steps of length 0.1 go 15 along a curve to (8, 32).
    assert 32.0 - found["log_z_error"][0] <= 15.0
    with np.load(task.folder / "curve.npz") as curve:
        assert curve["iteration"][-1] == 150
        assert curve["error"][-1] == pytest.approx(found["error"][0])
    likelihood = exact_fit(config, replace(task, method="likelihood-GD"))
    assert (likelihood["iterations"], likelihood["log_z_error"]) == ([42.0], [0.0])  # 8 * 0.9^42 < 0.1
