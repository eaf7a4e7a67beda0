"""A policy that starts at its reference: pi(.|s) = softmax(log pi_0(.|s) + f(s, .)) with f = 0 at first.

pi_0 is the initial policy, uniform or given. The reference pi_ref is pi_0 until it is moved; then it is a copy of pi.
f is a table of states or a network; on both all numbers are float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.config import require_keys
from rl_contrastive.deep.config import EncoderConfig
from rl_contrastive.deep.networks import encoder, linear
from rl_contrastive.deep.preference.episodes import Episodes
from rl_contrastive.deep.weights import frozen_copy, load_weights, weights
from rl_contrastive.device import fetch
from rl_contrastive.preferences.base import Completions
from rl_contrastive.spec import Array, EnvSpec, FloatArray, State


class Scores(nn.Module):
    """f(s, .): observations (N, ...) -> (N, A), 0 everywhere at first."""

    def __init__(self, spec: EnvSpec, config: EncoderConfig, *, rng: torch.Generator) -> None:
        super().__init__()
        self.width = 0
        """k of `features`; 0: a table has none."""
        A = spec.num_actions
        if spec.num_states is not None:
            self.table = nn.Parameter(torch.zeros(spec.num_states, A, device=rng.device))
            return
        self.encoder = encoder(config, spec.obs_shape, spec.obs_dtype, rng=rng, codes=spec.codes)
        self.head = linear(self.encoder.width, A, gain=0.0, init=config.init, rng=rng)
        self.width = self.encoder.width

    def forward(self, obs: Tensor) -> Tensor:
        if self.width == 0:
            return self.table[obs]
        out: Tensor = self.head(self.encoder(obs))
        return out

    def features(self, obs: Tensor) -> Tensor:
        """What the last layer reads: (N, ...) -> (N, k)."""
        out: Tensor = self.encoder(obs)
        return out

    def standardise(self, obs: Array) -> None:
        """Centre and scale of floats, from the first episodes; f is 0 until then, so nothing changes."""
        if self.width:
            self.encoder.inputs.standardise(obs)


class Policy:
    """pi, pi_ref and pi_0 of one environment."""

    def __init__(self, spec: EnvSpec, config: EncoderConfig, *, rng: torch.Generator) -> None:
        self.net = Scores(spec, config, rng=rng)
        self.ref: Scores | None = None
        """f of pi_ref; None: 0."""
        self.device = rng.device

    def probabilities(self, obs: Array, base: FloatArray, *, reference: bool = False) -> FloatArray:
        """pi or pi_ref (N, A) float64 at observations (N, ...), log pi_0 (N, W)."""
        with torch.no_grad():
            obs_, base_ = self.tensor(obs), self.tensor(base)
            log = self.log_ref(obs_, base_) if reference else self.log_pi(obs_, base_)
            found = fetch(log).astype(np.float64)
        out = np.exp(found)
        return np.asarray(out / out.sum(-1, keepdims=True))

    def tensor(self, x: Array) -> Tensor:
        """On the policy's device; float64 becomes float32."""
        out = torch.as_tensor(x, device=self.device)
        return out.float() if out.dtype == torch.float64 else out

    def log_pi(self, obs: Tensor, base: Tensor) -> Tensor:
        """log pi (N, A), with a gradient."""
        out: Tensor = (base + self.net(obs)).log_softmax(-1)
        return out

    @torch.no_grad()
    def log_ref(self, obs: Tensor, base: Tensor) -> Tensor:
        """log pi_ref (N, A)."""
        if self.ref is None:
            return self.log_initial(obs, base)
        out: Tensor = (base + self.ref(obs)).log_softmax(-1)
        return out

    def log_initial(self, obs: Tensor, base: Tensor) -> Tensor:
        """log pi_0 (N, A)."""
        A = self.net.table.shape[-1] if self.net.width == 0 else self.net.head.out_features
        return base.expand(len(obs), A).log_softmax(-1)

    def move_reference(self) -> None:
        """pi_ref <- pi."""
        self.ref = frozen_copy(self.net)

    def completions(self, y: Episodes, needs: frozenset[str] = frozenset()) -> Completions:
        """log pi and log pi_ref of what was done, (..., T); `needs` as in `PairObjective`."""
        mask = torch.as_tensor(y.mask, device=self.device)
        obs, base = self.tensor(y.obs[y.mask]), self.tensor(y.base[y.mask])  # (n, ...) real steps alone
        action = self.tensor(y.action[y.mask])[:, None]
        log_pi, log_ref = self.log_pi(obs, base), self.log_ref(obs, base)
        kl = (log_ref.exp() * (log_ref - log_pi)).sum(-1) if "kl" in needs else None

        def spread(x: Tensor) -> Tensor:
            """(n,) -> (..., T), 0 on padding."""
            return torch.zeros(mask.shape, device=self.device).masked_scatter(mask, x)

        hidden = None
        if "hidden" in needs:
            with torch.no_grad():
                known = (self.ref or self.net).features(obs)
            hidden = torch.zeros(*mask.shape, known.shape[-1], device=self.device)
            hidden[mask] = known
        return Completions(
            spread(log_pi.gather(-1, action)[:, 0]), spread(log_ref.gather(-1, action)[:, 0]), mask.float(),
            None if kl is None else spread(kl), hidden,
        )  # fmt: skip

    @torch.no_grad()
    def divergence(self, y: Episodes) -> float:
        """KL of pi's law of trajectories from that of pi_0, by its own (N, T): mean of sum_t KL(pi || pi_0)(s_t)."""
        obs, base = self.tensor(y.obs[y.mask]), self.tensor(y.base[y.mask])
        log_pi, log_0 = self.log_pi(obs, base), self.log_initial(obs, base)
        return float((log_pi.exp() * (log_pi - log_0)).sum()) / len(y.length)

    def state_dict(self) -> State:
        return {"net": weights(self.net), "ref": None if self.ref is None else weights(self.ref)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; raises RlcError on missing keys or wrong shapes."""
        require_keys(state, ("net", "ref"), "preference-policy")
        load_weights(self.net, state["net"], "preference-policy")
        self.ref = None
        if state["ref"] is not None:
            self.ref = frozen_copy(self.net)
            load_weights(self.ref, state["ref"], "preference-policy: reference")


def side(y: Completions, k: int) -> Completions:
    """Completions (P, 2, T) -> (P, T): k = 0 the preferred ones, 1 the others."""
    parts = (None if x is None else x[:, k] for x in (y.logp, y.ref, y.mask, y.kl, y.hidden))
    return Completions(*parts)  # type: ignore[arg-type]
