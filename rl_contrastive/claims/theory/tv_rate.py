"""Claim: the total variation of the learned P-hat falls as n^-1/2 in samples a pair, and does not grow with S.

Rank-d contrastive features pool all pairs, so the error at fixed n a pair is that of d directions. Raw frequencies have
S free numbers a pair: their error grows with S. Shuffled successors leave nothing to learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, counts_on, draw, rng_of, ticks_at, words
from rl_contrastive.analysis.slopes import slope_interval
from rl_contrastive.claims.base import Bar, Context, Report, control
from rl_contrastive.claims.theory.sampling import (
    draw_counts,
    mean_tv,
    model_tv,
    one_step_model,
    shuffled,
    sparse_counts,
)
from rl_contrastive.config import Ge, Options, require
from rl_contrastive.features.spectral import fit_tabular
from rl_contrastive.registry import register

SLOPES = (-0.6, -0.4)
GROWTH = 1.5
"""TV at the largest S over TV at the smallest S, at the same n a pair, may be at most this."""


@dataclass(frozen=True)
class TvRateConfig(Options, where="tv-rate"):
    """Sizes of the measurement."""

    num_states: tuple[int, ...] = (50, 200, 1000)
    """S, ascending."""
    per_pair: tuple[int, ...] = (16, 64, 256)
    """n, samples of each (s, a)."""
    num_actions: int = 5
    """A."""
    rank: int = 3
    """d, of the MDP and of the fit."""
    mdps: int = 5
    """Number of MDPs."""
    seed: Annotated[int, Ge(0)] = 0
    """The first of their seeds, and the seed of the data."""

    @classmethod
    def quick(cls) -> TvRateConfig:
        """Seconds."""
        return cls(num_states=(40, 160), per_pair=(32, 128, 512), num_actions=3, mdps=3)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.num_states) >= 2 and len(self.per_pair) >= 2, "tv-rate: give at least two S and two n.")
        require(self.mdps >= 1, f"tv-rate: mdps must be >= 1, got {self.mdps}.")


@register("claim", "theory/tv-rate", TvRateConfig)
def tv_rate(config: TvRateConfig, context: Context) -> Report:
    """TV of P-hat falls as n^-1/2 and not with S."""
    n = np.array(config.per_pair, dtype=np.float64)
    shape = (len(config.num_states), config.mdps, len(n))
    tv, raw, lost = np.empty(shape), np.empty(shape), np.empty((config.mdps, len(n)))
    for i, S in enumerate(context.each("S", config.num_states)):
        for m in range(config.mdps):
            P = one_step_model(S, config.num_actions, config.rank, config.seed + m).P[0]  # (S, A, S)
            for j, count in enumerate(config.per_pair):
                rng = rng_of(config.seed, i, m, j)
                counts = draw_counts(P, count, rng=rng)
                tv[i, m, j] = model_tv(fit_tabular(sparse_counts(counts), config.rank).features, P)
                raw[i, m, j] = mean_tv(counts[0] / count, P)
                if i == 0:
                    fit = fit_tabular(sparse_counts(shuffled(counts, rng=rng)), config.rank)
                    lost[m, j] = model_tv(fit.features, P)
    slopes = [slope_interval(n, tv[i]) for i in range(len(tv))]
    lost_slope = slope_interval(n, lost)
    growth = tv[-1].mean(axis=0) / tv[0].mean(axis=0)  # (n,)
    raw_growth = float(raw[-1, :, -1].mean() / raw[0, :, -1].mean())
    inside = all(SLOPES[0] <= s.estimate <= SLOPES[1] for s in slopes)
    per_size = "; ".join(f"S={S}: slope {words(s)}" for S, s in zip(config.num_states, slopes, strict=True))

    def paint(axis: Any) -> None:
        for i, S in enumerate(config.num_states):
            axis.loglog(n, tv[i].mean(axis=0), "o-", color=colour(i), label=f"S={S}, contrastive (spectral)")
            axis.loglog(n, raw[i].mean(axis=0), "s:", color=colour(i), alpha=0.6, label=f"S={S}, raw counts")
        axis.loglog(n, lost.mean(axis=0), "x--", color="#555555", label="shuffled successors")
        axis.set(xlabel="samples a pair n", ylabel="mean TV of P-hat")
        ticks_at(axis.xaxis, config.per_pair)
        counts_on(axis.yaxis)

    return Report(
        claim="TV(P-hat, P) = O(sqrt(1/n)) with a constant of d, not of S (Qiu et al. 2022)",
        bars=[
            Bar("the claim", f"slopes in [{SLOPES[0]}, {SLOPES[1]}]; ratio <= {GROWTH} at each n",
                f"{per_size}; TV at S={config.num_states[-1]} over S={config.num_states[0]} at the same n: "
                f"{growth.min():.2f} to {growth.max():.2f}",
                inside and bool(growth.max() <= GROWTH)),
            control(f"raw frequencies grow {raw_growth:.1f}x with S (must be > {GROWTH}); shuffled successors have "
                    f"slope {words(lost_slope)} (must be > -0.2)",
                    failed=raw_growth > GROWTH and lost_slope.estimate > -0.2),
        ],
        plots=[draw(context.out, "tv-rate", {"Error of the learned model": paint},
                    f"A={config.num_actions}, d={config.rank}; mean over {config.mdps} MDPs; CI: 95%, Student's t.",
                    aside=True)],
        numbers={"n": n, "tv": tv, "tv_raw": raw, "tv_shuffled": lost, "slopes": slopes, "growth": growth},
    )  # fmt: skip
