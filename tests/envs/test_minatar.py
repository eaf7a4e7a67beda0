"""MinAtar: the package's games step by step, but that an episode remembers nothing of the one before."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rl_contrastive.envs.adapters.minatar_games import GAMES, MinAtarConfig, make_minatar, palette
from rl_contrastive.envs.streams import Streams, integers
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.rollout import play

each_game = pytest.mark.parametrize("game", sorted(GAMES))


@pytest.fixture(autouse=True)
def _minatar():
    pytest.importorskip("minatar")


def package_game(game, seed, sticky=0.1):
    from minatar import Environment

    env = Environment(GAMES[game], sticky)
    env.seed(seed)
    env.reset()
    return env


def game_seed(seed, call=0):
    """The seed of the game that row `seed` begins with its random word number `call`."""
    return int(integers(Streams([seed]).words(call + 1)[call], 2**31)[0])


@each_game
def test_a_row_is_the_packages_game_with_the_seed_of_its_stream(game):
    env = make_minatar(MinAtarConfig(id=game, minimal_actions=False), 2)
    assert env.env_spec.num_actions == 6
    rng = np.random.default_rng(1)
    actions = rng.integers(6, size=(400, 2))
    twins = [package_game(game, game_seed(seed)) for seed in (3, 8)]
    alive = [True, True]
    for step in play(env, [3, 8], lambda obs, h: actions[h]):
        for row, twin in enumerate(twins):
            if not alive[row]:
                continue
            np.testing.assert_array_equal(step.obs[row], np.moveaxis(twin.state(), 2, 0))
            reward, terminal = twin.act(actions[step.h, row])
            assert (step.reward[row], step.discount[row]) == (reward, 1.0 - terminal)
            alive[row] = not terminal
        if step.h == 399 or not any(alive):
            return


@each_game
def test_an_episode_does_not_depend_on_what_was_played_before(game):
    """The package's own `reset` keeps the last action, which a sticky first step would repeat."""
    config = MinAtarConfig(id=game, sticky=0.9)
    played, fresh = make_minatar(config, 3), make_minatar(config, 3)
    actions = np.random.default_rng(0).integers(played.env_spec.num_actions, size=(60, 3))
    played.reset(seed=99)
    last = played.env_spec.num_actions - 1
    for _ in range(30):
        played.step(np.full(3, last))
    first, second = played.reset(seed=7)[0], fresh.reset(seed=7)[0]
    np.testing.assert_array_equal(first, second)
    for action in actions:
        for x, y in zip(played.step(action)[:4], fresh.step(action)[:4], strict=True):
            np.testing.assert_array_equal(x, y)


@each_game
def test_minimal_actions_are_the_packages_and_are_named(game):
    env = make_minatar(MinAtarConfig(id=game), 1)
    full = make_minatar(MinAtarConfig(id=game, minimal_actions=False), 1)
    wanted = package_game(game, 0).minimal_action_set()
    assert env.env_spec.num_actions == len(wanted)
    assert env.action_names == tuple(full.action_names[a] for a in wanted)
    assert full.action_names == ("stay", "left", "up", "right", "down", "fire")


def test_sticky_and_ramping_arrive_at_the_games():
    env = make_minatar(MinAtarConfig(id="Asterix", sticky=0.25, ramping=False), 1)
    assert env.games[0].sticky_action_prob == 0.25
    assert env.games[0].env.ramping is False


def test_the_horizon_truncates_and_a_lost_ball_terminates():
    short = make_minatar(MinAtarConfig(horizon=4), 2)
    (*_, last) = play(short, [0, 1], lambda obs, h: np.zeros(2, dtype=np.int64))
    assert (last.h, last.boundary.tolist(), last.discount.tolist()) == (3, [True, True], [1.0, 1.0])
    long = make_minatar(MinAtarConfig(horizon=300, sticky=0.0), 2)
    (*_, last) = play(long, [0, 1], lambda obs, h: np.zeros(2, dtype=np.int64))  # never moves the paddle
    assert last.h < 299
    assert last.discount[last.boundary].tolist() == [0.0] * int(last.boundary.sum())


def test_pictures_show_the_highest_channel_of_each_cell():
    env = make_minatar(MinAtarConfig(), 2)
    obs, _ = env.reset(seed=4)
    colours = palette(4)
    assert len(np.unique(colours, axis=0)) == 5
    for row in range(2):
        picture = env.render(row)
        assert picture.shape == (10, 10, 3)
        for y in range(10):
            for x in range(10):
                on = np.flatnonzero(obs[row, :, y, x])
                np.testing.assert_array_equal(picture[y, x], colours[on[-1] + 1 if len(on) else 0])


def test_what_cannot_be_is_one_sentence(monkeypatch):
    with pytest.raises(RlcError, match="did you mean 'Breakout'"):
        MinAtarConfig(id="Breakuot")
    with pytest.raises(RlcError, match="sticky"):
        MinAtarConfig(sticky=1.0)
    with pytest.raises(RlcError, match="horizon"):
        MinAtarConfig(horizon=0)
    monkeypatch.setitem(sys.modules, "minatar", None)
    with pytest.raises(RlcError, match=r"^minatar:Freeway needs MinAtar: pip install -e '\.\[bench\]'\.$"):
        make_minatar(MinAtarConfig(id="Freeway"), 1)
