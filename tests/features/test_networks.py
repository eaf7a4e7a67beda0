"""Stacked factors: stable scores, gradients, batch of steps equals steps one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rl_contrastive.features.batches import Batch
from rl_contrastive.features.descent import DescentConfig, descend
from rl_contrastive.features.networks import (
    RowFactors,
    TableFactors,
    TensorBatch,
    contrast,
    export,
    mlp_weights,
)
from rl_contrastive.objectives import make
from rl_contrastive.objectives.scores import log_softplus, pair_scores, row_scores

H, S, A, D = 3, 4, 2, 2


class Fixed:
    """A sampler that repeats one batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def draw(self, *, rng: np.random.Generator) -> Batch:
        return self.batch


def test_log_softplus_by_hand_and_far_out() -> None:
    u = torch.tensor([0.0, 3.0, -1000.0, 1000.0], requires_grad=True)
    value = log_softplus(u, 2.0)
    expected = [np.log(np.log(2) / 2), np.log(np.log1p(np.exp(6.0)) / 2), -2000.0 - np.log(2), np.log(1000.0)]
    assert value.detach().numpy() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(value.sum(), u)
    assert gradient.numpy() == pytest.approx([1 / np.log(2), 2 / (np.exp(-6.0) + 1) / np.log1p(np.exp(6.0)), 2.0, 1e-3])


def test_scores_agree_with_the_plain_formula_and_survive_float32_extremes() -> None:
    rng = np.random.default_rng(0)
    u, v = torch.tensor(rng.normal(size=(H, 5, D))), torch.tensor(rng.normal(size=(H, 6, D)))
    f = np.einsum("hnd,hmd->hnm", np.logaddexp(0, 3 * u.numpy()) / 3, np.logaddexp(0, 3 * v.numpy()) / 3)
    assert pair_scores(u, v, 3.0, log=True).numpy() == pytest.approx(np.log(f), abs=1e-12)
    assert pair_scores(u, v, 3.0, log=False).numpy() == pytest.approx(f, abs=1e-12)
    matching = np.einsum("hnd,hnd->hn", np.logaddexp(0, u.numpy()), np.logaddexp(0, v[:, :5].numpy()))
    assert row_scores(u, v[:, :5], 1.0, log=True).numpy() == pytest.approx(np.log(matching), abs=1e-12)
    assert row_scores(u, v[:, :5], 1.0, log=False).numpy() == pytest.approx(matching, abs=1e-12)
    low = torch.full((1, 1, D), -90.0, requires_grad=True)  # softplus(-90)^2 = 1e-78 is 0 in float32
    score = pair_scores(low, low, 1.0, log=True)
    assert float(score.detach()) == pytest.approx(-180 + np.log(2), rel=1e-6)
    (gradient,) = torch.autograd.grad(score.sum(), low)
    assert gradient.numpy() == pytest.approx(1.0, rel=1e-5)


def factors(hidden: tuple[int, ...], rng: np.random.Generator) -> RowFactors:
    weights = {"Phi": rng.normal(size=(H, A, 4, D)), "Psi": rng.normal(size=(H, 4, D))}
    weights |= mlp_weights("phi", 3, A * D, hidden, H, rng=rng, warm=False)
    weights |= mlp_weights("psi", 3, D, hidden, H, rng=rng, warm=False)
    z, y = (np.concatenate([rng.normal(size=(H, 9, 3)), np.ones((H, 9, 1))], axis=2) for _ in range(2))
    action = rng.integers(A, size=(H, 9))
    return RowFactors(z, action, y, weights, beta=2.0, dtype=torch.float64, device="cpu")


@pytest.mark.parametrize("objective", ["nce", "infonce", "mle", "logistic", "spectral"])
@pytest.mark.parametrize("hidden", [(), (5,)])
def test_gradients_of_all_parameters_agree_with_finite_differences(objective: str, hidden: tuple[int, ...]) -> None:
    rng = np.random.default_rng(7)
    network = factors(hidden, rng)
    index = rng.integers(9, size=(H, 6))
    plain = Batch(index, index, index[:, :4], np.full((H, 6, 1), 1 / 6), np.full((H, 4), 0.25))
    batch = TensorBatch.of(plain, network.parameters[0])
    loss = make(objective).judge(contrast(network, batch)).loss.sum()
    gradients = torch.autograd.grad(loss, network.parameters)
    for parameter, gradient in zip(network.parameters, gradients, strict=True):
        direction = torch.tensor(rng.normal(size=tuple(parameter.shape)))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-6 * direction
                values.append(float(make(objective).judge(contrast(network, batch)).loss.sum()))
                parameter -= sign * 1e-6 * direction
        slope = (values[0] - values[1]) / 2e-6
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_one_call_for_all_steps_equals_a_loop_over_steps() -> None:
    rng = np.random.default_rng(1)
    phi, psi = rng.normal(size=(H, S * A, D)), rng.normal(size=(H, S, D))
    weight = rng.random((H, S * A, S))
    weight /= weight.sum(axis=(1, 2), keepdims=True)
    law = np.full((H, S), 1 / S)
    stop = rng.random((H, S * A, S))
    stop /= stop.sum(axis=(1, 2), keepdims=True)
    config = DescentConfig(steps=60, lr=0.1, weight_decay=0.01, check_every=5, patience=2)

    def run(rows: slice) -> tuple[list[np.ndarray], np.ndarray]:
        network = TableFactors(phi[rows], psi[rows], beta=1.0, dtype=torch.float64, device="cpu")
        batch = Batch(None, None, None, weight[rows], law[rows])
        judge = Batch(None, None, None, stop[rows], law[rows])
        result = descend(network, Fixed(batch), make("nce"), config, rng=rng, stop_on=judge)
        return list(export(network, result.values).values()), result.steps

    values, steps = run(slice(None))
    assert len(set(steps.tolist())) > 1  # the steps stop at different iterations, or the test shows little
    for h in range(H):
        single, step = run(slice(h, h + 1))
        assert step[0] == steps[h]
        for whole, part in zip(values, single, strict=True):
            assert part[0] == pytest.approx(whole[h], abs=1e-10)
