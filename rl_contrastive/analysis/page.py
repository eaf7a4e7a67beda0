"""The comparison page: one HTML file with the tables, the figures as inline SVG, and how each number was made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rl_contrastive.analysis import comparison_tables as tables
from rl_contrastive.analysis import plots
from rl_contrastive.analysis.comparison import MOST_COMPARED, Task
from rl_contrastive.analysis.curves import EXACT, FEWEST, GAP
from rl_contrastive.analysis.groups import SLOPE_FROM, Group, twin
from rl_contrastive.files import write_text

MOST_PANELS, MOST_AGENTS = 16, 20
"""Tasks and agents that a figure shows at most."""
FIGURES = {
    "sample-efficiency": "Sample efficiency",
    "episodes-to-solve": "Episodes to solve",
    "improvement": "Probability of improvement",
    "gap": "Exact gap",
    "regret": "Exact regret of the episodes played",
    "suboptimality": "Average sub-optimality of π_k",
}


def agents_of(tasks: list[Task]) -> list[str]:
    """Agents by their mean place over the tasks, best first: the order of colours and legends."""
    places: dict[str, list[int]] = {}
    for task in tasks:
        for place, group in enumerate(task.groups):
            places.setdefault(group.agent, []).append(place)
    return sorted(places, key=lambda agent: (sum(places[agent]) / len(places[agent]), agent))


def notes(tasks: list[Task], *, bar: float, solve_gap: float, reps: int, seed: int) -> list[str]:
    """How each number was made, one sentence each."""
    rules = []
    if any(task.judged and not task.game for task in tasks):
        rules.append(f"the bonus-free policy's mean return is at least {bar:g} of the optimal one")
    if any(task.judged and task.game for task in tasks):
        rules.append(f"in a game the exact duality gap of the bonus-free policies is at most {solve_gap:g}")
    solved = (
        f"Solved: {'; '.join(rules)} at two evaluations in a row; the count is that of the first of the two, warm "
        "start included."
    )
    unknown = "Solved –: the best return of the task is not known, so no run of it can be."
    sentences = [
        *([solved] if rules else []),
        *([unknown] if any(not task.judged for task in tasks) else []),
        "Unsolved and failed runs count at the cap and are never dropped; ≥ marks a median or range end that they "
        "make a lower bound.",
        "Final value: interquartile mean (IQM) over runs: a quarter of the runs is cut at each end.",
        f"Intervals: 95%, of IQMs by expanded percentiles of {reps} resamples of the runs (generator seed {seed}), of "
        "mean slopes by Student's t, of the probability of improvement by Newcombe's method. Of normal laws they cover "
        "the truth in 93% to 97% of simulated fives and tens of runs; `rl_contrastive/analysis/statistics.py` "
        f"says it of others. None where an agent has fewer than {FEWEST} runs.",
        "Tests: two-sided, of the two agents' runs. Where each run of one has its twin of the other, on the same seed "
        "and problem, paired t, or Wilcoxon's signed ranks of episodes to solve; else Mann-Whitney. p is not corrected "
        "for the number of comparisons.",
        "Curves: a run's newest evaluation, at counts of episodes (of environment steps where all budgets are in "
        "steps) by which each run was evaluated anew; a run stopped because it was solved keeps its last value; a run "
        "that did not finish counts with the worst value recorded on the task.",
        "Probability of improvement: over all pairs of runs, ties count 1/2; by episodes to solve, unsolved runs "
        "behind solved ones (where no run solved, by the final return); games by the final gap.",
    ]
    shown = trimmed(tasks)
    if [len(task.groups) for task in shown] != [len(task.groups) for task in tasks]:
        sentences.append(
            f"Figures show the first {len(shown)} of {len(tasks)} tasks and at most {MOST_AGENTS} agents, the best "
            "ones; the tables have all."
        )
    if any(len(task.groups) > MOST_COMPARED for task in tasks):
        sentences.append(f"Probability of improvement: between the {MOST_COMPARED} best agents of a task.")
    if any(task.headline is GAP for task in tasks):
        sentences.append(
            "Duality gap of a game: what best responses gain against both players together, from the true model; "
            f"slope: least squares of log gap on log episodes, each finished run from {SLOPE_FROM:g} of its episodes "
            "on, – where a gap vanishes."
        )
    if any(task.game and task.headline is not GAP for task in tasks):
        sentences.append(
            "Games without an exact model: a return of the policy against itself ranks nothing; use `rlc matches` and "
            "`rlc exploit`."
        )
    for task in tasks:
        for group in task.groups:
            configs = {json.dumps(run.agent_config, sort_keys=True) for run in group.runs if run.agent_config}
            if len(configs) > 1:
                sentences.append(
                    f"Mixed settings: the runs of {group.agent} on {task.name} have {len(configs)} different agent "
                    "configs; give them different labels to compare them apart."
                )
            seeds = [twin(run) for run in group.runs if run.seed is not None]
            if len(set(seeds)) < len(seeds):
                sentences.append(f"Repeated seeds: the runs of {group.agent} on {task.name} share seeds.")
    return sentences


def trimmed(tasks: list[Task]) -> list[Task]:
    """What a figure can show: the first MOST_PANELS tasks with the groups of the best MOST_AGENTS agents."""
    tasks = tasks[:MOST_PANELS]
    agents = agents_of(tasks)
    if len(agents) <= MOST_AGENTS:
        return tasks
    best = agents[:MOST_AGENTS]
    return [replace(task, groups=tuple(g for g in task.groups if g.agent in best)) for task in tasks]


def write(
    tasks: list[Task],
    sentences: list[str],
    out: Path,
    *,
    bar: float,
    solve_gap: float,
    title: str,
    pdf: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Draw the figures into `out`, as PDF too if asked, and write index.html, which needs no other file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    agents, everything, tasks = agents_of(tasks), tasks, trimmed(tasks)
    figures = []
    with plots.style():
        exact = {key: plots.exact_curves(tasks, agents, key, solve_gap=solve_gap) for key in EXACT}
        # The headline's curves come first: returns, or the gaps of games.
        drawn = {
            "sample-efficiency": plots.learning_curves(tasks, agents, bar=bar),
            **({"gap": exact["gap"]} if any(task.headline is GAP for task in tasks) else {}),
            "episodes-to-solve": plots.episodes_to_solve(tasks, agents),
            "improvement": plots.improvement_matrix(tasks),
            **exact,
        }
        for name, figure in drawn.items():
            if figure is None:
                for kind in ("png", "svg", "pdf"):  # of an earlier comparison in the same folder
                    (out / f"{name}.{kind}").unlink(missing_ok=True)
            else:
                say(f"drawing {name}")
                figures.append((FIGURES[name], inline(plots.save(figure, out / name, pdf=pdf), name)))
    loader = PackageLoader("rl_contrastive.analysis", package_path="")
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("compare.html.j2")
    html = template.render(
        title=title,
        tasks=everything,
        agents=agents,
        total=sum(len(group.runs) for task in everything for group in task.groups),
        failed=tables.failures(everything),
        unfinished=sum(len(group.failed) for task in everything for group in task.groups),
        columns=tables.columns,
        row=tables.row,
        optimum=tables.optimum,
        seeds=seeds_of,
        looks=plots.colours(agents),
        figures=figures,
        notes=sentences,
    )
    write_text(out / "index.html", html)


def seeds_of(group: Group) -> str:
    """The group's seeds in order, ? where a folder does not tell."""
    return ", ".join("?" if run.seed is None else str(run.seed) for run in group.runs)


def inline(svg: str, name: str) -> str:
    """An SVG document as an element: no XML header, and ids made its own so that figures do not share clip paths."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r'\bid="', f'id="{name}-', body)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)
