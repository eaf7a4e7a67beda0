"""The gymnasium adapter: three autoreset modes with the same transitions, features, and what it refuses."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rl_contrastive.envs.adapters.gym_adapter import GymConfig, GymEnv, make_gym
from rl_contrastive.envs.adapters.gym_features import feature_map
from rl_contrastive.envs.adapters.gym_table import exact_table
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import get


class Walk(gym.Env):
    """Counts up from a random number; action 1 ends the episode (terminal), the limit of 4 steps truncates it."""

    observation_space = gym.spaces.Box(-1.0, 200.0, (2,), np.float64)
    action_space = gym.spaces.Discrete(2, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = int(self.np_random.integers(100)), 0
        return self.observe(), {}

    def observe(self):
        return np.array([self.x, self.t], dtype=np.float64)

    def step(self, action):
        assert action in (5, 6)
        self.x, self.t = self.x + 1, self.t + 1
        return self.observe(), self.x / 10, bool(action == 6), bool(action == 5 and self.t == 4), {}


class Broken(Walk):
    """Pays a wrong reward, or raises, at its third step."""

    def __init__(self, how):
        self.how = how

    def step(self, action):
        obs, reward, *flags = super().step(action)
        if self.t == 3:
            if self.how == "raise":
                raise RuntimeError("the motor\nis on fire")
            reward = self.how
        return obs, reward, *flags


class Pair(Walk):
    """The same walk with a tuple of two finite observations."""

    observation_space = gym.spaces.Tuple((gym.spaces.Discrete(200), gym.spaces.Discrete(6, start=-1)))

    def observe(self):
        return (self.x, self.t - 1)


def adapt(make, mode=AutoresetMode.NEXT_STEP, n=3, horizon=4, **fields) -> GymEnv:
    return GymEnv(SyncVectorEnv([make] * n, autoreset_mode=mode), GymConfig(id="Walk-v0", **fields), horizon)


def episode_transitions(env: GymEnv, seeds, actions) -> list[tuple]:
    """(row, h, o, a, r, o', discount) of the first episode of each row, by gymnasium's autoreset contract."""
    obs, _ = env.reset(seed=seeds)
    alive, out = np.ones(env.num_envs, bool), []
    for h, action in enumerate(actions):
        following, reward, terminated, truncated, info = env.step(action)
        ended = terminated | truncated
        final = following
        if env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP and ended.any():
            final = np.where(ended.reshape(-1, *[1] * (following.ndim - 1)), info["final_obs"], following)
        for i in np.flatnonzero(alive):
            o, o_next = np.atleast_1d(obs[i]).tolist(), np.atleast_1d(final[i]).tolist()
            out.append((int(i), h, o, int(action[i]), float(reward[i]), o_next, 1.0 - terminated[i]))
        alive &= ~ended
        obs = following
    assert not alive.any()
    return out


ACTIONS = np.array([[0, 0, 1], [0, 1, 0], [0, 0, 0], [0, 1, 1]])  # rows: truncated at 4, ended at 2, ended at 1


@pytest.mark.parametrize("make", [Walk, Pair])
def test_all_three_autoreset_modes_give_the_same_transitions(make):
    lists = [episode_transitions(adapt(make, mode), [7, 8, 9], ACTIONS) for mode in AutoresetMode]
    assert lists[0] == lists[1] == lists[2]
    by_row = [[t for t in lists[0] if t[0] == row] for row in range(3)]
    assert [len(t) for t in by_row] == [4, 2, 1]
    assert [t[-1][6] for t in by_row] == [1.0, 0.0, 0.0]  # truncation keeps its discount, a terminal does not
    if make is Walk:
        for rows in by_row:  # each next observation is the true one: one more than before, also at the end
            assert all(t[5] == [t[2][0] + 1, t[2][1] + 1] for t in rows)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_stepping_goes_on_after_ends_in_every_mode(mode):
    env = adapt(Walk, mode, n=2)
    env.reset(seed=1)
    times = [env.step(np.zeros(2, dtype=int))[0][:, 1].tolist() for _ in range(7)]
    expected = [1, 2, 3, 4, 0, 1, 2] if mode == AutoresetMode.NEXT_STEP else [1, 2, 3, 0, 1, 2, 3]
    assert times == [[t, t] for t in expected]


def test_a_batch_equals_singles():
    actions = np.random.default_rng(0).integers(2, size=(30, 3))
    config = GymConfig(id="CartPole-v1", horizon=20)
    batch = make_gym(config, 3)
    singles = [make_gym(config, 1) for _ in range(3)]
    many = [batch.reset(seed=[4, 5, 6])[0], *[batch.step(a)[0] for a in actions]]
    for row, single in enumerate(singles):
        one = [single.reset(seed=[4 + row])[0], *[single.step(a[row : row + 1])[0] for a in actions]]
        np.testing.assert_array_equal(np.array(many)[:, row], np.array(one)[:, 0])


@pytest.mark.parametrize(("limit", "horizon"), [(None, 200), (20, 20), (300, 300)])
@pytest.mark.parametrize("by", ["horizon", "max_episode_steps"])
def test_horizon_replaces_the_environments_own_limit(limit, horizon, by):
    fields = {"horizon": limit} if by == "horizon" or limit is None else {"kwargs": f'{{"{by}": {limit}}}'}
    env = make_gym(GymConfig(id="MountainCar-v0", **fields), 1)
    assert env.env_spec.horizon == horizon
    env.reset(seed=0)
    truncated = [bool(env.step(np.ones(1, dtype=int))[3][0]) for _ in range(horizon)]
    assert truncated == [False] * (horizon - 1) + [True]


def test_the_horizon_truncates_and_does_not_terminate():
    env = make_gym(GymConfig(id="MountainCar-v0", horizon=5), 2)
    env.reset(seed=0)
    for h in range(5):
        _, _, terminated, truncated, _ = env.step(np.array([0, 2]))
        assert truncated.tolist() == [h == 4] * 2
        assert not terminated.any()


@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf])
def test_rewards_that_are_not_finite_name_environment_step_and_row(reward):
    env = adapt(lambda: Broken(reward), n=2)
    env.reset(seed=0)
    env.step(np.zeros(2, dtype=int))
    env.step(np.zeros(2, dtype=int))
    with pytest.raises(RlcError, match=r"^gym:Walk-v0: reward \S+ at step 3 of sub-environment 0\.$"):
        env.step(np.zeros(2, dtype=int))


def test_an_environment_that_raises_becomes_one_sentence():
    env = adapt(lambda: Broken("raise"), n=1)
    env.reset(seed=0)
    env.step(np.zeros(1, dtype=int))
    env.step(np.zeros(1, dtype=int))
    with pytest.raises(RlcError) as caught:
        env.step(np.zeros(1, dtype=int))
    assert str(caught.value) == "gym:Walk-v0 raised at step (step 2): RuntimeError: the motor is on fire."


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id": "ALE/NoSuchGame-v5"}, "atari:NoSuchGame"),
        ({"id": "Pendulum-v1", "bins": 1}, "bins must be >= 2"),
        ({"id": "BipedalWalker-v3", "bins": 9}, "at most 1024|cannot be made"),
        ({"id": "NoSuchEnv-v0"}, "cannot be made"),
        ({"id": "CartPole-v1", "kwargs": '{"no_such": 1}'}, "cannot be made"),
        ({"id": "CartPole-v1", "kwargs": "[1]"}, "JSON object"),
        ({"id": "CartPole-v1", "kwargs": "{"}, "JSON object"),
        ({"id": "CartPole-v1", "horizon": 0}, "horizon"),
        ({"id": "CartPole-v1", "kwargs": '{"max_episode_steps": -1}'}, "whole number >= 1, got -1"),
        ({"id": "CartPole-v1", "horizon": 7, "kwargs": '{"max_episode_steps": 8}'}, "give one of them"),
        ({"id": "no_such_module:Walk-v0"}, "cannot be made: ModuleNotFoundError"),
        ({"id": "CartPole-v1", "observation": "bins", "resolution": 30}, "100000"),
        ({"id": "CartPole-v1", "observation": "fourier", "resolution": 9}, "4096"),
        ({"id": "CartPole-v1", "resolution": 0}, "resolution"),
        ({"id": "CartPole-v1", "scale": 0.0}, "scale"),
        ({"id": "CartPole-v1", "tilings": 0}, "tilings"),
    ],
)
def test_what_cannot_serve_is_refused_in_one_sentence(fields, words):
    with pytest.raises(RlcError, match=words) as caught:
        make_gym(GymConfig(**fields), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("actions", [[0, 2, 0], [0, -1, 0], [0, 0], [0.0, 0.0, 0.0]])
def test_bad_actions_are_refused(actions):
    env = adapt(Walk)
    env.reset(seed=0)
    with pytest.raises(RlcError, match="gym:Walk-v0"):
        env.step(np.array(actions))


def test_the_registry_fixes_the_id_and_keyword_arguments_arrive():
    entry, fixed = get("env", "gym:FrozenLake-v1")
    assert fixed == {"id": "FrozenLake-v1"}
    slippery, firm = (entry.factory(entry.config(**fixed, kwargs=k), 1) for k in ("{}", '{"is_slippery": false}'))
    assert firm.env_spec.optimal_return == pytest.approx(1.0)
    assert slippery.env_spec.optimal_return < 0.9


def test_ids_are_those_of_gymnasium_make(tmp_path, monkeypatch):
    """A module that registers the environment, and a name without its version."""
    (tmp_path / "my_walks.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gym.register('My/Pole-v3', CartPoleEnv, max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        entry, fixed = get("env", "gym:my_walks:My/Pole-v3")
        assert entry.factory(entry.config(**fixed), 2).env_spec.horizon == 7
    finally:
        gym.registry.pop("My/Pole-v3", None)
    with pytest.warns(UserWarning, match="latest versioned"):
        assert make_gym(GymConfig(id="MountainCar"), 1).env_spec.horizon == 200


def test_published_table_gives_the_exact_model_of_frozen_lake():
    n = 3000
    env = make_gym(GymConfig(id="FrozenLake-v1", horizon=30), n)
    model = env.exact()
    np.testing.assert_allclose(model.P[0].sum(axis=-1), 1.0)
    policy = model.Q.argmax(axis=-1)
    obs, _ = env.reset(seed=0)
    total, alive = np.zeros(n), np.ones(n, bool)
    for h in range(30):
        obs, reward, terminated, truncated, _ = env.step(policy[h][obs])
        total += np.where(alive, reward, 0.0)
        alive &= ~(terminated | truncated)
    assert abs(total.mean() - model.optimal_return) < 5 * total.std() / np.sqrt(n)
    assert make_gym(GymConfig(id="CartPole-v1"), 1).exact() is None


def test_an_ambiguous_or_missing_table_gives_no_model():
    class Table:
        P = {0: {0: [(1.0, 1, 1.0, True)]}, 1: {0: [(1.0, 1, 0.0, True)]}}  # noqa: RUF012
        initial_state_distrib = np.array([1.0, 0.0])

    assert exact_table(Table(), 3).optimal_return == 1.0
    ambiguous = Table()
    ambiguous.P = {0: {0: [(0.5, 1, 1.0, True), (0.5, 1, 0.0, False)]}, 1: Table.P[1]}
    assert exact_table(ambiguous, 3) is None
    begins_at_its_end = Table()
    begins_at_its_end.initial_state_distrib = np.array([0.5, 0.5])
    assert exact_table(begins_at_its_end, 3) is None
    assert exact_table(object(), 3) is None


BOX = gym.spaces.Box(np.array([0.0, -np.inf]), np.array([10.0, np.inf]), dtype=np.float64)


def test_bins_number_the_cells():
    bins = feature_map(BOX, "bins", 4, 1, 2.0)
    x = np.array([[0.0, -50.0], [10.0, 50.0], [2.6, 0.1], [99.0, 0.1]])  # the logistic curve of .1/2 is just above .5
    assert bins.num_states == 16
    assert bins.apply(x).tolist() == [0, 15, 6, 14]


@pytest.mark.parametrize(
    ("low", "high", "dtype", "bounded"),
    [
        (0, 1004, np.float64, True),  # gymnasium's own "none" is 3.4e38 or infinite
        (-1e6, 1e6, np.float32, True),
        (0, 65_000, np.int64, True),
        (0, 255, np.uint8, True),
        (-3.4e38, 3.4e38, np.float64, False),
        (-np.finfo(np.float32).max, np.finfo(np.float32).max, np.float32, False),
        (-np.finfo(np.float16).max, np.finfo(np.float16).max, np.float16, False),
        (-(2**31), 2**31 - 1, np.int32, False),
        (-np.inf, np.inf, np.float32, False),
    ],
)
def test_finite_bounds_are_meant(low, high, dtype, bounded):
    box = gym.spaces.Box(low, high, (1,), dtype)
    x = low + (np.arange(8) + 0.5) / 8 * (high - low) if bounded else np.zeros(8)
    cells = feature_map(box, "bins", 8, 1, 1.0).apply(x.astype(dtype)[:, None]).tolist()
    assert cells == (list(range(8)) if bounded else [4] * 8)


def test_single_numbers_are_vectors_of_one():
    for kind, shape in (("raw", (1,)), ("bins", ()), ("fourier", (4,)), ("tile", (16,))):
        f = feature_map(gym.spaces.Box(0.0, 8.0, ()), kind, 3, 4, 1.0)
        x = f.apply(np.array([1.0, 7.0], dtype=np.float32))
        assert f.shape == shape
        assert x.shape == (2, *shape)
        assert x.reshape(2, -1)[0].tolist() != x.reshape(2, -1)[1].tolist()


@pytest.mark.parametrize(
    ("shape", "seen"),
    [((12, 10, 3), (3, 12, 10)), ((12, 10, 1), (1, 12, 10)), ((2, 12, 10, 3), (6, 12, 10)),
     ((3, 12, 10), (3, 12, 10)), ((8, 8, 8), (8, 8, 8)), ((12, 10), (12, 10))],
)  # fmt: skip
def test_pictures_have_their_channels_first(shape, seen):
    high = np.arange(np.prod(shape)).reshape(shape) % 250 + 1
    box = gym.spaces.Box(np.zeros(shape, np.uint8), high.astype(np.uint8), dtype=np.uint8)
    f = feature_map(box, "raw", 1, 1, 1.0)
    assert f.shape == f.space.shape == seen
    picture = high[None].astype(np.uint8)
    np.testing.assert_array_equal(f.apply(picture)[0], f.space.high)
    if shape == (2, 12, 10, 3):
        np.testing.assert_array_equal(f.apply(picture)[0, 4], picture[0, 1, :, :, 1])
    elif seen != shape:
        np.testing.assert_array_equal(f.apply(picture)[0, -1], picture[0, ..., -1])


def test_finite_spaces_too_large_for_tables_are_one_hot():
    f = feature_map(gym.spaces.MultiBinary(20), "raw", 1, 1, 1.0)
    x = np.random.default_rng(0).integers(2, size=(5, 20)).astype(np.int8)
    assert (f.shape, f.num_states) == ((20,), None)
    assert f.apply(x).tolist() == x.tolist()
    f = feature_map(gym.spaces.MultiDiscrete([10] * 8, start=[1] * 8), "raw", 1, 1, 1.0)
    assert f.shape == (80,)
    np.testing.assert_array_equal(f.apply(np.arange(1, 9)[None])[0].reshape(8, 10), np.eye(10)[:8])
    with pytest.raises(RlcError, match="1000000 states, one-hot 1000000 numbers, are more than the allowed 4096; show"):
        feature_map(gym.spaces.Discrete(10**6), "raw", 1, 1, 1.0)


def test_fourier_features_are_cosines_of_unit_scale():
    f = feature_map(BOX, "fourier", 2, 1, 1.0)
    x = np.array([[5.0, 0.0], [0.0, 700.0]])  # z = (.5, .5), (0, 1)
    c = np.array([(a, b) for a in range(3) for b in range(3)])
    expected = np.cos(np.pi * c @ np.array([[0.5, 0.0], [0.5, 1.0]])).T / 3
    np.testing.assert_allclose(f.apply(x), expected, atol=1e-6)
    assert np.all(np.linalg.norm(f.apply(x), axis=1) <= 1 + 1e-6)


def test_tile_coding_has_one_tile_per_tiling_and_generalises_locally():
    f = feature_map(BOX, "tile", 5, 4, 1.0)
    x = f.apply(np.array([[1.0, 0.0], [1.1, 0.0], [9.0, 0.0], [10.0, 1e9], [0.0, -1e9]]))
    assert x.shape == (5, 4 * 36)
    np.testing.assert_allclose((x**2).sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal((x > 0).reshape(5, 4, 36).sum(axis=2), 1)
    assert x[0] @ x[1] > 0.7
    assert x[0] @ x[2] == 0.0
    distances = [x[0] @ f.apply(np.array([[1.0 + d, 0.0]]))[0] for d in (0.0, 0.5, 1.0, 2.5)]
    assert distances == sorted(distances, reverse=True)


def test_finite_spaces_are_numbered_without_collisions():
    spaces = [
        gym.spaces.Discrete(6, start=-2),
        gym.spaces.MultiDiscrete([2, 3, 2]),
        gym.spaces.MultiBinary(3),
        gym.spaces.Tuple((gym.spaces.Discrete(3, start=4), gym.spaces.Discrete(2))),
    ]
    batches = [
        np.arange(-2, 4),
        np.array(list(np.ndindex(2, 3, 2))),
        np.array(list(np.ndindex(2, 2, 2)), dtype=np.int8),
        (np.array([4, 4, 5, 5, 6, 6]), np.array([0, 1, 0, 1, 0, 1])),
    ]
    for space, batch, size in zip(spaces, batches, (6, 12, 8, 6), strict=True):
        table = feature_map(space, "raw", 1, 1, 1.0)
        assert table.num_states == size
        assert table.apply(batch).tolist() == list(range(size))
    with pytest.raises(RlcError, match="Flatten"):
        feature_map(gym.spaces.Dict(a=gym.spaces.Discrete(2)), "raw", 1, 1, 1.0)
    with pytest.raises(RlcError, match="one-dimensional"):
        feature_map(gym.spaces.Box(0, 255, (8, 8, 3), np.uint8), "tile", 1, 1, 1.0)


class Blind(Walk):
    """Sees NaN at its third step."""

    def observe(self):
        return np.array([self.x, np.nan if self.t == 3 else self.t], dtype=np.float64)


def test_observations_that_are_not_finite_name_environment_step_and_row():
    gym.register("Blind-v0", Blind)
    try:
        env = make_gym(GymConfig(id="Blind-v0"), 2)
        env.reset(seed=0)
        for _ in range(2):
            env.step(np.zeros(2, dtype=np.int64))
        with pytest.raises(RlcError, match="gym:Blind-v0: an observation with NaN or infinite values at step 3 of sub"):
            env.step(np.zeros(2, dtype=np.int64))
    finally:
        gym.registry.pop("Blind-v0")
