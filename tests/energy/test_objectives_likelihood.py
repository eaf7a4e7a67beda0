"""InfoNCE and likelihood on a grid: values by hand, finite differences, exact maximum likelihood of a sample."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from energy_laws import FiniteLaw, GaussianLaw, QuadraticEnergy, TableEnergy, finite_difference, minimise

from rl_contrastive.energy.compositional import MECO, MECOConfig
from rl_contrastive.energy.likelihood import GridLikelihood, GridLikelihoodConfig, InfoNCE, InfoNCEConfig
from rl_contrastive.errors import RlcError

P, Q = FiniteLaw([1, 2, 4, 3]), FiniteLaw([3, 3, 2, 2])


def test_infonce_by_hand() -> None:
    f, objective = TableEnergy(torch.tensor([0.5, -1.0, 2.0, 0.0])), InfoNCE()
    x, z = torch.tensor([[2.0], [3.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    out = objective.loss(f, x, q=Q, z=z, state=objective.initial_state())
    w = {0: math.exp(0.5) / 0.3, 1: math.exp(-1.0) / 0.3, 2: math.exp(2.0) / 0.2, 3: 1.0 / 0.2}
    noise = w[0] + w[1] + w[3]
    expected = sum(math.log((w[i] + noise) / 4 / w[i]) for i in (2, 3)) / 2
    assert float(out.surrogate.detach()) == pytest.approx(expected, abs=1e-12)
    assert float(out.nll) == pytest.approx(-1.0 + math.log(noise / 3), abs=1e-12)


def test_infonce_gradient_agrees_with_finite_differences() -> None:
    f, objective = TableEnergy(torch.tensor([0.3, -0.4, 0.8, 0.1])), InfoNCE()

    def surrogate() -> torch.Tensor:
        return objective.loss(f, P.population, q=Q, z=Q.population, state=objective.initial_state()).surrogate

    (gradient,) = torch.autograd.grad(surrogate(), f.table)
    assert torch.allclose(gradient, finite_difference(lambda: float(surrogate().detach()), f.table), atol=1e-8)


@pytest.mark.parametrize("noise", [1, 2])
def test_infonce_is_unbiased_with_few_samples_where_snis_is_not(noise: int) -> None:
    """The expected gradient at the truth, over all data and all sets of noise: 0, because the datum is among them."""
    pairs = list(product(P.population[:, 0].tolist(), *[Q.population[:, 0].tolist()] * noise))
    points = torch.tensor(pairs, dtype=torch.float64).unsqueeze(-1)  # (G, 1 + noise, 1)
    sizes = {}
    for name, objective, law in (
        ("infonce", InfoNCE(), Q),
        ("wrong noise density", InfoNCE(), FiniteLaw([2, 2, 3, 3])),
        ("snis", MECO(MECOConfig(gamma=1.0)), Q),
    ):
        f = TableEnergy(P.log_p + 0.7)
        state = objective.initial_state(shape=(len(points),))
        out = objective.loss(f, points[:, :1], q=law, z=points[:, 1:], state=state)
        (gradient,) = torch.autograd.grad(out.surrogate / len(points), f.table)
        sizes[name] = float(gradient.abs().max())
    assert sizes["infonce"] < 1e-12
    assert sizes["wrong noise density"] > 1e-2
    assert sizes["snis"] > 0.05


def test_infonce_stays_finite_for_scores_of_ten_thousand() -> None:
    f, objective = TableEnergy(torch.tensor([-1e4, 1e4, 0.0, 5e3])), InfoNCE()
    out = objective.loss(f, P.population, q=Q, z=Q.population, state=objective.initial_state())
    (gradient,) = torch.autograd.grad(out.surrogate, f.table)
    assert bool(torch.isfinite(out.surrogate))
    assert bool(torch.isfinite(gradient).all())


def test_grid_by_hand() -> None:
    """Three nodes 0, 1, 2 with trapezoid weights 1/2, 1, 1/2; in two dimensions their products."""
    objective = GridLikelihood(GridLikelihoodConfig(low=0.0, high=2.0, points=3))
    x = torch.tensor([[0.5], [1.5]], dtype=torch.float64)
    out = objective.loss(lambda x: x[..., 0] ** 2, x, state=objective.initial_state())
    z = 0.5 + math.e + 0.5 * math.exp(4.0)
    assert float(out.nll) == pytest.approx(-1.25 + math.log(z), abs=1e-12)
    assert float(out.ess) == pytest.approx(z**2 / (0.25 + math.e**2 + 0.25 * math.exp(8.0)), abs=1e-12)
    plane = objective.loss(lambda x: x.square().sum(-1), x.expand(2, 2), state=objective.initial_state())
    assert float(plane.nll) == pytest.approx(-2.5 + 2 * math.log(z), abs=1e-12)


def test_grid_partition_of_a_gaussian() -> None:
    objective = GridLikelihood(GridLikelihoodConfig(low=-9.0, high=9.0, points=200))
    for D in (1, 2):
        x = torch.zeros(1, D, dtype=torch.float64)
        out = objective.loss(lambda x: -0.5 * x.square().sum(-1), x, state=objective.initial_state())
        assert float(out.nll) == pytest.approx(0.5 * D * math.log(2 * math.pi), abs=1e-12)


def test_grid_likelihood_finds_the_maximum_likelihood_estimate_of_a_sample() -> None:
    """For a Gaussian this is the sample's own mean and deviation: to 1e-6, not to a sampling error."""
    x = GaussianLaw(1.0, 0.5).sample(50, rng=torch.Generator().manual_seed(0))
    f, objective = QuadraticEnergy((0.0, 1.0)), GridLikelihood(GridLikelihoodConfig(points=2000))

    def nll() -> torch.Tensor:
        return objective.loss(f, x, state=objective.initial_state()).surrogate

    (gradient,) = torch.autograd.grad(nll(), f.theta)
    assert torch.allclose(gradient, finite_difference(lambda: float(nll().detach()), f.theta), atol=1e-7)
    minimise(nll, [f.theta])
    mean, std = f.mean_std
    assert mean == pytest.approx(float(x.mean()), abs=1e-6)
    assert std == pytest.approx(float(x.std(correction=0)), abs=1e-6)


def test_grids_that_cannot_work_are_refused() -> None:
    objective = GridLikelihood(GridLikelihoodConfig(low=-1.0, high=1.0))
    with pytest.raises(RlcError, match=r"data lie outside \[-1.0, 1.0\] at step 0"):
        objective.loss(lambda x: x[..., 0], torch.tensor([[2.0]]), state=objective.initial_state())
    with pytest.raises(RlcError, match="300 points an axis in 3 dimensions are 27000000 nodes"):
        objective.loss(lambda x: x[..., 0], torch.zeros(1, 3), state=objective.initial_state())
    for options in ({"low": 1.0, "high": 1.0}, {"points": 1}):
        with pytest.raises(RlcError):
            GridLikelihoodConfig(**options)
    with pytest.raises(RlcError):
        InfoNCEConfig(noise_per_datum=0)
