"""MECO as a feature objective: its gradient by hand and against exact likelihood, its averages, and what it repairs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rl_contrastive.errors import RlcError
from rl_contrastive.features.batches import Batch
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.learner import FeatureLearner
from rl_contrastive.features.networks import TableFactors, TensorBatch, contrast
from rl_contrastive.objectives import make
from rl_contrastive.objectives.base import Objective, Sizes, State
from rl_contrastive.spec import StepData

H, S, A, d = 2, 6, 2, 3
SIZES = Sizes(levels=H, anchors=S * A, dim=d)
NAMES = ("meco", "meco-keyed")


def factors(seed: int = 0, dtype: torch.dtype = torch.float64) -> TableFactors:
    rng = np.random.default_rng(seed)
    return TableFactors(rng.normal(size=(H, S * A, d)), rng.normal(size=(H, S, d)), beta=1.0, dtype=dtype, device="cpu")


def table_batch(seed: int = 1, dtype: torch.dtype = torch.float64) -> TensorBatch:
    """All (s,a) x s' with random counts; P^- is not uniform."""
    rng = np.random.default_rng(seed)
    weight = rng.dirichlet(np.ones(S * A * S), size=H).reshape(H, S * A, S)
    law = rng.dirichlet(np.ones(S), size=H)
    return TensorBatch.of(Batch(None, None, None, weight, law), torch.zeros((), dtype=dtype))


def loss_and_state(
    objective: Objective, f: TableFactors, batch: TensorBatch, state: State
) -> tuple[torch.Tensor, State]:
    result, state = objective.step(contrast(f, batch), state)
    return result.loss, state


def gradients(loss: torch.Tensor, f: TableFactors) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss.sum(), f.parameters))


@pytest.mark.parametrize("name", NAMES)
def test_with_the_whole_law_and_gamma_one_the_gradient_is_exact_likelihood(name: str) -> None:
    f, batch = factors(), table_batch()
    exact = gradients(make("mle").judge(contrast(f, batch)).loss, f)
    objective = make(name, {"gamma": 1.0})
    loss, _ = loss_and_state(objective, f, batch, objective.initial(SIZES))
    for mine, theirs in zip(gradients(loss, f), exact, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    # The negative control: divided by an old average the gradient is another one.
    old = make(name, {"gamma": 0.1})
    stale = {"log_u": old.initial(SIZES)["log_u"].nan_to_num(0.0) + 1.0}
    loss, _ = loss_and_state(old, f, batch, stale)
    assert max(float((a - b).abs().max()) for a, b in zip(gradients(loss, f), exact, strict=True)) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_without_state_it_is_the_likelihood(name: str) -> None:
    f, batch = factors(), table_batch()
    mine, exact = (make(which).judge(contrast(f, batch)).loss for which in (name, "mle"))
    torch.testing.assert_close(mine, exact)


def test_the_vector_follows_the_mean_of_psi_by_hand() -> None:
    f, batch, objective = factors(), table_batch(), make("meco", {"gamma": 0.25})
    psi = torch.nn.functional.softplus(f.parameters[1].detach())  # (H, S, d)
    mean = torch.einsum("hs,hsd->hd", batch.neg_weight, psi)
    first = objective.initial(SIZES)
    assert first["log_u"].shape == (H, d)
    _, one = loss_and_state(objective, f, batch, first)
    torch.testing.assert_close(one["log_u"].exp(), mean)  # nothing to average with yet
    five = {"log_u": torch.full((H, d), math.log(5.0), dtype=torch.float64)}
    _, two = loss_and_state(objective, f, batch, five)
    torch.testing.assert_close(two["log_u"].exp(), 0.75 * 5.0 + 0.25 * mean)


def test_keys_of_one_batch_are_averaged_first_and_others_keep_their_value() -> None:
    f, objective = factors(), make("meco-keyed", {"gamma": 0.25})
    anchors = np.array([[3, 3, 0], [1, 2, 2]])
    weight = np.full((H, 3, 1), 1 / 3)
    batch = TensorBatch.of(Batch(anchors, anchors % S, None, weight, np.full((H, S), 1 / S)), f.parameters[0])
    two = {"log_u": torch.full((H, S * A), math.log(2.0), dtype=torch.float64)}
    _, state = loss_and_state(objective, f, batch, two)
    phi, psi = (torch.nn.functional.softplus(p.detach()) for p in f.parameters)
    Z = torch.einsum("hnd,hsd->hn", phi, psi) / S  # (H, SA)
    expected = torch.full((H, S * A), 2.0, dtype=torch.float64)
    for h, seen in enumerate(anchors):
        for key in set(seen.tolist()):
            expected[h, key] = 0.75 * 2.0 + 0.25 * Z[h, key]
    torch.testing.assert_close(state["log_u"].exp(), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_state_is_double_and_scores_of_any_size_stay_finite_in_float32(name: str) -> None:
    big = [np.full((H, S * A, d), 300.0), np.full((H, S, d), -90.0)]
    f = TableFactors(*big, beta=1.0, dtype=torch.float32, device="cpu")
    objective = make(name)
    loss, state = loss_and_state(objective, f, table_batch(dtype=torch.float32), objective.initial(SIZES))
    u = state["log_u"]
    assert u.dtype == torch.float64
    assert all(bool(torch.isfinite(x).all()) for x in (loss, u, *gradients(loss, f)))


def test_a_level_without_data_trains_nothing() -> None:
    f = factors()
    batch = table_batch()
    batch.pos_weight[1] = 0.0
    for name in NAMES:
        objective = make(name)
        loss, _ = loss_and_state(objective, f, batch, objective.initial(SIZES))
        assert all(float(g[1].abs().max()) == 0.0 for g in gradients(loss, f))


def low_rank_counts(seed: int, n: int = 400) -> tuple[np.ndarray, TransitionCounts]:
    rng = np.random.default_rng(seed)
    phi, psi = rng.dirichlet(np.full(d, 0.5), size=(1, 20, A)), rng.dirichlet(np.full(20, 0.3), size=(1, d))
    P = phi @ psi[:, None]
    N = rng.multinomial(n, P.reshape(-1, 20)).reshape(P.shape)
    return P, TransitionCounts.from_dense(N.astype(np.float64))


def tv(objective: str, gamma: float | None = None, **options) -> float:
    """Mean TV of P-hat over two random low-rank kernels, 600 minibatches with shared negatives."""
    errors = []
    for seed in (0, 1):
        P, counts = low_rank_counts(seed)
        values = {} if gamma is None else {"gamma": gamma}
        config = LearnerConfig(
            method="nce", objective=objective, objective_options=values, dim=d, hold_out=0.0, steps=600, **options
        )
        learner = FeatureLearner(config, horizon=1, num_actions=A, num_states=20)
        model = learner.fit_table(counts, rng=np.random.default_rng(seed)).features.model()
        errors.append(0.5 * np.abs(model.rows(0) - P[0]).sum(-1).mean())
    return float(np.mean(errors))


@pytest.mark.long
def test_the_average_repairs_what_one_shared_negative_breaks() -> None:
    sampled = {"exact_entries": 0, "negatives": 1}
    exact = tv("mle")
    broken = tv("meco", 1.0, **sampled)  # gamma = 1: the batch's own partition, as `mle` with one draw
    assert tv("mle", **sampled) == pytest.approx(broken, abs=1e-6)
    for name in NAMES:
        mended = tv(name, 0.1, **sampled)
        assert mended < broken - 0.08  # measured .19 against .33
        assert tv(name) == pytest.approx(exact, abs=0.02)  # exact expectations: both are maximum likelihood


@pytest.mark.long
def test_rows_of_vectors_are_fitted_too_and_are_a_law() -> None:
    """Two latents, seen as noisy vectors: with either average P-hat puts its mass on the right cluster."""
    rng = np.random.default_rng(0)
    z = rng.integers(2, size=(1, 600))
    action = rng.integers(2, size=(1, 600))
    follows = np.where(rng.random((1, 600)) < 0.9, z ^ action, 1 - (z ^ action))
    emit = np.eye(2) * 2.0
    obs, after = (emit[k] + 0.3 * rng.normal(size=(1, 600, 2)) for k in (z, follows))
    ones = np.ones((1, 600))
    data = StepData(obs, action, 0 * ones, after, ones, np.array([600]))
    for name, least in (("meco", 0.8), ("meco-keyed", 0.8)):
        config = LearnerConfig(method="nce", objective=name, dim=3, steps=300, hold_out=0.0)
        fit = FeatureLearner(config, horizon=1, num_actions=2).fit_rows(data, rng=np.random.default_rng(1))
        phi = fit.features.phi(0, obs[0])[np.arange(600), action[0]]
        mass = np.maximum(phi @ fit.features.psi(0, after[0]).T, 0.0) / 600  # P-hat of every stored successor
        np.testing.assert_allclose(mass.sum(axis=1), 1.0, atol=1e-6)
        on_right = (mass * (follows[0][None] == (z ^ action)[0][:, None])).sum(axis=1).mean()
        assert least < on_right < 0.97, (name, on_right)


def test_names_and_options_are_checked_before_any_fit() -> None:
    for options, words in (({"gamma": 0.0}, "gamma must lie in"), ({"gama": 0.5}, "gama")):
        config = LearnerConfig(method="nce", objective="meco", objective_options=options)
        with pytest.raises(RlcError, match=words):
            FeatureLearner(config, horizon=1, num_actions=2, num_states=4)


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (torch.tensor([[0, 1, S * A]] * H), "ids must lie in 0.."),
        (torch.tensor([[0, -1, 2]] * H), "ids must lie in 0.."),
        (torch.tensor([0, 1, 2]), r"ids must be int64 of shape \(H, N\)"),
        (torch.tensor([[0.0, 1.0, 2.0]] * H), "ids must be int64 .*, got torch.float32"),
        (None, "3 anchors of .* in the state; ids must say which they are"),
        ([[0, 1, 2]] * H, "ids must be a torch tensor, got list"),
    ],
)
@pytest.mark.parametrize("name", ["meco-keyed", "isogclr"])
def test_wrong_ids_are_one_sentence(name: str, ids: Any, sentence: str) -> None:
    f, objective = factors(), make(name)
    anchors = np.array([[0, 1, 2]] * H)
    batch = TensorBatch.of(Batch(anchors, anchors % S, None, np.full((H, 3, 1), 1 / 3), np.full((H, S), 1 / S)),
                           f.parameters[0])  # fmt: skip
    found = contrast(f, batch)
    objective.step(found, objective.initial(SIZES))  # the control
    with pytest.raises(RlcError, match=f"{name}: {sentence}"):
        objective.step(replace(found, ids=ids), objective.initial(SIZES))
