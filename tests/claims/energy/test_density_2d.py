"""density-2d: the scores against closed forms, the bars against made-up cells, the whole study at a tiny size."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_contrastive.claims.base import Context
from rl_contrastive.claims.energy import density_2d as study
from rl_contrastive.claims.energy.density_fits import (
    Data,
    Density2DConfig,
    bulk_scores,
    data_of,
    fit_energy,
    network,
    noise_law,
    scores_of,
)
from rl_contrastive.claims.grid import Cell
from rl_contrastive.claims.ledger import Task
from rl_contrastive.energy.noise import Gaussian, Mixture
from rl_contrastive.energy.partition import Quadrature, log_partition
from rl_contrastive.errors import RlcError

TINY = dataclasses.replace(
    Density2DConfig.quick(), densities=("8gaussians",), points=100, steps=4, batch=16, width=8, nodes=41
)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Normal(torch.nn.Module):
    """f = -|x|^2 / 2 + 7, so log Z = log 2 pi + 7."""

    def forward(self, x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(-1) + 7.0


def test_scores_of_a_known_model() -> None:
    """Model and data N(0, I), bulk of N(0, .36 I), r^2 <= -2 (.36) log .001: the share .001^.36 of either is beyond."""
    x = torch.randn(40_000, 2, generator=gen(0))
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T, correction=0))).T  # exact moments
    log_p = -0.5 * x.double().square().sum(-1) - math.log(2 * math.pi)
    data, config, like = Data(x, x[:10], x, log_p), Density2DConfig(), x[:1]
    everywhere = log_partition(Normal(), Quadrature((-20.0, -20.0), (20.0, 20.0), 501), like=like)
    scores = scores_of(Normal(), data, everywhere, like)
    assert scores["nll"] == pytest.approx(1.0 + math.log(2 * math.pi), abs=1e-4)  # entropy of N(0, I)
    assert scores["excess"] == pytest.approx(0.0, abs=1e-4)
    assert scores["validation"] == pytest.approx(float(-log_p[:10].mean()), abs=1e-4)
    bulk = bulk_scores(config, Normal(), data, everywhere, like)
    beyond = 0.001**0.36
    r2 = -2.0 * 0.36 * math.log(0.001)
    assert bulk["mass_beyond"] == pytest.approx(beyond, abs=2e-3)  # the grid does not follow the circle
    assert bulk["data_beyond"] == pytest.approx(beyond, abs=5e-3)
    assert bulk["cost_beyond"] == pytest.approx(-math.log1p(-beyond), abs=3e-3)
    # E|x|^2/2 within radius r of N(0, I) is 1 - (r^2/2) e^{-r^2/2} / (1 - e^{-r^2/2}).
    inside = 1.0 - 0.5 * r2 * beyond / (1.0 - beyond)
    assert bulk["nll_bulk"] == pytest.approx(inside + math.log(2 * math.pi) + math.log1p(-beyond), abs=0.01)


def test_noise_laws_and_networks() -> None:
    x, config = data_of("spirals", 0, 2000).train, Density2DConfig()
    covariance = torch.cov(x.double().T, correction=0)
    narrow, mixed = noise_law("narrow", config, x), noise_law("mixed", config, x)
    assert isinstance(narrow, Gaussian)
    assert torch.allclose(narrow.covariance, 0.36 * covariance, atol=1e-6)
    assert isinstance(mixed, Mixture)
    assert mixed.weights == pytest.approx((0.9, 0.1))
    assert isinstance(mixed.laws[1], Gaussian)
    assert torch.allclose(mixed.laws[1].covariance, 9.0 * covariance, atol=1e-6)
    with pytest.raises(RlcError, match="no noise law 'odd'"):
        noise_law("odd", config, x)
    assert network("deep", config).hidden == (128, 128, 128)
    assert network("sharp", config).first_scale == 2.0


def test_data_depend_on_law_and_seed_only() -> None:
    one, two, other = data_of("pinwheel", 3, 100), data_of("pinwheel", 4, 100), data_of("checkerboard", 3, 100)
    data_of.cache_clear()
    assert torch.equal(one.test, data_of("pinwheel", 3, 100).test)
    for different in (two.test, other.test, one.train, one.valid):
        assert not torch.equal(one.test, different)


def test_a_fit_does_not_depend_on_what_was_fitted_before(tmp_path: Path) -> None:
    options = {"objective": "nce", "of": {}, "noise": "narrow", "lr": 5e-3}
    task = Task("spirals, sharp", "NCE", options, (10,), "cpu", tmp_path / "a")
    first = fit_energy(TINY, task)
    fit_energy(TINY, dataclasses.replace(task, setting="spirals, deep", seeds=(11,)))
    again = fit_energy(TINY, dataclasses.replace(task, folder=tmp_path / "b"))
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    with np.load(tmp_path / "a" / "picture.npz") as kept:
        assert kept["log_density"].shape == (301, 301)
    other = fit_energy(TINY, dataclasses.replace(task, options={**options, "noise": "mixed"}))
    assert other["nll"] != first["nll"]


def cell(setting: str, method: str, tuning: float = 0.0, **metrics: list[float]) -> Cell:
    # The values of two seeds, four times over: two alone say nothing of a mean.
    values = {name: np.array(v * 4) for name, v in metrics.items()}
    return Cell(setting, method, {"network": "deep", "lr": 1.0}, tuple(range(10, 18)), values, tuning=[({}, tuning)])


def narrow_cells(nce: list[float], meco: list[float], wide: list[float], cost: list[float]) -> study.Cells:
    return {
        (s, m): cell(s, m, nll=nll, cost_beyond=c)
        for s in ("spirals, sharp", "spirals, deep")
        for m, nll, c in (("NCE", nce, cost), ("MECO", meco, [0.0, 0.0]), ("NCE + wide", wide, [0.0, 0.0]))
    }


def test_narrow_bars_are_met_only_where_the_numbers_say_so() -> None:
    config = dataclasses.replace(Density2DConfig(), narrow=("spirals",))

    def met(*args: list[float]) -> list[bool]:
        return [bar.met for bar in study.narrow_bars(config, narrow_cells(*args))]

    # Sharp and deep gap, cause, repair.
    assert met([16.0, 20.0], [3.0, 3.0], [2.8, 2.9], [13.0, 16.5]) == [True, True, True, True]
    assert met([16.0, 2.0], [3.0, 3.0], [2.8, 2.9], [13.0, 11.0]) == [
        False,
        False,
        False,
        True,
    ]  # a deficit that is not shown has no part
    assert met([16.0, 20.0], [3.0, 3.0], [2.8, 3.4], [2.0, 2.0]) == [True, True, False, False]
    assert met([2.0, 2.0], [3.0, 3.0], [2.8, 2.9], [0.0, 0.0]) == [False, False, False, True]
    nan = math.nan
    assert met([nan, nan], [3.0, 3.0], [2.8, 2.9], [nan, nan]) == [False, False, False, True]


def test_the_best_objective_is_chosen_by_tuning_and_a_failed_seed_fails_the_bar() -> None:
    config = dataclasses.replace(Density2DConfig(), densities=("8gaussians",))
    d = "8gaussians"
    cells = {(d, m): cell(d, m, tuning=9.0, nll=[2.0, 2.0]) for m in study.COVERING}
    cells[d, "SNIS"] = cell(d, "SNIS", tuning=1.0, nll=[2.86, 2.87])
    (bar,) = study.nll_bars(config, cells)
    assert bar.met
    assert bar.measured.startswith("SNIS: 2.865 [2.861, 2.869]")
    cells[d, "SNIS"] = cell(d, "SNIS", tuning=1.0, nll=[2.86, 2.90])
    assert not study.nll_bars(config, cells)[0].met
    cells[d, "SNIS"] = cell(d, "SNIS", tuning=1.0, nll=[2.86, math.nan])
    cells[d, "SNIS"].failed[11] = "diverged"
    assert not study.nll_bars(config, cells)[0].met


@pytest.mark.long
def test_the_study_end_to_end(tmp_path: Path) -> None:
    report = study.density_2d(TINY, Context(out=tmp_path, device="cpu"))
    assert [len(t.rows) for t in report.tables] == [3 + 7, 6, 2 * 3, 2, 7]
    assert all(len(row) == len(t.columns) for t in report.tables for row in t.rows)
    assert len(report.bars) == 1 + 2 + 2
    for name in report.plots:
        assert (tmp_path / name).stat().st_size > 10_000
        assert (tmp_path / name).with_suffix(".svg").is_file()
    lines = {p: p.read_bytes() for p in tmp_path.rglob("cells.jsonl")}
    assert len(lines) == 4
    again = study.density_2d(TINY, Context(out=tmp_path, device="cpu"))
    assert (again.answer, again.bars, again.tables) == (report.answer, report.bars, report.tables)
    assert lines == {p: p.read_bytes() for p in tmp_path.rglob("cells.jsonl")}  # nothing was measured again


@pytest.mark.long
def test_a_method_that_always_fails_is_shown_and_stops_nothing(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, narrow_rates=(1e30,), seeds=(10,))
    report = study.density_2d(config, Context(out=tmp_path, device="cpu"))
    narrow = report.tables[2]
    assert any("failed" in row for row in narrow.rows)
    assert "failed fits" in narrow.note
    assert not any(bar.met for bar in report.bars if "MECO" in bar.what)


def test_what_is_refused() -> None:
    for values, word in (
        ({"widths": (0.5, 0.0)}, "widths must be > 0"),
        ({"curve": ()}, "at least one"),
        ({"densities": ("stars",)}, "toy density"),
        ({"narrow": ()}, "at least one"),
        ({"points": 10}, "points"),
        ({"narrow_rates": (0.0,)}, "narrow_rates"),
        ({"rate": 0.0}, "rate"),
        ({"share": 1.0}, "share"),
        ({"nodes": 100}, "odd"),
        ({"base": 0.0}, "base"),
    ):
        with pytest.raises(RlcError, match=word):
            dataclasses.replace(Density2DConfig(), **values)  # type: ignore[arg-type]


@pytest.mark.slow
def test_narrow_noise_leaves_mass_beyond_it_and_a_share_of_wide_noise_takes_it_away(tmp_path: Path) -> None:
    """The study's cause at full size, one tuning seed."""
    found = {}
    for noise in ("narrow", "mixed"):
        options = {"objective": "nce", "of": {}, "noise": noise, "lr": 5e-3}
        task = Task("pinwheel, sharp", "NCE", options, (0,), "cpu", tmp_path)
        found[noise] = fit_energy(Density2DConfig(), task)
    assert found["narrow"]["mass_beyond"][0] > 0.99
    assert found["mixed"]["mass_beyond"][0] < 0.03
    assert found["narrow"]["nll"][0] - found["mixed"]["nll"][0] > 5.0
