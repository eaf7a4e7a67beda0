"""The landscape between noise and data: closed forms of curvature, what is flat and what is not, the study in small."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_contrastive.claims.base import Context
from rl_contrastive.claims.energy import landscape_plots
from rl_contrastive.claims.energy.landscape import NAMES, LandscapeConfig, evaluate, landscape, measure, nce_curvature
from rl_contrastive.claims.energy.population import line, on_path
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import get


@pytest.mark.parametrize("R", [0.5, 2.0, 8.0])
def test_exponential_loss_at_the_truth_has_its_closed_form(R: float) -> None:
    """Hessian of log L at p*: E T T'/4 under N(R/2, 1); of L: exp(-R^2/8) times that."""
    moments = 0.25 * np.array([[1 + R * R / 4, -R / 2], [-R / 2, 1.0]])
    low, high = np.linalg.eigvalsh(moments)
    log, plain = (measure(name, line(R), 21) for name in ("log eNCE", "eNCE"))
    assert (log.smallest[-1], log.largest[-1]) == pytest.approx((low, high), rel=1e-8)
    assert plain.largest[-1] == pytest.approx(math.exp(-R * R / 8) * high, rel=1e-8)
    assert log.end_condition == pytest.approx(plain.end_condition, rel=1e-8)


def test_exponential_loss_itself_by_finite_differences() -> None:
    at, tau, h = line(2.0), on_path(torch.tensor([0.3, 1.4], dtype=torch.float64)), 1e-4
    found = evaluate("eNCE", tau, at)
    for k in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[k] = h
        up, down = evaluate("eNCE", tau + step, at), evaluate("eNCE", tau - step, at)
        assert torch.allclose(found.gradient[:, k], (up.value - down.value) / (2 * h), atol=1e-6)
        assert torch.allclose(found.hessian[:, k], (up.gradient - down.gradient) / (2 * h), atol=1e-6)


def test_nce_flattens_as_derived() -> None:
    for R, slack in ((8.0, 0.02), (12.0, 0.01), (16.0, 0.01)):
        assert measure("NCE", line(R), 11).largest[-1] == pytest.approx(nce_curvature(R), rel=slack)
    assert abs(measure("NCE", line(1.0), 11).largest[-1] / nce_curvature(1.0) - 1) > 0.3  # large R only


def test_what_is_flat_and_what_is_not() -> None:
    far = {name: measure(name, line(16.0), 201) for name in NAMES}
    assert far["likelihood"].flat == pytest.approx(0.1, abs=1e-6)  # a tenth of the way is left
    assert far["NCE"].flat < 1e-9
    assert far["eNCE"].flat < 1e-9  # the loss is exponentially small too; its logarithm is not flat
    assert far["log eNCE"].flat > 0.05
    assert far["likelihood"].path_condition == pytest.approx(1.0, abs=1e-6)
    assert far["NCE"].path_condition > 1e15
    near = {name: measure(name, line(0.5), 201) for name in NAMES}
    assert max(path.path_condition for path in near.values()) < 2.0  # control


def test_directions() -> None:
    """At q both gradients point along the mean alone, the way to p* mostly along log Z: cosine R / |(R, R^2/2)|."""
    R = 8.0
    for name in ("NCE", "eNCE", "log eNCE"):
        path = measure(name, line(R), 21)
        assert path.cosine[0] == pytest.approx(R / math.hypot(R, R * R / 2), abs=1e-9)
        assert np.isnan(path.cosine[-1])
        assert (path.cosine[:-1] > 0).all()
    assert (measure("likelihood", line(R), 21).cosine[:-1] == 1.0).all()


@pytest.mark.long
def test_quick_study(tmp_path: Path) -> None:
    assert get("claim", "energy/landscape")[0].factory is landscape
    report = landscape(LandscapeConfig.quick(), Context(tmp_path / "new"))
    json.dumps(report.numbers, allow_nan=False)
    assert all(bar.met for bar in report.bars)
    assert [len(table.rows) for table in report.tables] == [3, 3, 3]
    assert "R = 0.5, 1" in report.answer
    for plot in report.plots:
        assert (tmp_path / "new" / plot).stat().st_size > 10_000


def test_far_bars_and_an_answer_without_easy_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landscape_plots, "paths", lambda *_: "a.png")
    monkeypatch.setattr(landscape_plots, "slices", lambda *_: "b.png")
    report = landscape(LandscapeConfig(distances=(8.0,), shown=8.0, points=41, pixels=11), Context(tmp_path))
    met = {bar.what: bar.met for bar in report.bars}
    assert met["NCE, largest curvature at p*, R = 8"]
    assert met["NCE, smallest relative gradient, R = 8"]
    assert not any("control" in what for what in met)
    assert "At no distance measured" in report.answer


def test_bad_configurations_are_sentences() -> None:
    with pytest.raises(RlcError, match="must be > 0 and rise"):
        LandscapeConfig(distances=(2.0, 1.0))
    with pytest.raises(RlcError, match="must be <= 16"):
        LandscapeConfig(distances=(1.0, 20.0))
    with pytest.raises(RlcError, match="pixels must be >= 5"):
        LandscapeConfig(pixels=1)
