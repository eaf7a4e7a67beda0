"""From runs to the numbers of a comparison: groups of seeds, curves on a common grid, episodes to solve, improvement.

Rules, the same for every group:
- A group is one agent (its label) on one task (environment name and settings, apart from seeds of the task itself).
- What is compared is the headline: the mean return, or in two-player games the exact duality gap, where lower is
  better. Games without an exact model have none: returns of a policy against itself rank nothing.
- Solved means: two evaluations in a row at bar * optimal (games: with a gap of at most `solve_gap`). Unsolved runs
  count at their cap, failed ones too.
- Curves run over what the budgets of all runs of the task count, episodes or environment steps.
- A curve at x takes each run's newest evaluation at or before x, at counts x by which each was evaluated anew. A run
  that stopped because it was solved keeps its last value. A run that did not finish counts, after its last evaluation,
  with the worst value that any run of the task recorded, so failing never flatters.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.runs import Run, natural
from rl_contrastive.analysis.significance import Comparison, difference_test, paired_test
from rl_contrastive.spec import FloatArray

EXACT = ("gap", "regret", "suboptimality")
"""Columns of metrics.jsonl drawn on logarithmic axes where they occur."""
LEVEL = 0.95
SLOPE_FROM = 0.03
"""Log-log slopes are fitted from this fraction of a run's episodes on: 300 of 10 000."""
FEWEST = 5
"""Runs of an agent below which there is no interval: resampling three runs says little of the next ones."""
MOST_LINES = 2000
"""Evaluations of a run that its curves, areas and slopes are made of, at most: those of a longer record are thinned."""
MOST_COMPARED = 20
"""Agents of a task, the best ones, between which probabilities of improvement are computed."""
ZERO = 1e-9
"""A gap below this is one of rounding: it has no meaningful logarithm."""


@dataclass(frozen=True)
class Headline:
    """The number that agents are compared by."""

    key: str
    """Column of metrics.jsonl."""
    sign: float
    """+1: higher is better, -1: lower is."""
    final: str
    """What the last value is called in tables."""
    curve: str
    """Label of the axis it is drawn along."""


@dataclass(frozen=True)
class Frame:
    """What all groups of a task are drawn by."""

    headline: Headline
    worst: float | None
    """The worst value of the headline that any run recorded; None if none did."""
    clock: str
    end: float
    """The newest evaluation of any run, on the clock."""


SOONER = "fewer episodes to solve"
RETURN = Headline("return_mean", 1.0, "return", "mean return of the policy")
GAP = Headline("gap", -1.0, "gap", "exact duality gap of the policies")


@dataclass(frozen=True)
class Curve:
    """A statistic over the task's clock: x, centre, low, high (T,); up to `solid_to` some run was still going."""

    x: FloatArray
    centre: FloatArray
    low: FloatArray
    high: FloatArray
    solid_to: float
    stops: tuple[float, ...]
    """Where runs stopped because they were solved."""


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

    @property
    def failed(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if not run.finished)


@dataclass(frozen=True)
class Task:
    """One environment with its groups, best first, and the improvement probabilities between them."""

    name: str
    optimal: float | None
    """The best return, or the Nash value of a game."""
    game: bool
    headline: Headline
    clock: str
    """What curves run over: episodes, or env_steps where all budgets are in steps."""
    groups: tuple[Group, ...]
    measure: str
    """What "better" means in `improvement`."""
    improvement: dict[tuple[str, str], st.Interval]
    tests: dict[tuple[str, str], Comparison]
    """Of the same pairs, by the same numbers."""

    @property
    def judged(self) -> bool:
        """Whether runs can be solved: the best return is known, or the gap of a game is."""
        return (self.optimal is not None and not self.game) or self.headline is GAP

    @property
    def heading(self) -> str:
        """The name as a title: `lock,lock_seed=1,horizon=5` reads `lock, lock seed 1, horizon 5`."""
        env, *settings = re.split(r"[, ](?=\w+=)", self.name)
        words = (f"{key.replace('_', ' ')} {value}" for key, _, value in (s.partition("=") for s in settings))
        return ", ".join([env, *words])


def build(
    runs: Sequence[Run],
    *,
    bar: float,
    reps: int,
    seed: int,
    solve_gap: float = 0.05,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[Task]:
    """All tasks of the runs, by name, numbers in their order."""
    runs = [_thinned(_judge(run, bar, solve_gap)) for run in runs]
    groups: dict[str, list[Run]] = {}
    for run, name in zip(runs, task_names(runs), strict=True):
        groups.setdefault(name, []).append(run)
    tasks = []
    for done, name in enumerate(sorted(groups, key=natural)):
        say(f"computing the tasks: {done} of {len(groups)}")
        members = groups[name]
        # One generator a task: adding a task leaves the others' intervals as they are.
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *name.encode()])))
        tasks.append(_task(name, members, reps=reps, rng=rng))
    return tasks


def task_names(runs: Sequence[Run]) -> list[str]:
    """Name of each run's task: the environment, and those settings in which runs of the same environment differ."""
    settings = [{k: v for k, v in run.env_config.items() if not k.endswith("_seed")} for run in runs]
    # A run whose config is lost has no settings to differ in; it stays under the plain name if that is ambiguous.
    same: dict[str, list[dict[str, Any]]] = {run.env: [] for run in runs}
    for run, own in zip(runs, settings, strict=True):
        if run.env_config:
            same[run.env].append(own)
    varied = {env: _varied(tables) for env, tables in same.items()}
    return [
        " ".join([run.env, *(f"{key}={own[key]}" for key in varied[run.env] if key in own)])
        for run, own in zip(runs, settings, strict=True)
    ]


def _varied(tables: list[dict[str, Any]]) -> list[str]:
    """The keys in which the tables differ."""
    keys = sorted({key for table in tables for key in table})
    return [key for key in keys if len({json.dumps(table.get(key), sort_keys=True) for table in tables}) > 1]


def _thinned(run: Run) -> Run:
    """The run with at most MOST_LINES evaluations: half of them evenly spaced, half ever denser towards the beginning,
    as on a logarithmic axis; the first and the last are among them."""
    n = len(run.series.get("episodes", ()))
    if n <= MOST_LINES:
        return run
    even, early = np.linspace(0, n - 1, MOST_LINES // 2), np.geomspace(1, n, MOST_LINES // 2) - 1
    kept = np.unique(np.rint(np.concatenate([even, early])).astype(np.int64))
    return replace(run, series={name: column[kept] for name, column in run.series.items()})


def _judge(run: Run, bar: float, solve_gap: float) -> Run:
    """The run judged at `bar` (a game: at `solve_gap`): its own record if it used the same, else the rule applied to
    its evaluations."""
    optimal = run.number("optimal_return")
    if run.game:
        if math.isclose(run.solve_gap, solve_gap) or "gap" not in run.series:
            return run
        met = run.series["gap"] <= solve_gap
    else:
        if math.isclose(run.solve_at, bar) or optimal is None or not run.series:
            return run
        met = run.series["return_mean"] >= optimal - (1.0 - bar) * abs(optimal)
    twice = np.flatnonzero(met[:-1] & met[1:])
    steps = run.series.get("env_steps")
    last = float(run.series["episodes"][-1])
    return Run(
        **{
            **run.__dict__,
            "solved_at": float(run.series["episodes"][twice[0]]) if len(twice) else None,
            "solved_at_steps": float(steps[twice[0]]) if len(twice) and steps is not None else None,
            # A run that stopped at a lower bar says nothing about what lies behind its end.
            "cap": last if run.solved else run.cap,
        }
    )


def _task(name: str, runs: list[Run], *, reps: int, rng: np.random.Generator) -> Task:
    game = any(run.game for run in runs)
    headline = GAP if game and any(_records(run, GAP) for run in runs) else RETURN
    values = [headline.sign * run.series[headline.key] for run in runs if _records(run, headline)]
    worst = headline.sign * float(min(np.min(v) for v in values)) if values else None
    clock = _clock(runs)
    ends = [float(run.series[clock][-1]) for run in runs if run.series]
    frame = Frame(headline, worst, clock, end=max(ends) if ends else 0.0)
    agents = sorted({run.agent for run in runs})
    groups = [_group(agent, name, [r for r in runs if r.agent == agent], frame, reps=reps, rng=rng) for agent in agents]
    groups.sort(key=lambda group: _rank(group, headline))
    measure, keys = _measure(groups, headline, game)
    compared = list(zip(groups, keys, strict=True))[:MOST_COMPARED]
    improvement = {
        (x.agent, y.agent): _if_enough(
            st.probability_of_improvement(mine, theirs, level=LEVEL), min(len(mine), len(theirs))
        )
        for x, mine in compared
        for y, theirs in compared
        if x is not y and len(mine) and len(theirs)
    }
    by_ranks = measure == SOONER
    tests = {
        pair: _test(*pair, {g.agent: (g, k) for g, k in zip(groups, keys, strict=True)}, ranks=by_ranks)
        for pair in improvement
    }
    known = [v for v in (run.number("optimal_return") for run in runs) if v is not None]
    optimal = known[0] if len(set(known)) == 1 else float(np.mean(known)) if known else None
    return Task(name, optimal, game, headline, clock, tuple(groups), measure, improvement, tests)


def _clock(runs: list[Run]) -> str:
    """env_steps if every run that recorded anything had its budget in steps, else episodes."""
    recorded = [run for run in runs if run.series]
    in_steps = all(r.clock == "env_steps" and np.isfinite(r.series.get(r.clock, math.nan)).all() for r in recorded)
    return "env_steps" if recorded and in_steps else "episodes"


def _records(run: Run, headline: Headline) -> bool:
    """Whether all evaluations of the run have the headline."""
    return headline.key in run.series and bool(np.isfinite(run.series[headline.key]).all())


def _measure(groups: list[Group], headline: Headline, game: bool) -> tuple[str, list[FloatArray]]:
    """What "better" means on a task, and each group's runs as numbers of which higher ones are better."""
    if headline is GAP:
        return "lower final gap", [-group.finals for group in groups]
    if game:
        return "nothing: returns of self-play rank no agents", [np.zeros(0) for _ in groups]
    if any(any(group.solved) for group in groups):
        return SOONER, [-solve_keys(group) for group in groups]
    return "higher final return", [group.finals for group in groups]


def _test(x: str, y: str, of: dict[str, tuple[Group, FloatArray]], *, ranks: bool) -> Comparison:
    """Paired where each run of X has one twin among those of Y: the same seed on the same problem."""
    (first, mine), (second, theirs) = of[x], of[y]
    here, there = ([twin(run) for run in group.runs] for group in (first, second))
    if len(set(here)) == len(here) == len(there) and set(here) == set(there):
        return paired_test(mine, theirs[[there.index(key) for key in here]], ranks=ranks)
    return difference_test(mine, theirs)


def twin(run: Run) -> str:
    """What runs of different agents share: their seed, and the seeds that make their problem."""
    return json.dumps([run.seed, {k: v for k, v in run.env_config.items() if k.endswith("_seed")}], sort_keys=True)


def solve_keys(group: Group) -> FloatArray:
    """Episodes to solve for comparing runs: any unsolved run is behind any solved one, and ties with unsolved ones."""
    return np.where(group.solved, group.counts, 1e300)


def _rank(group: Group, headline: Headline) -> tuple[float, float, float, str]:
    """Best first: share solved, then median episodes, then the final value, then name."""
    final = headline.sign * group.final.estimate if group.final else -math.inf
    return -group.episodes.solved / group.episodes.n, group.episodes.median, -final, group.agent


def _group(agent: str, task: str, runs: list[Run], frame: Frame, *, reps: int, rng: np.random.Generator) -> Group:
    headline, worst = frame.headline, frame.worst
    solved = tuple(run.solved for run in runs)
    counts = _last_if_cut([run.solved_at if run.solved else run.cap for run in runs], runs, "episodes")
    finals = np.zeros(0)
    if worst is not None:
        finals = np.array([_final(run, headline, worst) for run in runs])
    curve = _headline_curve(runs, frame, reps=reps, rng=rng)
    area = None
    if curve is not None and len(curve.x) > 1:
        areas = [st.area_under_curve(curve.x, _values(run, headline.key, curve.x, worst, frame.clock)) for run in runs]
        area = _if_enough(st.bootstrap([np.array(areas)], rng=rng, reps=reps, level=LEVEL), len(areas))
    exact = {key: c for key in EXACT if (c := _exact_curve(runs, key, frame.clock, reps=reps, rng=rng)) is not None}
    return Group(
        agent=agent,
        task=task,
        runs=tuple(runs),
        counts=counts,
        solved=solved,
        episodes=st.solve_summary(counts, np.array(solved)),
        steps=_steps(runs),
        final=_if_enough(st.bootstrap([finals], rng=rng, reps=reps, level=LEVEL), len(finals)) if len(finals) else None,
        finals=finals,
        area=area,
        curve=curve,
        slope=_slope(runs) if headline is GAP else None,
        # In a game the gap's curve is the headline's own: it counts unfinished runs at their worst.
        exact=exact if headline is RETURN or curve is None else {**exact, headline.key: curve},
    )


def _final(run: Run, headline: Headline, worst: float) -> float:
    final = run.number("final_return") if headline is RETURN else None
    if not run.finished or not _records(run, headline):
        return worst
    return final if final is not None else float(run.series[headline.key][-1])


def _slope(runs: list[Run]) -> st.Interval | None:
    """Mean log-log slope of the finished runs' gaps; None where a gap vanishes or a run has too few evaluations."""
    slopes = []
    for run in runs:
        if not run.finished or not _records(run, GAP):
            continue
        x, y = run.series["episodes"], run.series[GAP.key]
        keep = x >= max(SLOPE_FROM * x[-1], 1.0)
        if keep.sum() < 3 or (y[keep] < ZERO).any():
            return None
        slopes.append(round(float(st.loglog_slope(x[keep], y[keep])), 6))  # a level gap has slope 0, not 1e-17
    if not slopes:
        return None
    return _if_enough(st.mean_interval(np.array(slopes), LEVEL), len(slopes))


def _if_enough(value: st.Interval, n: int) -> st.Interval:
    """The estimate alone where it is of fewer than FEWEST runs."""
    return value if n >= FEWEST else st.Interval(value.estimate, math.nan, math.nan)


def _band(values: FloatArray, *, reps: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Centre, low and high of curves (n, T); no band of fewer than FEWEST."""
    centre, low, high = st.bootstrap_curve(values, rng=rng, reps=reps, level=LEVEL)
    none = np.full(len(centre), math.nan)
    return (centre, low, high) if len(values) >= FEWEST else (centre, none, none)


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
    """The counts, where a run that did not finish and whose budget is in the other unit has the largest of all: how far
    it would have come is not known, and the little that it played must not make it look fast."""
    known = np.array([0.0 if count is None else count for count in counts])
    cut = np.array([not run.finished and run.clock != clock for run in runs])
    return np.where(cut, known.max(initial=0.0), known)


def _headline_curve(runs: list[Run], frame: Frame, *, reps: int, rng: np.random.Generator) -> Curve | None:
    headline, worst, clock = frame.headline, frame.worst, frame.clock
    recorded = [run for run in runs if _records(run, headline)]
    if worst is None or not recorded:
        return None
    first = max(float(run.series[clock][0]) for run in recorded)
    # Where a finished run used up its budget unsolved, nothing is known behind it: the curve ends there.
    last = max(_end([run.series[clock] for run in recorded if run.finished and not run.solved], frame.end), first)
    x = np.unique(np.append(_grid([run.series[clock] for run in recorded], first, last), last))
    values = np.stack([_values(run, headline.key, x, worst, clock) for run in runs])
    centre, low, high = _band(values, reps=reps, rng=rng)
    ends = [float(run.series[clock][-1]) for run in recorded]
    stops = tuple(sorted(e for run, e in zip(recorded, ends, strict=True) if run.finished and run.solved and e < last))
    return Curve(x, centre, low, high, min(max(ends), last), stops)


def _end(counts: list[FloatArray], end: float) -> float:
    """The count up to which all these runs went, at most `end`.

    Budgets in steps end with an episode: the last evaluations of equal budgets come at slightly different counts, and a
    curve up to the first of them would leave out the others. So a run stands for less than half of an evaluation
    interval more than it has.
    """
    if not counts:
        return end
    ends = np.array([each[-1] for each in counts])
    reach = min(each[-1] + np.diff(each[-2:]).sum() / 2 for each in counts)
    return min(float(ends[ends < reach].max(initial=ends.min())), end)


def _grid(counts: list[FloatArray], first: float, last: float) -> FloatArray:
    """Counts in [first, last] at which each run was evaluated anew since the one before, or has ended: evaluations that
    are due at the same count come at slightly different ones, and a point at each would show means half renewed."""
    union = np.unique(np.concatenate(counts))
    union = union[(union >= first) & (union <= last)]
    done = np.stack([np.searchsorted(each, union, side="right") for each in counts])  # (R, n) evaluations so far
    whole = np.array([len(each) for each in counts])
    kept: list[int] = []
    seen = np.zeros(len(counts), dtype=np.int64)
    for i in range(len(union)):
        if ((done[:, i] > seen) | (seen == whole)).all():
            kept.append(i)
            seen = done[:, i]
    return np.asarray(union[kept])


def _values(run: Run, key: str, x: FloatArray, worst: float | None, clock: str) -> FloatArray:
    """The run's newest value at or before each x; behind the end of an unfinished run, `worst`."""
    if key not in run.series or not np.isfinite(run.series[key]).all():
        return np.full(len(x), math.nan if worst is None else worst)
    at = run.series[clock]
    values = run.series[key][np.maximum(np.searchsorted(at, x, side="right") - 1, 0)]
    return values if run.finished or worst is None else np.where(x > at[-1], worst, values)


def _exact_curve(runs: list[Run], key: str, clock: str, *, reps: int, rng: np.random.Generator) -> Curve | None:
    """An exact column from 1 on, up to where the first run ends; failed runs have no exact value there."""
    having = [run for run in runs if key in run.series and np.isfinite(run.series[key]).all()]
    if not having:
        return None
    first = max(max(float(run.series[clock][0]) for run in having), 1.0)
    last = _end([run.series[clock] for run in having], np.inf)
    x = _grid([run.series[clock] for run in having], first, last)
    if len(x) < 2:
        return None
    values = np.stack([_values(run, key, x, None, clock) for run in having])
    centre, low, high = _band(values, reps=reps, rng=rng)
    return Curve(x, centre, low, high, last, ())
