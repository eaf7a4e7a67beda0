"""Claim: with a bonus of the theory's size the planned value is optimistic, V^UCB_1 >= V*_1, all along training.

Measured at every evaluation as rho . (V^UCB_1 - V*_1). The control sets the bonus to 0: what is left are estimates that
err on both sides, and planning with them falls below V*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.claims.base import Bar, Context, Report, control
from rl_contrastive.claims.theory.training import column, known, run, settings
from rl_contrastive.config import Ge, Options, require
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

TOLERANCE = 1e-9
"""Rounding of a backward pass."""


@dataclass(frozen=True)
class OptimismConfig(Options, where="optimism"):
    """Sizes of the measurement."""

    agents: tuple[str, ...] = ("contrastive-ucb", "lsvi-ucb", "ucbvi")
    """Agents that report `optimism`."""
    c: float = 1.0
    """Bonus c H ||phi|| or c H / sqrt(N). The theory's c is larger: d sqrt(log) for features, 7 log for counts."""
    num_states: int = 20
    """S."""
    num_actions: int = 4
    """A."""
    horizon: int = 5
    """H."""
    rank: int = 3
    """d."""
    episodes: int = 2000
    """Episodes of each run."""
    mdps: int = 5
    """MDPs of each agent."""
    seed: Annotated[int, Ge(0)] = 100
    """The first of their seeds."""

    @classmethod
    def quick(cls) -> OptimismConfig:
        """Seconds."""
        return cls(episodes=300, mdps=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.c > 0 and self.mdps >= 1, "optimism: c > 0 and mdps >= 1 are needed.")


@register("claim", "theory/optimism", OptimismConfig)
def optimism(config: OptimismConfig, context: Context) -> Report:
    """V^UCB_1 >= V*_1 along training with a theory-size bonus, and not without a bonus."""
    agents, missing = known(config.agents)
    require(len(agents) > 0, f"optimism: none of the agents {', '.join(config.agents)} is registered.")
    with_bonus = {agent: _margins(config, agent, config.c) for agent in context.each("with a bonus, agent", agents)}
    without = {agent: _margins(config, agent, 0.0) for agent in context.each("without, agent", agents)}
    lowest = {agent: float(margin.min()) for agent, margin in with_bonus.items()}
    below = {agent: float((margin < -TOLERANCE).mean()) for agent, margin in without.items()}

    def paint(axis: Any) -> None:
        for i, agent in enumerate(agents):
            every = max(10, config.episodes // 40)
            episodes = config.episodes - every * np.arange(with_bonus[agent].shape[1])[::-1]
            axis.plot(episodes, with_bonus[agent].T, color=colour(i), linewidth=1, alpha=0.8)
            axis.plot(episodes, without[agent].T, color=colour(i), linewidth=1, linestyle=(0, (2, 1.5)), alpha=0.8)
            axis.plot([], [], color=colour(i), label=agent)
        axis.plot([], [], color="#555555", linestyle=(0, (2, 1.5)), label="control: no bonus")
        axis.axhline(0, color="#222222", linewidth=0.9)
        axis.set(xlabel="episodes", ylabel="ρ · (V^UCB − V*)")

    listed = ", ".join(f"{agent} {value:.3g}" for agent, value in lowest.items())
    shares = ", ".join(f"{agent} {share:.0%}" for agent, share in below.items())
    note = f" (not registered: {', '.join(missing)})" if missing else ""
    return Report(
        claim="V^UCB_1 >= V*_1 with high probability (Qiu et al. 2022; Jin et al. 2020, Lemma B.5)",
        bars=[
            Bar("the claim", "no value below 0 at any evaluation",
                f"smallest rho.(V^UCB - V*) over {config.mdps} MDPs and all evaluations: {listed}{note}",
                all(value >= -TOLERANCE for value in lowest.values())),
            control(f"with bonus 0 the plan is below V* at {shares} of the evaluations (must be > 0 for each)",
                    failed=all(share > 0 for share in below.values())),
        ],
        plots=[draw(context.out, "optimism", {"Optimism along training": paint},
                    f"Random low-rank MDPs, S={config.num_states}, A={config.num_actions}, H={config.horizon}, "
                    f"d={config.rank}; one line a run; c={config.c:g}.")],
        numbers={"lowest": lowest, "below_without_bonus": below, "missing": missing},
    )  # fmt: skip


def _margins(config: OptimismConfig, agent: str, c: float) -> FloatArray:
    """rho . (V^UCB - V*) (mdps, T) at each evaluation of each run."""
    sizes = {"num_states": config.num_states, "num_actions": config.num_actions}
    sizes |= {"horizon": config.horizon, "rank": config.rank}
    rows = []
    for m in range(config.mdps):
        result = run(
            agent, "low-rank", agent_config=settings(agent, horizon=config.horizon, c=c),
            env_config={**sizes, "mdp_seed": config.seed + m}, seed=m,
            episodes=config.episodes, eval_every=max(10, config.episodes // 40), eval_episodes=1, exact="always",
        )  # fmt: skip
        rows.append(column(result, "optimism"))
    return np.stack(rows)
