"""Exact gaps of what agents do in games: over states, over emissions, counted by plan, and when a game is solved."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.planning.games import duality_gap
from rl_contrastive.runs.budget import Budget, Progress
from rl_contrastive.runs.loop import train
from rl_contrastive.runs.oracle import EMISSIONS, GameOracle, MdpOracle, make_oracle
from rl_contrastive.spec import product

GAME = {"num_states": 5, "num_actions": 2, "num_opponent_actions": 2, "horizon": 2, "rank": 2}


class Scripted:
    """Plays given tables (H, S, AB); `width` is its certificate, `version` what the test says."""

    batch = 4

    def __init__(self, env, table, width=None, decode=lambda h, obs: obs):
        self.env, self.table, self.width, self.version, self.decode = env, table, width, 0, decode
        self.asked = 0

    def policy(self, obs, h, *, explore=False):
        self.asked += 1
        return self.table[h][self.decode(h, obs)]

    def certificate(self, obs):
        return None if self.width is None else np.full(len(obs), self.width)

    def begin(self, num_envs):
        self.rows = num_envs

    def act(self, obs, h):
        return np.zeros(self.rows, dtype=np.int64)

    def observe(self, transition):
        pass

    def update(self):
        self.version += 1
        return {}

    def exact_metrics(self, model):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def uniform_table(model):
    H, S, AB = model.r.shape
    return np.full((H, S, AB), 1.0 / AB)


def test_the_kind_of_model_picks_the_oracle(make_env):
    rng = np.random.default_rng(0)
    assert isinstance(make_oracle(make_env("low-rank", 1).exact(), rng), MdpOracle)
    assert isinstance(make_oracle(make_env("low-rank-game", 1).exact(), rng), GameOracle)


def test_metrics_of_a_game_by_the_planner(make_env):
    env = make_env("low-rank-game", 4, **GAME)
    model = env.exact()
    oracle = GameOracle(model, np.random.default_rng(0))
    agent = Scripted(env, uniform_table(model), width=0.5)
    found = oracle.metrics(agent)
    half = np.full((2, 5, 1, 2), 0.5)
    expected = duality_gap(model, half, half)
    assert found["gap"] == pytest.approx(expected.gap)
    assert found["loss_max"] == pytest.approx(model.optimal_return - expected.best_min)
    assert found["loss_min"] == pytest.approx(expected.best_max - model.optimal_return)
    assert found["loss_max"] + found["loss_min"] == pytest.approx(found["gap"])
    assert found["certificate"] == pytest.approx(0.5)
    assert oracle.policy_loss(agent) == pytest.approx(expected.gap)


def test_a_version_is_evaluated_once(make_env):
    env = make_env("low-rank-game", 4, **GAME)
    oracle = GameOracle(env.exact(), np.random.default_rng(0))
    agent = Scripted(env, uniform_table(env.exact()))
    oracle.metrics(agent)
    asked = agent.asked
    oracle.metrics(agent)
    assert agent.asked == asked
    agent.version = 1
    oracle.metrics(agent)
    assert agent.asked == 2 * asked


def test_over_rich_observations_the_policy_is_averaged_over_emissions(make_env):
    """A policy that reads the latent off the observation has the gap of its table; one that guesses has another."""
    fields = {"horizon": 2, "num_actions": 3, "delta": 0.2}
    env, twin = make_env("duel-lock", 4, **fields), make_env("duel-lock", 4, observation="state", **fields)
    model = env.exact()
    centres = [model.emissions(h, 200, np.random.default_rng(5)).mean(axis=1) for h in range(2)]  # (3, D)

    def decode(h, obs):
        return np.square(obs[:, None] - centres[h]).sum(axis=2).argmin(axis=1)

    rng = np.random.default_rng(1)
    table = product(rng.dirichlet(np.ones(3), (2, 3)), rng.dirichlet(np.ones(3), (2, 3)))
    rich = GameOracle(model, np.random.default_rng(0)).metrics(Scripted(env, table, decode=decode))
    plain = GameOracle(twin.exact(), np.random.default_rng(0)).metrics(Scripted(twin, table))
    assert rich["gap"] == pytest.approx(plain["gap"], abs=1e-9)
    coin = np.random.default_rng(2)
    lost = Scripted(env, table, decode=lambda h, obs: coin.integers(3, size=len(obs)))
    assert abs(GameOracle(model, np.random.default_rng(0)).metrics(lost)["gap"] - plain["gap"]) > 0.02
    assert EMISSIONS >= 50


def test_plans_are_counted_once_and_only_true_certificates_cover(make_env):
    env = make_env("low-rank-game", 4, **GAME)
    model = env.exact()
    gap = duality_gap(model, np.full((2, 5, 1, 2), 0.5), np.full((2, 5, 1, 2), 0.5)).gap
    for width, covered in ((gap + 0.01, 1.0), (gap - 0.01, 0.0)):
        result = train(Scripted(env, uniform_table(model), width), env, episodes=40, eval_every=8, eval_episodes=4)
        assert result.progress.plans == 10  # one for each version that was played
        assert result.progress.exact["covered"] == covered
    silent = train(Scripted(env, uniform_table(model)), env, episodes=8, eval_every=8, eval_episodes=4)
    assert silent.progress.plans == 0
    assert "covered" not in silent.progress.exact


def test_a_certificate_is_judged_by_the_marginals_of_sigma_and_not_by_the_pair_handed_out(make_env):
    env = make_env("low-rank-game", 4, **GAME)
    model = env.exact()
    first = np.zeros_like(uniform_table(model))
    first[..., 0] = 1.0  # both players' first actions: easy to exploit
    tables = {True: uniform_table(model), False: first}

    class Pair(Scripted):
        def policy(self, obs, h, *, explore=False):
            return tables[explore][h][obs]

    oracle = GameOracle(model, np.random.default_rng(0))
    explored, final_policy = (oracle.gap(Pair(env, None), explore=explore).gap for explore in (True, False))
    assert explored < final_policy - 0.1
    between = (explored + final_policy) / 2
    assert oracle.covered(Pair(env, None, width=between))
    assert not oracle.covered(Pair(env, None, width=explored - 0.01))
    found = oracle.metrics(Pair(env, None, width=between))
    assert (found["gap"], found["gap_explore"]) == pytest.approx((final_policy, explored))


def test_a_game_is_solved_by_its_gap_and_never_by_returns(make_env):
    env = make_env("low-rank-game", 4, **GAME)
    model = env.exact()
    gap = duality_gap(model, np.full((2, 5, 1, 2), 0.5), np.full((2, 5, 1, 2), 0.5)).gap
    limits = {"episodes": 24, "eval_every": 4, "eval_episodes": 4}
    met = train(Scripted(env, uniform_table(model)), env, solve_gap=gap + 1e-6, **limits)
    assert met.solved_at_episode == 4
    missed = train(Scripted(env, uniform_table(model)), env, solve_gap=gap - 1e-6, **limits)
    assert missed.solved_at_episode is None
    unknown = train(Scripted(env, uniform_table(model)), env, solve_gap=gap + 1e-6, exact="never", **limits)
    assert unknown.solved_at_episode is None


def test_regret_of_a_game_is_the_sum_of_gaps(make_env):
    env = make_env("low-rank-game", 4, **GAME)
    model = env.exact()
    gap = duality_gap(model, np.full((2, 5, 1, 2), 0.5), np.full((2, 5, 1, 2), 0.5)).gap
    result = train(Scripted(env, uniform_table(model)), env, episodes=40, eval_every=40, eval_episodes=4)
    assert result.progress.exact["regret"] == pytest.approx(40 * gap)


def test_progress_with_its_new_counters_survives_a_checkpoint():
    progress = Progress(plans=3, plans_covered=2, plan_version=7)
    assert Progress.from_state(progress.state_dict()) == progress
    assert Budget(episodes=1).solve_gap == 0.05
