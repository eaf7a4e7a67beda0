"""Regret is of what is played: the exact law of each agent's episodes against the episodes themselves."""

from __future__ import annotations

import numpy as np
import pytest
from agents_common import batches

from rl_contrastive.config import from_dict
from rl_contrastive.planning.behaviour import behaviour_value, uniform_around
from rl_contrastive.registry import entries, get
from rl_contrastive.runs.evaluate import policy_table
from rl_contrastive.runs.loop import train
from rl_contrastive.runs.oracle import behaviour_of, make_oracle
from rl_contrastive.runs.rollout import play
from rl_contrastive.spec import Behaviour

WORLD = {"num_states": 6, "num_actions": 3, "horizon": 4, "rank": 2, "mdp_seed": 3}
CASES = {
    "paper": ("contrastive-ucb", {"roll_in": "paper", "warm_start": 20}),
    "mixed": ("contrastive-ucb", {"roll_in": "mixed", "warm_start": 20}),
    "thinned": ("contrastive-ucb", {"roll_in": "thinned", "warm_start": 60}),
    "on-policy": ("contrastive-ucb", {"roll_in": "on-policy", "warm_start": 20}),
    "preferences": ("preference-policy", {"mixture": 0.3, "lr": 0.05}),
    "frontier": ("contrastive-frontier", {"warm_start": 20}),
    "frontier, warm start": ("contrastive-frontier", {"warm_start": 1000}),
    **{
        name: (name, {})
        for name in ("rep-ucb", "contrastive-lsvi", "ucbvi", "lsvi-ucb", "epsilon-greedy", "uniform", "pca-frontier")
    },
}


def make(agent: str, fields: dict, env: str = "low-rank", world: dict = WORLD):
    entry, _ = get("agent", agent)
    env_entry, _ = get("env", env)
    config = from_dict(entry.config, {"batch": 20, **fields})
    rows = env_entry.factory(from_dict(env_entry.config, world), config.batch)
    return entry.factory(rows, config, seed=5), rows


def played_returns(agent, env, count: int) -> np.ndarray:
    """Returns of `count` batches of the agent as it is now: nothing is observed or updated."""
    returns = []
    for k in range(count):
        agent.begin(agent.batch)
        total = np.zeros(agent.batch)
        for step in play(env, agent.seeds.env_seeds("env", 1000 + k, agent.batch), agent.act):
            total += step.reward * step.alive
        returns.append(total)
    return np.concatenate(returns)


@pytest.mark.parametrize("case", CASES)
def test_the_law_of_the_behaviour_is_that_of_the_episodes(case):
    agent, env = make(*CASES[case])
    batches(agent, 0, 12)
    model = env.exact()
    law = behaviour_of(agent, policy_table(agent, model, explore=True))
    returns = played_returns(agent, env, 200)
    error = returns.std(ddof=1) / np.sqrt(len(returns))
    assert abs(returns.mean() - behaviour_value(model, law)) < 4.0 * error + 1e-12
    if case in ("paper", "mixed"):  # the loss of pi_k is another number, by far
        markov = behaviour_value(model, Behaviour.memoryless(policy_table(agent, model, explore=True)))
        assert abs(returns.mean() - markov) > 8.0 * error


def test_every_agent_of_one_learner_is_covered():
    """A new agent must be added here, or say that it has no exact law."""
    known = {agent for agent, _ in CASES.values()}
    unknown = {"contrastive-ucb-deep", "rnd-dqn"}  # act by networks: `behaviour` is None
    games = {"contrastive-ucb-game", "lsvi-game", "nash-vi", "nash-q", "independent-q"}
    games |= {"contrastive-ucb-game-deep", "independent-dqn"}
    external = {entry.name for entry in entries("agent") if entry.name.startswith("sb3-")}
    mine = {entry.name for entry in entries("agent") if "rl_contrastive.agents" in entry.factory.__module__}
    assert mine == known | unknown | games | external


def test_uniform_around_by_hand():
    """H = 1, two actions that pay 0 and 1, pi takes the second: t is 0 or 1, and both are uniform at step 0."""
    pi = np.array([[[0.0, 1.0]]])
    law = uniform_around(pi)
    np.testing.assert_allclose(law.start, [0.5, 0.5])
    np.testing.assert_allclose(law.pi, np.full((2, 1, 1, 2), 0.5))
    half = uniform_around(pi, 0.5)
    np.testing.assert_allclose(half.start, [0.25, 0.25, 0.5])
    np.testing.assert_allclose(half.pi[2], pi)


@pytest.mark.parametrize("roll_in", ["paper", "on-policy"])
def test_the_recorded_regret_is_that_of_the_played_returns(roll_in):
    """Whole training: V* times the episodes less the returns that were earned, up to sampling noise."""
    agent, env = make("contrastive-ucb", {"roll_in": roll_in, "warm_start": 20})
    earned = []

    def note(transition, observe=agent.observe):
        earned.append(float((transition.reward * transition.alive).sum()))
        observe(transition)

    agent.observe = note
    result = train(agent, env, episodes=2000, eval_every=2000, eval_episodes=20)
    exact = result.progress.exact
    optimum = env.exact().optimal_return
    assert exact["regret"] == pytest.approx(2000 * optimum - sum(earned), abs=4.0 * np.sqrt(2000) * 0.6)
    if roll_in == "on-policy":  # here what is played after the warm start is pi_k, and before it both are uniform
        assert exact["suboptimality"] * 2000 == pytest.approx(exact["regret"])
    else:
        assert exact["suboptimality"] * 2000 < 0.5 * exact["regret"]


def test_a_game_loses_what_its_mixture_of_policies_loses():
    world = {"num_states": 5, "horizon": 2, "rank": 2, "actions_max": 2, "actions_min": 2}
    entry, _ = get("env", "low-rank-game")
    world = {key: value for key, value in world.items() if hasattr(entry.config(), key)}
    agent, env = make("contrastive-ucb-game", {"warm_start": 20, "roll_in": "mixed"}, "low-rank-game", world)
    batches(agent, 0, 6)
    oracle = make_oracle(env.exact(), np.random.default_rng(0))
    H = env.env_spec.horizon
    table = np.stack([agent.policy(np.arange(5), h, explore=True) for h in range(H)])
    each = []
    for t in range(H + 1):
        pi = table.copy()
        pi[max(t - 1, 0) : t + 1] = 1.0 / table.shape[2]
        each.append(oracle._gap_of(pi).gap)
    assert oracle.played_loss(agent) == pytest.approx(np.mean(each))
    assert abs(oracle.policy_loss(agent) - oracle.played_loss(agent)) > 1e-3


def test_no_law_no_regret():
    """Against an opponent that is not controlled the law of the episodes is not known."""
    agent, env = make("contrastive-ucb-game", {"opponent": "uniform"}, "low-rank-game", {"num_states": 5, "horizon": 2})
    result = train(agent, env, episodes=80, eval_every=80, eval_episodes=20)
    assert "regret" not in result.progress.exact
    assert "suboptimality" in result.progress.exact
