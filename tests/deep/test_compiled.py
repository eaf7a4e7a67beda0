"""torch.compile changes no result beyond rounding: gradients, parameters, features and targets after several steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from rl_contrastive.config import from_dict
from rl_contrastive.deep.bonus_config import BonusConfig
from rl_contrastive.deep.build_bonus import make_bonus
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.deep.learner import DeepLearner
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.spec import EnvSpec

SMALL = {
    "batch_size": 8,
    "device": "cpu",
    "encoder": {"hidden": [16, 16], "layer_norm": True},
    "feature_encoder": {"hidden": [16]},
    "representation": {"dim": 4, "hidden": 8, "every": 2},
}
VECTORS = EnvSpec("vectors", 3, 10, (5,), "float32")
WIDER = EnvSpec("wider", 3, 10, (6,), "float32")
PLANES = EnvSpec("planes", 3, 10, (2, 10, 10), "bool")


def stored(spec: EnvSpec, alpha: float) -> Replay:
    """Forty steps of random observations."""
    rng = np.random.default_rng(1)
    replay = Replay(60, spec.obs_shape, spec.obs_dtype, gamma=0.9, n_step=2, alpha=alpha)
    for _ in range(4):
        replay.begin(1)
        obs = rng.normal(size=(1, *spec.obs_shape)).astype(spec.obs_dtype)
        for k in range(10):
            following = rng.normal(size=obs.shape).astype(spec.obs_dtype)
            end = np.array([k == 9])
            replay.add(obs, rng.integers(3, size=1), rng.normal(size=1), following, np.ones(1), end, np.array([True]))
            obs = following
    return replay


def descend(
    spec: EnvSpec, steps: int, alpha: float, *, seed: int = 0, **options: Any
) -> tuple[DeepLearner, list[dict[str, float]]]:
    """A learner after so many steps on its own replay, and its reports."""
    net = DeepLearner(spec, spec.obs_shape, from_dict(DeepLearnerConfig, {**SMALL, **options}), seed=seed)
    replay, rng = stored(spec, alpha), np.random.default_rng(2)
    bonus = make_bonus(BonusConfig(), 60, 3, 4, beta=1.0, rng=np.random.default_rng(3))
    reports = [net.step(replay, bonus, rng=rng) for _ in range(steps)]
    return net, [{name: float(value) for name, value in report.items()} for report in reports]


CASES: dict[str, tuple[EnvSpec, float, dict[str, Any]]] = {
    "vectors": (VECTORS, 0.0, {}),
    "planes, priorities, distributions": (
        PLANES,
        0.5,
        {
            "encoder": {"channels": [3], "hidden": [8]},
            "feature_encoder": {"channels": [3], "hidden": [8]},
            "value": {"atoms": 5, "hidden": 8, "noisy": 0.5},
            "self_prediction": {"weight": 1.0, "steps": 2, "hidden": 8, "dim": 4},
        },
    ),
    "simplex features": (
        VECTORS,
        0.0,
        {"representation": {"dim": 4, "hidden": 0, "every": 1, "features": "simplex", "mask_identical": True}},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_compiled_steps_are_the_eager_ones(case: str) -> None:
    spec, alpha, options = CASES[case]
    eager, said = descend(spec, 6, alpha, **options)
    compiled, says = descend(spec, 6, alpha, **options, compile=True)
    assert any("loss_contrast" in report for report in said)
    for ours, theirs in zip(said, says, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    obs = stored(spec, alpha).observations(np.arange(20))
    for left, right in zip(
        (*eager.q(obs), eager.target_q(obs), eager.features.online(torch.as_tensor(obs))),
        (*compiled.q(obs), compiled.target_q(obs), compiled.features.online(torch.as_tensor(obs))),
        strict=True,
    ):
        np.testing.assert_allclose(right, left, rtol=1e-3, atol=1e-5)
    start = DeepLearner(spec, spec.obs_shape, from_dict(DeepLearnerConfig, {**SMALL, **options}), seed=0)
    assert np.abs(eager.q(obs)[1] - start.q(obs)[1]).max() > 1e-3  # far more than the tolerance was learned


@pytest.mark.slow
def test_a_second_learner_shares_the_graphs_of_the_first() -> None:
    """Else each seed of a process would be compiled again, and the ninth would fall back to eager without a word."""
    torch._dynamo.reset()
    counters.clear()
    descend(VECTORS, 4, 0.0, compile=True)
    assert counters["stats"]["unique_graphs"] == 2  # values and features
    assert not counters["graph_break"]
    descend(WIDER, 2, 0.0, compile=True)  # other sizes: graphs of their own, and the first ones stay
    assert counters["stats"]["unique_graphs"] == 4
    second, _ = descend(VECTORS, 4, 0.0, seed=1, compile=True)
    assert counters["stats"]["unique_graphs"] == 4
    eager, _ = descend(VECTORS, 4, 0.0, seed=1)  # the second one's own parameters, not those of the first
    for left, right in zip(eager.state_dict()["values"].values(), second.state_dict()["values"].values(), strict=True):
        np.testing.assert_allclose(right, left, rtol=1e-3, atol=1e-5)
