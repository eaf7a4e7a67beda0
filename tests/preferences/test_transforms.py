"""Rewards of groups and weights of pairs: golden values, hand-computed numbers, and GRACE's terms without effect."""

import math

import numpy as np
import pytest
import torch

from rl_contrastive.errors import RlcError
from rl_contrastive.preferences import (
    DPO,
    GCPO,
    GRACE,
    GRPO,
    RLOO,
    Completions,
    GCPOConfig,
    GRACEConfig,
    GRPOConfig,
    SemDPO,
    SemDPOConfig,
)

F64 = torch.float64


def sines(n, d, k):
    """X(n, d, k): sin(0 + k), sin(1 + k), ... as n rows."""
    return torch.tensor(np.sin(np.arange(n * d) + k).reshape(n, d).astype(np.float32))


def test_grace_is_the_published_code_s_on_its_golden_values():
    rollouts = sines(4, 3, 0.4).reshape(2, 2, 3)
    queries = torch.cat((sines(1, 3, 0.0), sines(1, 3, 2.0)))
    negatives = torch.cat((sines(1, 3, 4.0), sines(1, 3, 5.0)))
    found = GRACE(GRACEConfig(form="published", tau=1.0))(rollouts, queries, negatives)
    assert found.flatten().tolist() == pytest.approx([1.213661, -0.682609, 0.482637, 1.169552], abs=1e-5)


# Two groups in the plane: p = 0 and 90 degrees, 60 and 90; q = 0 and 90; neg = 180 and 60.
def at(*degrees):
    angle = torch.tensor(degrees, dtype=F64) * math.pi / 180
    return torch.stack((angle.cos(), angle.sin()), -1)


P, Q, NEG = at(0, 90, 60, 90).reshape(2, 2, 2), at(0, 90), at(180, 60)
R3 = math.sqrt(3) / 2


@pytest.mark.parametrize(
    ("form", "want"),
    [
        ("query", [1, 0, R3, 1]),
        ("consistent", [1, 0, 1.2 * R3, 1 + 0.2 * R3]),
        # cos(q, neg) = -1, sqrt(3)/2; nearest of the other group to q: 60 degrees (1/2); 90 degrees (1)
        ("published", [1.9, 0.9, 0.2 * R3 - 0.2, 0.8 - 0.8 * R3]),
        # cos(p, neg) = -1, 0, 1, sqrt(3)/2; cos(p, q') = 0, 1, 1/2, 0
        ("per-rollout", [2, -0.2, 1.2 * R3 - 1.1, 1 - 0.8 * R3]),
        ("softmax", [-math.log1p(math.exp(-1)), -math.log1p(math.e), 0.2 * R3 - math.log1p(math.exp(0.5 - R3)),
                     0.2 * R3 - math.log1p(math.exp(-1))]),
    ],
)  # fmt: skip
def test_forms_by_hand(form, want):
    for tau in (1.0, 0.5) if form != "softmax" else (1.0,):
        found = GRACE(GRACEConfig(form=form, tau=tau))(3 * P, 2 * Q, NEG)
        assert (tau * found).flatten().tolist() == pytest.approx(want)


def test_without_negatives_and_unfinished():
    found = GRACE(GRACEConfig(form="published", tau=1.0))(P, Q)
    assert found.flatten().tolist() == pytest.approx([1, -0.2, 1.2 * R3 - 0.1, 1 + 0.2 * R3])
    cut = GRACE(GRACEConfig(form="published", tau=1.0))(P, Q, finished=torch.tensor([[1, 0], [1, 1]]))
    assert cut.flatten().tolist() == pytest.approx([1, -1, 1.2 * R3 - 0.1, 1 + 0.2 * R3])


@pytest.mark.parametrize("objective", [GRPO(GRPOConfig(std=False, beta=0.0)), RLOO()])
def test_the_published_repulsion_has_no_gradient_and_ours_has_one(objective):
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=F64, generator=rng)  # noqa: E731
    rollouts, queries, negatives, logp = draw(5, 8, 6), draw(5, 6), draw(5, 6), draw(5, 8, 4).requires_grad_(True)

    def gradient(form):
        reward = GRACE(GRACEConfig(form=form))(rollouts, queries, negatives)
        return torch.autograd.grad(objective(Completions(logp, logp.detach()), reward).loss.sum(), logp)[0]

    plain = gradient("consistent")
    assert (gradient("published") - plain).abs().max() < 1e-6
    for form in ("per-rollout", "softmax"):
        assert (gradient(form) - plain).abs().max() > 0.1


def test_gcpo_by_hand():
    accuracy = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 1], [1, 0, 1, 0], [1, 0, 1, 0], [1, 0, 0, 0]])
    used = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert GCPO().mask(accuracy, used).flatten().tolist() == [1, -1, 0, 0, 0]
    found = GCPO()({"accuracy": accuracy, "format": 0.25 * torch.ones_like(used)}, used)
    assert found[0].tolist() == [1.75, 1.75, 0.25, 0.25]
    assert found[1].tolist() == [-0.25, 0.75, 1.25, 1.25]
    assert found[2].tolist() == [1.25, 0.25, 1.25, 0.25]
    always = GCPO(GCPOConfig(rule="always", bonus=1.0))({"accuracy": accuracy}, used)
    assert torch.equal(always, accuracy + used)
    assert GCPO(GCPOConfig(eps=1.0)).mask(accuracy, used).abs().sum() == 0


def test_sem_dpo_by_hand():
    found = SemDPO(SemDPOConfig(alpha=2.0))(at(0, 0, 0), 5 * at(0, 60, 180))
    assert found.tolist() == pytest.approx([1, math.exp(-1), math.exp(-4)])
    assert SemDPO(SemDPOConfig(alpha=0.0))(at(0, 0), at(0, 90)).tolist() == [1, 1]
    chosen, rejected = (Completions(sines(3, 1, k), sines(3, 1, k + 0.5)) for k in (0, 2))
    plain = DPO()(chosen, rejected)
    assert torch.allclose(DPO()(chosen, rejected, weight=found).loss, (found * plain.rows).mean())


ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: GCPO()({"format": ONES}, ONES), "parts need 'accuracy', got 'format'"),
        (lambda: GCPO()({"accuracy": ONES}, ONES[0]), "shape of used"),
        (lambda: GCPO()({"accuracy": ONES}, 2 * ONES), "used must hold 0 and 1"),
        (lambda: GCPO()({"accuracy": ONES * math.nan}, ONES), "NaN"),
        (lambda: GRACE()(P[:1], Q[:1]), "at least 2 groups"),
        (lambda: GRACE()(P[0], Q[:1]), r"shape \(\.\.\., G, K, d\)"),
        (lambda: GRACE()(P, Q[:1]), "queries must have shape"),
        (lambda: GRACE()(P, Q, NEG[:, :1]), "negatives must have shape"),
        (lambda: GRACE()(P, Q, finished=torch.ones(2)), "finished must have shape"),
        (lambda: GRACE()(P * math.inf, Q), "rollouts holds NaN or infinite"),
        (lambda: SemDPO()(P, Q), "one shape"),
        (lambda: SemDPO()(Q, 0 * Q), "has no direction"),
        (lambda: SemDPO()(Q, Q * math.nan), "NaN"),
        (lambda: SemDPOConfig(alpha=-1.0), "alpha"),
        (lambda: GRACEConfig(form="other"), "form"),
    ],
)
def test_wrong_use_is_one_sentence(call, words):
    with pytest.raises(RlcError, match=words) as error:
        call()
    assert str(error.value).count("\n") == 0
