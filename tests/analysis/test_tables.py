"""How numbers are written in tables: no zero has a minus sign."""

from __future__ import annotations

import pytest

from rl_contrastive.analysis.diagnose import tabulate
from rl_contrastive.analysis.figures import words
from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.analysis.tables import Table, interval, number, unsigned_zeros
from rl_contrastive.claims.grid import figure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-0", "0"),
        ("-0.00", "0.00"),
        ("-0.000 [-0.00, 0.12]", "0.000 [0.00, 0.12]"),
        ("-0%", "0%"),
        ("-0.0e+00", "0.0e+00"),
        ("it is -0.00.", "it is 0.00."),
        *((text, text) for text in ("-0.5", "-0.001", "-0.0001", "seed-0", "1-0", "-10", "-0.0e-04x", "1e-05", "-01")),
    ],
)
def test_only_zeros_lose_their_sign(text: str, expected: str) -> None:
    assert unsigned_zeros(text) == expected


def test_numbers_and_intervals_of_tables() -> None:
    assert number(-0.0) == "0"
    assert number(-0.25) == "-0.25"
    assert interval(Interval(-0.0, -0.25, 0.25)) == "0.00 [-0.25, 0.25]"
    assert words(Interval(-0.001, -0.004, 0.5)) == "0.00 [0.00, 0.50]"
    assert words(Interval(-0.01, -0.51, 0.5)) == "-0.01 [-0.51, 0.50]"
    assert figure(Interval(-0.0001, -0.0002, 0.1)) == "0.000 [0.000, 0.100]"


def test_cells_of_a_table() -> None:
    table = Table("t", ("name", "value"), [("seed-0", f"{-0.001:.2f}"), ("b", "-0.12")])
    assert list(table.rows) == [("seed-0", "0.00"), ("b", "-0.12")]


def test_diagnose_rounds_small_negative_numbers_to_zero() -> None:
    numbers = {"all": {"rows": 3.0, "uniformity": -0.00001, "alignment": -0.0}}
    assert tabulate("t", "", numbers, numbers).rows[0] == ("phi(s,a)", "all", "3", "0", "0")
