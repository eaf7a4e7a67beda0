"""Learned features as the first layers of a Stable-Baselines3 policy. Observations must have their channels first."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from rl_contrastive.config import require
from rl_contrastive.deep.feature_net import ObsLayout, TransitionFeatures
from rl_contrastive.errors import RlcError


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
