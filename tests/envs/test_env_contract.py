"""The contract of every native environment in the registry; a new one is picked up by itself."""

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv
from scipy import stats

from rl_contrastive import testing
from rl_contrastive.config import from_dict
from rl_contrastive.envs import NATIVE
from rl_contrastive.envs.adapters.single import SingleEnv, make_single
from rl_contrastive.envs.base import BatchEnv
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.games import nash_values
from rl_contrastive.registry import entries, get
from rl_contrastive.spec import Env, EnvSpec, ExactModel, optimal_values

VARIATIONS = {
    "low-rank": [{"stationary": True, "reward": "linear"}, {"num_states": 400, "num_actions": 4, "horizon": 3}],
    "combination-lock": [{"horizon": 3, "num_actions": 3, "p_switch": 0.2, "noise": 0.3}],
    "variable-lock": [{"num_latents": 4, "horizon": 4, "num_actions": 3, "temperature": 0.5}],
    "deep-sea": [{"size": 5, "deterministic": False, "observation": "onehot"}],
    "low-rank-game": [{"stationary": True, "num_actions": 2, "num_opponent_actions": 4}],
    "duel-lock": [
        {"observation": "state", "horizon": 3},
        {"observation": "symbols", "horizon": 3, "num_actions": 3},
        {"horizon": 4, "num_actions": 3, "noise": 0.3},
    ],
    "swingup": [{"horizon": 25, "init_range": 3.0}],
}
CASES = [(e.name, {}) for e in entries("env") if not e.name.endswith(":")]
CASES += [(name, fields) for name, more in VARIATIONS.items() for fields in more]


# Environments that play another library's games: their names have a colon, and they are skipped where it is missing.
FOREIGN = [
    ("minatar:Breakout", {"horizon": 30}),
    ("minatar:Seaquest", {"horizon": 40, "minimal_actions": False, "sticky": 0.5}),
    ("minigrid:MiniGrid-DoorKey-5x5-v0", {"horizon": 12}),
    ("minigrid:MiniGrid-KeyCorridorS3R1-v0", {"horizon": 9, "observation": "onehot"}),
    ("minigrid:MiniGrid-Dynamic-Obstacles-5x5-v0", {"horizon": 20}),
]
NEEDS = {"minatar": "minatar", "minigrid": "minigrid"}  # Atari has a file of its own: a console is slow to start
RANDOM_STARTS = ("low-rank", "combination-lock", "distractor-lock", "low-rank-game", "duel-lock", "swingup")
NO_MODEL = ("swingup",)
"""Native, but with a continuum of states."""


def make(name: str, fields: dict, num_envs: int) -> BatchEnv:
    entry, fixed = get("env", name)
    return entry.factory(from_dict(entry.config, {**fixed, **fields}), num_envs)


def labelled(cases: list) -> pytest.MarkDecorator:
    """One test a case, skipped where the game's library is not installed."""
    values = []
    for name, fields in cases:
        library = NEEDS.get(name.partition(":")[0]) if ":" in name else None
        missing = library is not None and find_spec(library) is None
        label = f"{name}{'-' if fields else ''}{'-'.join(map(str, fields.values()))}"
        skip = pytest.mark.skipif(missing, reason=f"{library} is not installed")
        values.append(pytest.param(name, fields, id=label, marks=skip))
    return pytest.mark.parametrize(("name", "fields"), values)


CASES = [case for case in CASES if isinstance(make(*case, 1), BatchEnv)]
each_env = labelled(CASES + FOREIGN)
each_model = labelled([case for case in CASES if case[0] not in NO_MODEL])


def random_actions(env: BatchEnv, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(env.env_spec.num_actions, size=(steps, env.num_envs))


def play(env: BatchEnv, seeds, actions) -> list[tuple]:
    obs, _ = env.reset(seed=seeds)
    return [(obs, *[None] * 3), *[env.step(a)[:4] for a in actions]]


def test_the_list_registered_with_gymnasium_is_the_registry():
    """Games are no gymnasium environments: one agent would have to act for both players."""
    assert sorted({case[0] for case in CASES if make(*case, 1).env_spec.players is None}) == sorted(NATIVE)


@each_env
def test_batch_equals_singles_with_the_same_seeds(name, fields):
    seeds = [3, 11, 4, 2**31 - 1, 0]
    batch = make(name, fields, 5)
    steps = 2 * batch.env_spec.horizon + 3
    actions = random_actions(batch, steps)
    together = play(batch, seeds, actions)
    for row, seed in enumerate(seeds):
        alone = play(make(name, fields, 1), [seed], actions[:, row : row + 1])
        for t, (many, one) in enumerate(zip(together, alone, strict=True)):
            for x, y in zip(many, one, strict=True):
                if x is not None:
                    np.testing.assert_array_equal(x[row], y[0], err_msg=f"row {row} step {t}")


@each_env
def test_seeds_repeat_and_an_integer_means_consecutive_seeds(name, fields):
    env = make(name, fields, 6)
    actions = random_actions(env, env.env_spec.horizon + 2)
    first, again = play(env, 5, actions), play(env, list(range(5, 11)), actions)
    for x, y in zip(first, again, strict=True):
        for left, right in zip(x, y, strict=True):
            np.testing.assert_array_equal(left, right)
    if ":" in name or name in RANDOM_STARTS:
        other = play(env, 1000, actions)
        assert any(not np.array_equal(x[0], y[0]) for x, y in zip(first, other, strict=True))
    free, _ = env.reset()  # goes on with the streams
    assert free.shape == first[0][0].shape


@each_env
def test_the_contract_of_users_environments_and_of_gymnasium(name, fields):
    testing.check_env(lambda rows: make(name, fields, rows))
    env = make(name, fields, 4)
    assert isinstance(env, VectorEnv)
    assert isinstance(env, Env)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    obs, info = env.reset(seed=1)
    assert obs in env.observation_space
    assert info == {}
    for action in random_actions(env, 2 * env.env_spec.horizon + 2):
        obs, reward, *_ = env.step(action)
        assert obs in env.observation_space
        assert reward.dtype == np.float64


@each_env
def test_next_step_autoreset_ends_by_the_horizon_then_starts_anew(name, fields):
    env = make(name, fields, 8)
    H = env.env_spec.horizon
    env.reset(seed=0)
    over, length, episodes = np.zeros(8, bool), np.zeros(8, int), 0
    for action in random_actions(env, 4 * H + 4):
        _, reward, terminated, truncated, _ = env.step(action)
        assert not np.any(terminated & truncated)
        assert np.all(reward[over] == 0.0)
        assert not np.any((terminated | truncated)[over])
        length = np.where(over, 0, length + 1)
        over = terminated | truncated
        assert np.all(length <= H)
        assert np.all(over[length == H])
        episodes += int(over.sum())
    assert episodes >= 8


@each_env
def test_what_a_user_keeps_does_not_change(name, fields):
    env = make(name, fields, 3)
    obs, _ = env.reset(seed=2)
    kept, copies = [obs], [obs.copy()]
    for action in random_actions(env, 4):
        given = env.step(action)[:4]
        kept, copies = [*kept, *given], [*copies, *(x.copy() for x in given)]
    for x, y in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(x, y)


def different_steps(model: ExactModel) -> range:
    """The steps whose kernels are not the same memory: the first one where P is a broadcast view."""
    return range(len(model.P) if model.P.strides[0] else 1)


@each_model
def test_exact_model_is_a_distribution_factorises_and_satisfies_bellman(name, fields):
    env = make(name, fields, 1)
    model = env.exact()
    if model is None:
        pytest.skip("it has no exact model")
    H, S, A = model.r.shape
    assert env.env_spec.horizon == H
    assert env.env_spec.num_actions == A
    assert model.players == env.env_spec.players
    assert model.phi is not None or name in ("soccer", "goofspiel")  # no factors are shorter than these kernels
    for h in different_steps(model):
        np.testing.assert_allclose(model.P[h].sum(axis=-1), 1.0, atol=1e-12)
        if model.phi is not None:
            np.testing.assert_allclose(np.einsum("sad,td->sat", model.phi[h], model.psi[h]), model.P[h], atol=1e-12)
    if model.players is None:
        V, Q = optimal_values(model.P, model.r)
    else:
        V, Q = nash_values(model.P, model.r, model.players)
    np.testing.assert_allclose(model.V, V, atol=1e-10)
    np.testing.assert_allclose(model.Q, Q, atol=1e-10)
    if model.observations_are_states:
        assert env.env_spec.num_states == S
        assert env.env_spec.optimal_return == pytest.approx(model.optimal_return)


def transition_p_values(env: BatchEnv, P: np.ndarray, r: np.ndarray, rho: np.ndarray) -> list[float]:
    """Chi-square p-values of starts and transitions under (P, rho), and z-test p-values of mean rewards under r."""
    env.reset(seed=17)
    s = env.latent_states()
    p_values = [chi_square(np.bincount(s, minlength=len(rho)), rho)]
    alive = np.ones(env.num_envs, bool)
    rng = np.random.default_rng(3)
    for h in range(env.env_spec.horizon):
        action = rng.integers(env.env_spec.num_actions, size=env.num_envs)
        _, reward, terminated, truncated, _ = env.step(action)
        t = env.latent_states()
        # The pairs seen most often carry the test; rare ones have no power.
        pairs, counts = np.unique(np.stack([s, action])[:, alive], axis=1, return_counts=True)
        for index in np.argsort(-counts)[:6]:
            state, a = pairs[:, index]
            rows = alive & (s == state) & (action == a)
            p_values.append(chi_square(np.bincount(t[rows], minlength=P.shape[-1]), P[h, state, a]))
            p_values.append(mean_p_value(reward[rows], r[h, state, a]))
        alive &= ~(terminated | truncated)
        s = t
    return p_values


def chi_square(counts: np.ndarray, p: np.ndarray) -> float:
    expected = counts.sum() * p
    if np.any(counts[expected == 0.0] > 0):
        return 0.0
    big = expected >= 5
    observed, wanted = counts[big], expected[big]
    if (rest := expected[~big].sum()) >= 5:
        observed, wanted = np.append(observed, counts[~big].sum()), np.append(wanted, rest)
    if len(observed) < 2:
        return 1.0
    return float(stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue)


def mean_p_value(x: np.ndarray, mean: float) -> float:
    if np.ptp(x) < 1e-12:
        # A constant sample: right, or (for rare coins) too few draws to say; 60 equal draws rule out a fair coin.
        return 1.0 if abs(x[0] - mean) < 1e-9 or len(x) < 60 else 0.0
    return float(2 * stats.norm.sf(abs(x.mean() - mean) / (x.std() / np.sqrt(len(x)))))


@each_model
def test_steps_follow_the_exact_model(name, fields):
    env = make(name, fields, 20_000)
    model = env.exact()
    if model is None:
        pytest.skip("it has no exact model")
    p_values = transition_p_values(env, model.P, model.r, model.rho)
    assert min(p_values) > 1e-3 / len(p_values)


@pytest.mark.parametrize("name", ["low-rank", "combination-lock", "variable-lock", "low-rank-game", "duel-lock"])
def test_the_law_test_rejects_a_wrong_model(name):
    env = make(name, {"horizon": 4}, 20_000)
    model = env.exact()
    wrong = np.roll(model.P, 1, axis=-1)
    p_values = transition_p_values(env, wrong, model.r, model.rho)
    assert min(p_values) < 1e-12
    p_values = transition_p_values(env, model.P, model.r + 0.02, model.rho)
    assert min(p_values) < 1e-6


@pytest.mark.parametrize("name", NATIVE)
def test_single_view_passes_gymnasium_check_without_warnings(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(f"rl_contrastive/{name}-v0").unwrapped)


@labelled(FOREIGN)
def test_single_view_of_foreign_games_passes_gymnasium_check(name, fields):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(SingleEnv(make(name, fields, 1)), skip_render_check=True)  # it would want a registered id


def test_single_view_is_row_zero_of_the_batch_and_takes_config_fields():
    single = gym.make("rl_contrastive/combination-lock-v0", horizon=4).unwrapped
    batch = make("combination-lock", {"horizon": 4}, 1)
    x, _ = single.reset(seed=9)
    y, _ = batch.reset(seed=[9])
    np.testing.assert_array_equal(x, y[0])
    for action in (0, 3, 9, 1):
        x, reward, terminated, truncated, _ = single.step(action)
        y, rewards, ended, _, _ = batch.step(np.array([action]))
        np.testing.assert_array_equal(x, y[0])
        assert (reward, terminated, truncated) == (rewards[0], ended[0], False)
    with pytest.raises(RlcError, match="did you mean 'horizon'"):
        make_single("combination-lock", horizont=4)


@each_env
def test_bad_calls_are_one_sentence(name, fields):
    env = make(name, fields, 3)
    A = env.env_spec.num_actions
    with pytest.raises(RlcError, match="reset\\(\\) before"):
        env.step(np.zeros(3, dtype=int))
    env.reset(seed=0)
    for bad in ([0, 0, A], [0, -1, 0]):
        with pytest.raises(RlcError, match=f"outside 0..{A - 1}"):
            env.step(np.array(bad))
    for bad in ([0, 0], [0.0, 0.0, 0.0], [[0], [0], [0]]):
        with pytest.raises(RlcError, match="needs 3 integer actions"):
            env.step(np.array(bad))
    with pytest.raises(RlcError, match="needs 3 seeds"):
        env.reset(seed=[1, 2])
    with pytest.raises(RlcError, match="no options"):
        env.reset(options={"state": 1})
    with pytest.raises(RlcError, match="num_envs"):
        make(name, fields, 0)
    env.step(np.zeros(3, dtype=np.int32))  # any integer dtype will do


@pytest.mark.parametrize("name", ["combination-lock", "variable-lock", "low-rank", "duel-lock"])
def test_large_batches_with_other_block_lengths_equal_singles(name):
    """700 rows leave room for a few steps a block, one row for whole episodes; SIMD tails differ as well."""
    batch = make(name, {"horizon": 20}, 700)
    seeds = list(range(100, 800))
    actions = random_actions(batch, 45)
    together = play(batch, seeds, actions)
    for row in (0, 333, 699):
        alone = play(make(name, {"horizon": 20}, 1), [seeds[row]], actions[:, row : row + 1])
        for many, one in zip(together[1:], alone[1:], strict=True):
            np.testing.assert_array_equal(many[0][row], one[0][0])
            assert many[1][row] == one[1][0]


class Still(BatchEnv):
    """Draws nothing at all, ever."""

    def __init__(self, words: int = 0) -> None:
        super().__init__(EnvSpec("still", 2, 3, (), "int64", num_states=1), 2, words_per_step=words)

    def _prepare(self, words):
        assert words.shape[1:] == (0, 2)

    def _start(self, slot, rows):
        pass

    def _advance(self, action, slot):
        return np.ones(2), None, None

    def _observe(self, slot):
        return np.zeros(2, dtype=np.int64)


def test_an_environment_without_chance_draws_no_words():
    env = Still()
    env.reset(seed=0)
    assert [bool(env.step(np.zeros(2, dtype=int))[2].all()) for _ in range(8)] == [False, False, True, False] * 2
    with pytest.raises(RlcError, match="words_per_step must be >= 0, got -1"):
        Still(-1)


def test_gymnasium_makes_ours_without_an_import():
    code = (
        "import gymnasium; env = gymnasium.make('rl_contrastive.envs:rl_contrastive/deep-sea-v0', size=4); "
        "env.reset(seed=0); print(env.unwrapped.env_spec.horizon)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["4"]
