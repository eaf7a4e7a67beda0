"""Noise on MiniGrid's worlds, against colours and normals by hand; the worlds themselves do not change."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive import make_env
from rl_contrastive.envs.streams import Streams, integers, normals
from rl_contrastive.errors import RlcError

NAME = "minigrid:MiniGrid-MultiRoom-N2-S4-v0"
LEFT, FORWARD, DROP = 0, 2, 4


@pytest.fixture(autouse=True)
def _minigrid():
    pytest.importorskip("minigrid")


def test_disco_changes_the_colours_of_surfaces_and_nothing_else() -> None:
    env = make_env(NAME, 2, noise="disco")
    obs = env.reset(seed=[3, 4])[0]
    for t in range(30):
        plain, surface = env._codes, np.isin(env._codes[:, 0], (1, 2, 3))
        for row, seed in enumerate((3, 4)):
            words = Streams([seed], counter=50 * t).words(50)[1:]  # the first is the seed of the next world
            drawn = integers(words, 6).reshape(7, 7)
            expected = np.where(surface[row], drawn, plain[row, 1])
            np.testing.assert_array_equal(obs[row, 1], expected)
        np.testing.assert_array_equal(np.delete(obs, 1, axis=1), np.delete(plain, 1, axis=1))
        assert not (obs[:, 1] == plain[:, 1])[surface].all()
        obs = env.step(np.array([LEFT, t % 3]))[0]
    assert env.env_spec.codes[1] == 6
    assert set(np.unique(obs[:, 1])) <= set(range(6))


def test_disco_shows_the_same_place_differently_and_is_off_by_default() -> None:
    shown = {}
    for noise in ("none", "disco"):
        env = make_env(NAME, 1, noise=noise)
        env.reset(seed=0)
        seen = [env.step(np.array([LEFT]))[0].tobytes() for _ in range(16)]
        shown[noise] = len(set(seen))
    assert shown == {"none": 4, "disco": 16}  # four directions


def test_gaussian_adds_normals_to_codes_between_0_and_1() -> None:
    env = make_env(NAME, 2, noise="gaussian", noise_scale=0.5)
    spec = env.env_spec
    assert (spec.obs_dtype, spec.obs_shape, spec.codes) == ("float32", (4, 7, 7), ())
    obs = env.reset(seed=[3, 4])[0]
    for t in range(5):
        clean = env._codes / np.array([10, 5, 2, 3])[:, None, None]
        words = Streams([3], counter=99 * t).words(99)[1:]
        noise = 0.5 * normals(words).reshape(-1)[:196].reshape(4, 7, 7)
        np.testing.assert_allclose(obs[0], clean[0] + noise, atol=1e-6)
        obs = env.step(np.array([FORWARD, LEFT]))[0]
    flags = make_env(NAME, 1, noise="gaussian", observation="onehot")
    many = np.concatenate([flags.reset(seed=seed)[0] for seed in range(40)])
    assert many.shape == (40, 24, 7, 7)
    assert many[:, 10].std() == pytest.approx(0.1, rel=0.05)  # no agents are seen, only noise
    assert many[:, 10].mean() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("noise", ["disco", "gaussian", "tv"])
def test_batches_equal_their_singles_and_seeds_repeat(noise) -> None:
    rng = np.random.default_rng(0)
    actions = rng.integers(7, size=(60, 3))
    batch = make_env(NAME, 3, noise=noise)
    seen = [batch.reset(seed=[5, 6, 7])[0], *(batch.step(a)[0] for a in actions)]
    for row in range(3):
        single = make_env(NAME, 1, noise=noise)
        alone = [single.reset(seed=[5 + row])[0], *(single.step(a[row : row + 1])[0] for a in actions)]
        np.testing.assert_array_equal(np.concatenate(alone), np.stack(seen)[:, row])


def test_the_television_changes_its_colour_by_drop_alone() -> None:
    env = make_env(NAME, 1, noise="tv")
    world = env.worlds[0]
    colours = []
    for seed in range(8):
        env.reset(seed=seed)
        room = world.rooms[0]
        x, y = (int(i) for i in world.television.cur_pos)
        assert world.grid.get(x, y) is world.television
        assert room.top[0] < x < room.top[0] + room.size[0] - 1
        assert room.top[1] < y < room.top[1] + room.size[1] - 1
        before = world.television.color
        for action in (0, 1, 6, 0, 1):
            env.step(np.array([action]))
            assert world.television.color == before
        for _ in range(10):
            where = (world.agent_pos, world.agent_dir, world.carrying)
            env.step(np.array([DROP]))
            assert (world.agent_pos, world.agent_dir, world.carrying) == where
            colours.append(world.television.color)
        assert world.step_count == 15
    counts = [colours.count(colour) for colour in sorted(set(colours))]
    assert len(counts) == 6
    assert min(counts) > 3  # 80 draws of six colours


def test_the_world_behind_the_television_is_the_one_without_it() -> None:
    for seed in range(5):
        env, plain = make_env(NAME, 1, noise="tv"), make_env(NAME, 1)
        env.reset(seed=seed)
        plain.reset(seed=seed)
        ours, theirs = env.worlds[0], plain.worlds[0]
        ours.grid.set(*ours.television.cur_pos, None)
        np.testing.assert_array_equal(ours.grid.encode(), theirs.grid.encode())
        assert ours.agent_pos == theirs.agent_pos


def test_noise_that_cannot_be_is_a_sentence() -> None:
    with pytest.raises(RlcError, match="needs a MultiRoom world"):
        make_env("minigrid:MiniGrid-DoorKey-8x8-v0", 1, noise="tv")
    with pytest.raises(RlcError, match="noise"):
        make_env(NAME, 1, noise="static")
    with pytest.raises(RlcError, match="noise_scale"):
        make_env(NAME, 1, noise="gaussian", noise_scale=0)
    for noise in ("none", "disco", "tv"):
        with pytest.raises(RlcError, match=f"noise_scale is for noise gaussian, and noise is {noise}."):
            make_env(NAME, 1, noise=noise, noise_scale=0.2)
        make_env(NAME, 1, noise=noise, noise_scale=0.1)  # the default
