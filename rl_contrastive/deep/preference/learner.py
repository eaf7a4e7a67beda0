"""Gradient steps on labelled pairs: a loss of pairs, or a loss of groups with rewards from labels or a reward model.

    pair-objective    loss of stored pairs (winner, loser)
    group-objective, rewards from labels: groups of two with reward 1 for the winner, 0 for the loser
    group-objective, rewards from a model: R(y) = sum_t r(s_t, a_t), fitted to the same pairs by a Bradley-Terry loss

Losses for any sampling law take stored pairs. Those that need the policy's own episodes take the newest batch: its
pairs, or all of it as one group, with the log-probabilities it was drawn by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import fill_arrays, require, require_keys
from rl_contrastive.deep.config import EncoderConfig
from rl_contrastive.deep.preference.episodes import Episodes, PairReplay
from rl_contrastive.deep.preference.policy import Policy, Scores, side
from rl_contrastive.deep.weights import FlatAdam, FlatParameters, clip, load_weights, weights
from rl_contrastive.preferences.base import (
    Completions,
    GroupObjective,
    PairObjective,
    Pairs,
    PreferenceResult,
    save_state,
)
from rl_contrastive.preferences.rewards import BradleyTerry
from rl_contrastive.spec import EnvSpec, State

WHO = "preference-policy"
MOST_ONLINE = 32
"""Own episodes in one step of a loss that needs them beside stored pairs (HyPO)."""


@dataclass(frozen=True)
class Training:
    """Sizes of gradient steps."""

    updates: int
    minibatch: int
    lr: float
    max_norm: float


@dataclass(frozen=True)
class Newest:
    """The newest batch: all episodes of the policy itself, and the labelled pairs among the batch."""

    own: Episodes
    """(N, T)."""
    pairs: Episodes
    """(P, 2, T), winners first."""


class RewardModel:
    """R(y) = sum_t r(s_t, a_t), from pairs by the Bradley-Terry loss -log sigma(R(y_w) - R(y_l))."""

    def __init__(self, spec: EnvSpec, config: EncoderConfig, training: Training, *, rng: torch.Generator) -> None:
        self.net, self.training = Scores(spec, config, rng=rng), training
        self.flat = FlatParameters(self.net.parameters())
        self.adam = FlatAdam(self.flat, lr=training.lr)
        self.objective = BradleyTerry()

    def returns(self, y: Episodes) -> Tensor:
        """R (...) of episodes (..., T)."""
        device = self.flat.vector.device
        mask = torch.as_tensor(y.mask, device=device)
        obs, action = (torch.as_tensor(x[y.mask], device=device) for x in (y.obs, y.action))
        r = self.net(obs.float() if obs.dtype == torch.float64 else obs).gather(-1, action[:, None])[:, 0]
        return torch.zeros(mask.shape, device=device).masked_scatter(mask, r).sum(-1)

    def learn(self, replay: PairReplay, *, rng: np.random.Generator) -> float:
        """`updates` steps on stored pairs; the last loss."""
        loss = torch.zeros(())
        for _ in range(self.training.updates):
            R = self.returns(replay.draw(self.training.minibatch, rng=rng))
            loss = self.objective(R[:, 0], R[:, 1]).loss
            gradient = self.flat.gradient(loss)
            clip(gradient, self.training.max_norm)
            with torch.no_grad():
                self.adam.step(gradient)
        return float(loss.detach())

    def state_dict(self) -> State:
        return {"net": weights(self.net), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("net", "adam"), f"{WHO}: reward model")
        load_weights(self.net, state["net"], f"{WHO}: reward model")
        self.adam.load_state_dict(state["adam"], f"{WHO}: reward model")


class PreferenceLearner:
    """Policy, objective, optimiser, and the reward model where there is one."""

    def __init__(
        self, spec: EnvSpec, encoder: EncoderConfig, training: Training, objective: PairObjective | GroupObjective,
        *, modelled: bool, seed: int, device: torch.device,
    ) -> None:  # fmt: skip
        """modelled: a group-objective's rewards come from a reward model."""
        rng = torch.Generator(device).manual_seed(seed)
        self.training, self.objective = training, objective
        self.policy = Policy(spec, encoder, rng=rng)
        self.needs: frozenset[str] = getattr(objective, "needs", frozenset())
        self.state: dict[str, Tensor] = {}
        extra: list[nn.Parameter] = []
        if isinstance(objective, PairObjective):
            width = self.policy.net.width
            have = f"{WHO}: {type(objective).__name__} reads features of a network, but {spec.name} has a table"
            require("hidden" not in self.needs or width > 0, f"{have}; choose options without learned masks.")
            self.state = objective.initial(width if "hidden" in self.needs else 0, rng)
            extra = objective.parameters(self.state)
        self.flat = FlatParameters([*self.policy.net.parameters(), *extra])
        self.adam = FlatAdam(self.flat, lr=training.lr)
        self.model = RewardModel(spec, encoder, training, rng=rng) if modelled else None

    @property
    def on_policy(self) -> bool:
        """Whether steps need the policy's own episodes alone."""
        return isinstance(self.objective, GroupObjective) and self.objective.on_policy

    @property
    def needs_own(self) -> bool:
        """Whether there is no step without at least two episodes of the policy itself."""
        return self.on_policy or "online" in self.needs

    def standardise(self, obs: Any) -> None:
        """Before the first step, from observations (N, ...) of the first batch."""
        self.policy.net.standardise(obs)
        if self.model is not None:
            self.model.net.standardise(obs)

    @torch.no_grad()
    def accuracy(self, pairs: Episodes) -> float:
        """Share of labelled pairs (P, 2, T) that the implied reward h, or the reward model, orders as labelled; ties
        count half."""
        R = self.policy.completions(pairs).h() if self.model is None else self.model.returns(pairs)  # (P, 2)
        gap = R[:, 0] - R[:, 1]
        return float(((gap > 0).float() + 0.5 * (gap == 0).float()).mean())

    def learn(self, replay: PairReplay, newest: Newest, *, rng: np.random.Generator) -> dict[str, float]:
        """The gradient steps after a batch of episodes; what to record of the last one."""
        told = {} if self.model is None else {"model_loss": self.model.learn(replay, rng=rng)}
        if self.on_policy:
            return told | self._learn_from_own(newest)
        loss = torch.zeros(())
        for _ in range(self.training.updates):
            loss = self._step(self._of_pairs(replay.draw(self.training.minibatch, rng=rng), newest.own))
        return {**told, "loss": float(loss)}

    def _of_pairs(self, pairs: Episodes, own: Episodes) -> Tensor:
        """The loss of stored pairs (P, 2, T)."""
        y = self.policy.completions(pairs, self.needs)
        if isinstance(self.objective, GroupObjective):
            return self.objective(y, self._rewards(pairs)).loss.mean()
        online: Completions | None = None
        if "online" in self.needs:
            online = one_group(self.policy.completions(own.take(np.arange(min(MOST_ONLINE, len(own.length))))))
        result: PreferenceResult
        result, self.state = self.objective.step(Pairs(side(y, 0), side(y, 1), online=online), self.state)
        return result.loss

    def _learn_from_own(self, newest: Newest) -> dict[str, float]:
        """`updates` steps on the newest batch, with ratios to the policy that drew it."""
        assert isinstance(self.objective, GroupObjective)
        y = newest.own if self.model is not None else newest.pairs
        if len(y.length) == 0:
            return {}
        reward = self._rewards(y)
        old: Tensor | None = None
        loss = torch.zeros(())
        for _ in range(self.training.updates):
            group = self.policy.completions(y)
            group, R = (one_group(group), reward[None]) if self.model is not None else (group, reward)
            old = group.logp.detach() if old is None else old
            loss = self._step(self.objective(group, R, old_logp=old).loss.mean())
        return {"loss": float(loss)}

    @torch.no_grad()
    def _rewards(self, y: Episodes) -> Tensor:
        """The model's returns (...); without a model 1 for winners and 0 for losers of pairs (P, 2, T)."""
        if self.model is not None:
            return self.model.returns(y)
        return torch.tensor([1.0, 0.0], device=self.policy.device).expand(len(y.length), 2)

    def _step(self, loss: Tensor) -> Tensor:
        """One step of Adam with a clipped gradient."""
        require(bool(torch.isfinite(loss.detach())), f"{WHO}: the loss is NaN or infinite; lower lr or beta.")
        gradient = self.flat.gradient(loss)
        clip(gradient, self.training.max_norm)
        with torch.no_grad():
            self.adam.step(gradient)
        return loss.detach()

    def state_dict(self) -> State:
        return {
            "policy": self.policy.state_dict(),
            "adam": self.adam.state_dict(),
            "objective": save_state(self.state),
            "model": None if self.model is None else self.model.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("policy", "adam", "objective", "model"), WHO)
        require((state["model"] is None) == (self.model is None), f"{WHO}: the saved state is of other rewards.")
        self.policy.load_state_dict(state["policy"])
        self.adam.load_state_dict(state["adam"], WHO)
        # In place: what the optimiser trains must stay the same memory.
        mine = {name: value.detach().numpy() for name, value in self.state.items()}
        fill_arrays(mine, state["objective"], f"{WHO}: objective")
        if self.model is not None:
            self.model.load_state_dict(state["model"])


def one_group(y: Completions) -> Completions:
    """(K, T) -> (1, K, T)."""
    return replace(y, logp=y.logp[None], ref=y.ref[None], mask=None if y.mask is None else y.mask[None])
