"""Claim: on the true features, the duality gap of optimistic learning in games falls as n^-1/2 with the episodes n.

The regret bound sqrt(n) of Xie et al. 2020 is about the policies that are played, the marginals of each plan's
correlated equilibria: their gap, by exact best responses, must have a log-log slope <= -.45. The slope of the
bonus-free policy that is handed out is printed beside it; a first version judged that one, which is flatter because its
gap starts lower, and on these games it came out at -.44.
Controls: independent Q-learning ends in pure policies, which can be exploited whatever was learned, and uniform play
learns nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from rl_contrastive.analysis.figures import colour, counts_on, draw, words
from rl_contrastive.analysis.slopes import slope_interval
from rl_contrastive.claims.base import Bar, Context, Report, control
from rl_contrastive.claims.theory.games_training import FIRST_GAME, columns, play
from rl_contrastive.config import Ge, Options, require
from rl_contrastive.registry import register

SLOPE = -0.45
FLAT = -0.3
"""A control's slope has to stay above this."""
START = 0.03
"""Slopes are fitted from this fraction of the episodes on."""


@dataclass(frozen=True)
class GamesRateConfig(Options, where="games-rate"):
    """Sizes of the measurement."""

    agent: str = "lsvi-game"
    """Who knows the true features."""
    controls: tuple[str, ...] = ("independent-q", "uniform")
    """Who must not get there."""
    num_states: int = 20
    """S."""
    num_actions: int = 3
    """A = B."""
    horizon: int = 5
    """H."""
    rank: int = 3
    """d."""
    episodes: int = 10000
    """K."""
    games: int = 5
    """Games of each agent."""
    seed: Annotated[int, Ge(0)] = FIRST_GAME
    """The first of their seeds."""

    @classmethod
    def quick(cls) -> GamesRateConfig:
        """Seconds."""
        return cls(num_states=10, episodes=3000, games=3)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.games >= 1 and self.episodes >= 1000, "games-rate: games >= 1 and episodes >= 1000 are needed.")
        require(len(self.controls) >= 1, "games-rate: give at least one control.")


@register("claim", "theory/games-rate", GamesRateConfig)
def games_rate(config: GamesRateConfig, context: Context) -> Report:
    """Duality gap ~ n^-1/2 on the true features; independent Q-learning and uniform play stay exploitable."""
    sizes = {name: getattr(config, name) for name in ("num_states", "num_actions", "horizon", "rank")}
    sizes["num_opponent_actions"] = config.num_actions
    curves, slopes, last = {}, {}, {}
    final_policy = None
    for agent in context.each("agent", (config.agent, *config.controls)):
        results = play(agent, sizes, games=config.games, first=config.seed, episodes=config.episodes, evaluations=50)
        episodes, gap = columns(results, "episodes")[0], columns(results, "gap")
        tail = episodes >= START * config.episodes
        if "gap_explore" in results[0].history[-1]:
            final_policy = slope_interval(episodes[tail], gap[:, tail])
            gap = columns(results, "gap_explore")
        curves[agent] = episodes, gap
        slopes[agent] = slope_interval(episodes[tail], gap[:, tail])
        last[agent] = float(gap[:, -1].mean())

    def paint(axis: Any) -> None:
        for k, (agent, (episodes, gap)) in enumerate(curves.items()):
            axis.loglog(episodes, gap.T, color=colour(k), linewidth=0.8, alpha=0.35)
            axis.loglog(episodes, gap.mean(axis=0), color=colour(k), label=f"{agent}: {slopes[agent].estimate:.2f}")
        axis.set(xlabel="episodes", ylabel="exact duality gap")
        counts_on(axis.xaxis)

    claimed = slopes[config.agent]
    listed = "; ".join(f"{agent} {words(slopes[agent])}, last gap {last[agent]:.3f}" for agent in config.controls)
    beside = "" if final_policy is None else f"; of the policy handed out {words(final_policy)}"
    return Report(
        claim="gap(n) = O(n^-1/2) on the true features (Xie et al. 2020; Qiu et al. 2022)",
        bars=[
            Bar("the claim", f"slope <= {SLOPE}",
                f"{config.agent}: log-log slope from {START:.0%} of K={config.episodes} on {words(claimed)}, "
                f"last gap {last[config.agent]:.4f}{beside}",
                claimed.estimate <= SLOPE),
            control(f"{listed} (slopes must stay > {FLAT})",
                    failed=all(slopes[agent].estimate > FLAT for agent in config.controls)),
        ],
        plots=[draw(context.out, "games-rate", {"Duality gap and its log-log slope": paint},
                    f"Random low-rank games, S={config.num_states}, A=B={config.num_actions}, H={config.horizon}, "
                    f"d={config.rank}; thin: {config.games} games, thick: mean.")],
        numbers={"slopes": slopes, "slope_handed_out": final_policy, "last_gap": last,
                 "final": {agent: gap[:, -1] for agent, (_, gap) in curves.items()}},
    )  # fmt: skip
