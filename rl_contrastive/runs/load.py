"""Opens finished runs: from a run folder to the trained agent, and to the game that several runs share.

Matches, replays and best responses use trained agents. An agent is built as its run built it, and its state is read
from the run's last checkpoint. Nothing is trained or written here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive import registry
from rl_contrastive.acting import sample
from rl_contrastive.config import from_dict, require
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.checkpoint import NEWEST, PREVIOUS, has_state, read_state
from rl_contrastive.runs.evaluate import checked_policy
from rl_contrastive.runs.folder import CHECKPOINT, CONFIG
from rl_contrastive.runs.rollout import close
from rl_contrastive.runs.run import build, for_evaluation, read_summary
from rl_contrastive.runs.run_config import RunConfig, read_config, require_identity, require_trust, resolve
from rl_contrastive.spec import Agent, Array, Env, EnvSpec, FloatArray, State, marginals, product


@dataclass(frozen=True)
class Trained:
    """One run, ready to play."""

    folder: Path
    config: RunConfig
    agent: Agent
    spec: EnvSpec

    @property
    def label(self) -> str:
        """The agent's name in tables and plots."""
        return self.config.shown_agent

    def make_env(self, rows: int, *, drawn: bool = False) -> Env:
        """The run's environment with this many rows; `drawn`: able to render, if it can."""
        return make_env(self.config, rows, drawn=drawn)

    def player(self, *, seed: int = 0) -> Player:
        """A player for your own environment, one observation at a time; seed: for random actions."""
        return Player(self, seed)


class Player:
    """Plays the evaluated policy on raw observations and actions, those of the environment behind the adapter.

        player = load_trained("runs/...").player()
        player.reset()                     # before each episode
        action = player.act(observation)   # of every step, in order

    It converts observations (features, state numbers, stacked frames, the step) and action numbers as in training. In a
    game, observations and actions are those of both players (`pettingzoo:` dictionaries).
    """

    def __init__(self, trained: Trained, seed: int) -> None:
        self._agent, self._spec = trained.agent, trained.spec
        self._env: Any = trained.make_env(1)
        whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool) and seed >= 0
        require(bool(whole), f"player: seed must be a whole number >= 0, got {seed!r}.")
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self.h = 0
        """Steps of the episode so far."""

    def reset(self) -> None:
        """A new episode begins."""
        self.h = 0

    def act(self, observation: Any) -> Any:
        """The action for one raw observation, sampled where the policy is random."""
        spec = self._spec
        hint = "call reset() when an episode begins"
        require(self.h < spec.horizon, f"{spec.name}: an episode has at most {spec.horizon} steps: {hint}.")
        encode, decode = (getattr(self._env, name, None) for name in ("encode", "decode"))
        if not isinstance(observation, dict | tuple) or encode is None:  # those of several players, or parts
            kind = np.asarray(observation).dtype.kind
            require(kind in "biuf", f"{spec.name}: an observation is made of numbers, got {observation!r}.")
        obs = np.asarray(observation)[None] if encode is None else encode(observation)
        have = f"{spec.obs_shape} of {spec.obs_dtype}"
        require(obs.shape[1:] == spec.obs_shape, f"{spec.name}: an observation has shape {have}, got {obs.shape[1:]}.")
        if spec.num_states is not None:
            state = obs.dtype.kind in "iu" and 0 <= obs[0] < spec.num_states
            hint = f"a whole number in 0..{spec.num_states - 1}"
            require(state, f"{spec.name}: an observation is {hint}, got {observation!r}.")
        require(bool(np.isfinite(obs).all()), f"{spec.name}: an observation must be finite, got {observation!r}.")
        policy = checked_policy(self._agent, obs, self.h, spec.num_actions, explore=False)
        self.h += 1
        action = int(sample(policy, rng=self._rng)[0])
        return action if decode is None else decode(action)


def load_agent(
    path: Path | str, *, trust_imports: bool = False, previous: bool = False, unfinished: bool = False
) -> tuple[Agent, RunConfig]:
    """The trained agent of a run folder, and the config that names its environment; RlcError unless it finished, or has
    a checkpoint where `unfinished` ones will do.

    trust_imports: run the Python files that the folder's config.json names. Without it, RlcError if it names some that
    this process has not imported. previous: if the last checkpoint is damaged, load the one before, an older agent.

    Its folder `replay` is not read, so agents that store one there (`spec.Agent`) can then play, but not learn.
    """
    require(isinstance(path, str | os.PathLike), f"load takes the path of a run folder, got {path!r}.")
    path = Path(path)  # a text is a path as well
    config = read_config(path)
    summary = read_summary(path) or {}
    # A failed run has no final policy, and a stopped one has not reached its own.
    finished = summary.get("status") == "finished"
    require(finished or unfinished, f"{path} is no finished run: go on with `rlc resume {path}` first.")
    require(
        has_state(path / CHECKPOINT),
        f"{path} has no checkpoint, so its {config.agent} cannot play: agents with a training loop of their own keep "
        "none (sb3-ppo-selfplay does).",
    )
    require_trust(config, path, trust_imports)
    config = resolve(config)
    state = _last_state(path, summary if finished else None, previous)
    require_identity(path, state.get("run"), config)
    agent, env, eval_env = build(config)
    agent.load_state_dict(state["agent"])
    close(env, eval_env)
    return agent, config


def _last_state(path: Path, summary: dict[str, Any] | None, previous: bool) -> State:
    """The checkpoint that a finished run ended with, or the one before it; of another run (no summary) the newest."""
    if previous:
        return read_state(path / CHECKPOINT / PREVIOUS)
    hint = "`--previous` (previous=True in Python) takes the one before, an older agent"
    try:
        state = read_state(path / CHECKPOINT / NEWEST)
    except RlcError as error:
        raise RlcError(f"{error} It is the run's last checkpoint; {hint}.") from error
    if summary is None:
        return state
    progress = state.get("progress")
    counted = progress.get("episodes") if isinstance(progress, dict) else None
    ended = summary.get("episodes")
    require(
        counted == ended,
        f"{path / CHECKPOINT / NEWEST} is of episode {counted}, but the run ended at {ended}: it is not the run's last "
        f"checkpoint; {hint}.",
    )
    return state


def load_trained(
    path: Path | str, *, trust_imports: bool = False, previous: bool = False, unfinished: bool = False
) -> Trained:
    """`load_agent` with its folder and its environment's spec."""
    agent, config = load_agent(path, trust_imports=trust_imports, previous=previous, unfinished=unfinished)
    env = make_env(config, 1)
    spec = env.env_spec
    close(env)
    return Trained(Path(path), config, agent, spec)


def make_env(config: RunConfig, rows: int, *, drawn: bool = False) -> Env:
    """The environment of a run with `rows` rows, as the run's policy is evaluated on it.

    drawn: environments made by other libraries, whose configs hold JSON `kwargs`, are asked for render_mode rgb_array;
    those with a field `render` are told to be ready to draw.
    """
    entry, _ = registry.get("env", config.env)
    fields = dict(config.env_config)
    if drawn and isinstance(fields.get("kwargs"), str):
        fields["kwargs"] = json.dumps({**json.loads(fields["kwargs"]), "render_mode": "rgb_array"})
    if drawn and isinstance(fields.get("render"), bool):
        fields["render"] = True
    values: Any = from_dict(entry.config, fields, "env.")
    env: Env = entry.factory(for_evaluation(values), rows)
    return env


def find_trained(folders: Sequence[Path]) -> list[Path]:
    """Run folders at or below the given ones, each once, by name."""
    found: dict[Path, Path] = {}
    for folder in folders:
        require(folder.is_dir(), f"there is no folder {folder}.")
        for path in sorted(folder.rglob(CONFIG)):
            found.setdefault(path.parent.resolve(), path.parent)
    listed = ", ".join(str(folder) for folder in folders)
    require(len(found) > 0, f"no run folder ({CONFIG}) at or below {listed}.")
    return [found[key] for key in sorted(found)]


def load_all(
    folders: Sequence[Path], *, trust_imports: bool = False, previous: bool = False
) -> tuple[list[Trained], list[str]]:
    """The runs at or below `folders`, loaded as by `load_agent`, and a sentence for each that cannot play.

    RlcError if a run given directly cannot play, or if none can.
    """
    named = {folder.resolve() for folder in folders}
    runs, left_out = [], []
    for path in find_trained(folders):
        try:
            runs.append(load_trained(path, trust_imports=trust_imports, previous=previous))
        except RlcError as error:
            if path.resolve() in named:
                raise
            left_out.append(f"left out: {error}")
    require(len(runs) > 0, left_out[0].removeprefix("left out: ") if left_out else "there is no run that can play.")
    return runs, left_out


def require_game(run: Trained) -> tuple[int, int]:
    """(A, B) of the run's game; RlcError if it was trained on an environment of one agent."""
    require(run.spec.players is not None, f"{run.folder}: {run.spec.name} is no two-player game.")
    return run.spec.game


def require_same_env(runs: Sequence[Trained]) -> None:
    """RlcError unless all runs were trained on the same environment with the same settings."""
    first = runs[0]
    for run in runs[1:]:
        require(
            run.config.env == first.config.env,
            f"{run.folder} plays {run.config.env}, but {first.folder} plays {first.config.env}: give runs of one game.",
        )
        mine, others = run.config.env_config, first.config.env_config
        differ = sorted(key for key in {*mine, *others} if mine.get(key) != others.get(key))
        settings = ", ".join(f"{key} {mine.get(key)} and {others.get(key)}" for key in differ)
        require(not differ, f"{run.folder} and {first.folder} play {run.config.env} with different {settings}.")


class Versus:
    """Max plays the marginal mu of one agent, min the marginal nu of another: a policy for `evaluate.evaluate`."""

    def __init__(self, maximiser: Agent, minimiser: Agent, players: tuple[int, int]) -> None:
        self.maximiser, self.minimiser, self.players = maximiser, minimiser, players

    def policy(self, obs: Array, h: int, *, explore: bool = False) -> FloatArray:
        """mu(a) nu(b) as joint probabilities (N, A B)."""
        mu, _ = side_policies(self.maximiser, obs, h, self.players, explore=explore)
        _, nu = side_policies(self.minimiser, obs, h, self.players, explore=explore)
        return product(mu, nu)


def side_policies(
    agent: Agent, obs: Array, h: int, players: tuple[int, int], *, explore: bool = False
) -> tuple[FloatArray, FloatArray]:
    """mu (N, A) and nu (N, B) of an agent, each summing to 1 to the last bit that a division gives."""
    joint = checked_policy(agent, obs, h, players[0] * players[1], explore=explore)
    mu, nu = marginals(joint, players)
    return mu / mu.sum(axis=1, keepdims=True), nu / nu.sum(axis=1, keepdims=True)


def returns_can_be_negative(spec: EnvSpec) -> bool:
    """Whether a return above 0 is a win: not so where all rewards are >= 0."""
    return bool(np.isinf(spec.reward_range[0]) or spec.reward_range[0] < 0)
