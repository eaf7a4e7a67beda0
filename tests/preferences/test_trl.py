"""Our losses equal TRL's on stored numbers.

How they were made. Pairs: the source of `DPOTrainer.dpo_loss` of trl 0.12.2 (the last minor version with one method for
all losses), cut out of the wheel by `ast` and called on a stub of the trainer with the tensors below in float64; IPO
once on sums and once on the means that this trainer takes for it; RPO as the trainer adds it, losses.mean() + rpo_alpha
* cross-entropy over all chosen tokens. Groups: the formulas of `RLOOTrainer` and `GRPOTrainer` of trl 1.16.0 (grouped
rewards, torch's std + 1e-4, loss_type "grpo", importance sampling by token), written down again in numpy in this file,
because they cannot be called apart from generation.
"""

import numpy as np
import pytest
import torch

from rl_contrastive.preferences import (
    CDPO,
    DPO,
    GRPO,
    IPO,
    RLOO,
    RPO,
    CDPOConfig,
    Completions,
    DPOConfig,
    GRPOConfig,
    IPOConfig,
    RLOOConfig,
    RPOConfig,
)

F64 = torch.float64


def tensor(x):
    return torch.tensor(x, dtype=F64)


CHOSEN = Completions(tensor([[-1.0, -2.0, -0.5], [-0.3, -1.2, -2.2]]), tensor([[-1.2, -2.3, -0.4], [-0.9, -1.0, -2.0]]))
REJECTED = Completions(
    tensor([[-1.5, -0.7, -1.1], [-2.0, -0.4, -0.6]]), tensor([[-1.1, -0.9, -1.0], [-1.7, -0.8, -0.9]])
)


@pytest.mark.parametrize(
    ("objective", "want"),
    [
        (DPO(DPOConfig(beta=0.1)), [0.658759556, 0.703197180]),
        (CDPO(CDPOConfig(beta=0.1, smoothing=0.2)), [0.672759556, 0.699197180]),
        (IPO(IPOConfig(beta=0.1)), [18.49, 27.04]),
        (IPO(IPOConfig(beta=0.1, reduce="mean")), [22.721111111, 25.671111111]),
    ],
)
def test_pairs(objective, want):
    assert objective(CHOSEN, REJECTED).rows.tolist() == pytest.approx(want, abs=1e-8)


def test_rpo():
    # TRL means over all chosen tokens of the batch, we over those of each completion: the same for equal lengths.
    loss = RPO(RPOConfig(beta=0.5, eta=0.2, form="mean"))(CHOSEN, REJECTED).loss
    assert float(loss) == pytest.approx(0.878889407746174, abs=1e-12)


REWARD = np.array([1.0, 0.0, 0.3, 0.9])
LOGP = np.array([[-1.0, -0.4], [-0.2, -1.4], [-0.8, -0.6], [-2.0, -0.1]])
OLD = LOGP + np.array([[0.3, -0.1], [0.0, 0.2], [-0.4, 0.1], [0.05, -0.6]])
REF = LOGP + np.array([[0.1, 0.2], [-0.2, 0.3], [0.0, 0.1], [1.0, 0.0]])


def trl_grpo(logp, old, ref, reward, beta, eps, std=True):
    """(per_token_loss.sum(-1)/T).mean()."""
    advantage = reward - reward.mean()
    if std:
        advantage = advantage / (reward.std(ddof=1) + 1e-4)
    coef = np.exp(logp - old)
    clipped = np.clip(coef, 1 - eps, 1 + eps)
    token = -np.minimum(coef * advantage[:, None], clipped * advantage[:, None])
    token = token + beta * (np.exp(ref - logp) - (ref - logp) - 1)
    return token.mean(-1).mean()


@pytest.mark.parametrize(("beta", "std"), [(0.0, True), (0.04, True), (0.3, False)])
def test_grpo(beta, std):
    objective = GRPO(GRPOConfig(beta=beta, clip=0.2, std=std))
    found = objective(Completions(tensor(LOGP), tensor(REF)), tensor(REWARD), old_logp=tensor(OLD))
    assert float(found.loss) == pytest.approx(trl_grpo(LOGP, OLD, REF, REWARD, beta, 0.2, std), abs=1e-12)


def test_rloo():
    # TRL: A = R - (sum R - R)/(K - 1), R - beta sum_t (log pi - log pi_ref) in its place, loss -mean A log pi.
    logp = tensor(LOGP).requires_grad_(True)
    RLOO(RLOOConfig(beta=0.1))(Completions(logp, tensor(REF)), tensor(REWARD)).loss.backward()
    r = REWARD - 0.1 * (LOGP - REF).sum(-1)
    advantage = r - (r.sum() - r) / 3
    assert logp.grad.numpy() == pytest.approx(np.repeat(-advantage[:, None] / 4, 2, axis=1))
