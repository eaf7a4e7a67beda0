"""Networks and one gradient step on another device than the CPU: torch's device without memory stands in for a GPU.

Its operations know shapes, types and devices, and most refuse arguments from two devices, as CUDA's do; matrix products
do not, so nothing may lie in a module that does not move with it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from rl_contrastive.config import from_dict
from rl_contrastive.deep import feature_net as transitions
from rl_contrastive.deep import learner, representation
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.deep.learner import DeepLearner
from rl_contrastive.deep.weights import clip
from rl_contrastive.spec import EnvSpec

META = torch.device("meta")
N, A, K = 6, 3, 2
CASES: dict[str, tuple[EnvSpec, dict[str, Any]]] = {
    "vectors": (EnvSpec("vectors", A, 10, (5,), "float32"), {"encoder": {"layer_norm": True}}),
    "states": (EnvSpec("states", A, 10, (), "int64", num_states=7), {"representation": {"features": "simplex"}}),
    "planes": (
        EnvSpec("planes", A, 10, (2, 10, 10), "bool"),
        {
            "value": {"atoms": 5, "noisy": 0.5},
            "self_prediction": {"weight": 1.0, "steps": K},
            "representation": {"mask_identical": True, "features": "unit"},
        },
    ),
    "codes": (EnvSpec("codes", A, 10, (4, 7, 7), "uint8"), {"representation": {"objective": "meco"}}),
    "frames": (EnvSpec("frames", A, 10, (36, 36), "uint8", frame_stack=2), {"encoder": {"kind": "impala"}}),
}


def batch(spec: EnvSpec, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """What `DeepLearner._gradient` takes."""
    obs = torch.empty((2 * N, *spec.obs_shape), dtype=getattr(torch, spec.obs_dtype), device=device)
    ahead = obs[:N].repeat(K, *[1] * len(spec.obs_shape))
    actions, mask = (torch.ones((N, K), dtype=dtype, device=device) for dtype in (torch.int64, torch.bool))
    return obs, torch.empty((N, 5 + 2 * A), device=device), (obs[:N], actions, ahead, mask)


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (learner, transitions):
        monkeypatch.setattr(module, "resolve_device", lambda name: META)
    monkeypatch.setattr(representation.torch, "autocast", lambda *args, **options: nullcontext())  # unknown to "meta"


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("case", CASES)
def test_a_gradient_step_stays_on_its_device(case: str) -> None:
    spec, options = CASES[case]
    shape = (spec.frame_stack, *spec.obs_shape) if spec.frame_stack > 1 else spec.obs_shape
    spec = EnvSpec(spec.name, A, 10, shape, spec.obs_dtype, num_states=spec.num_states)
    net = DeepLearner(spec, shape, from_dict(DeepLearnerConfig, options), seed=0)
    obs, numbers, sequences = batch(spec, META)
    if net.self_prediction is None:
        sequences = None
    gradient, errors, losses = net._gradient(obs, numbers, sequences)
    norm = clip(gradient, 1.0)
    net._optimiser.step(gradient)
    net._followers.follow(net._trained, 0.1)
    action, same = numbers[:, 0].long(), torch.ones((N, N), dtype=torch.bool, device=META)
    loss = net.features.descend(obs[:N], action, obs[N:], same=same)
    net.features.freeze()
    phi = net.features.frozen(obs), net.features.frozen(obs[:N], action)
    values = net.values.means(net.values.encoder(obs))
    assert {x.device for x in (gradient, errors, losses, norm, loss, values, *phi)} == {META}
    assert gradient.shape == net._trained.vector.shape
    assert phi[0].shape == (2 * N, A, net.features.online.dim)
    for network in (*net._modules().values(), net.target, net.features.online, net.features.frozen):
        for module in network.modules():
            assert not [name for name, x in vars(module).items() if isinstance(x, torch.Tensor)]
    with pytest.raises(RuntimeError, match="device"):  # numbers that were left behind are noticed
        net._gradient(obs, numbers.new_empty(numbers.shape, device="cpu"), sequences)
