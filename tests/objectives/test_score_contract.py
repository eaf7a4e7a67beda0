"""Wrong scores and weights of a score objective give one sentence at `__call__`, and descents pay nothing for it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rl_contrastive.errors import RlcError
from rl_contrastive.objectives import Contrast, Objective, ObjectiveResult, make
from rl_contrastive.objectives import base as objectives_base
from rl_contrastive.registry import entries

NAMES = [entry.name for entry in entries("objective")]


def arrays(H: int = 2, N: int = 3, K: int = 2, M: int = 4) -> dict[str, Tensor]:
    """Two problems of three anchors."""
    rng = torch.Generator().manual_seed(0)
    pos, neg = torch.rand(H, N, K, generator=rng), torch.rand(H, N, M, generator=rng)
    return {
        "pos": pos,
        "neg": neg,
        "pos_weight": torch.full_like(pos, 1 / (N * K)),
        "neg_weight": torch.full_like(neg, 1 / M),
    }


def spoiled(field: str, value: float) -> Tensor:
    x = arrays()[field]
    x[0, 0, 0] = value
    return x


WRONG: list[tuple[str, Any, str]] = [
    ("pos", spoiled("pos", math.nan), "pos holds NaN or infinite scores"),
    ("pos", spoiled("pos", math.inf), "pos holds NaN or infinite scores"),
    ("neg", spoiled("neg", math.nan), "neg holds NaN or infinite scores"),
    ("neg", spoiled("neg", -math.inf), "neg holds NaN or infinite scores"),
    ("pos_weight", spoiled("pos_weight", -0.1), "pos_weight must be finite and >= 0"),
    ("neg_weight", spoiled("neg_weight", math.nan), "neg_weight must be finite and >= 0"),
    ("neg_weight", spoiled("neg_weight", math.inf), "neg_weight must be finite and >= 0"),
    ("pos", arrays(N=4)["pos"], r"got pos \(2, 4, 2\) and neg \(2, 3, 4\)"),
    ("neg", arrays()["neg"][0], r"got pos \(2, 3, 2\) and neg \(3, 4\)"),
    ("pos", torch.tensor(0.5), r"pos must have shape \(..., N, K\)"),
    ("neg", arrays()["neg"][..., :0], "each anchor needs a positive and a negative"),
    ("pos_weight", arrays(K=1)["pos_weight"], r"pos_weight must have the shape \(2, 3, 2\) of its scores"),
    ("neg_weight", arrays(M=5)["neg_weight"], r"neg_weight must have the shape \(2, 3, 4\) .*, got \(2, 3, 5\)"),
    ("pos", arrays()["pos"].long(), "pos must hold floating-point numbers, got torch.int64"),
    ("neg", arrays()["neg"].numpy(), "neg must be a torch tensor, got ndarray"),
    ("pos_weight", arrays()["pos_weight"].tolist(), "pos_weight must be a torch tensor, got list"),
    ("pos_weight", 6.0 * arrays()["pos_weight"], "pos_weight must sum to 1 over all positives .*, got a sum of 6"),
    ("neg_weight", 4.0 * arrays()["neg_weight"], "neg_weight must sum to 1 over the M negatives .*, got a sum of 4"),
    ("neg_weight", 0.0 * arrays()["neg_weight"], "neg_weight must sum to 1 over the M negatives .*, got a sum of 0"),
]


@pytest.mark.parametrize("name", NAMES)
def test_wrong_scores_and_weights_give_one_sentence(name: str) -> None:
    objective = make(name)
    assert torch.isfinite(objective(**arrays()).loss).all()  # the control: what is right passes
    for field, value, sentence in WRONG:
        with pytest.raises(RlcError, match=f"{type(objective).__name__}: .*{sentence}") as found:
            objective(**{**arrays(), field: value})
        assert str(found.value).count("\n") == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_needs_an_anchor(name: str) -> None:
    with pytest.raises(RlcError, match="needs an anchor, N >= 1"):
        make(name)(**arrays(N=1) | {key: x[:, :0] for key, x in arrays(N=1).items()})


@pytest.mark.parametrize("law", [0.0, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_padding_has_any_score_and_any_law(name: str, law: float) -> None:
    """A row, a positive and a negative of weight 0 change neither the loss nor its gradient."""
    x = {key: value.double() for key, value in arrays().items()}
    x["pos_weight"] = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(1)).double()
    x["pos_weight"] /= x["pos_weight"].sum((-2, -1), keepdim=True)
    pad = torch.nn.functional.pad
    # The number M of negatives is part of some losses, so a negative of weight 0 is in both.
    plain = {**x, "neg": pad(x["neg"], (0, 1)), "neg_weight": pad(x["neg_weight"], (0, 1))}
    padded = {
        "pos": pad(pad(x["pos"], (0, 1), value=1e200), (0, 0, 0, 1), value=-1e200),
        "neg": pad(pad(x["neg"], (0, 1), value=1e200), (0, 0, 0, 1), value=1e200),
        "pos_weight": pad(x["pos_weight"], (0, 1, 0, 1)),
        "neg_weight": pad(pad(x["neg_weight"], (0, 1)), (0, 0, 0, 1), value=law),
    }
    gradients = []
    for arguments in (plain, padded):
        s = {key: arguments[key].clone().requires_grad_() for key in ("pos", "neg")}
        loss = make(name)(**{**arguments, **s}).loss.sum()
        gradients.append((loss.detach(), *torch.autograd.grad(loss, list(s.values()))))
    torch.testing.assert_close(gradients[1][0], gradients[0][0])
    torch.testing.assert_close(gradients[1][1], pad(gradients[0][1], (0, 1, 0, 1)))
    torch.testing.assert_close(gradients[1][2], pad(gradients[0][2], (0, 0, 0, 1)))


def test_the_loss_of_weights_that_sum_to_1() -> None:
    """Four times the weights gave 22.18 in place of 2 log 2 = 1.386."""
    s, t = torch.zeros(2, 1), torch.zeros(2, 3)
    assert float(make("nce")(s, t, torch.full_like(s, 0.5), torch.full_like(t, 1 / 3)).loss) == pytest.approx(1.386294)
    with pytest.raises(RlcError, match="pos_weight must sum to 1"):
        make("nce")(s, t, torch.full_like(s, 4.0), torch.full_like(t, 4.0))


@pytest.mark.parametrize("name", NAMES)
def test_a_problem_without_data_beside_others(name: str) -> None:
    x = arrays()
    x["pos_weight"][1] = 0.0
    loss = make(name)(**x).loss
    torch.testing.assert_close(loss[0], make(name)(**{key: value[0] for key, value in x.items()}).loss)
    assert loss[1] == 0
    with pytest.raises(RlcError, match="pos_weight must sum to 1"):
        make(name)(**{key: value[1] for key, value in x.items()})


@pytest.mark.parametrize("config", [{"temperature": 0.5}, 0.5, "x"])
@pytest.mark.parametrize("name", NAMES)
def test_a_config_of_another_class_is_one_sentence(name: str, config: Any) -> None:
    with pytest.raises(RlcError, match="the config must be"):
        type(make(name))(config)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_checks_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check waits for the device; a descent makes thousands of steps."""
    objective, x = make(name), arrays(N=3, M=3)

    def unexpected(*args: Any) -> None:
        raise AssertionError("checked in a step")

    monkeypatch.setattr(objectives_base, "require_scores", unexpected)
    phi = torch.rand(2, 3, 5)
    batch = Contrast(
        pos=lambda _: x["pos"],
        neg=lambda _: x["neg"],
        log_phi=lambda: phi,
        log_psi=lambda: phi,
        pos_weight=x["pos_weight"],
        law=x["neg_weight"][:, 0],
    )
    state = objective.initial(objectives_base.Sizes(levels=2, anchors=3, dim=5))
    assert torch.isfinite(objective.step(batch, state)[0].loss).all()
    with pytest.raises(AssertionError, match="checked in a step"):
        objective(**x)


class Earlier(Objective):
    """As written for earlier versions: __call__ in place of loss."""

    def __call__(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        return ObjectiveResult((pos_weight * pos).sum((-2, -1)), pos.mean(-1))


def test_an_objective_that_defines_call_still_works() -> None:
    x = arrays()
    expected = (x["pos_weight"] * x["pos"]).sum((-2, -1))
    assert torch.equal(Earlier().loss(**x).loss, expected)
    with pytest.raises(RlcError, match="Objective: an objective must define loss"):
        Objective()(**x)
