"""Losses of reward models by hand, votes on labels, and wrong use."""

import math

import pytest
import torch

from rl_contrastive.errors import RlcError
from rl_contrastive.preferences import (
    BradleyTerry,
    Flip,
    FlipConfig,
    Margin,
    Smoothed,
    SmoothedConfig,
    bottom,
    contrastive_term,
    meta_term,
    strength,
)
from rl_contrastive.registry import build, entries

F64 = torch.float64
W, L = torch.tensor([1.0, 0.2, -0.5], dtype=F64), torch.tensor([0.0, 0.5, 0.5], dtype=F64)  # d = 1, -.3, -1
U = torch.tensor([2.0, 0.1, -0.4], dtype=F64)


def row(d):
    """-log sigma(d)."""
    return math.log1p(math.exp(-d))


@pytest.mark.parametrize(
    ("loss", "want"),
    [
        (BradleyTerry(), [row(1), row(-0.3), row(-1)]),
        (Smoothed(SmoothedConfig(smoothing=0.25)), [row(1), row(-0.3), 0.75 * row(-1) + 0.25 * row(1)]),
        (Margin(), [row(-1), row(-0.4), row(-0.6)]),
        (Flip(FlipConfig(share=0.3)), [row(1), row(-0.3), row(1)]),
    ],
)
def test_by_hand(loss, want):
    found = loss(W, L, strength=U)
    assert found.rows.tolist() == pytest.approx(want)
    assert float(found.loss) == pytest.approx(sum(want) / 3)


def test_dropped_pairs_leave_the_mean():
    found = Flip(FlipConfig(share=0.3, action="drop"))(W, L, strength=U)
    assert float(found.loss) == pytest.approx((row(1) + row(-0.3)) / 2)
    assert float(found.rows[2]) == 0


def test_all_pairs_are_smoothed_without_a_strength():
    rows = Smoothed(SmoothedConfig(smoothing=0.5, pairs="all"))(W, L).rows
    assert float(rows[0]) == pytest.approx((row(1) + row(-1)) / 2)


@pytest.mark.parametrize("name", [e.name for e in entries("reward-objective")])
def test_gradcheck_and_leading_axes(name):
    loss = build("reward-objective", name)
    rng = torch.Generator().manual_seed(0)
    w, low = (torch.randn(2, 5, dtype=F64, generator=rng, requires_grad=True) for _ in range(2))
    u = torch.randn(5, dtype=F64, generator=rng)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, strength=u).loss, (w, low))
    both, one = loss(w, low, strength=u), loss(w[1], low[1], strength=u)
    assert torch.equal(both.rows[1], one.rows)


def test_bradley_terry_finds_the_reward_from_certain_frequencies_and_a_margin_does_not():
    reward = torch.tensor([0.5, -0.2, 1.0], dtype=F64)
    i, j = (~torch.eye(3, dtype=torch.bool)).nonzero().unbind(-1)
    share = torch.sigmoid(reward[i] - reward[j])
    found = {}
    for loss in (BradleyTerry(), Margin()):
        r = torch.zeros(3, dtype=F64, requires_grad=True)
        optimiser = torch.optim.LBFGS([r], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)

        def closure(loss=loss, r=r, optimiser=optimiser):
            optimiser.zero_grad()
            total = (share * loss(r[i], r[j], strength=reward[i] - reward[j]).rows).sum()
            total.backward()
            return total

        optimiser.step(closure)
        found[type(loss).__name__] = (r - r.mean()).detach()
    want = reward - reward.mean()
    assert torch.allclose(found["BradleyTerry"], want, atol=1e-6)
    assert not torch.allclose(found["Margin"], want, atol=0.1)


def test_votes_by_hand():
    votes = strength(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    assert votes.mean.tolist() == [2.0, -1.5]
    assert votes.std.tolist() == pytest.approx([math.sqrt(2), math.sqrt(0.5)])


def test_the_bottom_share():
    assert bottom(torch.tensor([0.3, -1.0, 0.3, 2.0]), 0.5).tolist() == [True, True, False, False]
    assert not bottom(torch.tensor([1.0, 2.0]), 0.0).any()
    assert bottom(torch.tensor([1.0]), 0.9).tolist() == [False]


def test_terms_from_memory_by_hand():
    eye = torch.eye(2, dtype=F64)
    assert float(contrastive_term(eye, 3 * eye, temperature=0.5)) == pytest.approx(row(2))
    assert float(meta_term(torch.tensor([0.0, 1.0], dtype=F64))) == pytest.approx(0.5 / (1 + math.exp(-1)))


ONES, EYE = torch.ones(3), torch.eye(2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: BradleyTerry()(ONES, torch.ones(2)), "same shape"),
        (lambda: BradleyTerry()(torch.ones(0), torch.ones(0)), "no pairs"),
        (lambda: BradleyTerry()(ONES * math.nan, ONES), "r_chosen holds NaN"),
        (lambda: BradleyTerry()(ONES.long(), ONES.long()), "floats"),
        (lambda: Margin()(ONES, ONES), "needs the strength"),
        (lambda: Flip()(ONES, ONES, strength=torch.ones(2)), "strength must have shape"),
        (lambda: Smoothed()(ONES, ONES, strength=ONES * math.inf), "strength holds NaN"),
        (lambda: strength(ONES, ONES), "M >= 2 models"),
        (lambda: FlipConfig(share=1.0), "share"),
        (lambda: meta_term(torch.ones(1)), "at least 2"),
        (lambda: contrastive_term(torch.ones(1, 2), torch.ones(1, 2)), "P >= 2"),
        (lambda: contrastive_term(EYE, math.nan * EYE), "contrastive_term: second holds NaN"),
        (lambda: contrastive_term(0 * EYE, EYE), "a vector of first is zero"),
        (lambda: contrastive_term(EYE, EYE, 0.0), "temperature must lie in"),
        (lambda: contrastive_term(EYE, EYE, math.nan), "temperature must lie in"),
        (lambda: contrastive_term(EYE, EYE, 1e-30), "temperature must lie in"),
        (lambda: contrastive_term(EYE, EYE, "a"), "temperature must be a number"),
        (lambda: contrastive_term(EYE.tolist(), EYE), "first must be a torch tensor"),
        (lambda: contrastive_term(EYE.long(), EYE.long()), "first must hold floats"),
        (lambda: meta_term([0.0, 1.0]), "r must be a torch tensor"),
        (lambda: meta_term(ONES > 0), "rewards must be floats"),
        (lambda: meta_term(ONES * math.nan), "rewards must be finite"),
        (lambda: BradleyTerry()([1.0], [0.0]), "r_chosen must be a torch tensor"),
    ],
)
def test_wrong_use_is_one_sentence(call, words):
    with pytest.raises(RlcError, match=words) as error:
        call()
    assert str(error.value).count("\n") == 0
