"""The curve over widths: verdicts against made-up cells, and the noise that a setting names."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from rl_contrastive.claims.base import Context
from rl_contrastive.claims.energy import density_widths as widths
from rl_contrastive.claims.energy.density_fits import Density2DConfig
from rl_contrastive.claims.grid import Cell

TINY = dataclasses.replace(Density2DConfig.quick(), points=100, steps=4, batch=16, width=8, nodes=41, widths=(0.4, 1.2))
NAN = [math.nan, math.nan]


def cell(point: str, method: str, excess: list[float]) -> Cell:
    values = np.array(excess * 4)  # of two seeds, four times over: two alone say nothing of a mean
    metrics = {} if np.isnan(values).all() else {"excess": values, "nll": values + 2.0}
    return Cell(point, method, {}, tuple(range(10, 18)), metrics)


@pytest.mark.parametrize(
    ("nce", "meco", "found"),
    [
        ([30.0, 40.0], [2.0, 3.0], "both fail"),
        ([30.0, 40.0], [0.5, 0.6], "MECO is ahead"),
        ([0.1, 0.1], [0.2, 0.3], "NCE is ahead"),
        ([0.1, 0.3], [0.2, 0.2], "neither is ahead"),
        ([0.1, 0.1], NAN, "NCE is ahead"),
        (NAN, [0.1, 0.1], "MECO is ahead"),
        (NAN, NAN, "both fail"),
        (NAN, [5.0, 5.0], "both fail"),
    ],
)
def test_verdicts(nce: list[float], meco: list[float], found: str) -> None:
    point = "moons, 0.5"
    cells = {(point, "NCE"): cell(point, "NCE", nce), (point, "MECO"): cell(point, "MECO", meco)}
    assert widths.verdict(cells, point) == found


def test_the_sentence_names_the_window() -> None:
    config = dataclasses.replace(Density2DConfig(), curve=("moons",), widths=(0.4, 0.5, 0.6))
    each = {0.4: ([30.0, 40.0], [20.0, 20.0]), 0.5: ([30.0, 40.0], [0.5, 0.6]), 0.6: ([0.1, 0.1], [0.2, 0.2])}
    cells = {
        (point, method): cell(point, method, values)
        for width, pair in each.items()
        for point in [widths.setting("moons", width)]
        for method, values in zip(widths.METHODS, pair, strict=True)
    }
    answer = widths.widths_answer(config, cells)
    assert "moons: both fail at 0.4, MECO is ahead at 0.5, NCE is ahead at 0.6." in answer
    table = widths.widths_table(config, cells)
    assert [row[-1] for row in table.rows] == ["both fail", "MECO is ahead", "NCE is ahead"]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_the_quick_form_measures_draws_and_keeps_every_point(tmp_path: Path) -> None:
    cells = widths.run_widths(TINY, Context(tmp_path, device="cpu"))
    assert set(cells) == {(f"moons, {w}", m) for w in ("0.4", "1.2") for m in widths.METHODS}
    assert not any(one.failed for one in cells.values())
    narrow, wide = (cells[f"moons, {w}", "NCE"].metrics["nll"] for w in ("0.4", "1.2"))
    assert (narrow != wide).all()  # the setting's width is the noise's
    name = widths.plot_widths(TINY, cells, tmp_path)
    assert (tmp_path / name).stat().st_size > 10_000
