"""The PettingZoo adapter: fake games with known numbers, the ways a game can be wrong, a native game through it."""

from __future__ import annotations

import sys
import types

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from pettingzoo import AECEnv, ParallelEnv

from rl_contrastive.config import from_dict
from rl_contrastive.envs.adapters.pettingzoo_adapter import PettingZooConfig, PettingZooEnv, make_pettingzoo
from rl_contrastive.envs.adapters.pettingzoo_find import find
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import get
from rl_contrastive.runs.rollout import play
from rl_contrastive.spec import Env

Discrete = gym.spaces.Discrete


class Pennies(ParallelEnv):
    """Matching pennies with 2 x 3 actions: +x to "even" if a = b, else -x, x drawn anew at reset from 1..4.

    `even` sees x - 1 (4 values, counted from 0), `odd` the step (counted from -1); action 2 of `odd` (its third) ends
    the game; 5 steps at most. `how` makes it wrong at its third step.
    """

    def __init__(self, how: str = "right", limit: int = 5):
        self.possible_agents, self.how, self.max_cycles = ["even", "odd"], how, limit
        self.metadata = {"name": "pennies"}
        self.rng = np.random.default_rng()

    def observation_space(self, agent):
        return {"even": Discrete(4), "odd": Discrete(8, start=-1)}[agent]

    def action_space(self, agent):
        return {"even": Discrete(2, start=10), "odd": Discrete(3, start=20)}[agent]

    def seen(self):
        return {"even": self.x - 1, "odd": self.t - 1}

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.agents, self.t, self.x = list(self.possible_agents), 0, int(self.rng.integers(1, 5))
        return self.seen(), {a: {} for a in self.agents}

    def step(self, actions):
        a, b = actions["even"] - 10, actions["odd"] - 20
        assert a in (0, 1)
        assert b in (0, 1, 2)
        self.t += 1
        r = float(self.x if a == b else -self.x)
        left, cut = b == 2, b != 2 and self.t == self.max_cycles
        out = [
            self.seen(),
            {"even": r, "odd": -r},
            *({p: bool(f) for p in self.possible_agents} for f in (left, cut)),
            {},
        ]
        if self.t == 3:
            out = self.spoil(out, r)
        if left or cut:
            self.agents = []
        return tuple(out)

    def spoil(self, out, r):
        match self.how:
            case "raise":
                raise ValueError("the ball\nis flat")
            case "sum":
                out[1]["odd"] = 0.5
            case "nan":
                out[1] = {"even": np.nan, "odd": np.nan}
            case "no reward":
                del out[1]["odd"]
            case "one leaves":
                out[2]["odd"] = True
            case "outside":
                out[0]["odd"] = 7
            case "half":
                out[0]["even"] = 1.5
            case "shape":
                out[0]["even"] = [1, 2]
            case "missing":
                del out[0]["even"]
            case "four":
                return out[:4]
        return out


class Boxes(Pennies):
    """The same game with a 2 x 2 box for each."""

    def observation_space(self, agent):
        return gym.spaces.Box(-10.0, 10.0, (2, 2), np.float64)

    def seen(self):
        return {"even": np.full((2, 2), self.x), "odd": np.arange(4.0).reshape(2, 2) + self.t}

    def spoil(self, out, r):
        out[0]["even"] = np.full((2, 2), np.nan) if self.how == "nan obs" else out[0]["even"]
        return out


def adapt(n=1, how="right", game=Pennies, **fields) -> PettingZooEnv:
    return PettingZooEnv(
        [game(how) for _ in range(n)], PettingZooConfig(**{"id": "pennies", "reward_bound": 4.0, **fields})
    )


def joint(a: int, b: int) -> np.ndarray:
    return np.array([a * 3 + b])


def test_spec_of_a_game_with_unequal_actions():
    env = adapt(4)
    assert isinstance(env, Env)
    spec = env.env_spec
    assert (spec.name, spec.players, spec.num_actions, spec.horizon) == ("pettingzoo:pennies", (2, 3), 6, 5)
    assert (spec.num_states, spec.obs_shape, spec.optimal_return) == (4 * 8, (), None)
    assert env.exact() is None
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_rewards_are_the_first_players_and_states_are_pairs():
    env = adapt()
    obs, _ = env.reset(seed=3)
    x = int(np.random.default_rng(3).integers(1, 5))
    assert obs.tolist() == [(x - 1) * 8 + 0]
    for t, (a, b) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)], start=1):
        obs, reward, terminated, truncated, _ = env.step(joint(a, b))
        assert obs.tolist() == [(x - 1) * 8 + t]
        assert reward.tolist() == [x if a == b else -x]
        assert not terminated.any()
        assert not truncated.any()
    _, reward, terminated, truncated, _ = env.step(joint(0, 0))
    assert (reward[0], terminated[0], truncated[0]) == (x, False, True)
    first, reward, terminated, truncated, _ = env.step(joint(1, 2))  # ignored: the row begins anew
    assert first[0] % 8 == 0
    assert (reward[0], terminated[0], truncated[0]) == (0.0, False, False)
    _, reward, terminated, truncated, _ = env.step(joint(1, 2))
    assert (terminated[0], truncated[0]) == (True, False)


def test_boxes_are_concatenated_flat():
    env = adapt(2, game=Boxes)
    obs, _ = env.reset(seed=3)
    assert env.env_spec.num_states is None
    assert env.env_spec.obs_shape == (8,)
    assert obs.dtype == np.float32
    np.testing.assert_array_equal(obs[0, 4:], [0, 1, 2, 3])
    assert obs in env.observation_space
    obs, *_ = env.step(np.array([0, 0]))
    np.testing.assert_array_equal(obs[1, 4:], [1, 2, 3, 4])
    assert adapt(game=Boxes, sees="first").env_spec.obs_shape == (4,)
    assert adapt(sees="first").env_spec.num_states == 4
    bins = adapt(game=Boxes, observation="bins", resolution=2)
    assert bins.env_spec.num_states == 2**8
    with pytest.raises(RlcError, match=r"^pettingzoo:pennies: bins: 9\^8 states"):
        adapt(game=Boxes, observation="bins", resolution=9)


def stream(env, seeds, actions) -> list:
    out = [env.reset(seed=seeds)[0]]
    for action in actions:
        out.extend(env.step(action)[:4])
    return out


def test_seeds_fix_everything_and_a_batch_equals_singles():
    actions = np.random.default_rng(0).integers(6, size=(40, 3))
    many = stream(adapt(3), [7, 1, 7], actions)
    for x, y in zip(many, stream(adapt(3), [7, 1, 7], actions), strict=True):
        np.testing.assert_array_equal(x, y)
    for row, seed in enumerate([7, 1, 7]):
        for x, y in zip(many, stream(adapt(1), [seed], actions[:, row : row + 1]), strict=True):
            np.testing.assert_array_equal(x[row], y[0])
    same = np.repeat(actions[:, :1], 3, axis=1)
    for x in stream(adapt(3), [7, 7, 7], same):
        assert len(np.unique(x, axis=0)) == 1
    differ = [x for x, y in zip(many, stream(adapt(3), [8, 1, 7], actions), strict=True) if not np.array_equal(x, y)]
    assert differ


def test_later_episodes_are_seeded_whatever_the_environment_does_without_a_seed():
    class Forgetful(Pennies):
        def reset(self, seed=None, options=None):
            self.rng = np.random.default_rng(seed)  # entropy if None
            return super().reset()

    actions = np.full((60, 1), 5)
    firsts = [np.concatenate(stream(adapt(game=Forgetful), [4], actions)[0::4]) for _ in range(2)]
    np.testing.assert_array_equal(*firsts)
    assert len(np.unique(firsts[0] // 8)) > 1  # and the episodes are not all the same


def test_horizon_caps_and_truncates():
    env = adapt(2, horizon=3)
    env.reset(seed=0)
    flags = [env.step(np.zeros(2, int))[2:4] for _ in range(8)]
    assert [bool(truncated.all()) for _, truncated in flags] == [False, False, True, False] * 2
    assert not any(terminated.any() for terminated, _ in flags)
    with pytest.raises(
        RlcError, match=r"horizon 50 is beyond the environment.s own limit of 5; raise it in env.kwargs"
    ):
        adapt(horizon=50)


def test_the_loop_plays_it():
    env = adapt(3)
    rng = np.random.default_rng(0)
    steps = list(play(env, [0, 1, 2], lambda obs, h: rng.integers(6, size=3)))
    assert 1 <= len(steps) <= 5
    assert all(np.all(step.discount[step.alive & ~step.boundary] == 1) for step in steps)


WRONG = {
    "raise": r"raised at step \(step 2 of sub-environment 1\): ValueError: the ball is flat",
    "sum": r"rewards -?\d and 0\.5 do not sum to 0; allowed are .* \(step 3 of sub-environment 1\)",
    "nan": r"rewards nan and nan \(step 3",
    "no reward": r"no reward for 'odd' \(step 3",
    "one leaves": r"'odd' left while the other plays on; both must end together \(step 3",
    "outside": r"observation 7 of 'odd' is not in Discrete\(8, start=-1\) \(step 3",
    "half": r"observation of 'even' has shape \(\) of float64, not Discrete\(4\) \(step 3",
    "shape": r"observation of 'even' has shape \(2,\) of int64, not Discrete\(4\) \(step 3",
    "missing": r"no observation for 'even' \(step 3",
    "four": r"step returned no five dictionaries \(step 3",
}


@pytest.mark.parametrize("how", ["right", *WRONG])
def test_what_no_game_may_do_is_one_sentence_with_step_and_numbers(how):
    env = PettingZooEnv([Pennies(), Pennies(how)], PettingZooConfig(id="pennies", reward_bound=4.0))
    env.reset(seed=0)
    env.step(np.zeros(2, int))
    env.step(np.zeros(2, int))
    if how == "right":
        env.step(np.zeros(2, int))
        return
    with pytest.raises(RlcError, match=r"^pettingzoo:pennies:? " + WRONG[how]) as caught:
        env.step(np.zeros(2, int))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_rewards_stay_within_the_declared_range():
    assert adapt().env_spec.reward_range == (-4.0, 4.0)
    env = adapt(40, reward_bound=3.0)
    env.reset(seed=0)
    with pytest.raises(RlcError, match=r"pennies: reward 4 is beyond env\.reward_bound 3 \(step 1 of sub-environment"):
        env.step(np.zeros(40, int))


def test_boxes_that_are_not_finite_are_refused():
    env = adapt(how="nan obs", game=Boxes)
    env.reset(seed=0)
    env.step(joint(0, 0))
    env.step(joint(0, 0))
    with pytest.raises(RlcError, match=r"observation \[\[nan nan\] \[nan nan\]\] of 'even' is not in Box.* \(step 3"):
        env.step(joint(0, 0))


def changed(**methods):
    return type("Changed", (Pennies,), methods)


@pytest.mark.parametrize(
    ("game", "words"),
    [
        (changed(action_space=lambda self, agent: gym.spaces.Box(0, 1, (1,))), "the action space is Box.* Discrete"),
        (changed(observation_space=lambda self, agent: gym.spaces.Dict(a=Discrete(2))), "observations must be finite"),
        (changed(observation_space=lambda self, agent: Discrete(3000)), "more than the allowed 4096"),
        (type("Alone", (AECEnv,), {}), "in turns"),
        (object, "no PettingZoo ParallelEnv, it has no possible_agents, reset, step, action_space"),
    ],
)
def test_environments_that_are_no_such_game_are_refused(game, words):
    with pytest.raises(RlcError, match=words) as caught:
        PettingZooEnv([game()], PettingZooConfig(id="x"))
    assert "\n" not in str(caught.value)


def test_three_players_are_refused():
    game = Pennies()
    game.possible_agents = ["even", "odd", "other"]
    with pytest.raises(RlcError, match=r"it has 3 players; allowed are .* two players"):
        PettingZooEnv([game], PettingZooConfig(id="x"))


def test_ones_own_environment_by_module_and_attribute(monkeypatch):
    module = types.ModuleType("my_games")
    module.make, module.number, module.single = Pennies, 3, Pennies()
    module.shared = lambda: module.single
    monkeypatch.setitem(sys.modules, "my_games", module)
    entry, fixed = get("env", "pettingzoo:my_games:make")
    env = entry.factory(from_dict(entry.config, {**fixed, "kwargs": '{"limit": 9}'}), 2)
    assert env.env_spec.horizon == 9
    assert env.env_spec.name == "pettingzoo:my_games:make"
    for id, words in [
        ("my_games:number", "no callable 'number'"),
        ("my_games:nothing", "no callable 'nothing'"),
        ("no_such_module:make", "needs the package 'no_such_module', which is missing"),
        ("no_such_env_v3", "PettingZoo has no environment 'no_such_env_v3'"),
        ("my_games:shared", "a new environment at each call"),
    ]:
        with pytest.raises(RlcError, match=words):
            make_pettingzoo(PettingZooConfig(id=id), 2)
    with pytest.raises(RlcError, match=r"cannot be made: TypeError"):
        make_pettingzoo(PettingZooConfig(id="my_games:make", kwargs='{"no_such": 1}'), 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"horizon": 0}, "horizon"),
        ({"resolution": 0}, "resolution"),
        ({"reward_bound": 0.0}, "reward_bound"),
        ({"reward_bound": np.inf}, "reward_bound"),
        ({"kwargs": "[1]"}, "JSON object"),
        ({"kwargs": "{"}, "JSON object"),
        ({"id": ""}, "id"),
    ],
)
def test_bad_configs_are_refused(fields, words):
    with pytest.raises(RlcError, match=words):
        PettingZooConfig(**fields)


@pytest.mark.parametrize("actions", [[0, 6], [-1, 0], [0], [0.0, 0.0]])
def test_bad_actions_are_refused(actions):
    env = adapt(2)
    with pytest.raises(RlcError, match="reset"):
        env.step(np.zeros(2, int))
    env.reset(seed=0)
    with pytest.raises(RlcError, match=r"pettingzoo:pennies: (joint actions must be in 0..5|step needs 2)"):
        env.step(np.array(actions))
    with pytest.raises(RlcError, match="2 seeds"):
        env.reset(seed=[1])
    with pytest.raises(RlcError, match="no options"):
        env.reset(options={"a": 1})
    with pytest.raises(RlcError, match="pictures need"):
        env.render()


def test_a_native_game_through_its_parallel_view_is_the_same_game():
    from rl_contrastive.envs.adapters.parallel import make_parallel

    entry, _ = get("env", "soccer")
    config = from_dict(entry.config, {"horizon": 6})
    native = entry.factory(config, 3)
    viewed = PettingZooEnv(
        [make_parallel("soccer", horizon=6) for _ in range(3)], PettingZooConfig(id="s", sees="first", horizon=6)
    )
    assert viewed.env_spec.num_states == native.env_spec.num_states
    assert viewed.env_spec.players == native.env_spec.players
    actions = np.random.default_rng(0).integers(25, size=(6, 3))
    obs, _ = native.reset(seed=5)
    other, _ = viewed.reset(seed=5)
    np.testing.assert_array_equal(obs, other)
    alive = np.ones(3, bool)
    for action in actions:
        mine, theirs = native.step(action)[:4], viewed.step(action)[:4]
        for x, y in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(x[alive], y[alive])
        alive &= ~(mine[2] | mine[3])


def test_rock_paper_scissors_of_pettingzoo_itself():
    pytest.importorskip("pygame")
    env = make_pettingzoo(PettingZooConfig(id="rps_v2", kwargs='{"max_cycles": 4}'), 2)
    assert env.env_spec.players == (3, 3)
    assert env.env_spec.horizon == 4
    assert env.env_spec.num_states == 16
    obs, _ = env.reset(seed=0)
    assert obs.tolist() == [15, 15]  # nothing played yet: 3, 3
    # Each sees the other's move: paper (1) against rock (0) wins.
    obs, reward, _, _, _ = env.step(np.array([1 * 3 + 0, 0 * 3 + 1]))
    assert reward.tolist() == [1.0, -1.0]
    assert obs.tolist() == [0 * 4 + 1, 1 * 4 + 0]
    for _ in range(2):
        assert not env.step(np.array([4, 4]))[3].any()
    assert env.step(np.array([4, 4]))[3].tolist() == [True, True]
    env.close()


@pytest.mark.parametrize("id", ["tictactoe_v3", "connect_four_v3"])
def test_games_in_turns_are_refused(id):
    pytest.importorskip("pygame")
    with pytest.raises(RlcError, match="has no parallel_env: its players move in turns; allowed are"):
        find(id)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)  # what import sees where it is not installed
    for name in [m for m in sys.modules if m.startswith("pettingzoo.classic.rps")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(RlcError, match=r"pettingzoo:rps_v2 needs the package 'pygame'.*'\.\[games\]'"):
        find("rps_v2")
