"""iSogCLR: published values of one step, its gradient, what its temperatures settle at, and its memory of anchors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from score_tables import LAW, ROWS, P, two_views, wave
from torch import Tensor

from rl_contrastive.objectives import make
from rl_contrastive.objectives.base import Contrast, Sizes, Space, State

SIZES = Sizes(levels=1, anchors=4, dim=3)


def batch_of(pos: Tensor, neg: Tensor, *, w: Tensor | None = None, law: Tensor | None = None, ids: Any = None):
    """One problem: pos (N, K), neg (N, M)."""

    def none() -> Tensor:
        raise AssertionError("scores alone are needed")

    def scores(x: Tensor) -> Any:
        return lambda space: {"log": x[None]}[space]

    w = torch.full_like(pos, 1.0 / pos.numel()) if w is None else w
    law = torch.full_like(neg, 1.0 / neg.shape[-1]) if law is None else law
    ids = None if ids is None else torch.as_tensor(ids)[None]
    return Contrast(scores(pos), scores(neg), none, none, w[None], law[None], ids)


def two_sided() -> Contrast:
    """Both views of 4 instances as anchors: rows i and 4 + i belong to instance i."""
    (pos, ours), (a, b) = two_views(), (wave(4, 3, 0), wave(4, 3, 0.3))
    off = ~torch.eye(4, dtype=torch.bool)
    theirs = torch.cat([(b @ x.T)[off].reshape(4, -1) for x in (a, b)], dim=1)
    return batch_of(torch.cat([pos, pos]), torch.cat([ours, theirs]), ids=[0, 1, 2, 3] * 2)


@pytest.mark.parametrize("form", ["s", "h"])
def test_golden_values(form: str) -> None:
    """The published loss is the sum of both sides, so twice the mean of all rows."""
    objective = make("isogclr", {"form": form})
    result, state = objective.step(two_sided(), objective.initial(SIZES))
    assert 2.0 * float(result.loss) == pytest.approx(0.004393, abs=1e-5)
    expected = torch.tensor([[0.107964, 0.108003, 0.107934, 0.107968]]).double()
    torch.testing.assert_close(state["tau"], expected, atol=1e-5, rtol=0)
    assert all(value.dtype == torch.float64 and not value.requires_grad for value in state.values())


def test_a_first_step_has_the_gradient_of_the_tempered_loss() -> None:
    """tau log E e^{(s - s+)/tau}, whatever the weights."""
    g = torch.Generator().manual_seed(0)
    pos, neg = (torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_() for shape in ((4, 2), (4, 5)))
    w, v = (torch.rand(x.shape, generator=g, dtype=torch.float64) for x in (pos, neg))
    w, v = w / w.sum(), v / v.sum(-1, keepdim=True)
    objective = make("isogclr", {"tau_0": 0.3})
    loss = objective.step(batch_of(pos, neg, w=w, law=v), objective.initial(SIZES))[0].loss.sum()
    exact = -(w * pos).sum() + (w.sum(-1) * 0.3 * torch.logsumexp(neg / 0.3 + v.log(), -1)).sum()
    for a, b in zip(*(torch.autograd.grad(x, (pos, neg)) for x in (loss, exact)), strict=True):
        torch.testing.assert_close(a, b)


def test_the_loss_without_a_state_has_the_best_temperatures() -> None:
    """F is the smallest over a grid, and KL(p || P^-) = rho where the bounds do not bind."""
    g = torch.Generator().manual_seed(1)
    neg, v = torch.randn((50, 6), generator=g, dtype=torch.float64), torch.full((50, 6), 1 / 6, dtype=torch.float64)
    objective = make("isogclr", {"tau_min": 0.1, "tau_max": 3.0, "tau_0": 1.0})
    tau = objective.best_temperature(neg, v)

    def F(t: Tensor) -> Tensor:
        return t * (torch.logsumexp(neg / t[:, None] + v.log(), -1) + 0.3)

    grid = torch.linspace(0.1, 3.0, 300).double()
    assert all(bool((F(tau) <= F(t.expand(50)) + 1e-9).all()) for t in grid)
    p = torch.softmax(neg / tau[:, None] + v.log(), -1)
    kl = (p * (p / v).log()).sum(-1)
    free = (tau > 0.1001) & (tau < 2.999)
    assert int(free.sum()) > 20
    assert float((kl[free] - 0.3).abs().max()) < 1e-6


def test_learned_temperatures_reach_the_best_ones() -> None:
    g = torch.Generator().manual_seed(2)
    pos, neg = torch.zeros(4, 1, dtype=torch.float64), torch.randn((4, 6), generator=g, dtype=torch.float64)
    objective = make("isogclr", {"tau_min": 0.1, "tau_max": 3.0, "tau_0": 0.5, "eta": 0.05})
    state, batch = objective.initial(SIZES), batch_of(pos, neg)
    for _ in range(600):
        state = objective.step(batch, state)[1]
    best = objective.best_temperature(neg, torch.full_like(neg, 1 / 6))
    torch.testing.assert_close(state["tau"][0], best, atol=1e-3, rtol=0)


@pytest.mark.parametrize("form", ["s", "h"])
def test_descent_with_fixed_temperatures_ends_at_the_tempered_ratio(form: str) -> None:
    objective = make("isogclr", {"tau_0": 0.5, "eta": 0.0, "form": form})
    s = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([s], lr=0.02)
    fall = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.995)
    state = objective.initial(SIZES)
    for _ in range(1500):
        optimiser.zero_grad()
        batch = batch_of(s, s, w=ROWS[:, None] * P, law=LAW.expand(4, 4))
        result, state = objective.step(batch, state)
        result.loss.sum().backward()
        optimiser.step()
        fall.step()
    found, wanted = (x - x.mean(-1, keepdim=True) for x in (s.detach(), 0.5 * (P / LAW).log()))
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)


def test_first_visits_are_told_apart_for_each_anchor() -> None:
    """As published, one old anchor in a batch lets new ones start at (1 - gamma) 0."""
    objective = make("isogclr", {"gamma": 0.25})
    pos, neg = two_views()
    _, state = objective.step(batch_of(pos[:2], neg[:2], ids=[1, 3]), objective.initial(SIZES))
    assert state["log_u"].isnan().tolist() == [[True, False, True, False]]
    assert state["tau"][0, [0, 2]].tolist() == [0.1, 0.1]
    _, mixed = objective.step(batch_of(pos, neg + 1.0, ids=[0, 1, 2, 3]), state)
    _, alone = objective.step(batch_of(pos, neg + 1.0, ids=[0, 1, 2, 3]), objective.initial(SIZES))
    assert torch.equal(mixed["log_u"][:, [0, 2]], alone["log_u"][:, [0, 2]])
    assert not torch.allclose(mixed["log_u"][:, [1, 3]], alone["log_u"][:, [1, 3]])


def test_rows_of_weight_0_leave_loss_and_state_alone() -> None:
    objective = make("isogclr")
    pos, neg = two_views()
    w = torch.tensor([[0.25], [0.25], [0.5]]).double()
    result, state = objective.step(batch_of(pos[:3], neg[:3], w=w, ids=[0, 1, 2]), objective.initial(SIZES))
    more = torch.cat([pos[:3], torch.full((2, 1), 1e4).double()]), torch.cat([neg[:3], torch.full((2, 6), -1e4)])
    padded = batch_of(*more, w=torch.cat([w, torch.zeros(2, 1)]), ids=[0, 1, 2, 2, 3])
    other, padded_state = objective.step(padded, objective.initial(SIZES))
    torch.testing.assert_close(other.loss, result.loss)
    for name, value in state.items():
        assert torch.equal(value, padded_state[name]) or torch.equal(value.isnan(), padded_state[name].isnan())
        assert torch.equal(value[:, :3], padded_state[name][:, :3])


def test_overwritten_slots_begin_anew_and_others_stay() -> None:
    objective = make("isogclr")
    _, state = objective.step(two_sided(), objective.initial(SIZES))
    after = objective.reset(state, SIZES, torch.tensor([1]))
    assert bool(after["log_u"][0, 1].isnan())
    assert after["tau"][0, 1] == 0.1
    assert after["m"][0, 1] == 0.0
    for name, value in state.items():
        assert torch.equal(after[name][:, [0, 2, 3]], value[:, [0, 2, 3]])


def test_a_stored_state_goes_on_to_the_byte() -> None:
    objective = make("isogclr")

    def run(state: State, steps: range) -> State:
        for k in steps:
            pos, neg = two_views()
            state = objective.step(batch_of(pos, neg * (1 + 0.1 * k), ids=[k % 4, 1, 2, 1]), state)[1]
        return state

    whole = run(objective.initial(SIZES), range(6))
    stored = {name: value.numpy().tobytes() for name, value in run(objective.initial(SIZES), range(3)).items()}
    loaded = {
        name: torch.frombuffer(bytearray(data), dtype=torch.float64).reshape(1, 4) for name, data in stored.items()
    }
    resumed = run(loaded, range(3, 6))
    assert all(whole[name].numpy().tobytes() == resumed[name].numpy().tobytes() for name in whole)


@pytest.mark.parametrize("form", ["s", "h"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_of_any_size_keep_loss_gradient_and_state_finite(form: str, dtype: torch.dtype) -> None:
    objective = make("isogclr", {"form": form})
    state = objective.initial(SIZES)
    for low, high in ((-1e4, 1e4), (1e4, -1e4), (0.0, 0.0)):
        pos = torch.full((4, 1), low, dtype=dtype, requires_grad=True)
        neg = torch.tensor([[high, low, 0.0]] * 4, dtype=dtype, requires_grad=True)
        result, state = objective.step(batch_of(pos, neg, ids=[0, 1, 2, 2]), state)
        assert bool(torch.isfinite(result.loss).all())
        for gradient in torch.autograd.grad(result.loss.sum(), (pos, neg)):
            assert bool(torch.isfinite(gradient).all())
        assert bool(torch.isfinite(state["tau"]).all())
        assert bool(torch.isfinite(state["m"]).all())
        assert bool(torch.isfinite(state["log_u"][:, :3]).all())


def test_space_is_the_logarithm() -> None:
    space: Space = make("isogclr").space
    assert space == "log"
