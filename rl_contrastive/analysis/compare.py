"""`compare(folders, out)`: from run folders to compare.json, table.md, plots and one self-contained page.

`rl_contrastive.analysis.compare.render(result)` is the same table for a terminal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_contrastive.config import require, require_number
from rl_contrastive.errors import RlcError
from rl_contrastive.files import write_text

if TYPE_CHECKING:
    from rich.table import Table

    from rl_contrastive.analysis.comparison import Task
    from rl_contrastive.analysis.drawing import Paper

TITLE = "Comparison of runs"
INTERVALS = "expanded percentile bootstrap; slopes: Student's t; improvement: Newcombe"


def load(
    folders: Sequence[Path | str] | Path | str,
    *,
    bar: float = 0.9,
    solve_gap: float = 0.05,
    reps: int = 2000,
    seed: int = 0,
    metric: str | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[Task]:
    """Read the run folders at or below `folders` and compute every number; it writes nothing. `say` receives the
    progress."""
    from rl_contrastive.analysis import comparison
    from rl_contrastive.analysis.runs import Run, find_runs, read_run

    several = [folders] if isinstance(folders, str | os.PathLike) else folders
    listed = isinstance(several, list | tuple) and all(isinstance(folder, str | os.PathLike) for folder in several)
    require(listed, f"compare: folders must be paths, got {folders!r}.")
    for name, value in (("bar", bar), ("solve_gap", solve_gap)):
        require_number(f"compare: {name}", value)
    for name, value in (("reps", reps), ("seed", seed)):
        require_number(f"compare: {name}", value, whole=True)
    require(metric is None or isinstance(metric, str), f"compare: metric must be a name, got {metric!r}.")
    require(0.0 < bar <= 1.0, f"compare: bar must lie in (0, 1], got {bar}.")
    require(solve_gap > 0.0, f"compare: solve_gap must be > 0, got {solve_gap}.")
    require(reps >= 1, f"compare: reps must be >= 1, got {reps}.")
    require(seed >= 0, f"compare: seed must be >= 0, got {seed}.")
    paths = find_runs([Path(folder) for folder in several])
    runs: list[Run] = []
    for path in paths:
        say(f"reading the runs: {len(runs)} of {len(paths)}")
        runs.append(read_run(path))
    tasks = comparison.build(runs, bar=bar, solve_gap=solve_gap, reps=reps, seed=seed, say=say)
    return tasks if metric is None else comparison.with_metric(tasks, metric, reps=reps, seed=seed)


def compare(
    folders: Sequence[Path | str] | Path | str,
    out: Path | str,
    *,
    bar: float = 0.9,
    solve_gap: float = 0.05,
    reps: int = 2000,
    seed: int = 0,
    title: str = TITLE,
    metric: str | None = None,
    paper: Paper | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Compare the runs at or below `folders`; write compare.json, table.md, plots (PNG, SVG) and index.html to `out`.

    bar: fraction of the optimal return that counts as solved, twice in a row; solve_gap: the same for the exact duality
    gap of a two-player game. reps, seed: of the bootstrap. metric: any scalar of metrics.jsonl, which gets a column and
    a figure. paper: also make figures for papers. A damaged run folder counts as a failed run, with a sentence;
    RlcError is raised only if there is no run at all or `out` cannot be written.
    """
    from rl_contrastive.analysis import comparison_tables as tables
    from rl_contrastive.analysis import drawing, page
    from rl_contrastive.analysis.notes import notes as notes_of

    require(isinstance(out, str | os.PathLike), f"compare: out must be the path of a folder, got {out!r}.")
    out = Path(out)
    tasks = load(folders, bar=bar, solve_gap=solve_gap, reps=reps, seed=seed, metric=metric, say=say)
    notes = notes_of(tasks, bar=bar, solve_gap=solve_gap, reps=reps, seed=seed)
    result = {
        "method": {
            "bar": bar,
            "solve_gap": solve_gap,
            "reps": reps,
            "seed": seed,
            "level": 0.95,
            "interval": INTERVALS,
        },
        "tasks": tables.as_json(tasks),
        "failed": tables.failures(tasks),
        "notes": notes,
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False)
        write_text(out / "compare.json", text + "\n")
        write_text(out / "table.md", tables.markdown(tasks, notes))
        figures = drawing.draw(tasks, out, bar=bar, solve_gap=solve_gap, paper=paper, say=say)
        text = page.html(tasks, notes, bar=bar, solve_gap=solve_gap, title=title, figures=figures)
        write_text(out / "index.html", text)
    except OSError as error:
        raise RlcError(f"compare: cannot write to {out}: {error.strerror}.") from error
    return result


def render(tasks: list[Task]) -> Table:
    """A rich table of `load(...)` for the terminal."""
    from rl_contrastive.analysis import comparison_tables as tables

    return tables.terminal(tasks)
