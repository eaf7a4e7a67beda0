"""The exact one-dimensional problem: closed forms, derivatives against finite differences, descents by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from energy_laws import GaussianLaw

from rl_contrastive.claims.energy.population import (
    DESCENTS,
    LOSSES,
    Loss,
    arrival,
    descend,
    gradient,
    inside,
    line,
    on_path,
    shape,
    truth,
)
from rl_contrastive.energy.noise_contrastive import nce_loss
from rl_contrastive.errors import RlcError

POINTS = torch.tensor([[0.0, 0.0], [1.0, 0.3], [2.5, 4.0], [3.0, 4.5], [4.0, -1.0]], dtype=torch.float64)


def test_likelihood_is_a_parabola_in_the_mean() -> None:
    found = shape("likelihood", POINTS, line(3.0))
    theta = POINTS[:, 0]
    assert torch.allclose(found.value, 0.5 * theta.square() - 3.0 * theta, atol=1e-10)  # KL + constant
    assert torch.allclose(found.gradient[:, 0], theta - 3.0, atol=1e-10)
    assert torch.allclose(found.hessian[:, 0, 0], torch.ones_like(theta), atol=1e-9)
    assert float(found.gradient[:, 1].abs().max()) == 0.0  # log Z is computed, not learned


def test_exponential_loss_has_its_closed_form() -> None:
    R, (theta, c) = 3.0, POINTS.T
    data = c / 2 - theta * R / 2 + theta.square() / 8  # log E_* e^{-l/2}
    noise = -c / 2 + theta.square() / 8  # log E_q e^{l/2}
    assert torch.allclose(
        shape("ence", POINTS, line(R)).value, torch.logaddexp(data, noise) - math.log(2.0), atol=1e-10
    )


def test_nce_is_the_librarys_loss_on_many_quantiles() -> None:
    R, n = 2.0, 20_000
    x, z = GaussianLaw(R, 1.0).quantiles(n)[:, 0], GaussianLaw(0.0, 1.0).quantiles(n)[:, 0]
    for tau in POINTS:
        expected = nce_loss(tau[0] * x - tau[1], tau[0] * z - tau[1], 1.0)
        assert float(shape("nce", tau, line(R)).value) == pytest.approx(float(expected), abs=2e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives_agree_with_finite_differences(loss: Loss) -> None:
    at, h = line(3.0), 1e-4
    found = shape(loss, POINTS, at)
    for k in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[k] = h
        slope = (shape(loss, POINTS + step, at).value - shape(loss, POINTS - step, at).value) / (2 * h)
        curve = (gradient(loss, POINTS + step, at) - gradient(loss, POINTS - step, at)) / (2 * h)
        if loss == "likelihood" and k == 1:
            continue  # the value of the module's table is free of c by definition; its derivative is 0
        assert torch.allclose(found.gradient[:, k], slope, atol=1e-6)
        assert torch.allclose(found.hessian[:, k], curve, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_truth_is_stationary_and_nothing_else_is(loss: Loss) -> None:
    at = line(4.0)
    assert float(gradient(loss, truth(4.0), at).abs().max()) < 1e-12
    assert float(gradient(loss, truth(3.9), at).abs().max()) > 1e-4
    assert float(gradient(loss, truth(4.0), line(4.1)).abs().max()) > 1e-4  # data from elsewhere


def test_gradients_at_the_noise_law_by_hand() -> None:
    start = torch.zeros(2, dtype=torch.float64)
    assert gradient("nce", start, line(6.0)).tolist() == pytest.approx([-3.0, 0.0], abs=1e-12)  # (E_q T - E_* T) / 2
    assert gradient("ence", start, line(6.0)).tolist() == pytest.approx([-1.5, 0.0], abs=1e-12)
    assert on_path(torch.tensor(6.0)).tolist() == truth(6.0).tolist() == [6.0, 18.0]


def test_quadrature_is_converged() -> None:
    """Half the spacing and a wider box change nothing but the last digits, also where the gradient is 1e-12."""
    tau = on_path(torch.linspace(0.0, 16.0, 9, dtype=torch.float64))
    for loss in LOSSES:
        a = gradient(loss, tau, line(16.0))
        b = gradient(loss, tau, line(16.0, spacing=0.025, reach=11.0))
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-15 if loss == "nce" else 1e-12), loss


def test_likelihood_descent_by_hand() -> None:
    """|mean - R| = R 2^-k at step 1/2: below 0.1 after 5, 6, 7, 8 iterations."""
    for R, expected in zip((2.0, 4.0, 8.0, 16.0), (5, 6, 7, 8), strict=True):
        history = descend(DESCENTS["likelihood-GD"], line(R), np.array([0.5, 1e-6]), budget=40, done=lambda _: False)
        good = inside(history, R, tolerance=0.1, with_log_z=False)
        assert arrival(good, 10).tolist() == [expected, np.inf]


def test_normalised_and_adam_steps_have_the_length_they_should() -> None:
    rates = np.array([0.1, 0.5])
    for name in ("NCE-NGD", "eNCE-NGD"):
        history = descend(DESCENTS[name], line(4.0), rates, budget=20, done=lambda _: False)
        lengths = np.linalg.norm(np.diff(history, axis=0), axis=-1)  # (20, 2)
        assert np.allclose(lengths, rates)
    history = descend(DESCENTS["NCE-Adam"], line(4.0), rates, budget=1, done=lambda _: False)
    assert history[1, :, 0] == pytest.approx(rates)  # the first step of Adam is the sign of the gradient


@pytest.mark.long
def test_a_far_mean_stops_nce_and_not_the_exponential_loss() -> None:
    def hit(name: str, R: float) -> float:
        history = descend(DESCENTS[name], line(R), np.array([0.1, 1.0, 10.0]), budget=3000, done=lambda _: False)
        return float(arrival(inside(history, R, tolerance=0.1, with_log_z=True), 100).min())

    assert np.isinf(hit("NCE-GD", 8.0))
    assert 250 <= hit("eNCE-NGD", 8.0) <= 1000
    assert hit("NCE-GD", 2.0) <= 100  # control: a near mean does not


@pytest.mark.slow
def test_nce_fails_at_eight_within_the_whole_budget_at_any_step_size() -> None:
    rates = np.array([0.01, 0.1, 1.0, 10.0, 100.0, 1000.0])
    history = descend(DESCENTS["NCE-GD"], line(8.0), rates, budget=20_000, done=lambda _: False)
    assert np.isinf(arrival(inside(history, 8.0, tolerance=0.1, with_log_z=True), 100)).all()


def test_descend_stops_when_told() -> None:
    seen: list[int] = []

    def done(history: np.ndarray) -> bool:
        seen.append(len(history))
        return len(history) > 10

    history = descend(DESCENTS["NCE-GD"], line(1.0), np.array([0.1]), budget=100, done=done, every=5)
    assert (len(history), seen) == (11, [6, 11])


def test_arrival_and_inside_by_hand() -> None:
    good = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 0], [0, 1, 0]], dtype=bool)
    assert arrival(good, 3).tolist() == [1.0, 2.0, np.inf]
    assert arrival(good, 2).tolist() == [1.0, 2.0, 0.0]
    assert arrival(good, 6).tolist() == [np.inf] * 3
    history = np.array([[[4.05, 8.0], [4.05, 9.0], [4.2, 8.0]]])
    assert inside(history, 4.0, tolerance=0.1, with_log_z=True).tolist() == [[True, False, False]]
    assert inside(history, 4.0, tolerance=0.1, with_log_z=False).tolist() == [[True, True, False]]


def test_bad_lines_are_sentences() -> None:
    with pytest.raises(RlcError, match="distance R must be >= 0"):
        line(-1.0)
    with pytest.raises(RlcError, match="spacing must lie in"):
        line(1.0, spacing=1.0)
