"""`rlc`: where agents meet environments. The first word picks a command; each command's module is imported only then.

Exit codes: 0 all went well, 1 a run failed or was stopped, 2 bad input (one sentence on stderr, no traceback).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from rl_contrastive import __version__
from rl_contrastive.errors import RlcError, unknown_name
from rl_contrastive.registry import add_folder

COMMANDS = {
    "run": ("rl_contrastive.cli.run", "run", "train an agent on an environment, one process a seed"),
    "resume": ("rl_contrastive.cli.run", "resume", "go on with interrupted runs, to the same bytes"),
    "compare": ("rl_contrastive.cli.reports", "compare", "tables and plots of many runs, with confidence intervals"),
    "report": ("rl_contrastive.cli.reports", "report", "make the page of a folder of runs again, from its files alone"),
    "view": ("rl_contrastive.cli.view", "view", "the page of a folder of runs in a browser, while they go on"),
    "matches": ("rl_contrastive.cli.games", "matches", "trained players of a game against each other, win rates"),
    "exploit": ("rl_contrastive.cli.games", "exploit", "train a best response to a run: how far it can be exploited"),
    "replay": ("rl_contrastive.cli.games", "replay", "a run's policy as an animated GIF"),
    "claims": ("rl_contrastive.cli.claims", "claims", "measure claims: bars, negative controls, tables, pages"),
    "theory": ("rl_contrastive.cli.claims", "theory", "claims of the theory; short for `rlc claims theory`"),
    "energy": ("rl_contrastive.cli.claims", "energy", "claims of energy models: estimation, densities, images"),
    "list": ("rl_contrastive.cli.lists", "list_names", "what can be named: agents, envs, objectives, claims ..."),
    "diagnose": ("rl_contrastive.cli.diagnose", "diagnose", "how a run's features are spread: numbers and a picture"),
    "new": ("rl_contrastive.cli.own", "new", "write an agent, environment or objective of your own to start from"),
    "check": ("rl_contrastive.cli.own", "check", "hold a file of your own to the contracts"),
    "sweep": ("rl_contrastive.cli.sweep", "sweep", "all runs of a TOML file, skipping what is done"),
    "tune": ("rl_contrastive.cli.tune", "tune", "search for the best setting of a run, report it on other seeds"),
    "doctor": ("rl_contrastive.cli.doctor", "doctor", "check this installation; writes nothing"),
}


GREETING = """rlc: contrastive representation learning for online reinforcement learning. Three commands to try:

  rlc run contrastive-frontier combination-lock --episodes 1000   open a lock of 10 steps, in seconds
  rlc run ucbvi gym:FrozenLake-v1 --episodes 2000                 an environment of gymnasium
  rlc compare runs                                                a table and plots of what was run

`rlc --help` lists all commands, `rlc list` everything that has a name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `rlc`; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    add_folder(Path.cwd())  # as `python -m` has it, and the worker processes
    try:
        return _dispatch(args)
    except RlcError as error:
        print(f"rlc: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rlc: stopped.", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `rlc list agents | head`
        sys.stderr.close()
        return 0


def _dispatch(args: list[str]) -> int:
    if not args:
        print(GREETING)
        return 0
    if args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] == "--version":
        print(f"rlc {__version__}")
        return 0
    if args[0] not in COMMANDS:
        raise unknown_name("command", args[0], COMMANDS)
    module, function, _ = COMMANDS[args[0]]
    code: int = getattr(importlib.import_module(module), function)(args[1:])
    return code


def usage() -> str:
    """The overview of `rlc --help`."""
    lines = [f"  {name:<10}{what}" for name, (_, _, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rlc COMMAND ... [--help]",
            "",
            "Contrastive representation learning for online reinforcement learning.",
            "",
            *lines,
            "",
            "Example: rlc run contrastive-ucb combination-lock --env.horizon 10 --seeds 5",
            "Exit codes: 0 fine, 1 a run failed or was stopped, 2 bad input. `rlc --version` prints the version.",
        ]
    )
