"""Losses of pairs: hand-computed numbers, the exact optimum of bandits, and what each does with certain labels."""

import math

import numpy as np
import pytest
import torch

from rl_contrastive.errors import RlcError
from rl_contrastive.preferences import (
    CDPO,
    DPO,
    GRACE,
    GRPO,
    IPO,
    RPO,
    TDPO,
    CDPOConfig,
    Completions,
    DPOConfig,
    Flip,
    HyPO,
    HyPOConfig,
    IPOConfig,
    RPOConfig,
    SemDPO,
    online_kl,
    optimum,
)

F64 = torch.float64


def completions(logp, ref, mask=None):
    """Completions of nested lists."""
    make = lambda x: torch.tensor(x, dtype=F64)  # noqa: E731
    return Completions(make(logp), make(ref), None if mask is None else make(mask))


# h_w = .5, h_l = -.2, log pi(y_w) = -3, on two steps; the third of y_w is padding.
CHOSEN = completions([[-1.0, -2.0, -9.0]], [[-1.2, -2.3, 4.0]], [[1, 1, 0]])
REJECTED = completions([[-1.0, -1.0]], [[-0.9, -0.9]])


@pytest.mark.parametrize(
    ("objective", "want"),
    [
        (DPO(), math.log1p(math.exp(-0.07))),
        (CDPO(CDPOConfig(smoothing=0.25)), 0.75 * math.log1p(math.exp(-0.07)) + 0.25 * math.log1p(math.exp(0.07))),
        (IPO(), (0.7 - 5.0) ** 2),
        (IPO(IPOConfig(reduce="mean")), (0.35 - 5.0) ** 2),  # .5/2 + .2/2
        (RPO(), 0.660260),  # the published code's, form sum
        (RPO(RPOConfig(eta=0.2, beta=0.5, form="mean")), math.log1p(math.exp(-0.35)) + 0.2 * 1.5),
    ],
)
def test_by_hand(objective, want):
    result = objective(CHOSEN, REJECTED)
    assert result.rows.shape == (1,)
    assert float(result.loss) == pytest.approx(want, abs=1e-6)


def test_weights_scale_rows():
    two = completions([[-1.0], [-2.0]], [[-1.5], [-2.0]]), completions([[-2.0], [-1.0]], [[-1.0], [-1.0]])
    rows = DPO()(*two).rows
    weighted = DPO()(*two, weight=torch.tensor([2.0, 0.0], dtype=F64))
    assert float(weighted.loss) == pytest.approx(float(rows[0]))  # (2 r_0 + 0 r_1) / 2


@pytest.mark.parametrize("name", ["dpo", "cdpo", "ipo", "rpo", "hypo"])
def test_gradcheck(name):
    ref = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    from rl_contrastive.registry import build

    objective = build("pair-objective", name)

    def loss(x):
        # The divergence on own completions has a score-function gradient, tested on its own; here it is a constant.
        online = Completions(ref.reshape(2, 2, 3), ref.reshape(2, 2, 3))
        return objective(Completions(x[:2], ref[:2]), Completions(x[2:], ref[2:]), online=online).loss

    x = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(loss, (x,))


def all_pairs(A):
    """Every ordered pair of different arms."""
    return (~torch.eye(A, dtype=torch.bool)).nonzero().unbind(-1)


def fit(objective, log_ref, weight, first, second, steps=4000):
    """log pi of a table policy trained on all pairs of arms."""
    logits = log_ref.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS([logits], lr=1.0, max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure():
        optimiser.zero_grad()
        logp = logits.log_softmax(-1)
        sides = [Completions(logp[i].unsqueeze(-1), log_ref[i].unsqueeze(-1)) for i in (first, second)]
        loss = objective(*sides, weight=weight).loss
        loss.backward()
        return loss

    optimiser.step(closure)
    return logits.detach().log_softmax(-1)


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_dpo_finds_the_exact_optimum_of_a_bandit_and_half_the_beta_does_not(beta):
    rng = torch.Generator().manual_seed(3)
    reward = torch.randn(5, dtype=F64, generator=rng)
    log_ref = torch.randn(5, dtype=F64, generator=rng).log_softmax(-1)
    first, second = all_pairs(5)
    wins = torch.sigmoid(reward[first] - reward[second])  # Bradley-Terry: how often each ordered pair is the outcome
    best = optimum(reward.numpy(), log_ref.numpy(), beta)
    found = fit(DPO(DPOConfig(beta=beta)), log_ref, wins, first, second)
    other = fit(DPO(DPOConfig(beta=beta / 2)), log_ref, wins, first, second)
    assert np.abs(found.exp().numpy() - np.exp(best)).max() < 1e-6
    assert np.abs(other.exp().numpy() - np.exp(best)).max() > 0.02


def test_ipo_finds_the_exact_optimum_of_its_own_reward():
    rng = torch.Generator().manual_seed(4)
    reward, beta = torch.randn(5, dtype=F64, generator=rng), 0.4
    log_ref = torch.randn(5, dtype=F64, generator=rng).log_softmax(-1)
    first, second = all_pairs(5)
    p = torch.sigmoid(reward[:, None] - reward[None, :])
    best = optimum(p.mean(-1).numpy(), log_ref.numpy(), beta)  # p(y beats mu), mu uniform
    found = fit(IPO(IPOConfig(beta=beta)), log_ref, p[first, second], first, second)
    # E over mu x mu keeps pairs of equal arms out of the loss, which have margin 0 whatever pi is.
    assert np.abs(found.exp().numpy() - np.exp(best)).max() < 1e-6


def test_certain_labels_end_at_the_margins_that_the_docstrings_promise():
    log_ref, first, second = torch.full((2,), 0.5, dtype=F64).log(), torch.tensor([0]), torch.tensor([1])
    margin = lambda log_pi: float(log_pi[0] - log_pi[1])  # noqa: E731
    one = torch.ones(1, dtype=F64)
    smooth = fit(CDPO(CDPOConfig(beta=0.5, smoothing=0.2)), log_ref, one, first, second)
    assert margin(smooth) == pytest.approx(math.log(4) / 0.5, abs=1e-5)
    assert margin(fit(IPO(IPOConfig(beta=0.5)), log_ref, one, first, second)) == pytest.approx(1.0, abs=1e-6)
    assert margin(fit(DPO(DPOConfig(beta=0.5)), log_ref, one, first, second)) > 10  # no bound: it overfits


def test_online_kl_has_the_value_of_h_and_the_gradient_of_the_divergence():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(4, dtype=F64, generator=rng).requires_grad_(True)
    log_ref = torch.randn(4, dtype=F64, generator=rng).log_softmax(-1)
    log_pi = logits.log_softmax(-1)
    exact = torch.autograd.grad((log_pi.exp() * (log_pi - log_ref)).sum(), logits)[0]
    arms = torch.multinomial(log_pi.detach().exp(), 400_000, replacement=True, generator=rng).reshape(-1, 4)
    y = Completions(logits.log_softmax(-1)[arms].unsqueeze(-1), log_ref[arms].unsqueeze(-1))
    value = online_kl(y)
    assert float(value.detach()) == pytest.approx(float(y.h().mean().detach()))
    assert torch.allclose(torch.autograd.grad(value, logits)[0], exact, atol=5e-3)


def test_hypo_adds_its_weight_of_the_divergence():
    online = completions([[[-1.0], [-2.0]]], [[[-1.5], [-1.0]]])  # h = .5, -1: mean -.25
    want = float(DPO()(CHOSEN, REJECTED).loss) + 2.0 * -0.25
    assert float(HyPO(HyPOConfig(kl_weight=2.0))(CHOSEN, REJECTED, online=online).loss) == pytest.approx(want)


ONE = completions([[-1.0]], [[-1.0]])


@pytest.mark.parametrize(
    ("chosen", "rejected", "more", "words"),
    [
        (completions([[-1.0], [-1.0]], [[-1.0], [-1.0]]), ONE, {}, "same pairs"),
        (Completions(torch.zeros(0, 1), torch.zeros(0, 1)), Completions(torch.zeros(0, 1), torch.zeros(0, 1)), {},
         "no pairs"),
        (completions([[-1.0]], [[-1.0]], [[0]]), ONE, {}, "no real step"),
        (completions([[-math.inf]], [[-1.0]]), ONE, {}, "the policy gives an action in chosen probability 0"),
        (ONE, completions([[-1.0]], [[-math.inf]]), {}, "the reference policy gives an action in rejected"),
        (completions([[math.nan]], [[-1.0]]), ONE, {}, "NaN"),
        (completions([[-1.0, -1.0]], [[-1.0]]), ONE, {}, "must have the shape of logp"),
        (ONE, ONE, {"weight": torch.ones(2)}, "one a pair"),
        (ONE, ONE, {"weight": torch.tensor([-1.0])}, ">= 0"),
        (torch.zeros(1, 1), ONE, {}, "must be Completions"),
        (Completions([[-1.0]], [[-1.0]]), ONE, {}, "chosen.logp must be a torch tensor, got list"),
        (ONE, Completions(torch.zeros(1, 1).half(), torch.zeros(1, 1).half()), {}, "rejected.logp must be float32"),
        (completions([[-1e30]], [[-1.0]]), ONE, {}, "within 1e.06 of 0"),
        (ONE, ONE, {"weight": [1.0]}, "weight must be a torch tensor"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_sentence(chosen, rejected, more, words):
    with pytest.raises(RlcError, match=words) as error:
        DPO()(chosen, rejected, **more)
    assert str(error.value).count("\n") == 0


def test_the_reference_gets_no_gradient():
    logp, ref = torch.zeros(2, 1, requires_grad=True), torch.zeros(2, 1, requires_grad=True)
    DPO()(Completions(logp, ref), Completions(2 * logp, ref)).loss.backward()
    assert ref.grad is None


@pytest.mark.parametrize("beta", [0.0, 1e-20, 1e39])
def test_beta_has_a_range(beta):
    with pytest.raises(RlcError, match="beta must lie in"):
        IPOConfig(beta=beta)


def test_hypo_asks_for_completions_of_its_own():
    with pytest.raises(RlcError, match="online"):
        HyPO()(ONE, ONE)
    with pytest.raises(RlcError, match="at least 2 completions"):
        HyPO()(ONE, ONE, online=completions([[[-1.0]]], [[[-1.0]]]))
    for shape in [(0, 3, 2), (3, 2)]:
        with pytest.raises(RlcError, match="B >= 1"):
            HyPO()(ONE, ONE, online=Completions(torch.zeros(shape), torch.zeros(shape)))
    wide = Completions(torch.zeros(5, 2, 2, 3), torch.zeros(5, 2, 2, 3))
    with pytest.raises(RlcError, match=r"leading axes of the pairs, \(\)"):
        HyPO()(ONE, ONE, online=wide)
    pairs = [Completions(torch.zeros(5, 1, 1), torch.zeros(5, 1, 1)) for _ in range(2)]
    assert HyPO()(*pairs, online=wide).loss.shape == (5,)


def test_both_sides_must_be_two():
    with pytest.raises(RlcError, match="chosen and rejected are the same completions"):
        DPO()(CHOSEN, CHOSEN)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DPO(0.1), r"DPO: the config must be DPOConfig\(...\), got 0.1"),
        (lambda: DPO({"beta": 0.1}), "DPO: the config must be DPOConfig"),
        (lambda: DPO(0.0), "DPO: the config must be DPOConfig"),
        (lambda: DPO(IPOConfig()), "got IPOConfig"),
        (lambda: GRPO(DPOConfig()), "GRPO: the config must be GRPOConfig"),
        (lambda: Flip(DPOConfig()), "Flip: the config must be FlipConfig"),
        (lambda: GRACE(DPOConfig()), "GRACE: the config must be GRACEConfig"),
        (lambda: SemDPO(4.0), "SemDPO: the config must be SemDPOConfig"),
        (lambda: TDPO(DPOConfig()), "TDPO: the config must be TDPOConfig"),
    ],
)
def test_a_config_of_another_kind_is_one_sentence(make, words):
    with pytest.raises(RlcError, match=words) as error:
        make()
    assert str(error.value).count("\n") == 0
