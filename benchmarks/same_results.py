"""Do two versions of the code give the same results to the byte? Small runs of everything, and their digests.

    python benchmarks/same_results.py before.json     # in one checkout
    python benchmarks/same_results.py after.json --against before.json

Measured: a short run of every agent, fits of every objective on tables and vectors and in the deep agent, two studies
of energies. Digests cover every line of metrics.jsonl, so any number that differs in its last bit is found. Compare
on one machine with one set of versions: matrix libraries choose their code by the processor.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rl_contrastive import registry
from rl_contrastive.cli import main as rlc

SINGLE = {  # agents of one player -> the world of their run
    "contrastive-frontier": "combination-lock",
    "pca-frontier": "distractor-lock",
    "contrastive-lsvi": "combination-lock",
    "contrastive-ucb-deep": "deep-sea",
    "rnd-dqn": "deep-sea",
    "sb3-dqn": "deep-sea",
    "sb3-ppo": "deep-sea",
    "sb3-qrdqn": "deep-sea",
}
GAMES = {
    "contrastive-ucb-game": "duel-lock",
    "independent-q": "low-rank-game",
    "lsvi-game": "low-rank-game",
    "nash-q": "low-rank-game",
    "nash-vi": "low-rank-game",
    "sb3-ppo-selfplay": "low-rank-game",
}
SIZES = {
    "combination-lock": ["--env.horizon", "4"],
    "distractor-lock": ["--env.horizon", "4"],
    "deep-sea": ["--env.size", "5"],
    "low-rank": ["--env.num-states", "8", "--env.horizon", "3", "--env.rank", "2"],
    "low-rank-game": ["--env.num-states", "8", "--env.horizon", "3", "--env.rank", "2"],
    "duel-lock": ["--env.horizon", "3"],
}
SHORT = ["--episodes", "400", "--eval-every", "100", "--eval-episodes", "20", "--seed", "11", "--no-tensorboard"]
DESCENT = ["--agent.learner.method", "nce", "--agent.learner.steps", "40", "--agent.learner.objective"]
DEEP = ["--agent.learner.representation.objective"]


def cases() -> dict[str, list[str]]:
    """Name -> words of the command line."""
    found: dict[str, list[str]] = {}
    for entry in registry.entries("agent"):
        env = {**SINGLE, **GAMES}.get(entry.name, "low-rank")
        found[entry.name] = ["run", entry.name, env, *SIZES[env], *SHORT]
    for entry in registry.entries("objective"):
        for model, env in (("tabular", "low-rank"), ("linear", "combination-lock"), ("neural", "combination-lock")):
            words = ["run", "contrastive-ucb", env, *SIZES[env], *SHORT, *DESCENT, entry.name]
            found[f"{entry.name} {model}"] = [*words, "--agent.learner.model", model]
        if entry.name in ("nce", "infonce"):
            words = ["run", "contrastive-ucb-deep", "deep-sea", *SIZES["deep-sea"], *SHORT, *DEEP, entry.name]
            found[f"{entry.name} deep"] = words
    for study in ("gaussian-mean", "density-2d"):
        found[f"energy {study}"] = ["energy", study, "--quick"]
    return found


def measure(words: list[str]) -> list[str]:
    """One digest for each line of records that a command leaves; the sentence of a refusal in their place."""
    with tempfile.TemporaryDirectory() as folder:
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = rlc([*words, "--out", folder])
        if code:
            return [said.getvalue().strip().splitlines()[-1]]
        names = ("metrics.jsonl", "cells.jsonl")
        lines = [
            line for file in sorted(Path(folder).rglob("*.jsonl")) if file.name in names for line in lines_of(file)
        ]
        return [hashlib.sha256(line.encode()).hexdigest()[:16] for line in lines]


def lines_of(file: Path) -> list[str]:
    """The lines without what time decides."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [json.dumps(timeless(row), sort_keys=True) for row in rows]


def timeless(value: Any) -> Any:
    """Without every entry that says seconds."""
    if not isinstance(value, dict):
        return value
    return {name: timeless(entry) for name, entry in value.items() if "seconds" not in name}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--against", type=Path, help="JSON file of another version")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    todo = {name: words for name, words in cases().items() if given.only in name}
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        found = dict(zip(todo, pool.map(measure, todo.values()), strict=True))
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    for name, lines in found.items():
        if not lines or (len(lines) == 1 and " " in lines[0]):
            print(f"{name}: {lines}")
    if given.against is None:
        print(f"{len(found)} cases written to {given.out}")
        return 0
    before = json.loads(given.against.read_text())
    other = [name for name in found if before.get(name) != found[name]]
    for name in other:
        print(f"{name}: differs")
    print(f"{len(found) - len(other)} of {len(found)} cases equal to the byte")
    return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main())
