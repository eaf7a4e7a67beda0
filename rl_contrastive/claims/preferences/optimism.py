"""Question: does the elliptical bonus help where preferences are collected online and the reference covers badly?

In each round a policy's trajectories are compared with the reference's. The policy is best under the true P for

    r-hat(s,a) + beta |x(s,a) - x_ref|_{Sigma^-1},   Sigma = lam I + sum_n D_n D_n',   r-hat = theta'x

theta is fitted as in `linear_rewards`, x_ref is the mean of x under the reference, D_n the difference of x along the
two trajectories of pair n. By the triangle inequality the bonuses of a trajectory add up to at least the norm of its
own difference from the reference's mean. Compared: beta = 0, its soft version about the reference, and pairs of the
reference alone. What is judged is the policy that is best for r-hat. x are contrastive features of draws from each
(s,a), the same for all.

The lock: L - 1 good actions in a row lead to a hall of A doors. Behind one of them each step pays 1, behind the others
0. Any wrong action leads to a trap that pays .1 to .3 a step. Doors and traps are never left again, so the uniform
reference passes the right door with probability A^-L. Control: the same bonus, handed to random other (s,a). Beside it
a random world, which the reference covers well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, NamedTuple

import numpy as np

from rl_contrastive.analysis.figures import colour, draw, rng_of
from rl_contrastive.claims.base import Bar, Context, Report, Table, control
from rl_contrastive.claims.preferences.linear_rewards import World, fit_reward, preferred, random_world, whitened
from rl_contrastive.claims.stacked import interval, shown
from rl_contrastive.claims.theory.sampling import draw_counts, sparse_counts
from rl_contrastive.config import MOST_DRAWN, Ge, Gt, In, Options, require
from rl_contrastive.features.spectral import fit_tabular
from rl_contrastive.planning.bonus import EllipticalBonus
from rl_contrastive.planning.lsvi import occupancy
from rl_contrastive.preferences.exact import soft_optimal
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray, IntArray

SEEDS = tuple(range(500, 510))
TUNE_SEEDS = tuple(range(3))
BONUS, GREEDY, SOFT, REFERENCE, SHUFFLED = METHODS = (
    "with bonus", "without", "without, soft policy", "reference only", "shuffled bonus",
)  # fmt: skip
LOCK, BENIGN = WORLDS = ("lock", "random world")


@dataclass(frozen=True)
class OptimismConfig(Options, where="preference-optimism"):
    """Worlds, budget, and what is tried for each method alike."""

    chain: Annotated[int, In(1, 20)] = 5
    """L: good actions in a row, the right door included."""
    actions: Annotated[int, In(2, 20)] = 4
    """A."""
    horizon: Annotated[int, In(2, 100)] = 8
    """H of both worlds."""
    block: Annotated[int, In(1, 50)] = 5
    """States that show one latent of the lock, which has L + 2 A - 1."""
    states: Annotated[int, In(2, 200)] = 50
    """S of the random world."""
    rank: Annotated[int, In(2, 50)] = 4
    """d of the random world; that of the lock is its number of latents."""
    per_pair: Annotated[int, In(1, MOST_DRAWN)] = 50
    """Unlabelled successors of each (s,a), from which features are learned."""
    rounds: Annotated[int, Ge(1)] = 20
    """Reward models fitted."""
    pairs: Annotated[int, In(1, MOST_DRAWN)] = 5
    """Labelled pairs of each round."""
    temperature: Annotated[float, Gt(0)] = 0.5
    """Of the Bradley-Terry labels; r-hat is in its unit."""
    lams: Annotated[tuple[float, ...], Gt(0)] = (0.1, 1.0)
    """lam."""
    betas: Annotated[tuple[float, ...], Gt(0)] = (0.3, 3.0)
    """beta of the bonus, and of the soft policy's divergence. lam and beta are chosen for each method and world by the
    mean regret of all rounds on tune_seeds."""
    seeds: Annotated[tuple[int, ...], Ge(0)] = SEEDS
    """Worlds that are reported."""
    tune_seeds: Annotated[tuple[int, ...], Ge(0)] = TUNE_SEEDS
    """Worlds on which lam and beta are chosen."""

    @classmethod
    def quick(cls) -> OptimismConfig:
        """Seconds."""
        return cls(rounds=10, lams=(1.0,), betas=(1.0,), seeds=SEEDS[:4], tune_seeds=(0,))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.chain < self.horizon, "preference-optimism: chain must be below horizon.")
        full = all((self.lams, self.betas, self.seeds, self.tune_seeds))
        require(full, "preference-optimism: no list may be empty.")
        require(not set(self.seeds) & set(self.tune_seeds), "preference-optimism: no seed may be in both lists.")


class Setting(NamedTuple):
    """What is chosen on other seeds."""

    lam: float
    beta: float


def lock_world(config: OptimismConfig, seed: int) -> World:
    """Latents 0..L-1 on the way, A doors, A - 1 traps; phi(s,a) is one-hot in the next latent, psi its states' law."""
    L, A = config.chain, config.actions
    d, traps = L + 2 * A - 1, L + A
    rng = rng_of(seed, 1)
    latent = np.repeat(np.arange(d), config.block)  # of each state
    after = np.repeat(latent[:, None], A, 1)  # (S, A); doors and traps are never left
    for s in np.flatnonzero(latent < L):
        turn = (np.arange(A) - rng.integers(A)) % A  # 0 for the good action
        after[s] = L + turn if latent[s] == L - 1 else np.where(turn == 0, latent[s] + 1, traps + turn - 1)
    psi = np.zeros((d, len(latent)))
    for k in range(d):
        psi[k, latent == k] = rng.dirichlet(np.ones(config.block))
    worth = np.zeros(d)
    worth[L], worth[traps:] = 1.0, rng.uniform(0.1, 0.3, A - 1)
    phi = np.eye(d)[after]
    return World(phi, psi, phi @ worth, psi[0], config.horizon)


def benign_world(config: OptimismConfig, seed: int) -> World:
    """A random low-rank MDP."""
    return random_world(config.states, config.actions, config.horizon, config.rank, seed)


def compared_features(world: World, per_pair: int, *, rng: np.random.Generator) -> FloatArray:
    """x (SA, .): contrastive features of `per_pair` draws of each (s,a), whitened, minus the reference's mean."""
    S, A, d = world.phi.shape
    table = fit_tabular(sparse_counts(draw_counts(world.P, per_pair, rng=rng)), d).features.phi_table
    x = whitened(table.reshape(S * A, d), np.ones(S * A))
    visits = occupancy(world.steps(world.P), world.rho, world.uniform).sum(0).ravel()
    return np.asarray(x - visits @ x / visits.sum())


def collect(config: OptimismConfig, world: World, method: str, setting: Setting, *,
            seed: int) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Regret (K + 1,) of the policy that is best for r-hat, before the first round and after each; and the share (K,)
    of each round's pairs with a trajectory whose last step pays the world's best reward or nearly so."""
    x = compared_features(world, config.per_pair, rng=rng_of(seed, 2))
    rng, order = rng_of(seed, 3), rng_of(seed, 4).permutation(len(x))
    bonus = EllipticalBonus(1, x.shape[1], setting.lam)
    reward, differences = np.zeros(world.r.shape), np.zeros((0, x.shape[1]))
    regret, found = [world.regret(reward)], []
    for _ in range(config.rounds):
        norm = bonus.norm(0, x[order] if method == SHUFFLED else x).reshape(reward.shape)
        pi = _policy(world, method, reward, norm, setting.beta)
        first = world.walk(pi, config.pairs, rng=rng)[0]
        second = world.walk(world.uniform, config.pairs, rng=rng)[0]
        chosen, rejected = preferred(world, first, second, config.temperature, rng=rng)
        D = x[chosen].sum(1) - x[rejected].sum(1)
        bonus.update(0, D)
        differences = np.concatenate([differences, D])
        reward = (x @ fit_reward(differences, setting.lam)).reshape(reward.shape)
        regret.append(world.regret(reward))
        found.append(_opened(world, first, second))
    return np.array(regret), np.array(found)


def _policy(world: World, method: str, reward: FloatArray, norm: FloatArray, beta: float) -> FloatArray:
    """pi (H, S, A) that collects."""
    if method == REFERENCE:
        return world.uniform
    if method == SOFT:
        P, log_ref = world.steps(world.P), np.log(world.uniform)
        return np.exp(soft_optimal(P, np.array(world.steps(reward)), log_ref, beta).log_pi)
    return world.plan(reward + beta * norm if method in (BONUS, SHUFFLED) else reward)


def _opened(world: World, first: IntArray, second: IntArray) -> float:
    """Share of pairs in which a trajectory ends at .9 of the largest reward or above."""
    last = world.r.ravel()[np.stack([first, second])[:, :, -1]]  # (2, n)
    return float((last >= 0.9 * world.r.max()).any(0).mean())


def settings(config: OptimismConfig, method: str) -> list[Setting]:
    """What is tried: beta only where the method has one."""
    betas = config.betas if method in (BONUS, SHUFFLED, SOFT) else (0.0,)
    return [Setting(lam, beta) for lam, beta in product(config.lams, betas)]


def measured(config: OptimismConfig, make: Callable[[OptimismConfig, int], World],
             method: str) -> tuple[Setting, FloatArray, FloatArray]:  # fmt: skip
    """The setting chosen on tune_seeds, and with it regret (seeds, K + 1) and share of pairs (seeds, K)."""

    def runs(seeds: Sequence[int], setting: Setting) -> tuple[FloatArray, FloatArray]:
        parts = [collect(config, make(config, seed), method, setting, seed=seed) for seed in seeds]
        return np.array([part[0] for part in parts]), np.array([part[1] for part in parts])

    best = min(settings(config, method), key=lambda setting: float(runs(config.tune_seeds, setting)[0].mean()))
    return best, *runs(config.seeds, best)


@register("claim", "preferences/optimism", OptimismConfig)
def optimism(config: OptimismConfig, context: Context) -> Report:
    """The elliptical bonus in online preference collection, where the reference covers badly and where it does well."""
    regret: dict[str, dict[str, FloatArray]] = {}
    found: dict[str, dict[str, FloatArray]] = {}
    chosen: dict[str, dict[str, Setting]] = {}
    for name, make in zip(WORLDS, (lock_world, benign_world), strict=True):
        regret[name], found[name], chosen[name] = {}, {}, {}
        for method in METHODS:
            chosen[name][method], regret[name][method], found[name][method] = measured(config, make, method)
            context.say(f"{name}, {method}: regret {regret[name][method][:, -1].mean():.3f}")
    return report(config, context, regret, found, chosen)


def report(config: OptimismConfig, context: Context, regret: dict[str, dict[str, FloatArray]],
           found: dict[str, dict[str, FloatArray]], chosen: dict[str, dict[str, Setting]]) -> Report:  # fmt: skip
    """Bars, tables, picture of regrets (seeds, K + 1)."""
    lock, benign = regret[LOCK], regret[BENIGN]
    half = {name: 0.5 * lock[GREEDY][:, -1] - lock[name][:, -1] for name in (BONUS, SHUFFLED)}
    met = {name: interval(value).low > 0 for name, value in half.items()}
    gain = {name: benign[name][:, -1] - benign[BONUS][:, -1] for name in (GREEDY, SOFT, REFERENCE)}
    early = benign[GREEDY].mean(1) - benign[BONUS].mean(1)
    opened = {name: found[LOCK][name].mean(1) for name in METHODS}

    return Report(
        claim="where the reference covers badly, preferences collected with the elliptical bonus find the reward that "
        "is missed without it",
        bars=[
            Bar(f"lock, round {config.rounds}: half the regret without bonus - regret with bonus",
                "95% interval above 0", shown(half[BONUS]), met[BONUS]),
            control(f"shuffled bonus: half the regret without - its own {shown(half[SHUFFLED])} (must not be above 0)",
                    failed=not met[SHUFFLED], what="control: shuffled bonus"),
        ],
        answer=f"In the lock regret ends at {shown(lock[BONUS][:, -1])} with bonus and {shown(lock[GREEDY][:, -1])} "
        f"without; {shown(opened[BONUS])} and {shown(opened[GREEDY])} of the pairs pass the right door, "
        f"{shown(opened[REFERENCE])} by the reference alone. In the random world the regret without bonus minus that "
        f"with bonus is {shown(gain[GREEDY])} at the end (below 0: the bonus costs) and {shown(early)} on average over "
        f"rounds; at the end, soft policy - bonus is {shown(gain[SOFT])}, reference only - bonus "
        f"{shown(gain[REFERENCE])}.",
        tables=[table(config, world, regret[world], chosen[world]) for world in WORLDS],
        plots=[draw(context.out, "optimism", {"Lock": paint(config, lock), "Random world": paint(config, benign)},
                    f"H={config.horizon}, A={config.actions}, L={config.chain}; means of {len(config.seeds)} worlds.")],
        numbers={"regret": regret, "right_door": opened,
                 "settings": {w: {m: s._asdict() for m, s in row.items()} for w, row in chosen.items()}},
    )  # fmt: skip


def table(config: OptimismConfig, world: str, regret: dict[str, FloatArray], chosen: dict[str, Setting]) -> Table:
    """Regrets of a world after some of the rounds."""
    marks = sorted({1, config.rounds // 4, config.rounds // 2, config.rounds} - {0})
    rows = [
        (name, f"{chosen[name].lam:g}", f"{chosen[name].beta:g}" if chosen[name].beta else "",
         *(shown(regret[name][:, k]) for k in marks), shown(regret[name].mean(1)))
        for name in METHODS
    ]  # fmt: skip
    columns = ("Collected", "lam", "beta", *(f"round {k}" for k in marks), "mean of all rounds")
    return Table(f"Regret in the {world}", columns, rows,
                 f"Mean over {len(config.seeds)} worlds, 95% t-interval. 1: the reference.", 3)  # fmt: skip


def paint(config: OptimismConfig, regret: dict[str, FloatArray]) -> Callable[[Any], None]:
    """Mean regrets by round."""

    def on(axis: Any) -> None:
        for i, name in enumerate(METHODS):
            axis.plot(range(config.rounds + 1), regret[name].mean(0), color=colour(i), label=name)
        axis.set(xlabel=f"rounds of {config.pairs} pairs", ylabel="regret (reference = 1)", ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)

    return on
