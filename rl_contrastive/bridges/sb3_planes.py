"""Convolutions for the SB3 baselines: the flat vectors of `sb3_view` as planes again, the clock beside them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from rl_contrastive.config import require


class Planes(BaseFeaturesExtractor):
    """(N, C rows columns + clock) -> (N, width): 3 x 3 convolutions with ReLUs of the planes, then the clock as it is.

    One convolution of 16 channels is that of MinAtar's own DQN (Young and Tian 2019), and of `contrastive-ucb-deep`.
    """

    def __init__(self, observation_space: spaces.Box, obs_shape: tuple[int, ...], channels: tuple[int, ...]) -> None:
        """obs_shape: (C, rows, columns). channels: output channels of the convolutions, at least one."""
        least = 2 * len(channels) + 1
        fits = len(obs_shape) == 3 and min(obs_shape[1:]) >= least
        require(fits, f"sb3: {len(channels)} convolutions need planes (C, >= {least}, >= {least}), got {obs_shape}.")
        self.planes = math.prod(obs_shape)
        clock = math.prod(observation_space.shape) - self.planes
        rows, columns = (side - least + 1 for side in obs_shape[1:])
        super().__init__(observation_space, channels[-1] * rows * columns + clock)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((obs_shape[0], *channels)):
            layers += [nn.Conv2d(before, after, 3), nn.ReLU()]
        self.body = nn.Sequential(nn.Unflatten(1, obs_shape), *layers, nn.Flatten())

    def forward(self, observations: Tensor) -> Tensor:
        """Vectors as floats."""
        planes, clock = observations[:, : self.planes], observations[:, self.planes :]
        return torch.cat([self.body(planes), clock], dim=1)


def planes_kwargs(obs_shape: tuple[int, ...], channels: tuple[int, ...]) -> dict[str, Any]:
    """SB3's `policy_kwargs` for these convolutions."""
    return {
        "features_extractor_class": Planes,
        "features_extractor_kwargs": {"obs_shape": obs_shape, "channels": channels},
    }
