"""Tables, bars and the answer of the study gaussian-mean, each sentence built from the measured cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_contrastive.analysis.figures import plain
from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.claims.base import Bar, Report, Table
from rl_contrastive.claims.energy import gaussian_plots
from rl_contrastive.claims.energy.gaussian_sampled import METHODS, Setting
from rl_contrastive.claims.energy.population import DESCENTS
from rl_contrastive.claims.grid import Cell, all_failures, interval, paired

if TYPE_CHECKING:
    from rl_contrastive.claims.energy.gaussian_config import GaussianMeanConfig

Cells = dict[tuple[str, str], Cell]
LIMITS = {"SNIS": 50, "MECO(.9)": 250, "eNCE-NGD": 250, "NCE-GD": 350}
"""Sampled bars: most iterations at the largest R, covering noise, centred, large batch, slowest seed."""
ORDERS = {8.0: 500, 16.0: 7600}
"""Exact bars of eNCE-NGD: iterations to be met within a factor of two."""


def report(config: GaussianMeanConfig, out: Path, exact: Cells, sampled: dict[str, Cells]) -> Report:
    """Everything the study shows."""
    covering, narrow = sampled["covering"], sampled.get("narrow", {})
    tables = [_exact_table(config, exact), *_sampled_tables(config, covering), _paired_table(config, covering)]
    if narrow:
        tables.append(_narrow_table(config, narrow))
    cells = {"exact": exact, **sampled}
    return Report(
        claim="How many iterations does the mean of N(R, 1) take from N(0, 1), and what stands in the way: "
        "the loss's landscape, the parametrisation or noise that misses the data?",
        answer=_answer(config, exact, covering, narrow),
        tables=tables,
        bars=[*_exact_bars(config, exact), *_sampled_bars(config, covering), *_narrow_bars(narrow)],
        plots=[gaussian_plots.exact(config, out, exact), gaussian_plots.sampled(config, out, sampled)],
        numbers={part: {f"{s}, {m}": plain(_numbers(cell)) for (s, m), cell in c.items()} for part, c in cells.items()},
    )


def _numbers(cell: Cell) -> dict[str, Any]:
    return {"options": cell.options, "seeds": cell.seeds, "metrics": cell.metrics, "tuning": cell.tuning}


# --- exact -----------------------------------------------------------------------------------------------------------


def _exact_table(config: GaussianMeanConfig, exact: Cells) -> Table:
    def words(cell: Cell) -> str:
        count, rate = (float(cell.metrics[name][0]) for name in ("iterations", "rate"))
        return f"{count:.0f} (step {rate:g})" if np.isfinite(count) else f"fails ({_left(cell)})"

    rows = [(f"{R:g}", *(words(exact[f"R={R:g}", m]) for m in DESCENTS)) for R in config.exact_distances]
    note = (
        f"Iterations until the mean is within {config.tolerance:g} and, where log Z is learned, log Z within "
        f"max(R/10, 1/2), for {config.hold} iterations on end; the best of {len(config.exact_rates)} step sizes from "
        f"{min(config.exact_rates):g} to {max(config.exact_rates):g} for every method; budget {config.budget}. Exact "
        "expectations: nothing is random, so there is no interval. Step 1 of likelihood-GD is Newton's step."
    )
    return Table("Exact expectations, noise N(0, 1)", ("R", *DESCENTS), rows, note)


def _left(cell: Cell) -> str:
    """What is missing at the end of the budget."""
    mean, log_z = (float(cell.metrics[name][0]) for name in ("error", "log_z_error"))
    return f"mean off {mean:.2f}, log Z off {log_z:.2f}"


def _exact_bars(config: GaussianMeanConfig, exact: Cells) -> list[Bar]:
    likelihood = [float(exact[f"R={R:g}", "likelihood-GD"].metrics["iterations"][0]) for R in config.exact_distances]
    bars = [
        Bar(
            f"exact, likelihood-GD, R = {', '.join(f'{R:g}' for R in config.exact_distances)}",
            "<= 10 iterations at every R",
            ", ".join(f"{n:.0f}" for n in likelihood),
            max(likelihood) <= 10,
        )
    ]
    for R in config.exact_distances:
        if R < 8.0:
            continue
        nce = exact[f"R={R:g}", "NCE-GD"]
        arrival = float(nce.metrics["iterations"][0])
        failed = not np.isfinite(arrival)
        words = f"at the closest step size {_left(nce)}" if failed else f"arrives after {arrival:.0f}"
        bars.append(Bar(f"exact, NCE-GD, R = {R:g}", f"fails within {config.budget} at any step size", words, failed))
        count, order = float(exact[f"R={R:g}", "eNCE-NGD"].metrics["iterations"][0]), ORDERS.get(R)
        if order is not None:
            met = order / 2 <= count <= 2 * order
            what = f"arrives, of the order of {order} (within a factor 2)"
            bars.append(Bar(f"exact, eNCE-NGD, R = {R:g}", what, f"{count:.0f}", met))
    return bars


# --- sampled ---------------------------------------------------------------------------------------------------------


def _whole(value: Interval) -> str:
    """An interval of counts; a single run has none."""
    if np.isnan(value.low):
        return f"{value.estimate:.0f} (one seed, no interval)"
    return f"{value.estimate:.0f} [{value.low:.0f}, {value.high:.0f}]"


def _words(cell: Cell) -> str:
    """`5/5: 23 [20, 25] (0.3)`, or what is left of the error where no seed is right for good."""
    counts, n = cell.metrics["iterations"], len(cell.seeds)
    reached = int(np.isfinite(counts).sum())
    step = f"(step {cell.options['rate']:g})"
    if reached:
        return f"{reached}/{n}: {_whole(interval(counts))} {step}"
    error = interval(cell.metrics["error"])
    return f"0/{n}, error {error.estimate:.2f} [{error.low:.2f}, {error.high:.2f}] {step}"


def _sampled_tables(config: GaussianMeanConfig, covering: Cells) -> list[Table]:
    settings = config.settings["covering"]
    tables = []
    for batch, form in dict.fromkeys((s.batch, s.form) for s in settings):
        own = [s for s in settings if (s.batch, s.form) == (batch, form)]
        rows = [(method, *(_words(covering[s.name, method]) for s in own)) for method in METHODS]
        columns = ("method", *(f"R = {s.distance:g}" for s in own))
        tables.append(Table(f"Covering noise, B = {batch}, {form}", columns, rows, _note(config)))
    return tables


def _note(config: GaussianMeanConfig) -> str:
    tuned = ", ".join(str(seed) for seed in config.tune_seeds)
    return (
        f"Seeds that end right: mean of the iterations from which mean(theta[t/2..t]) stays within "
        f"{config.tolerance:g} of R until {config.steps}, with a 95% t interval over those "
        f"seeds (n = {len(config.seeds)} in all); "
        f"the step size is the best of {len(config.rates)} for every method on seeds {tuned}. Half of the noise is "
        "N(data mean, 2^2): an easy law, for all."
    )


def _top(config: GaussianMeanConfig) -> str:
    """The setting of the bars: largest R, large batch, centred."""
    return Setting(max(config.distances), config.batch, "mix", "centred").name


def _paired_table(config: GaussianMeanConfig, covering: Cells) -> Table:
    rows, setting = [], _top(config)
    for method in METHODS:
        if method == "SNIS":
            continue
        a, b = covering[setting, method], covering[setting, "SNIS"]
        both = int((np.isfinite(a.metrics["iterations"]) & np.isfinite(b.metrics["iterations"])).sum())
        d = paired(a, b, "iterations") if both else None
        rows.append((method, f"{both}", "-" if d is None else _whole(d)))
    note = "Iterations more than SNIS on the same seed, mean and 95% t interval over the seeds both solve."
    return Table(f"Paired differences, {setting}", ("method", "n", "iterations - SNIS"), rows, note)


def _narrow_table(config: GaussianMeanConfig, narrow: Cells) -> Table:
    settings = config.settings["narrow"]
    rows = [(method, *(_words(narrow[s.name, method]) for s in settings)) for method in METHODS]
    note = (
        "The sampled version of the exact part's noise. The variance of the weights p*/q is exp(R^2) - 1: about "
        "exp(R^2) noise points carry the information of one point of p*, e^4 = 55 at R = 2 and e^64 at R = 8, so "
        "beyond small R no objective can succeed and differences between methods there mean nothing."
    )
    columns = ("method", *(f"R = {s.distance:g}" for s in settings))
    return Table(f"Noise N(0, 1), B = {config.batch}, raw: the impossible setting", columns, rows, note)


def _sampled_bars(config: GaussianMeanConfig, covering: Cells) -> list[Bar]:
    bars = []
    for method, limit in LIMITS.items():
        counts = covering[_top(config), method].metrics["iterations"]
        reached = int(np.isfinite(counts).sum())
        measured = f"{reached}/{len(counts)} seeds, median {np.median(counts):.0f}, slowest {counts.max():.0f}"
        met = bool(counts.max() <= limit)
        bars.append(Bar(f"sampled, {_top(config)}, {method}", f"<= {limit} on every seed", measured, met))
    return bars


def _narrow_bars(narrow: Cells) -> list[Bar]:
    solved, runs = _solved_far(narrow)
    what = "sampled, noise N(0, 1), R >= 8, all methods"
    bar = Bar(what, "no run is right for good (the setting is impossible)", f"{solved} of {runs} runs", solved == 0)
    return [bar] if runs else []


# --- answer ----------------------------------------------------------------------------------------------------------


def _answer(config: GaussianMeanConfig, exact: Cells, covering: Cells, narrow: Cells) -> str:
    R, top = max(config.exact_distances), _top(config)
    counts = {m: float(exact[f"R={R:g}", m].metrics["iterations"][0]) for m in DESCENTS}
    words = ", ".join(f"{m} {n:.0f}" if np.isfinite(n) else f"{m} fails" for m, n in counts.items())
    order = sorted(METHODS, key=lambda m: float(np.mean(covering[top, m].metrics["score"])))
    ranking = "; ".join(f"{m} {_words(covering[top, m])}" for m in order)
    text = [
        f"Exact expectations, noise N(0, 1), R = {R:g}, iterations within {config.budget}: {words}.",
        f"Minibatches and noise that covers the data ({top}; seeds right for good: iterations): {ranking}.",
        _against_meco(covering, top),
        _raw(covering, top),
    ]
    if narrow:
        solved, runs = _solved_far(narrow)
        text.append(f"Minibatches, noise N(0, 1), R >= 8: {solved} of {runs} runs of all methods are right for good.")
        nearest = min(config.settings["narrow"], key=lambda setting: setting.distance)
        each = ", ".join(f"{m} {_reached(narrow[nearest.name, m])}/{len(config.seeds)}" for m in METHODS)
        text.append(f"With that noise at R = {nearest.distance:g}, seeds right for good: {each}.")
    failures = all_failures([*covering.values(), *narrow.values()])
    text.append(f"Failed fits: {'; '.join(failures)}." if failures else "No fit failed numerically.")
    return " ".join(text)


def _against_meco(covering: Cells, top: str) -> str:
    """What the paired intervals say of MECO(.9) and the others."""
    ours, sentences = covering[top, "MECO(.9)"], []
    for method in ("SNIS", "eNCE-NGD", "NCE-GD", "NCE-Adam"):
        cell = covering[top, method]
        if _reached(cell) < len(cell.seeds) or _reached(ours) < len(ours.seeds):
            sentences.append(f"not comparable with {method} (a seed is never right)")
            continue
        d = paired(ours, cell, "iterations")
        verdict = "slower than" if d.low > 0 else "faster than" if d.high < 0 else "not shown to differ from"
        sentences.append(f"{verdict} {method} ({_whole(d)})")
    return f"MECO(.9) is {', '.join(sentences)}: paired differences of iterations."


def _raw(covering: Cells, top: str) -> str:
    """What the parametrisation costs."""
    raw = top.replace("centred", "raw")
    pairs = {m: (_reached(covering[top, m]), _reached(covering[raw, m])) for m in METHODS}
    changed = [f"{m} {before} to {after}" for m, (before, after) in pairs.items() if before != after]
    text = f"Raw in place of centred changes the seeds solved: {', '.join(changed) if changed else 'of no method'}."
    a, b = (covering[name, "SNIS"].metrics["iterations"] for name in (top, raw))
    unmoved = " SNIS, whose weights do not feel the shift, takes the same iterations on every seed."
    return text + (unmoved if np.array_equal(a, b) else "")


def _solved_far(narrow: Cells) -> tuple[int, int]:
    """Runs right for good, and runs, at R >= 8."""
    far = [cell for (name, _), cell in narrow.items() if Setting.parse(name).distance >= 8.0]
    return sum(_reached(cell) for cell in far), sum(len(cell.seeds) for cell in far)


def _reached(cell: Cell) -> int:
    return int(np.isfinite(cell.metrics["iterations"]).sum())
