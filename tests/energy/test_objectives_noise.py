"""NCE and eNCE: values by hand, finite differences, the truth as population minimiser, overflow, unit steps."""

from __future__ import annotations

import math

import pytest
import torch
from energy_laws import FiniteLaw, GaussianLaw, QuadraticEnergy, TableEnergy, finite_difference, minimise
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_contrastive.energy.noise_contrastive import ENCE, NCE, ENCEConfig, NCEConfig, exponential_log_loss, nce_loss
from rl_contrastive.energy.steps import AveragedDescent
from rl_contrastive.errors import RlcError

P, Q = FiniteLaw([1, 2, 4, 3]), FiniteLaw([3, 3, 2, 2])
OBJECTIVES = [NCE(), ENCE(), ENCE(ENCEConfig(scale="exact"))]


def population_gradient(objective: NCE | ENCE, table: torch.Tensor, log_z: float, q: FiniteLaw) -> torch.Tensor:
    f, state = TableEnergy(table), objective.initial_state()
    with torch.no_grad():
        state.c.fill_(log_z)
    out = objective.loss(f, P.population, q=q, z=Q.population, state=state)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(out.surrogate, [f.table, *state.parameters()])])


def test_values_by_hand() -> None:
    l_x, l_z = torch.tensor([math.log(3.0)]), torch.tensor([math.log(2.0), 0.0])
    # nu = 2: log(1 + 2/3) + 2 (1/2 log(1 + 2/2) + 1/2 log(1 + 1/2)).
    expected = math.log(5 / 3) + math.log(2.0) + math.log(1.5)
    assert float(nce_loss(l_x, l_z, 2.0)) == pytest.approx(expected, rel=1e-6)
    # L = (3^-1/2 + (sqrt 2 + 1)/2) / 2.
    expected = math.log((3**-0.5 + (math.sqrt(2.0) + 1.0) / 2) / 2)
    assert float(exponential_log_loss(l_x, l_z)) == pytest.approx(expected, rel=1e-6)


def test_the_classes_put_scores_noise_ratio_and_log_z_together() -> None:
    f = TableEnergy(torch.tensor([0.5, -1.0, 2.0, 0.0]))
    x, z = torch.tensor([[2.0]]), torch.tensor([[0.0], [3.0]])
    l_x, l_z = 2.0 - math.log(0.2), torch.tensor([0.5 - math.log(0.3), 0.0 - math.log(0.2)], dtype=torch.float64)
    log_z = float(torch.logsumexp(l_z, 0)) - math.log(2)
    for objective in (NCE(), ENCE()):
        out = objective.loss(f, x, q=Q, z=z, state=objective.initial_state())
        assert float(out.state.c.detach()) == pytest.approx(log_z, abs=1e-12)  # c starts at the batch's own estimate
        assert float(out.nll) == pytest.approx(-2.0 + log_z, abs=1e-12)
        w = l_z.exp()
        assert float(out.ess) == pytest.approx(float(w.sum() ** 2 / w.square().sum()), abs=1e-12)
        assert out.state.step == 1
    out = NCE().loss(f, x, q=Q, z=z, state=NCE().initial_state())
    by_hand = nce_loss(torch.tensor([l_x - log_z], dtype=torch.float64), l_z - log_z, 2.0)  # nu = m / n = 2
    assert float(out.surrogate.detach()) == pytest.approx(float(by_hand), abs=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradient_agrees_with_finite_differences(objective: NCE | ENCE) -> None:
    f, state = TableEnergy(torch.tensor([0.3, -0.4, 0.8, 0.1])), objective.initial_state()
    with torch.no_grad():
        state.c.fill_(0.7)

    def value() -> float:
        return float(objective.loss(f, P.population, q=Q, z=Q.population, state=state).surrogate)

    surrogate = objective.loss(f, P.population, q=Q, z=Q.population, state=state).surrogate
    for parameter, gradient in zip([f.table, state.c], torch.autograd.grad(surrogate, [f.table, state.c]), strict=True):
        assert torch.allclose(gradient, finite_difference(value, parameter), atol=1e-8)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_truth_is_stationary_and_a_wrong_noise_density_moves_it(objective: NCE | ENCE) -> None:
    truth = P.log_p + 1.3  # unnormalised: Z = e^1.3
    assert float(population_gradient(objective, truth, 1.3, Q).abs().max()) < 1e-12
    assert float(population_gradient(objective, truth, 0.3, Q).abs().max()) > 1e-2  # a wrong log Z is not
    wrong = FiniteLaw([2, 2, 3, 3])  # the noise is drawn from Q, its log_prob says otherwise
    assert float(population_gradient(objective, truth, 1.3, wrong).abs().max()) > 1e-2


@pytest.mark.parametrize("noise_copies", [1, 3])
def test_gaussian_family_by_quadrature(noise_copies: int) -> None:
    """N(1, .5^2) from N(0, 1) noise: mean, deviation and log Z are found for every number of noise points."""
    p, q = GaussianLaw(1.0, 0.5), GaussianLaw(0.0, 1.0)
    x, z = p.quantiles(2000), q.quantiles(2000 * noise_copies)
    for objective in (NCE(), ENCE()):
        # Quantile grids cut the tails off, which sqrt(q/p) feels most: errors stay below .01.
        for law, found in ((q, True), (GaussianLaw(0.0, 1.0, slope=0.5), False)):
            f, state = QuadraticEnergy((0.0, 1.0)), objective.initial_state()
            state = objective.loss(f, x, q=law, z=z, state=state).state
            minimise(
                lambda o=objective, f=f, law=law, state=state: o.loss(f, x, q=law, z=z, state=state).surrogate,
                [f.theta, *state.parameters()],
            )
            mean, std = f.mean_std
            # log Z of exp(theta_0 x - theta_1 x^2 / 2) is m^2 / (2 s^2) + log s + log(2 pi) / 2.
            log_z = 2.0 + math.log(0.5) + 0.5 * math.log(2 * math.pi)
            close = abs(mean - 1.0) < 1e-2 and abs(std - 0.5) < 1e-2 and abs(float(state.c.detach()) - log_z) < 4e-2
            assert close == found, (objective.name, mean, std, state.c)


def test_without_a_learned_log_z_there_is_nothing_more_to_train() -> None:
    for objective in (NCE(NCEConfig(learn_log_z=False)), ENCE(ENCEConfig(learn_log_z=False))):
        state = objective.initial_state()
        assert state.parameters() == []
        out = objective.loss(TableEnergy(P.log_p), P.population, q=Q, z=Q.population, state=state)
        assert float(out.state.c.detach()) == 0.0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-20, 20), min_size=2, max_size=6),
    st.lists(st.floats(-20, 20), min_size=2, max_size=6),
)
def test_ence_direction_does_not_depend_on_the_scale_of_the_loss(data: list[float], noise: list[float]) -> None:
    """log L has L's direction; L e^-M, the same exponents less a constant M, has it too."""
    l_x, l_z = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (data, noise))
    exact = torch.exp(exponential_log_loss(l_x, l_z))
    shift = torch.maximum(-l_x.detach().min(), l_z.detach().max()) / 2
    shifted = torch.exp(-0.5 * l_x - shift).mean() + torch.exp(0.5 * l_z - shift).mean()
    logs = exponential_log_loss(l_x, l_z)
    directions = []
    for loss in (exact, shifted, logs):
        gradient = torch.cat(torch.autograd.grad(loss, (l_x, l_z)))
        directions.append(gradient / gradient.norm())
    assert torch.allclose(directions[0], directions[1], atol=1e-10)
    assert torch.allclose(directions[0], directions[2], atol=1e-10)


def test_scores_of_ten_thousand_stay_finite() -> None:
    table = torch.tensor([-1e4, 1e4, 0.0, 5e3])
    for objective in (NCE(), ENCE()):
        f, state = TableEnergy(table), objective.initial_state()
        out = objective.loss(f, P.population, q=Q, z=Q.population, state=state)
        gradients = torch.autograd.grad(out.surrogate, [f.table, state.c])
        assert bool(torch.isfinite(out.surrogate))
        assert all(bool(torch.isfinite(g).all()) for g in gradients)
    exact = ENCE(ENCEConfig(scale="exact"))
    with pytest.raises(RlcError, match=r"1 of 1 exponential losses .* at step 0"):
        exact.loss(TableEnergy(table), P.population, q=Q, z=Q.population, state=exact.initial_state())


def test_noise_that_misses_the_data_is_an_error() -> None:
    class Half(FiniteLaw):
        def log_prob(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x[..., 0] < 1, -math.inf, super().log_prob(x))

    law = Half([3, 3, 2, 2])
    for objective in (NCE(), ENCE()):
        with pytest.raises(RlcError, match="density 0 at 1 of 10 data points at step 0"):
            objective.loss(
                TableEnergy(P.log_p),
                P.population,
                q=law,
                z=P.population[1:],
                state=objective.initial_state(),
            )


def test_normalised_descent_moves_by_lr_whatever_the_scale() -> None:
    for scale in (1e-30, 1.0, 1e30):
        a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))
        optimiser = AveragedDescent([a, b], lr=0.5, normalise=True)
        a.grad, b.grad = scale * torch.tensor([1.0, 2.0]), scale * torch.tensor([2.0])
        optimiser.step()
        # ||(1, 2, 2)|| = 3.
        assert torch.allclose(torch.cat([a, b]), -0.5 * torch.tensor([1.0, 2.0, 2.0]) / 3)
    a.grad, b.grad = torch.zeros(2), torch.zeros(1)
    before = a.detach().clone()
    optimiser.step()
    assert torch.equal(a.detach(), before)
    a.grad = torch.tensor([math.nan, 0.0])
    with pytest.raises(RlcError, match="gradient is NaN"):
        optimiser.step()


def test_each_leading_index_has_its_own_norm() -> None:
    stacked = torch.nn.Parameter(torch.zeros(2, 3))
    optimiser = AveragedDescent([stacked], lr=1.0, normalise=True, leading=1)
    stacked.grad = torch.tensor([[3.0, 0.0, 4.0], [0.0, 1e-3, 0.0]])
    optimiser.step()
    assert torch.allclose(stacked.detach(), -torch.tensor([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]]))


def test_averaged_gradients_by_hand_and_their_state() -> None:
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimiser = AveragedDescent([p], lr=1.0, beta=0.25)
    for gradient in (4.0, 8.0):
        p.grad = torch.tensor([gradient], dtype=torch.float64)
        optimiser.step()
    assert float(p.detach()) == -(4.0 + 5.0)  # v = 4, then .75 * 4 + .25 * 8 = 5
    resumed_p = torch.nn.Parameter(p.detach().clone())
    resumed = AveragedDescent([resumed_p], lr=1.0, beta=0.25)
    resumed.load_state_dict(optimiser.state_dict())
    for parameter, descent in ((p, optimiser), (resumed_p, resumed)):
        parameter.grad = torch.tensor([1.0], dtype=torch.float64)
        descent.step()
    assert torch.equal(p, resumed_p)
    with pytest.raises(RlcError, match="beta must lie"):
        AveragedDescent([p], lr=1.0, beta=0.0)
