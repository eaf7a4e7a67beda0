"""One batch of episodes as a stream of transitions: the three autoreset modes and early endings, in one place.

Training and evaluation both use `play`, so "final observation", `discount` and `alive` are defined in one place. All
rows start together (`reset` with one seed per row), and h counts from 0. A row that ended stays in the batch, masked
out by `alive`, until no row is alive.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, BoolArray, Env, FloatArray, IntArray, Transition


def play(env: Env, seeds: Sequence[int], act: Callable[[Array, int], IntArray]) -> Iterator[Transition]:
    """Yield the transitions h = 0, 1, ... of one episode per row; `act` is asked after step h - 1 was consumed."""
    spec, mode = env.env_spec, autoreset_mode(env)
    obs, _ = env.reset(seed=list(seeds))
    alive = np.ones(env.num_envs, dtype=np.bool_)
    for h in range(spec.horizon):
        action = act(obs, h)
        following, reward, terminated, truncated, info = env.step(action)
        reward = np.asarray(reward, dtype=np.float64)
        if np.count_nonzero(np.isfinite(reward)) != reward.size:
            _check_rewards(spec.name, reward, alive, h)
        ended: BoolArray = terminated | truncated
        next_obs = final_observations(following, info, ended) if mode == AutoresetMode.SAME_STEP else following
        if h == spec.horizon - 1:
            boundary = alive.copy()  # the horizon ends what the environment did not
        else:
            boundary = alive & ended
        cut = terminated | info["life_lost"] if spec.life_loss else terminated
        discount = 1.0 - cut
        yield Transition(h, obs, action, reward, next_obs, discount, boundary, alive)
        alive = alive & ~ended
        if not np.count_nonzero(alive):
            return
        obs = following
        if mode == AutoresetMode.DISABLED and ended.any():
            # Ended rows are reset only because they may not be stepped again; what they show is masked out.
            obs, _ = env.reset(options={"reset_mask": ended})


def autoreset_mode(env: Env) -> AutoresetMode:
    """The declared mode of a vector environment; gymnasium's default is NEXT_STEP."""
    metadata: dict[str, Any] = getattr(env, "metadata", None) or {}
    return AutoresetMode(metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))


def final_observations(following: Array, info: dict[str, Any], ended: BoolArray) -> Array:
    """SAME_STEP: final observations of ended rows come in the info, `following` has the new episodes' first ones."""
    rows = np.flatnonzero(ended)
    if not len(rows):
        return following
    require("final_obs" in info, "the environment resets in the same step but gives no final_obs in its info.")
    next_obs = np.array(following)
    # Row by row: gymnasium hands out an object array, other environments a plain batch.
    next_obs[rows] = np.stack([np.asarray(info["final_obs"][row]) for row in rows])
    return next_obs


def close(*envs: Env) -> None:
    """Close environments that are no longer needed. A failure is only reported on stderr, because the results are
    already there."""
    for env in envs:
        try:
            env.close()
        except Exception as error:  # noqa: BLE001 - a user's code, and nothing depends on it
            text = " ".join(str(error).split())
            print(f"rlc: warning: closing {env.env_spec.name} raised {type(error).__name__}: {text}.", file=sys.stderr)


@contextmanager
def step_limit(envs: Sequence[Any], seconds: float | None) -> Iterator[None]:
    """Within it a step or reset of `envs` that takes longer than `seconds` raises RlcError; None: no limit.

    It uses an alarm signal, so it works in the main thread only. A step that hangs in native code is interrupted only
    when it returns.
    """
    if seconds is None:
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise RlcError(f"a step of the environment took longer than step_seconds, {seconds:g} s.")

    def limited(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            signal.setitimer(signal.ITIMER_REAL, seconds, seconds)  # again and again: the environment may catch it
            try:
                return work(*args, **keywords)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0.0)

        return call

    require(threading.current_thread() is threading.main_thread(), "step_seconds works in the main thread only.")
    before = signal.signal(signal.SIGALRM, ring)
    own = [(env, env.step, env.reset) for env in envs]
    for env, step, reset in own:
        env.step, env.reset = limited(step), limited(reset)
    try:
        yield
    finally:
        for env, step, reset in own:
            env.step, env.reset = step, reset
        signal.signal(signal.SIGALRM, before)


def _check_rewards(name: str, reward: FloatArray, alive: BoolArray, h: int) -> None:
    bad = np.flatnonzero(~np.isfinite(reward) & alive)
    if len(bad):
        raise RlcError(f"{name}: the reward of step h={h} is {reward[bad[0]]} in row {bad[0]}; it must be finite.")
