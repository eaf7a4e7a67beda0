"""Self-prediction (SPR): the encoder's vectors of the next K steps, predicted from the first one and the actions.

    zhat_0 = enc(o_t),  zhat_k = T(zhat_{k-1}, a_{t+k-1}),
    loss = mean over the real steps of 1 - cos(q(p(zhat_k)), p'(z'_k)),

with z'_k = enc'(o_{t+k}). enc' and p' follow enc and p as moving averages and get no gradient. q predicts on the
online side only, and this keeps the vectors from collapsing. Source: Schwarzer et al. 2021, Section 2, with
vectors in place of convolutional maps. There are no negatives here: the contrastive loss is `representation.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from rl_contrastive.config import require
from rl_contrastive.deep.config import SelfPredictionConfig
from rl_contrastive.deep.networks import RELU_GAIN, linear
from rl_contrastive.deep.weights import follow, frozen_copy


class SelfPrediction(nn.Module):
    """T, p, q and the target p', for vectors of an encoder of this width."""

    def __init__(self, width: int, num_actions: int, config: SelfPredictionConfig, *, rng: torch.Generator) -> None:
        super().__init__()
        self.config, self.num_actions = config, num_actions

        def layer(inputs: int, outputs: int, gain: float) -> nn.Linear:
            return linear(inputs, outputs, gain=gain, init="orthogonal", rng=rng)

        # The action enters as a bias of its own: W [z, e_a] = W_z z + b_a.
        self.state = layer(width, config.hidden, RELU_GAIN)
        self.action = nn.Parameter(torch.zeros(num_actions, config.hidden, device=rng.device))
        with torch.no_grad():
            # A unit vector e_a has the same weight as a unit vector z, as the columns of W_z have length sqrt 2, too.
            self.action.normal_(0.0, RELU_GAIN / config.hidden**0.5, generator=rng)
        self.out = layer(config.hidden, width, RELU_GAIN)
        self.project = layer(width, config.dim, 1.0)
        self.predict = layer(config.dim, config.dim, 1.0)
        self.target = frozen_copy(self.project)

    def transition(self, z: Tensor, action: Tensor) -> Tensor:
        """T: z (N, width) >= 0, action (N,) -> (N, width) >= 0, as the encoder's own vectors."""
        hidden = torch.relu(self.state(z) + self.action[action])
        return torch.relu(self.out(hidden))

    def follow(self) -> None:
        """p' <- (1 - tau) p' + tau p; the owner of the encoder updates its target."""
        follow(self.target, self.project, self.config.tau)

    def forward(self, z: Tensor, actions: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of z = enc(o_t) (N, width), actions (N, K), targets enc'(o_{t+1..t+K}) (N, K, width), mask (N, K) real
        steps; and diagnostics: the mean cosine, and the spread of the targets (0: collapsed, near 1: all directions).
        """
        N, K = actions.shape
        require(targets.shape[:2] == (N, K) == mask.shape, "self-prediction: actions, targets and mask do not fit.")
        predicted = []
        for k in range(K):
            z = self.transition(z, actions[:, k])
            predicted.append(self.predict(self.project(z)))
        with torch.no_grad():
            y = self.target(targets.to(z.dtype))  # (N, K, dim)
        cosine = cosine_similarity(torch.stack(predicted, dim=1).float(), y.float(), dim=-1)  # (N, K)
        real = mask.to(cosine.dtype)
        # Steps after an episode's end repeat its last observation and are not predicted.
        mean = (real * cosine).sum() / real.sum().clamp_min(1.0)
        with torch.no_grad():
            directions = normalize(y[:, 0].float(), dim=-1)
            spread = 1.0 - directions.mean(0).square().sum()
        return 1.0 - mean, {"cosine": mean.detach(), "spread": spread}
