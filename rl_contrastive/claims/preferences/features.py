"""Question: do contrastive features let a reward model learn from few pairs of trajectories?

    P(tau is preferred to tau') = sigma((R(tau) - R(tau')) / temperature),    R(tau) = sum_h r(s_h, a_h)
    r-hat(s,a) = theta'x(s,a),   theta minimises  sum_n log(1 + exp(-theta'D_n)) + lam/2 |theta|^2

D_n is the sum of x along the preferred trajectory minus that along the other one. The worlds are random low-rank MDPs
P(s'|s,a) = psi(s')'phi(s,a) with rewards linear in phi. Contrastive features know of phi from transitions without
labels; a table of (s,a) has to see every pair compared. All reward models plan with the true P, so that they differ by
x alone. Regret is in shares: 0 for the best policy, 1 for the uniform one. Control: random features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from scipy.special import expit

from rl_contrastive.acting import invert
from rl_contrastive.analysis.figures import colour, draw, rng_of, ticks_at
from rl_contrastive.claims.base import Bar, Context, Report, Table, control
from rl_contrastive.claims.objectives.stacked import interval, shown
from rl_contrastive.config import MOST_DRAWN, Ge, Gt, In, Options, require
from rl_contrastive.envs.low_rank import LowRankConfig, draw_mdp
from rl_contrastive.errors import RlcError
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.learner import FeatureLearner
from rl_contrastive.features.maps import TabularFeatures
from rl_contrastive.features.spectral import fit_tabular
from rl_contrastive.planning.lsvi import plan_model, policy_values
from rl_contrastive.preferences.data import LabelConfig, wins
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray, IntArray

SEEDS = tuple(range(500, 510))
TUNE_SEEDS = tuple(range(5))
CLOSED, REFINED, TRUE, ONE_HOT, RANDOM, RAW = NAMES = (
    "contrastive", "contrastive, then NCE", "true phi", "table of (s,a)", "random features", "SVD of raw counts",
)  # fmt: skip
NULL = 1e-8
"""Relative spread below which a direction of the features counts as constant; comparisons say nothing of it."""
NEWTON_STEPS, DECREMENT = 100, 1e-14
"""Most steps, and the squared Newton decrement relative to the loss at which a fit ends."""


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
        return cls(states=(50,), ranks=(3,), pairs=(20, 40, 160), lams=(0.1, 1.0), seeds=SEEDS[:4], tune_seeds=(0, 1))

    def __post_init__(self) -> None:
        super().__post_init__()
        lists = (self.states, self.ranks, self.lams, self.tune_seeds, self.seeds, self.pairs)
        require(all(lists), "preference-features: no list may be empty.")
        require(len(self.states) == len(self.ranks), "preference-features: give as many states as ranks.")
        rising = list(self.pairs) == sorted(set(self.pairs)) and self.pairs[0] <= self.few
        require(rising, "preference-features: pairs must rise and begin at `few` or below.")
        require(not set(self.seeds) & set(self.tune_seeds), "preference-features: no seed may be in both lists.")


@dataclass(frozen=True)
class World:
    """A stationary low-rank MDP: phi (S,A,d), psi (d,S), r (S,A), first state's law rho (S,), H steps."""

    phi: FloatArray
    psi: FloatArray
    r: FloatArray
    rho: FloatArray
    horizon: int

    @cached_property
    def P(self) -> FloatArray:
        """(S, A, S)."""
        return self.phi @ self.psi

    def plan(self, reward: FloatArray) -> FloatArray:
        """pi (H, S, A), greedy for a reward (S, A) under the true P."""
        return plan_model(self.P[None], self.steps(reward)).greedy()

    def steps(self, table: FloatArray) -> FloatArray:
        """One table for all steps, (H, ...)."""
        return np.broadcast_to(table, (self.horizon, *table.shape))

    def value(self, pi: FloatArray) -> float:
        """E_pi[sum_h r], exact."""
        return float(self.rho @ policy_values(self.steps(self.P), self.steps(self.r), pi)[0][0])

    @cached_property
    def uniform(self) -> FloatArray:
        """The uniform policy (H, S, A)."""
        return np.full((self.horizon, *self.r.shape), 1.0 / self.r.shape[1])

    @cached_property
    def ends(self) -> tuple[float, float]:
        """Value of the best and of the uniform policy."""
        return self.value(self.plan(self.r)), self.value(self.uniform)

    def regret(self, reward: FloatArray) -> float:
        """(V* - V) / (V* - V_uniform) of the policy that is best for another reward (S, A)."""
        best, base = self.ends
        return (best - self.value(self.plan(reward))) / (best - base)

    def walk(self, pi: FloatArray, count: int, *, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """`count` trajectories: indices s A + a of the pairs and successors, (count, H) each."""
        S, A = self.r.shape
        s = rng.choice(S, size=count, p=self.rho)
        pairs, after = [], []
        for h in range(self.horizon):
            a = invert(pi[h, s], rng.random(count))
            pairs.append(s * A + a)
            s = invert(self.P[s, a], rng.random(count))
            after.append(s)
        return np.stack(pairs, 1), np.stack(after, 1)


def random_world(states: int, actions: int, horizon: int, rank: int, seed: int) -> World:
    """The random low-rank MDP of a seed, with r = phi'theta."""
    mdp = draw_mdp(LowRankConfig(num_states=states, num_actions=actions, horizon=horizon, rank=rank, mdp_seed=seed,
                                 reward="linear", stationary=True))  # fmt: skip
    return World(mdp.phi[0], mdp.psi[0], mdp.r[0], mdp.rho, horizon)


def fit_reward(D: FloatArray, lam: float) -> FloatArray:
    """theta (d,): the minimiser of `logistic` for differences D (n, d), by Newton's method with halved steps.

    It lies in the span of the rows, so that the search has min(n, d) dimensions. RlcError if it does not converge.
    """
    Q, R = np.linalg.qr(D.T)  # theta = Q z, D theta = R'z
    z, rows = np.zeros(len(R)), R.T
    for _ in range(NEWTON_STEPS):
        loss, gradient = logistic(z, rows, lam)
        p = expit(rows @ z)
        step = np.linalg.solve(lam * np.eye(len(z)) + (rows.T * (p * (1 - p))) @ rows, gradient)
        if gradient @ step <= DECREMENT * (1 + loss):
            return np.asarray(Q @ z)
        size = 1.0
        while logistic(z - size * step, rows, lam)[0] > loss and size > DECREMENT:
            size /= 2
        z = z - size * step
    raise RlcError(f"fit_reward: Newton's method did not converge in {NEWTON_STEPS} steps; a larger lam helps.")


def logistic(theta: FloatArray, D: FloatArray, lam: float) -> tuple[float, FloatArray]:
    """sum_n log(1 + exp(-theta'D_n)) + lam/2 |theta|^2 and its gradient lam theta - sum_n sigma(-theta'D_n) D_n."""
    margin = D @ theta
    loss = np.logaddexp(0.0, -margin).sum() + 0.5 * lam * theta @ theta
    return float(loss), lam * theta - expit(-margin) @ D


def preferred(world: World, first: IntArray, second: IntArray, temperature: float, *,
              rng: np.random.Generator) -> tuple[IntArray, IntArray]:  # fmt: skip
    """Trajectories (n, H) of pairs, put in the order of their Bradley-Terry labels: chosen, rejected."""
    returns = (torch.from_numpy(world.r.ravel()[y].sum(1)) for y in (first, second))
    torch_rng = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    won = wins(*returns, LabelConfig(temperature=temperature), rng=torch_rng).numpy()[:, None]
    return np.where(won, first, second), np.where(won, second, first)


def whitened(x: FloatArray, weight: FloatArray) -> FloatArray:
    """Features (N, d) with mean 0 and covariance I under weights (N,); constant directions are left out."""
    weight = weight / weight.sum()
    centred = x - weight @ x
    _, spread, V = np.linalg.svd(np.sqrt(weight)[:, None] * centred, full_matrices=False)
    kept = spread > NULL * max(float(spread[0]), NULL)
    return np.asarray(centred @ V[kept].T / spread[kept])


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
    rng = rng_of(seed, 0)
    pair, after = (y.ravel() for y in world.walk(world.uniform, config.episodes, rng=rng))
    counts = TransitionCounts.empty(1, len(world.rho), A).plus(np.zeros_like(pair), pair // A, pair % A, after)
    first, second = (world.walk(world.uniform, config.pairs[-1], rng=rng)[0] for _ in range(2))
    chosen, rejected = preferred(world, first, second, config.temperature, rng=rng)
    out = {}
    for name, x in representations(world, counts, rng=rng).items():
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
    runs = [regrets(config, seed, {name: (lam[name],) for name in NAMES}) for seed in config.seeds]
    return report(config, context, {name: np.array([run[name][0] for run in runs]) for name in NAMES}, lam)


def report(config: FeaturesConfig, context: Context, regret: dict[str, FloatArray], lam: dict[str, float]) -> Report:
    """Bars, table, picture of regrets (seeds, N)."""
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

    def paint(axis: Any) -> None:
        for i, name in enumerate(NAMES):
            axis.plot(config.pairs, regret[name].mean(0), "o-", color=colour(i), label=name)
        axis.axhline(1.0, color="#555555", linewidth=0.8)
        axis.set(xlabel="labelled pairs n", ylabel="regret (uniform policy = 1)", xscale="log", ylim=(0, None))
        ticks_at(axis.xaxis, config.pairs)

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
        "transitions did not tell.",
        tables=[
            Table("Regret of the policy that is best for the learned reward", ("Features", "lam", *ns), rows,
                  f"Mean over {len(config.seeds)} worlds, 95% t-interval; planned with the true P. 1: uniform policy.",
                  2),
            Table("Regret of other features - contrastive, paired by world", ("Features", *ns), less, "", 1),
        ],
        plots=[draw(context.out, "features", {"Regret by labelled pairs": paint},
                    f"{config.episodes} unlabelled episodes, H={config.horizon}, A={config.actions}; means of "
                    f"{len(config.seeds)} worlds.", aside=True)],
        numbers={"pairs": config.pairs, "regret": regret, "lam": lam},
    )  # fmt: skip
