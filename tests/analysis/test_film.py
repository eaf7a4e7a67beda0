"""Replays: as many frames as there are states, the right captions, and sentences where nothing can be drawn."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from games_common import fixed_run
from gymnasium.vector import AutoresetMode
from PIL import Image, ImageSequence

from rl_contrastive.analysis.film import LAST, WIDTH, Frame, film, picture, replay, write_strip
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.load import load_trained
from rl_contrastive.spec import EnvSpec

ROCK, PAPER, SCISSORS = (1, 0, 0), (0, 1, 0), (0, 0, 1)
BLUE = (0, 114, 178)


def drawn(out, label, mu=PAPER, nu=ROCK, horizon=3, **more):
    return fixed_run(out, label, mu=mu, nu=nu, env="tiny-drawn-game", horizon=horizon, **more)


def test_a_gif_has_every_state_of_every_episode_and_each_stays_long_enough(tmp_path):
    run = drawn(tmp_path, "a")
    returns = replay(run, tmp_path / "deep" / "a.gif", episodes=2, frame_seconds=0.5)
    assert returns == [3.0, 3.0]  # paper beats rock three times
    with Image.open(tmp_path / "deep" / "a.gif") as gif:
        assert gif.n_frames == 2 * (3 + 1)
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(gif)]
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
        assert gif.info["loop"] == 0
    assert durations == [500, 500, 500, 500 * LAST] * 2
    assert all(frame.width >= WIDTH for frame in frames)
    # The bar of the picture is as long as the step is far: a tenth of the width a step.
    wide = [sum(near(frame.getpixel((x, frame.height // 2)), BLUE) for x in range(frame.width)) for frame in frames]
    assert wide == [0, 30, 60, 90] * 2


def near(pixel, colour):
    return max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) < 12


def test_captions_tell_the_step_the_actions_and_what_they_paid(tmp_path):
    run = load_trained(drawn(tmp_path, "a", mu=PAPER, nu=SCISSORS, horizon=2))
    frames, total = film(run.make_env(1), run.agent, 7, rng=np.random.default_rng(0))
    assert total == -2.0
    assert [(frame.where, frame.what, frame.last) for frame in frames] == [
        ("step 1", "max 1, min 2, reward -1", False),
        ("step 2", "max 1, min 2, reward -1", False),
        ("end after 2 steps", "return -2", True),
    ]


def test_against_another_run_the_other_plays_min(tmp_path):
    a, b = drawn(tmp_path, "a", mu=PAPER, nu=ROCK), drawn(tmp_path, "b", mu=ROCK, nu=SCISSORS)
    assert replay(a, tmp_path / "a.gif", episodes=1, against=b) == [-3.0]  # paper against scissors
    assert replay(b, tmp_path / "b.gif", episodes=1, against=a) == [0.0]  # rock against rock
    with pytest.raises(RlcError, match="different horizon"):
        replay(a, tmp_path / "c.gif", against=drawn(tmp_path / "other", "c", horizon=2))


def test_a_strip_shows_some_frames_side_by_side(tmp_path):
    run = drawn(tmp_path, "a", horizon=9)
    replay(run, None, strip=tmp_path / "a.png", episodes=1)
    with Image.open(tmp_path / "a.png") as strip:
        assert strip.width == 3 * 300 + 2 * 10  # six of ten frames, in two rows of three
        assert strip.height == 2 * (120 + 24 + 40 + 6) + 10
    assert not list(tmp_path.glob("*.gif"))


def test_same_seed_same_bytes(tmp_path):
    run = drawn(tmp_path, "a", mu=(1, 1, 1), nu=(1, 1, 1))
    one, two, _ = (replay(run, tmp_path / f"{i}.gif", seed=s) for i, s in enumerate((0, 0, 5)))
    files = [(tmp_path / f"{i}.gif").read_bytes() for i in range(3)]
    assert (one, files[0]) == (two, files[1])
    assert files[2] != files[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"episodes": 0}, "episodes must be >= 1"),
        ({"frame_seconds": 0.0}, "frame_seconds must be > 0"),
        ({"every": 0}, "every must be >= 1"),
        ({"out": "a.png"}, "must end in .gif or .mp4"),
        ({"strip": "a.gif"}, "must end in .png"),
        ({"out": None}, "give a GIF, a strip, or both"),
    ],
)
def test_impossible_requests(tmp_path, arguments, words):
    out, strip = arguments.pop("out", "a.gif"), arguments.pop("strip", None)
    with pytest.raises(RlcError, match=words):
        replay(tmp_path, out and tmp_path / out, strip=strip and tmp_path / strip, **arguments)


def test_what_has_no_picture_is_one_sentence_and_no_file(tmp_path):
    run = fixed_run(tmp_path, "a")
    with pytest.raises(RlcError, match="has no picture"):
        replay(run, tmp_path / "a.gif")
    low = fixed_run(tmp_path, "u", env="low-rank", agent="uniform", num_states=4, num_actions=2, horizon=2, rank=2)
    with pytest.raises(RlcError, match="has no picture"):
        replay(low, tmp_path / "a.gif")
    assert not (tmp_path / "a.gif").exists()


def test_gymnasiums_environments_draw_themselves(tmp_path):
    pytest.importorskip("pygame")
    cart = fixed_run(tmp_path, "u", env="gym:CartPole-v1", agent="uniform", horizon=5)
    assert replay(cart, tmp_path / "a.gif", episodes=1) == [5.0]
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 6
        assert gif.width == 600


def test_an_mp4_has_the_frames_and_lasts_of_a_gif(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    run = drawn(tmp_path, "a", mu=(1, 1, 1), nu=(1, 1, 1))
    for name in ("a.mp4", "b.mp4"):
        returns = replay(run, tmp_path / "deep" / name, episodes=2, frame_seconds=0.5)
    assert returns == replay(run, tmp_path / "a.gif", episodes=2, frame_seconds=0.5)
    assert (tmp_path / "deep" / "a.mp4").read_bytes() == (tmp_path / "deep" / "b.mp4").read_bytes()
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "deep" / "a.mp4"))
    facts = next(reader)
    frames = [np.frombuffer(frame, np.uint8).reshape(facts["size"][1], facts["size"][0], 3) for frame in reader]
    assert (facts["fps"], facts["size"]) == (2.0, (300, 190))
    assert len(frames) == 2 * (3 + LAST)
    # The bar of the picture is as long as the step is far, as in the GIF; the codec blurs its end a little.
    wide = [int((np.abs(frame[95].astype(int) - BLUE).max(axis=1) < 40).sum()) for frame in frames]
    assert np.abs(np.array(wide) - [0, 30, 60, 90, 90, 90] * 2).max() <= 3


def test_every_shows_each_kth_state_and_what_was_paid_until_the_next(tmp_path):
    run = load_trained(drawn(tmp_path, "a", mu=PAPER, nu=SCISSORS, horizon=5))
    frames, total = film(run.make_env(1), run.agent, 7, rng=np.random.default_rng(0), every=2)
    assert total == -5.0
    assert [(frame.where, frame.what) for frame in frames] == [
        ("step 1", "max 1, min 2, reward -2"),
        ("step 3", "max 1, min 2, reward -2"),
        ("step 5", "max 1, min 2, reward -1"),
        ("end after 5 steps", "return -5"),
    ]
    whole, _ = film(run.make_env(1), run.agent, 7, rng=np.random.default_rng(0))
    for shown, same in zip(frames, [*whole[:5:2], whole[-1]], strict=True):
        np.testing.assert_array_equal(shown.pixels, same.pixels)


class Hasty:
    """Three steps in SAME_STEP mode; the picture is as bright as the observation, and 200 once the next one began."""

    num_envs = 1
    env_spec = EnvSpec("hasty", 2, 5, (), "int64")
    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        self.t, self.shown = 0, 0
        return np.array([0]), {}

    def step(self, actions):
        self.t += 1
        over = self.t == 3
        self.shown = 200 if over else self.t
        info = {"final_obs": np.array([3])} if over else {}
        return np.array([self.shown]), np.ones(1), np.array([over]), np.array([False]), info

    def render(self):
        return np.full((4, 4, 3), self.shown, np.uint8)


class Lazy:
    def policy(self, obs, h, *, explore=False):
        return np.array([[1.0, 0.0]])


@pytest.mark.parametrize(("every", "shades"), [(1, [0, 1, 2, 2]), (2, [0, 2, 2]), (3, [0, 2])])
def test_an_environment_that_resets_at_once_never_shows_its_next_episode(every, shades):
    frames, total = film(Hasty(), Lazy(), 0, rng=np.random.default_rng(0), every=every)
    assert total == 3.0
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == shades


@pytest.mark.parametrize(
    ("env", "library", "states"),
    [
        ("minatar:Breakout", "minatar", 6),
        ("minigrid:MiniGrid-Empty-5x5-v0", "minigrid", 6),
        ("swingup", "numpy", 6),
        ("atari:Pong", "ale_py", 6),
    ],
)
def test_the_deep_agents_environments_are_drawn(tmp_path, env, library, states):
    pytest.importorskip(library)
    run = fixed_run(tmp_path, "u", env=env, agent="uniform", horizon=5)
    replay(run, tmp_path / "a.gif", episodes=1)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == states
        last = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)][-1]
    assert len(np.unique(last[24:-45].reshape(-1, 3), axis=0)) >= 3  # a picture, not a blank one


def test_an_mp4_without_an_encoder_is_one_sentence_and_no_file(tmp_path, monkeypatch):
    run = drawn(tmp_path, "a")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(RlcError, match=r"needs imageio-ffmpeg: pip install -e '\.\[video\]', or give a .gif"):
        replay(run, tmp_path / "a.mp4")
    assert not (tmp_path / "a.mp4").exists()


def test_huge_pictures_are_made_smaller(tmp_path):
    pixels = np.zeros((2000, 500, 3), np.uint8)
    write_strip([Frame(pixels, "step 1", "action 0", False)], tmp_path / "a.png", "title")
    with Image.open(tmp_path / "a.png") as strip:
        assert strip.size == (WIDTH, 480 + 24 + 40 + 6)


class Badly:
    """An environment whose picture is none."""

    env_spec = EnvSpec("badly", 2, 1, (), "int64")

    def __init__(self, drawn):
        self.drawn = drawn

    def render(self):
        return self.drawn


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        (None, "gives nothing"),
        ((), "gives nothing|gave"),
        (np.zeros((4, 5)), "float64"),
        (np.zeros((4, 5, 4), np.uint8), "not .height"),
    ],
)
def test_a_picture_is_checked(drawn, words):
    with pytest.raises(RlcError, match=words):
        picture(Badly(drawn))
