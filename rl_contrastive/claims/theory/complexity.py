"""Claim: episodes needed grow polynomially in the horizon H, the number of actions A and the rank d.

H and A on the combination lock (`contrastive-frontier`, episodes to solve), d on random low-rank MDPs
(`contrastive-ucb`, and `lsvi-ucb` on the true features: episodes until the exact gap stays small). Uniform actions are
the control: they open the lock once in A^H episodes, an exponential in H, measured by playing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, counts_on, draw, rng_of, ticks_at, words
from rl_contrastive.analysis.slopes import power_fit
from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.claims.base import Bar, Context, Report, control
from rl_contrastive.claims.theory.training import column, known, run, settings
from rl_contrastive.config import Ge, Options, from_dict, require
from rl_contrastive.registry import get, register
from rl_contrastive.spec import FloatArray

EXPONENT = 3.0
"""Largest exponent that counts as measured polynomial growth."""
LOCK_AGENT = "contrastive-frontier"
NEAR = 0.02
"""On low-rank MDPs: episodes until the gap of the bonus-free policy stays below this share of V*."""


@dataclass(frozen=True)
class ComplexityConfig(Options, where="sample-complexity"):
    """Sizes of the measurement."""

    horizons: tuple[int, ...] = (5, 10, 20, 40)
    """H on the lock, with A = 10."""
    actions: tuple[int, ...] = (4, 8, 16)
    """A on the lock, with H = 10."""
    ranks: tuple[int, ...] = (2, 4, 8)
    """d on random low-rank MDPs with S=50, A=5, H=5."""
    rank_agents: tuple[str, ...] = ("contrastive-ucb", "lsvi-ucb")
    """Agents measured against d."""
    seeds: int = 5
    """Runs of each cell, each with its own lock or MDP."""
    seed: Annotated[int, Ge(0)] = 100
    """The first of their seeds, of the run and of its lock or MDP alike."""
    episodes: int = 20000
    """Cap of a lock run; unsolved runs count at it."""
    rank_episodes: int = 6000
    """Cap of a low-rank run."""
    uniform_actions: int = 3
    """A of the control."""
    uniform_horizons: tuple[int, ...] = (2, 3, 4, 5)
    """H of the control."""
    uniform_episodes: int = 40000
    """Episodes the control plays at each H."""

    @classmethod
    def quick(cls) -> ComplexityConfig:
        """Seconds."""
        return cls(
            horizons=(4, 8),
            actions=(4, 8),
            ranks=(2, 4),
            seeds=2,
            episodes=4000,
            rank_agents=("lsvi-ucb",),
            rank_episodes=600,
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("horizons", "actions", "ranks", "uniform_horizons"):
            require(len(getattr(self, name)) >= 2, f"sample-complexity: {name} needs at least two sizes.")
        require(self.seeds >= 1, f"sample-complexity: seeds must be >= 1, got {self.seeds}.")


@register("claim", "theory/sample-complexity", ComplexityConfig)
def sample_complexity(config: ComplexityConfig, context: Context) -> Report:
    """Episodes grow polynomially in H, A and d; uniform exploration needs A^H."""
    agents, missing = known((LOCK_AGENT, *config.rank_agents))
    cells: dict[str, tuple[Sequence[int], list[FloatArray]]] = {}
    if LOCK_AGENT in agents:
        cells["H"] = config.horizons, [_lock(config, H, 10) for H in context.each("H", config.horizons)]
        cells["A"] = config.actions, [_lock(config, 10, A) for A in context.each("A", config.actions)]
    for agent in config.rank_agents:
        if agent in agents:
            ranks = context.each(f"{agent}, d", config.ranks)
            cells[f"d ({agent})"] = config.ranks, [_low_rank(config, agent, d) for d in ranks]
    require(len(cells) > 0, "sample-complexity: none of its agents is registered.")
    fits = {
        name: power_fit(np.array(sizes, dtype=np.float64), runs, rng=rng_of(0)) for name, (sizes, runs) in cells.items()
    }
    caps = {name: config.rank_episodes if name.startswith("d") else config.episodes for name in cells}
    unsolved = sum(int((np.array(runs) >= caps[name]).sum()) for name, (_, runs) in cells.items())
    chance = np.array([_uniform_success(config, H) for H in config.uniform_horizons])
    growth = float(np.exp(np.polyfit(config.uniform_horizons, -np.log(chance), 1)[0]))
    listed = "; ".join(f"in {name}: {words(fit)}" for name, fit in fits.items())
    note = f" (not registered: {', '.join(missing)})" if missing else ""
    A = config.uniform_actions
    return Report(
        claim="episodes to a near-optimal policy are polynomial in H, A and d (Qiu et al. 2022)",
        bars=[
            Bar("the claim", f"each exponent <= {EXPONENT:g}, no unsolved run",
                f"exponents p of episodes ~ size^p: {listed}; {unsolved} runs unsolved at the cap{note}",
                all(fit.estimate <= EXPONENT for fit in fits.values()) and unsolved == 0),
            control(f"uniform actions: episodes to open the lock grow {growth:.2f}x a step "
                    f"(must be within 15% of A = {A})",
                    failed=abs(growth / A - 1.0) <= 0.15),
        ],
        plots=[draw(context.out, "sample-complexity", _panels(config, cells, fits, chance),
                    f"Dots: {config.seeds} runs a cell; line: median; p with 95% CI (bootstrap); "
                    "unsolved at the cap.")],
        numbers={"cells": {name: {"sizes": sizes, "episodes": runs} for name, (sizes, runs) in cells.items()},
                 "exponents": fits, "unsolved": unsolved, "uniform_success": chance, "missing": missing},
    )  # fmt: skip


def _lock(config: ComplexityConfig, horizon: int, num_actions: int) -> FloatArray:
    """Episodes to solve the lock (seeds,), the cap where unsolved."""
    counts = []
    for seed in range(config.seed, config.seed + config.seeds):
        env_config = {"horizon": horizon, "num_actions": num_actions, "lock_seed": seed}
        result = run(
            LOCK_AGENT, "combination-lock", agent_config={}, env_config=env_config, seed=seed,
            episodes=config.episodes, eval_every=50, eval_episodes=200, stop_when_solved=True,
        )  # fmt: skip
        counts.append(result.solved_at_episode or config.episodes)
    return np.array(counts, dtype=np.float64)


def _low_rank(config: ComplexityConfig, agent: str, rank: int) -> FloatArray:
    """Episodes (seeds,) after which the exact gap stays below NEAR V*, the cap where it does not."""
    counts = []
    for seed in range(config.seed, config.seed + config.seeds):
        result = run(
            agent, "low-rank", agent_config=settings(agent, horizon=5),
            env_config={"rank": rank, "mdp_seed": seed}, seed=seed,
            episodes=config.rank_episodes, eval_every=10, eval_episodes=1, exact="always",
        )  # fmt: skip
        gap, value, episodes = (column(result, key) for key in ("gap", "value", "episodes"))
        far = np.flatnonzero(gap > NEAR * (gap + value))  # gap + value = V*
        after = int(far[-1]) + 1 if len(far) else 0
        counts.append(episodes[after] if after < len(episodes) else config.rank_episodes)
    return np.array(counts, dtype=np.float64)


def _uniform_success(config: ComplexityConfig, horizon: int) -> float:
    """Share of episodes in which uniform actions open the lock (end with reward 1), by playing."""
    entry, _ = get("env", "combination-lock")
    sizes = {"horizon": horizon, "num_actions": config.uniform_actions, "anti_reward": 0.0, "lock_seed": config.seed}
    env = entry.factory(from_dict(entry.config, sizes), config.uniform_episodes)
    rng = rng_of(1, horizon)
    env.reset(seed=horizon)
    for _ in range(horizon):
        _, reward, _, _, _ = env.step(rng.integers(config.uniform_actions, size=config.uniform_episodes))
    opened = int((reward > 0).sum())
    require(opened > 0, f"sample-complexity: uniform actions never opened the lock of H={horizon}; play more episodes.")
    return opened / config.uniform_episodes


def _panels(
    config: ComplexityConfig,
    cells: dict[str, tuple[Sequence[int], list[FloatArray]]],
    fits: dict[str, Interval],
    chance: FloatArray,
) -> dict[str, Any]:
    def power(index: int, name: str) -> Any:
        sizes, runs = cells[name]

        def paint(axis: Any) -> None:
            for size, values in zip(sizes, runs, strict=True):
                axis.plot([size] * len(values), values, "o", color=colour(index), alpha=0.5, markersize=4)
            axis.loglog(sizes, [np.median(v) for v in runs], color=colour(index), label=f"p = {words(fits[name])}")
            counts_on(axis.yaxis)
            ticks_at(axis.xaxis, sizes)
            axis.set(xlabel=name, ylabel="episodes")

        return paint

    def control(axis: Any) -> None:
        H, A = np.array(config.uniform_horizons), config.uniform_actions
        axis.semilogy(H, 1.0 / chance, "o", color="#555555", label="uniform actions")
        axis.semilogy(H, float(A) ** H, color="#222222", linewidth=1, label=f"A^H, A={A}")
        counts_on(axis.yaxis)
        ticks_at(axis.xaxis, H)
        axis.set(xlabel="H", ylabel="episodes to open the lock once")

    panels: dict[str, Any] = {f"Episodes against {name}": power(i, name) for i, name in enumerate(cells)}
    return {**panels, "Control": control}
