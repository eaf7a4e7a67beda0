"""`rlc view`: the comparison page of a folder of runs in a browser, made anew as they go on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rl_contrastive.cli.parse import Done, flags_of, parse
from rl_contrastive.config import require


@dataclass(frozen=True)
class ViewCommand:
    """Show a folder of runs as a page, on this machine alone (127.0.0.1), refreshed as they go on. Ctrl-C ends it."""

    dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder that holds runs, or will."""
    port: int = 8417
    """Port on 127.0.0.1; 0: any free one."""
    every: float = 5.0
    """Seconds between two looks at the folder (>= 1)."""
    bar: float = 0.9
    """Solved: this fraction of the optimal return."""
    solve_gap: float = 0.05
    """Solved, in two-player games: an exact duality gap of at most this (> 0)."""


def view(args: list[str]) -> int:
    """`rlc view DIR [--port N]`."""
    try:
        parsed = parse(ViewCommand, args, prog="rlc view", flags=flags_of(ViewCommand) - {"--dir"})
    except Done:
        return 0
    require(0 <= parsed.port <= 65535, f"rlc view: port must be in [0, 65535], got {parsed.port}.")
    require(parsed.every >= 1.0, f"rlc view: every must be >= 1, got {parsed.every:g}.")
    from rl_contrastive.analysis.view import Live, server

    live = Live(parsed.dir, bar=parsed.bar, solve_gap=parsed.solve_gap, seconds=parsed.every)
    with server(live, parsed.port) as serving:
        print(f"http://127.0.0.1:{serving.server_address[1]}/ shows {parsed.dir}; Ctrl-C ends it.", flush=True)
        try:
            serving.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return 0
    return 0
