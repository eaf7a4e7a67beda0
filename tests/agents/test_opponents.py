"""Opponents that are not controlled: what each does, what a checked one refuses, a user's file, state to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from agents_common import same, uniform
from matrix_game import PENNIES, MatrixGame

from rl_contrastive import registry
from rl_contrastive.agents.opponents import CheckedOpponent, checked_actions, make_opponent
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.rollout import play
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import joint_action

NAMES = ("uniform", "fixed-random", "q-learner")
WIDE = np.arange(12.0).reshape(3, 4) / 11.0  # a 3 x 4 game: the players' actions must not be mixed up

FILE = '''
from dataclasses import dataclass
import numpy as np
from rl_contrastive.registry import register

@dataclass(frozen=True)
class Config:
    """Always the last action."""

@register("opponent", "last-action", Config)
class Last:
    """Always the last action."""
    def __init__(self, spec, config, *, rng):
        self.action = spec.game[1] - 1
    def act(self, obs, h):
        return np.full(len(obs), self.action)
    def observe(self, transition):
        pass
    def state_dict(self):
        return {}
    def load_state_dict(self, state):
        pass
'''


def episodes(env: MatrixGame, opponent, mu, count: int, first: int = 0) -> float:
    """Mean reward of `count` batches in which max plays mu (A,) and min is the opponent; it learns as it goes."""
    total = 0.0
    for k in range(first, first + count):
        rng = np.random.default_rng(k)

        def act(obs, h, rng=rng):
            a = rng.choice(len(mu), size=len(obs), p=mu)
            return joint_action(a, opponent.act(obs, h), env.env_spec.game)

        for step in play(env, SeedTree(0).env_seeds("env", k, env.num_envs), act):
            opponent.observe(step)
            total += float(step.reward.mean())
    return total / (count * env.env_spec.horizon)


# What they do.


@pytest.mark.parametrize("rich", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_actions_are_legal_on_states_and_vectors(name, rich):
    env = MatrixGame(50, WIDE, horizon=3, rich=rich)
    opponent = make_opponent(name, env.env_spec, seed=0)
    seen: set[int] = set()
    for _ in range(3):
        for step in play(env, list(range(50)), lambda obs, h: joint_action(0, opponent.act(obs, h), (3, 4))):
            opponent.observe(step)
            seen |= set(step.action.tolist())
    assert seen <= {0, 1, 2, 3}


def test_uniform_is_uniform_and_its_stream_is_not_the_agents():
    env = MatrixGame(1, WIDE)
    drawn = make_opponent("uniform", env.env_spec, seed=0).act(np.zeros(4000, dtype=int), 0)
    assert uniform(drawn, 4)
    assert not uniform(np.where(drawn == 3, 2, drawn), 4)  # the test can fail
    agents = SeedTree(0).generator("act").integers(4, size=4000)
    assert (drawn == agents).mean() < 0.3


def test_fixed_random_is_one_policy_of_state_and_step():
    spec = MatrixGame(1, WIDE, horizon=6).env_spec
    policies = []
    for seed in (0, 0, 1, 2):
        opponent = make_opponent("fixed-random", spec, seed=seed)
        policies.append([int(opponent.act(np.zeros(3, dtype=int), h)[0]) for h in range(6)])
        again = [opponent.act(np.zeros(3, dtype=int), h) for h in range(6)]
        assert [set(actions.tolist()) for actions in again] == [{a} for a in policies[-1]]
    assert policies[0] == policies[1]
    assert len({tuple(p) for p in policies}) == 3


@pytest.mark.parametrize("rich", [False, True])
def test_q_learner_punishes_a_pure_strategy_and_adapts(rich):
    """Matching pennies: against always-heads min learns tails (max earns .05), and tails against heads after a change.
    The uniform opponent lets both keep 1/2."""
    env = MatrixGame(20, PENNIES, horizon=2, rich=rich)
    learner = make_opponent("q-learner", env.env_spec, seed=0)
    uniform_opponent = make_opponent("uniform", env.env_spec, seed=0)
    for mu in ([1.0, 0.0], [0.0, 1.0]):
        episodes(env, learner, mu, 20)
        assert episodes(env, learner, mu, 20) == pytest.approx(0.05, abs=0.03)
        assert episodes(env, uniform_opponent, mu, 20) == pytest.approx(0.5, abs=0.07)


def test_q_learner_by_hand():
    """One batch of one episode of two steps, joint action (a=1, b=0) twice, alpha = .1: Q_1 = .1 r, Q_0 = .1 (r + min
    Q_1) with min over {.1 r, 0}."""
    env = MatrixGame(1, [[0.0, 0.0], [0.5, 1.0]], horizon=2)
    opponent = make_opponent("q-learner", env.env_spec, seed=0)
    for step in play(env, [0], lambda obs, h: np.array([2])):
        opponent.observe(step)
    np.testing.assert_allclose(opponent.opponent.table.Q[:, 0], [[0.05, 0.0], [0.05, 0.0]])
    for step in play(env, [0], lambda obs, h: np.array([3])):  # b = 1 pays 1: now min Q_1 = .05
        opponent.observe(step)
    np.testing.assert_allclose(opponent.opponent.table.Q[:, 0], [[0.05, 0.105], [0.05, 0.1]])


# State.


@pytest.mark.parametrize("rich", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_restored_opponent_continues_to_the_bit(name, rich):
    env = MatrixGame(5, PENNIES, horizon=2, rich=rich)
    whole, first, second, other = (make_opponent(name, env.env_spec, seed=seed) for seed in (3, 3, 8, 4))
    mu = [0.3, 0.7]
    episodes(env, whole, mu, 6)
    episodes(env, first, mu, 3)
    second.load_state_dict(first.state_dict())
    episodes(env, second, mu, 3, first=3)
    assert same(second.state_dict(), whole.state_dict())
    episodes(env, other, mu, 6)
    assert not same(other.state_dict(), whole.state_dict())


def test_a_state_of_another_opponent_is_refused():
    spec = MatrixGame(1).env_spec
    state = make_opponent("uniform", spec, seed=0).state_dict()
    with pytest.raises(RlcError, match="the saved opponent is 'uniform', not 'q-learner'"):
        make_opponent("q-learner", spec, seed=0).load_state_dict(state)
    with pytest.raises(RlcError, match="lacks 'state'"):
        make_opponent("uniform", spec, seed=0).load_state_dict({"name": "uniform"})
    wide = make_opponent("fixed-random", MatrixGame(1, WIDE).env_spec, seed=0).state_dict()
    with pytest.raises(RlcError, match=r"scores have shape \(1, 1, 4\), not \(1, 1, 2\)"):
        make_opponent("fixed-random", spec, seed=0).load_state_dict(wide)
    for key in ("table", "data", "rng"):
        learner = make_opponent("q-learner", spec, seed=0)
        saved = learner.state_dict()
        del saved["state"][key]
        with pytest.raises(RlcError, match=f"lacks '{key}'"):
            learner.load_state_dict(saved)


# Bad opponents.


@pytest.mark.parametrize(
    ("actions", "sentence"),
    [
        ([0, 1], r"gave an array of shape \(2,\) and type int64 at step h=4; it must give 3 integers in 0\.\.1"),
        ([0.0, 1.0, 0.0], "type float64"),
        ([True, False, True], "type bool"),
        ([[0], [1], [0]], r"shape \(3, 1\)"),
        ([[0], [1, 2], [0]], "type object"),
        (None, "type object"),
        ([0, 2, 1], "gave action 2 in row 1 at step h=4"),
        ([0, 1, -1], "gave action -1 in row 2"),
    ],
)
def test_illegal_actions_name_the_opponent_the_step_and_what_is_allowed(actions, sentence):
    with pytest.raises(RlcError, match=f"opponent 'bad' .*{sentence}"):
        checked_actions("bad", actions, 4, 3, 2)


def test_legal_actions_pass_as_int64():
    given = np.array([0, 1, 1], dtype=np.uint8)
    checked = checked_actions("good", given, 0, 3, 2)
    assert checked.dtype == np.int64
    np.testing.assert_array_equal(checked, given)


def test_an_exception_becomes_one_sentence():
    class Broken:
        def act(self, obs, h):
            raise ZeroDivisionError("division by\nzero")

        def observe(self, transition):
            raise KeyError

    broken = CheckedOpponent("broken", Broken(), 2)
    with pytest.raises(
        RlcError, match=r"^opponent 'broken' raised ZeroDivisionError in act at step h=2: division by zero\.$"
    ):
        broken.act(np.zeros(1), 2)
    env = MatrixGame(1)
    step = next(iter(play(env, [0], lambda obs, h: np.array([0]))))
    with pytest.raises(RlcError, match=r"^opponent 'broken' raised KeyError in observe at step h=0\.$"):
        broken.observe(step)


def test_unknown_names_and_wrong_places(make_env):
    spec = MatrixGame(1).env_spec
    with pytest.raises(RlcError, match=r"unknown opponent 'q-lerner'; did you mean 'q-learner'"):
        make_opponent("q-lerner", spec, seed=0)
    with pytest.raises(RlcError, match="probe-match is no two-player game"):
        make_opponent("uniform", make_env("probe-match", 1).env_spec, seed=0)


# From files and runs.


def test_a_users_opponent(tmp_path, monkeypatch):
    registry.entries("opponent")
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    path = tmp_path / "my_opponent.py"
    path.write_text(FILE)
    registry.import_file(path)
    opponent = make_opponent("last-action", MatrixGame(1, WIDE).env_spec, seed=0)
    np.testing.assert_array_equal(opponent.act(np.zeros(3, dtype=int), 0), [3, 3, 3])


def test_the_minimiser_of_a_finished_run(tmp_path, make_env, monkeypatch):
    """`run:FOLDER` draws from the marginal nu of the policy that the run saved."""
    from rl_contrastive.runs.budget import Budget
    from rl_contrastive.runs.load import load_agent
    from rl_contrastive.runs.run import RunConfig, run, run_folder
    from rl_contrastive.spec import marginals

    small = {"num_states": 4, "num_actions": 2, "num_opponent_actions": 3, "horizon": 2, "rank": 2}
    config = RunConfig("nash-vi", "low-rank-game", {"batch": 20}, small, budget=Budget(episodes=200), tensorboard=False)
    assert run(config, tmp_path)["status"] == "finished"
    folder = run_folder(tmp_path, config)
    spec = make_env("low-rank-game", 1, **small).env_spec
    opponent = make_opponent(f"run:{folder}", spec, seed=0)
    obs, h = np.repeat(np.arange(4), 2000), 1
    drawn = opponent.act(obs, h).reshape(4, 2000)
    nu = marginals(load_agent(folder)[0].policy(np.arange(4), h), (2, 3))[1]
    shares = np.stack([np.bincount(row, minlength=3) / 2000 for row in drawn])
    np.testing.assert_allclose(shares, nu, atol=0.05)
    with pytest.raises(RlcError, match=r"was trained on low-rank-game with players \(2, 3\); here it is \(2, 2\)"):
        make_opponent(f"run:{folder}", MatrixGame(1).env_spec, seed=0)
    with pytest.raises(RlcError, match="is no run folder"):
        make_opponent(f"run:{tmp_path}", spec, seed=0)


def test_rlc_lists_opponents(capsys):
    from rl_contrastive.cli.lists import list_names

    assert list_names(["opponents"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*NAMES, "run:"))
