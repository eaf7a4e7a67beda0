"""Energy discrepancy: the value by hand, finite differences, the truth as minimiser, both limits, the lower bound."""

from __future__ import annotations

import math

import pytest
import torch
from energy_laws import GaussianLaw, QuadraticEnergy, finite_difference, minimise

from rl_contrastive.energy.discrepancy import DiscrepancyConfig, EnergyDiscrepancy
from rl_contrastive.errors import RlcError

P = GaussianLaw(1.0, 0.5)
X = P.quantiles(4000)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss(theta: tuple[float, float], x: torch.Tensor = X, **options: float) -> torch.Tensor:
    """The loss with the same draws at every call."""
    objective = EnergyDiscrepancy(DiscrepancyConfig(**options))  # type: ignore[arg-type]
    return objective.loss(QuadraticEnergy(theta), x, state=objective.initial_state(), rng=gen()).surrogate


def exact(theta: tuple[float, float], t: float) -> float:
    """ED_t of f = theta_0 x - theta_1 x^2 / 2 under N(1, .25), in closed form: with g = 1 + theta_1 t,
    log E_e' e^{f(y + sqrt(t) e')} = -log(g)/2 + (theta_0 y - theta_1 y^2 / 2 + theta_0^2 t / 2) / g."""
    a, b = theta
    g, second = 1.0 + b * t, 1.25
    inside = (a * 1.0 - 0.5 * b * (second + t) + 0.5 * a * a * t) / g
    return -(a * 1.0 - 0.5 * b * second) - 0.5 * math.log(g) + inside


def test_value_by_hand() -> None:
    f, x = QuadraticEnergy((0.3, 2.0)), torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    objective = EnergyDiscrepancy(DiscrepancyConfig(variance=0.09, draws=2, stabiliser=0.5))
    out = objective.loss(f, x, state=objective.initial_state(), rng=gen())
    e = torch.randn(2, 3, 1, generator=gen(), dtype=torch.float64)
    total = 0.0
    for i in range(2):
        rises = [math.exp(float((f(x[i] + 0.3 * (e[i, 0] + e[i, j])) - f(x[i])).detach())) for j in (1, 2)]
        total += math.log((0.5 + sum(rises)) / 2) / 2
    assert float(out.surrogate.detach()) == pytest.approx(total, abs=1e-12)
    assert out.state.step == 1
    assert math.isnan(float(out.nll))


@pytest.mark.parametrize("stabiliser", [0.0, 1.0])
def test_gradient_agrees_with_finite_differences(stabiliser: float) -> None:
    f, objective = QuadraticEnergy((0.3, 1.5)), EnergyDiscrepancy(DiscrepancyConfig(stabiliser=stabiliser))

    def surrogate() -> torch.Tensor:
        return objective.loss(f, X[::50], state=objective.initial_state(), rng=gen()).surrogate

    (gradient,) = torch.autograd.grad(surrogate(), f.theta)
    assert torch.allclose(gradient, finite_difference(lambda: float(surrogate()), f.theta), atol=1e-8)


@pytest.mark.parametrize("variance", [1e-3, 0.04, 0.25, 1.0])
def test_many_draws_give_the_closed_form(variance: float) -> None:
    for theta in ((4.0, 4.0), (1.0, 2.0)):
        found = float(loss(theta, variance=variance, draws=500, stabiliser=0.0).detach())
        assert found == pytest.approx(exact(theta, variance), abs=0.05)


@pytest.mark.parametrize("variance", [0.04, 0.25])
def test_the_truth_is_the_minimiser_for_every_blur(variance: float) -> None:
    """N(1, .5^2) is theta = (4, 4): stationary in closed form, and found by descent from another law."""
    for step in ((0.05, 0.0), (0.0, 0.05), (-0.05, 0.0), (0.0, -0.05)):
        assert exact((4.0 + step[0], 4.0 + step[1]), variance) > exact((4.0, 4.0), variance)
    f, objective = QuadraticEnergy((0.0, 1.0)), EnergyDiscrepancy(DiscrepancyConfig(variance=variance, draws=64))
    state = objective.initial_state()
    minimise(lambda: objective.loss(f, X, state=state, rng=gen()).surrogate, [f.theta], rounds=4)
    mean, std = f.mean_std
    assert mean == pytest.approx(1.0, abs=0.03)
    assert std == pytest.approx(0.5, abs=0.03)


def test_small_blurs_match_scores_and_large_ones_are_likelihoods() -> None:
    for theta in ((4.0, 4.0), (1.0, 2.0)):
        a, b = theta
        matching = -b + 0.5 * (a * a - 2 * a * b + b * b * 1.25)  # E[f'' + f'^2 / 2]
        assert exact(theta, 1e-5) / 1e-5 == pytest.approx(matching, rel=1e-3)
    truth, other = (4.0, 4.0), (1.0, 2.0)

    def nll(theta: tuple[float, float]) -> float:
        a, b = theta
        return -(a - 0.5 * b * 1.25) + a * a / (2 * b) - 0.5 * math.log(b)

    assert exact(other, 1e6) - exact(truth, 1e6) == pytest.approx(nll(other) - nll(truth), abs=1e-4)


def test_the_datum_itself_bounds_the_loss_from_below() -> None:
    """A spike at the datum: every blurred point is far below it, and without w the loss falls without bound."""
    spike = (0.0, 1e6)
    at_peak = torch.zeros(10, 1, dtype=torch.float64)
    assert float(loss(spike, at_peak, draws=4, stabiliser=1.0).detach()) == pytest.approx(math.log(1 / 4), abs=1e-9)
    assert float(loss(spike, at_peak, draws=4, stabiliser=0.0).detach()) < -1e3


@pytest.mark.parametrize(
    ("options", "word"),
    [({"variance": 0.0}, "variance"), ({"variance": math.inf}, "variance"), ({"draws": 0}, "draws"),
     ({"stabiliser": -1.0}, "stabiliser"), ({"stabiliser": math.nan}, "stabiliser")],
)  # fmt: skip
def test_what_is_refused(options: dict[str, float], word: str) -> None:
    with pytest.raises(RlcError, match=word):
        DiscrepancyConfig(**options)  # type: ignore[arg-type]
    objective = EnergyDiscrepancy()
    with pytest.raises(RlcError, match="energy-discrepancy: needs rng for its blur"):
        objective.loss(QuadraticEnergy((0.0, 1.0)), X, state=objective.initial_state())
