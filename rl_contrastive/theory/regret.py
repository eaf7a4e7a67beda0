"""Claim: the regret of optimistic low-rank learning grows no faster than sqrt(K).

The log-log slope of the exact cumulative regret over the last 90% of the episodes has to be <= .55. It may be far lower
(gaps make regret logarithmic), so no lower end is asked for. Uniform exploration is the control: slope 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.experiment.panels import colour, draw, words
from rl_contrastive.experiment.statistics import Interval, slope_interval
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray
from rl_contrastive.theory.training import column, known, run, settings
from rl_contrastive.theory.verdict import Verdict

SLOPE = 0.55


@dataclass(frozen=True)
class RegretConfig:
    """Sizes of the measurement."""

    agents: tuple[str, ...] = ("contrastive-ucb", "lsvi-ucb", "ucbvi")
    """The learner, the ceiling that knows the features, and counts without features (shown, not judged)."""
    judged: tuple[str, ...] = ("contrastive-ucb", "lsvi-ucb")
    """Agents the claim is about."""
    num_states: int = 50
    """S."""
    num_actions: int = 5
    """A."""
    horizon: int = 5
    """H."""
    rank: int = 3
    """d."""
    episodes: int = 10000
    """K."""
    mdps: int = 5
    """MDPs of each agent."""
    seed: int = 100
    """The first of their seeds (>= 0), apart from those any constant was chosen on."""

    @classmethod
    def quick(cls) -> RegretConfig:
        """Seconds."""
        return cls(num_states=20, num_actions=4, episodes=3000, mdps=2)

    def __post_init__(self) -> None:
        require(self.mdps >= 1 and self.episodes >= 100, "regret-slope: mdps >= 1 and episodes >= 100 are needed.")


@register("experiment", "regret-slope", RegretConfig)
def regret_slope(config: RegretConfig, *, out: Path) -> Verdict:
    """Log-log regret slope <= .55 of optimistic learners, 1 of uniform exploration."""
    agents, missing = known(config.agents)
    judged = [agent for agent in config.judged if agent in agents]
    require(len(judged) > 0, f"regret-slope: none of the agents {', '.join(config.judged)} is registered.")
    curves = {agent: _curves(config, agent) for agent in [*agents, "uniform"]}
    slopes: dict[str, Interval] = {}
    for agent, (episodes, regret, _) in curves.items():
        tail = episodes >= 0.1 * config.episodes
        slopes[agent] = slope_interval(episodes[tail], regret[:, tail])
    gaps = {agent: float(gap.mean()) for agent, (_, _, gap) in curves.items()}

    def paint(axis: Any) -> None:
        for i, (agent, (episodes, regret, _)) in enumerate(curves.items()):
            look = {"color": "#888888", "linestyle": "--"} if agent == "uniform" else {"color": colour(i)}
            axis.loglog(episodes, regret.T, linewidth=0.8, alpha=0.35, **look)
            axis.loglog(episodes, regret.mean(axis=0), label=f"{agent}: {slopes[agent].estimate:.2f}", **look)
        axis.set(xlabel="episodes", ylabel="exact cumulative regret")

    listed = "; ".join(f"{agent} {words(slopes[agent])}, last gap {gaps[agent]:.4f}" for agent in agents)
    note = f" (not registered: {', '.join(missing)})" if missing else ""
    uniform = slopes["uniform"]
    return Verdict(
        name="regret-slope",
        claim="Regret(K) = O(sqrt(K)) up to logarithms (Qiu et al. 2022; Jin et al. 2020, Theorem 3.1)",
        measurement=f"log-log slopes over the last 90% of K={config.episodes}: {listed}{note}",
        expected=f"slope <= {SLOPE} for {' and '.join(judged)}",
        passed=all(slopes[agent].estimate <= SLOPE for agent in judged),
        control=f"uniform exploration: slope {words(uniform)} (must be in [.95, 1.05])",
        control_passed=0.95 <= uniform.estimate <= 1.05,
        numbers={"slopes": slopes, "last_gap": gaps, "missing": missing,
                 "final_regret": {a: r[:, -1] for a, (_, r, _) in curves.items()}},
        plot=draw(out, "regret-slope", {"Regret and its log-log slope": paint},
                  f"Random low-rank MDPs, S={config.num_states}, A={config.num_actions}, H={config.horizon}, "
                  f"d={config.rank}; thin: {config.mdps} MDPs, thick: mean."),
    )  # fmt: skip


def _curves(config: RegretConfig, agent: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """episodes (T,), regret (mdps, T) and the last gap (mdps,) of the bonus-free policy."""
    sizes = {"num_states": config.num_states, "num_actions": config.num_actions}
    sizes |= {"horizon": config.horizon, "rank": config.rank}
    results = [
        run(
            agent, "low-rank", agent_config=settings(agent, rank=config.rank, horizon=config.horizon),
            env_config={**sizes, "mdp_seed": config.seed + m}, seed=m,
            episodes=config.episodes, eval_every=max(10, config.episodes // 100), eval_episodes=1, exact="always",
        )
        for m in range(config.mdps)
    ]  # fmt: skip
    regret = np.stack([column(result, "regret") for result in results])
    gaps = np.array([column(result, "gap")[-1] for result in results])
    return column(results[0], "episodes"), regret, gaps
