"""Bars over seeds, by hand."""

from __future__ import annotations

import pytest

from rl_contrastive.claims.stacked import above, lead, least, most


@pytest.mark.parametrize(
    ("bar", "bound", "met"),
    [
        (least, 2.0, True),
        (least, 2.01, False),
        (most, 2.0, True),
        (most, 1.99, False),
        (above, 1.99, True),
        (above, 2.0, False),
        (lead, -0.485, True),
        (lead, -0.484, False),  # the mean is far above it, and its interval is not
    ],
)
def test_bars_of_three_seeds(bar, bound: float, met: bool) -> None:
    """1, 2, 3: mean 2, and 2 - t s / sqrt(3) = 2 - 4.3027 / sqrt(3) = -.4841."""
    found = bar("what", [1.0, 2.0, 3.0], bound)
    assert found.met == met
    assert found.measured == "2.000 [-0.484, 4.484]"
    assert not found.control


@pytest.mark.parametrize(("bar", "missed", "met"), [(least, 5.0, 0.0), (most, 0.0, 5.0), (lead, 0.0, -1.0)])
def test_a_control_has_to_miss_its_bar(bar, missed: float, met: float) -> None:
    assert bar("control", [1.0, 2.0, 3.0], missed, control=True).ok
    assert not bar("control", [1.0, 2.0, 3.0], met, control=True).ok
