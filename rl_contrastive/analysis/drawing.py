"""All figures of a comparison, drawn into its folder: for the page, and at the width of a paper."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rl_contrastive.analysis import curve_plots, plots, solve_plots
from rl_contrastive.analysis.comparison import Task
from rl_contrastive.analysis.curves import EXACT, GAP
from rl_contrastive.config import require
from rl_contrastive.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS, MOST_AGENTS = 16, 20
"""Tasks and agents that a figure shows at most."""
WIDTHS = {"column": 3.25, "text": 6.75}
"""Width in inches of a column and of the text, in papers with two columns."""
FIGURES = {
    "sample-efficiency": "Sample efficiency",
    "episodes-to-solve": "Episodes to solve",
    "improvement": "Probability of improvement",
    "gap": "Exact gap",
    "regret": "Exact regret of the episodes played",
    "suboptimality": "Average sub-optimality of π_k",
}
PAPER_DPI = 300
"""Of a PNG for a paper."""


@dataclass(frozen=True)
class Paper:
    """Figures for a paper, in addition to those of the page."""

    format: plots.Format = "pdf"
    width: float | None = None
    """Inches; None: as wide as on the page."""
    svg_text: Literal["text", "path"] = "text"
    """Words of an SVG as text, or as outlines that need no font."""


def inches(width: str) -> float:
    """`column`, `text` or a number of inches from 1 to 20."""
    if width in WIDTHS:
        return WIDTHS[width]
    try:
        value = float(width)
    except ValueError:
        value = 0.0
    known = ", ".join(f"{name} ({size:g} in)" for name, size in WIDTHS.items())
    require(1.0 <= value <= 20.0, f"compare: width must be {known} or inches from 1 to 20, got {width!r}.")
    return value


def agents_of(tasks: list[Task]) -> list[str]:
    """Agents by their mean place over the tasks, best first: the order of colours and legends."""
    places: dict[str, list[int]] = {}
    for task in tasks:
        for place, group in enumerate(task.groups):
            places.setdefault(group.agent, []).append(place)
    return sorted(places, key=lambda agent: (sum(places[agent]) / len(places[agent]), agent))


def trimmed(tasks: list[Task]) -> list[Task]:
    """The content that fits a figure: the first MOST_PANELS tasks, with the best MOST_AGENTS agents."""
    tasks = tasks[:MOST_PANELS]
    agents = agents_of(tasks)
    if len(agents) <= MOST_AGENTS:
        return tasks
    best = agents[:MOST_AGENTS]
    return [replace(task, groups=tuple(g for g in task.groups if g.agent in best)) for task in tasks]


def figures(tasks: list[Task], *, bar: float, solve_gap: float, paper: float | None = None) -> dict[str, Figure | None]:
    """File name -> figure, None where nothing can be drawn; in the style that holds."""
    agents, tasks = agents_of(tasks), trimmed(tasks)
    exact = {key: curve_plots.exact_curves(tasks, agents, key, solve_gap=solve_gap, paper=paper) for key in EXACT}
    asked = next((group.metric.key for task in tasks for group in task.groups if group.metric), None)
    metric = {} if asked is None else {file_name(asked): curve_plots.metric_curves(tasks, agents, paper=paper)}
    # The headline's curves come first: returns, or the gaps of games.
    return {
        **metric,
        "sample-efficiency": curve_plots.learning_curves(tasks, agents, bar=bar, paper=paper),
        **({"gap": exact["gap"]} if any(task.headline is GAP for task in tasks) else {}),
        "episodes-to-solve": solve_plots.episodes_to_solve(tasks, agents, paper=paper),
        "improvement": solve_plots.improvement_matrix(tasks, paper=paper),
        **exact,
    }


def file_name(metric: str) -> str:
    """`agent/visited` -> `metric-agent-visited`."""
    return "metric-" + re.sub(r"[^\w.-]+", "-", metric)


def draw(
    tasks: list[Task],
    out: Path,
    *,
    bar: float,
    solve_gap: float,
    paper: Paper | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[tuple[str, str, str]]:
    """Draw all figures into `out`; (file name, title, SVG) of each. Those of an earlier comparison are deleted."""
    for name in (*FIGURES, *{path.stem for path in out.glob("metric-*")}):
        for kind in ("png", "svg", "pdf"):
            (out / f"{name}.{kind}").unlink(missing_ok=True)
    drawn = []
    with plots.style():
        for name, figure in figures(tasks, bar=bar, solve_gap=solve_gap).items():
            if figure is not None:
                say(f"drawing {name}")
                drawn.append((name, FIGURES.get(name, name.removeprefix("metric-")), plots.save(figure, out / name)))
                if paper is not None and paper.width is None and paper.format == "pdf":
                    plots.write(figure, out / name, "pdf")
    if paper is not None and (paper.width is not None or paper.svg_text == "path"):
        draw_for_paper(tasks, out / "paper", paper, bar=bar, solve_gap=solve_gap, say=say)
    return drawn


def draw_for_paper(
    tasks: list[Task], folder: Path, paper: Paper, *, bar: float, solve_gap: float, say: Callable[[str], None]
) -> None:
    """Write all figures to folder/NAME.FORMAT at the paper's width, and their captions to captions.md."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = []
    with plots.style(paper=paper.width is not None, text=paper.svg_text):
        drawn = figures(tasks, bar=bar, solve_gap=solve_gap, paper=paper.width)
        for name, figure in drawn.items():
            if figure is None:
                continue
            say(f"drawing {name} for a paper")
            plots.write(figure, folder / name, paper.format, dpi=PAPER_DPI)
            captions.append(f"**{name}** {figure.get_label()}")
    write_text(folder / "captions.md", "\n\n".join(captions) + "\n")
