"""Learners of the conditional study: exact gradients by the oracles, problems side by side, Z in three ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rl_contrastive.claims.energy.conditional import runaway
from rl_contrastive.claims.energy.conditional_config import LEARNERS, LIKELIHOOD, ONE_DRAW
from rl_contrastive.claims.energy.conditional_data import Sizes, draw_problems, mean_tv
from rl_contrastive.claims.energy.conditional_learners import (
    Batch,
    BatchLoss,
    Descent,
    Fitted,
    Learner,
    fit_tables,
    log_inner,
    table_law,
    z_from_draws,
)
from rl_contrastive.errors import RlcError

SIZES = Sizes(num_states=8, num_actions=2, rank=2)
SHORT = Descent(steps=25, batch=32)


def problems(seeds, transitions=400):
    return draw_problems(seeds, SIZES, transitions=transitions, held_out=100, law="uniform", device=torch.device("cpu"))


def tables(B=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    log_phi = torch.randn(B, 16, 2, generator=rng, dtype=torch.float64)
    log_psi = torch.randn(B, 8, 2, generator=rng, dtype=torch.float64)
    return log_phi.requires_grad_(), log_psi.requires_grad_()


def gradients(learner, data, gamma=0.1, seed=1):
    """Of the loss of one batch of 64 rows, by log phi and log psi."""
    log_phi, log_psi = tables()
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randint(400, (2, 64), generator=rng)
    z = torch.randint(8, (2, learner.noise) if learner.shared else (2, 64, learner.noise), generator=rng)
    batch = Batch(data.x.gather(1, rows), data.y.gather(1, rows), z, log_inner(log_phi, log_psi), log_phi, log_psi)
    loss = BatchLoss(learner, Descent(gamma=gamma), data.q, 16)(batch)
    return torch.autograd.grad(loss, (log_phi, log_psi))


def test_inner_products_survive_scores_hundreds_of_nats_apart():
    log_phi, log_psi = tables()
    expected = torch.logsumexp(log_phi.unsqueeze(-2) + log_psi.unsqueeze(-3), -1)
    assert torch.allclose(log_inner(log_phi, log_psi), expected, atol=1e-13)
    far = torch.tensor([[[0.0, -900.0]]], dtype=torch.float64, requires_grad=True)
    near = torch.tensor([[[-900.0, 0.0]]], dtype=torch.float64)
    value = log_inner(far, near)  # e^{-900} twice: the plain product underflows
    assert float(value.detach()) == pytest.approx(-900.0 + np.log(2.0))
    assert torch.allclose(torch.autograd.grad(value.sum(), far)[0], torch.tensor([[[0.5, 0.5]]], dtype=torch.float64))


def test_vector_form_with_the_whole_law_has_the_gradient_of_exact_likelihood():
    data = problems((1, 2))
    exact = gradients(Learner("likelihood"), data)
    oracle = gradients(Learner("vector", 1, shared=True, u="exact", psi_gradient="exact"), data)
    # phi's part still comes from the one draw: only psi's must agree.
    assert torch.allclose(oracle[1], exact[1], atol=1e-13)
    sampled = gradients(Learner("vector", 1, shared=True), data)
    assert float((sampled[1] - exact[1]).abs().max()) > 0.01


def test_vector_form_with_exact_u_is_unbiased_over_the_law_of_its_draw():
    """sum_z q(z) gradient(z) = the gradient of likelihood, for phi and psi."""
    data = problems((1, 2))
    log_phi, log_psi = tables()
    x, y = data.x[:, :64], data.y[:, :64]
    learner = Learner("vector", 1, shared=True, u="exact")
    total = [torch.zeros_like(log_phi), torch.zeros_like(log_psi)]
    for s in range(8):
        z = torch.full((2, 1), s)
        loss = BatchLoss(learner, Descent(), data.q, 16)(Batch(x, y, z, log_inner(log_phi, log_psi), log_phi, log_psi))
        for i, part in enumerate(torch.autograd.grad(loss, (log_phi, log_psi))):
            total[i] += data.q[:, s, None, None] * part
    whole = Batch(x, y, y[:, :0], log_inner(log_phi, log_psi), log_phi, log_psi)
    exact = torch.autograd.grad(BatchLoss(Learner("likelihood"), Descent(), data.q, 16)(whole), (log_phi, log_psi))
    assert torch.allclose(total[0], exact[0], atol=1e-10)
    assert torch.allclose(total[1], exact[1], atol=1e-10)


@pytest.mark.parametrize("kind", ["likelihood", "nce", "infonce", "snis", "table", "one-u", "vector"])
def test_problems_side_by_side_are_fitted_as_if_alone(kind):
    learner = Learner(kind, 4, shared=kind == "vector")
    both = fit_tables(problems((1, 2)), (1, 2), learner, SHORT)
    alone = fit_tables(problems((2,)), (2,), learner, SHORT)
    assert torch.allclose(both.log_psi[1], alone.log_psi[0], atol=1e-8)
    assert torch.allclose(both.log_phi[1], alone.log_phi[0], atol=1e-8)
    if both.log_z is not None:
        assert torch.allclose(both.log_z[1], alone.log_z[0], atol=1e-8, equal_nan=True)


def test_fits_repeat_to_the_bit():
    first, again = (fit_tables(problems((3,)), (3,), Learner("table", 2), SHORT) for _ in range(2))
    assert torch.equal(first.log_phi, again.log_phi)
    assert torch.equal(first.log_psi, again.log_psi)


@pytest.mark.long
def test_likelihood_and_meco_learn_the_law_and_snis_with_two_draws_does_not():
    data, seeds = problems((1, 2), transitions=20000), (1, 2)
    options = Descent(lr=0.05, steps=500)
    tv = {
        name: float(mean_tv(table_law(fit_tables(data, seeds, learner, options), data.q), data).mean())
        for name, learner in {
            "likelihood": Learner("likelihood"),
            "table": Learner("table", 16),
            "vector": Learner("vector", 16, shared=True),
            "nce": Learner("nce", 16),
            "infonce": Learner("infonce", 16),
            "snis": Learner("snis", 2),
        }.items()
    }
    assert tv["likelihood"] < 0.03
    for name in ("table", "vector", "nce", "infonce"):
        assert tv[name] < tv["likelihood"] + 0.01, tv
    assert tv["snis"] > 0.1, tv


def test_z_from_draws_and_the_own_z_normalise_what_q_ef_does_not():
    data, seeds = problems((1,), transitions=5000), (1,)
    fitted = fit_tables(data, seeds, Learner("vector", 16, shared=True), Descent(steps=300))
    exact = torch.logsumexp(fitted.scores + data.q.log().unsqueeze(1), -1)
    assert float((z_from_draws(fitted, data, 100_000, seeds=seeds) - exact).abs().max()) < 0.05
    assert fitted.log_z is not None
    assert float((fitted.log_z - exact).abs().mean()) < 0.1
    assert float(exact.abs().mean()) > 0.3  # as it stands q e^f is no law
    P_hat = table_law(fitted, data.q)
    assert torch.allclose(P_hat.sum(-1), torch.ones_like(P_hat[..., 0]))
    assert fit_tables(data, seeds, Learner("infonce", 2), SHORT).log_z is None


@pytest.mark.long
def test_nce_alone_needs_no_normalisation():
    data, seeds = problems((1,), transitions=5000), (1,)
    nce = fit_tables(data, seeds, Learner("nce", 16), Descent(steps=800))
    mass = table_law(nce, data.q, nce.log_z).sum(-1)
    assert float((mass - 1.0).abs().mean()) < 0.05
    free = fit_tables(data, seeds, Learner("infonce", 16), Descent(steps=800))
    assert float((table_law(free, data.q, torch.zeros(1, 16)).sum(-1) - 1.0).abs().mean()) > 0.3


def test_a_runaway_outcome_is_named():
    data = problems((1,))
    log_psi = torch.zeros(1, 8, 2, dtype=torch.float64)
    log_psi[0, 5] = 50.0  # nearly all mass on outcome 5
    found = runaway(Fitted(torch.zeros(1, 16, 2, dtype=torch.float64), log_psi, None, 0.0), data)
    assert found["excess"][0] == pytest.approx(1.0 - float(data.P[0, :, 5].mean()))
    assert found["excess_share"][0] == pytest.approx(8 * float(data.q[0, 5]))


def test_averaged_descent_moves_psi_linearly_in_its_gradient_and_adam_does_not():
    """A rare outcome's first step: its size is the learning rate under Adam, in proportion to the gradient else."""
    data = problems((1,))
    one = Descent(steps=1, batch=4, lr_psi=0.3)
    start = fit_tables(data, (1,), Learner("likelihood"), replace(one, lr=1e-12))
    adam = fit_tables(data, (1,), Learner("likelihood"), one).log_psi - start.log_psi
    slow = fit_tables(data, (1,), Learner("likelihood", psi_steps="averaged"), one).log_psi - start.log_psi
    assert torch.allclose(adam.abs(), torch.full_like(adam, 0.03), rtol=1e-3)
    assert float(slow.abs().max()) > 3.0 * float(slow.abs().min())


def test_the_vector_form_shares_its_noise():
    with pytest.raises(RlcError, match="shares its noise"):
        fit_tables(problems((1,)), (1,), Learner("vector", 16), SHORT)


def test_every_learner_of_the_study_takes_a_step():
    data = problems((1,))
    for name, learner in {**LEARNERS, **{name: learner for name, (learner, _) in ONE_DRAW.items()}}.items():
        fitted = fit_tables(data, (1,), learner, Descent(steps=2, batch=8))
        assert torch.isfinite(fitted.log_psi).all(), name
    assert LEARNERS[LIKELIHOOD] == ONE_DRAW[LIKELIHOOD][0]
