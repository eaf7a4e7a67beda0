"""`rlc matches`, `rlc exploit`, `rlc replay`: trained agents play each other, meet a best response, are watched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from rl_contrastive.cli.parse import Done, flags_of, parse
from rl_contrastive.config import require

LOADING = ("trust_imports", "previous")
"""Options of how a run folder is opened."""


@dataclass(frozen=True)
class MatchesCommand:
    """Play every trained maximiser against every trained minimiser of one game, seeds of an agent pooled."""

    dirs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR [DIR ...]")]
    """Finished runs, or folders that hold them."""
    episodes: int = 1000
    """Episodes of each run against each other one (>= 1)."""
    out: Path = Path("runs/matches")
    """Folder for matches.json, table.md and the heat map."""
    seed: int = 0
    """Seed of the matches and of the bootstrap (>= 0)."""
    reps: int = 2000
    """Bootstrap resamples (>= 1)."""
    json: bool = False
    """Print the result as JSON."""
    trust_imports: bool = False
    """Run the Python files that the run folders name (--import of their runs). Read them first where somebody else made
    the folder."""
    previous: bool = False
    """Of runs whose last checkpoint is damaged, take the one before: an older agent."""


def matches(args: list[str]) -> int:
    """`rlc matches RUN_OR_FOLDER...`."""
    try:
        parsed = parse(MatchesCommand, args, prog="rlc matches", flags=flags_of(MatchesCommand) - {"--dirs"})
    except Done:
        return 0
    require(len(parsed.dirs) > 0, "rlc matches needs at least one folder.")
    from rl_contrastive.analysis.matches import matches as play

    names = ("episodes", "seed", "reps", *LOADING)
    result = play(list(parsed.dirs), parsed.out, **{name: getattr(parsed, name) for name in names})
    return _show(result, parsed.out, parsed.json)


@dataclass(frozen=True)
class ExploitCommand:
    """Train a best response to each side of a game's run: a lower bound of how far it can be exploited."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A finished run's folder."""
    agent: tuple[str, ...] = ()
    """Responders, of which the best counts: any agents for environments of one agent. Default: epsilon-greedy, and
    ucbvi (contrastive-frontier where observations are no states)."""
    episodes: int = 2000
    """Episodes of each responder's training (>= its batch)."""
    eval_episodes: int = 2000
    """Fresh episodes that each trained responder is measured by (>= 2)."""
    seed: int = 0
    """Seed of the responders and of their evaluation (>= 0)."""
    out: Path | None = None
    """Folder for exploit.json, table.md and the learning curves; default: RUN/exploit."""
    json: bool = False
    """Print the result as JSON."""
    trust_imports: bool = False
    """Run the Python files that the run folders name (--import of their runs). Read them first where somebody else made
    the folder."""
    previous: bool = False
    """Of runs whose last checkpoint is damaged, take the one before: an older agent."""


def exploit(args: list[str]) -> int:
    """`rlc exploit RUN`."""
    try:
        parsed = parse(ExploitCommand, args, prog="rlc exploit", flags=flags_of(ExploitCommand) - {"--run"})
    except Done:
        return 0
    from rl_contrastive.analysis.exploit import exploit as train

    out = parsed.out or parsed.run / "exploit"
    options = {name: getattr(parsed, name) for name in ("episodes", "eval_episodes", "seed", *LOADING)}
    result = train(parsed.run, out, agents=parsed.agent, **options)
    return _show(result, out, parsed.json)


@dataclass(frozen=True)
class ReplayCommand:
    """Draw episodes of a run's bonus-free policy as a GIF or MP4, or as a strip of pictures."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A finished run's folder."""
    out: Path | None = None
    """The film, .gif or (extra `video`) .mp4; default: RUN/replay.gif unless --strip is given."""
    strip: Path | None = None
    """A PNG of the first episode's frames side by side."""
    episodes: int = 3
    """Episodes shown (>= 1)."""
    seed: int = 0
    """Seed of the episodes (>= 0)."""
    against: Path | None = None
    """Games: a run of the same game that plays the minimiser."""
    frame_seconds: float = 0.6
    """How long a frame stays (> 0; .05 suits MinAtar and Atari), the last one of an episode three times as long."""
    every: int = 1
    """Show each k-th state only (>= 1), for long episodes."""
    trust_imports: bool = False
    """Run the Python files that the run folders name (--import of their runs). Read them first where somebody else made
    the folder."""
    previous: bool = False
    """Of runs whose last checkpoint is damaged, take the one before: an older agent."""


def replay(args: list[str]) -> int:
    """`rlc replay RUN --out FILE.gif`."""
    try:
        parsed = parse(ReplayCommand, args, prog="rlc replay", flags=flags_of(ReplayCommand) - {"--run"})
    except Done:
        return 0
    from rl_contrastive.analysis.film import replay as draw

    gif = parsed.out if parsed.out is not None or parsed.strip is not None else parsed.run / "replay.gif"
    names = ("strip", "episodes", "seed", "against", "frame_seconds", "every", *LOADING)
    returns = draw(parsed.run, gif, **{name: getattr(parsed, name) for name in names})
    for number, value in enumerate(returns, start=1):
        print(f"episode {number}: return {value:g}")
    for path in (gif, parsed.strip):
        if path is not None:
            print(f"written: {path}")
    return 0


def _show(result: dict[str, Any], out: Path, as_json: bool) -> int:
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print((out / "table.md").read_text(encoding="utf-8"))
        print(f"written: {out}")
    return 0
