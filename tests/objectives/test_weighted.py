"""dcl, dclw, hard and reweighted: published values, gradients, minimisers, and scores of any size."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from score_tables import LAW, ROWS, P, two_views
from torch import Tensor
from torch.nn.functional import cross_entropy

from rl_contrastive.errors import RlcError
from rl_contrastive.objectives import make
from rl_contrastive.objectives.weighted import relative_size, upper_part
from rl_contrastive.registry import entries
from rl_contrastive.testing import check_objective

CASES: list[tuple[str, dict[str, Any]]] = [
    ("dcl", {}),
    ("dcl", {"temperature": 0.5}),
    ("dclw", {}),
    ("dclw", {"temperature": 2.0, "sigma": 0.3}),
    ("hard", {}),
    ("hard", {"alpha": 0.2}),
    ("hard", {"alpha": 1.0}),
    *(("reweighted", {"weight": w, "direction": d}) for w in ("sft", "cl") for d in ("sft", "cl")),
    ("isogclr", {}),
    ("isogclr", {"rho": 0.0}),
    ("isogclr", {"tau_0": 1.0, "tau_max": 1.0, "eta": 0.0}),
]


def equal(pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
    """Equal weights."""
    return torch.full_like(pos, 1.0 / pos.numel()), torch.full_like(neg, 1.0 / neg.shape[-1])


@pytest.mark.parametrize(("name", "value"), [("dcl", 0.621604), ("dclw", 0.621643)])
def test_golden_values(name: str, value: float) -> None:
    pos, neg = two_views()
    loss = make(name, {"temperature": 0.1})(pos, neg, *equal(pos, neg)).loss
    assert float(loss) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_contract_of_an_objective(name: str, options: dict[str, Any]) -> None:
    assert check_objective(make(name, options))


def test_dcl_is_mle_and_a_constant_and_infonce_without_its_positive() -> None:
    pos, neg = two_views()
    v = torch.rand(neg.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w, v = equal(pos, neg)[0], v / v.sum(-1, keepdim=True)
    found = make("dcl")(pos, neg, w, v)
    torch.testing.assert_close(found.rows, make("mle")(pos, neg, w, v).rows + math.log(6))
    infonce = torch.logaddexp(pos, found.rows[:, None] + pos) - pos
    torch.testing.assert_close(infonce[:, 0], make("infonce")(pos, neg, w, v).rows)


def test_dclw_weights_by_hand() -> None:
    s, w = torch.tensor([[0.0], [math.log(3.0)]]), torch.tensor([[0.5], [0.5]])
    torch.testing.assert_close(relative_size(s, w), torch.tensor([[0.5], [1.5]]))  # B softmax = 2 (1/4, 3/4)
    loss = make("dclw", {"sigma": 1.0})(s, torch.zeros(2, 3), w, torch.full((2, 3), 1 / 3)).loss
    assert float(loss) == pytest.approx(-0.5 * 0.5 * math.log(3.0) + math.log(3.0), abs=1e-6)


def test_dclw_can_take_its_weights_as_constants() -> None:
    pos, neg = (x.requires_grad_() for x in two_views())
    values, gradients = [], []
    for detach in (False, True):
        loss = make("dclw", {"detach": detach, "sigma": 0.01})(pos, neg, *equal(pos, neg)).loss
        values.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, pos)[0])
    assert values[0] == values[1]
    assert float((gradients[0] - gradients[1]).abs().max()) > 0.01
    weight = 2.0 - 4.0 * torch.softmax(pos.detach()[:, 0] / 0.01, 0)
    torch.testing.assert_close(gradients[1][:, 0], -weight / 4)


def test_hard_keeps_the_highest_scores_and_ties_together() -> None:
    scores = torch.tensor([[4.0, 1.0, 3.0, 2.0], [1.0, 1.0, 0.0, 5.0], [2.0, 2.0, 2.0, 2.0]])
    quarter = torch.full((3, 4), 0.25)
    kept = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 1], [1, 1, 1, 1]], dtype=torch.bool)
    assert torch.equal(upper_part(scores, quarter, 0.5), kept)
    assert torch.equal(upper_part(scores, quarter, 1e-6)[0], torch.tensor([True, False, False, False]))
    # An entry of weight 0 is no negative, however high its score.
    assert torch.equal(
        upper_part(scores[:1], torch.tensor([[0.0, 0.3, 0.4, 0.3]]), 0.5), torch.tensor([[False, False, True, True]])
    )
    loss = make("hard")(torch.zeros(1, 1), scores[:1], torch.ones(1, 1), quarter[:1]).loss
    assert float(loss) == pytest.approx(math.log(1 + math.exp(4) + math.exp(3)), rel=1e-6)


def test_reweighted_of_one_kind_is_the_loss_of_two_logits() -> None:
    """sft/sft is binary cross-entropy of (yes, no), cl/cl InfoNCE of yes; crossed ones take one half of each."""
    g = torch.Generator().manual_seed(0)
    yes, no, yes_n, no_n = (
        torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_()
        for shape in ((5, 1), (5, 1), (5, 7), (5, 7))
    )
    inputs, (w, v) = (yes, no, yes_n, no_n), equal(yes, yes_n)

    def gradients(loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, inputs, allow_unused=True)
        return [torch.zeros_like(x) if d is None else d for x, d in zip(inputs, found, strict=True)]

    def reweighted(weight: str, direction: str) -> list[Tensor]:
        objective = make("reweighted", {"weight": weight, "direction": direction})
        return gradients(objective.two_logits((yes, no), (yes_n, no_n), w, v).loss)

    logits = torch.cat([torch.stack([yes, no], -1).flatten(0, 1), torch.stack([yes_n, no_n], -1).flatten(0, 1)])
    labels = torch.cat([torch.zeros(5), torch.ones(35)]).long()
    each = cross_entropy(logits, labels, reduction="none")
    sft = gradients(each[:5].mean() + each[5:].mean())
    cl = gradients(cross_entropy(torch.cat([yes, yes_n], 1), torch.zeros(5).long()))
    for found, expected in ((reweighted("sft", "sft"), sft), (reweighted("cl", "cl"), cl)):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
    crossed = reweighted("sft", "cl")
    torch.testing.assert_close(crossed[0], sft[0])  # the weights of sft
    assert float(crossed[1].abs().max()) == 0.0  # the direction of cl does not move `no`
    crossed = reweighted("cl", "sft")
    torch.testing.assert_close(crossed[2], cl[2])
    torch.testing.assert_close(crossed[3], -cl[2])


def test_reweighted_of_one_score_is_nce_or_infonce_in_value_and_gradient() -> None:
    pos, neg = (x.requires_grad_() for x in two_views())
    for weight, name in (("sft", "nce"), ("cl", "infonce")):
        for direction in ("sft", "cl"):
            ours = make("reweighted", {"weight": weight, "direction": direction})(pos, neg, *equal(pos, neg))
            theirs = make(name)(pos, neg, *equal(pos, neg))
            torch.testing.assert_close(ours.rows, theirs.rows)
            for a, b in zip(*(torch.autograd.grad(r.loss, (pos, neg)) for r in (ours, theirs)), strict=True):
                torch.testing.assert_close(a, b)
            total = float(ours.diagnostics["weight_positive"] + ours.diagnostics["weight_negatives"])
            assert 0 < total < 2


NAMES = [entry.name for entry in entries("objective")]
RECOVERING: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES if make(name).recovers != "nothing"),
    ("infonce", {"temperature": 2.0}),
    ("logistic", {"negatives": 3.0}),
    *((name, options) for name, options in CASES if options and make(name, options).recovers != "nothing"),
]


@pytest.mark.parametrize(("name", "options"), RECOVERING)
def test_the_minimiser_on_a_table_is_what_the_objective_says(name: str, options: dict[str, Any]) -> None:
    """Descent on a free table of scores with exact expectations, against log P/P^-."""
    objective = make(name, options)
    s = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    copies = 4000  # InfoNCE counts the positive among its negatives: M is large
    law = (LAW.repeat(copies) / copies).expand(4, -1)
    optimiser = torch.optim.LBFGS(
        [s], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        given = s if objective.space == "log" else s.exp()
        loss = objective(given, given.repeat(1, copies), ROWS[:, None] * P, law).loss
        loss.backward()
        return loss

    optimiser.step(closure)
    found, wanted = s.detach(), (P / LAW).log()
    if objective.recovers != "ratio":
        found, wanted = (x - x.mean(-1, keepdim=True) for x in (found, wanted))
    if objective.recovers == "tempered":  # each row may have a power of its own
        power = (found * wanted).sum(-1, keepdim=True) / wanted.square().sum(-1, keepdim=True)
        assert bool((power > 0.01).all())
        assert float((power - 1).abs().max()) > 0.1
        wanted = power * wanted
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_scores_of_any_size_and_problems_without_data_stay_finite(name, options, dtype) -> None:
    objective = make(name, options)
    for low, high in ((-1e4, 1e4), (1e4, -1e4), (0.0, 0.0), (1e4, 1e4)):
        pos = torch.tensor([[[low, high], [high, low]]] * 2, dtype=dtype, requires_grad=True)
        neg = torch.tensor([[[high, low, high]] * 2] * 2, dtype=dtype, requires_grad=True)
        w = torch.tensor([[[0.5, 0.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]], dtype=dtype)
        result = objective(pos, neg, w, torch.tensor([0.5, 0.5, 0.0], dtype=dtype).expand(2, 2, 3))
        assert bool(torch.isfinite(result.loss).all())
        assert bool(torch.isfinite(result.rows).all())
        assert float(result.loss[1].detach()) == 0.0
        for gradient in torch.autograd.grad(result.loss.sum(), (pos, neg)):
            assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dcl", {"temperature": 0.0}, r"dcl: temperature must lie in \[0.0001, 10000\], got 0.0."),
        ("dclw", {"sigma": -1.0}, r"dclw: sigma must lie in \[0.0001, 10000\], got -1.0."),
        ("hard", {"alpha": 0.0}, r"hard: alpha must lie in \(0, 1\], got 0.0."),
        ("hard", {"alpha": 1.5}, r"hard: alpha must lie in \(0, 1\], got 1.5."),
        ("reweighted", {"weight": "dpo"}, "weight must be one of"),
        ("isogclr", {"tau_0": 0.01}, "isogclr: need tau_min <= tau_0 <= tau_max, got 0.05, 0.01 and 0.7."),
        ("isogclr", {"gamma": 0.0}, r"isogclr: gamma must lie in \(0, 1\], got 0.0."),
        ("isogclr", {"form": "x"}, "form must be one of"),
    ],
)
def test_impossible_options_are_one_sentence(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RlcError, match=words):
        make(name, options)
