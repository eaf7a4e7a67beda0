"""Claim: optimistic low-rank learning loses no faster than sqrt(K), in what it plays and in the plans it makes.

Two quantities, never mixed. The regret is of the episodes as they are played: its log-log slope over the last 90% of
the episodes has to be <= .55 for the learner that acts by its plans (roll_in on-policy) and for the ceiling. The
theorem of Qiu et al. is about the average sub-optimality of the optimistic policies pi_k, whatever the episodes do for
the features' sake: under the paper's own roll-in, whose uniform actions cost a constant share, its slope has to be
<= -.45. Either may fall far faster (gaps make regret logarithmic). Uniform exploration is the control: slopes 1 and 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, draw, words
from rl_contrastive.analysis.slopes import slope_interval
from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.claims.base import Bar, Context, Report, control
from rl_contrastive.claims.theory.training import column, known, run, settings
from rl_contrastive.config import Ge, Options, require
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

SLOPE = 0.55
ON_POLICY, PAPER = "contrastive-ucb, on-policy", "contrastive-ucb, paper's roll-in"
"""Labels of the learner that acts by its plans to the end, and of the one that acts uniformly at two steps."""


@dataclass(frozen=True)
class RegretConfig(Options, where="regret-slope"):
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
    seed: Annotated[int, Ge(0)] = 100
    """The first of their seeds, apart from those any constant was chosen on."""

    @classmethod
    def quick(cls) -> RegretConfig:
        """Seconds."""
        return cls(num_states=20, num_actions=4, episodes=3000, mdps=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.mdps >= 1 and self.episodes >= 100, "regret-slope: mdps >= 1 and episodes >= 100 are needed.")


@dataclass(frozen=True)
class Curves:
    """Of one agent: episodes (T,), regret and sub-optimality (mdps, T), last gap (mdps,)."""

    episodes: FloatArray
    regret: FloatArray
    suboptimality: FloatArray
    gap: FloatArray

    def slope(self, of: FloatArray) -> Interval:
        """Log-log slope over the last 90% of the episodes."""
        tail = self.episodes >= 0.1 * self.episodes[-1]
        return slope_interval(self.episodes[tail], of[:, tail])


@register("claim", "theory/regret-slope", RegretConfig)
def regret_slope(config: RegretConfig, context: Context) -> Report:
    """Log-log slopes of optimistic learners: played regret <= .55, average sub-optimality <= -.45 under any roll-in."""
    agents, missing = known(config.agents)
    judged = [agent for agent in config.judged if agent in agents]
    require(len(judged) > 0, f"regret-slope: none of the agents {', '.join(config.judged)} is registered.")
    label = {"contrastive-ucb": ON_POLICY}
    judged = [label.get(agent, agent) for agent in judged]
    names = [*(label.get(a, a) for a in agents), *([PAPER] if "contrastive-ucb" in agents else []), "uniform"]
    curves = {name: _curves(config, name) for name in context.each("agent", names)}
    regrets = {name: c.slope(c.regret) for name, c in curves.items()}
    averages = {name: c.slope(c.suboptimality) for name, c in curves.items()}
    gaps = {name: float(c.gap.mean()) for name, c in curves.items()}
    learned = [name for name in names if name.startswith("contrastive-ucb")]

    def paint(column: str, label: str, slopes: dict[str, Interval]) -> Any:
        def panel(axis: Any) -> None:
            for i, (name, c) in enumerate(curves.items()):
                look = {"color": "#888888", "linestyle": "--"} if name == "uniform" else {"color": colour(i)}
                values = getattr(c, column)
                axis.loglog(c.episodes, values.T, linewidth=0.8, alpha=0.35, **look)
                axis.loglog(c.episodes, values.mean(axis=0), label=f"{name}: {slopes[name].estimate:.2f}", **look)
            axis.set(xlabel="episodes", ylabel=label)

        return panel

    listed = "; ".join(f"{n} {words(regrets[n])}, last gap {gaps[n]:.4f}" for n in names if n != "uniform")
    means = "; ".join(f"{name} {words(averages[name])}" for name in learned)
    note = f" (not registered: {', '.join(missing)})" if missing else ""
    uniform = regrets["uniform"]
    panels = {
        "Regret of the episodes played": paint("regret", "exact regret", regrets),
        "Average sub-optimality of π_k": paint("suboptimality", "mean of V* − V of π_k", averages),
    }
    return Report(
        claim="Regret(K) = O(sqrt(K)) up to logarithms (Jin et al. 2020, Theorem 3.1); the average sub-optimality of "
        "pi_k is O(1/sqrt(K)) (Qiu et al. 2022)",
        bars=[
            Bar("the claim",
                f"regret <= {SLOPE} for {' and '.join(judged)}; average sub-optimality <= {SLOPE - 1:.2f} for "
                "each roll-in of contrastive-ucb",
                f"log-log slopes over the last 90% of K={config.episodes}, of the regret as played: {listed}; of "
                f"the average sub-optimality of pi_k: {means}{note}",
                all(regrets[agent].estimate <= SLOPE for agent in judged)
                and all(averages[name].estimate <= SLOPE - 1 for name in learned)),
            control(f"uniform exploration: slope of the regret {words(uniform)} (must be in [.95, 1.05])",
                    failed=0.95 <= uniform.estimate <= 1.05),
        ],
        plots=[draw(context.out, "regret-slope", panels,
                    f"Random low-rank MDPs, S={config.num_states}, A={config.num_actions}, H={config.horizon}, "
                    f"d={config.rank}; thin: {config.mdps} MDPs, thick: mean.")],
        numbers={"slopes": regrets, "suboptimality_slopes": averages, "last_gap": gaps, "missing": missing,
                 "final_regret": {name: c.regret[:, -1] for name, c in curves.items()},
                 "final_suboptimality": {name: c.suboptimality[:, -1] for name, c in curves.items()}},
    )  # fmt: skip


def _curves(config: RegretConfig, name: str) -> Curves:
    """Runs of one agent, one MDP each."""
    agent = "contrastive-ucb" if name in (ON_POLICY, PAPER) else name
    fields = settings(agent, horizon=config.horizon)
    if agent == "contrastive-ucb":
        fields |= {"roll_in": "paper" if name == PAPER else "on-policy"}
    sizes = {"num_states": config.num_states, "num_actions": config.num_actions}
    sizes |= {"horizon": config.horizon, "rank": config.rank}
    results = [
        run(
            agent, "low-rank", agent_config=fields, env_config={**sizes, "mdp_seed": config.seed + m}, seed=m,
            episodes=config.episodes, eval_every=max(10, config.episodes // 100), eval_episodes=1, exact="always",
        )
        for m in range(config.mdps)
    ]  # fmt: skip
    regret, suboptimality, gap = (
        np.stack([column(result, name) for result in results]) for name in ("regret", "suboptimality", "gap")
    )
    return Curves(column(results[0], "episodes"), regret, suboptimality, gap[:, -1])
