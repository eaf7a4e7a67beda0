"""A trained run at play, with what its features show of each step: the transitions that `rlc diagnose` looks at.

The policy that is handed out plays, with a small share of uniform actions: a policy that has solved a deterministic
task shows one path and nothing beside it. Of long runs every second transition is dropped again and again, so that at
most 2 MOST of them are held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from rl_contrastive.acting import sample
from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.features.embedded import factors, has_factors
from rl_contrastive.runs.evaluate import MOST_ROWS, checked_policy, exact_model
from rl_contrastive.runs.load import Trained
from rl_contrastive.runs.rollout import close, play
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import Array, Embedded, Env, FloatArray, IntArray, Transition, WithFeatures

MOST = 10_000
"""Transitions of all steps."""
FRESH = 1_000_002
"""Number of the first evaluation whose seeds these episodes have: no training reaches it."""
AGENTS = "contrastive-ucb, contrastive-ucb-game, contrastive-ucb-deep, contrastive-lsvi and rep-ucb do"
Labels = tuple[IntArray, IntArray, IntArray]
"""Latents of s and of s', and numbers of (s,a): equal ones have one law of s'; each (N,)."""


@dataclass(frozen=True)
class Watched:
    """N transitions: all arrays have N rows."""

    phi: FloatArray
    psi: FloatArray
    level: IntArray
    """Feature space, as in `spec.Embedded`."""
    step: IntArray
    reward: FloatArray
    latent: IntArray
    """Of s, or the likeliest factor of (s,a); -1 where the environment has none."""
    next_latent: IntArray
    """Of s'."""
    alike: IntArray
    """Pairs (s,a) with one number have one law of s': what phi should show as one."""

    @property
    def embedded(self) -> Embedded:
        return Embedded(self.phi, self.psi, self.level)

    def take(self, rows: Any) -> Watched:
        """Some rows."""
        return Watched(**{name: column[rows] for name, column in vars(self).items()})


def watch(run: Trained, *, episodes: int, epsilon: float, seed: int) -> tuple[Watched, str]:
    """Play, and say what the latents are: "latent state", "factor", "state", or "" where there are none."""
    fit = isinstance(run.agent, WithFeatures)
    require(fit, f"{run.folder}: {run.config.agent} learns no features of this kind; {AGENTS}.")
    group = run.spec.group
    env = run.make_env(-(-min(episodes, MOST_ROWS) // group) * group)
    parts: list[Watched] = []
    stride = 1
    try:
        kind, labels = labelled(env)
        for index in range(-(-episodes // env.num_envs)):
            for found in _episodes(run, env, labels, seed, index, epsilon):
                parts.append(found if stride == 1 else found.take(np.arange(len(found.step)) % stride == 0))
                if sum(len(part.step) for part in parts) > 2 * MOST:
                    parts, stride = [part.take(slice(None, None, 2)) for part in parts], 2 * stride
    finally:
        close(env)
    return Watched(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0]))), kind


def has_latents(env: Env) -> bool:
    """Whether the environment tells its latent states: the base class of most has the method and only raises."""
    return bool(getattr(env, "tells_latents", hasattr(env, "latent_states")))


def labelled(env: Env) -> tuple[str, Callable[[Transition, Array, Array], Labels]]:
    """What is known of the truth, and a function of a step and of the latent states before and after it."""
    A, model = env.env_spec.num_actions, exact_model(env) if env.env_spec.num_states is not None else None
    if model is not None and has_factors(model):

        def by_factor(step: Transition, before: Array, after: Array) -> Labels:
            level = np.full(len(step.action), step.h)
            pair, successor = factors(model, level, step.obs, step.action, step.next_obs)
            return pair, successor, pair

        return "factor", by_factor
    if env.env_spec.num_states is not None:
        return "state", lambda step, before, after: (step.obs, step.next_obs, step.obs * A + step.action)
    if has_latents(env):
        return "latent state", lambda step, before, after: (before, after, before * A + step.action)

    def unknown(step: Transition, before: Array, after: Array) -> Labels:
        none = np.full(len(step.action), -1)
        return none, none, none

    return "", unknown


def _episodes(run: Trained, env: Any, labels: Any, seed: int, index: int, epsilon: float) -> Any:
    """The transitions of one batch of episodes, step by step; of rows that still play."""
    agent: Any = cast(Any, run.agent)
    A, tree = run.spec.num_actions, SeedTree(seed)
    rng = tree.generator("evaluation", FRESH + index, 1)
    known = has_latents(env)
    before: Any = None

    def act(obs: Array, h: int) -> IntArray:
        nonlocal before
        before = env.latent_states() if known and h == 0 else before
        planned = sample(checked_policy(agent, obs, h, A, explore=False), rng=rng)
        uniform, some = rng.integers(A, size=len(obs)), rng.random(len(obs)) < epsilon
        return np.where(some, uniform, planned)

    for step in play(env, tree.env_seeds("evaluation", FRESH + index, env.num_envs), act):
        found = agent.embed(step.h, step.obs, step.action, step.next_obs)
        if found is None:
            hint = "it was trained too shortly, or without a bonus on features"
            raise RlcError(f"{run.folder}: this {run.config.agent} has learned no features: {hint}.")
        after = env.latent_states() if known else None
        columns = (found.phi, found.psi, found.level, np.full(len(step.action), step.h), step.reward)
        yield Watched(*columns, *labels(step, before, after)).take(step.alive)
        before = after
