"""Question: do contrastive features let a reward model learn from few pairs of trajectories?

The reward model r-hat(s,a) = theta'x(s,a) is fitted to Bradley-Terry labels by regularised logistic regression
(`linear_rewards`). The worlds are random low-rank MDPs P(s'|s,a) = psi(s')'phi(s,a) with rewards linear in phi.
Contrastive features know of phi from transitions without labels; a table of (s,a) has to see every pair compared. All
reward models plan with the true P, so that they differ by x alone. Regret is in shares: 0 for the best policy, 1 for
the uniform one. Control: random features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from rl_contrastive.analysis.figures import colour, draw, rng_of, ticks_at
from rl_contrastive.claims.base import Bar, Context, Report, Table, control
from rl_contrastive.claims.preferences.linear_rewards import World, fit_reward, preferred, random_world, whitened
from rl_contrastive.claims.stacked import interval, shown
from rl_contrastive.config import MOST_DRAWN, Ge, Gt, In, Options, require
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.learner import FeatureLearner
from rl_contrastive.features.maps import TabularFeatures
from rl_contrastive.features.spectral import fit_tabular
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray

SEEDS = tuple(range(500, 510))
TUNE_SEEDS = tuple(range(5))
CLOSED, REFINED, TRUE, ONE_HOT, RANDOM, RAW = NAMES = (
    "contrastive", "contrastive, then NCE", "true phi", "table of (s,a)", "random features", "SVD of raw counts",
)  # fmt: skip


@dataclass(frozen=True)
class FeaturesConfig(Options, where="preference-features"):
    """Worlds, data, and what is tried for each representation alike."""

    states: Annotated[tuple[int, ...], In(2, 200)] = (50, 75, 100)
    """S of the worlds, in turn."""
    ranks: Annotated[tuple[int, ...], In(2, 50)] = (3, 4, 5)
    """d of the worlds, in turn."""
    actions: Annotated[int, In(2, 100)] = 4
    """A."""
    horizon: Annotated[int, In(1, 100)] = 5
    """H."""
    episodes: Annotated[int, In(1, MOST_DRAWN)] = 2000
    """Unlabelled episodes of the uniform policy, from which features are learned."""
    amounts: Annotated[tuple[int, ...], In(1, MOST_DRAWN)] = (200, 500, 1000, 4000)
    """Other numbers of unlabelled episodes, with the same lam; no bar is on them."""
    pairs: Annotated[tuple[int, ...], In(1, MOST_DRAWN)] = (10, 20, 40, 80, 160, 320)
    """n, rising: labelled pairs of the uniform policy's trajectories; the first n of one list."""
    few: Annotated[int, Ge(1)] = 40
    """The bar is for n up to this."""
    temperature: Annotated[float, Gt(0)] = 0.25
    """Of the Bradley-Terry labels."""
    lams: Annotated[tuple[float, ...], Gt(0)] = (0.1, 1.0, 10.0, 100.0, 1000.0)
    """lam; each representation has its own, of least mean regret over all n on tune_seeds."""
    seeds: Annotated[tuple[int, ...], Ge(0)] = SEEDS
    """Worlds that are reported."""
    tune_seeds: Annotated[tuple[int, ...], Ge(0)] = TUNE_SEEDS
    """Worlds on which lam is chosen."""

    @classmethod
    def quick(cls) -> FeaturesConfig:
        """Seconds."""
        return cls(
            states=(50,),
            ranks=(3,),
            amounts=(200,),
            pairs=(20, 40, 160),
            lams=(0.1, 1.0),
            seeds=SEEDS[:4],
            tune_seeds=(0, 1),
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        lists = (self.states, self.ranks, self.lams, self.tune_seeds, self.seeds, self.pairs)
        require(all(lists), "preference-features: no list may be empty.")
        require(len(self.states) == len(self.ranks), "preference-features: give as many states as ranks.")
        rising = list(self.pairs) == sorted(set(self.pairs)) and self.pairs[0] <= self.few
        require(rising, "preference-features: pairs must rise and begin at `few` or below.")
        require(not set(self.seeds) & set(self.tune_seeds), "preference-features: no seed may be in both lists.")


def representations(world: World, counts: TransitionCounts, *, rng: np.random.Generator) -> dict[str, FloatArray]:
    """x (SA, .) of each name in NAMES; all but the table are whitened under the unlabelled pairs."""
    S, A, d = world.phi.shape
    learner = FeatureLearner(LearnerConfig(method="spectral+nce", dim=d, device="cpu"), horizon=1, num_actions=A,
                             num_states=S)  # fmt: skip
    refined = learner.fit_table(counts, rng=rng).features
    assert isinstance(refined, TabularFeatures)
    U, sigma, _ = np.linalg.svd(counts.dense().reshape(S * A, S), full_matrices=False)
    found = {
        CLOSED: fit_tabular(counts, d).features.phi_table,
        REFINED: refined.phi_table,
        TRUE: world.phi,
        RANDOM: rng.standard_normal((S * A, d)),
        RAW: U[:, :d] * sigma[:d],
    }
    seen = counts.pair_total().ravel()
    x = {name: whitened(table.reshape(S * A, -1), seen) for name, table in found.items()}
    return {name: np.eye(S * A) if name == ONE_HOT else x[name] for name in NAMES}


def regrets(config: FeaturesConfig, seed: int, lams: dict[str, tuple[float, ...]]) -> dict[str, FloatArray]:
    """Regret (L, N) of each representation, by its lams and the numbers of pairs, in one world."""
    turn, A = seed % len(config.states), config.actions
    world = random_world(config.states[turn], A, config.horizon, config.ranks[turn], seed)
    walked = world.walk(world.uniform, config.episodes, rng=rng_of(seed, 0))
    pair, after = (y.ravel() for y in walked)
    counts = TransitionCounts.empty(1, len(world.rho), A).plus(np.zeros_like(pair), pair // A, pair % A, after)
    rng = rng_of(seed, 1)  # the same pairs, whatever the number of episodes
    first, second = (world.walk(world.uniform, config.pairs[-1], rng=rng)[0] for _ in range(2))
    chosen, rejected = preferred(world, first, second, config.temperature, rng=rng)
    out = {}
    for name, x in representations(world, counts, rng=rng_of(seed, 2)).items():
        D = x[chosen].sum(1) - x[rejected].sum(1)  # (n, d)
        out[name] = np.array([[world.regret((x @ fit_reward(D[:n], lam)).reshape(world.r.shape))
                               for n in config.pairs] for lam in lams[name]])  # fmt: skip
    return out


@register("claim", "preferences/features", FeaturesConfig)
def features(config: FeaturesConfig, context: Context) -> Report:
    """Contrastive features as a reward model's representation: regret against the number of pairs (Contrastive-UCB)."""
    tuned = [regrets(config, seed, dict.fromkeys(NAMES, config.lams)) for seed in config.tune_seeds]
    lam = {name: config.lams[int(np.mean([t[name] for t in tuned], axis=(0, 2)).argmin())] for name in NAMES}
    context.say("features: lam chosen")

    def measured(episodes: int) -> dict[str, FloatArray]:
        """Regret (seeds, N) of each."""
        own = replace(config, episodes=episodes)
        runs = [regrets(own, seed, {name: (lam[name],) for name in NAMES}) for seed in config.seeds]
        context.say(f"features: {episodes} unlabelled episodes measured")
        return {name: np.array([run[name][0] for run in runs]) for name in NAMES}

    amounts = sorted({config.episodes, *config.amounts})
    return report(config, context, {episodes: measured(episodes) for episodes in amounts}, lam)


def report(config: FeaturesConfig, context: Context, measured: dict[int, dict[str, FloatArray]],
           lam: dict[str, float]) -> Report:  # fmt: skip
    """Bars, tables, picture of regrets (seeds, N) by the number of unlabelled episodes."""
    regret = measured[config.episodes]
    few = [j for j, n in enumerate(config.pairs) if n <= config.few]

    def narrowest(name: str) -> tuple[int, bool]:
        """The n <= few where the table is least behind, by the interval's low end, and whether that is above 0."""
        low = [interval(regret[ONE_HOT][:, j] - regret[name][:, j]).low for j in few]
        return few[int(np.argmin(low))], min(low) > 0

    def gain(name: str, j: int, *, to: str = ONE_HOT) -> str:
        return shown(regret[to][:, j] - regret[name][:, j])

    (at, met), (at_random, reached) = narrowest(CLOSED), narrowest(RANDOM)
    last = len(config.pairs) - 1
    rows = [(name, f"{lam[name]:g}", *(shown(regret[name][:, j]) for j in range(last + 1))) for name in NAMES]
    less = [(name, *(gain(CLOSED, j, to=name) for j in range(last + 1))) for name in NAMES if name != CLOSED]
    ns = [f"n = {n}" for n in config.pairs]
    by_amount = [(name, *(shown(found[name][:, few[-1]]) for found in measured.values())) for name in NAMES]
    return Report(
        claim="from few labelled pairs, contrastive features learned from unlabelled transitions give a better policy "
        "than a table of (s,a)",
        bars=[
            Bar(f"regret: table - contrastive, least of n <= {config.few}", "95% interval above 0 at each n",
                f"{gain(CLOSED, at)} at n = {config.pairs[at]}", met),
            control(f"random features: table - random {gain(RANDOM, at_random)} at n = {config.pairs[at_random]} "
                    "(must not be above 0 at each n)", failed=not reached, what="control: random features"),
        ],
        answer=f"Contrastive features have {gain(CLOSED, at)} less regret than the table at n = {config.pairs[at]}, "
        f"and {gain(CLOSED, last)} at n = {config.pairs[-1]}. Against the SVD of raw counts they have "
        f"{gain(CLOSED, at, to=RAW)} and {gain(CLOSED, last, to=RAW)} less. The true phi has "
        f"{gain(TRUE, at, to=CLOSED)} and {gain(TRUE, last, to=CLOSED)} less than they: what the unlabelled "
        "transitions did not tell. With fewer of these the gain shrinks: at n = "
        f"{config.pairs[few[-1]]} table - contrastive is " + ", ".join(
            f"{shown(found[ONE_HOT][:, few[-1]] - found[CLOSED][:, few[-1]])} with {episodes} episodes"
            for episodes, found in measured.items()) + ".",
        tables=[
            Table("Regret of the policy that is best for the learned reward", ("Features", "lam", *ns), rows,
                  f"Mean over {len(config.seeds)} worlds, 95% t-interval; planned with the true P. 1: uniform policy.",
                  2),
            Table("Regret of other features - contrastive, paired by world", ("Features", *ns), less, "", 1),
            Table(f"Regret at n = {config.pairs[few[-1]]} by unlabelled episodes", ("Features", *map(str, measured)),
                  by_amount, "The same pairs for each number. True phi and random features are whitened by them; the "
                  "table does not use them.", 1),
        ],
        plots=[draw(context.out, "features", panels(config, measured, few[-1]),
                    f"{config.episodes} unlabelled episodes on the left, H={config.horizon}, A={config.actions}; "
                    f"means of {len(config.seeds)} worlds.")],
        numbers={"pairs": config.pairs, "regret": measured, "lam": lam},
    )  # fmt: skip


def panels(config: FeaturesConfig, measured: dict[int, dict[str, FloatArray]],
           few: int) -> dict[str, Callable[[Any], None]]:  # fmt: skip
    """Mean regret by labelled pairs, and by unlabelled episodes at the number of pairs in place `few`."""

    def paint(x: tuple[int, ...], values: dict[str, FloatArray], label: str) -> Callable[[Any], None]:
        def on(axis: Any) -> None:
            for i, name in enumerate(NAMES):
                axis.plot(x, values[name], "o-", color=colour(i), label=name)
            axis.set(xlabel=label, ylabel="regret (uniform policy = 1)", xscale="log", ylim=(0, None))
            ticks_at(axis.xaxis, x)

        return on

    by_pairs = {name: measured[config.episodes][name].mean(0) for name in NAMES}
    by_amount = {name: np.array([found[name][:, few].mean() for found in measured.values()]) for name in NAMES}
    return {
        "By labelled pairs": paint(config.pairs, by_pairs, "labelled pairs n"),
        f"By unlabelled episodes, n = {config.pairs[few]}": paint(tuple(measured), by_amount, "unlabelled episodes"),
    }
