"""Which objective fits a density of the plane best, and why NCE can fail under narrow noise where MECO does not.

Part 1, covering noise: seven objectives on four densities with exact log-densities, each method with the network that
suits it; FCE learns its noise from there on, and energy discrepancy has none. Part 2, narrow noise: NCE's loss looks at
the model only where data or noise came, so elsewhere the network extrapolates as it likes; MECO weighs the rare noise
far out by exp(f)/q, which punishes mass there. Whether that is the cause is tested twice: by where the models' mass is,
and by giving NCE a tenth of wide noise and nothing else. Part 3: both over the noise's width (`density_widths.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.energy.density_fits import NETWORKS, Density2DConfig, fit_energy, fit_reference
from rl_contrastive.claims.energy.density_plots import plot_all
from rl_contrastive.claims.energy.density_widths import plot_widths, run_widths, widths_answer, widths_table
from rl_contrastive.claims.grid import Cell, Grid, all_failures, figure, gap_of, metric_of, run_grid
from rl_contrastive.claims.ledger import Choice
from rl_contrastive.registry import register

COVERING: dict[str, tuple[str, Choice]] = {
    "NCE": ("nce", {}),
    "eNCE": ("ence", {}),
    "SNIS": ("snis", {}),
    "MECO .9": ("meco", {"gamma": 0.9}),
    "MECO .1": ("meco", {"gamma": 0.1}),
    "FCE": ("fce", {}),
    "ED": ("energy-discrepancy", {}),
}
NARROW: dict[str, tuple[str, Choice, str]] = {
    "NCE": ("nce", {}, "narrow"),
    "MECO": ("meco", {"gamma": 0.1}, "narrow"),
    "NCE + wide": ("nce", {}, "mixed"),
}
NARROW_NETWORKS = ("sharp", "deep")
REFERENCES = ("truth", "KDE", "20 Gaussians")
BARS = {"8gaussians": 2.87, "spirals": 2.75, "pinwheel": 2.41, "checkerboard": 3.60}
Cells = dict[tuple[str, str], Cell]


@register("claim", "energy/density-2d", Density2DConfig)
def density_2d(config: Density2DConfig, context: Context) -> Report:
    """Objectives on four densities of the plane; what narrow noise does to NCE."""
    covering = _covering(config, context)
    references = _references(config, context)
    narrow = _narrow(config, context)
    widths = run_widths(config, context.part("widths"))
    bars = [*nll_bars(config, covering), *narrow_bars(config, narrow)]
    return Report(
        claim="Which objective fits a two-dimensional density best, and does MECO survive noise too narrow for NCE?",
        answer=" ".join(
            (_covering_answer(config, covering), _narrow_answer(config, narrow), widths_answer(config, widths))
        ),
        tables=[
            _nll_table(config, covering, references),
            _difference_table(config, covering),
            _narrow_table(config, narrow),
            widths_table(config, widths),
            _cost_table(config, covering),
        ],
        bars=bars,
        plots=[
            *plot_all(config, covering, references, narrow, context.out),
            plot_widths(config, widths, context.out),
        ],
        numbers={
            "covering": _numbers(covering),
            "references": _numbers(references),
            "narrow": _numbers(narrow),
            "widths": _numbers(widths),
        },
    )


def _covering(config: Density2DConfig, context: Context) -> Cells:
    methods = {
        name: [{"objective": o, "of": of, "noise": "covering", "network": n, "lr": config.rate} for n in NETWORKS]
        for name, (o, of) in COVERING.items()
    }
    grid = Grid(config.densities, methods, "validation", config.tune_seeds, config.seeds)
    return run_grid(fit_energy, config, grid, context.part("covering"))


def _narrow(config: Density2DConfig, context: Context) -> Cells:
    methods = {
        name: [{"objective": o, "of": of, "noise": noise, "lr": lr} for lr in config.narrow_rates]
        for name, (o, of, noise) in NARROW.items()
    }
    settings = [f"{density}, {network}" for network in NARROW_NETWORKS for density in config.narrow]
    grid = Grid(settings, methods, "validation", config.tune_seeds, config.seeds)
    return run_grid(fit_energy, config, grid, context.part("narrow"))


def _references(config: Density2DConfig, context: Context) -> Cells:
    methods: dict[str, list[Choice]] = {name: [{}] for name in REFERENCES}
    grid = Grid(config.densities, methods, "nll", (), config.seeds)
    return run_grid(fit_reference, config, grid, context.part("references"))


def best_method(cells: Cells, setting: str, methods: list[str]) -> str:
    """The method with the lowest validation NLL on the tuning seeds (its chosen network): no reporting seed decides."""
    scores = {m: np.array([score for _, score in cells[setting, m].tuning]) for m in methods}
    known = {m: float(np.nanmin(s)) for m, s in scores.items() if np.isfinite(s).any()}
    return min(known, key=lambda m: known[m]) if known else methods[0]


def nll_bars(config: Density2DConfig, cells: Cells) -> list[Bar]:
    out = []
    for density in config.densities:
        bar = BARS[density]
        best = best_method(cells, density, list(COVERING))
        cell = cells[density, best]
        found = metric_of(cell, "nll")
        met = not cell.failed and found.estimate <= bar
        out.append(Bar(f"{density}: NLL of the best objective", f"<= {bar}", f"{best}: {figure(found)}", met))
    return out


def narrow_bars(config: Density2DConfig, cells: Cells) -> list[Bar]:
    out = []
    for network in NARROW_NETWORKS:
        for density in config.narrow:
            setting = f"{density}, {network}"
            gap = gap_of(cells[setting, "NCE"], cells[setting, "MECO"], "nll")
            what = f"{setting} network, narrow noise: NLL of NCE - NLL of MECO"
            out.append(Bar(what, "interval >= 1 nat", figure(gap), gap.low >= 1.0))
    for density in config.narrow:
        setting = f"{density}, sharp"
        nce, meco, wide = (cells[setting, m] for m in NARROW)
        cost, gap = gap_of(nce, meco, "cost_beyond"), gap_of(nce, meco, "nll")
        words = f"{figure(cost)} of {figure(gap)} nats"
        what = f"{setting} network: part of NCE's deficit that is mass beyond the noise's bulk"
        out.append(
            Bar(what, ">= 90% of a positive deficit", words, gap.low > 0 and cost.estimate >= 0.9 * gap.estimate)
        )
        left = gap_of(wide, meco, "nll")
        what = f"{setting} network: NLL of NCE with a share of wide noise - NLL of MECO without"
        out.append(Bar(what, "interval <= 0.1 nat", figure(left), left.high <= 0.1))
    return out


def _nll_table(config: Density2DConfig, covering: Cells, references: Cells) -> Table:
    cells = {**references, **covering}
    rows = [
        (method, *(figure(metric_of(cells[d, method], "nll")) for d in config.densities))
        for method in (*REFERENCES, *COVERING)
    ]
    error = max(float(np.nanmax(c.metrics["grid_error"])) for c in covering.values() if "grid_error" in c.metrics)
    note = (
        f"Held-out NLL in nats, lower is better; mean and 95% t interval over n = {len(config.seeds)} seeds "
        f"(percentile intervals of so few seeds are somewhat too short). log Z on a grid of [-{config.box:g}, "
        f"{config.box:g}]^2; largest change on half of the nodes: {error:.4f}. {_failures(covering)}"
    )
    return Table("NLL under covering noise", ("Method", *config.densities), rows, note.strip())


def _difference_table(config: Density2DConfig, cells: Cells) -> Table:
    rows = []
    for method in list(COVERING)[1:]:
        row = [gap_of(cells[d, method], cells[d, "NCE"], "nll") for d in config.densities]
        rows.append((method, *(figure(value) for value in row)))
    note = (
        "NLL - NLL of NCE, paired by seed; positive: worse than NCE. Of 95% intervals one in twenty misses by chance, "
        "of percentile intervals of so few seeds more."
    )
    return Table("Against NCE", ("Method", *config.densities), rows, note)


def _narrow_table(config: Density2DConfig, cells: Cells) -> Table:
    names = ("nll", "excess", "nll_bulk", "mass_beyond", "data_beyond")
    rows = [
        (setting, method, *(figure(metric_of(cell, name)) for name in names))
        for (setting, method), cell in cells.items()
    ]
    note = (
        f"Noise: a Gaussian of {config.narrowness:g} times the data's standard deviations; its bulk is the ellipse "
        f"with 99.9% of it. NCE + wide: {config.share:.0%} of the noise from one of {config.wide:g} times. excess: NLL "
        "- NLL of the truth on the same points. nll_bulk: model and test data both restricted to the bulk. beyond: "
        f"mass outside the bulk. n = {len(config.seeds)} seeds. {_failures(cells)}"
    )
    columns = ("Density, network", "Method", "NLL", "Excess", "NLL in the bulk", "Mass beyond", "Data beyond")
    return Table("Narrow noise", columns, rows, note.strip())


def _cost_table(config: Density2DConfig, cells: Cells) -> Table:
    rows = []
    for method in COVERING:
        mine = [cells[d, method] for d in config.densities]
        seconds = np.concatenate([c.metrics["seconds"] for c in mine if "seconds" in c.metrics])
        networks = (c.options["network"] for c in mine)
        rows.append((method, f"{np.nanmedian(seconds):.1f}" if len(seconds) else "failed", *networks))
    note = (
        f"Median processor seconds of a fit of {config.steps} steps; for each density the network chosen on tuning "
        "seeds: sharp (2 layers, steep initial slopes), deep (3, moderate) or deep sharp (3, steep)."
    )
    return Table("Cost and chosen networks", ("Method", "Seconds", *config.densities), rows, note)


def _failures(cells: Cells) -> str:
    failed = all_failures(cells.values())
    return "" if not failed else f"{len(failed)} failed fits, left out of the means: " + "; ".join(failed)


def _covering_answer(config: Density2DConfig, cells: Cells) -> str:
    """Who differs from NCE by more than the interval, density by density."""
    better, worse = [], []
    for method in list(COVERING)[1:]:
        for d in config.densities:
            gap = gap_of(cells[d, method], cells[d, "NCE"], "nll")
            word = f"{method} on {d} ({gap.estimate:+.3f})"
            better += [word] if gap.high < 0 else []
            worse += [word] if gap.low > 0 else []
    total = len(config.densities) * (len(COVERING) - 1)
    return (
        f"Covering noise: {total} comparisons with NCE; better than NCE by more than the interval: "
        f"{', '.join(better) or 'none'}; worse: {', '.join(worse) or 'none'}; elsewhere no difference is shown."
    )


def _narrow_answer(config: Density2DConfig, cells: Cells) -> str:
    parts = []
    for network in NARROW_NETWORKS:
        for d in config.narrow:
            nce, meco, wide = (cells[f"{d}, {network}", m] for m in NARROW)
            gap, repaired = gap_of(nce, meco, "nll"), gap_of(nce, wide, "nll")
            who = (
                "MECO is ahead of NCE"
                if gap.low > 0
                else "NCE is ahead of MECO"
                if gap.high < 0
                else "neither is ahead"
            )
            parts.append(
                f"{d}, {network} network: {who} (NLL of NCE - MECO {figure(gap)}), and a share of wide noise lowers "
                f"NCE's NLL by {figure(repaired)}"
            )
    return "Narrow noise: " + "; ".join(parts) + "."


def _numbers(cells: Cells) -> list[dict[str, Any]]:
    return [
        {"setting": s, "method": m, "options": c.options, "seeds": c.seeds, **c.metrics, "failed": c.failed}
        for (s, m), c in cells.items()
    ]
