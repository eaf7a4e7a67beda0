"""Each objective: hand-computed value, finite differences, density ratio as population minimiser, stability."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rl_contrastive.errors import RlcError
from rl_contrastive.objectives import make
from rl_contrastive.registry import entries

NAMES = [entry.name for entry in entries("objective")]
EXACT = [name for name in NAMES if name != "infonce" and make(name).recovers.startswith("ratio")]
"""Of exact expectations the ratio is the minimiser; of `infonce` only with many negatives."""
# Two anchors seen equally often, three successors: P(s'|anchor) and P^-.
P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.4, 0.5]], dtype=torch.float64)
LAW = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
RATIO = P / LAW


def population(name: str, f: torch.Tensor, options: dict[str, float] | None = None) -> torch.Tensor:
    """Exact loss of the ratio table f (2, 3)."""
    objective = make(name, options)
    scores = f.log() if objective.space == "log" else f
    return objective(scores, scores, P / 2, LAW.expand(2, 3)).loss


def test_the_registry_knows_the_five() -> None:
    assert {"nce", "logistic", "infonce", "mle", "spectral"} <= set(NAMES)


def test_hand_computed_values() -> None:
    pos, neg = torch.tensor([[math.log(3.0)]]), torch.tensor([[math.log(1.0), math.log(2.0)]])
    pos_weight, law = torch.ones(1, 1), torch.tensor([[0.25, 0.75]])

    def value(name: str, options: dict[str, float] | None = None) -> float:
        objective = make(name, options)
        p, n = (pos, neg) if objective.space == "log" else (pos.exp(), neg.exp())
        return float(objective(p, n, pos_weight, law).loss)

    # f = 3 on the positive, f = 1 and 2 on the negatives with P^- = (1/4, 3/4).
    assert value("nce") == pytest.approx(math.log(4 / 3) + 0.25 * math.log(2) + 0.75 * math.log(3), rel=1e-6)
    assert value("logistic") == pytest.approx(value("nce"), rel=1e-6)
    # nu = 2: log(1 + 2/3) + 2 (1/4 log(1 + 1/2) + 3/4 log(1 + 2/2)).
    expected = math.log(5 / 3) + 0.5 * math.log(1.5) + 1.5 * math.log(2.0)
    assert value("logistic", {"negatives": 2.0}) == pytest.approx(expected, rel=1e-6)
    assert value("infonce") == pytest.approx(math.log((3 + 2 * 1.75) / 3), rel=1e-6)  # E_{P^-} f = 1.75, M = 2
    assert value("mle") == pytest.approx(math.log(1.75 / 3), rel=1e-6)
    assert value("spectral") == pytest.approx(-6 + 0.25 * 1 + 0.75 * 4, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    rng = np.random.default_rng(3)
    f = torch.tensor(np.exp(rng.normal(size=(2, 3))), requires_grad=True)
    (gradient,) = torch.autograd.grad(population(name, f), f)
    for i in range(2):
        for j in range(3):
            step = torch.zeros(2, 3, dtype=torch.float64)
            step[i, j] = 1e-6
            slope = (population(name, f.detach() + step) - population(name, f.detach() - step)) / 2e-6
            assert float(gradient[i, j]) == pytest.approx(float(slope), abs=1e-7)


@pytest.mark.parametrize("name", EXACT)
def test_population_minimiser_is_the_density_ratio(name: str) -> None:
    f = RATIO.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(population(name, f), f)
    assert float(gradient.abs().max()) < 1e-12
    best, rng = float(population(name, RATIO)), np.random.default_rng(0)
    for _ in range(20):
        factor = torch.tensor(np.exp(0.3 * rng.normal(size=(2, 3))))
        assert float(population(name, RATIO * factor)) > best
    # The negative control: at the ratio to another law the gradient is far from 0.
    wrong = (P / torch.tensor([0.25, 0.5, 0.25])).requires_grad_()
    (gradient,) = torch.autograd.grad(population(name, wrong), wrong)
    assert float(gradient.abs().max()) > 1e-2


def test_infonce_with_many_negatives_has_the_ratio_as_minimiser() -> None:
    """With M draws of P^- beside the positive the minimiser is exact in expectation; M = 3000 is near it."""
    objective, copies = make("infonce"), 1000

    def loss(scores: torch.Tensor) -> torch.Tensor:
        weight = LAW.repeat(copies).expand(2, -1) / copies
        return objective(scores, scores.repeat(1, copies), P / 2, weight).loss

    s = RATIO.log().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(s), s)
    assert float(gradient.abs().max()) < 2e-4
    shuffled = RATIO[[1, 0]].log()
    assert float(loss(shuffled)) > float(loss(RATIO.log())) + 0.1


@pytest.mark.parametrize("name", ["infonce", "mle"])
def test_softmax_losses_ignore_a_constant_of_the_anchor(name: str) -> None:
    shift = torch.tensor([[2.0], [0.1]], dtype=torch.float64)
    assert float(population(name, RATIO * shift)) == pytest.approx(float(population(name, RATIO)), abs=1e-12)
    assert float(population("nce", RATIO * shift)) > float(population("nce", RATIO)) + 1e-3


def test_spectral_value_at_the_minimum() -> None:
    assert float(population("spectral", RATIO)) == pytest.approx(-float((P / 2 * RATIO).sum()), abs=1e-12)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "spectral"])
def test_extreme_scores_stay_finite_in_float32(name: str) -> None:
    pos = torch.tensor([[-300.0]], requires_grad=True)
    neg = torch.tensor([[300.0, -300.0]], requires_grad=True)
    result = make(name)(pos, neg, torch.ones(1, 1), torch.tensor([[0.5, 0.5]]))
    gradients = torch.autograd.grad(result.loss.sum(), (pos, neg))
    assert bool(torch.isfinite(result.loss).all())
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_leading_axes_are_separate_problems_and_padding_weighs_nothing(name: str) -> None:
    rng = np.random.default_rng(1)
    objective = make(name)
    pos, neg = torch.tensor(rng.normal(size=(4, 5, 1))), torch.tensor(rng.normal(size=(4, 5, 6)))
    weight = torch.full((4, 5, 1), 0.25, dtype=torch.float64)
    weight[:, 4] = 0.0  # a padded row
    law = torch.full((4, 5, 6), 1 / 6, dtype=torch.float64)
    whole = objective(pos, neg, weight, law)
    for h in range(4):
        part = objective(pos[h, :4], neg[h, :4], weight[h, :4], law[h, :4])
        assert float(whole.loss[h]) == pytest.approx(float(part.loss), abs=1e-12)
        assert torch.allclose(whole.rows[h, :4], part.rows)
        assert float(whole.rows[h, 4]) == 0.0
    assert torch.allclose((weight.sum(-1) * whole.rows).sum(-1), whole.loss)


def test_impossible_options_are_refused() -> None:
    for name, options in (
        ("infonce", {"temperature": 0.0}),
        ("logistic", {"negatives": 0.0}),
        ("logistic", {"smoothing": 0.5}),
        ("nce", {"temperature": 1.0}),
        ("infonec", {}),
    ):
        with pytest.raises(RlcError):
            make(name, options)
