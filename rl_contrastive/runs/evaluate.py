"""Evaluates the policy: Monte-Carlo returns on separate seeds, and the exact value where the model is known.

Both ask the agent only for action probabilities, so an evaluation never changes its training data. Evaluation number
`index` of a run uses the stream ("evaluation", index): it depends on no training seed and on no earlier evaluation.
Rows whose episodes are over wait for the longest one: a policy without memory is not asked about them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_contrastive.acting import sample
from rl_contrastive.config import require
from rl_contrastive.planning.behaviour import policy_value
from rl_contrastive.runs.rollout import play
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import (
    Agent,
    Array,
    BoolArray,
    Env,
    ExactModel,
    FloatArray,
    IntArray,
    WithLayers,
    is_memoryless,
)

MOST_ROWS = 256
"""Largest number of rows of an evaluation environment; more episodes are played in several batches."""
MOST_ENTRIES = 6e7
"""Largest size of P (all different kernels) that is built without being asked for (480 MB of float64)."""


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns (n,) of n episodes, and the steps taken by all rows that were played."""

    returns: FloatArray
    steps: int = 0

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def sem(self) -> float:
        """Standard error of the mean; 0 for a single episode."""
        n = len(self.returns)
        return float(self.returns.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0


def evaluate(
    agent: Agent, env: Env, episodes: int, *, tree: SeedTree, index: int = 0, explore: bool = False
) -> Evaluation:
    """Play `episodes` episodes of the bonus-free policy (explore=True: the optimistic one) in batches of env rows."""
    require(episodes >= 1, f"evaluate: episodes must be >= 1, got {episodes}.")
    rows, num_actions = env.num_envs, env.env_spec.num_actions
    batches = -(-episodes // rows)
    seeds = tree.env_seeds("evaluation", index, batches * rows)
    rng = tree.generator("evaluation", index, 1)  # apart from the seeds' sequence, whose key has no 1

    skips = is_memoryless(agent) and env.env_spec.frame_stack == 1
    going: BoolArray = np.ones(rows, dtype=np.bool_)

    def act(obs: Array, h: int) -> IntArray:
        asked = going if skips and not going.all() else slice(None)
        probabilities = np.full((rows, num_actions), 1.0 / num_actions)
        probabilities[asked] = checked_policy(agent, obs[asked], h, num_actions, explore=explore)
        return sample(probabilities, rng=rng)

    returns, steps = np.zeros(batches * rows), 0
    for b in range(batches):
        total, going[:] = returns[b * rows : (b + 1) * rows], True
        for step in play(env, seeds[b * rows : (b + 1) * rows], act):
            total[step.alive] += step.reward[step.alive]
            steps += int(np.count_nonzero(step.alive))
            going[:] = step.alive & ~step.boundary
    return Evaluation(returns[:episodes], steps)


def checked_policy(agent: Agent, obs: Array, h: int, num_actions: int, *, explore: bool) -> FloatArray:
    """`agent.policy` with its contract checked: (N, A), no negative or missing probability, rows that sum to 1."""
    probabilities = np.asarray(agent.policy(obs, h, explore=explore), dtype=np.float64)
    require(
        probabilities.shape == (len(obs), num_actions),
        f"the policy at h={h} has shape {probabilities.shape}, not {(len(obs), num_actions)}.",
    )
    # Written so that NaN fails; 1e-4 because a softmax in float32 is no better.
    fine = (probabilities >= 0).all() and (np.abs(probabilities.sum(axis=1) - 1.0) < 1e-4).all()
    require(bool(fine), f"the policy at h={h} is no distribution over actions (NaN, negative, or sum not 1).")
    return probabilities


def policy_table(agent: Agent, model: ExactModel, *, explore: bool) -> FloatArray:
    """pi (H, S, A): the policy at each state index."""
    H, S, A = model.r.shape
    states = np.arange(S, dtype=np.int64)
    return np.stack([checked_policy(agent, states, h, A, explore=explore) for h in range(H)])


def exact_evaluation(agent: Agent, model: ExactModel, *, explore: bool) -> float:
    """rho . V^pi_0 of the agent's bonus-free (explore=False) or optimistic policy; needs observations = states."""
    require(model.observations_are_states, "exact evaluation needs an environment whose observations are its states.")
    return policy_value(model, policy_table(agent, model, explore=explore))


def exact_model(env: Env, mode: str = "auto") -> ExactModel | None:
    """The true model for exact metrics, or None.

    "auto": tabular observations and at most MOST_ENTRIES of P, or a game that can sample its emissions; "always":
    whatever the size, and an error where there is none; "never": None.
    """
    spec = env.env_spec
    if mode == "never":
        return None
    S, kernels = spec.num_states, 1 if spec.stationary else spec.horizon
    if mode == "auto" and S is None and spec.players is None:
        return None
    if mode == "auto" and S is not None and S * S * spec.num_actions * kernels > MOST_ENTRIES:
        return None
    model = env.exact()
    if model is None and isinstance(env, WithLayers):
        return None  # its values are those of `oracle.LayeredOracle`
    # A policy over rich observations has a value on latent states only by averaging over emissions (games do).
    usable = model is not None and (model.observations_are_states or model.emissions is not None)
    require(usable or mode == "auto", f"{spec.name}: there is no exact model over its observations.")
    return model if usable else None
