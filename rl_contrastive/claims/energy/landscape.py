"""Where a loss gives a descent nothing to go by: NCE, eNCE and the likelihood between the noise and the data, exactly.

Data N(R, 1), noise and start N(0, 1), model and losses of `population.py`, all by quadrature: nothing here is random.
Three things can make a descent slow and they are measured apart, along the normalised models N(theta, 1), 0..R:
flat     the gradient is small between q and p* against its size at q: a plain step of stable size stands still.
curved   the largest curvature on the way (it bounds stable steps) over the smallest at p* (it sets the last stretch):
         the order of the iterations of plain descent, here called the condition number of the path.
skew     the condition number of the Hessian at p* alone: what is left for a descent that fits its steps to the place.
"eNCE" is the exponential loss L itself, "log eNCE" its logarithm, whose gradient has the direction that normalised
descent follows. Control: noise near the data (R <= 1), where all losses must be easy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rl_contrastive.analysis.figures import plain
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.energy import landscape_plots
from rl_contrastive.claims.energy.landscape_plots import Path
from rl_contrastive.claims.energy.population import Line, Loss, Shape, line, on_path, shape, truth
from rl_contrastive.config import require
from rl_contrastive.registry import register

NAMES: dict[str, Loss] = {"likelihood": "likelihood", "NCE": "nce", "eNCE": "ence", "log eNCE": "ence"}
"""What is shown -> what `population` computes."""


@dataclass(frozen=True)
class LandscapeConfig:
    """Distances and resolution."""

    distances: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    """R, rising."""
    shown: float = 8.0
    """R of the pictures."""
    points: int = 401
    """Models on the path from q to p*."""
    pixels: int = 81
    """Models an axis of the two-dimensional slices (mean, log Z)."""

    @classmethod
    def quick(cls) -> LandscapeConfig:
        """Seconds."""
        return cls(distances=(0.5, 1.0, 4.0), shown=4.0, points=41, pixels=21)

    def __post_init__(self) -> None:
        require(
            len(self.distances) >= 1 and min(self.distances) > 0.0 and list(self.distances) == sorted(self.distances),
            f"landscape: distances must be > 0 and rise, got {self.distances}.",
        )
        far = self.distances[-1]
        require(far <= 16.0, f"landscape: distances must be <= 16 (curvatures fall below rounding), got {far}.")
        require(0.0 < self.shown <= 16.0, f"landscape: shown must lie in (0, 16], got {self.shown}.")
        require(self.points >= 11, f"landscape: points must be >= 11, got {self.points}.")
        require(self.pixels >= 5, f"landscape: pixels must be >= 5, got {self.pixels}.")


def measure(name: str, at: Line, points: int) -> Path:
    """The loss `name` at `points` models between q and p*."""
    share = torch.linspace(0.0, 1.0, points, dtype=torch.float64)
    tau = on_path(share * at.distance)  # (n, 2)
    found = evaluate(name, tau, at)
    way = truth(at.distance) - tau
    if name == "likelihood":  # a function of theta alone
        size, eigen = found.gradient[:, 0].abs(), found.hessian[:, 0, 0].unsqueeze(-1)
        cosine = torch.sign(-found.gradient[:, 0] * way[:, 0])
    else:
        size, eigen = found.gradient.norm(dim=-1), torch.linalg.eigvalsh(found.hessian)
        cosine = -(found.gradient * way).sum(-1) / (size * way.norm(dim=-1))
    cosine[-1] = math.nan
    arrays = (share, found.value, size, cosine, eigen[:, 0], eigen[:, -1])
    return Path(*(np.asarray(a.numpy()) for a in arrays))


def evaluate(name: str, tau: torch.Tensor, at: Line) -> Shape:
    """Value, gradient and Hessian of the loss `name` at tau (..., 2): eNCE is the exponential of log eNCE."""
    log = shape(NAMES[name], tau, at)
    if name != "eNCE":
        return log
    value, g = log.value.exp(), log.gradient
    scale = value.unsqueeze(-1)
    return Shape(value, scale * g, scale.unsqueeze(-1) * (log.hessian + g.unsqueeze(-1) * g.unsqueeze(-2)))


def nce_curvature(distance: float) -> float:
    """sqrt(2 pi)/8 R exp(-R^2/8): NCE's largest curvature at p* for large R, to compare the quadrature with.

    int p* q/(p* + q) x^2 dx with p* q/(p* + q) = sqrt(p* q) / (2 cosh(R (x - R/2)/2)), sqrt(p* q) = e^{-R^2/8}
    N(x; R/2, 1) and int du / (2 cosh(R u/2)) = pi/R; the bump narrows to R/2, where x^2 = R^2/4.
    """
    return math.sqrt(2.0 * math.pi) / 8.0 * distance * math.exp(-(distance**2) / 8.0)


@register("claim", "energy/landscape", LandscapeConfig)
def landscape(config: LandscapeConfig, context: Context) -> Report:
    """Loss and gradient between noise and data: NCE flat, eNCE exponential, the likelihood evenly curved."""
    context.out.mkdir(parents=True, exist_ok=True)
    paths = {
        (R, name): measure(name, line(R), config.points) for R in dict.fromkeys((*config.distances, config.shown))
        for name in NAMES
    }  # fmt: skip
    context.say(f"measured {len(paths)} paths")
    shown = {name: paths[config.shown, name] for name in NAMES}
    conditions = {name: [paths[R, name].path_condition for R in config.distances] for name in NAMES}
    plots = [
        landscape_plots.paths(context.out, config.shown, shown, config.distances, conditions),
        landscape_plots.slices(context.out, config.shown, config.pixels, evaluate),
    ]
    return Report(
        claim="What do NCE, eNCE and the likelihood look like on the way from the noise law to the data?",
        answer=_answer(config, paths),
        tables=_tables(config, paths),
        bars=_bars(config, paths),
        plots=plots,
        numbers={f"R={R:g}, {name}": _numbers(path) for (R, name), path in paths.items()},
    )


def _numbers(path: Path) -> Any:
    names = ("flat", "path_condition", "end_condition")
    ends = {
        "gradient_at_q": path.size[0],
        "largest_at_p": path.largest[-1],
        "smallest_at_p": path.smallest[-1],
        "largest_on_path": path.largest.max(),
    }
    return plain({**{name: getattr(path, name) for name in names}, **ends})


Paths = dict[tuple[float, str], Path]


def _tables(config: LandscapeConfig, paths: Paths) -> list[Table]:
    exact = "By quadrature: no seeds, no interval. Noise N(0, 1), data N(R, 1), parameters (mean, log Z)."
    titles = {
        "flat": (
            "Smallest gradient on the first nine tenths of the way, relative to the gradient at q",
            "The likelihood's falls in proportion to the distance that is left: 0.1 is its value at nine tenths.",
        ),
        "path_condition": (
            "Condition number of the path: largest curvature on the way / smallest at p*",
            "The order of the iterations of plain descent with a stable step.",
        ),
        "end_condition": (
            "Condition number at p*",
            "Of the Hessian in (mean, log Z); the likelihood has the mean alone.",
        ),
    }
    return [
        Table(
            title,
            ("R", *NAMES),
            [(f"{R:g}", *(_short(getattr(paths[R, name], key)) for name in NAMES)) for R in config.distances],
            f"{note} {exact}",
        )
        for key, (title, note) in titles.items()
    ]


def _short(value: float) -> str:
    return f"{value:.3f}" if 0.01 <= value < 1000 else f"{value:.1e}"


def _bars(config: LandscapeConfig, paths: Paths) -> list[Bar]:
    far, near = config.distances[-1], [R for R in config.distances if R <= 1.0]
    worst = max(paths[R, "likelihood"].path_condition for R in config.distances)
    bars = [Bar("likelihood, condition number of the path, all R", "<= 1.01", f"{worst:.4f}", worst <= 1.01)]
    if far >= 8.0:
        ratio = float(paths[far, "NCE"].largest[-1]) / nce_curvature(far)
        what = f"NCE, largest curvature at p*, R = {far:g}"
        bars.append(Bar(what, "within 5% of sqrt(2 pi)/8 R exp(-R^2/8)", f"ratio {ratio:.3f}", abs(ratio - 1) <= 0.05))
        flat, log_flat = paths[far, "NCE"].flat, paths[far, "log eNCE"].flat
        bars.append(Bar(f"NCE, smallest relative gradient, R = {far:g}", "<= 1e-3 (flat)", _short(flat), flat <= 1e-3))
        what = f"log eNCE, smallest relative gradient, R = {far:g}"
        bars.append(Bar(what, ">= 0.05 (nowhere flat)", _short(log_flat), log_flat >= 0.05))
    if near:
        easy = max(paths[R, name].path_condition for R in near for name in NAMES)
        what = f"control, condition number of the path, R = {', '.join(f'{R:g}' for R in near)}, all losses"
        bars.append(Bar(what, "<= 10 (all easy)", f"at most {easy:.2f}", easy <= 10))
    return bars


def _answer(config: LandscapeConfig, paths: Paths) -> str:
    far = config.distances[-1]
    nce, ence, log_ence, like = (paths[far, n] for n in ("NCE", "eNCE", "log eNCE", "likelihood"))
    easy = [R for R in config.distances if max(paths[R, name].path_condition for name in NAMES) <= 10.0]
    words = (
        f"At R = {far:g} NCE's gradient falls to {_short(nce.flat)} of its size at q before p* is near, "
        f"log eNCE's to {_short(log_ence.flat)}, the likelihood's to {_short(like.flat)}, which is no more than the "
        f"distance left. The condition number of the path is {_short(nce.path_condition)} for NCE, "
        f"{_short(ence.path_condition)} for eNCE and {_short(like.path_condition)} for the likelihood: the exponential "
        f"loss alone is no cure. Its logarithm has {_short(log_ence.path_condition)}, and the normalised step follows "
        "the logarithm's direction (gaussian-mean counts its iterations). The condition number at p* alone, "
        f"{_short(nce.end_condition)} for NCE and {_short(log_ence.end_condition)} for eNCE, would not tell flat from "
        "steep. "
    )
    control = f"All losses are easy (at most 10) at R = {', '.join(f'{R:g}' for R in easy)}." if easy else ""
    return words + (control or "At no distance measured are all losses easy (at most 10).")
