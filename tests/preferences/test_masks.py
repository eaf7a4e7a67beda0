"""Masked losses: published numbers, ones equal TDPO, gradients, state that is saved and resumed."""

import math

import numpy as np
import pytest
import torch

from rl_contrastive.errors import RlcError
from rl_contrastive.preferences import (
    DPO,
    TDPO,
    Completions,
    MaPO,
    MaPOConfig,
    Pairs,
    SparsePO,
    SparsePOConfig,
    TDPOConfig,
    activation_mask,
    load_state,
    save_state,
)
from rl_contrastive.preferences.masks import weighted_rows

F64 = torch.float64


def golden():
    """l(w) = .2, -.1, .3, l(l) = -.1, .1, 0 and divergences, on which the published code was run."""
    zero = torch.zeros(1, 3, dtype=F64)
    make = lambda x, kl: Completions(torch.tensor([x], dtype=F64), zero, kl=torch.tensor([kl], dtype=F64))  # noqa: E731
    return Pairs(make([0.2, -0.1, 0.3], [0.01, 0.02, 0.03]), make([-0.1, 0.1, 0.0], [0.02, 0.01, 0.05]))


def test_published_numbers():
    pairs = golden()
    masks = [torch.tensor([[1.0, 0.0, 0.5]], dtype=F64)] * 2
    assert float(weighted_rows(pairs, masks, masks, 0.8)[0]) == pytest.approx(0.535867, abs=1e-6)
    assert float(TDPO(TDPOConfig(beta=0.8))(pairs.chosen, pairs.rejected).loss) == pytest.approx(0.552655, abs=1e-6)


def drawn(P=4, T=3, k=6, seed=0):
    """Random pairs; the last step of the first chosen one is padding."""
    rng = torch.Generator().manual_seed(seed)
    mask = torch.ones(P, T)
    mask[0, -1] = 0
    make = lambda m: Completions(*(torch.randn(P, T, dtype=F64, generator=rng) for _ in range(2)), m,  # noqa: E731
                                 torch.rand(P, T, dtype=F64, generator=rng),
                                 torch.randn(P, T, k, dtype=F64, generator=rng))  # fmt: skip
    return Pairs(make(mask), make(None))


def ones_state(objective, k):
    """w 0: the mask is mix . b = 1 wherever hidden is."""
    state = objective.initial(k, torch.Generator().manual_seed(0))
    for name, value in state.items():
        if name.endswith(".w"):
            value.data.zero_()
    return state


@pytest.mark.parametrize("config", [SparsePOConfig(), SparsePOConfig(masks="two", layers=2)])
def test_masks_of_ones_are_tdpo(config):
    pairs, objective = drawn(), SparsePO(config)
    found = objective.step(pairs, ones_state(objective, 6))[0]
    assert torch.allclose(found.rows, TDPO().step(pairs, {})[0].rows)
    started = objective.step(pairs, objective.initial(6, torch.Generator().manual_seed(0)))[0]
    assert not torch.allclose(started.rows, found.rows)  # control


def test_equal_divergences_are_dpo():
    pairs = golden()
    even = [Completions(y.logp, y.ref, kl=torch.full_like(y.logp, 0.3)) for y in (pairs.chosen, pairs.rejected)]
    assert torch.allclose(TDPO()(*even).loss, DPO()(*even).loss)


def test_the_common_mask_pays_half_of_both_norms():
    pairs = drawn()
    for masks, share in (("common", 0.5), ("two", 1.0)):
        objective = SparsePO(SparsePOConfig(masks=masks, l1_u=0.1, l1_d=0.2))
        found = objective.step(pairs, ones_state(objective, 6))[0].rows - TDPO().step(pairs, {})[0].rows
        assert found.tolist() == pytest.approx([share * 0.3 * 5] + [share * 0.3 * 6] * 3)


def test_a_mask_by_hand():
    objective = SparsePO(SparsePOConfig(layers=2))
    state = objective.initial(4, torch.Generator().manual_seed(0))
    values = {
        "u.norm": [[1.0, 1.0], [0.0, 0.0]],
        "u.w": [[1.0, 0.0], [0.0, 1.0]],
        "u.b": [0.0, 0.5],
        "u.mix": [2.0, -1],
    }
    for name, value in values.items():
        state[name].data.copy_(torch.tensor(value))
    hidden = torch.tensor(
        [[[3.0, 1.0, 5.0, 7.0], [1.0, 3.0, 7.0, 5.0]]], dtype=F64
    )  # norms (1,-1), (-1,1); (-1,1), (1,-1)
    y = Completions(torch.zeros(1, 2, dtype=F64), torch.zeros(1, 2, dtype=F64), hidden=hidden)
    want = [max(0, 2 * 1 - 1.5), 0.0]  # ReLU(1), ReLU(1 + .5); ReLU(-1), ReLU(-1 + .5)
    assert objective.mask(y, state, "u")[0].tolist() == pytest.approx(want, abs=1e-4)


def test_activation_masks_by_hand():
    hidden = torch.tensor([[[1.0, 3.0], [2.0, 5.0], [6.0, 4.0], [99.0, -9.0]]])
    y = Completions(torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 1.0, 0.0]]), hidden=hidden)
    assert activation_mask(y, 2)[0].tolist() == pytest.approx([0.0, (0.2 + 1) / 2, (1 + 0.5) / 2, 0.0])
    assert activation_mask(y, 1)[0].tolist() == pytest.approx([0.0, 1.5 / 3, 1.0, 0.0])
    alike = Completions(torch.zeros(1, 2), torch.zeros(1, 2), hidden=torch.ones(1, 2, 3))
    assert activation_mask(alike, 1)[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "objective", [TDPO(), MaPO(MaPOConfig(layers=2)), SparsePO(SparsePOConfig(layers=2, l1_u=0.1))]
)
def test_gradcheck(objective):
    pairs = drawn()
    state = {name: value.double() for name, value in objective.initial(6, torch.Generator().manual_seed(0)).items()}

    def loss(w, kl, *values):
        chosen = Completions(w, pairs.chosen.ref, pairs.chosen.mask, kl, pairs.chosen.hidden)
        batch = Pairs(chosen, pairs.rejected)
        return objective.step(batch, dict(zip(state, values, strict=True)))[0].loss

    inputs = [x.detach().clone().requires_grad_(True) for x in (pairs.chosen.logp, pairs.chosen.kl, *state.values())]
    assert torch.autograd.gradcheck(loss, inputs)


def test_state_resumes_to_the_byte():
    objective, pairs = SparsePO(SparsePOConfig(masks="two", l1_u=0.01)), drawn()

    def train(state, steps):
        optimiser = torch.optim.SGD(objective.parameters(state), lr=0.1)
        for _ in range(steps):
            optimiser.zero_grad()
            objective.step(pairs, state)[0].loss.backward()
            optimiser.step()
        return state

    state = objective.initial(6, torch.Generator().manual_seed(3))
    assert len(objective.parameters(state)) == 8
    half = save_state(train(state, 3))
    resumed = save_state(train(load_state(objective, half, 6), 3))
    whole = save_state(train(state, 3))
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(RlcError, match=r"SparsePO: the saved u.w has shape"):
        load_state(objective, {**half, "u.w": np.zeros((2, 2))}, 6)


def test_problems_side_by_side_are_problems_alone():
    objective = SparsePO()
    first, second = drawn(seed=0), drawn(seed=1)
    states = [objective.initial(6, torch.Generator().manual_seed(s)) for s in (0, 1)]
    stack = lambda a, b: Completions(*(torch.stack([getattr(y, f) for y in (a, b)])  # noqa: E731
                                       for f in ("logp", "ref", "real", "kl", "hidden")))  # fmt: skip
    both = Pairs(stack(first.chosen, second.chosen), stack(first.rejected, second.rejected))
    wide = {name: torch.stack([s[name] for s in states]).unsqueeze(1).unsqueeze(1) for name in states[0]}
    found = objective.step(both, wide)[0]
    for i, pairs in enumerate((first, second)):
        assert torch.allclose(found.rows[i], objective.step(pairs, states[i])[0].rows)


def test_wrong_use_is_one_sentence():
    pairs = golden()
    with pytest.raises(RlcError, match="needs kl"):
        TDPO()(Completions(pairs.chosen.logp, pairs.chosen.ref), pairs.rejected)
    with pytest.raises(RlcError, match="needs hidden"):
        SparsePO()(pairs.chosen, pairs.rejected)
    with pytest.raises(RlcError, match="4 layers cannot share"):
        SparsePO(SparsePOConfig(layers=4)).initial(6, torch.Generator())
    bad = Completions(pairs.chosen.logp, pairs.chosen.ref, kl=pairs.chosen.kl * math.nan)
    with pytest.raises(RlcError, match=r"TDPO: chosen\.kl holds NaN"):
        TDPO()(bad, pairs.rejected)
    with pytest.raises(RlcError, match="made for 3"):
        SparsePO().step(drawn(), SparsePO().initial(3, torch.Generator().manual_seed(0)))


def with_field(y, **changed):
    """The same completions with other fields."""
    fields = {name: getattr(y, name) for name in ("logp", "ref", "mask", "kl", "hidden")}
    return Completions(**{**fields, **changed})


@pytest.mark.parametrize("objective", [TDPO(), MaPO(), SparsePO(SparsePOConfig(l1_u=0.1)), MaPO(MaPOConfig(layers=2))])
def test_what_stands_on_padding_changes_nothing(objective):
    pairs = drawn()
    pad = pairs.chosen.mask == 0
    found = []
    for junk in (0.5, math.inf, math.nan):
        fill = lambda x, junk=junk: x.masked_fill(pad if x.ndim == pad.ndim else pad.unsqueeze(-1), junk)  # noqa: E731
        logp, kl = (fill(x).requires_grad_(True) for x in (pairs.chosen.logp, pairs.chosen.kl))
        chosen = with_field(
            pairs.chosen, logp=logp, kl=kl, ref=fill(pairs.chosen.ref), hidden=fill(pairs.chosen.hidden)
        )
        state = objective.initial(6, torch.Generator().manual_seed(0))
        loss = objective.step(Pairs(chosen, pairs.rejected), state)[0].loss
        found.append([loss.detach(), *torch.autograd.grad(loss, (logp, kl, *state.values()))])
    assert all(torch.isfinite(x).all() for x in found[0])
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


@pytest.mark.parametrize(
    ("objective", "side", "changed", "words"),
    [
        (MaPO(), "chosen", {"hidden": math.nan}, r"MaPO: chosen\.hidden holds NaN"),
        (SparsePO(), "rejected", {"hidden": math.inf}, r"SparsePO: rejected\.hidden holds NaN"),
        (MaPO(), "rejected", {"hidden": 1e300}, r"MaPO: rejected\.hidden must lie within 1e.15"),
        (TDPO(), "rejected", {"kl": -0.1}, r"TDPO: rejected\.kl is a divergence"),
        (MaPO(), "chosen", {"kl": math.inf}, r"MaPO: chosen\.kl holds NaN"),
        (SparsePO(), "chosen", {"kl": math.nan}, r"SparsePO: chosen\.kl holds NaN"),
    ],
)
def test_steps_that_no_mask_can_weigh_are_one_sentence(objective, side, changed, words):
    pairs = drawn()
    sides = {"chosen": pairs.chosen, "rejected": pairs.rejected}
    (name, value), y = *changed.items(), sides[side]
    sides[side] = with_field(y, **{name: torch.full_like(getattr(y, name), value)})
    with pytest.raises(RlcError, match=words):
        objective(**sides)


def test_features_of_another_size_are_one_sentence():
    pairs = drawn()
    for objective in (MaPO(), SparsePO()):
        narrow = with_field(pairs.rejected, hidden=pairs.rejected.hidden[..., :3])
        with pytest.raises(RlcError, match=r"got 6 in chosen\.hidden and 3 in rejected\.hidden"):
            objective(pairs.chosen, narrow)
    none = [with_field(y, hidden=y.hidden[..., :0]) for y in (pairs.chosen, pairs.rejected)]
    with pytest.raises(RlcError, match=r"MaPO: chosen\.hidden has no features"):
        MaPO()(*none)
    with pytest.raises(RlcError, match="SparsePO: needs the reference's features"):
        SparsePO()(*none)
    with pytest.raises(RlcError, match=r"activation_mask: y\.hidden holds NaN"):
        activation_mask(with_field(pairs.rejected, hidden=math.nan * pairs.rejected.hidden), 1)


@pytest.mark.parametrize(("dtype", "rounding"), [(F64, 5e-7), (torch.float32, 5e-6)])
def test_rounding_may_leave_a_divergence_just_below_zero(dtype, rounding):
    zero = torch.zeros(1, 2, dtype=dtype)
    chosen = Completions(zero, zero, kl=zero)
    assert torch.isfinite(TDPO()(chosen, Completions(zero, zero, kl=zero - rounding)).loss)
    with pytest.raises(RlcError, match=r"TDPO: rejected\.kl is a divergence"):
        TDPO()(chosen, Completions(zero, zero, kl=zero - 10 * rounding))
