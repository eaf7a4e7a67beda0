"""DuelLock: a rich-observation lock for two players, in which both must explore and both must mix.

Latents of a level: live 0, live 1, dead (absorbing). At each (level, live latent) two hidden actions of the maximiser
are KEYS k_1, k_2 and two hidden actions of the minimiser are BLOCKS b_1, b_2. A joint action passes the level with

    p(a, b) = 0 if a is no key,  1 - 2 delta if a = k_i and b = b_i,  1 otherwise,

and leads to live 0 or live 1 with probability 1/2 each; otherwise to dead. The maximiser receives kappa at the step
that dies (a decoy: any action that is no key earns it surely), 1 for passing the last level, and nothing else.

Each level is the matrix game kappa + p(a, b) (V_{h+1} - kappa). Its equilibrium plays each key and each block with
probability 1/2, so val(p) = 1 - delta and

    V_h(live) = kappa + (1 - delta)^(H-h) (1 - kappa),  h = 0..H-1,  V_H = 0 (the prize is paid on the way).

The two live latents are *reached* with the same probabilities: psi_h(s') is the same for both, and the kernel has rank
2. Only their successors, phi_h(s, a, b), tell them apart. Observations are those of the combination lock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl_contrastive.config import Ge, In, Options, require
from rl_contrastive.device import require_memory
from rl_contrastive.envs.base import BatchEnv, Frame, Outcome
from rl_contrastive.envs.lock import coordinates, hadamard_transform
from rl_contrastive.envs.streams import NORMAL_BOUND, Words, high_half, integers, low_half, normals
from rl_contrastive.planning.equilibrium import nash
from rl_contrastive.registry import register
from rl_contrastive.spec import Array, BoolArray, EnvSpec, ExactModel, FloatArray, IntArray

LATENTS, DEAD = 3, 2
"""Number of latents of a level, and the absorbing one; 0 and 1 are live."""


@dataclass(frozen=True)
class DuelLockConfig(Options, where="duel-lock"):
    """The two-player lock; delta and kappa set its Nash value, horizon and num_actions its difficulty."""

    horizon: Annotated[int, In(1, 100_000)] = 8
    """H, number of levels."""
    num_actions: Annotated[int, Ge(3)] = 5
    """n, number of actions of each player (two are keys, two are blocks)."""
    delta: Annotated[float, In(0, 0.5)] = 0.05
    """What blocking earns: a blocked key fails with probability 2 delta. At 0 the minimiser is idle."""
    kappa: Annotated[float, In(0, 1, below=True)] = 0.1
    """Decoy paid at the step that dies."""
    noise: Annotated[float, Ge(0)] = 0.1
    """Standard deviation of the Gaussian noise on each coordinate before the rotation."""
    observation: Literal["rich", "symbols", "state"] = "rich"
    """"rich": the rotated noisy one-hots of the combination lock; "state": the latent itself (tabular, 3 states);
    "symbols": one of the latent's m symbols, drawn anew at each observation (tabular, 3 m states)."""
    num_symbols: Annotated[int, In(1, 10_000)] = 10
    """m, number of symbols of each latent, in a hidden order; for observation "symbols" only."""
    lock_seed: Annotated[int, Ge(0)] = 0
    """Which keys and blocks; not the seed of the run. Vary it to average over locks."""


@register("env", "duel-lock", DuelLockConfig)
class DuelLockEnv(BatchEnv):
    """Two-player rich-observation lock: hidden keys of max, hidden blocks of min, a decoy; its Nash value is known."""

    def __init__(self, config: DuelLockConfig, num_envs: int) -> None:
        self.config = config
        H, n = config.horizon, config.num_actions
        require_memory(96 * H * n * n, f"duel-lock: {H} levels of {n} x {n} actions", "make them fewer")
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(config.lock_seed)))
        # (H, 2, 2) each: the first two of a random order of the actions, for every level and live latent.
        self.keys: IntArray = np.argsort(rng.random((H, DEAD, n)), axis=-1)[..., :2]
        self.blocks: IntArray = np.argsort(rng.random((H, DEAD, n)), axis=-1)[..., :2]
        self.pass_probability = pass_probabilities(self.keys, self.blocks, n, config.delta)  # (H, 3, n, n)
        rich, m = config.observation == "rich", config.num_symbols if config.observation == "symbols" else 1
        # symbols (3, m): the states that show each latent; the latent itself where there is one symbol.
        self.symbols: IntArray = (rng.permutation(LATENTS * m) if m > 1 else np.arange(LATENTS)).reshape(LATENTS, m)
        self._noisy = H + LATENTS  # coordinates that carry noise, as in the combination lock
        self.dimension = 1 << math.ceil(math.log2(H + LATENTS + 1))
        spec = EnvSpec(
            name="duel-lock",
            num_actions=n * n,
            horizon=H,
            obs_shape=(self.dimension,) if rich else (),
            obs_dtype="float32" if rich else "int64",
            num_states=None if rich else self.symbols.size,
            reward_range=(0.0, 1.0),
            return_range=(0.0, 1.0),
            players=(n, n),
        )
        space: gym.Space[Any] | None = None
        if rich:
            bound = 2.0 + self._noisy * NORMAL_BOUND * config.noise  # all coordinates' largest sizes together
            space = gym.spaces.Box(-bound, bound, spec.obs_shape, np.float32)
        # Word 0: passing, next live latent. Then the noise, two normals a word, or one word for the symbol.
        words = 1 + ((self._noisy + 1) // 2 if rich else 1)
        super().__init__(replace(spec, optimal_return=self.nash_return), num_envs, words, space)
        self._latent: IntArray = np.zeros(num_envs, dtype=np.int64)
        self._state = self._latent  # the latent's symbol
        self._came: tuple[IntArray, IntArray] | None = None  # state and action of the last step, for the picture

    def _prepare(self, words: Words) -> None:
        self._chance = high_half(words[:, 0])
        self._live = low_half(words[:, 0]) >> 31
        if self.config.observation == "rich":
            self._noise = normals(words[:, 1:]) * np.float32(self.config.noise)  # (2, K, c, n)
        self._symbol = integers(words[:, 1], self.symbols.shape[1])

    def _start(self, slot: int, rows: BoolArray | None) -> None:
        self._enter(self._live[slot].copy(), slot)
        self._came = None

    def _enter(self, latent: IntArray, slot: int) -> None:
        self._latent, self._state = latent, self.symbols[latent, self._symbol[slot]]

    def _advance(self, action: IntArray, slot: int) -> Outcome:
        s = self._latent
        p = self.pass_probability[self.h].reshape(LATENTS, -1)[s, action]
        passed = self._chance[slot] < p * 2.0**32
        reward = np.where(s < DEAD, self.config.kappa, 0.0)
        reward[passed] = 1.0 if self.h == self.config.horizon - 1 else 0.0
        self._came = s, action
        self._enter(np.where(passed, self._live[slot], DEAD), slot)
        return reward, None, None

    def _observe(self, slot: int) -> Array:
        if self.config.observation != "rich":
            return self._state.copy()
        noise = self._noise[:, slot].reshape(-1, self.num_envs)[: self._noisy]
        return self._emit(noise, self._latent, self.h)

    def _emit(self, noise: NDArray[np.float32], state: IntArray, h: int) -> NDArray[np.float32]:
        """x = Hadamard_D (one-hot(z) ++ one-hot(h) + noise): noise (H + 3, n), state (n,) -> (n, D)."""
        x = coordinates(noise, state, h, num_latents=LATENTS, dimension=self.dimension)
        return np.ascontiguousarray(hadamard_transform(x).T)

    def latent_states(self) -> IntArray:
        """(n,) latents (0 and 1 live, 2 dead), or the symbols 0..3m-1 where those are the states."""
        return self._state.copy()

    def emissions(self, h: int, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """n fresh observations of each latent at level h (h = H: after the last one): (3, n, D) float32."""
        require(0 <= h <= self.config.horizon, f"duel-lock: emissions of level {h}, not of 0..{self.config.horizon}.")
        noise = rng.standard_normal((self._noisy, LATENTS * n), dtype=np.float32) * np.float32(self.config.noise)
        return self._emit(noise, np.repeat(np.arange(LATENTS), n), h).reshape(LATENTS, n, self.dimension)

    @property
    def nash_return(self) -> float:
        """Nash value of the game on observations: the closed form, corrected for the noise of the observations.

        Both see the same x, and the past says nothing about which live latent it shows. So a level is played at the
        posterior q(x) of live 0: V_h = kappa + w_h (V_{h+1} - kappa), w_h = E_x val(q p_0 + (1 - q) p_1).
        """
        c = self.config
        pass_value = np.full(c.horizon, 1.0 - c.delta)
        # Below an error of 1e-9 (noise .11) the two latents are never taken for each other.
        if c.observation == "rich" and c.noise > 0 and 0.5 * math.erfc(0.5 / c.noise) > 1e-9:
            pass_value = blurred_values(self.pass_probability, c.noise)
        value = 1.0
        for w in pass_value[::-1]:
            value = c.kappa + w * (value - c.kappa)
        return float(value)

    def exact(self) -> ExactModel:
        """The latent model (S = 3, or 3 m symbols) with its Nash values; phi = (pass, fail) and psi of rank 2."""
        return self._exact

    @cached_property
    def _exact(self) -> ExactModel:
        H, n, kappa = self.config.horizon, self.config.num_actions, self.config.kappa
        p = self.pass_probability.reshape(H, LATENTS, n * n)
        phi = np.stack([p, 1.0 - p], axis=-1)  # (H, 3, n n, 2)
        r = kappa * (1.0 - p)
        r[-1] += p[-1]
        r[:, DEAD] = 0.0
        V = np.zeros((H + 1, LATENTS))
        V[:H, :DEAD] = (kappa + (1.0 - self.config.delta) ** np.arange(H, 0, -1) * (1.0 - kappa))[:, None]
        # From latents to their symbols: a symbol has the phi, r and V of its latent, and an m-th of its chance.
        m = self.symbols.shape[1]
        latent = np.empty(self.symbols.size, dtype=np.int64)
        latent[self.symbols] = np.arange(LATENTS)[:, None]
        factors = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])[:, latent] / m
        phi, r, V = phi[:, latent], r[:, latent], V[:, latent]
        P = phi @ factors
        rich = self.config.observation == "rich"
        return ExactModel(
            P=P,
            r=r,
            rho=factors[0],
            phi=phi,
            psi=np.broadcast_to(factors.T, (H, *factors.T.shape)),
            V=V,
            Q=r + np.einsum("hsat,ht->hsa", P, V[1:]),
            observations_are_states=not rich,
            players=(n, n),
            emissions=self.emissions if rich else None,
        )

    def _draw(self, row: int) -> Frame:
        came = None if self._came is None else (int(self._came[0][row]), int(self._came[1][row]))
        return draw_lattice(self.pass_probability, self.h, int(self._latent[row]), came)


def pass_probabilities(keys: IntArray, blocks: IntArray, n: int, delta: float) -> FloatArray:
    """p(a, b) of every level and latent (H, 3, n, n) from keys and blocks (H, 2, 2); 0 in the dead latent."""
    H = len(keys)
    p = np.zeros((H, LATENTS, n, n))
    level, live = np.arange(H)[:, None], np.arange(DEAD)
    for i in range(2):
        p[level, live, keys[..., i]] = 1.0
        p[level, live, keys[..., i], blocks[..., i]] = 1.0 - 2.0 * delta
    return p


def blurred_values(p: FloatArray, noise: float, nodes: int = 801) -> FloatArray:
    """w_h = E val(q p_{h,0} + (1 - q) p_{h,1}) over the posterior q of live 0 under Gaussian noise: (H,).

    With x_0 - x_1 = +-1 + sqrt(2) noise g, g standard normal, the log odds are (x_0 - x_1) / noise^2. The trapezoid
    rule on [-7, 7] over g serves both latents, because exchanging the latents exchanges q and 1 - q.
    """
    H, _, n, _ = p.shape
    g = np.linspace(-7.0, 7.0, nodes)
    weight = np.exp(-0.5 * g**2)
    q = 1.0 / (1.0 + np.exp(-np.clip((1.0 + math.sqrt(2.0) * noise * g) / noise**2, -700.0, 700.0)))
    total = np.zeros(H)
    for right, wrong in ((p[:, 0], p[:, 1]), (p[:, 1], p[:, 0])):
        mixed = q[:, None, None] * right[:, None] + (1.0 - q)[:, None, None] * wrong[:, None]  # (H, nodes, n, n)
        total += nash(mixed.reshape(-1, n, n)).value.reshape(H, nodes) @ weight
    return np.asarray(total / (2.0 * weight.sum()))


def draw_lattice(p: FloatArray, h: int, state: int, came: tuple[int, int] | None) -> Frame:
    """Levels from left to right, latents from top to bottom, in each live cell the matrix p(a, b): picture of one row.

    Rows of a cell are the maximiser's actions, columns the minimiser's: dark red dies, green passes (a key), amber is
    a blocked key. The white frame is where the game stands; the dot is the joint action of the last step.
    """
    from PIL import Image, ImageDraw

    H, _, n, _ = p.shape
    unit, margin, left, top = max(4, 40 // n), 10, 44, 22
    cell = unit * n + margin
    image = Image.new("RGB", (left + (H + 1) * cell + margin, top + LATENTS * cell + margin), (24, 26, 32))
    draw = ImageDraw.Draw(image)
    for z, name in enumerate(("live 0", "live 1", "dead")):
        draw.text((4, top + z * cell + cell // 2 - 10), name, fill=(200, 200, 200))
    for level in range(H + 1):
        draw.text((left + level * cell + 2, 6), str(level) if level < H else "end", fill=(200, 200, 200))
        for z in range(LATENTS):
            x, y = left + level * cell, top + z * cell
            draw.rectangle((x, y, x + unit * n - 1, y + unit * n - 1), fill=(52, 55, 64))
            if level < H and z < DEAD:
                for a, b in np.ndindex(n, n):
                    value = p[level, z, a, b]
                    colour = (96, 30, 34) if value == 0.0 else (46, 150, 84) if value == 1.0 else (230, 160, 40)
                    box = (x + b * unit, y + a * unit, x + (b + 1) * unit - 2, y + (a + 1) * unit - 2)
                    draw.rectangle(box, fill=colour)
            if (level, z) == (h, state):
                draw.rectangle((x - 3, y - 3, x + unit * n + 1, y + unit * n + 1), outline=(255, 255, 255), width=2)
    if came is not None:
        a, b = divmod(came[1], n)
        x, y = left + (h - 1) * cell + b * unit, top + came[0] * cell + a * unit
        draw.ellipse((x + 1, y + 1, x + unit - 3, y + unit - 3), fill=(255, 255, 255))
    return np.array(image, dtype=np.uint8)
