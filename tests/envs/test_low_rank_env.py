"""Random low-rank MDPs: brute-force optimum, rank, the two ways of stepping, and the configuration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rl_contrastive.envs import low_rank
from rl_contrastive.envs.low_rank import LowRankConfig, LowRankEnv
from rl_contrastive.errors import RlcError


def policy_value(P, r, rho, policy) -> float:
    """Forward expectation of a deterministic policy (H, S): no backward induction in it."""
    total, d = 0.0, rho
    states = np.arange(P.shape[1])
    for h, choice in enumerate(policy):
        total += d @ r[h, states, choice]
        d = d @ P[h, states, choice]
    return float(total)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stationary", [False, True])
def test_optimal_value_equals_the_best_of_all_policies(seed, stationary):
    config = LowRankConfig(num_states=3, num_actions=2, horizon=3, rank=2, mdp_seed=seed, stationary=stationary)
    model = LowRankEnv(config, 1).exact()
    tables = itertools.product(itertools.product(range(2), repeat=3), repeat=3)  # 8^3 policies
    best = max(policy_value(model.P, model.r, model.rho, np.array(t)) for t in tables)
    assert model.optimal_return == pytest.approx(best, abs=1e-12)


def test_rank_of_the_kernel_is_d_at_every_step():
    model = LowRankEnv(LowRankConfig(num_states=30, num_actions=4, horizon=3, rank=3), 1).exact()
    for P in model.P:
        singular = np.linalg.svd(P.reshape(-1, 30), compute_uv=False)
        assert singular[2] > 1e-3
        assert singular[3] < 1e-12


def test_the_mdp_is_a_function_of_its_seed_and_not_of_the_batch():
    one, other = LowRankEnv(LowRankConfig(mdp_seed=5), 1), LowRankEnv(LowRankConfig(mdp_seed=5), 64)
    np.testing.assert_array_equal(one.mdp.phi, other.mdp.phi)
    np.testing.assert_array_equal(one.mdp.r, other.mdp.r)
    assert not np.array_equal(one.mdp.phi, LowRankEnv(LowRankConfig(mdp_seed=6), 1).mdp.phi)


def test_kernels_differ_between_steps_unless_stationary():
    assert not np.array_equal(*LowRankEnv(LowRankConfig(horizon=2), 1).exact().P)
    stationary = LowRankEnv(LowRankConfig(horizon=7, stationary=True), 1).exact()
    assert stationary.P.shape[0] == 7
    assert stationary.P.strides[0] == 0  # a broadcast view, not seven copies


def test_linear_reward_is_linear_in_phi_and_the_table_is_not():
    for reward, fits in (("linear", True), ("table", False)):
        model = LowRankEnv(LowRankConfig(reward=reward), 1).exact()
        phi, r = model.phi[0].reshape(-1, 3), model.r[0].ravel()
        residual = r - phi @ np.linalg.lstsq(phi, r, rcond=None)[0]
        assert (np.abs(residual).max() < 1e-12) == fits
        assert r.min() >= 0.0
        assert r.max() <= 1.0


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_both_ways_of_stepping_have_the_same_law(monkeypatch, limit):
    """Through the factors (limit 0) or from the whole kernel: mean return of a fixed policy within 5 sd of exact."""
    monkeypatch.setattr(low_rank, "WHOLE_KERNEL", limit)
    n = 40_000
    env = LowRankEnv(LowRankConfig(num_states=12, horizon=4), n)
    assert (env._factor is None) == (limit > 0)
    model = env.exact()
    policy = model.Q.argmin(axis=-1)  # (H, S) the worst one: any other would do
    obs, _ = env.reset(seed=0)
    total = np.zeros(n)
    for h in range(4):
        obs, reward, *_ = env.step(policy[h][obs])
        total += reward
    exact = policy_value(model.P, model.r, model.rho, policy)
    assert abs(total.mean() - exact) < 5 * total.std() / np.sqrt(n)
    assert abs(total.mean() - model.optimal_return) > 20 * total.std() / np.sqrt(n)  # and not any value would do


def test_large_instances_are_made_without_the_kernel():
    env = LowRankEnv(LowRankConfig(num_states=1000, num_actions=5, horizon=5, rank=5), 32)
    env.reset(seed=0)
    env.step(np.zeros(32, dtype=int))
    assert env._factor is not None
    assert "_exact" not in vars(env)  # P (200 MB) is built on demand only
    assert 0 < env.env_spec.optimal_return < 5


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_states", 0), ("rank", 0), ("horizon", -1), ("num_actions", 0), ("alpha_phi", 0.0), ("mdp_seed", -1)],
)
def test_impossible_values_are_named(field, value):
    with pytest.raises(RlcError, match=field):
        LowRankConfig(**{field: value})
