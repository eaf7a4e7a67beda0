"""A trained policy as moving pictures: whole episodes as an animated GIF or an MP4, or a PNG strip of the first one.

Frames come from the environment's own `render()`: (height, width, 3) uint8 of row 0. The caption under each frame shows
the step, the actions chosen in this state, and their reward. The first frame of an episode is its first state and the
last one its final state, so an episode of T steps has T + 1 frames. With `every` = k only each k-th state is shown,
with the reward of the steps up to the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rl_contrastive.acting import sample
from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.evaluate import checked_policy
from rl_contrastive.runs.load import Trained, Versus, load_trained, require_game, require_same_env
from rl_contrastive.runs.rollout import autoreset_mode, close, play
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import Array, Env, EnvSpec, IntArray, split_action

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
WIDTH = 300
"""Least size in pixels to which a frame is enlarged, by whole factors so that it stays sharp."""
TALLEST = 480
"""Pixels of height that larger frames are reduced to."""
STRIP_WIDTH, GAP = 1640, 10
"""A strip wider than this is broken into rows; pixels between its frames."""
LAST = 3
"""The last frame of an episode is shown this many times as long as the others."""
FONT, INK, PAPER, FAINT = 15, (34, 34, 34), (255, 255, 255), (110, 110, 110)


@dataclass(frozen=True)
class Frame:
    """One picture and the two lines under it."""

    pixels: Pixels
    where: str
    """Which step of which episode."""
    what: str
    """Actions and reward, or how the episode ended."""
    last: bool


def replay(
    path: Path,
    out: Path | None,
    *,
    strip: Path | None = None,
    episodes: int = 3,
    seed: int = 0,
    against: Path | None = None,
    frame_seconds: float = 0.6,
    every: int = 1,
    trust_imports: bool = False,
    previous: bool = False,
) -> list[float]:
    """Play the bonus-free policy of a run and write `out` (GIF or MP4) and `strip` (PNG); the returns of the episodes.

    against: a run of the same game whose minimiser plays instead of the run's own. RlcError where the environment has
    no picture, before anything is written. trust_imports, previous: as of `load_agent`.
    """
    require(episodes >= 1, f"replay: episodes must be >= 1, got {episodes}.")
    require(every >= 1, f"replay: every must be >= 1, got {every}.")
    require(frame_seconds > 0, f"replay: frame_seconds must be > 0, got {frame_seconds}.")
    require(out is not None or strip is not None, "replay: give a GIF, a strip, or both.")
    for file, endings in ((out, WRITERS), (strip, (".png",))):
        known = file is None or file.suffix.lower() in endings
        require(known, f"replay: {file} must end in {' or '.join(endings)}.")
    if out is not None and out.suffix.lower() == ".mp4":
        ffmpeg()  # reports a missing encoder before anything is played
    run = load_trained(path, trust_imports=trust_imports, previous=previous)
    policy: Any = run.agent
    names = [run.label]
    if against is not None:
        other = load_trained(against, trust_imports=trust_imports, previous=previous)
        require_same_env([run, other])
        policy = Versus(run.agent, other.agent, require_game(run))
        names = [run.label, other.label]
    shown = list(_episodes(run, policy, episodes, seed, every))
    title = f"{run.config.shown_env}: {' against '.join(names)}"
    try:
        if out is not None:
            write = WRITERS[out.suffix.lower()]
            write([frame for frames, _ in shown for frame in frames], out, title, frame_seconds)
        if strip is not None:
            write_strip(shown[0][0], strip, title)
    except OSError as error:
        raise RlcError(f"replay: cannot write {error.filename or out or strip}: {error.strerror or error}.") from error
    return [value for _, value in shown]


def _episodes(run: Trained, policy: Any, episodes: int, seed: int, every: int) -> Iterator[tuple[list[Frame], float]]:
    """Frames and return of each episode, one row played on the seeds of a stream of its own."""
    env, tree = run.make_env(1, drawn=True), SeedTree(seed)
    seeds, rng = tree.env_seeds("evaluation", 0, episodes), tree.generator("evaluation", 0, 1)
    try:
        for number in range(episodes):
            where = f"episode {number + 1}, " if episodes > 1 else ""
            yield film(env, policy, seeds[number], rng=rng, prefix=where, every=every)
    finally:
        close(env)


def film(
    env: Env, policy: Any, seed: int, *, rng: np.random.Generator, prefix: str = "", every: int = 1
) -> tuple[list[Frame], float]:
    """One episode of a single row: the frames of each `every`-th state and of the last one, and the return."""
    spec, total, h = env.env_spec, 0.0, 0
    # An environment that resets in the same step shows the next episode at the end: its last state is drawn before.
    hasty = autoreset_mode(env).value == "SameStep"
    pictures, chosen, paid = list[Pixels](), list[int](), list[float]()
    last: Pixels = np.zeros((1, 1, 3), dtype=np.uint8)

    def act(obs: Array, h: int) -> IntArray:
        nonlocal last
        if h % every == 0 or hasty:
            last = picture(env)  # the state that the action is chosen in
        if h % every == 0:
            pictures.append(last)
        return sample(checked_policy(policy, obs, h, spec.num_actions, explore=False), rng=rng)

    for step in play(env, [seed], act):
        h, reward = step.h, float(step.reward[0])
        total += reward
        if h % every == 0:
            chosen.append(int(step.action[0]))
            paid.append(0.0)
        paid[-1] += reward
    frames = [
        Frame(pixels, f"{prefix}step {k * every + 1}", action_words(env, a) + (f", reward {r:g}" if r else ""), False)
        for k, (pixels, a, r) in enumerate(zip(pictures, chosen, paid, strict=True))
    ]
    end = last if hasty else picture(env)
    frames.append(Frame(end, f"{prefix}end after {h + 1} steps", f"return {total:g}", True))
    return frames, total


def picture(env: Env) -> Pixels:
    """`render()` of row 0 as (height, width, 3) uint8; RlcError where there is none or it is something else."""
    name = env.env_spec.name
    render = getattr(env, "render", None)
    try:
        drawn = None if render is None else render()
    except NotImplementedError as error:
        raise RlcError(f"{name} has no picture: its render() is not implemented.") from error
    if isinstance(drawn, tuple | list) and len(drawn) > 0:  # gymnasium's vector environments: one frame a row
        drawn = drawn[0]
    require(drawn is not None, f"{name} has no picture: its render() gives nothing.")
    pixels = np.asarray(drawn)
    good = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    require(good, f"{name}: render() gave {pixels.dtype} {pixels.shape}, not (height, width, 3) uint8.")
    return np.array(pixels)


def action_words(env: Env, action: int) -> str:
    """The action, or what each player does, by the environment's `action_names` where it has some."""
    spec: EnvSpec = env.env_spec
    names = getattr(env, "action_names", None)

    def word(a: int) -> str:
        return str(names[a]) if names is not None else str(a)

    if spec.players is None:
        return f"action {word(action)}"
    a, b = (int(part) for part in split_action(np.array(action), spec.players))
    return f"max {word(a)}, min {word(b)}"


def write_gif(frames: list[Frame], path: Path, title: str, frame_seconds: float) -> None:
    """All frames, in a loop; GIF knows hundredths of a second."""
    canvases = [_canvas(frame, title) for frame in frames]
    hundredths = max(round(frame_seconds * 100), 1)
    durations = [10 * hundredths * (LAST if frame.last else 1) for frame in frames]
    # One palette for all frames: a palette for each would make still colours flicker.
    palette = _common_palette(canvases)
    images = [canvas.quantize(palette=palette, dither=_no_dither()) for canvas in canvases]
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, disposal=1)


def write_mp4(frames: list[Frame], path: Path, title: str, frame_seconds: float) -> None:
    """All frames, H.264; of the same bytes for the same frames and encoder."""
    from PIL import Image as Pillow

    canvases = [_canvas(frame, title) for frame in frames]
    width, height = (side + side % 2 for side in canvases[0].size)  # the codec halves the colours' resolution
    path.parent.mkdir(parents=True, exist_ok=True)
    movie = ffmpeg().write_frames(
        str(path),
        (width, height),
        fps=1.0 / frame_seconds,
        codec="libx264",
        macro_block_size=1,  # the size is even already
        ffmpeg_log_level="error",
        # One thread and no date or version in the file, so that it depends on the frames alone.
        output_params=["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart"],
    )
    movie.send(None)  # starts the encoder
    for frame, canvas in zip(frames, canvases, strict=True):
        padded = Pillow.new("RGB", (width, height), PAPER)
        padded.paste(canvas)
        for _ in range(LAST if frame.last else 1):
            movie.send(padded.tobytes())
    movie.close()


def ffmpeg() -> Any:
    """The module imageio_ffmpeg with an encoder it has found; RlcError without one."""
    try:
        imageio_ffmpeg: Any = import_module("imageio_ffmpeg")
        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise RlcError("replay: an MP4 needs imageio-ffmpeg: pip install -e '.[video]', or give a .gif.") from error
    return imageio_ffmpeg


WRITERS = {".gif": write_gif, ".mp4": write_mp4}
"""Ending of a file -> what writes it."""


def _common_palette(canvases: list[Image]) -> Image:
    """256 colours that suit a sample of the frames."""
    from PIL import Image as Pillow

    some = canvases[:: max(len(canvases) // 8, 1)]
    sheet = Pillow.new("RGB", (some[0].width, some[0].height * len(some)))
    for i, canvas in enumerate(some):
        sheet.paste(canvas, (0, i * canvas.height))
    return sheet.quantize(256, dither=_no_dither())


def _no_dither() -> Any:
    """Flat colours stay flat."""
    from PIL import Image as Pillow

    return Pillow.Dither.NONE


def write_strip(frames: list[Frame], path: Path, title: str, most: int = 6) -> None:
    """At most `most` frames of one episode in reading order: the first, the last, and evenly spread ones between."""
    from PIL import Image as Pillow

    index = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    canvases = [_canvas(frames[i], title if i == 0 else "") for i in index]
    width, height = canvases[0].width + GAP, canvases[0].height + GAP
    columns = max(1, min(len(canvases), (STRIP_WIDTH + GAP) // width))
    columns = -(-len(canvases) // -(-len(canvases) // columns))  # rows of equal length: 3 + 3, not 4 + 2
    rows = -(-len(canvases) // columns)
    sheet = Pillow.new("RGB", (columns * width - GAP, rows * height - GAP), PAPER)
    for i, canvas in enumerate(canvases):
        sheet.paste(canvas, (i % columns * width, i // columns * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _canvas(frame: Frame, title: str) -> Image:
    """The frame, enlarged, between its title and its two lines of caption."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    height, width, _ = frame.pixels.shape
    factor = max(1, -(-WIDTH // width))
    shown = Pillow.fromarray(frame.pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    if height > TALLEST:
        shown = shown.resize((max(round(shown.width * TALLEST / shown.height), 1), TALLEST))
    top, line = FONT + 9, FONT + 5
    canvas = Pillow.new("RGB", (max(shown.width, WIDTH), top + shown.height + 2 * line + 6), PAPER)
    canvas.paste(shown, (0, top))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT)
    below = top + shown.height + 3
    for y, text, colour in ((3, title, INK), (below, frame.where, FAINT), (below + line, frame.what, INK)):
        draw.text((2, y), _fitting(text, font, canvas.width - 4), fill=colour, font=font)
    return canvas


def _fitting(text: str, font: Any, width: int) -> str:
    """The text, cut with an ellipsis where it is too long."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
