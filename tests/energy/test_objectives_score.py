"""Denoising and sliced score matching against the analytic scores and curvatures of Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from energy_laws import GaussianLaw, QuadraticEnergy, finite_difference, minimise
from torch import Tensor, nn

from rl_contrastive.energy.score import DenoisingConfig, DenoisingScore, SlicedConfig, SlicedScore
from rl_contrastive.errors import RlcError


class PlaneGaussian(nn.Module):
    """f(x) = -x'Ax/2 with A = B + B': score -Ax, Hessian -A."""

    def __init__(self, B: list[list[float]]) -> None:
        super().__init__()
        self.B = nn.Parameter(torch.tensor(B, dtype=torch.float64))

    @property
    def A(self) -> Tensor:
        return self.B + self.B.T

    def forward(self, x: Tensor) -> Tensor:
        return -0.5 * ((x @ self.A) * x).sum(-1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_denoising_value_by_hand() -> None:
    f, objective = QuadraticEnergy((0.3, 2.0)), DenoisingScore(DenoisingConfig(sigma=0.5))
    x = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    out = objective.loss(f, x, state=objective.initial_state(), rng=seeded())
    e = torch.randn(2, 1, generator=seeded(), dtype=torch.float64)
    score = 0.3 - 2.0 * (x + 0.5 * e)
    assert float(out.surrogate.detach()) == pytest.approx(0.5 * float((0.5 * score + e).square().mean()), abs=1e-12)


def test_sliced_value_by_hand() -> None:
    """v'Hv + |s|^2 / 2 with H = -A and s = -Ax."""
    f, objective = PlaneGaussian([[0.5, 0.4], [0.0, 1.0]]), SlicedScore(SlicedConfig(slices=2))
    x = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.0, 3.0]], dtype=torch.float64)
    out = objective.loss(f, x, state=objective.initial_state(), rng=seeded())
    rng, A = seeded(), torch.tensor([[1.0, 0.4], [0.4, 2.0]], dtype=torch.float64)
    signs = [2.0 * torch.randint(0, 2, (3, 2), generator=rng).double() - 1.0 for _ in range(2)]
    curvature = sum(-((v @ A) * v).sum(-1) for v in signs) / 2
    expected = (curvature + 0.5 * (x @ A).square().sum(-1)).mean()
    assert float(out.surrogate.detach()) == pytest.approx(float(expected), abs=1e-12)


def test_sliced_curvature_is_the_trace_on_average() -> None:
    f = PlaneGaussian([[0.5, 0.4], [0.0, 1.0]])
    objective = SlicedScore(SlicedConfig(slices=400))
    x = torch.zeros(50, 2, dtype=torch.float64)  # the score is 0 there
    out = objective.loss(f, x, state=objective.initial_state(), rng=seeded())
    # v'Hv = -(1 + 2 + 2 * .4 v_1 v_2): mean -3, deviation .8 / sqrt(20000).
    assert float(out.surrogate.detach()) == pytest.approx(-3.0, abs=0.03)


@pytest.mark.parametrize("objective", [DenoisingScore(DenoisingConfig(sigma=0.3)), SlicedScore(SlicedConfig(slices=2))])
def test_gradient_agrees_with_finite_differences(objective: DenoisingScore | SlicedScore) -> None:
    f = PlaneGaussian([[0.5, 0.4], [-0.1, 1.0]])
    x = torch.randn(5, 2, generator=seeded(3), dtype=torch.float64)

    def surrogate() -> Tensor:
        return objective.loss(f, x, state=objective.initial_state(), rng=seeded()).surrogate

    (gradient,) = torch.autograd.grad(surrogate(), f.B)
    assert torch.allclose(gradient, finite_difference(lambda: float(surrogate().detach()), f.B), atol=1e-7)


def test_gradient_of_a_network_agrees_with_finite_differences() -> None:
    """Third derivatives of a smooth network: the double backward is right beyond quadratics."""
    torch_rng = seeded(4)
    first, last = nn.Linear(2, 6).double(), nn.Linear(6, 1).double()
    with torch.no_grad():
        for parameter in (*first.parameters(), *last.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch_rng, dtype=torch.float64))
    x = torch.randn(4, 2, generator=seeded(3), dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return last(nn.functional.silu(first(x)))[..., 0]

    for objective in (DenoisingScore(), SlicedScore()):

        def surrogate(objective: DenoisingScore | SlicedScore = objective) -> Tensor:
            return objective.loss(f, x, state=objective.initial_state(), rng=seeded()).surrogate

        (gradient,) = torch.autograd.grad(surrogate(), first.weight)
        slopes = finite_difference(lambda surrogate=surrogate: float(surrogate().detach()), first.weight)
        assert torch.allclose(gradient, slopes, atol=1e-6)


def test_sliced_score_finds_the_data_law() -> None:
    """On the line v'Hv = f'' without noise, so the minimiser is the sample's mean and deviation exactly."""
    x = GaussianLaw(1.0, 0.5).sample(50, rng=seeded())
    f, objective = QuadraticEnergy((0.0, 1.0)), SlicedScore()
    minimise(lambda: objective.loss(f, x, state=objective.initial_state(), rng=seeded()).surrogate, [f.theta])
    mean, std = f.mean_std
    assert mean == pytest.approx(float(x.mean()), abs=1e-6)
    assert std == pytest.approx(float(x.std(correction=0)), abs=1e-6)


def test_sliced_score_finds_the_precision_of_correlated_data() -> None:
    precision = torch.tensor([[2.0, -1.2], [-1.2, 1.5]], dtype=torch.float64)
    x = torch.randn(4000, 2, generator=seeded(), dtype=torch.float64) @ torch.linalg.cholesky(precision.inverse()).T
    f, objective = PlaneGaussian([[0.5, 0.0], [0.0, 0.5]]), SlicedScore(SlicedConfig(slices=4))
    minimise(lambda: objective.loss(f, x, state=objective.initial_state(), rng=seeded(1)).surrogate, [f.B], rounds=3)
    assert torch.allclose(f.A.detach(), (x.T @ x / len(x)).inverse(), atol=0.1)
    assert float((f.A.detach() - torch.eye(2)).abs().max()) > 0.5  # the negative control: where it started


def test_denoising_score_finds_the_blurred_law_and_not_the_data_law() -> None:
    """Data N(1, .5^2), sigma = .5: the score of N(1, .5^2 + .5^2), deviation .707."""
    x = GaussianLaw(1.0, 0.5).quantiles(200).repeat(100, 1)
    f, objective = QuadraticEnergy((0.0, 1.0)), DenoisingScore(DenoisingConfig(sigma=0.5))
    minimise(lambda: objective.loss(f, x, state=objective.initial_state(), rng=seeded()).surrogate, [f.theta], rounds=3)
    mean, std = f.mean_std
    assert mean == pytest.approx(1.0, abs=0.02)
    assert std == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert abs(std - 0.5) > 0.15


def test_the_constant_of_the_model_does_not_matter() -> None:
    f, x = QuadraticEnergy((0.3, 2.0)), torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    for objective in (DenoisingScore(), SlicedScore()):
        plain, raised = (
            objective.loss(g, x, state=objective.initial_state(), rng=seeded()).surrogate
            for g in (f, lambda x: f(x) + 100.0)
        )
        assert torch.allclose(plain, raised, atol=1e-12)


def test_a_linear_energy_has_no_curvature() -> None:
    slope = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    objective = SlicedScore()
    out = objective.loss(
        lambda x: x @ slope, torch.zeros(3, 2, dtype=torch.float64), state=objective.initial_state(), rng=seeded()
    )
    assert float(out.surrogate.detach()) == pytest.approx(2.5)  # |(1, -2)|^2 / 2
    (gradient,) = torch.autograd.grad(out.surrogate, slope)
    assert torch.equal(gradient, slope.detach())


def test_wrong_inputs_are_refused() -> None:
    x = torch.zeros(3, 2)
    for objective in (DenoisingScore(), SlicedScore()):
        state = objective.initial_state()
        with pytest.raises(RlcError, match="needs rng"):
            objective.loss(lambda x: -x.square().sum(-1), x, state=state)
        with pytest.raises(RlcError, match="f does not depend on x"):
            objective.loss(lambda x: torch.zeros(x.shape[:-1]), x, state=state, rng=seeded())
        with pytest.raises(RlcError, match=r"gradients of f\(.*data x\) are NaN or infinite at step 0"):
            # finite values, infinite slope at 0
            objective.loss(lambda x: (x * 0.0).sum(-1).abs().sqrt(), x, state=state, rng=seeded())
    with pytest.raises(RlcError, match="sigma must be > 0"):
        DenoisingConfig(sigma=0.0)
    with pytest.raises(RlcError, match="slices must be >= 1"):
        SlicedConfig(slices=0)
