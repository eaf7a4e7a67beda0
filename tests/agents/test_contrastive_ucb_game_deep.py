"""Networks for games: equilibria are found, exact gaps fall, runs go on to the byte, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agents_common import batches, same
from matrix_game import MatrixGame

from rl_contrastive.agents.baselines.independent_dqn import IndependentDqn, IndependentDqnConfig
from rl_contrastive.agents.contrastive_ucb_game_deep import ContrastiveUCBGameDeep, ContrastiveUCBGameDeepConfig
from rl_contrastive.api import make_env
from rl_contrastive.config import from_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.equilibrium import nash, nash_gap
from rl_contrastive.runs.oracle import make_layered
from rl_contrastive.spec import marginals, product

ROCK = np.array([[0.0, -1.0, 2.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
"""Rock beats scissors twice: nobody plays a third each."""
SMALL = {
    "encoder": {"hidden": [32], "layer_norm": False},
    "feature_encoder": {"hidden": [32]},
    "representation": {"dim": 8, "hidden": 0},
    "batch_size": 32,
    "lr": 3e-3,
    "device": "cpu",
}
CARDS = {"cards": 3, "observation": "cards", "pay": "points"}


def agent_of(env: Any, seed: int = 0, learner: Any = None, **options: Any) -> ContrastiveUCBGameDeep:
    options = {"batch": env.num_envs, "warm_start": 32, "capacity": 2000, **options}
    given = {**options, "learner": {"value": {"dueling": False, "double": False}, **SMALL, **(learner or {})}}
    return ContrastiveUCBGameDeep(env, from_dict(ContrastiveUCBGameDeepConfig, given), seed=seed)


def goofspiel(seed: int = 0, **options: Any) -> ContrastiveUCBGameDeep:
    return agent_of(make_env("goofspiel", 4, **CARDS), seed, **options)


def test_mixed_strategies_of_a_matrix_game():
    agent = agent_of(MatrixGame(8, ROCK, rich=True), learner={"tau": 0.05})
    before = marginals(agent.policy(np.ones((1, 2)), 0), (3, 3))
    batches(agent, 0, 60)
    mu, nu = marginals(agent.policy(np.array([[1.0, 0.0]]), 0), (3, 3))
    exact = nash(ROCK[None])
    assert nash_gap(ROCK[None], mu, nu)[0] < 0.3 < nash_gap(ROCK[None], *before)[0]
    np.testing.assert_allclose(np.concatenate([mu, nu]), np.concatenate([exact.x, exact.y]), atol=0.1)
    best = np.eye(9)[agent.learner.target_q(np.array([[1.0, 0.0]])).argmax(1)]  # control: the best joint action
    assert nash_gap(ROCK[None], *marginals(best, (3, 3)))[0] > 1.0


@pytest.mark.long
def test_values_are_those_of_two_rounds():
    """Rock, paper, scissors twice: Q of the first round is its payoff and the value of the second."""
    agent = agent_of(MatrixGame(8, ROCK, horizon=2, rich=True), learner={"tau": 0.05}, beta=0.05)
    batches(agent, 0, 80)
    value = nash(ROCK[None]).value[0]
    first = agent.learner.target_q(np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(first.reshape(3, 3), ROCK + value, atol=0.25)
    Q, upper, lower = agent.learner.q(np.array([[1.0, 0.0]]))
    assert (upper - lower).mean() > 0.0  # optimistic for each side
    assert np.abs(Q - first).mean() < 0.25


@pytest.mark.long
def test_the_exact_gap_of_goofspiel_falls_and_pure_play_is_exploited():
    """4 cards, a vector; the control plays the marginals of the best joint action of the same values."""
    env = make_env("goofspiel", 8, **{**CARDS, "cards": 4})
    agent = agent_of(env, train_every=2, beta=0.02, learner={"reward_scale": 10.0, "encoder": {"hidden": [64]}})
    oracle = make_layered(env)
    assert oracle is not None
    before = oracle.metrics(agent)["gap"]
    batches(agent, 0, 70)
    assert oracle.metrics(agent)["gap"] < 0.3 < 0.5 < before

    class Best(ContrastiveUCBGameDeep):
        """Cooperates."""

        def policy(self, obs: Any, h: int, *, explore: bool = False) -> Any:
            q = self.learner.target_q(obs)
            return product(*marginals(np.eye(16)[q.argmax(1)], (4, 4)))

    control = Best.__new__(Best)
    control.__dict__ = {**agent.__dict__, "version": -1}
    assert oracle.metrics(control)["gap"] > 0.3


@pytest.mark.parametrize(
    "options", [{}, {"bonus": {"kind": "ours-both"}}, {"beta": 0.0}], ids=["tiles", "both", "none"]
)
def test_a_loaded_agent_goes_on_to_the_byte(options, tmp_path):
    straight = goofspiel(**options)
    batches(straight, 0, 12)
    first = goofspiel(**options)
    first.persist_in(tmp_path)
    batches(first, 0, 6)
    again = goofspiel(seed=1, **options)
    again.persist_in(tmp_path)
    again.load_state_dict(first.state_dict())
    again.seeds = straight.seeds
    batches(again, 6, 6)
    left, right = straight.state_dict(), again.state_dict()
    for name in ("learner", "rng", "fit_rng", "steps", "version"):
        assert same(left[name], right[name])


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("soccer", {"observation": "pixels", "horizon": 3}),
        ("soccer", {"horizon": 3}),
        ("duel-lock", {"horizon": 3}),
        ("pettingzoo:rps_v2", {"horizon": 3}),
        ("pettingzoo:box_game:Sums", {}),
    ],
)
def test_kinds_of_games(name, fields):
    env = make_env(name, 4, **fields)
    agent = agent_of(env, warm_start=8, learner={"batch_size": 4})
    batches(agent, 0, 4)
    obs, _ = env.reset(seed=[0, 1, 2, 3])
    for explore in (False, True):
        joint = agent.policy(obs, 0, explore=explore)
        assert joint.shape == (4, env.env_spec.num_actions)
        np.testing.assert_allclose(joint.sum(1), 1.0)
    mu, nu = marginals(agent.policy(obs, 0), env.env_spec.game)
    np.testing.assert_allclose(product(mu, nu), agent.policy(obs, 0), atol=1e-12)  # the players do not correlate
    assert agent.learner.steps > 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"episodic": True}, "episodic is made for one agent"),
        ({"search": {"alpha": 0.5}}, "search.alpha > 0 is made for one agent"),
        ({"learner": {"value": {"atoms": 51}}}, "learner.value.atoms > 1 is made for one agent"),
        ({"learner": {"compile": True}}, "learner.compile is made for one agent"),
        ({"n_step": 3}, "n_step"),
    ],
)
def test_what_is_refused(options, sentence):
    with pytest.raises(RlcError, match=sentence):
        from_dict(ContrastiveUCBGameDeepConfig, options)


def test_environments_of_one_agent_are_refused():
    with pytest.raises(RlcError, match="made for games"):
        ContrastiveUCBGameDeep(make_env("deep-sea", 8), ContrastiveUCBGameDeepConfig())


# Independent DQN.


def dqn(env: Any, seed: int = 0, **options: Any) -> IndependentDqn:
    given = {"batch": env.num_envs, "warm_start": 32, "capacity": 2000, **options, "learner": SMALL}
    return IndependentDqn(env, from_dict(IndependentDqnConfig, given), seed=seed)


def test_independent_learners_find_dominant_actions_and_are_pure():
    agent = dqn(MatrixGame(8, [[3.0, 2.0], [1.0, 0.0]], rich=True), epsilon=0.3)
    batches(agent, 0, 60)
    assert agent.policy(np.array([[1.0, 0.0]]), 0).tolist() == [[0.0, 1.0, 0.0, 0.0]]
    rock = dqn(MatrixGame(8, ROCK, rich=True), epsilon=0.3)
    batches(rock, 0, 60)
    mu, nu = marginals(rock.policy(np.array([[1.0, 0.0]]), 0), (3, 3))
    assert nash_gap(ROCK[None], mu, nu)[0] >= 1.0  # a pure policy of this game loses 1 at least


def test_independent_learners_go_on_to_the_byte():
    straight, first, again = (dqn(make_env("goofspiel", 4, **CARDS)) for _ in range(3))
    batches(straight, 0, 12)
    batches(first, 0, 6)
    again.load_state_dict(first.state_dict())
    batches(again, 6, 6)
    assert same(straight.state_dict(), again.state_dict())
