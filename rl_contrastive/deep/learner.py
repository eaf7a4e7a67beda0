"""The networks of deep Contrastive-UCB and one gradient step of all of them.

Q and G share one encoder (`value.py`), which self-prediction or another loss (`auxiliary.py`) may help to train. The
contrastive features have another one (`feature_net.py`). Bonuses are small numbers, and a contrastive loss on a shared
encoder would change it more than they do, so that values lag and fluctuate. Features are frozen between rebuilds of the
counts, so they take fewer gradient steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl_contrastive.config import require, require_keys
from rl_contrastive.deep.augment import check_augment, distort, draw
from rl_contrastive.deep.auxiliary import Auxiliary
from rl_contrastive.deep.bonus_contract import Bonus, Chunk
from rl_contrastive.deep.choice import StageGame, choice_of
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.deep.explore_config import ExploreConfig
from rl_contrastive.deep.feature_net import FeatureConfig, FeatureNet, ObsLayout, torch_generator
from rl_contrastive.deep.memory import EpisodeMemory
from rl_contrastive.deep.native.values import native_values
from rl_contrastive.deep.noisy import mean_noise, resample
from rl_contrastive.deep.replay.replay import Replay, ReplayBatch
from rl_contrastive.deep.representation import identical
from rl_contrastive.deep.returns import Returns
from rl_contrastive.deep.self_prediction import SelfPrediction
from rl_contrastive.deep.value import Values, stage_losses, td_losses
from rl_contrastive.deep.weights import (
    FlatAdam,
    FlatParameters,
    clip,
    compile_gradient,
    frozen_copy,
    load_weights,
    weights,
)
from rl_contrastive.device import fetch, move, put, resolve_device, trim_heap
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array, EnvSpec, FloatArray, State

Sequences = tuple[Tensor, Tensor, Tensor, Tensor]
LOSSES = ("loss_q", "loss_g", "loss_under")
"""Losses of Q, of G (in games G-bar) and, in games, of G-under."""
REPORTED = ("spr_cosine", "spr_spread")
"""Diagnostics of self-prediction (`SelfPrediction`)."""
TRIM_EVERY = 500
"""Gradient steps between two trims of the heap, so that the memory of a run does not grow with its length."""


class DeepLearner:
    """All networks, their optimisers and their state."""

    def __init__(
        self,
        spec: EnvSpec,
        obs_shape: tuple[int, ...],
        config: DeepLearnerConfig,
        *,
        seed: int,
        slots: int = 0,
        explore: ExploreConfig | None = None,
    ) -> None:
        """obs_shape: of a stacked observation. slots: entries of the replay, for losses that remember. explore: what
        the second head is, G by default."""
        self.config, self.num_actions = config, spec.num_actions
        self.choice = choice_of(spec.players)
        games = "deep: in games the other heads are G-bar and G-under: leave explore as it is."
        require(explore is None or explore.standard or len(self.choice.signs) == 2, games)
        low, high = spec.return_range
        self.bounds = config.reward_scale * low, config.reward_scale * high
        self.explore = explore or ExploreConfig()
        self.returns = Returns(config, spec.num_actions, self.choice.signs, self.explore)
        self.device = resolve_device(config.device)
        rng = torch.Generator().manual_seed(seed)  # on the CPU: the same weights whatever the device
        layout = ObsLayout(obs_shape, spec.obs_dtype, spec.num_states, spec.codes)
        body = layout.encoder(config.encoder, rng=rng)
        check_augment(config.augment, body.kind)
        shown = self.returns.shown
        own_head = {"shown": shown, "hidden": self.explore.hidden} if shown else {}
        V = len(self.choice.signs)
        self.values = Values(body, spec.num_actions, config.value, rng=rng, values=V, **own_head).to(self.device)
        self.self_prediction: SelfPrediction | None = None
        if config.self_prediction.weight > 0:
            self.self_prediction = SelfPrediction(body.width, spec.num_actions, config.self_prediction, rng=rng).to(
                self.device
            )
        self.auxiliary: Auxiliary | None = None
        if config.auxiliary.objective and config.auxiliary.weight > 0:
            own = torch.Generator().manual_seed(seed + 1)  # the other networks are as they are without it
            self.auxiliary = Auxiliary(body, config.auxiliary, slots=slots, rng=own).to(self.device)
        self.features = FeatureNet(
            layout,
            spec.num_actions,
            FeatureConfig(
                config.feature_encoder,
                config.representation,
                lr=config.lr,
                device=config.device,
                backend=config.backend,
            ),
            rng=rng,
            compiled=config.compile,
            slots=slots,
            stack=spec.frame_stack,
            option="learner.backend",
        )
        check_augment(config.augment, self.features.online.encoder.kind)
        self.target = frozen_copy(self.values)
        # The values come first in the vector of all parameters, so that their target follows a part of it.
        self._trained = FlatParameters(p for module in self._modules().values() for p in module.parameters())
        self._followers = FlatParameters(self.target.parameters())
        self._optimiser = FlatAdam(self._trained, lr=config.lr, eps=config.adam_eps)
        self._native = native_values(self.values, self.target, self._trained, config, self._gradient)
        self._gradient_of: Any = self._gradient if self._native is None else self._native.step
        if config.compile:  # then nothing is native
            self._gradient_of = compile_gradient(self._gradient, self.device)
        self.steps = 0
        """Gradient steps of the values so far."""

    def _modules(self) -> dict[str, torch.nn.Module]:
        named: dict[str, torch.nn.Module] = {"values": self.values}
        if self.self_prediction is not None:
            named["self_prediction"] = self.self_prediction
        if self.auxiliary is not None:
            named["auxiliary"] = self.auxiliary
        return named

    @property
    def lr(self) -> float:
        """Step size of the next gradient step of Q and G."""
        over = self.config.lr_falls_over
        return self.config.lr * (max(0.05, 1.0 - 0.95 * self.steps / over) if over else 1.0)

    # -- what the agent asks ---------------------------------------------------------------------------------------

    def q(
        self, obs: Array, *, rng: np.random.Generator | None = None, shown: Array | None = None
    ) -> tuple[FloatArray, ...]:
        """Q and G or I (N, A) of stacked observations, of a game Q, G-bar and G-under; rng draws the noise for acting
        if the heads are noisy.

        shown (N, M): what the second head sees beside them, if it does.
        """
        self._resample(rng)
        out = self._means(self.values, obs, shown) if self._native is None else self._native.q(obs)
        out /= self.config.reward_scale
        return tuple(out[:, v] for v in range(out.shape[1]))

    def target_q(self, obs: Array) -> FloatArray:
        """Q (N, A) of the target network, for evaluation: it is a moving average and fluctuates less."""
        mean_noise(self.target)
        out = self._means(self.target, obs) if self._native is None else self._native.target_q(obs)
        return np.asarray(out[:, 0]) / self.config.reward_scale

    @torch.inference_mode()
    def _means(self, values: Values, obs: Array, shown: Array | None = None) -> FloatArray:
        """(N, V, A) float64 of stacked observations."""
        z = self._encoded(values.encoder, put(obs, self.device))
        beside = None if shown is None else put(shown, self.device)
        return fetch(values.means(z, beside)).astype(np.float64)

    def entries(self, replay: Replay, chunk: int = 1024) -> Iterator[Chunk]:
        """(index, action or -1, frozen phi (n, A, d)) of every observation that is kept: for `VisitBonus.rebuild`."""
        for index in replay.chunks(chunk):
            yield index, replay.ring.action[index].astype(np.int64), self.features.phi(replay.observations(index))

    def standardise(self, obs: Array) -> None:
        """Centre and scale vector observations by these; before the first step."""
        for network in (self.values, self.target):
            network.encoder.inputs.standardise(obs)
        self.features.standardise(obs)

    # -- one step --------------------------------------------------------------------------------------------------

    def step(
        self,
        replay: Replay,
        bonus: Bonus,
        *,
        rng: np.random.Generator,
        priority_beta: float = 1.0,
        memory: EpisodeMemory | None = None,
    ) -> dict[str, Any]:
        """Draw a minibatch, descend once, move targets and priorities; returns diagnostics, numbers or tensors.

        memory: what the second head sees beside the entries, if it does.
        """
        batch = replay.sample(self.config.batch_size, rng=rng, beta=priority_beta)
        ends, numbers = (put(part, self.device) for part in self.returns.of(batch, replay, bonus, memory))
        obs = self._augment(ends, rng)
        self._resample(rng)
        ahead = None if self.self_prediction is None else self._sequences(batch, replay, rng)
        views = None if self.auxiliary is None else self.auxiliary.views(batch, ends, replay, self._augment, rng)
        if self.config.compile:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        gradient, errors, losses = self._gradient_of(obs, numbers, ahead, views)
        if self.config.compile:
            losses = losses.clone()  # the next run of a CUDA graph overwrites its outputs
        norm = clip(gradient, self.config.clip)
        self._optimiser.lr = self.lr
        self._optimiser.step(gradient)
        self._followers.follow(self._trained, self.config.tau)
        if self.self_prediction is not None:
            self.self_prediction.follow()
        if replay.tree is not None:
            replay.update_priorities(batch.index, fetch(errors.double()) + 1e-6)
        report: dict[str, Any] = {"gradient_norm": norm, **dict(zip(self._reported(), losses, strict=True))}
        learn = self.config.learn_features and bonus.uses_features
        if learn and self.steps % self.config.representation.every == 0:
            # With `endless` the second half of these may be of another episode.
            loss = self._contrast(batch, replay, rng, None if self.explore.endless else ends)
            report["loss_contrast"] = loss.clone() if self.config.compile else loss
        self.steps += 1
        if self.steps % TRIM_EVERY == 0:
            trim_heap()
        return report

    def _contrast(
        self, batch: ReplayBatch, replay: Replay, rng: np.random.Generator, ends: Tensor | None = None
    ) -> Tensor:
        """One gradient step of the features, on the next observations of the batch, whatever n the returns have.

        With `representation.ahead` on later observations of the same episode. ends: those of the batch, if they are on
        the device already.
        """
        successors, gamma = None, self.config.representation.ahead
        if gamma > 0:
            successors = replay.observations(replay.ahead(batch.index, gamma, rng=rng))
        elif replay.ring.n_step > 1:
            successors = replay.observations(replay.ring.next[batch.index])
        masked = self.config.representation.mask_identical
        same = put(identical(batch.next_obs if successors is None else successors), self.device) if masked else None
        # Rows drawn by priorities get importance weights, so that the distribution of the data is learned.
        weighted = self.config.representation.weighted and replay.tree is not None
        weight = put(batch.weight, self.device) if weighted else None
        now, then = (put(batch.ends, self.device) if ends is None else ends).chunk(2)
        if successors is not None:
            then = put(successors, self.device)
        obs, ahead = (self._augment(frames, rng) for frames in (now, then))
        ids = self.features.slots(batch.index, replay.ring.total)
        return self.features.descend(obs, put(batch.action, self.device), ahead, weight=weight, same=same, ids=ids)

    def _reported(self) -> tuple[str, ...]:
        """Names of the numbers that `_gradient` reports."""
        found = LOSSES[: len(self.choice.signs)]
        found = (*found, *REPORTED) if self.self_prediction is not None else found
        return found if self.auxiliary is None else (*found, "loss_auxiliary")

    def _gradient(
        self, obs: Tensor, numbers: Tensor, ahead: Sequences | None, views: dict[str, Any] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of all losses, |TD errors| (N,) for priorities, and the reported numbers.

        obs: o_t and o_{t+m}, concatenated, (2N, ...). numbers (N, V + 3 + V A): returns of rewards, and of rewards
        and bonuses, discount, weight, action; what is added to Q (0) and G (bonuses) of all actions at o_{t+m}. Unless
        `explore` is standard, 1 + 2M more: `_beside`.
        """
        losses, errors = self._losses(obs, numbers)
        V = losses.shape[1]
        loss, report = (numbers[:, V + 1 : V + 2] * losses).sum() / len(losses), losses.detach().mean(0)
        if ahead is not None:
            predicted, more = self._predict(*ahead)
            loss, report = loss + self.config.self_prediction.weight * predicted, torch.cat([report, more])
        if views is not None:
            beside = self._embed(**views)
            loss, report = loss + self.config.auxiliary.weight * beside, torch.cat([report, beside.detach()[None]])
        return self._trained.gradient(loss), errors.sum(1), report

    def _losses(self, obs: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and |TD errors| (N, V) of Q and G."""
        N, M, V, values, target = len(numbers), self.returns.shown, len(self.choice.signs), self.values, self.target
        known, now, later = V + 3 + V * self.num_actions, None, None
        reward, discount, action = numbers[:, :V], numbers[:, V], numbers[:, V + 2].long()
        extra = numbers[:, V + 3 : known].reshape(N, V, -1)
        if not self.explore.standard:
            discount = torch.stack([discount, numbers[:, known]], dim=1)
        if M:
            now, later = numbers[:, known + 1 : known + 1 + M], numbers[:, known + 1 + M :]

        def out(network: Values, inputs: Tensor, shown: Tensor | None) -> Tensor:
            return network.outputs(self._encoded(network.encoder.body, inputs), shown)

        with torch.no_grad():
            x = values.encoder.inputs(obs)  # the target networks take the same inputs
            target_next = out(target, x[N:], later)
            online_next = out(values, x[N:], later) if self.config.value.double else None
        if isinstance(self.choice, StageGame):
            judged = (target_next if online_next is None else online_next) + extra
            played = self.choice.weights(fetch(judged.double()))
            return stage_losses(
                out(values, x[:N], now),
                action,
                reward=reward,
                discount=discount,
                weights=put(played.astype(np.float32), self.device),
                next_values=target_next + extra,
                bounds=self.bounds,
            )
        return td_losses(
            values,
            out(values, x[:N], now),
            action,
            reward=reward,
            discount=discount,
            online_next=online_next,
            target_next=target_next,
            extra_next=extra,
        )

    def _sequences(self, batch: ReplayBatch, replay: Replay, rng: np.random.Generator) -> Sequences:
        """Inputs of `_predict`: o_t, a_t .. a_{t+K-1} (N, K), o_{t+1} .. o_{t+K} as (N K, ...), real steps (N, K)."""
        obs, actions, mask = replay.sequences(batch.index, self.config.self_prediction.steps)
        N, K = actions.shape
        shown = put(obs, self.device)
        ahead = self._augment(shown[:, 1:].reshape(N * K, *obs.shape[2:]), rng)
        now = self._augment(shown[:, 0].contiguous(), rng)
        return now, put(actions, self.device), ahead, put(mask, self.device)

    def _predict(self, now: Tensor, actions: Tensor, ahead: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """SPR's loss on the sequences that start at the batch's entries; its cosine and spread (2,)."""
        assert self.self_prediction is not None
        with torch.no_grad():
            targets = self.target.encoder(ahead).reshape(*actions.shape, -1)
        with self._autocast():
            loss, report = self.self_prediction(self.values.encoder(now), actions, targets, mask)
        return loss, torch.stack([report["cosine"], report["spread"]])

    def _embed(self, first: Tensor, second: Tensor, **known: Any) -> Tensor:
        """The auxiliary loss of two views of each state: both go through the encoder in one pass."""
        assert self.auxiliary is not None
        z, other = self._encoded(self.values.encoder, torch.cat([first, second])).chunk(2)
        return self.auxiliary.loss(z, other, **known)

    def _augment(self, obs: Tensor, rng: np.random.Generator) -> Tensor:
        """Observations (N, ...), distorted if the config asks for it, in the units in which they are stored."""
        if self.config.augment.shift == self.config.augment.intensity == 0:
            return obs
        draws = draw(self.config.augment, len(obs), rng=torch_generator(rng))
        return distort(obs.float(), *(move(x, self.device) for x in draws))

    def _resample(self, rng: np.random.Generator | None) -> None:
        """Draw new noise for noisy heads; without rng, switch it off."""
        if self.config.value.noisy == 0:
            return
        if rng is None:
            mean_noise(self.values)
        else:
            resample(self.values, self.target, rng=torch_generator(rng))

    def _encoded(self, encoder: torch.nn.Module, x: Tensor) -> Tensor:
        """Vectors for heads of full precision: in bfloat16, values near 10 are 1/16 apart, and all actions tie."""
        with self._autocast():
            z: Tensor = encoder.forward(x)
        return z.float()

    def _autocast(self) -> Any:
        bf16 = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()

    # -- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Weights of all copies and the optimisers."""
        saved = {name: weights(module) for name, module in self._modules().items()}
        return {
            **saved,
            "target": weights(self.target),
            "features": self.features.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        for name, module in {**self._modules(), "target": self.target}.items():
            if name not in state:
                raise RlcError(f"deep: the saved state lacks '{name}'.")
            load_weights(module, state[name], f"deep: {name}")
        require_keys(state, ("features", "optimiser", "steps"), "deep")
        self.features.load_state_dict(state["features"])
        self._optimiser.load_state_dict(state["optimiser"], "deep")
        self.steps = int(state["steps"])
