"""Regularised losses of pairs: RPO and HyPO are DPO with a regulariser, and other losses take one, too."""

import pytest
import torch

from rl_contrastive.errors import RlcError
from rl_contrastive.preferences import (
    DPO,
    GCPO,
    GRACE,
    IPO,
    NLL,
    RPO,
    Completions,
    DPOConfig,
    HyPO,
    HyPOConfig,
    OnlineKL,
    Regularised,
    RPOConfig,
    SemDPO,
    SparsePO,
    margins,
    mean_rows,
)
from rl_contrastive.preferences.base import Pairs, PairWeight, RewardTransform

F64 = torch.float64


def drawn(*shape, seed):
    rng = torch.Generator().manual_seed(seed)
    x, ref = (torch.randn(*shape, dtype=F64, generator=rng) for _ in range(2))
    return Completions(x.requires_grad_(True), ref)


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize(
    ("own", "built"),
    [
        (RPO(RPOConfig(beta=0.5, eta=0.2)), Regularised(DPO(DPOConfig(beta=0.5)), NLL(), 0.5 * 0.2)),
        (RPO(RPOConfig(eta=0.2, form="mean")), Regularised(DPO(), NLL("mean"), 0.2)),
        (HyPO(HyPOConfig(kl_weight=0.3)), Regularised(DPO(), OnlineKL(), 0.3, on="online")),
    ],
)
def test_rpo_and_hypo_are_dpo_with_a_regulariser(own, built, lead):
    chosen, rejected = (drawn(*lead, 4, 3, seed=seed) for seed in (0, 1))
    online = drawn(*lead, 2, 3, 3, seed=2)
    found = []
    for objective in (own, built, DPO(DPOConfig(beta=built.objective.config.beta))):
        loss = objective(chosen, rejected, online=online).loss
        inputs = (chosen.logp, rejected.logp, online.logp)
        grads = torch.autograd.grad(loss.sum(), inputs, allow_unused=True, materialize_grads=True)
        found.append([loss, *grads])
    assert all(torch.allclose(x, y, atol=1e-14) for x, y in zip(*found[:2], strict=True))
    assert not torch.allclose(found[2][0], found[0][0])  # control: without the regulariser


def test_ipo_with_likelihood_by_hand():
    one, zero = torch.tensor([[-1.0, -2.0]], dtype=F64), torch.zeros(1, 2, dtype=F64)
    result = Regularised(IPO(), NLL(), 0.5)(Completions(one, one + 0.1), Completions(zero, zero))
    assert float(result.loss) == pytest.approx((-0.2 - 5.0) ** 2 + 0.5 * 3)
    assert float(result.rows) == pytest.approx((-0.2 - 5.0) ** 2)
    assert float(result.diagnostics["regulariser"]) == 3


def test_the_objective_s_state_and_needs_are_kept():
    rng = torch.Generator().manual_seed(0)
    both = Regularised(SparsePO(), OnlineKL(), 0.1, on="online")
    assert both.needs == {"kl", "hidden", "online"}
    assert SparsePO().needs == {"kl", "hidden"}
    state = both.initial(4, rng)
    assert len(both.parameters(state)) == len(state) > 0


def test_a_loss_written_outside_is_two_lines():
    chosen, rejected = (drawn(3, 2, seed=seed) for seed in (0, 1))
    m = margins(Pairs(chosen, rejected))
    assert torch.equal(mean_rows(-torch.nn.functional.logsigmoid(0.1 * m), m, None, {}).loss,
                       DPO()(chosen, rejected).loss)  # fmt: skip


def test_transforms_and_weights_state_their_protocols():
    assert all(RewardTransform in kind.__mro__ for kind in (GCPO, GRACE))
    assert PairWeight in SemDPO.__mro__


A, B = (Completions(torch.full((2, 3), x), torch.zeros(2, 3)) for x in (0.0, 1.0))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Regularised(DPOConfig(), NLL(), 0.1), "needs a PairObjective, got DPOConfig"),
        (lambda: Regularised(DPO(), NLL, 0.1), "must be an object to call"),
        (lambda: Regularised(DPO(), NLL(), -0.1), "weight must be >= 0"),
        (lambda: Regularised(DPO(), NLL(), float("nan")), "weight must be >= 0"),
        (lambda: Regularised(DPO(), NLL(), None), "weight must be a number"),
        (lambda: Regularised(DPO(), NLL(), 0.1, on="rejected"), "on must be one of"),
        (lambda: NLL("max"), "reduce must be one of"),
        (lambda: Regularised(DPO(), OnlineKL(), 0.1)(A, B), r"online_kl: needs K >= 2 completions"),
        (lambda: Regularised(DPO(), OnlineKL(), 0.1, on="online")(A, B), "Regularised: needs completions that the"),
        (lambda: Regularised(DPO(), lambda y: y.logp, 0.1)(A, B), r"must give shape \(\), one number a problem"),
    ],
)
def test_wrong_use_is_one_sentence(call, words):
    with pytest.raises(RlcError, match=words) as error:
        call()
    assert str(error.value).count("\n") == 0
