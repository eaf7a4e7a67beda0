"""Every agent that can be trained here finds the exact value of every probe it fits; a new agent is tested by itself.

Measured on seeds 10-12: at most 100 episodes. The bound is 150.
"""

from __future__ import annotations

import pytest

from rl_contrastive import registry
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.loop import train

PROBES = [entry.name for entry in registry.entries("env") if entry.name.startswith("probe-")]
# The SB3 agents have a loop and a clock of their own: tests/agents/test_sb3.py. Games have no probes of one agent.
# preference-policy hands out a random policy near its reference: tests/agents/test_preference_policy.py.
LEARNERS = [
    e.name
    for e in registry.entries("agent")
    if e.name not in ("uniform", "preference-policy")
    and not e.name.startswith("sb3-")
    and getattr(e.factory, "plays", "mdp") != "game"
]
# Its default bonus, made for rewards that are spread out, is too small to look behind the first 1.5 of probe-terminal.
FIELDS = {
    "lsvi-ucb": {"c": 1.0},
    # Its defaults are for 10^5 steps: a probe of 150 episodes is over before the warm start is.
    "contrastive-ucb-deep": {"warm_start": 20, "learner": {"lr": 1e-3, "tau": 0.05}},
    "rnd-dqn": {"warm_start": 20, "learner": {"lr": 1e-3, "tau": 0.05}, "rnd": {"lr": 1e-3, "batch_size": 4}},
}
# Leaving pays at the last step and not before: values of observations alone need to be shown the step.
CLOCKED = {("contrastive-ucb-deep", "probe-terminal"), ("rnd-dqn", "probe-terminal")}
EPISODES = 150


def value_and_optimum(name: str, probe: str, seed: int, make_agent, **fields) -> tuple[float, float]:
    """(exact value of the bonus-free policy after the bound, optimum); both evaluations agree on the way."""
    try:
        agent = make_agent(name, probe, seed=seed, **FIELDS.get(name, {}), **fields)
    except RlcError as error:
        pytest.skip(f"does not fit: {error}")
    result = train(agent, agent.env, episodes=EPISODES, eval_every=EPISODES)
    line = result.history[-1]
    assert abs(line["return_mean"] - line["value"]) <= 5 * line["return_sem"] + 1e-9
    return line["value"], agent.env.exact().optimal_return


def test_there_are_probes_and_learners():
    assert len(PROBES) >= 7
    assert {"contrastive-ucb", "rep-ucb", "contrastive-frontier", "pca-frontier"} <= set(LEARNERS)


@pytest.mark.parametrize("seed", [10, *(pytest.param(seed, marks=pytest.mark.long) for seed in (11, 12))])
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("name", LEARNERS)
def test_agents_find_the_exact_value_of_each_probe(name, probe, seed, make_agent):
    clock = {"clock": True} if (name, probe) in CLOCKED else {}
    value, optimum = value_and_optimum(name, probe, seed, make_agent, **clock)
    assert value == pytest.approx(optimum, abs=1e-9)


@pytest.mark.parametrize("probe", ["probe-action", "probe-match", "probe-terminal"])
def test_uniform_does_not(probe, make_agent):
    """Negative control, on the probes in which actions matter."""
    value, optimum = value_and_optimum("uniform", probe, 10, make_agent)
    assert value < optimum - 0.9


def test_without_the_clock_the_end_is_not_seen(make_agent):
    """Negative control of `CLOCKED`."""
    value, optimum = value_and_optimum("contrastive-ucb-deep", "probe-terminal", 10, make_agent)
    assert value < optimum - 0.1
