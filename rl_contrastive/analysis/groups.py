"""One agent on one task: episodes to solve, last values, curves; failed runs count and never look good."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.curves import (
    EXACT,
    GAP,
    LEVEL,
    RETURN,
    Curve,
    Frame,
    Headline,
    Scalar,
    exact_curve,
    headline_curve,
    headline_grid,
    if_enough,
    records,
    values_at,
)
from rl_contrastive.analysis.runs import Run
from rl_contrastive.analysis.slopes import loglog_slope
from rl_contrastive.spec import FloatArray

SLOPE_FROM = 0.03
"""Log-log slopes are fitted from this fraction of a run's episodes on: 300 of 10 000."""
ZERO = 1e-9
"""A gap below this is rounding and has no meaningful logarithm."""


@dataclass(frozen=True)
class Group:
    """One agent on one task, with everything the tables and plots show."""

    agent: str
    task: str
    runs: tuple[Run, ...]
    counts: FloatArray
    """(n,) episodes to solve, or the cap."""
    solved: tuple[bool, ...]
    episodes: st.SolveSummary
    steps: st.SolveSummary | None
    final: st.Interval | None
    finals: FloatArray
    """(n,) final values of the headline; empty if no run of the task recorded one."""
    area: st.Interval | None
    """Mean height of the headline's curves from the task's first to its last evaluation."""
    curve: Curve | None
    """Of the headline."""
    slope: st.Interval | None
    """Games: log-log slope of the gap against episodes."""
    exact: dict[str, Curve]
    metric: Scalar | None = None
    """The numbers of a requested metric."""

    @property
    def failed(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if not run.finished)


def rank(group: Group, headline: Headline) -> tuple[float, float, float, str]:
    """Best first: share solved, then median episodes, then the final value, then name."""
    final = headline.sign * group.final.estimate if group.final else -math.inf
    return -group.episodes.solved / group.episodes.n, group.episodes.median, -final, group.agent


def group_of(agent: str, task: str, runs: list[Run], frame: Frame, *, reps: int, rng: np.random.Generator) -> Group:
    headline, worst = frame.headline, frame.worst
    solved = tuple(run.solved for run in runs)
    counts = _last_if_cut([run.solved_at if run.solved else run.cap for run in runs], runs, "episodes")
    finals = np.zeros(0)
    if worst is not None:
        finals = np.array([_final(run, headline, worst) for run in runs])
    x = headline_grid(runs, frame)
    curve = None if x is None else headline_curve(runs, frame, x, reps=reps, rng=rng)
    area = None
    if x is not None and len(x) > 1:
        areas = [st.area_under_curve(x, values_at(run, headline.key, x, worst, frame.clock)) for run in runs]
        area = if_enough(st.bootstrap([np.array(areas)], rng=rng, reps=reps, level=LEVEL), len(areas))
    exact = {key: c for key in EXACT if (c := exact_curve(runs, key, frame.clock, reps=reps, rng=rng)) is not None}
    return Group(
        agent=agent,
        task=task,
        runs=tuple(runs),
        counts=counts,
        solved=solved,
        episodes=st.solve_summary(counts, np.array(solved)),
        steps=_steps(runs),
        final=if_enough(st.bootstrap([finals], rng=rng, reps=reps, level=LEVEL), len(finals)) if len(finals) else None,
        finals=finals,
        area=area,
        curve=curve,
        slope=_slope(runs) if headline is GAP else None,
        # In a game the gap's curve is the headline's own: it counts unfinished runs at their worst.
        exact=exact if headline is RETURN or curve is None else {**exact, headline.key: curve},
    )


def _final(run: Run, headline: Headline, worst: float) -> float:
    final = run.number("final_return") if headline is RETURN else None
    if not run.finished or not records(run, headline):
        return worst
    return final if final is not None else float(run.series[headline.key][-1])


def _slope(runs: list[Run]) -> st.Interval | None:
    """Mean log-log slope of the finished runs' gaps; None where a gap vanishes or a run has too few evaluations."""
    slopes = []
    for run in runs:
        if not run.finished or not records(run, GAP):
            continue
        x, y = run.series["episodes"], run.series[GAP.key]
        keep = x >= max(SLOPE_FROM * x[-1], 1.0)
        if keep.sum() < 3 or (y[keep] < ZERO).any():
            return None
        slopes.append(round(float(loglog_slope(x[keep], y[keep])), 6))  # a level gap has slope 0, not 1e-17
    if not slopes:
        return None
    return if_enough(st.mean_interval(np.array(slopes), LEVEL), len(slopes))


def _steps(runs: list[Run]) -> st.SolveSummary | None:
    """Environment steps to solve, unsolved runs at their cap, or at the steps they played where that was in episodes;
    None where no run recorded steps."""
    if all(run.steps_played is None for run in runs):
        return None
    at = [run.solved_at_steps if run.solved else None for run in runs]
    most = [max(run.steps_played or 0.0, run.number("step_cap") or 0.0) for run in runs]
    counts = _last_if_cut([most[i] if n is None else n for i, n in enumerate(at)], runs, "env_steps")
    return st.solve_summary(counts, np.array([run.solved for run in runs]))


def _last_if_cut(counts: Sequence[float | None], runs: list[Run], clock: str) -> FloatArray:
    """The counts. An unfinished run with a budget in the other unit gets the largest count of all, because its final
    count is not known and its few episodes must not make it look fast."""
    known = np.array([0.0 if count is None else count for count in counts])
    cut = np.array([not run.finished and run.clock != clock for run in runs])
    return np.where(cut, known.max(initial=0.0), known)


def solve_keys(group: Group) -> FloatArray:
    """Episodes to solve for comparing runs: any unsolved run is behind any solved one, and ties with unsolved ones."""
    return np.where(group.solved, group.counts, 1e300)


def twin(run: Run) -> str:
    """The key that runs of different agents share: their seed, and the seeds of their problem."""
    return json.dumps([run.seed, {k: v for k, v in run.env_config.items() if k.endswith("_seed")}], sort_keys=True)
