"""The contract of every native game, on top of the one of every environment: equilibrium, players, PettingZoo view."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from pettingzoo.utils.conversions import parallel_to_aec

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # pettingzoo's test package imports by its own old names
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test

from rl_contrastive.config import from_dict
from rl_contrastive.envs.adapters.parallel import PLAYERS, make_parallel
from rl_contrastive.envs.base import BatchEnv
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.equilibrium import nash
from rl_contrastive.planning.games import duality_gap
from rl_contrastive.registry import entries, get
from rl_contrastive.spec import joint_action, split_action


def make(name: str, num_envs: int, **fields) -> BatchEnv:
    entry, _ = get("env", name)
    return entry.factory(from_dict(entry.config, fields), num_envs)


NATIVE = [e.name for e in entries("env") if not e.name.endswith(":") and isinstance(make(e.name, 1), BatchEnv)]
GAMES = [name for name in NATIVE if make(name, 1).env_spec.players is not None]
DRAWN = [name for name in GAMES if "rgb_array" in make(name, 1).metadata["render_modes"]]
each_game = pytest.mark.parametrize("name", GAMES)


def test_there_are_games_and_pictures():
    assert {"low-rank-game", "duel-lock"} <= set(GAMES)
    assert "duel-lock" in DRAWN


@each_game
def test_actions_are_the_joint_ones_of_two_players(name):
    spec = make(name, 1).env_spec
    A, B = spec.game
    assert spec.num_actions == A * B
    a, b = split_action(np.arange(A * B), spec.game)
    np.testing.assert_array_equal(joint_action(a, b, spec.game), np.arange(A * B))
    assert (a.max(), b.max()) == (A - 1, B - 1)


@each_game
def test_declared_value_is_that_of_an_equilibrium_and_uniform_play_is_none(name):
    env = make(name, 1)
    model = env.exact()
    A, B = model.players
    H, S, _ = model.r.shape
    steps = [nash(Q.reshape(S, A, B)) for Q in model.Q]
    mu, nu = (np.stack([getattr(step, side) for step in steps])[:, :, None] for side in "xy")  # (H, S, 1, A or B)
    found = duality_gap(model, mu, nu)
    assert abs(found.gap) < 1e-9
    assert found.value == pytest.approx(model.optimal_return, abs=1e-9)
    assert env.env_spec.optimal_return == pytest.approx(model.optimal_return, abs=1e-9)
    # Neither player loses anything by an equilibrium strategy, whatever the other one does.
    flat_mu, flat_nu = np.full((H, S, 1, A), 1 / A), np.full((H, S, 1, B), 1 / B)
    uniform = duality_gap(model, flat_mu, flat_nu)
    assert uniform.gap > 0.1
    assert duality_gap(model, mu, flat_nu).value >= model.optimal_return - 1e-9
    assert duality_gap(model, flat_mu, nu).value <= model.optimal_return + 1e-9


@each_game
def test_declared_ranges_hold_rewards_and_values(name):
    spec, model = make(name, 1).env_spec, make(name, 1).exact()
    for (low, high), x in ((spec.reward_range, model.r[0]), (spec.return_range, model.V)):
        assert x.min() >= low - 1e-9
        assert x.max() <= high + 1e-9


@each_game
@pytest.mark.filterwarnings("error::UserWarning")
def test_view_passes_pettingzoos_own_tests_without_warnings(name):
    parallel_api_test(make_parallel(name), num_cycles=200)
    parallel_seed_test(lambda: make_parallel(name), num_cycles=100)


@each_game
@pytest.mark.filterwarnings("ignore::UserWarning")  # advice about spaces: an unbounded sum of one-hots is no image
def test_view_converts_to_turns(name):
    api_test(parallel_to_aec(make_parallel(name)), num_cycles=100)


@each_game
def test_view_is_a_row_of_the_batch_with_the_same_seed(name):
    view, batch = make_parallel(name), make(name, 3)
    A, B = batch.env_spec.game
    rng = np.random.default_rng(0)
    x, _ = view.reset(seed=9)
    y, _ = batch.reset(seed=[4, 9, 2])
    assert view.agents == ["max", "min"]
    for _ in range(batch.env_spec.horizon):
        for player in PLAYERS:
            np.testing.assert_array_equal(x[player], y[1])
            assert x[player] in view.observation_space(player)
        a, b = rng.integers(A), rng.integers(B)
        x, rewards, terminated, truncated, infos = view.step({"max": a, "min": b})
        y, reward, ended, cut, _ = batch.step(joint_action(np.full(3, a), np.full(3, b), (A, B)))
        assert rewards == {"max": reward[1], "min": -reward[1]}
        assert infos == {"max": {}, "min": {}}
        assert set(terminated.values()) == {ended[1]}
        assert set(truncated.values()) == {cut[1]}
        if ended[1] or cut[1]:
            break
    assert view.agents == []
    with pytest.raises(RlcError, match="episode is over; call reset"):
        view.step({"max": 0, "min": 0})


@each_game
def test_a_whole_episode_repeats_with_its_seed_and_not_with_another(name):
    """pettingzoo's own seed test stops after one step."""

    def played(seed: int) -> list:
        view = make_parallel(name)
        obs, _ = view.reset(seed=seed)
        told = [obs["max"]]
        for i, player in enumerate(PLAYERS):
            view.action_space(player).seed(i)
        while view.agents:
            obs, rewards, *_ = view.step({p: view.action_space(p).sample() for p in PLAYERS})
            told += [obs["max"], rewards["max"]]
        return told

    first = played(5)
    assert all(np.array_equal(x, y) for x, y in zip(first, played(5), strict=True))
    model = make_parallel(name).exact()
    if set(np.unique(model.P[0])) | set(model.rho) == {0.0, 1.0}:
        return  # nothing is left to chance
    others = [played(seed) for seed in range(6, 12)]
    assert any(len(o) != len(first) or not all(map(np.array_equal, first, o)) for o in others)


@each_game
def test_an_illegal_action_of_one_player_is_not_taken_for_a_legal_joint_one(name):
    view = make_parallel(name)
    A, B = view.env_spec.game
    with pytest.raises(RlcError, match=r"call reset\(\) before"):
        view.step({"max": 0, "min": 0})
    view.reset(seed=0)
    # (0, B) has the number of (1, 0), and (1, -1) that of (0, B - 1).
    for actions, named in [((0, B), "'min'"), ((1, -1), "'min'"), ((A, 0), "'max'"), ((0, 1.0), "'min'")]:
        with pytest.raises(RlcError, match=f"the action of {named} must be an integer in 0.."):
            view.step(dict(zip(PLAYERS, actions, strict=True)))
    for actions in ({"max": 0}, {}, {"max": 0, "min": 0, "judge": 0}):
        with pytest.raises(RlcError, match="needs the actions of 'max' and 'min'"):
            view.step(actions)
    view.step({"max": A - 1, "min": B - 1})


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_show_the_row_they_are_asked_for(name):
    env, view = make(name, 2), make_parallel(name, render_mode="rgb_array")
    with pytest.raises(RlcError, match=r"call reset\(\) before render"):
        env.render()
    env.reset(seed=[4, 9])
    view.reset(seed=9)
    frames = [env.render(row=1)]
    assert frames[0].dtype == np.uint8
    assert frames[0].ndim == 3
    assert frames[0].shape[2] == 3
    np.testing.assert_array_equal(view.render(), frames[0])
    rng = np.random.default_rng(1)
    for _ in range(min(4, env.env_spec.horizon)):
        joint = rng.choice(env.env_spec.num_actions, size=2, replace=False)
        env.step(joint)
        a, b = split_action(joint[1], env.env_spec.game)
        view.step({"max": a, "min": b})
        frames.append(env.render(row=1))
        np.testing.assert_array_equal(view.render(), frames[-1])
        assert frames[-1].shape == frames[0].shape
        np.testing.assert_array_equal(frames[-1], env.render(row=1))  # looking changes nothing
        if not view.agents:
            break
    assert any(not np.array_equal(frames[0], later) for later in frames[1:])
    assert make_parallel(name).render() is None
    with pytest.raises(RlcError, match="has no row 2"):
        env.render(row=2)


def test_what_is_not_drawn_or_no_game_says_so():
    env = make("low-rank-game", 1)
    env.reset(seed=0)
    assert env.metadata["render_modes"] == []
    with pytest.raises(RlcError, match="low-rank-game: this environment has no picture"):
        env.render()
    with pytest.raises(RlcError, match="unknown render_mode 'rgb_array'; allowed: None only"):
        make_parallel("low-rank-game", render_mode="rgb_array")
    with pytest.raises(RlcError, match="combination-lock: one agent plays here"):
        make_parallel("combination-lock")
    with pytest.raises(RlcError, match=r"not a native environment; native are .*duel-lock"):
        make_parallel("gym:CartPole-v1")
    with pytest.raises(RlcError, match="did you mean 'horizon'"):
        make_parallel("duel-lock", horizont=3)
