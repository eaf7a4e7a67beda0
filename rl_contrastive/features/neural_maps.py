"""Neural features: the linear map of whitened coordinates plus an MLP, evaluated in numpy; and restoring any map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_contrastive.config import require, require_keys
from rl_contrastive.features.maps import (
    FeatureMap,
    LinearFeatures,
    TabularFeatures,
    coordinates,
    nonnegative_phi,
    nonnegative_psi,
)
from rl_contrastive.features.mixture import MixtureFeatures
from rl_contrastive.spec import Array, FloatArray, State


@dataclass(frozen=True)
class NeuralFeatures:
    """u_phi = z'Phi_a + trunk(z)'heads_a and u_psi likewise, then the non-negative link of `LinearFeatures`.

    `weights` (leading axis H): phi_W0 (H, k, w), phi_b0 (H, 1, w), ..., phi_head (H, w, A d), and psi_... with
    psi_head (H, w, d). ReLU between layers. A step whose heads are 0 is linear.
    """

    linear: LinearFeatures
    weights: dict[str, FloatArray]

    @property
    def dim(self) -> int:
        return self.linear.dim

    @property
    def version(self) -> int:
        return self.linear.version

    def phi(self, h: int, obs: Array) -> FloatArray:
        f = self.linear
        z = coordinates(obs, f.mean[h], f.whitening[h])  # (N, k+1)
        u = np.swapaxes(z @ f.Phi[h], 0, 1)  # (N, A, d)
        u = u + mlp("phi", self.weights, z[:, :-1], h).reshape(u.shape)
        return nonnegative_phi(u, float(f.sharpness[h]), f.scale[h])

    def psi(self, h: int, next_obs: Array) -> FloatArray:
        f = self.linear
        z = coordinates(next_obs, f.next_mean[h], f.next_whitening[h])  # (N, k'+1)
        u = z @ f.Psi[h] + mlp("psi", self.weights, z[:, :-1], h)
        return nonnegative_psi(u, float(f.sharpness[h]), f.scale[h])

    def state_dict(self) -> State:
        return {"kind": "neural", "linear": self.linear.state_dict(), "weights": dict(self.weights)}

    @classmethod
    def from_state(cls, state: State) -> NeuralFeatures:
        """Inverse of `state_dict`."""
        require_keys(state, ("linear", "weights"), "features")
        weights = {name: np.asarray(value, dtype=np.float64) for name, value in state["weights"].items()}
        for name in ("phi_head", "psi_head"):
            require(name in weights, f"features: the saved weights lack '{name}'.")
        return cls(LinearFeatures.from_state(state["linear"]), weights)


def mlp(side: str, weights: dict[str, FloatArray], x: FloatArray, h: int) -> FloatArray:
    """ReLU layers and head of one side at step h: x (N, k) -> (N, outputs)."""
    layer = 0
    while f"{side}_W{layer}" in weights:
        x = np.maximum(x @ weights[f"{side}_W{layer}"][h] + weights[f"{side}_b{layer}"][h], 0.0)
        layer += 1
    return np.asarray(x @ weights[f"{side}_head"][h])


def features_from_state(state: State) -> FeatureMap:
    """The feature map of a `state_dict` of any kind, told apart by its entry "kind"."""
    kind = state.get("kind")
    if kind == "tabular":
        return TabularFeatures.from_state(state)
    if kind == "linear":
        return LinearFeatures.from_state(state)
    if kind == "mixture":
        return MixtureFeatures.from_state(state)
    require(kind == "neural", f"features: the saved kind must be tabular, linear, mixture or neural, got {kind!r}.")
    return NeuralFeatures.from_state(state)
