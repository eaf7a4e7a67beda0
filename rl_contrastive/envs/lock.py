"""The rich-observation combination lock (BRIEE, Zhang et al. 2022): long-horizon exploration behind a noisy rotation.

Latents: m good ones (2) and one bad, absorbing one. At step h each good latent has one good action. It leads to a
good latent (the other one with probability p_switch); any wrong action leads to the bad latent for good and pays a
bait of 0.1 with probability 1/2 once, which shapes *away* from exploration. The good action at h = H-1 pays 1.
Observation: x = Hadamard_D (one-hot(latent) ++ one-hot(h) + noise), D = 2^ceil(log2(H + m + 2)) at least, the
matrix unnormalised, N(0, noise^2) on the first H + m + 1 coordinates only and the remaining ones exactly 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl_contrastive.config import Ge, In, Options, require
from rl_contrastive.envs.base import BatchEnv, Outcome
from rl_contrastive.envs.streams import NORMAL_BOUND, Words, high_half, integers, low_half, normals
from rl_contrastive.registry import register
from rl_contrastive.spec import BoolArray, EnvSpec, ExactModel, FloatArray, IntArray, optimal_values


@dataclass(frozen=True)
class LockConfig(Options, where="lock"):
    """The combination lock of BRIEE with its published constants."""

    horizon: Annotated[int, In(1, 100_000)] = 10
    """H, steps per episode; hardness grows with it."""
    num_actions: Annotated[int, In(2, 1_000_000)] = 10
    """A, number of actions."""
    noise: Annotated[float, Ge(0)] = 0.1
    """Standard deviation of the Gaussian noise on each coordinate before the rotation. At .1 the latents
    are told apart up to one error in 10^12; at .3 a policy can return at most .92 or so (`bayes_return`)."""
    p_switch: Annotated[float, In(0, 1)] = 0.5
    """Probability that the good action leads to another good latent; .5 makes the kernel's rank 2."""
    anti_reward: Annotated[float, In(0, 1)] = 0.1
    """Bait paid with probability 1/2 for the first wrong action."""
    lock_seed: Annotated[int, Ge(0)] = 0
    """Which combination of good actions; not the seed of the run. Vary it to average over locks."""


@dataclass(frozen=True)
class LockVariant:
    """What the related locks change; the defaults are the plain lock."""

    num_good: int = 2
    """m, number of good latents."""
    step_reward: float = 0.0
    """Paid for each good action before the last one."""
    num_distractors: int = 0
    """Extra coordinates +-distractor_scale, drawn anew at each observation."""
    distractor_scale: float = 1.0
    """Their standard deviation."""
    temperature: float = 0.0
    """tau > 0: the state is drawn from softmax(first m + 1 coordinates / tau) of its own observation."""


PLAIN = LockVariant()


def hadamard_transform(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sylvester's Hadamard matrix times x (D, n), D a power of two, by log2(D) butterflies along the first axis.

    Sums and differences alone: unlike a matrix product, the result of a column does not depend on n.
    """
    D, n = x.shape
    span = 1
    while span < D:
        pairs = x.reshape(D // (2 * span), 2, span, n)
        out = np.empty_like(pairs)
        np.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        x = out.reshape(D, n)
        span *= 2
    return x


def coordinates(
    noise: NDArray[np.float32], state: IntArray, h: int, *, num_latents: int, dimension: int
) -> NDArray[np.float32]:
    """one-hot(state) ++ one-hot(h) + noise (c, n) on the first c coordinates, before the rotation: (D, n)."""
    x = np.zeros((dimension, len(state)), dtype=np.float32)
    x[: len(noise)] = noise
    x[state, np.arange(len(state))] += 1.0
    x[num_latents + h] += 1.0
    return x


@register("env", "combination-lock", LockConfig)
class LockEnv(BatchEnv):
    """Rich-observation combination lock: 3 latents, 10 actions, rotated noisy one-hots, anti-shaped reward."""

    def __init__(
        self, config: LockConfig, num_envs: int, *, name: str = "combination-lock", variant: LockVariant = PLAIN
    ) -> None:
        self.config, self.variant = config, variant
        H, m = config.horizon, variant.num_good
        self._noisy = H + m + 1  # coordinates that carry noise
        self.dimension = 1 << math.ceil(math.log2(H + m + 2 + variant.num_distractors))
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(config.lock_seed)))
        self.good_actions = np.full((H, m + 1), -1, dtype=np.int64)  # no action is good in the bad latent
        self.good_actions[:, :m] = rng.integers(config.num_actions, size=(H, m))
        spec = EnvSpec(
            name=name,
            num_actions=config.num_actions,
            horizon=H,
            obs_shape=(self.dimension,),
            obs_dtype="float32",
            optimal_return=1.0 + variant.step_reward * (H - 1),
            reward_range=(0.0, 1.0),
        )
        # Word 0: switch, bait. Word 1: other latent, soft state. Word 2: 64 distractor signs. Then the noise, two
        # normals a word.
        noise_words = (self._noisy + 1) // 2
        # The sum of all coordinates' largest sizes: a finite box, for tools that want one.
        bound = 2.0 + self._noisy * NORMAL_BOUND * config.noise + variant.num_distractors * variant.distractor_scale
        space = gym.spaces.Box(-bound, bound, spec.obs_shape, np.float32)
        super().__init__(spec, num_envs, words_per_step=3 + noise_words, observation_space=space)
        if variant.num_good == 2 and not variant.temperature:
            # What a policy can earn from observations; at noise .1 it is within 1e-10 of the latent optimum.
            self.env_spec = replace(self.env_spec, optimal_return=self.bayes_return)
        self._state: IntArray = np.zeros(num_envs, dtype=np.int64)

    def _prepare(self, words: Words) -> None:
        self._switch = high_half(words[:, 0]) < self.config.p_switch * 2.0**32
        self._bait = np.where(low_half(words[:, 0]) < 1 << 31, self.config.anti_reward, 0.0)
        self._words = words
        self._noise = normals(words[:, 3:]) * np.float32(self.config.noise)  # (2, K, c, n)

    def _start(self, slot: int, rows: BoolArray | None) -> None:
        self._state = integers(self._words[slot, 1], self.variant.num_good)

    def _advance(self, action: IntArray, slot: int) -> Outcome:
        m, s = self.variant.num_good, self._state
        right = action == self.good_actions[self.h][s]
        last = self.h == self.config.horizon - 1
        reward = np.where(s < m, self._bait[slot], 0.0)
        np.copyto(reward, 1.0 if last else self.variant.step_reward, where=right)
        other = (s + 1 + integers(self._words[slot, 1], m - 1)) % m
        good = np.where(self._switch[slot], other, s)
        self._state = np.where(right, good, m)
        return reward, None, None

    def _observe(self, slot: int) -> NDArray[np.float32]:
        m, n, first = self.variant.num_good, self.num_envs, self._noisy + 1
        noise = self._noise[:, slot].reshape(-1, n)[: self._noisy]
        x = coordinates(noise, self._state, self.h, num_latents=m + 1, dimension=self.dimension)
        if self.variant.num_distractors:
            bits = self._words[slot, 2] >> np.arange(self.variant.num_distractors, dtype=np.uint64)[:, None]
            scale = np.float32(self.variant.distractor_scale)
            x[first : first + len(bits)] = np.where(bits & np.uint64(1), scale, -scale)
        if self.variant.temperature:
            self._state = self._resample(x[: m + 1], low_half(self._words[slot, 1]))
        return np.ascontiguousarray(hadamard_transform(x).T)

    def _resample(self, x: NDArray[np.float32], bits: IntArray) -> IntArray:
        """State ~ softmax(x / tau) by inversion: x (m+1, n), 32 random bits (n,)."""
        shares = emission_softmax(x.astype(np.float64), self.variant.temperature)
        below = (np.cumsum(shares, axis=0) * 2.0**32 <= bits).sum(axis=0)
        capped: IntArray = np.minimum(below, self.variant.num_good)
        return capped

    def latent_states(self) -> IntArray:
        """(n,) latents: 0..m-1 good, m bad."""
        return self._state.copy()

    @property
    def bayes_return(self) -> float:
        """Largest expected return of a policy that sees one observation at a time (plain, dense, distractor locks).

        Telling two good latents apart from x errs with probability Phi(-1 / (sqrt(2) noise)), which matters only
        where their good actions differ: V_h = max(q_h (r_h + V_{h+1}) + (1 - q_h) b, b) with b = anti_reward / 2.
        At p_switch = 1/2 the past says nothing about the latent, so this is the optimum over all policies.
        """
        require(self.variant.num_good == 2 and not self.variant.temperature, "bayes_return needs two fixed latents.")
        error = 0.5 * math.erfc(0.5 / self.config.noise) if self.config.noise > 0 else 0.0
        value, reward = 0.0, 1.0
        for good in self.good_actions[::-1]:
            q = 1.0 if good[0] == good[1] else 1.0 - error
            bait = self.config.anti_reward / 2
            value = max(q * (reward + value) + (1.0 - q) * bait, bait)
            reward = self.variant.step_reward
        return value

    def exact(self) -> ExactModel:
        """The latent model, S = m + 1; rank 2 when the next good latent is uniform (p_switch = 1 - 1/m), else m + 1."""
        return self._exact

    @cached_property
    def _exact(self) -> ExactModel:
        m, H, A = self.variant.num_good, self.config.horizon, self.config.num_actions
        emission = self.emission()  # (m+1, m+1) kind drawn by the dynamics -> state
        p = self.config.p_switch
        others = (emission[:m].sum(axis=0) - emission[:m]) / max(m - 1, 1)
        factors = np.vstack([(1.0 - p) * emission[:m] + p * others, emission[m:]])  # (m+1, S)
        good = np.arange(A) == self.good_actions[:, :, None]  # (H, S, A)
        phi = np.zeros((H, m + 1, A, m + 1))
        phi[..., m] = ~good
        for s in range(m):
            phi[:, s, :, s] = good[:, s]
        if np.isclose(p, 1.0 - 1.0 / m):
            phi = np.stack([phi[..., :m].sum(axis=-1), phi[..., m]], axis=-1)
            factors = np.stack([emission[:m].mean(axis=0), emission[m]])
        P = phi @ factors  # (H, S, A, S)
        r = np.where(good, self.variant.step_reward, self.config.anti_reward / 2)
        r[-1] = np.where(good[-1], 1.0, self.config.anti_reward / 2)
        r[:, m] = 0.0
        rho = np.append(np.full(m, 1.0 / m), 0.0) @ emission
        V, Q = optimal_values(P, r)
        psi = np.broadcast_to(factors.T, (H, m + 1, factors.shape[0]))
        return ExactModel(P, r, rho, phi, psi, V, Q, observations_are_states=False)

    def emission(self) -> FloatArray:
        """(m+1, m+1): probability of each state given the latent that the dynamics drew; the identity at tau = 0."""
        m = self.variant.num_good
        if not self.variant.temperature:
            return np.eye(m + 1)
        return np.stack([shares @ weights for shares, weights in map(self.posterior_nodes, range(m + 1))])

    def posterior_nodes(self, kind: int) -> tuple[FloatArray, FloatArray]:
        """Softmax shares (m+1, N) of the latent coordinates one-hot(kind) + noise, and their weights (N,).

        Gauss-Hermite quadrature on a product grid of at most 2^15 points.
        """
        size = self.variant.num_good + 1
        nodes, weights = np.polynomial.hermite_e.hermegauss(int(2.0 ** (15 / size)))
        grid = np.stack(np.meshgrid(*[nodes] * size, indexing="ij")).reshape(size, -1)
        mass: Any = weights / weights.sum()
        for _ in range(size - 1):
            mass = np.multiply.outer(mass, weights / weights.sum())
        x = self.config.noise * grid
        x[kind] += 1.0
        return emission_softmax(x, self.variant.temperature), mass.ravel()


def emission_softmax(x: FloatArray, temperature: float) -> FloatArray:
    """softmax(x / tau) over the first axis, float64."""
    scaled = x / temperature
    shares = np.exp(scaled - scaled.max(axis=0))
    return np.asarray(shares / shares.sum(axis=0))
