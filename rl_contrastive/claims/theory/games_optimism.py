"""Claim: V-bar_0 >= V*_0 >= V-under_0 with a bonus of the theory's size, and V-bar_0 - V-under_0 covers the true gap.

Measured on exact models all along training. With beta = H - h (the theory's order): rho . (V-bar - V*) and
rho . (V* - V-under) at every evaluation. With the default bonus, a tenth of that: of every plan, whether
V-bar_0 - V-under_0 is at least the duality gap of the marginals of its correlated equilibria, as a run records it (of
learned features with their misfit, since d is read off the data). The default keeps the second and not
always the first: on few data the ridge pulls both ends towards 0, and a small bonus does not make up for it. The
control sets the bonus to 0: the two ends then coincide, beside V*, and cover nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, counts_on, draw
from rl_contrastive.claims.base import Bar, Context, Report, control
from rl_contrastive.claims.theory.games_training import FIRST_GAME, columns, play
from rl_contrastive.config import Ge, Options, require
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

TOLERANCE = 1e-9
"""Rounding of a backward pass."""
COVERED = 0.99


@dataclass(frozen=True)
class GamesOptimismConfig(Options, where="games-optimism"):
    """Sizes of the measurement."""

    agents: tuple[str, ...] = ("contrastive-ucb-game", "lsvi-game")
    """Learned and true features."""
    theory: float = 1.0
    """Bonus of the theory's order: the agents' gamma or c, in units of the largest return to go."""
    num_states: int = 20
    """S."""
    num_actions: int = 3
    """A = B."""
    horizon: int = 5
    """H."""
    rank: int = 3
    """d."""
    episodes: int = 5000
    """K."""
    games: int = 5
    """Games of each agent."""
    seed: Annotated[int, Ge(0)] = FIRST_GAME
    """The first of their seeds."""

    @classmethod
    def quick(cls) -> GamesOptimismConfig:
        """Seconds."""
        return cls(num_states=10, episodes=600, games=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.games >= 1 and self.episodes >= 200, "games-optimism: games >= 1 and episodes >= 200 are needed.")
        require(len(self.agents) >= 1, "games-optimism: give at least one agent.")
        require(self.theory > 0, f"games-optimism: theory must be > 0, got {self.theory}.")


@dataclass(frozen=True)
class Measured:
    """Of one agent: (games, T) at the evaluations, and the share of all plans that are covered."""

    episodes: FloatArray
    optimism: FloatArray
    pessimism: FloatArray
    certificate: FloatArray
    gap: FloatArray
    covered: float

    @property
    def lowest(self) -> float:
        """Smallest of V-bar - V* and V* - V-under."""
        return float(min(self.optimism.min(), self.pessimism.min()))

    @property
    def outside(self) -> float:
        """Share of the evaluations at which V* is not between the two."""
        return float((np.minimum(self.optimism, self.pessimism) < -TOLERANCE).mean())

    def summary(self) -> dict[str, Any]:
        """For report.json."""
        shares = {"lowest": self.lowest, "outside": self.outside, "covered": self.covered}
        return {**shares, "last_certificate": self.certificate[:, -1], "last_gap": self.gap[:, -1]}


@register("claim", "theory/games-optimism", GamesOptimismConfig)
def games_optimism(config: GamesOptimismConfig, context: Context) -> Report:
    """V-bar >= V* >= V-under with the theory's bonus; V-bar - V-under covers the true gap with the default one."""
    theory = {
        agent: _measure(config, agent, config.theory) for agent in context.each("theory's bonus, agent", config.agents)
    }
    found = {agent: _measure(config, agent, None) for agent in context.each("default bonus, agent", config.agents)}
    without = {agent: _measure(config, agent, 0.0) for agent in context.each("no bonus, agent", config.agents)}

    def paint(axis: Any) -> None:
        for k, (agent, m) in enumerate(found.items()):
            axis.loglog(m.episodes, m.certificate.mean(axis=0), color=colour(k), label=f"{agent}: V̄ − V̲")
            axis.loglog(m.episodes, m.gap.mean(axis=0), ":", color=colour(k), label=f"{agent}: gap of σ's marginals")
        axis.set(xlabel="episodes", ylabel="mean over games")
        axis.set_ylim(top=30.0 * axis.get_ylim()[1])  # room for the legend
        counts_on(axis.xaxis)

    def sides(axis: Any) -> None:
        for k, (agent, m) in enumerate(theory.items()):
            axis.plot(m.episodes, m.optimism.T, color=colour(k), linewidth=0.8)
            axis.plot(m.episodes, -m.pessimism.T, color=colour(k), linewidth=0.8, linestyle="--")
            axis.plot(m.episodes, without[agent].optimism.T, color="#888888", linewidth=0.6)
            axis.plot([], [], color=colour(k), label=agent)
        axis.plot([], [], color="#888888", label="without bonus")
        axis.axhline(0, color="#222222", linewidth=0.9)
        axis.set(xlabel="episodes", ylabel="ρ · (V̄ − V*) and ρ · (V̲ − V*)")

    ends = ", ".join(f"{agent} {m.lowest:.3g} (default bonus {found[agent].lowest:.3g})" for agent, m in theory.items())
    shares = ", ".join(f"{agent} {m.covered:.1%}" for agent, m in found.items())
    lost = ", ".join(f"{agent} {m.outside:.0%} and {m.covered:.0%}" for agent, m in without.items())
    groups = {"theory_bonus": theory, "default_bonus": found, "without_bonus": without}
    optimistic = all(m.lowest >= -TOLERANCE for m in theory.values())
    return Report(
        claim="V-bar_0 >= V*_0 >= V-under_0, V-bar_0 - V-under_0 >= gap(mu, nu) w.h.p. (Qiu et al. 2022, Algorithm 2)",
        bars=[
            Bar("the claim",
                f"no end on the wrong side with bonus {config.theory:g}; at least {COVERED:.0%} of plans covered",
                f"{config.games} games: smallest of rho.(V-bar - V*) and rho.(V* - V-under) with bonus "
                f"{config.theory:g}: {ends}; plans covered with the default bonus: {shares}",
                optimistic and all(m.covered >= COVERED for m in found.values())),
            control(f"with bonus 0: V* outside [V-under, V-bar] and plans covered: {lost} (must be > 0% and < 50%)",
                    failed=all(m.outside > 0 and m.covered < 0.5 for m in without.values())),
        ],
        plots=[draw(context.out, "games-optimism", {"Certificate and true gap": paint, "Both ends around V*": sides},
                    f"Random low-rank games, S={config.num_states}, A=B={config.num_actions}, H={config.horizon}, "
                    f"d={config.rank}; {config.games} games.")],
        numbers={key: {agent: m.summary() for agent, m in group.items()} for key, group in groups.items()},
    )  # fmt: skip


def _measure(config: GamesOptimismConfig, agent: str, bonus: float | None) -> Measured:
    sizes = {name: getattr(config, name) for name in ("num_states", "num_actions", "horizon", "rank")}
    sizes["num_opponent_actions"] = config.num_actions
    results = play(
        agent, sizes, games=config.games, first=config.seed, episodes=config.episodes, evaluations=40, bonus=bonus
    )
    planned = {name: columns(results, name) for name in ("optimism", "pessimism", "certificate", "gap_explore")}
    T = planned["optimism"].shape[1]  # a learner has no plan at its first evaluations
    return Measured(
        columns(results, "episodes")[0, -T:],
        planned["optimism"],
        planned["pessimism"],
        planned["certificate"],
        planned["gap_explore"],
        float(columns(results, "covered")[:, -1].mean()),
    )
