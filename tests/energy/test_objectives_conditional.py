"""Conditional MECO: the table and the d-vector against exact likelihood, duplicates, bounds, what SNIS gets wrong."""

from __future__ import annotations

import math

import pytest
import torch
from energy_laws import finite_difference
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_contrastive.energy.conditional import (
    ConditionalMECOConfig,
    KeyedMECO,
    LogUState,
    LowRankMECO,
    log_mean_by_key,
)
from rl_contrastive.errors import RlcError

# Three contexts, four successors: P(s'|context) of rank 2 and the noise law q.
PHI = torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]], dtype=torch.float64)
PSI = torch.tensor([[0.6, 0.1], [0.2, 0.1], [0.1, 0.3], [0.1, 0.5]], dtype=torch.float64)  # columns are laws of s'
P = PHI @ PSI.T
LAW = torch.tensor([0.25, 0.25, 0.3, 0.2], dtype=torch.float64)
JOINT = P / 3  # weights of the pairs (context, s')
KEYS = torch.arange(3)


def exact_nll(scores: torch.Tensor) -> torch.Tensor:
    """-E f + E log sum_s' q(s') e^f of the table of scores (3, 4)."""
    return torch.logsumexp(scores + LAW.log(), -1).mean() - (JOINT * scores).sum()


def test_mean_by_key_by_hand_for_scores_of_any_size() -> None:
    values = torch.tensor([math.log(2.0), 1e4, math.log(6.0), 1e4 + math.log(3.0)], dtype=torch.float64)
    weight = torch.tensor([0.3, 0.2, 0.1, 0.4], dtype=torch.float64)
    means = log_mean_by_key(values, weight, torch.tensor([1, 0, 1, 0]), 2)
    assert float(means[1]) == pytest.approx(math.log((0.3 * 2 + 0.1 * 6) / 0.4), abs=1e-12)
    assert float(means[0]) == pytest.approx(1e4 + math.log((0.2 + 0.4 * 3) / 0.6), abs=1e-8)


def test_duplicates_enter_the_moving_average_once_as_their_mean() -> None:
    objective = KeyedMECO(3, ConditionalMECOConfig(gamma=0.25))
    neg = torch.tensor([[2.0, 4.0], [1.0, 1.0], [6.0, 8.0]], dtype=torch.float64).log()
    keys, pos = torch.tensor([0, 1, 0]), torch.tensor([[0.5], [0.1], [0.2]], dtype=torch.float64)
    log_u = torch.tensor([math.log(9.0), math.nan, math.nan], dtype=torch.float64)
    out = objective.loss(pos, neg, keys=keys, state=LogUState(log_u=log_u))
    # Key 0: rows with means 3 and 7 average to 5; u = .75 * 9 + .25 * 5 = 8 (two updates in turn would give 7.375).
    assert float(out.state.log_u[0]) == pytest.approx(math.log(8.0), abs=1e-12)
    assert float(out.state.log_u[1]) == pytest.approx(0.0, abs=1e-12)  # first visit: the batch's own estimate
    assert math.isnan(float(out.state.log_u[2]))  # not visited
    assert float(out.nll) == pytest.approx((2 * math.log(8.0) + 0.0) / 3 - 0.8 / 3, abs=1e-12)
    order = torch.tensor([2, 0, 1])
    again = objective.loss(pos[order], neg[order], keys=keys[order], state=LogUState(log_u=log_u))
    assert torch.allclose(out.state.log_u, again.state.log_u, equal_nan=True, atol=1e-14)
    assert math.isnan(float(log_u[1]))  # the state handed in is left alone


def test_table_with_the_whole_law_and_gamma_one_is_exact_likelihood() -> None:
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    objective = KeyedMECO(3, ConditionalMECOConfig(gamma=1.0))
    out = objective.loss(
        scores,
        scores,
        keys=KEYS,
        state=objective.initial_state(),
        pos_weight=JOINT,
        noise_weight=LAW.expand(3, 4),
    )
    assert float(out.nll) == pytest.approx(float(exact_nll(scores.detach())), abs=1e-12)
    (gradient,) = torch.autograd.grad(out.surrogate, scores)
    assert torch.allclose(gradient, torch.autograd.grad(exact_nll(scores), scores)[0], atol=1e-14)
    assert torch.allclose(gradient, finite_difference(lambda: float(exact_nll(scores)), scores), atol=1e-8)


def low_rank(log_phi: torch.Tensor, log_psi: torch.Tensor) -> torch.Tensor:
    return torch.logsumexp(log_phi.unsqueeze(1) + log_psi, -1)  # (3, 4)


def test_vector_with_the_whole_law_is_the_exact_partition() -> None:
    rng = torch.Generator().manual_seed(0)
    log_phi = torch.randn(3, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    log_psi = torch.randn(4, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    for gamma in (1.0, 0.1):
        objective = LowRankMECO(2, ConditionalMECOConfig(gamma=gamma))
        out = objective.loss(
            low_rank(log_phi, log_psi),
            log_phi,
            log_psi,
            state=objective.initial_state(),
            pos_weight=JOINT,
            noise_weight=LAW,
        )
        exact = torch.logsumexp(low_rank(log_phi, log_psi) + LAW.log(), -1).detach()
        assert torch.allclose(objective.log_partition(log_phi.detach(), out.state), exact, atol=1e-13)
        nll = exact_nll(low_rank(log_phi, log_psi))
        assert float(out.nll) == pytest.approx(float(nll.detach()), abs=1e-12)
        for got, expected in zip(
            torch.autograd.grad(out.surrogate, (log_phi, log_psi)),
            torch.autograd.grad(nll, (log_phi, log_psi)),
            strict=True,
        ):
            assert torch.allclose(got, expected, atol=1e-13)


def test_vector_gradient_agrees_with_finite_differences_with_u_held() -> None:
    rng = torch.Generator().manual_seed(3)
    log_phi = torch.randn(3, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    log_psi = torch.randn(4, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    objective = LowRankMECO(2, ConditionalMECOConfig(gamma=0.2))
    state = LogUState(step=1, log_u=torch.tensor([0.3, -0.2], dtype=torch.float64))
    rows = torch.tensor([1, 3])  # two noise samples
    out = objective.loss(low_rank(log_phi, log_psi), log_phi, log_psi[rows], state=state, pos_weight=JOINT)
    held = torch.logsumexp(log_phi.detach() + out.state.log_u, -1)

    def value() -> float:
        scores = low_rank(log_phi, log_psi)
        estimate = scores[:, rows].exp().mean(-1)
        return float((estimate / held.exp()).mean() - (JOINT * scores).sum())

    for parameter, gradient in zip(
        (log_phi, log_psi), torch.autograd.grad(out.surrogate, (log_phi, log_psi)), strict=True
    ):
        assert torch.allclose(gradient, finite_difference(value, parameter), atol=1e-8)


def test_effective_sample_size_by_hand() -> None:
    log_phi, log_psi = torch.zeros(1, 1), torch.tensor([[0.0], [math.log(3.0)]])
    out = LowRankMECO(1).loss(torch.zeros(1, 1), log_phi, log_psi, state=LowRankMECO(1).initial_state())
    assert float(out.ess) == pytest.approx(16 / 10, rel=1e-6)
    neg = torch.tensor([[0.0, math.log(3.0)]])
    out = KeyedMECO(1).loss(torch.zeros(1, 1), neg, keys=KEYS[:1], state=KeyedMECO(1).initial_state())
    assert float(out.ess) == pytest.approx(16 / 10, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1e-3, 1.0),
    st.lists(st.lists(st.floats(-1e4, 1e4), min_size=6, max_size=6), min_size=1, max_size=4),
    st.lists(st.integers(0, 1), min_size=3, max_size=3),
)
def test_weights_never_exceed_one_over_gamma(gamma: float, batches: list[list[float]], keys: list[int]) -> None:
    config = ConditionalMECOConfig(gamma=gamma)
    table, vector = KeyedMECO(2, config), LowRankMECO(2, config)
    states, pos = [table.initial_state(), vector.initial_state()], torch.zeros(3, 1)
    for batch in batches:
        scores = torch.tensor(batch, dtype=torch.float64).reshape(3, 2).requires_grad_()
        outcomes = [
            table.loss(pos, scores, keys=torch.tensor(keys), state=states[0]),
            vector.loss(pos, scores, -scores, state=states[1]),
        ]
        for out in outcomes:
            assert 0.0 <= float(out.diagnostics["weight"]) <= (1.0 / gamma) * (1.0 + 1e-9)
            (gradient,) = torch.autograd.grad(out.surrogate, scores)
            assert bool(torch.isfinite(gradient).all())
        states = [out.state for out in outcomes]


def fit_table(gamma: float, noise: int) -> float:
    """Mean total variation after 1200 steps on exact data with `noise` fresh draws of q for each context and step."""
    rng = torch.Generator().manual_seed(0)
    scores = torch.nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))
    objective = KeyedMECO(3, ConditionalMECOConfig(gamma=gamma))
    state = objective.initial_state()
    optimiser = torch.optim.SGD([scores], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1200)
    for _ in range(1200):
        z = torch.multinomial(LAW, 3 * noise, replacement=True, generator=rng).reshape(3, noise)
        out = objective.loss(scores, scores.gather(1, z), keys=KEYS, state=state, pos_weight=JOINT)
        state = out.state
        optimiser.zero_grad()
        out.surrogate.backward()
        optimiser.step()
        schedule.step()
    model = torch.softmax(scores.detach() + LAW.log(), -1)
    return 0.5 * float((model - P).abs().sum(-1).mean())


@pytest.mark.long
def test_the_table_repairs_what_two_samples_break() -> None:
    assert fit_table(0.05, noise=2) < 0.03
    assert fit_table(1.0, noise=2) > 0.1  # SNIS: the negative control


def fit_vector(gamma: float, noise: int) -> tuple[float, float]:
    """(mean total variation, largest |log Z from u - exact log Z|) with `noise` shared draws of q a step."""
    rng = torch.Generator().manual_seed(0)
    log_phi = torch.nn.Parameter(0.1 * torch.randn(3, 2, generator=rng, dtype=torch.float64))
    log_psi = torch.nn.Parameter(0.1 * torch.randn(4, 2, generator=rng, dtype=torch.float64))
    objective = LowRankMECO(2, ConditionalMECOConfig(gamma=gamma))
    state = objective.initial_state()
    optimiser = torch.optim.Adam([log_phi, log_psi], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1200)
    for _ in range(1200):
        z = torch.multinomial(LAW, noise, replacement=True, generator=rng)
        out = objective.loss(low_rank(log_phi, log_psi), log_phi, log_psi[z], state=state, pos_weight=JOINT)
        state = out.state
        optimiser.zero_grad()
        out.surrogate.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        joint = low_rank(log_phi, log_psi) + LAW.log()
        log_z = torch.logsumexp(joint, -1)
        error = float((objective.log_partition(log_phi, state) - log_z).abs().max())
        return 0.5 * float((torch.exp(joint - log_z.unsqueeze(-1)) - P).abs().sum(-1).mean()), error


@pytest.mark.long
def test_sixteen_shared_samples_suffice_for_every_context() -> None:
    distance, error = fit_vector(0.1, noise=16)
    assert distance < 0.03
    assert error < 0.15
    assert fit_vector(1.0, noise=2)[0] > 0.1  # without memory, and with few samples: the negative control


def test_rows_of_weight_zero_do_not_count_whatever_they_hold() -> None:
    table, vector = KeyedMECO(3), LowRankMECO(2)
    pos, weight = torch.tensor([[0.1], [math.nan], [0.3]]), torch.tensor([[0.4], [0.0], [0.6]])
    neg = torch.tensor([[0.1, 0.2], [math.nan, 1e30], [0.5, 0.7]])
    kept = torch.tensor([0, 2])
    whole = table.loss(pos, neg, keys=KEYS, state=table.initial_state(), pos_weight=weight)
    part = table.loss(pos[kept], neg[kept], keys=KEYS[kept], state=table.initial_state(), pos_weight=weight[kept])
    assert torch.equal(whole.nll, part.nll)
    assert torch.equal(whole.state.log_u[kept], part.state.log_u[kept])
    assert math.isnan(float(whole.state.log_u[1]))
    whole = vector.loss(pos, neg, torch.zeros(5, 2), state=vector.initial_state(), pos_weight=weight)
    part = vector.loss(pos[kept], neg[kept], torch.zeros(5, 2), state=vector.initial_state(), pos_weight=weight[kept])
    assert torch.equal(whole.surrogate, part.surrogate)


def test_state_survives_to_the_bit() -> None:
    objective = KeyedMECO(3)
    neg = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    state = objective.loss(neg[:, :1], neg, keys=KEYS[:2], state=objective.initial_state()).state
    resumed = objective.initial_state()
    resumed.load_state_dict(state.state_dict())
    assert resumed.step == 1
    assert resumed.log_u.numpy().tobytes() == state.log_u.numpy().tobytes()
    with pytest.raises(RlcError, match=r"saved log_u is torch.float64 \(3,\), expected torch.float64 \(2,\)"):
        KeyedMECO(2).initial_state().load_state_dict(state.state_dict())


def test_wrong_inputs_are_refused_in_plain_words() -> None:
    table, vector, one = KeyedMECO(2), LowRankMECO(2), torch.zeros(2, 1)
    bad = torch.tensor([[math.inf, 0.0], [0.0, math.nan]])

    def with_table(**changed: torch.Tensor) -> None:
        table.loss(
            **({"pos": one, "neg": torch.zeros(2, 2), "keys": KEYS[:2], "state": table.initial_state()} | changed)
        )

    def with_vector(**changed: torch.Tensor) -> None:
        given_ = {
            "pos": one,
            "log_phi": torch.zeros(2, 2),
            "log_psi": torch.zeros(5, 2),
            "state": vector.initial_state(),
        }
        vector.loss(**(given_ | changed))

    with_table()
    with_vector()
    for call, changed, sentence in (
        (with_table, {"neg": bad}, "meco-keyed: 2 of 4 scores of the noise are NaN or infinite at step 0"),
        (with_table, {"pos": one * math.nan}, "meco-keyed: 2 of 2 scores of the data"),
        (with_table, {"keys": torch.tensor([0, 2])}, "keys must lie in 0 .. 1, got 0 .. 2"),
        (with_table, {"keys": KEYS}, "must agree in N"),
        (with_table, {"pos_weight": one + 1.0}, "pos_weight must be >= 0 and sum to 1"),
        (with_table, {"noise_weight": torch.ones(2, 2)}, "noise_weight must be >= 0 and sum to 1"),
        (with_vector, {"log_phi": bad}, "meco-low-rank: 2 of 4 entries of log phi"),
        (with_vector, {"log_psi": torch.zeros(5, 3)}, "log_psi"),
        (with_vector, {"noise_weight": torch.ones(4) / 4}, r"noise_weight must be \(5,\), got \(4,\)"),
    ):
        with pytest.raises(RlcError, match=sentence):
            call(**changed)
    with pytest.raises(RlcError, match="before the first step"):
        vector.log_partition(torch.zeros(2, 2), vector.initial_state())
    for gamma in (0.0, 1.5):
        with pytest.raises(RlcError, match="gamma must lie"):
            ConditionalMECOConfig(gamma=gamma)
