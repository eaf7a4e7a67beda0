"""The features and the bonus for Stable-Baselines3's agents: a features extractor, and a wrapper of any VecEnv.

    ContrastiveExtractor     a pretrained encoder inside an SB3 policy, frozen or fine-tuned
    EllipticalBonusVecEnv    reward + beta ||phi(s,a)||_{Sigma^-1}, phi learned on the way

Counts are visits: gradient steps never touch Sigma, which is rebuilt from all visits when the features are frozen anew,
those that left the memory too (`past.py`). An SB3 replay buffer keeps the bonus of the moment a step was taken, so with
DQN old steps look more novel than they still are; `contrastive-ucb-deep` recomputes them. Observations must have their
channels first.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor

from rl_contrastive.config import Ge, Gt, Options, require, require_keys
from rl_contrastive.deep.bonus import make_bonus
from rl_contrastive.deep.bonus_config import BonusConfig, check_counts
from rl_contrastive.deep.config import RepresentationConfig
from rl_contrastive.deep.feature_net import FeatureConfig, FeatureLearner, ObsLayout, TransitionFeatures
from rl_contrastive.deep.past import Past
from rl_contrastive.errors import RlcError
from rl_contrastive.seeding import generator_state, restore_generator
from rl_contrastive.spec import Array, BoolArray, FloatArray, IntArray, State


def obs_layout(space: spaces.Space[Any], codes: tuple[int, ...] = ()) -> ObsLayout:
    """Shape and dtype of a Box, number of states of a Discrete; RlcError for what the encoders cannot read."""
    if isinstance(space, spaces.Discrete):
        require(int(space.start) == 0, f"sb3: states must be numbered from 0, got {space}.")
        return ObsLayout((), "int64", int(space.n))
    if not isinstance(space, spaces.Box):
        raise RlcError(f"sb3: observations must be a Box or Discrete space, got {space}.")
    if is_image_space(space) and not is_image_space_channels_first(space):
        raise RlcError(f"sb3: images must have their channels first, got {space.shape}; wrap in VecTransposeImage.")
    return ObsLayout(tuple(space.shape), np.dtype(space.dtype).name, codes=codes)


class ContrastiveExtractor(BaseFeaturesExtractor):
    """A pretrained encoder as the first layers of an SB3 policy; see `extractor_kwargs`.

    Each policy network gets a copy of its own (SB3's target networks must not share the online ones).
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features: TransitionFeatures,
        frozen: bool = True,
        output: Literal["encoder", "phi"] = "encoder",
    ) -> None:
        """frozen: no gradients. output: the encoder's vector, or what the bonus counts, of all actions, which is always
        frozen."""
        own = features.layout
        layout = obs_layout(observation_space, own.codes)
        require(layout == own, f"sb3: the features were learned on {own}, but the policy sees {layout}.")
        width = features.encoder.width if output == "encoder" else features.width
        super().__init__(observation_space, width)
        self.output, self._unchecked = output, layout.dtype == "uint8"
        self.features = copy.deepcopy(features).requires_grad_(not frozen and output == "encoder").eval()
        self.features.heads.requires_grad_(False)

    def forward(self, observations: Tensor) -> Tensor:
        """What SB3 preprocessed, as floats (N, ...) or one-hot states (N, S) -> (N, features_dim)."""
        if self.features.layout.num_states is not None:
            observations = observations.argmax(dim=-1)
        elif self._unchecked and bool(observations.any()):
            # Once, on the first picture that is not black: looking costs a wait for the device.
            whole = bool((observations == observations.round()).all())
            require(whole, "sb3: the policy scales images; pass normalize_images=False, as extractor_kwargs does.")
            self._unchecked = False
        if self.output == "phi":
            phi: Tensor = self.features(observations)
            return phi.flatten(1)
        out: Tensor = self.features.encoder(observations)
        return out

    def apply(self, fn: Any) -> ContrastiveExtractor:
        """Nothing: SB3's actor-critic policies fill all their layers anew by `apply`, which would undo the training."""
        return self


def extractor_kwargs(
    features: TransitionFeatures, *, frozen: bool = True, output: Literal["encoder", "phi"] = "encoder", **others: Any
) -> dict[str, Any]:
    """`policy_kwargs` of an SB3 agent: PPO("MlpPolicy", env, policy_kwargs=extractor_kwargs(features))."""
    return {
        "features_extractor_class": ContrastiveExtractor,
        "features_extractor_kwargs": {"features": features, "frozen": frozen, "output": output},
        "normalize_images": False,  # the encoder scales bytes itself, and codes have no scale
        **others,
    }


@dataclass(frozen=True)
class EllipticalBonusConfig(Options, where="sb3 bonus"):
    """The bonus and the learning of its features."""

    beta: Annotated[float, Ge(0)] = 0.05
    """Scale of the bonus, in units of reward; a first visit gets beta / sqrt(lambda)."""
    counts: BonusConfig = field(default_factory=lambda: BonusConfig(kind="elliptical", lam=0.001))
    """How visits are counted. Features of length 1 differ in directions of little length: a large lambda hides them."""
    growth: Annotated[float, Gt(0)] = 0.2
    """Freeze the features anew and rebuild Sigma when the visits grew by this fraction."""
    warm_start: Annotated[int, Ge(2)] = 500
    """Visits before the first gradient step; until the first freeze the features are random ones."""
    train_every: Annotated[int, Ge(1)] = 4
    """Visits between two gradient steps."""
    features: FeatureConfig = field(
        default_factory=lambda: FeatureConfig(representation=RepresentationConfig(features="unit"))
    )
    """Networks, memory and descent."""
    codes: Annotated[tuple[int, ...], Ge(1)] = ()
    """How many values each of the C planes of an observation has, where they are codes and no brightness:
    (11, 6, 3) for MiniGrid's images, channels first. They are read one-hot."""

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = ("tiles", "elliptical")
        require(
            self.counts.kind in kinds, f"sb3 bonus: counts.kind must be tiles or elliptical, got {self.counts.kind}."
        )
        check_counts(self.counts, self.features.representation)


class EllipticalBonusVecEnv(VecEnvWrapper):
    """Adds beta ||phi(s_t,a_t)||_{Sigma^-1} to the rewards of a VecEnv, then counts the visits.

    `infos[i]` keeps both parts: "extrinsic" and "bonus". With `training = False` rewards pass unchanged and nothing is
    counted or learned, for evaluation. Wrap VecNormalize around this, not inside: stored observations must keep their
    meaning. Episodes are not cut: at an episode's end the successor is `terminal_observation`.
    """

    def __init__(self, venv: VecEnv, config: EllipticalBonusConfig | None = None, *, rng: np.random.Generator) -> None:
        super().__init__(venv)
        action_space = venv.action_space
        if not isinstance(action_space, spaces.Discrete) or int(action_space.start) != 0:
            raise RlcError(f"sb3 bonus: actions must be a Discrete space from 0, got {action_space}.")
        self.bonus_config = config or EllipticalBonusConfig()
        self.training = True
        self.rng = rng
        features = self.bonus_config.features
        layout = obs_layout(venv.observation_space, self.bonus_config.codes)
        self.learner = FeatureLearner(layout, int(action_space.n), features, rng=rng)
        self.counts = make_bonus(
            self.bonus_config.counts,
            features.capacity,
            int(action_space.n),
            features.representation.dim,
            beta=self.bonus_config.beta,
            rng=rng,
            of_states=features.representation.of_states,
        )
        room = min(self.bonus_config.counts.past, features.capacity)
        # A generator of its own: whatever left the memory, the same batches are drawn.
        self.past = Past(room, layout.shape, layout.dtype, rng=np.random.default_rng(0))
        self.rebuilt_at = 0
        """Visits at the last rebuild; 0: the features are still random."""
        self.report: dict[str, Tensor] = {}
        """Loss of the last gradient step."""
        self._obs: Array | None = None
        self._action: IntArray = np.zeros(venv.num_envs, dtype=np.int64)

    def reset(self) -> Any:
        obs = self.venv.reset()
        self._obs = np.array(obs)
        return obs

    def step_async(self, actions: Array) -> None:
        self._action = np.array(actions, dtype=np.int64).reshape(-1)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        if self.training:
            bonus = self._visit(np.asarray(obs), dones, infos)
            for row, info in enumerate(infos):
                info["extrinsic"], info["bonus"] = float(rewards[row]), float(bonus[row])
            rewards = rewards + bonus.astype(rewards.dtype)
        self._obs = np.array(obs)
        return obs, rewards, dones, infos

    def _visit(self, obs: Array, dones: BoolArray, infos: list[dict[str, Any]]) -> FloatArray:
        """The bonuses (B,) by the visits of before, then these B are counted and learned from."""
        require(self._obs is not None, "sb3 bonus: reset() comes before step().")
        assert self._obs is not None
        successor = np.array(obs)
        for row in np.flatnonzero(dones):
            require("terminal_observation" in infos[row], "sb3 bonus: an ended episode has no terminal_observation.")
            successor[row] = infos[row]["terminal_observation"]
        self.past.add(*self.learner.leaving(len(self._action)), self._taken)
        place = self.learner.store(self._obs, self._action, successor)
        self.counts.store(place, self.learner.net.phi(self._obs))
        bonus = self.counts.taken(place, self._action)
        self.counts.visit(place, self._action)
        self._learn(len(place))
        return bonus

    def _learn(self, new: int) -> None:
        config, visits = self.bonus_config, self.counts.visits
        if visits < config.warm_start:
            return
        if self.learner.steps == 0:
            self.learner.standardise()
        for _ in range(visits // config.train_every - (visits - new) // config.train_every):
            self.report = {"loss": self.learner.step()}
        if visits >= (1.0 + config.growth) * self.rebuilt_at and self.learner.steps > 0:
            self._rebuild()
            self.rebuilt_at = visits

    def _rebuild(self) -> None:
        self.learner.net.freeze()
        phi = self.learner.net.phi
        left = round(4096 * self.past.visits / self.counts.visits)  # each visit counts, wherever it is kept
        sample = self.learner.sample(4096 - left)
        if left:
            sample = np.concatenate([sample, phi(*self.past.some(left))])
        gone = ((phi(obs), action, weight) for obs, action, weight in self.past.chunks())
        self.counts.rebuild(sample, self.learner.visits(), gone)

    def _taken(self, obs: Array, action: IntArray) -> Array:
        """What the bonus counts of observations (n, ...) and actions (n,) today."""
        return self.counts.key_taken(self.learner.net.phi(obs), action)

    def state_dict(self) -> State:
        """Everything but the environment: the same calls afterwards give the same bytes."""
        return {
            "learner": self.learner.state_dict(),
            "counts": self.counts.state_dict(),
            "past": self.past.state_dict(),
            "rebuilt_at": self.rebuilt_at,
            "rng": generator_state(self.rng),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes. `reset` must follow."""
        require_keys(state, ("learner", "counts", "past", "rebuilt_at", "rng"), "sb3 bonus")
        self.learner.load_state_dict(state["learner"])
        self.counts.load_state_dict(state["counts"])
        self.past.load_state_dict(state["past"])
        self.rebuilt_at = int(state["rebuilt_at"])
        restore_generator(self.rng, state["rng"])
        self._obs = None
