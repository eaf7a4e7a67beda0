"""The networks of deep Contrastive-UCB and one gradient step of all of them.

One encoder serves Q, G (`value.py`), the contrastive features (`representation.py`) and, if asked for, self-prediction.
Three copies of it exist: the online one, its target, and the frozen one whose features the bonus counts (`bonus.py`);
the last only moves at `freeze`, which the agent follows by a rebuild of Sigma.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import require
from rl_contrastive.deep.bonus import VisitBonus
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.deep.networks import encoder
from rl_contrastive.deep.replay import Replay, ReplayBatch
from rl_contrastive.deep.representation import Representation, identical
from rl_contrastive.deep.self_prediction import SelfPrediction
from rl_contrastive.deep.value import Values, head_loss
from rl_contrastive.deep.weights import (
    follow,
    frozen_copy,
    load_optimizer_state,
    load_weights,
    optimizer_state,
    weights,
)
from rl_contrastive.device import resolve_device
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, EnvSpec, FloatArray, IntArray, State


@dataclass(frozen=True)
class StepInputs:
    """A minibatch on the device."""

    obs: Tensor
    """(3N, ...) o_t, o_{t+m} and o_{t+1}, one below the other."""
    action: Tensor
    """(N,)."""
    numbers: Tensor
    """(N, 4): return of rewards, return of the bonuses on the way, discount, weight."""
    inverse: Tensor
    """Sigma^-1 (d, d) float64."""
    same: Tensor | None
    """(N, N) identical successors, where they are masked."""


class DeepLearner:
    """All networks, their optimiser and their state."""

    def __init__(self, spec: EnvSpec, obs_shape: tuple[int, ...], config: DeepLearnerConfig, *, seed: int) -> None:
        """obs_shape: of a stacked observation."""
        self.config, self.num_actions = config, spec.num_actions
        self.device = resolve_device(config.device)
        rng = torch.Generator().manual_seed(seed)  # on the CPU: the same weights whatever the device
        body = encoder(config.encoder, obs_shape, spec.obs_dtype, rng=rng, num_states=spec.num_states)
        self.values = Values(body, spec.num_actions, config.value, rng=rng).to(self.device)
        self.representation = Representation(body.width, spec.num_actions, config.representation, rng=rng).to(
            self.device
        )
        self.self_prediction: SelfPrediction | None = None
        if config.self_prediction.weight > 0:
            self.self_prediction = SelfPrediction(body.width, spec.num_actions, config.self_prediction, rng=rng).to(
                self.device
            )
        self.target = frozen_copy(self.values)
        self.frozen = frozen_copy(nn.ModuleList([self.values.encoder, self.representation])).eval()
        self._optimiser = torch.optim.Adam(self._trained(), lr=config.lr, eps=config.adam_eps, fused=True)
        losses: Any = self._losses
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self._losses_of = torch.compile(losses, mode=mode) if config.compile else losses

    def _modules(self) -> dict[str, nn.Module]:
        named: dict[str, nn.Module] = {"values": self.values, "representation": self.representation}
        if self.self_prediction is not None:
            named["self_prediction"] = self.self_prediction
        return named

    def _trained(self) -> list[nn.Parameter]:
        return [p for module in self._modules().values() for p in module.parameters() if p.requires_grad]

    # -- what the agent asks ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def q(self, obs: Array) -> tuple[FloatArray, FloatArray]:
        """Q and G (N, A) of stacked observations."""
        with self._autocast():
            Q, G = self.values.means(self.values.encoder(self._put(obs)))
        out = torch.stack([Q, G]).double().cpu().numpy()
        return out[0], out[1]

    @torch.no_grad()
    def features(self, obs: Array) -> FloatArray:
        """phi (N, A, d) of the frozen network."""
        return np.asarray(self._frozen_features(self._put(obs)).double().cpu().numpy())

    def freeze(self) -> None:
        """The frozen network becomes the online one of this moment; Sigma must be rebuilt."""
        follow(self.frozen, nn.ModuleList([self.values.encoder, self.representation]), 1.0)

    def visits(self, replay: Replay, chunk: int = 1024) -> Iterator[tuple[IntArray, FloatArray]]:
        """(index, frozen phi (n, d)) of every stored visit: for `VisitBonus.rebuild`."""
        for index, obs, action, _ in replay.rows(chunk):
            phi = self.features(obs)
            yield index, phi[np.arange(len(index)), action]

    def standardise(self, obs: Array) -> None:
        """Centre and scale vector observations by these; before the first step."""
        for network in (self.values, self.target):
            network.encoder.inputs.standardise(obs)

    # -- one step --------------------------------------------------------------------------------------------------

    def step(
        self, replay: Replay, bonus: VisitBonus, *, rng: np.random.Generator, priority_beta: float = 1.0
    ) -> dict[str, Tensor]:
        """Draw a minibatch, descend once, move targets and priorities; returns diagnostics on the device."""
        batch = replay.sample(self.config.batch_size, rng=rng, beta=priority_beta)
        inputs = self._inputs(batch, replay, bonus)
        self._optimiser.zero_grad(set_to_none=True)
        loss, error, diagnostics = self._losses_of(inputs)
        if self.self_prediction is not None:
            loss = loss + self.config.self_prediction.weight * self._predict(self.self_prediction, batch, replay)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._trained(), self.config.clip)
        self._optimiser.step()
        follow(self.target, self.values, self.config.tau)
        if self.self_prediction is not None:
            self.self_prediction.follow()
        if replay.tree is not None:
            replay.update_priorities(batch.index, error.double().cpu().numpy() + 1e-6)
        return {**diagnostics, "gradient_norm": norm.detach()}

    def _inputs(self, batch: ReplayBatch, replay: Replay, bonus: VisitBonus) -> StepInputs:
        """Everything of the step in two copies to the device: observations, and numbers."""
        successor = replay.observations(replay.ring.next[batch.index])  # one step on, whatever n is
        reward = batch.reward
        if self.config.clip_rewards:
            reward = replay.discounted(np.sign(replay.ring.reward[batch.steps]), batch.mask)
        later = batch.mask.copy()
        later[:, 0] = False  # the bonus at (s,a) itself is no part of G
        on_the_way = replay.discounted(bonus.of_entries(batch.steps), later)
        numbers = np.stack([reward, on_the_way, batch.discount, batch.weight], axis=1).astype(np.float32)
        same = None
        if self.config.representation.mask_identical:
            same = torch.as_tensor(identical(successor), device=self.device)
        return StepInputs(
            self._put(np.concatenate([batch.obs, batch.next_obs, successor])),
            self._put(batch.action),
            self._put(numbers),
            self._put(bonus.beta**2 * bonus.confidence.inverse[0]),
            same,
        )

    def _losses(self, inputs: StepInputs) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The whole loss, |TD error| (N,) for priorities, diagnostics."""
        N = len(inputs.action)
        reward, on_the_way, discount, weight = inputs.numbers.unbind(1)
        following = inputs.obs[N : 2 * N]
        with self._autocast():
            # 1. What the targets need, without gradients.
            with torch.no_grad():
                b = self._bonus(self._frozen_features(following), inputs.inverse)  # (N, A)
                z_online, z_target = self.values.encoder(following), self.target.encoder(following)
                next_Q, next_G = self.values.reward_head(z_online), self.values.optimistic_head(z_online)
                target_Q, target_G = self.target.reward_head(z_target), self.target.optimistic_head(z_target)
            # 2. The online pass over s and s'.
            z, z_next = self.values.encoder(torch.cat([inputs.obs[:N], inputs.obs[2 * N :]])).split(N)
            now_Q, now_G = self.values.reward_head(z), self.values.optimistic_head(z)
        # 3. Q of rewards, G of rewards and bonuses, features; all in full precision.
        common = {"action": inputs.action, "discount": discount}
        loss_Q, error_Q = head_loss(
            self.values,
            now_Q.float(),
            reward=reward,
            online_next=next_Q.float(),
            target_next=target_Q.float(),
            **common,
        )
        loss_G, error_G = head_loss(
            self.values,
            now_G.float(),
            reward=reward + on_the_way,
            online_next=next_G.float(),
            target_next=target_G.float(),
            extra_next=b,
            **common,
        )
        contrast = self.representation.contrast(z.float(), inputs.action, z_next.float(), same=inputs.same)
        loss = (weight * (loss_Q + loss_G)).mean() + self.config.contrast_weight * contrast.loss
        diagnostics = {
            "loss_q": loss_Q.detach().mean(),
            "loss_g": loss_G.detach().mean(),
            "loss_contrast": contrast.loss.detach(),
            "top1": contrast.top1,
            "bonus_next": b.mean(),
        }
        return loss, error_Q + error_G, diagnostics

    def _predict(self, head: SelfPrediction, batch: ReplayBatch, replay: Replay) -> Tensor:
        """SPR's loss on the sequences that start at the batch's entries."""
        obs, actions, mask = replay.sequences(batch.index, self.config.self_prediction.steps)
        N, K = actions.shape
        with torch.no_grad():
            ahead = self._put(obs[:, 1:].reshape(N * K, *obs.shape[2:]))
            targets = self.target.encoder(ahead).reshape(N, K, -1)
        with self._autocast():
            loss, _ = head(self.values.encoder(self._put(obs[:, 0])), self._put(actions), targets, self._put(mask))
        out: Tensor = loss.float()
        return out

    @staticmethod
    def _bonus(phi: Tensor, scaled_inverse: Tensor) -> Tensor:
        """beta ||phi||_{Sigma^-1} of (N, A, d), in float64 within, float32 without."""
        x = phi.double()
        return ((x @ scaled_inverse) * x).sum(-1).clamp_min(0.0).sqrt().float()

    def _frozen_features(self, obs: Tensor) -> Tensor:
        body, representation = self.frozen
        with torch.autocast(self.device.type, enabled=False):  # what Sigma counts must not depend on the precision
            assert isinstance(representation, Representation)
            phi: Tensor = representation.features(body(obs))
            return phi

    def _autocast(self) -> Any:
        bf16 = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()

    def _put(self, array: Array) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array)).to(self.device, non_blocking=True)

    # -- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Weights of all copies and the optimiser."""
        saved = {name: weights(module) for name, module in self._modules().items()}
        return {
            **saved,
            "target": weights(self.target),
            "frozen": weights(self.frozen),
            "optimiser": optimizer_state(self._optimiser),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        for name, module in {**self._modules(), "target": self.target, "frozen": self.frozen}.items():
            if name not in state:
                raise RlcError(f"deep: the saved state lacks '{name}'.")
            load_weights(module, state[name], f"deep: {name}")
        require("optimiser" in state, "deep: the saved state lacks 'optimiser'.")
        load_optimizer_state(self._optimiser, state["optimiser"], "deep")
