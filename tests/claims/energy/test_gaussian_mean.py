"""The study gaussian-mean in small: reproducible, resumable, and with bars and an answer that follow the numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rl_contrastive.claims.base import Context, Report
from rl_contrastive.claims.energy import gaussian_report
from rl_contrastive.claims.energy.gaussian_config import GaussianMeanConfig
from rl_contrastive.claims.energy.gaussian_mean import exact_fit, gaussian_mean
from rl_contrastive.claims.energy.gaussian_sampled import METHODS
from rl_contrastive.claims.grid import Cell
from rl_contrastive.claims.ledger import Task
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import get


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("gaussian-mean")
    return gaussian_mean(GaussianMeanConfig.quick(), Context(out)), out


@pytest.mark.long
def test_quick_study(study: tuple[Report, Path]) -> None:
    report, out = study
    assert get("claim", "energy/gaussian-mean")[0].factory is gaussian_mean
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


@pytest.mark.long
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
