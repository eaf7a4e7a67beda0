"""P-hat is right with objectives that recover the ratio and wrong with the others: the benchmark's table, shortened."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from rl_contrastive.registry import entries

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
SCRIPT = runpy.run_path(str(BENCHMARKS / "objective_bias.py"))


@pytest.mark.parametrize(
    ("name", "options", "low", "high"),
    [
        ("nce", {}, 0.0, 0.02),
        ("dcl", {}, 0.0, 0.02),
        ("reweighted", {"weight": "cl"}, 0.0, 0.03),
        ("isogclr", {"tau_0": 1.0, "tau_min": 1.0, "tau_max": 1.0}, 0.0, 0.02),
        ("infonce", {"temperature": 2.0}, 0.08, 1.0),
        ("dclw", {}, 0.08, 1.0),
        ("hard", {}, 0.12, 1.0),
        ("isogclr", {}, 0.12, 1.0),
    ],
)
def test_total_variation(name: str, options: dict[str, Any], low: float, high: float) -> None:
    """Fresh MDP; the table in docs/objectives.md has 0 to 4."""
    assert low <= SCRIPT["total_variation"](name, options, seed=17, steps=300) <= high


def test_the_table_has_every_objective() -> None:
    assert {name for name, _ in SCRIPT["cases"]()} >= {e.name for e in entries("objective")}


def test_the_costs_are_a_table_of_every_objective(capsys) -> None:
    cost = runpy.run_path(str(BENCHMARKS / "objective_cost.py"))
    assert cost["main"](rounds=1, repeats=1) == 0
    lines = capsys.readouterr().out
    for kind in ("objective", "view-objective"):
        assert all(f"`{entry.name}`" in lines for entry in entries(kind))
