"""MECO on scores and on log factors: exact likelihood, duplicates, bounds, and where a batch's own partition fails."""

from __future__ import annotations

import math

import pytest
import torch
from energy_laws import finite_difference
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_contrastive.objectives import make
from rl_contrastive.objectives.base import Contrast, Objective, Sizes, State
from rl_contrastive.objectives.compositional import log_mean_by_key

# Three contexts, four successors: P(s'|context) of rank 2 and the noise law q.
PHI = torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]], dtype=torch.float64)
PSI = torch.tensor([[0.6, 0.1], [0.2, 0.1], [0.1, 0.3], [0.1, 0.5]], dtype=torch.float64)  # columns are laws of s'
P = PHI @ PSI.T
LAW = torch.tensor([0.25, 0.25, 0.3, 0.2], dtype=torch.float64)
JOINT = P / 3  # weights of the pairs (context, s')
SIZES = Sizes(levels=1, anchors=3, dim=2)


def step(
    objective: Objective,
    state: State,
    pos: torch.Tensor,
    *,
    neg: torch.Tensor | None = None,
    factors: tuple[torch.Tensor, torch.Tensor] | None = None,
    pos_weight: torch.Tensor = JOINT,
    law: torch.Tensor | None = None,
    ids: torch.Tensor | None = None,
) -> tuple[torch.Tensor, State]:
    """Loss and new state of one problem: negatives by scores (N, M) of each row, or by the factors of shared ones."""
    shown = neg if factors is None else factors[1][:, 0]
    assert shown is not None
    law = torch.full_like(shown, 1.0 / shown.shape[-1], dtype=torch.float64) if law is None else law
    batch = Contrast(
        pos=lambda _: pos[None],
        neg=lambda _: neg[None],
        log_phi=lambda: factors[0][None],
        log_psi=lambda: factors[1][None],
        pos_weight=pos_weight[None],
        law=law[None],
        ids=None if ids is None else ids[None],
    )
    result, state = objective.step(batch, state)
    return result.loss[0], state


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
    objective = make("meco-keyed", {"gamma": 0.25})
    neg = torch.tensor([[2.0, 4.0], [1.0, 1.0], [6.0, 8.0]], dtype=torch.float64).log()
    ids, pos = torch.tensor([0, 1, 0]), torch.tensor([[0.5], [0.1], [0.2]], dtype=torch.float64)
    before = {"log_u": torch.tensor([[math.log(9.0), math.nan, math.nan]], dtype=torch.float64)}
    weight = torch.full_like(pos, 1 / 3)
    _, after = step(objective, before, pos, neg=neg, pos_weight=weight, ids=ids)
    # Key 0: rows with means 3 and 7 average to 5; u = .75 * 9 + .25 * 5 = 8 (two updates in turn would give 7.375).
    assert float(after["log_u"][0, 0]) == pytest.approx(math.log(8.0), abs=1e-12)
    assert float(after["log_u"][0, 1]) == pytest.approx(0.0, abs=1e-12)  # first visit: the batch's own estimate
    assert math.isnan(float(after["log_u"][0, 2]))  # not visited
    order = torch.tensor([2, 0, 1])
    _, again = step(objective, before, pos[order], neg=neg[order], pos_weight=weight, ids=ids[order])
    torch.testing.assert_close(after["log_u"], again["log_u"], equal_nan=True, atol=1e-14, rtol=0)
    assert math.isnan(float(before["log_u"][0, 1]))  # the state handed in is left alone


def test_table_with_the_whole_law_and_gamma_one_is_exact_likelihood() -> None:
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    objective = make("meco-keyed", {"gamma": 1.0})
    loss, state = step(objective, objective.initial(SIZES), scores, neg=scores, law=LAW.expand(3, 4))
    torch.testing.assert_close(state["log_u"][0], torch.logsumexp(scores.detach() + LAW.log(), -1))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert torch.allclose(gradient, torch.autograd.grad(exact_nll(scores), scores)[0], atol=1e-14)
    assert torch.allclose(gradient, finite_difference(lambda: float(exact_nll(scores)), scores), atol=1e-8)


def low_rank(log_phi: torch.Tensor, log_psi: torch.Tensor) -> torch.Tensor:
    return torch.logsumexp(log_phi.unsqueeze(1) + log_psi, -1)  # (3, 4)


def random_factors(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    phi, psi = (torch.randn(n, 2, generator=rng, dtype=torch.float64, requires_grad=True) for n in (3, 4))
    return phi, psi


def test_vector_with_the_whole_law_is_the_exact_partition() -> None:
    log_phi, log_psi = random_factors(0)
    for gamma in (1.0, 0.1):
        objective, scores = make("meco", {"gamma": gamma}), low_rank(log_phi, log_psi)
        loss, state = step(objective, objective.initial(SIZES), scores, factors=(log_phi, log_psi), law=LAW)
        exact = torch.logsumexp(scores + LAW.log(), -1)
        torch.testing.assert_close(torch.logsumexp(log_phi + state["log_u"], -1), exact)
        nll = exact_nll(low_rank(log_phi, log_psi))
        expected = torch.autograd.grad(nll, (log_phi, log_psi))
        for got, want in zip(torch.autograd.grad(loss, (log_phi, log_psi)), expected, strict=True):
            assert torch.allclose(got, want, atol=1e-13)


def test_vector_gradient_agrees_with_finite_differences_with_u_held() -> None:
    log_phi, log_psi = random_factors(3)
    state = {"log_u": torch.tensor([[0.3, -0.2]], dtype=torch.float64)}
    rows = torch.tensor([1, 3])  # two noise samples
    objective, scores = make("meco", {"gamma": 0.2}), low_rank(log_phi, log_psi)
    loss, after = step(objective, state, scores, factors=(log_phi, log_psi[rows]))
    held = torch.logsumexp(log_phi.detach() + after["log_u"], -1)

    def value() -> float:
        scores = low_rank(log_phi, log_psi)
        estimate = scores[:, rows].exp().mean(-1)
        return float((estimate / held.exp()).mean() - (JOINT * scores).sum())

    for parameter, gradient in zip((log_phi, log_psi), torch.autograd.grad(loss, (log_phi, log_psi)), strict=True):
        assert torch.allclose(gradient, finite_difference(value, parameter), atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1e-3, 1.0),
    st.lists(st.lists(st.floats(-1e4, 1e4), min_size=6, max_size=6), min_size=1, max_size=4),
    st.lists(st.integers(0, 1), min_size=3, max_size=3),
)
def test_weights_never_exceed_one_over_gamma(gamma: float, batches: list[list[float]], keys: list[int]) -> None:
    table, vector = (make(name, {"gamma": gamma}) for name in ("meco-keyed", "meco"))
    states, pos = [table.initial(SIZES), vector.initial(SIZES)], torch.zeros(3, 1, dtype=torch.float64)
    weight = torch.full_like(pos, 1 / 3)
    for batch in batches:
        scores = torch.tensor(batch, dtype=torch.float64).reshape(3, 2).requires_grad_()
        outcomes = [
            step(table, states[0], pos, neg=scores, pos_weight=weight, ids=torch.tensor(keys)),
            step(vector, states[1], pos, factors=(scores, -scores), pos_weight=weight),
        ]
        for loss, _ in outcomes:  # the scores of the data are 0
            assert 0.0 <= float(loss.detach()) <= (1.0 / gamma) * (1.0 + 1e-9)
            (gradient,) = torch.autograd.grad(loss, scores)
            assert bool(torch.isfinite(gradient).all())
        states = [state for _, state in outcomes]


def fit_table(gamma: float, noise: int) -> float:
    """Mean total variation after 1200 steps on exact data with `noise` fresh draws of q for each context and step."""
    rng = torch.Generator().manual_seed(0)
    scores = torch.nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))
    objective = make("meco-keyed", {"gamma": gamma})
    state = objective.initial(SIZES)
    optimiser = torch.optim.SGD([scores], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1200)
    for _ in range(1200):
        z = torch.multinomial(LAW, 3 * noise, replacement=True, generator=rng).reshape(3, noise)
        loss, state = step(objective, state, scores, neg=scores.gather(1, z))
        optimiser.zero_grad()
        loss.backward()
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
    objective = make("meco", {"gamma": gamma})
    state = objective.initial(SIZES)
    optimiser = torch.optim.Adam([log_phi, log_psi], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1200)
    for _ in range(1200):
        z = torch.multinomial(LAW, noise, replacement=True, generator=rng)
        loss, state = step(objective, state, low_rank(log_phi, log_psi), factors=(log_phi, log_psi[z]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        joint = low_rank(log_phi, log_psi) + LAW.log()
        log_z = torch.logsumexp(joint, -1)
        error = float((torch.logsumexp(log_phi + state["log_u"], -1) - log_z).abs().max())
        return 0.5 * float((torch.exp(joint - log_z.unsqueeze(-1)) - P).abs().sum(-1).mean()), error


@pytest.mark.long
def test_sixteen_shared_samples_suffice_for_every_context() -> None:
    distance, error = fit_vector(0.1, noise=16)
    assert distance < 0.03
    assert error < 0.15
    assert fit_vector(1.0, noise=2)[0] > 0.1  # without memory, and with few samples: the negative control
