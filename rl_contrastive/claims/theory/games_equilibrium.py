"""Claim: a CCE of the optimistic pair certifies its own marginals, whatever the true game between the two is.

For payoffs L <= M <= U and a CCE sigma of (U, L) with marginals mu, nu, two lines (after Xie et al. 2020):

    max_a (M nu)_a <= max_a (U nu)_a <= E_sigma U,        min_b (mu'M)_b >= min_b (mu'L)_b >= E_sigma L,

so that E_sigma L <= val(M) <= E_sigma U, and the duality gap of (mu, nu) in M is at most E_sigma[U - L]. It needs that
no deviation gains: the cell with the best payoffs, or any other joint distribution, has no such certificate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_contrastive.analysis.figures import colour, draw, rng_of
from rl_contrastive.claims.base import Bar, Context, Report, control
from rl_contrastive.config import require
from rl_contrastive.planning.equilibrium import cce, nash, nash_gap
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

TOLERANCE = 1e-9
"""Rounding of the linear programmes; payoffs are of order 1."""


@dataclass(frozen=True)
class GamesEquilibriumConfig:
    """Sizes of the measurement."""

    actions: tuple[int, ...] = (2, 3, 5, 10)
    """A = B."""
    widths: tuple[float, ...] = (0.0, 0.1, 0.5, 2.0)
    """Largest distances of U and of L from M (each >= 0), whose payoffs lie between 0 and 1."""
    games: int = 2000
    """Games of each size, width and kind (payoffs uniform, payoffs tied in {0, 1/2, 1})."""
    seed: int = 0
    """Seed of the games."""

    @classmethod
    def quick(cls) -> GamesEquilibriumConfig:
        """Seconds."""
        return cls(actions=(2, 4), widths=(0.0, 0.3), games=300)

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"games-equilibrium: seed must be >= 0, got {self.seed}.")
        require(self.games >= 1, f"games-equilibrium: games must be >= 1, got {self.games}.")
        require(min(self.actions) >= 2, "games-equilibrium: actions must be >= 2, or there is nothing to play.")
        require(min(self.widths) >= 0, "games-equilibrium: widths must be >= 0.")


@register("claim", "theory/games-equilibrium", GamesEquilibriumConfig)
def games_equilibrium(config: GamesEquilibriumConfig, context: Context) -> Report:
    """E_sigma[U - L] of a CCE bounds the duality gap of its marginals in every game between L and U."""
    rules = {"CCE": _solve, "best cell": _best_cell, "arbitrary": _arbitrary}
    excess = dict.fromkeys(rules, -np.inf)
    outside = dict.fromkeys(rules, -np.inf)
    above: dict[str, list[float]] = {rule: [] for rule in rules}
    shown: dict[str, tuple[FloatArray, FloatArray]] = {}
    solved, drawn = 0, config.widths[min(1, len(config.widths) - 1)]
    for i, A in enumerate(context.each("A", config.actions)):
        for j, width in enumerate(config.widths):
            for tied in (False, True):
                rng = rng_of(config.seed, i, j, int(tied))
                U, M, L = _games(config.games, A, width, tied, rng)
                solved += config.games
                for rule, choose in rules.items():
                    sigma = choose(U, L, rng)
                    gap, bound, beyond = _certified(U, M, L, sigma)
                    excess[rule] = max(excess[rule], float((gap - bound).max()))
                    outside[rule] = max(outside[rule], float(beyond.max()))
                    above[rule].append(float((gap > bound + TOLERANCE).mean()))
                    if (A, width, tied) == (config.actions[-1], drawn, False):
                        shown[rule] = bound[:500], gap[:500]

    def paint(axis: Any) -> None:
        top = max(float(bound.max()) for bound, _ in shown.values())
        axis.plot([0, top], [0, top], color="#222222", linewidth=0.9, label="gap = E[U - L]")
        for k, (rule, (bound, gap)) in enumerate(shown.items()):
            axis.plot(bound, gap, "." if rule == "CCE" else "x", color=colour(k), markersize=3, label=rule)
        axis.set(xlabel="E_σ[U − L]", ylabel="duality gap in M")

    shares = {rule: float(np.mean(above[rule])) for rule in rules}
    lost = {rule: shares[rule] for rule in rules if rule != "CCE"}
    return Report(
        claim="L <= M <= U, sigma a CCE of (U, L): E_sigma L <= val(M) <= E_sigma U, gap_M(mu, nu) <= E_sigma[U - L]",
        bars=[
            Bar("the claim", f"both at most {TOLERANCE:.0e}",
                f"{solved} pairs (U, L), tied ones among them: largest gap - E[U - L] {excess['CCE']:.1e}, "
                f"largest distance of val(M) outside [E L, E U] {max(outside['CCE'], 0.0):.1e}",
                excess["CCE"] <= TOLERANCE and outside["CCE"] <= TOLERANCE),
            control("the bound is broken by "
                    + " and ".join(f"{share:.0%} of the {rule} distributions" for rule, share in lost.items())
                    + " (must be > 10% each)",
                    failed=all(share > 0.1 for share in lost.values())),
        ],
        plots=[draw(context.out, "games-equilibrium", {"Certificate and gap": paint},
                    f"A = B = {config.actions[-1]}, U and L up to {drawn:g} from M; one mark a game.")],
        numbers={"excess": excess, "outside": outside, "share_above": shares, "pairs": solved},
    )  # fmt: skip


def _games(N: int, A: int, width: float, tied: bool, rng: np.random.Generator) -> tuple[FloatArray, ...]:
    """U >= M >= L (N, A, A)."""
    M = rng.integers(0, 3, (N, A, A)) / 2 if tied else rng.random((N, A, A))
    return M + width * rng.random(M.shape), M, M - width * rng.random(M.shape)


def _certified(U: FloatArray, M: FloatArray, L: FloatArray, sigma: FloatArray) -> tuple[FloatArray, ...]:
    """Duality gap of sigma's marginals in M, E_sigma[U - L], and how far val(M) is outside [E L, E U]; (N,) each."""
    high, low = (sigma * U).sum(axis=(1, 2)), (sigma * L).sum(axis=(1, 2))
    value = nash(M).value
    return nash_gap(M, sigma.sum(axis=2), sigma.sum(axis=1)), high - low, np.maximum(value - high, low - value)


Rule = Callable[[FloatArray, FloatArray, np.random.Generator], FloatArray]


def _solve(U: FloatArray, L: FloatArray, rng: np.random.Generator) -> FloatArray:
    return cce(U, L).sigma


def _best_cell(U: FloatArray, L: FloatArray, rng: np.random.Generator) -> FloatArray:
    """All weight on the cell of the largest U: what optimism of one player alone would choose."""
    N, A, B = U.shape
    return np.asarray(np.eye(A * B)[U.reshape(N, -1).argmax(axis=1)].reshape(N, A, B))


def _arbitrary(U: FloatArray, L: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Any distribution: Dirichlet(1) over the cells."""
    N, A, B = U.shape
    return rng.dirichlet(np.ones(A * B), size=N).reshape(N, A, B)
