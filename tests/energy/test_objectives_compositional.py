"""MECO: moving averages by hand, bounds that always hold, gradients, the truth as fixed point, what SNIS gets wrong."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from energy_laws import FiniteLaw, GaussianLaw, QuadraticEnergy, TableEnergy, finite_difference, minimise
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_contrastive.energy.compositional import MECO, MECOConfig, MECOState, average_log, ratio_log, storm_log
from rl_contrastive.errors import RlcError

P, Q = FiniteLaw([1, 2, 4, 3]), FiniteLaw([3, 3, 2, 2])
NAN = torch.tensor(math.nan, dtype=torch.float64)


def f64(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_moving_averages_by_hand() -> None:
    u, lm, before = f64(math.log(2.0)), f64(math.log(4.0)), f64(math.log(3.0))
    assert float(average_log(u, lm, 0.25)) == pytest.approx(math.log(2.5))  # .75 * 2 + .25 * 4
    assert float(average_log(NAN, lm, 0.25)) == float(lm)
    assert float(average_log(u, lm, 1.0)) == float(lm)
    assert float(storm_log(u, lm, before, 0.25)) == pytest.approx(math.log(3.25))  # 4 + .75 (2 - 3)
    # 4 + .75 (2 - 9) = -1.25 is no partition function: the floor is .25 * 4.
    assert float(storm_log(u, lm, f64(math.log(9.0)), 0.25)) == pytest.approx(0.0, abs=1e-12)
    assert float(storm_log(NAN, lm, before, 0.25)) == float(lm)
    assert float(ratio_log(u, lm, before, 0.25, 5.0)) == pytest.approx(math.log(0.75 * 2 * 4 / 3 + 1.0))
    assert float(ratio_log(u, lm, before - 90.0, 0.25, 1.0)) == pytest.approx(math.log(1.5 * math.e + 1.0))


def test_ratio_form_is_exact_under_a_constant_shift_of_the_model() -> None:
    u, before = f64(0.3), f64(1.1)
    shifted = ratio_log(u, before + 2.0, before, 0.1, 5.0)
    assert float(shifted) == pytest.approx(float(average_log(u, before, 0.1)) + 2.0, abs=1e-12)
    plain = average_log(u, before + 2.0, 0.1)  # the plain moving average lags behind
    assert float(plain) < float(shifted) - 0.5


@settings(max_examples=100, deadline=None)
@given(
    st.floats(1e-3, 1.0),
    st.sampled_from(["none", "storm", "ratio"]),
    st.lists(st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4), min_size=1, max_size=5),
)
def test_weights_never_exceed_one_over_gamma(gamma: float, correction: str, tables: list[list[float]]) -> None:
    """Whatever the model does from step to step, scores of 1e4 included; everything stays finite."""
    objective = MECO(MECOConfig(gamma=gamma, correction=correction))  # type: ignore[arg-type]
    state = objective.initial_state()
    for table in tables:
        f = TableEnergy(torch.tensor(table))
        out = objective.loss(f, P.population, q=Q, z=Q.population[::3], state=state)
        (gradient,) = torch.autograd.grad(out.surrogate, f.table)
        assert 0.0 <= float(out.diagnostics["weight"]) <= (1.0 / gamma) * (1.0 + 1e-9)
        assert bool(torch.isfinite(gradient).all())
        assert bool(torch.isfinite(out.state.log_u))
        state = out.state


def test_gamma_one_is_self_normalised_importance_sampling() -> None:
    f, objective = TableEnergy(torch.tensor([0.5, -1.0, 2.0, 0.0])), MECO(MECOConfig(gamma=1.0))
    assert objective.name == "snis"
    z = torch.tensor([[0.0], [2.0], [3.0]], dtype=torch.float64)
    state = MECOState(step=7, log_u=f64(123.0))  # the past does not count
    out = objective.loss(f, P.population, q=Q, z=z, state=state)
    (gradient,) = torch.autograd.grad(out.surrogate, f.table)
    log_w = torch.tensor([0.5 - math.log(0.3), 2.0 - math.log(0.2), -math.log(0.2)], dtype=torch.float64)
    weights = torch.softmax(log_w, 0)
    expected = -P.log_p.exp()
    expected[[0, 2, 3]] += weights
    assert torch.allclose(gradient, expected, atol=1e-14)
    mean_f = 0.1 * 0.5 - 0.2 + 0.4 * 2
    assert float(out.nll) == pytest.approx(-mean_f + float(torch.logsumexp(log_w, 0)) - math.log(3), abs=1e-12)
    assert float(out.ess) == pytest.approx(1.0 / float(weights.square().sum()), abs=1e-12)


@pytest.mark.parametrize("gamma", [0.2, 1.0])
def test_gradient_agrees_with_finite_differences(gamma: float) -> None:
    """With u held: of -mean f + e^{lm} / u; for gamma = 1: of the NLL estimate itself."""
    f, objective = TableEnergy(torch.tensor([0.3, -0.4, 0.8, 0.1])), MECO(MECOConfig(gamma=gamma))
    state, z = MECOState(step=1, log_u=f64(0.4)), Q.population[::2]
    out = objective.loss(f, P.population, q=Q, z=z, state=state)
    (gradient,) = torch.autograd.grad(out.surrogate, f.table)

    def value() -> float:
        if gamma == 1.0:
            return float(objective.loss(f, P.population, q=Q, z=z, state=state).nll)
        lm = torch.logsumexp(f(z) - Q.log_prob(z), 0) - math.log(len(z))
        return float(-f(P.population).mean() + torch.exp(lm - out.state.log_u))

    assert torch.allclose(gradient, finite_difference(value, f.table), atol=1e-8)


def test_the_truth_is_stationary_and_a_wrong_noise_density_moves_it() -> None:
    truth = P.log_p + 0.7
    for law, stationary in ((Q, True), (FiniteLaw([2, 2, 3, 3]), False)):
        f, objective = TableEnergy(truth), MECO(MECOConfig(gamma=0.3))
        out = objective.loss(f, P.population, q=law, z=Q.population, state=objective.initial_state())
        (gradient,) = torch.autograd.grad(out.surrogate, f.table)
        assert (float(gradient.abs().max()) < 1e-12) == stationary
        if stationary:  # log u = log Z and the NLL is the entropy of P
            assert float(out.state.log_u) == pytest.approx(0.7, abs=1e-12)
            assert float(out.nll) == pytest.approx(-float((P.log_p.exp() * P.log_p).sum()), abs=1e-12)


def test_gaussian_family_by_quadrature() -> None:
    p, q, objective = GaussianLaw(1.0, 0.5), GaussianLaw(0.0, 1.0), MECO(MECOConfig(gamma=1.0))
    x, z = p.quantiles(2000), q.quantiles(4000)
    for law, found in ((q, True), (GaussianLaw(0.0, 1.0, slope=0.5), False)):
        f = QuadraticEnergy((0.0, 1.0))

        def nll(f: QuadraticEnergy = f, law: GaussianLaw = law) -> torch.Tensor:
            # L-BFGS compares values, so give it the likelihood: the surrogate's gradient with the value of `nll`.
            out = objective.loss(f, x, q=law, z=z, state=objective.initial_state())
            return out.surrogate - out.surrogate.detach() + out.nll

        minimise(nll, [f.theta])
        mean, std = f.mean_std
        assert (abs(mean - 1.0) < 1e-2 and abs(std - 0.5) < 1e-2) == found


def test_two_noise_samples_without_memory_are_biased() -> None:
    """The expected SNIS gradient, over all pairs of noise, is not 0 at the truth; with u = Z it is."""
    pairs = torch.tensor(list(product(Q.population[:, 0].tolist(), repeat=2)), dtype=torch.float64).unsqueeze(-1)
    x, truth = P.population.expand(len(pairs), -1, -1), P.log_p + 0.7
    gradients = {}
    for name, gamma, log_u in (("snis", 1.0, math.nan), ("known Z", 1e-12, 0.7)):
        f, objective = TableEnergy(truth), MECO(MECOConfig(gamma=gamma))
        state = MECOState(step=1, log_u=torch.full((len(pairs),), log_u, dtype=torch.float64))
        out = objective.loss(f, x, q=Q, z=pairs, state=state)
        (gradients[name],) = torch.autograd.grad(out.surrogate / len(pairs), f.table)
    assert float(gradients["known Z"].abs().max()) < 1e-9
    assert float(gradients["snis"].abs().max()) > 0.05


def fit_with_few_samples(gamma: float) -> float:
    """Total variation after 2000 steps with 2 noise samples a step, learning rates falling to 0."""
    rng = torch.Generator().manual_seed(0)
    f, objective = TableEnergy(torch.zeros(4)), MECO(MECOConfig(gamma=gamma))
    state = objective.initial_state()
    optimiser = torch.optim.SGD(f.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 2000)
    for _ in range(2000):
        out = objective.loss(f, P.population, q=Q, z=Q.sample(2, rng=rng), state=state)
        state = out.state
        optimiser.zero_grad()
        out.surrogate.backward()
        optimiser.step()
        schedule.step()
    return 0.5 * float((torch.softmax(f.table.detach(), 0) - P.log_p.exp()).abs().sum())


@pytest.mark.long
def test_the_moving_average_repairs_what_two_samples_break() -> None:
    assert fit_with_few_samples(0.05) < 0.03
    assert fit_with_few_samples(1.0) > 0.1  # SNIS: the negative control


@pytest.mark.parametrize("correction", ["none", "storm", "ratio"])
def test_a_resumed_run_continues_to_the_bit(correction: str) -> None:
    def run(steps: int, f: TableEnergy, state: MECOState, rng: torch.Generator) -> MECOState:
        for _ in range(steps):
            out = objective.loss(f, P.population, q=Q, z=Q.sample(3, rng=rng), state=state)
            state = out.state
            (gradient,) = torch.autograd.grad(out.surrogate, f.table)
            with torch.no_grad():
                f.table -= 0.1 * gradient
        return state

    objective = MECO(MECOConfig(gamma=0.3, correction=correction))  # type: ignore[arg-type]
    f, rng = TableEnergy(torch.zeros(4)), torch.Generator().manual_seed(1)
    state = run(5, f, objective.initial_state(), rng)
    copy, resumed = TableEnergy(f.table.detach()), objective.initial_state()
    resumed.load_state_dict(state.state_dict())
    again = torch.Generator()
    again.set_state(rng.get_state())
    first, second = run(5, f, state, rng), run(5, copy, resumed, again)
    assert torch.equal(f.table, copy.table)
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert ("previous.table" in a) == (correction != "none")


def test_storm_and_ratio_use_the_previous_model_on_the_new_noise() -> None:
    z_1, z_2 = Q.population[:4], Q.population[5:]
    old, new = TableEnergy(torch.tensor([0.1, 0.2, 0.3, 0.4])), TableEnergy(torch.tensor([1.0, -1.0, 0.5, 0.0]))
    last = TableEnergy(torch.tensor([0.0, 0.7, 0.2, -0.3]))

    def lm(f: TableEnergy, z: torch.Tensor) -> torch.Tensor:
        return (torch.logsumexp(f(z) - Q.log_prob(z), 0) - math.log(len(z))).detach()

    for correction, formula in (("storm", storm_log), ("ratio", lambda *a: ratio_log(*a, 5.0))):
        objective = MECO(MECOConfig(gamma=0.3, correction=correction))  # type: ignore[arg-type]
        state = objective.loss(old, P.population, q=Q, z=z_1, state=objective.initial_state()).state
        second = objective.loss(new, P.population, q=Q, z=z_2, state=state).state
        assert torch.allclose(second.log_u, formula(lm(old, z_1), lm(new, z_2), lm(old, z_2), 0.3))
        # A third step compares with the second model, not with the first.
        log_u = objective.loss(last, P.population, q=Q, z=z_1, state=second).state.log_u
        assert torch.allclose(log_u, formula(second.log_u, lm(last, z_1), lm(new, z_1), 0.3))
        with pytest.raises(RlcError, match=r"needs f to be an nn.Module"):
            objective.loss(lambda x: x[..., 0], P.population, q=Q, z=z_1, state=objective.initial_state())


def test_leading_axes_are_separate_problems() -> None:
    rng = torch.Generator().manual_seed(0)
    f, objective = TableEnergy(torch.tensor([0.3, -0.4, 0.8, 0.1])), MECO(MECOConfig(gamma=0.3))
    x, z = P.sample(15, rng=rng).reshape(3, 5, 1), Q.sample(12, rng=rng).reshape(3, 4, 1)
    log_u = torch.tensor([0.1, 0.2, math.nan], dtype=torch.float64)
    whole = objective.loss(f, x, q=Q, z=z, state=MECOState(log_u=log_u))
    total = 0.0
    for i in range(3):
        part = objective.loss(f, x[i], q=Q, z=z[i], state=MECOState(log_u=log_u[i]))
        assert torch.allclose(whole.nll[i], part.nll)
        assert torch.allclose(whole.ess[i], part.ess)
        assert torch.allclose(whole.state.log_u[i], part.state.log_u)
        total += float(part.surrogate.detach())
    assert float(whole.surrogate.detach()) == pytest.approx(total)
    with pytest.raises(RlcError, match="the state is for problems"):
        objective.loss(f, x, q=Q, z=z, state=objective.initial_state())


def test_impossible_options_are_refused() -> None:
    for gamma in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(RlcError, match=r"gamma must lie in \(0, 1\]"):
            MECOConfig(gamma=gamma)
    for options in ({"correction": "stormm"}, {"max_drift": 0.0}, {"noise_per_datum": 0}):
        with pytest.raises(RlcError):
            MECOConfig(**options)  # type: ignore[arg-type]
