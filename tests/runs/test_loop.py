"""The loop: budgets, the schedule of evaluations, what counts as solved, regret, and resuming in the same process."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from rl_contrastive.config import from_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import entries, get
from rl_contrastive.runs.checkpoint import read_state, write_state
from rl_contrastive.runs.loop import Budget, Progress, check_fit, train
from rl_contrastive.spec import Env, OwnLoop

SMALL = {
    "low-rank": {"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2},
    "combination-lock": {"horizon": 3, "num_actions": 3},
    "low-rank-game": {"num_states": 6, "num_actions": 2, "num_opponent_actions": 3, "horizon": 3, "rank": 2},
}
AGENTS = [entry.name for entry in entries("agent")]


def env_of(name: str, rows: int) -> Env:
    entry, _ = get("env", name)
    return entry.factory(from_dict(entry.config, SMALL.get(name, {})), rows)


def agent_of(name: str, env_name: str, seed: int = 3):
    entry, _ = get("agent", name)
    config = entry.config()
    if hasattr(getattr(config, "learner", None), "steps"):  # a short gradient stage is cut as well as a long one
        config = replace(config, learner=replace(config.learner, steps=20))
    return entry.factory(env_of(env_name, config.batch), config, seed=seed)


class Scripted:
    """An agent on probe-action (H = 1; the actions pay -1 and 1) that plays action 1 with the probability `script`
    gives for its version."""

    batch = 2

    def __init__(self, script):
        self.script, self.version, self.calls, self.seen = script, 0, [], []

    def begin(self, num_envs):
        self.calls.append(("begin", num_envs))

    def act(self, obs, h):
        self.calls.append(("act", h))
        return np.zeros(len(obs), dtype=np.int64)

    def observe(self, transition):
        self.calls.append(("observe", transition.h))

    def update(self):
        self.calls.append(("update",))
        self.version += 1
        return {"version_twice": 2 * self.version}

    def policy(self, obs, h, *, explore=False):
        self.calls.append(("policy", explore))
        p = self.script[min(self.version, len(self.script) - 1)] if not explore else 0.25
        return np.tile([1 - p, p], (len(obs), 1))

    def exact_metrics(self, model):
        return {"tv": 0.125}

    def state_dict(self):
        return {"version": self.version}

    def load_state_dict(self, state):
        self.version = state["version"]


def scripted(script, **limits):
    agent, env = Scripted(script), env_of("probe-action", 2)
    return agent, train(agent, env, seed=0, **{"eval_every": 2, "eval_episodes": 4, **limits})


def test_the_probe_pays_as_the_scripts_here_assume():
    model = env_of("probe-action", 1).exact()
    assert model.r[0, 0].tolist() == [-1.0, 1.0]
    assert model.optimal_return == 1.0


def test_one_iteration_in_order():
    agent, _ = scripted([1.0], episodes=4, exact="never")
    calls = [c for c in agent.calls if c[0] != "policy"]
    assert calls == [("begin", 2), ("act", 0), ("observe", 0), ("update",)] * 2


def test_episodes_are_whole_batches_within_the_cap_and_steps_may_be_passed_by_less_than_a_batch():
    _, result = scripted([1.0], episodes=7)
    assert (result.progress.episodes, result.progress.env_steps) == (6, 6)
    _, result = scripted([1.0], steps=7)
    assert (result.progress.episodes, result.progress.env_steps) == (8, 8)
    _, result = scripted([1.0], steps=8)
    assert result.progress.env_steps == 8


def test_evaluations_come_at_multiples_and_at_the_end():
    def at(**limits):
        return [line["episodes"] for line in scripted([1.0], **limits)[1].history]

    assert at(episodes=12, eval_every=4) == [4, 8, 12]
    assert at(episodes=14, eval_every=5) == [6, 10, 14]  # rounded up to batches
    assert at(episodes=10, eval_every=8) == [8, 10]
    assert at(episodes=4, eval_every=100) == [4]
    assert len(at(episodes=1000, eval_every=None)) == 100


def test_evaluations_by_the_count_of_steps():
    entry, _ = get("env", "combination-lock")
    env = entry.factory(entry.config(horizon=3, num_actions=2), 2)  # 6 steps a batch

    def at(**limits):
        result = train(Scripted([1.0]), env, seed=0, eval_episodes=4, exact="never", **limits)
        return [line["env_steps"] for line in result.history]

    assert at(steps=36, eval_every_steps=12) == [12, 24, 36]
    assert at(steps=36, eval_every_steps=13) == [18, 30, 36]  # first batches that reach 13, 26
    assert at(episodes=8, eval_every_steps=12) == [12, 24]
    assert at(steps=36, eval_every=4) == [12, 24, 36]
    assert len(at(steps=600)) == 100
    assert at(steps=30, eval_every_steps=100) == [30]


def test_a_line_holds_the_scalars_and_the_exact_values():
    _, result = scripted([0.0, 1.0], episodes=4)
    line = result.history[-1]
    assert line["version"] == 2
    assert line["agent/version_twice"] == 4.0
    assert line["return_mean"] == line["value"] == 1.0
    assert line["gap"] == 0.0
    assert line["tv"] == 0.125
    # pi_k plays the good action with probability 1/4 in each of 4 episodes: V* - V = 1 - (1/4 - 3/4)
    assert line["regret"] == pytest.approx(4 * 1.5)
    assert "value" not in scripted([1.0], episodes=4, exact="never")[1].history[0]


def test_exact_values_are_computed_only_when_the_version_moves():
    agent, env = Scripted([1.0]), env_of("probe-action", 2)
    agent.update = lambda: {}
    result = train(agent, env, seed=0, episodes=20, eval_every=2, eval_episodes=2)
    assert len(result.history) == 10
    assert agent.calls.count(("policy", True)) == 1  # the optimistic table, once
    assert agent.calls.count(("policy", False)) == 1 + 10  # the other table, and the evaluations


def test_solved_is_twice_in_a_row_at_the_first_of_the_two():
    #        version: 0    1    2    3    4    5    6
    _, result = scripted([0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0], episodes=12)
    assert result.progress.solved_at == (8, 8)  # versions 4 and 5; version 2 stood alone
    assert result.progress.episodes == 12
    _, result = scripted([0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0], episodes=12, stop_when_solved=True)
    assert result.solved_at_episode == 8
    assert result.progress.episodes == 10  # the evaluation that confirmed it
    _, result = scripted([0.0, 1.0, 0.0, 1.0, 0.0], episodes=12)
    assert result.solved_at_episode is None


@pytest.mark.parametrize(("optimal", "mean", "good"), [(2.0, 1.8, True), (2.0, 1.79, False), (-10, -11, True)])
def test_the_bar_is_a_tenth_of_the_optimum_below_it_also_for_negative_ones(optimal, mean, good):
    from dataclasses import replace

    from rl_contrastive.runs.loop import _Loop
    from rl_contrastive.seeding import SeedTree

    env = env_of("probe-action", 2)
    env.env_spec = replace(env.env_spec, optimal_return=optimal)
    loop = _Loop(Scripted([0.0]), env, Budget(episodes=2), env, SeedTree(0), None)
    loop._note_solved(mean)
    assert loop.progress.streak == int(good)
    loop._note_solved(optimal - 1.2 * abs(optimal))
    assert loop.progress.streak == 0


def test_impossible_budgets_are_refused():
    for limits, words in [
        ({}, "exactly one"),
        ({"episodes": 1, "steps": 1}, "exactly one"),
        ({"episodes": 0}, "episodes must be >= 1"),
        ({"episodes": 4, "eval_every": 0}, "eval_every"),
        ({"episodes": 4, "eval_every_steps": 0}, "eval_every_steps"),
        ({"episodes": 4, "eval_every": 1, "eval_every_steps": 1}, "not both"),
        ({"episodes": 4, "solve_at": 1.5}, "solve_at"),
        ({"episodes": 4, "exact": "maybe"}, "exact must be"),
    ]:
        with pytest.raises(RlcError, match=words):
            Budget(**limits)
    with pytest.raises(RlcError, match="no batch would fit"):
        scripted([1.0], episodes=1)
    with pytest.raises(RlcError, match="make it with num_envs=2"):
        check_fit(Scripted([1.0]), env_of("probe-action", 3), Budget(episodes=4))


def test_progress_round_trips_and_refuses_other_fields():
    progress = Progress(episodes=4, solved_at=(2, 2), scalars={"a": 0.1})
    assert Progress.from_state(progress.state_dict()) == progress
    with pytest.raises(RlcError, match="progress has fields"):
        Progress.from_state({"episodes": 3})


class External(Scripted):
    """An agent with a loop of its own."""

    has_policy_state = False

    def train_in_own_loop(self, *, episodes, steps, on_progress):
        self.budget, count = (episodes, steps), 0
        while count < (episodes or steps):
            count += 2
            self.version += 1
            if not on_progress(count, 3 * count):
                return


def test_an_agent_with_its_own_loop_is_evaluated_at_the_same_points():
    agent, env = External([0.0, 0.0, 1.0, 1.0, 0.0]), env_of("probe-action", 2)
    result = train(agent, env, seed=0, episodes=10, eval_every=4, eval_episodes=4)
    assert agent.budget == (10, None)
    assert [line["episodes"] for line in result.history] == [4, 8, 10]
    assert [line["env_steps"] for line in result.history] == [12, 24, 30]
    assert "regret" not in result.history[0]
    agent = External([1.0])
    result = train(agent, env, seed=0, episodes=10, eval_every=2, eval_episodes=4, stop_when_solved=True)
    assert (result.solved_at_episode, result.progress.episodes) == (2, 4)


class Keep:
    """A sink that keeps the snapshot after `stop_at` iterations, and stops there."""

    def __init__(self, stop_at=None):
        self.stop_at, self.bytes = stop_at, b""

    def evaluated(self, line, progress):
        pass

    def iterated(self, progress, snapshot):
        return progress.iteration == self.stop_at

    def finished(self, progress, snapshot):
        file = io.BytesIO()
        write_state(file, snapshot())
        self.bytes = file.getvalue()


@pytest.mark.parametrize("env_name", SMALL)
@pytest.mark.parametrize("name", AGENTS)
def test_contract_training_in_two_pieces_is_training_in_one(name, env_name, tmp_path):
    """Every registered agent: train N == train k, save, a new agent, load, train the rest; bytes and lines."""
    try:
        whole = agent_of(name, env_name)
    except RlcError as error:
        pytest.skip(str(error))
    if isinstance(whole, OwnLoop):
        pytest.skip("has its own loop")
    limits = {"episodes": 5 * whole.batch, "eval_every": 1, "eval_episodes": 10, "seed": 3}
    sink = Keep()
    lines = train(whole, whole.env, sink=sink, **limits).history
    for stop_at in (1, 3):
        first, piece = agent_of(name, env_name), Keep(stop_at)
        before = train(first, first.env, sink=piece, **limits)
        assert before.stopped
        (tmp_path / "state.npz").write_bytes(piece.bytes)
        second, rest = agent_of(name, env_name), Keep()
        after = train(second, second.env, sink=rest, state=read_state(tmp_path / "state.npz"), **limits)
        assert before.history + after.history == lines
        assert rest.bytes == sink.bytes
    other = agent_of(name, env_name)
    del limits["seed"]
    assert train(other, other.env, seed=4, **limits).history != lines or name == "uniform"  # seeds matter


@pytest.mark.parametrize("name", AGENTS)
def test_contract_each_agent_was_tried_somewhere(name):
    def builds(env_name):
        try:
            agent_of(name, env_name)
        except RlcError:
            return False
        return True

    assert any(builds(env_name) for env_name in SMALL)


def test_learn_is_the_same_loop():
    a, b = agent_of("uniform", "low-rank"), agent_of("uniform", "low-rank")
    learned = a.learn(2 * a.batch, eval_episodes=10)
    assert learned.history == train(b, b.env, episodes=2 * b.batch, eval_episodes=10).history
    assert learned.final_return == learned.history[-1]["return_mean"]


def test_learn_counts_steps_too_and_refuses_what_it_does_not_know():
    agent = agent_of("uniform", "low-rank")
    result = agent.learn(steps=50, eval_episodes=10)
    assert 50 <= result.progress.env_steps < 50 + 3 * agent.batch
    with pytest.raises(RlcError, match="exactly one of episodes and steps"):
        agent.learn()
    with pytest.raises(RlcError, match="unknown option of train 'eval_evry'; did you mean 'eval_every'"):
        agent.learn(3, eval_evry=2)
