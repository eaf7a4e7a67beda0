"""Atari: the contract, the 100k protocol's rules for training and for measuring, and pictures of the same game."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rl_contrastive.config import to_dict
from rl_contrastive.envs.adapters.atari import AtariConfig, AtariEnv, make_atari
from rl_contrastive.envs.adapters.single import SingleEnv
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.evaluate import evaluate
from rl_contrastive.runs.load import make_env
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.rollout import play
from rl_contrastive.runs.run import RunConfig, build
from rl_contrastive.seeding import SeedTree


@pytest.fixture(autouse=True)
def _ale():
    pytest.importorskip("ale_py")


def made(game="Breakout", n=2, **fields) -> AtariEnv:
    return make_atari(AtariConfig(**{"id": game, "size": 42, "idle_frames": 4, **fields}), n)


def test_a_batch_equals_singles_also_over_ends_and_with_sticky_actions():
    fields = {"horizon": 5, "sticky": 0.25}
    batch, singles = made(n=2, **fields), [made(n=1, **fields) for _ in range(2)]
    actions = np.random.default_rng(0).integers(4, size=(20, 2))  # each sixth step begins a new game
    many = [(batch.reset(seed=[3, 2**31 - 1])[0], None, None, None), *[batch.step(a)[:4] for a in actions]]
    for row, seed in enumerate((3, 2**31 - 1)):
        one = [(singles[row].reset(seed=[seed])[0], None, None, None)]
        one += [singles[row].step(a[row : row + 1])[:4] for a in actions]
        for t, (x, y) in enumerate(zip(many, one, strict=True)):
            for left, right in zip(x, y, strict=True):
                if left is not None:
                    np.testing.assert_array_equal(left[row], right[0], err_msg=f"row {row} step {t}")
    assert [x[3].tolist() for x in many[1:]] == [[t % 6 == 5] * 2 for t in range(1, 21)]


def test_a_batch_equals_singles_where_games_end_at_different_steps_and_by_both_causes():
    fields = {"horizon": 190, "sticky": 0.25}
    batch, singles = made(n=3, **fields), [made(n=1, **fields) for _ in range(3)]
    actions = np.random.default_rng(0).integers(4, size=(420, 3))
    batch.reset(seed=[0, 1, 2])
    many = [batch.step(a)[:4] for a in actions]
    for row, single in enumerate(singles):
        single.reset(seed=[row])
        for t, action in enumerate(actions):
            for left, right in zip(many[t], single.step(action[row : row + 1])[:4], strict=True):
                np.testing.assert_array_equal(left[row], right[0], err_msg=f"row {row} step {t}")
    ends = np.array([[terminated, truncated] for _, _, terminated, truncated in many])  # (T, 2, 3)
    assert ends.any(axis=(0, 2)).all()  # some games are lost, some are cut
    assert (ends.any(axis=1).sum(axis=1) == 1).any()  # while others go on


def test_the_same_seed_repeats_another_one_differs_and_what_is_handed_out_is_a_copy():
    env = made("SpaceInvaders", 3, idle_frames=30)
    actions = np.random.default_rng(0).integers(6, size=(4, 3))
    first, _ = env.reset(seed=5)
    kept = [first.copy(), *[env.step(a)[0].copy() for a in actions]]
    obs, _ = env.reset(seed=[5, 6, 7])
    for expected, action in zip(kept, [*actions, None], strict=True):
        np.testing.assert_array_equal(obs, expected)
        obs[...] = 0
        if action is not None:
            obs = env.step(action)[0]
    fresh, _ = made("SpaceInvaders", 3, idle_frames=30).reset(seed=5)
    np.testing.assert_array_equal(fresh, first)
    assert any((env.reset(seed=seed)[0] != first).any() for seed in (50, 60, 70))


def test_threads_change_nothing():
    one, two = made(n=3, sticky=0.25), made(n=3, sticky=0.25, threads=2)
    np.testing.assert_array_equal(one.reset(seed=2)[0], two.reset(seed=2)[0])
    for action in np.random.default_rng(0).integers(4, size=(30, 3)):
        for x, y in zip(one.step(action)[:4], two.step(action)[:4], strict=True):
            np.testing.assert_array_equal(x, y)


def test_gymnasiums_checker_accepts_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(SingleEnv(made(n=1, horizon=3)), skip_render_check=True)


def test_a_stack_holds_the_single_frames_oldest_first():
    frames, stacks = made(n=1), made(n=1, stacked=True)
    assert (frames.env_spec.obs_shape, frames.env_spec.frame_stack) == ((42, 42), 4)
    assert (stacks.env_spec.obs_shape, stacks.env_spec.frame_stack) == ((4, 42, 42), 1)
    frame, stack = frames.reset(seed=1)[0], stacks.reset(seed=1)[0]
    history = [np.zeros_like(frame)] * 3 + [frame]
    for action in (1, 2, 2, 3, 3, 0, 1):
        np.testing.assert_array_equal(stack, np.stack(history[-4:], axis=1))
        history.append(frames.step(np.array([action]))[0])
        stack = stacks.step(np.array([action]))[0]
    assert (history[-1] != history[-2]).any()


def lose_all_lives(env: AtariEnv, steps=320):
    """Fire, then never reach the ball: (steps of a Breakout game, as `play` shows them)."""
    return list(play(env, [4] * env.num_envs, lambda obs, h: np.full(env.num_envs, h % 2)))[:steps]


def test_in_training_a_lost_life_has_discount_zero_and_play_goes_on():
    env = made(n=1)
    game = lose_all_lives(env)
    discounts = np.array([step.discount[0] for step in game])
    boundaries = np.array([step.boundary[0] for step in game])
    assert (discounts == 0).sum() == 5  # five lives, the last one with the game
    assert boundaries.sum() == 1
    assert boundaries[-1]
    assert discounts[-1] == 0
    assert all(step.alive.all() for step in game)
    # The lives shown by ale-py fall exactly there.
    lives, twin = [], made(n=1)
    twin.reset(seed=[4])
    for step in game:
        before = int(twin._lives[0])
        _, _, _, _, info = twin.step(step.action)
        lives.append(int(twin._lives[0]) < before)
        assert info["life_lost"].dtype == np.bool_
    assert lives == (discounts == 0).tolist()


def test_measured_are_scores_of_whole_games_and_the_run_evaluates_on_them():
    training = AtariConfig(id="Breakout", size=42, stack=2)
    measuring = training.for_evaluation()
    changed = {k for k, v in to_dict(measuring).items() if v != to_dict(training)[k]}
    assert changed == {"clip_rewards", "life_loss"}
    config = RunConfig(
        agent="uniform",
        env="atari:Breakout",
        agent_config={"batch": 2},
        env_config=to_dict(training),
        budget=Budget(episodes=2, eval_episodes=1),
    )
    _, env, eval_env = build(config)
    assert env.config == training
    assert eval_env.config == measuring
    assert env.env_spec.reward_range == (-1.0, 1.0)
    assert eval_env.env_spec.reward_range == (-np.inf, np.inf)
    drawn = make_env(config, 1, drawn=True)
    assert drawn.config.render
    assert not drawn.config.clip_rewards
    game = lose_all_lives(make_atari(measuring, 1))
    assert sum(step.discount[0] == 0 for step in game) == 1


@pytest.mark.parametrize(("episodes", "rows"), [(200, 10), (5, 5)])
def test_an_evaluation_makes_few_emulators_and_can_play_more_episodes(episodes, rows):
    small = {"size": 20, "horizon": 2, "idle_frames": 0}
    given = {"agent_config": {"batch": 2}, "budget": Budget(10, eval_episodes=episodes)}
    config = RunConfig("uniform", "atari:Pong", env_config=small, **given)
    agent, _, measured = build(config)
    assert measured.num_envs == rows
    assert len(evaluate(agent, measured, rows + 1, tree=SeedTree(0)).returns) == rows + 1  # in two batches
    others = build(RunConfig("uniform", "combination-lock", **given))
    assert others[2].num_envs == episodes  # control: rows that cost nothing are as many as episodes


def test_clipped_rewards_are_signs_of_the_score():
    """SpaceInvaders pays 5 to 200 an alien."""
    raw, clipped = (made("SpaceInvaders", 1, clip_rewards=c, life_loss=False) for c in (False, True))
    raw.reset(seed=0)
    clipped.reset(seed=0)
    pairs = []
    for _ in range(150):
        reward = [env.step(np.array([1]))[1][0] for env in (raw, clipped)]
        pairs.append(tuple(reward))
    assert {np.sign(a) - b for a, b in pairs} == {0.0}
    assert max(a for a, _ in pairs) >= 5
    assert max(b for _, b in pairs) == 1.0


def test_a_frame_is_the_maximum_of_the_last_two_emulated_ones():
    """At the console's own size nothing is resized: frames are those of a plain emulator in the same state."""
    from ale_py import ALEInterface, roms

    env = made("Pong", 1, size=160, idle_frames=0, stack=1)
    env.reset(seed=[0])
    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(roms.get_rom_path("pong"))
    actions = ale.getMinimalActionSet()
    rng, errors = np.random.default_rng(0), []
    for a in rng.integers(6, size=12):
        obs = env.step(np.array([a]))[0][0]
        screens = []
        for _ in range(4):
            ale.act(actions[a])
            screens.append(ale.getScreenGrayscale())
        seen = np.maximum(screens[-1], screens[-2])
        # (210, 160) -> (160, 160): rows are averaged, so sums over rows agree up to rounding; columns are exact.
        errors.append(np.abs(obs.mean(axis=0) - seen.mean(axis=0)).max())
    assert max(errors) < 1.0


def test_pictures_are_the_coloured_screen_of_the_same_game():
    env, plain = made(n=2, render=True, horizon=6), made(n=2, horizon=6)
    env.reset(seed=8)
    plain.reset(seed=8)
    for action in np.random.default_rng(0).integers(4, size=(9, 2)):  # over the end of an episode
        x, y = env.step(action), plain.step(action)
        np.testing.assert_array_equal(x[0], y[0])
        for row in range(2):
            picture = env.render(row)
            assert picture.shape == (210, 160, 3)
            assert picture.dtype == np.uint8
            # Grey of the colours, averaged over the whole screen, is that of what the agent sees.
            grey = picture @ np.array([0.299, 0.587, 0.114])
            assert grey.mean() == pytest.approx(x[0][row].mean(), abs=0.7)
    assert len(np.unique(env.render().reshape(-1, 3), axis=0)) > 6
    with pytest.raises(RlcError, match="render = true"):
        plain.render()


def test_action_names_and_full_actions():
    assert made(n=1).action_names == ("noop", "fire", "right", "left")
    assert made(n=1, full_actions=True).env_spec.num_actions == 18


def test_what_cannot_be_is_one_sentence(monkeypatch):
    with pytest.raises(RlcError, match="did you mean 'MsPacman'"):
        made("MsPacmann")
    for fields in ({"horizon": 0}, {"sticky": 1.0}, {"idle_frames": -1}, {"stack": 0}, {"threads": 0}):
        with pytest.raises(RlcError, match=f"atari: {next(iter(fields))}"):
            AtariConfig(**fields)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(RlcError, match=r"^atari:Pong needs ale-py 0.12 or newer: pip install -e '\.\[atari\]'\.$"):
        made("Pong")
