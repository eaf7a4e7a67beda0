"""MiniGrid: the fast view is the package's, planes say what the codes say, and worlds pay and end as published."""

from __future__ import annotations

import sys
import warnings
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from rl_contrastive import make_env
from rl_contrastive.envs.adapters.minigrid_depth import door_depths
from rl_contrastive.envs.adapters.minigrid_rooms import PLANES, MiniGridConfig, make_minigrid
from rl_contrastive.envs.adapters.minigrid_view import PartialView, lit
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.loop import train
from rl_contrastive.runs.rollout import play

LEFT, RIGHT, FORWARD = 0, 1, 2
WORLDS = (
    "DoorKey-8x8-v0",
    "KeyCorridorS3R2-v0",
    "MultiRoom-N4-S5-v1",
    "ObstructedMaze-2Dlhb-v1",
    "LavaCrossingS9N3-v0",
    "Dynamic-Obstacles-6x6-v0",
    "MemoryS9-v0",
    "Fetch-8x8-N3-v0",
    "Playground-v0",
    "Empty-5x5-v0",
)


@pytest.fixture(autouse=True)
def _minigrid():
    pytest.importorskip("minigrid")


def package_world(name, **arguments):
    import minigrid

    assert minigrid.__name__  # imported for the worlds that it registers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gym.make(f"MiniGrid-{name}", **arguments).unwrapped


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("see_through_walls", [False, True])
def test_the_view_is_the_packages_in_every_state_of_random_play(name, see_through_walls):
    world = package_world(name)
    world.see_through_walls = see_through_walls
    view = PartialView(world.agent_view_size)
    rng = np.random.default_rng(0)
    carried = 0
    world.reset(seed=0)
    for t in range(150):
        # Objects are met rarely by chance: pick up, drop and toggle what lies ahead more often than one would.
        action = int(rng.choice(world.action_space.n, p=weights(world.action_space.n)))
        _, _, terminated, truncated, _ = world.step(action)
        seen = world.gen_obs()["image"]
        np.testing.assert_array_equal(view.image(world), seen, err_msg=f"step {t}")
        carried += world.carrying is not None
        if terminated or truncated:
            world.reset(seed=t)
    if name == "Playground-v0":
        assert carried > 0


def weights(n):
    p = np.array([1.0, 1.0, 3.0, 1.5, 0.3, 1.5, 0.1])[:n]
    return p / p.sum()


@pytest.mark.parametrize("size", [3, 5, 9])
def test_views_of_other_sizes(size):
    world = package_world("DoorKey-8x8-v0", agent_view_size=size)
    world.reset(seed=3)
    view = PartialView(size)
    for action in (FORWARD, RIGHT, FORWARD, LEFT, LEFT, FORWARD, RIGHT, RIGHT, FORWARD):
        world.step(action)
        np.testing.assert_array_equal(view.image(world), world.gen_obs()["image"])


def test_light_is_the_packages_for_random_walls():
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import Wall

    rng = np.random.default_rng(2)
    for _ in range(100):
        opaque = rng.random((7, 7)) < rng.random()
        grid = Grid(7, 7)
        for i, j in np.argwhere(opaque):
            grid.set(i, j, Wall())
        expected = grid.process_vis(agent_pos=(3, 6))
        np.testing.assert_array_equal(lit(opaque.astype(np.uint8).tobytes(), 7).reshape(7, 7), expected)


def made(name="Empty-5x5-v0", n=2, **fields):
    return make_minigrid(MiniGridConfig(id=f"MiniGrid-{name}", **fields), n)


def test_observations_are_the_packages_image_and_the_direction():
    env = made("KeyCorridorS3R2-v0", 3)
    obs, _ = env.reset(seed=5)
    for action in np.random.default_rng(0).integers(7, size=(40, 3)):
        for row, world in enumerate(env.worlds):
            np.testing.assert_array_equal(obs[row, :3], np.moveaxis(type(world).gen_obs(world)["image"], 2, 0))
            assert (obs[row, 3] == world.agent_dir).all()
        obs = env.step(action)[0]


@pytest.mark.parametrize(
    ("name", "more"),
    [("GoToDoor-5x5-v0", (6,)), ("GoToObject-6x6-N2-v0", (6, 3)), ("Fetch-5x5-N2-v0", (5, 6, 2)),
     ("PutNear-6x6-N2-v0", (6, 3, 6, 3))],
)  # fmt: skip
def test_a_mission_that_tells_the_goal_is_shown(name, more):
    env, onehot = made(name, 3), made(name, 3, observation="onehot")
    assert env.env_spec.codes == PLANES + more
    missions, shown = set(), {}
    for seed in range(20):
        obs, planes = env.reset(seed=seed)[0], onehot.reset(seed=seed)[0]
        for row, world in enumerate(env.worlds):
            words = obs[row, 4:]
            assert (words == words[:, :1, :1]).all()
            assert shown.setdefault(world.mission, words.tobytes()) == words.tobytes()
            missions.add(world.mission)
        np.testing.assert_array_equal(planes[:, sum(PLANES) : sum(PLANES) + more[0]].argmax(axis=1), obs[:, 4])
    assert len(set(shown.values())) == len(missions) > 3  # each mission has numbers of its own
    assert made(name, mission="hidden").env_spec.codes == PLANES
    assert env.step(np.zeros(3, int))[0].shape[1] == 4 + len(more)


def test_every_world_shows_its_mission_or_has_one_that_can_be_seen():
    """Of the package's worlds: those whose missions differ, and what becomes of them."""
    shown, left_out = set(), set()
    for id in (id for id in gym.registry if id.startswith("MiniGrid-") and "WFC" not in id):
        name = id.removeprefix("MiniGrid-")
        world = package_world(name)
        missions = {world.reset(seed=seed)[0]["mission"] for seed in range(4)}
        if len(missions) > 1:
            (shown if len(made(name, 1).env_spec.codes) > 4 else left_out).add(name.split("-")[0][:11])
    assert shown == {"Fetch", "GoToDoor", "GoToObject", "PutNear"}
    assert left_out == {"BlockedUnlo", "KeyCorridor", "LockedRoom", "UnlockPicku"}
    assert made("KeyCorridorS3R2-v0", mission="shown").env_spec.codes == (*PLANES, 6)


def test_one_hot_planes_say_what_the_codes_say():
    codes, planes = made("DoorKey-8x8-v0", 4), made("DoorKey-8x8-v0", 4, observation="onehot")
    assert planes.env_spec.obs_shape == (sum(PLANES), 7, 7)
    x, y = codes.reset(seed=1)[0], planes.reset(seed=1)[0]
    starts = np.cumsum([0, *PLANES])
    for action in np.random.default_rng(0).integers(7, size=(50, 4)):
        for c in range(4):
            block = y[:, starts[c] : starts[c + 1]]
            assert (block.sum(axis=1) == 1).all()
            np.testing.assert_array_equal(block.argmax(axis=1), x[:, c])
        x, y = codes.step(action)[0], planes.step(action)[0]


def test_a_stack_is_told_to_agents_and_changes_no_observation():
    one, four = made("DoorKey-8x8-v0"), made("DoorKey-8x8-v0", stack=4)
    assert (one.env_spec.frame_stack, four.env_spec.frame_stack) == (1, 4)
    np.testing.assert_array_equal(one.reset(seed=1)[0], four.reset(seed=1)[0])
    with pytest.raises(RlcError, match=r"stack must lie in \[1, 100\], got 0"):
        made("DoorKey-8x8-v0", stack=0)


def test_worlds_differ_between_seeds_and_repeat_for_the_same_one():
    env = made("MultiRoom-N4-S5-v1", 4)
    env.reset(seed=0)
    grids = [world.grid.encode().tobytes() for world in env.worlds]
    assert len(set(grids)) == 4
    env.step(np.full(4, FORWARD))
    env.reset(seed=0)
    assert [world.grid.encode().tobytes() for world in env.worlds] == grids


def test_the_goal_pays_as_published_and_is_a_terminal():
    """Empty-5x5: two steps ahead, a turn to the right, two steps ahead; max_steps = 4 * 25."""
    env = made()
    way = [FORWARD, FORWARD, RIGHT, FORWARD, FORWARD]
    (*before, last) = play(env, [0, 1], lambda obs, h: np.full(2, way[h]))
    assert all((step.reward == 0.0).all() for step in before)
    np.testing.assert_allclose(last.reward, 1 - 0.9 * 5 / 100)
    assert (last.h, last.discount.tolist(), last.boundary.tolist()) == (4, [0.0, 0.0], [True, True])


@pytest.mark.parametrize(("horizon", "length"), [(None, 100), (30, 30), (250, 250)])
def test_time_truncates(horizon, length):
    env = made(horizon=horizon)
    assert env.env_spec.horizon == length
    (*_, last) = play(env, [0, 1], lambda obs, h: np.full(2, LEFT))
    assert (last.h, last.discount.tolist(), last.boundary.tolist()) == (length - 1, [1.0, 1.0], [True, True])


def test_pictures_and_action_names():
    env = made("DoorKey-8x8-v0")
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (8 * 16, 8 * 16, 3)
    env.step(np.full(2, LEFT))
    assert (env.render() != first).any()
    assert env.action_names == ("left", "right", "forward", "pickup", "drop", "toggle", "done")


def test_what_cannot_be_is_one_sentence(monkeypatch):
    with pytest.raises(RlcError, match="did you mean 'MiniGrid-DoorKey-8x8-v0'"):
        made("DoorKey-8x8-v00")
    with pytest.raises(RlcError, match="horizon"):
        MiniGridConfig(horizon=0)
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(RlcError, match=r"needs minigrid: pip install -e '\.\[bench\]'\.$"):
        made()


def test_depth_counts_the_doors_behind_by_hand() -> None:
    """Two rooms and a third behind a locked door; a wall between all of them."""
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import Ball, Door, Wall

    world = SimpleNamespace(grid=Grid(7, 3), agent_pos=(1, 1))
    for x in range(7):
        for y in (0, 2):
            world.grid.set(x, y, Wall())
    for x, thing in ((0, Wall()), (2, Door("red")), (3, Ball("blue")), (5, Door("grey", is_locked=True)), (6, None)):
        world.grid.set(x, 1, thing)
    assert door_depths(world)[:, 1].tolist() == [-1, 0, 0, 1, 1, 1, 2]
    assert (door_depths(world)[:, 0] == -1).all()


def test_depth_of_rooms_is_their_number() -> None:
    env = make_env("minigrid:MiniGrid-MultiRoom-N4-S5-v0", 3)
    for k in range(4):
        env.reset(seed=[10 * k + row for row in range(3)])
        for world, depths in zip(env.worlds, env._depths, strict=True):
            for number, room in enumerate(world.rooms):
                inside = depths[room.top[0] + 1 : room.top[0] + room.size[0] - 1, room.top[1] + 1]
                assert (inside == number).all()
            assert len(world.rooms) == 6
    assert env.episode_metrics()["depth"].tolist() == [0, 0, 0]


def test_depth_is_that_of_the_episode_since_reset_and_survives_its_end() -> None:
    env = make_env("minigrid:MiniGrid-MultiRoom-N2-S4-v0", 2)
    env.reset(seed=[1, 2])
    world = env.worlds[0]
    world.agent_pos, world.step_count = np.array(world.goal_pos), world.max_steps - 1  # in the second room
    for _ in range(9):  # row 0 begins a new episode after its first step, which is not measured
        env.step(np.array([0, 0]))
        assert env.episode_metrics()["depth"].tolist() == [1, 0]
    env.reset(seed=[2, 3])
    assert env.episode_metrics()["depth"].tolist() == [0, 0]
    assert make_env("minigrid:MiniGrid-Empty-5x5-v0", 1).episode_metrics() == {}


def test_depth_is_recorded_of_training_episodes(make_agent) -> None:
    agent = make_agent("uniform", "minigrid:MiniGrid-MultiRoom-N2-S4-v0", batch=2)
    seen = []
    measure = agent.env.episode_metrics
    agent.env.episode_metrics = lambda: seen.append(measure()["depth"]) or {"depth": seen[-1]}
    history = train(agent, agent.env, episodes=12, eval_every=6, eval_episodes=2, seed=3).history
    for line, part in zip(history, (seen[:3], seen[3:]), strict=True):
        assert line["env/depth"] == pytest.approx(np.mean(part))
    assert any(np.any(depth > 0) for depth in seen)


@pytest.mark.parametrize(
    ("name", "options", "rooms", "size"),
    [
        ("MiniGrid-MultiRoom-N7-S8-v0", {}, 7, 8),
        ("MiniGrid-MultiRoom-N10-S4-v0", {}, 10, 4),
        ("MiniGrid-MultiRoom-N10-S10-v0", {}, 10, 10),
        ("MiniGrid-MultiRoom-N4-S5-v0", {}, 6, 5),  # registered, with six rooms
        ("MiniGrid-MultiRoom-N6-v0", {"rooms": 3, "size": 5}, 3, 5),
    ],
)
def test_rooms_and_sizes(name, options, rooms, size) -> None:
    env = make_env(f"minigrid:{name}", 1, **options)
    env.reset(seed=[0])
    world = env.worlds[0]
    assert len(world.rooms) == rooms
    assert max(max(room.size) for room in world.rooms) <= size
    assert env.env_spec.horizon == 20 * rooms
    assert env._depths[0].max() == rooms - 1


@pytest.mark.parametrize("name", ["KeyCorridorS3R3", "LockedRoom", "ObstructedMaze-1Dlhb", "ObstructedMaze-2Dlh"])
def test_harder_worlds_have_rooms(name) -> None:
    env = make_env(f"minigrid:MiniGrid-{name}-v0", 1)
    env.reset(seed=[0])
    assert env._depths[0].max() >= 1


def test_rooms_that_cannot_be_are_a_sentence() -> None:
    for name, options, words in (
        ("MiniGrid-MultiRoom-N40-S4-v0", {}, "rooms must lie in"),
        ("MiniGrid-MultiRoom-N4-S2-v0", {}, "size must lie in"),
        ("MiniGrid-DoorKey-5x5-v0", {"rooms": 3}, "options of MultiRoom worlds alone"),
        ("MiniGrid-MultiRooms-N4-S5-v0", {}, "MultiRoom-N4-S5"),
    ):
        with pytest.raises(RlcError, match=words):
            make_env(f"minigrid:{name}", 1, **options)
