"""Claim: DuelLock's Nash value is its closed form, and only the forward feature tells its live latents apart.

    V_h(live) = kappa + (1 - delta)^(H-h) (1 - kappa),  reached by probability 1/2 on each key and on each block.

Both live latents are reached alike: P_h = phi_h psi_h' has rank 2 and psi_h(live 0) = psi_h(live 1). So an embedding of
the next state (what preceded it) cannot decode them, and phi_h(s, ., .) (what follows each action) can. Measured on
symbols: each latent shows one of m symbols, whose latent is guessed from the nearest other symbol in the features.
The control is a lock whose first key leads mostly to live 0 and whose second key to live 1: there psi must see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, draw, rng_of
from rl_contrastive.claims.base import Bar, Context, Report, control
from rl_contrastive.claims.theory.sampling import draw_counts, sparse_counts
from rl_contrastive.config import Ge, Options, from_dict, require
from rl_contrastive.features.spectral import fit_tabular
from rl_contrastive.planning.games import duality_gap, nash_values
from rl_contrastive.registry import get, register
from rl_contrastive.spec import FloatArray, IntArray

TOLERANCE = 1e-12
LIKE_CHANCE = 0.7
"""A guess between two classes that is right this often or less has seen nothing (chance: about a half)."""
TOLD_APART = 0.9
LEAN = 0.8
"""Control: probability that the first key leads to live 0 and the second to live 1."""


@dataclass(frozen=True)
class GamesLockConfig(Options, where="games-lock"):
    """Sizes of the measurement."""

    locks: tuple[tuple[int, int, float, float], ...] = (
        (3, 5, 0.1, 0.1), (5, 5, 0.1, 0.1), (8, 5, 0.05, 0.1), (10, 10, 0.05, 0.1), (20, 5, 0.03, 0.1),
        (6, 3, 0.25, 0.2),
    )  # fmt: skip
    """(H, n, delta, kappa) whose closed form is compared with backward induction."""
    num_actions: int = 5
    """n of the lock whose features are learned."""
    delta: float = 0.05
    """Its delta."""
    num_symbols: int = 10
    """m, symbols of each latent."""
    per_pair: int = 400
    """Samples of each symbol and joint action."""
    repeats: int = 10
    """Locks, each with data of its own."""
    seed: Annotated[int, Ge(0)] = 0
    """The first seed of the locks, and the seed of the data."""

    @classmethod
    def quick(cls) -> GamesLockConfig:
        """Seconds."""
        return cls(locks=((3, 5, 0.1, 0.1), (6, 3, 0.25, 0.2)), num_symbols=8, repeats=4)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.locks) >= 1, "games-lock: give at least one lock.")
        require(self.num_symbols >= 3, f"games-lock: num_symbols must be >= 3, got {self.num_symbols}.")
        require(self.repeats >= 1 and self.per_pair >= 1, "games-lock: repeats and per_pair must be >= 1.")


@register("claim", "theory/games-lock", GamesLockConfig)
def games_lock(config: GamesLockConfig, context: Context) -> Report:
    """DuelLock: closed-form Nash value; psi is blind to the live latent, phi is not."""
    values = [_values(*lock) for lock in context.each("lock", config.locks)]
    errors, losses, uniforms = zip(*values, strict=True)
    error, loss, uniform = max(errors), max(losses), min(uniforms)
    right = np.array([_accuracies(config, i) for i in context.each("repeat", range(config.repeats))])  # (repeats, 3)
    psi, phi, leaning = right.mean(axis=0)

    def paint(axis: Any) -> None:
        for k, column in enumerate(right.T):
            axis.plot(np.full(len(column), k), column, "o", fillstyle="none", color=colour(k))
        axis.axhline(0.5, color="#222222", linewidth=0.9, linestyle="--")
        axis.set_xticks(range(3), ["next state ψ", "forward φ", "ψ, leaning lock"])
        axis.set(ylim=(0, 1.05), ylabel="live latent guessed right")

    return Report(
        claim="V_h(live) = kappa + (1 - delta)^(H-h) (1 - kappa); psi_h(live 0) = psi_h(live 1), phi_h differs",
        bars=[
            Bar("the claim",
                f"both at most {TOLERANCE:.0e}; psi <= {LIKE_CHANCE:.0%} (chance 50%), phi >= {TOLD_APART:.0%}",
                f"{len(config.locks)} locks: largest |closed form - backward induction| {error:.1e}, gap of half "
                f"on each key and block {loss:.1e}; latent of a symbol guessed right from psi {psi:.0%}, "
                f"from phi {phi:.0%}",
                error <= TOLERANCE and loss <= TOLERANCE and psi <= LIKE_CHANCE and phi >= TOLD_APART),
            control(f"uniform play has gap {uniform:.2f} or more (must be > .1); where keys lean to one latent, psi "
                    f"guesses {leaning:.0%} (must be >= {TOLD_APART:.0%})",
                    failed=uniform > 0.1 and leaning >= TOLD_APART),
        ],
        plots=[draw(context.out, "games-lock", {"Latent of the nearest symbol": paint},
                    f"n={config.num_actions}, delta={config.delta:g}, {config.num_symbols} symbols a latent, "
                    f"{config.per_pair} samples a pair; one mark a lock.")],
        numbers={"value_error": error, "gap_of_halves": loss, "gap_of_uniform": uniform, "right_psi": right[:, 0],
                 "right_phi": right[:, 1], "right_psi_leaning": right[:, 2]},
    )  # fmt: skip


def _lock(**fields: Any) -> Any:
    entry, _ = get("env", "duel-lock")
    return entry.factory(from_dict(entry.config, fields, "duel-lock."), 1)


def _values(H: int, n: int, delta: float, kappa: float) -> tuple[float, float, float]:
    """|closed form - backward induction| over all h, the gap of the closed form's policies, the gap of uniform play."""
    lock = _lock(horizon=H, num_actions=n, delta=delta, kappa=kappa, observation="state")
    model = lock.exact()
    V, _ = nash_values(model.P, model.r, (n, n))
    steps = np.arange(H + 1)
    closed = np.where(steps < H, kappa + (1.0 - delta) ** (H - steps) * (1.0 - kappa), 0.0)
    error = np.abs(V[:, :2] - closed[:, None]).max()
    mu, nu = np.full((H, 3, 1, n), 1.0 / n), np.full((H, 3, 1, n), 1.0 / n)
    uniform = duality_gap(model, mu, nu).gap
    for policy, chosen in ((mu, lock.keys), (nu, lock.blocks)):  # (H, 2, 2) hidden actions
        policy[:, :2] = 0.0
        np.put_along_axis(policy[:, :2, 0], chosen, 0.5, axis=2)
    return float(error), abs(duality_gap(model, mu, nu).gap), float(uniform)


def _accuracies(config: GamesLockConfig, index: int) -> tuple[float, float, float]:
    """How often the latent is guessed right from psi, from phi, and from psi of the leaning lock."""
    n, m = config.num_actions, config.num_symbols
    fields = {"num_actions": n, "delta": config.delta, "num_symbols": m, "lock_seed": config.seed + index}
    lock = _lock(horizon=1, observation="symbols", **fields)
    latent = np.empty(3 * m, dtype=np.int64)
    latent[lock.symbols] = np.arange(3)[:, None]
    P = lock.exact().P[0]  # (3m, nn, 3m)
    guessed = []
    for k, (kernel, rank) in enumerate(((P, 2), (_leaning(P, lock.keys[0], latent, n), 3))):
        counts = draw_counts(kernel, config.per_pair, rng=rng_of(config.seed, index, k))
        features = fit_tabular(sparse_counts(counts), rank).features
        guessed.append(_nearest(features.psi_table[0], latent))
        if kernel is P:
            guessed.append(_nearest(features.phi_table[0].reshape(3 * m, -1), latent))
    return guessed[0], guessed[1], guessed[2]


def _leaning(P: FloatArray, keys: IntArray, latent: IntArray, n: int) -> FloatArray:
    """The same lock, but passing with key k_1 leads to live 0 with probability LEAN, with k_2 to live 1."""
    out, m = P.copy(), len(latent) // 3
    for z in (0, 1):
        for i in (0, 1):
            cells = np.ix_(np.flatnonzero(latent == z), keys[z, i] * n + np.arange(n))
            passed = P[cells][:, :, latent < 2].sum(axis=2, keepdims=True)  # (m, n, 1)
            share = np.where(latent == i, LEAN, 1.0 - LEAN) / m * (latent < 2)
            out[cells] = np.where(latent < 2, passed * share, P[cells])
    return out


def _nearest(features: FloatArray, latent: IntArray) -> float:
    """Share of live symbols whose nearest other live symbol shows the same latent; features (3m, k)."""
    live = np.flatnonzero(latent < 2)
    x = features[live]
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return float((latent[live[distance.argmin(axis=1)]] == latent[live]).mean())
