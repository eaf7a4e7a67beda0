"""Matches of every trained maximiser against every trained minimiser of one zero-sum game, on common seeds.

    R_ij = mean return of max over the episodes of (mu of run i, nu of run j),   i of agent X, j of agent Y
    X against Y: mean of R over all pairs of their runs, with an interval over runs and over episodes

The policies are the bonus-free marginals that the agents hand out. All pairs meet the same environment seeds and the
same random numbers, so that two cells of the matrix differ by the policies. Where rewards may be negative, a return
above 0 is a win, 0 a draw and below 0 a loss of max.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.analysis import statistics as st
from rl_contrastive.analysis.match_table import LEVEL, OUTCOMES, Match, Matches
from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.files import write_text
from rl_contrastive.runs.evaluate import MOST_ROWS, evaluate
from rl_contrastive.runs.load import (
    Trained,
    Versus,
    load_all,
    require_game,
    require_same_env,
    returns_can_be_negative,
)
from rl_contrastive.runs.rollout import close
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import Env, FloatArray


def play_matches(
    runs: Sequence[Trained],
    *,
    episodes: int = 1000,
    seed: int = 0,
    reps: int = 2000,
    on_match: Callable[[Match], None] = lambda match: None,
) -> Matches:
    """Play all pairs of runs, `episodes` each; runs of one label are one agent's seeds."""
    require(len(runs) >= 1, "matches: give at least one run.")
    require(episodes >= 1, f"matches: episodes must be >= 1, got {episodes}.")
    for run in runs:
        require_game(run)
    require_same_env(runs)
    groups: dict[str, tuple[Trained, ...]] = {}
    for run in runs:
        groups[run.label] = (*groups.get(run.label, ()), run)
    tree, env = SeedTree(seed), runs[0].make_env(min(episodes, MOST_ROWS))
    cells = {}
    for x, maximisers in groups.items():
        for y, minimisers in groups.items():
            returns = _returns(maximisers, minimisers, env, episodes, tree)
            cells[x, y] = _match(x, y, returns, signed=returns_can_be_negative(env.env_spec), seed=seed, reps=reps)
            on_match(cells[x, y])
    close(env)
    return Matches(runs[0].config.shown_env, tuple(groups), groups, cells, episodes, seed, env.env_spec.optimal_return)


def _returns(
    maximisers: Sequence[Trained], minimisers: Sequence[Trained], env: Env, episodes: int, tree: SeedTree
) -> FloatArray:
    """Returns (n, m, episodes) of all pairs of runs; the stream is the same for each pair."""
    out = np.zeros((len(maximisers), len(minimisers), episodes))
    for i, x in enumerate(maximisers):
        for j, y in enumerate(minimisers):
            pair: Any = Versus(x.agent, y.agent, env.env_spec.game)  # of an agent, `evaluate` asks only the policy
            out[i, j] = evaluate(pair, env, episodes, tree=tree).returns
    return out


def _match(x: str, y: str, returns: FloatArray, *, signed: bool, seed: int, reps: int) -> Match:
    """The numbers of one cell; intervals depend on the cell's own names and numbers only."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *x.encode(), 0, *y.encode()])))
    shares = {}
    if signed:
        outcome = {"win": returns > 0.0, "draw": returns == 0.0, "loss": returns < 0.0}
        shares = {name: _share(outcome[name].astype(np.float64), rng=rng, reps=reps) for name in OUTCOMES}
    means = returns.mean(axis=2)
    return Match(x, y, returns.size, _mean(returns, rng=rng, reps=reps), shares, means)


def _mean(returns: FloatArray, *, rng: np.random.Generator, reps: int) -> st.Interval:
    """Mean of returns (n, m, episodes) with the wider of the intervals over runs and over episodes.

    All pairs share their episodes' seeds, so an episode counts once, as the mean over pairs. An interval over runs
    alone is not enough: five seeds of the same policy do not differ at all.
    """
    by_episode = returns.mean(axis=(0, 1))
    n = len(by_episode)
    sem = float(by_episode.std(ddof=1) / np.sqrt(n)) if n > 1 else math.nan
    return _wider(st.normal_interval(float(returns.mean()), sem, LEVEL), returns, rng=rng, reps=reps)


def _share(happened: FloatArray, *, rng: np.random.Generator, reps: int) -> st.Interval:
    """Share of 1 among (n, m, episodes): the wider of Wilson's interval over episodes and that over runs."""
    return _wider(st.wilson(float(happened.mean()), happened.shape[2], LEVEL), happened, rng=rng, reps=reps)


def _wider(inner: st.Interval, values: FloatArray, *, rng: np.random.Generator, reps: int) -> st.Interval:
    """`inner`, widened to the bootstrap over the runs of both sides."""
    if values.shape[:2] == (1, 1):
        return inner
    outer = st.crossed(values.mean(axis=2), rng=rng, reps=reps, level=LEVEL)
    return st.Interval(inner.estimate, min(inner.low, outer.low), max(inner.high, outer.high))


def matches(
    folders: Sequence[Path],
    out: Path,
    *,
    episodes: int = 1000,
    seed: int = 0,
    reps: int = 2000,
    on_match: Callable[[Match], None] = lambda match: None,
    trust_imports: bool = False,
    previous: bool = False,
) -> dict[str, Any]:
    """Play the runs at or below `folders`; write matches.json, table.md and matches.png/.svg to `out`.

    Runs that cannot play (not finished, no checkpoint) are named in the result; RlcError if one was given directly.
    trust_imports, previous: as of `load_agent`.
    """
    from rl_contrastive.analysis import match_table

    runs, left_out = load_all(folders, trust_imports=trust_imports, previous=previous)
    played = play_matches(runs, episodes=episodes, seed=seed, reps=reps, on_match=on_match)
    result = match_table.as_json(played, left_out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False)
        write_text(out / "matches.json", text + "\n")
        write_text(out / "table.md", match_table.markdown(played, left_out))
        match_table.draw(played, out / "matches")
    except OSError as error:
        raise RlcError(f"matches: cannot write to {out}: {error.strerror}.") from error
    return result
