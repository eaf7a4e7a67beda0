"""Networks in numpy against torch: finite differences, autograd, some hundred steps of each option, and fallbacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor

from rl_contrastive.config import from_dict
from rl_contrastive.deep.bonus_config import BonusConfig
from rl_contrastive.deep.build_bonus import make_bonus
from rl_contrastive.deep.config import DeepLearnerConfig
from rl_contrastive.deep.feature_net import FeatureConfig, FeatureNet, ObsLayout
from rl_contrastive.deep.learner import DeepLearner
from rl_contrastive.deep.native.encoder import Columns, one_blas_thread
from rl_contrastive.deep.native.features import NativeContrast, contrast_gradient
from rl_contrastive.deep.native.layers import Few, Network, shared, slots
from rl_contrastive.deep.native.values import NativeLearner, td_gradient
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.deep.value import Values, td_losses
from rl_contrastive.deep.weights import FlatParameters, frozen_copy
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import EnvSpec

A, N = 3, 6
SMALL: dict[str, Any] = {
    "batch_size": 8,
    "device": "cpu",
    "encoder": {"hidden": [12, 10], "layer_norm": True},
    "feature_encoder": {"hidden": [9]},
    "representation": {"dim": 4, "hidden": 8, "every": 2},
}
VECTORS = EnvSpec("vectors", A, 10, (5,), "float32")
PLANES = EnvSpec("planes", A, 10, (2, 10, 10), "bool")
CODES = EnvSpec("codes", A, 10, (3, 7, 7), "uint8", codes=(4, 3, 2))
STATES = EnvSpec("states", A, 10, (), "int64", num_states=7)
BYTES = EnvSpec("bytes", A, 10, (2, 3), "uint8")
CELLS = EnvSpec("cells", A, 10, (300,), "bool")
SPECKS = EnvSpec("specks", A, 10, (2, 150), "uint8")
CONV = {"channels": [3], "hidden": [8], "layer_norm": True}
GRID = {"channels": [3, 4], "hidden": [8], "layer_norm": True}

CASES: dict[str, tuple[EnvSpec, dict[str, Any]]] = {
    "the defaults": (VECTORS, {}),
    "plain": (VECTORS, {"encoder": {"hidden": [12]}, "value": {"double": False, "dueling": False}}),
    "hidden heads, signs, scale": (VECTORS, {"value": {"hidden": 7}, "clip_rewards": True, "reward_scale": 3.0}),
    "psi, no hidden layers": (VECTORS, {"representation": {"dim": 4, "hidden": 0, "every": 1, "features": "psi"}}),
    "planes": (PLANES, {"encoder": CONV, "feature_encoder": {"channels": [3], "hidden": [8]}}),
    "codes": (CODES, {"encoder": GRID, "feature_encoder": {"channels": [3], "hidden": []}}),
    "states": (STATES, {}),
    "bytes": (BYTES, {"lr_falls_over": 100, "clip": 0.1}),
    "few of many flags": (CELLS, {}),
    "few of many bytes": (SPECKS, {"value": {"double": False, "dueling": False}}),
}


def observations(spec: EnvSpec, count: int, rng: np.random.Generator) -> np.ndarray:
    shape = (count, *spec.obs_shape)
    if spec in (CELLS, SPECKS):  # one number of 300
        flat = np.zeros((count, 300), dtype=spec.obs_dtype)
        flat[np.arange(count), rng.integers(20, size=count) * 15] = rng.integers(1, 255, size=count)
        return flat.reshape(shape)
    if spec.num_states is not None:
        return rng.integers(spec.num_states, size=shape)
    if spec.codes:
        sizes = np.array(spec.codes)[:, None, None]
        return (rng.integers(100, size=shape) % sizes).astype(np.uint8)
    return (rng.normal(size=shape) * (40 if spec.obs_dtype == "uint8" else 1)).astype(spec.obs_dtype)


def stored(spec: EnvSpec, alpha: float, n_step: int) -> Replay:
    """Forty steps of random observations."""
    rng = np.random.default_rng(1)
    replay = Replay(60, spec.obs_shape, spec.obs_dtype, gamma=0.9, n_step=n_step, alpha=alpha)
    for _ in range(4):
        replay.begin(1)
        obs = observations(spec, 1, rng)
        for k in range(10):
            following, end = observations(spec, 1, rng), np.array([k == 9])
            replay.add(obs, rng.integers(A, size=1), rng.normal(size=1), following, np.ones(1), end, np.array([True]))
            obs = following
    return replay


class Descent:
    """A learner on its own replay."""

    def __init__(self, spec: EnvSpec, *, alpha: float = 0.0, n_step: int = 2, **options: Any) -> None:
        self.learner = DeepLearner(spec, spec.obs_shape, from_dict(DeepLearnerConfig, {**SMALL, **options}), seed=0)
        self.replay, self.rng = stored(spec, alpha, n_step), np.random.default_rng(2)
        of_states = self.learner.config.representation.of_states
        own = {"beta": 1.0, "rng": np.random.default_rng(3), "of_states": of_states}
        self.bonus = make_bonus(BonusConfig(), 60, A, 4, **own)
        self.learner.standardise(self.replay.observations(self.replay.visits()))

    def steps(self, count: int) -> Descent:
        for _ in range(count):
            self.report = self.learner.step(self.replay, self.bonus, rng=self.rng, priority_beta=0.4)
        return self

    @property
    def weights(self) -> np.ndarray:
        """Of all networks, targets and moments too."""
        own = self.learner
        vectors = [own._trained.vector, own._followers.vector, own.features._flat.vector]
        return torch.cat(vectors).numpy().copy()


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("case", CASES)
def test_some_hundred_steps_are_those_of_torch(case: str, alpha: float) -> None:
    spec, options = CASES[case]
    ours, theirs = (Descent(spec, alpha=alpha, backend=backend, **options) for backend in ("numpy", "torch"))
    start = ours.weights
    np.testing.assert_array_equal(start, theirs.weights)
    ours.steps(200), theirs.steps(200)
    gap = np.abs(ours.weights - theirs.weights).max()
    assert gap < 1e-4 < 1e-2 < np.abs(ours.weights - start).max()
    assert ours.report.keys() == theirs.report.keys()
    for name, value in theirs.report.items():
        assert float(ours.report[name]) == pytest.approx(float(value), rel=1e-3)
    obs = observations(spec, 5, np.random.default_rng(4))
    for mine, its in zip(ours.learner.q(obs), theirs.learner.q(obs), strict=True):
        assert (mine.dtype, mine.shape) == (its.dtype, its.shape)
        np.testing.assert_allclose(mine, its, atol=1e-3)
    np.testing.assert_allclose(ours.learner.target_q(obs), theirs.learner.target_q(obs), atol=1e-3)
    for own in (ours, theirs):
        own.learner.features.freeze()
    for action in (None, np.arange(5) % A):
        mine, its = (own.learner.features.phi(obs, action) for own in (ours, theirs))
        assert (mine.dtype, mine.shape) == (its.dtype, its.shape)
        np.testing.assert_allclose(mine, its, atol=1e-3)


def test_many_rows_in_blocks_are_few_rows_each() -> None:
    features = Descent(VECTORS, backend="numpy").learner.features
    obs = observations(VECTORS, 600, np.random.default_rng(0))
    action = np.arange(600) % A
    each = np.concatenate([features.phi(obs[k : k + 1], action[k : k + 1]) for k in range(600)])
    np.testing.assert_allclose(features.phi(obs, action), each, atol=1e-5)


# -- gradients in double precision -------------------------------------------------------------------------------------


def double_values(spec: EnvSpec, options: dict[str, Any]) -> tuple[Values, Values, FlatParameters, Tensor, Tensor]:
    """Networks in float64, o_t and o_{t+m}, and the numbers of a step."""
    config = from_dict(DeepLearnerConfig, {**SMALL, **options})
    g = torch.Generator().manual_seed(0)
    layout = ObsLayout(spec.obs_shape, spec.obs_dtype, spec.num_states, spec.codes)
    values = Values(layout.encoder(config.encoder, rng=g), A, config.value, rng=g).double()
    target = frozen_copy(values)
    with torch.no_grad():  # heads that start near 0 would hide errors
        for p in (*values.parameters(), *target.parameters()):
            p += 0.3 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    flat, rng = FlatParameters(values.parameters()), np.random.default_rng(5)
    numbers = torch.randn((N, 5 + 2 * A), generator=g, dtype=torch.float64)
    numbers[:, 2:4] = torch.rand((N, 2), generator=g, dtype=torch.float64)
    numbers[:, 4] = torch.arange(N) % A
    return values, target, flat, torch.from_numpy(observations(spec, 2 * N, rng)), numbers


def torch_loss(values: Values, target: Values, obs: Tensor, numbers: Tensor, double: bool) -> Tensor:
    """The loss of `DeepLearner._gradient`."""

    def out(net: Values, x: Tensor) -> Tensor:
        return net.head.forward(net.encoder.forward(x))

    with torch.no_grad():
        target_next, online_next = out(target, obs[N:]), out(values, obs[N:]) if double else None
    losses, _ = td_losses(
        values,
        out(values, obs[:N]),
        numbers[:, 4].long(),
        reward=numbers[:, :2],
        discount=numbers[:, 2],
        online_next=online_next,
        target_next=target_next,
        extra_next=numbers[:, 5:].reshape(N, 2, A),
    )
    return (numbers[:, 3:4] * losses).sum() / N


def assert_slopes(flat: FlatParameters, gradient: Tensor, loss: Any) -> None:
    """The gradient along six random directions is (L(x + h d) - L(x - h d)) / 2h."""
    g, h = torch.Generator().manual_seed(7), 1e-6
    for _ in range(6):
        d = torch.randn(gradient.shape, generator=g, dtype=torch.float64)
        ends = []
        for sign in (1.0, -1.0):
            flat.vector += sign * h * d
            ends.append(float(loss().detach()))
            flat.vector -= sign * h * d
        assert float(gradient @ d) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("case", [*CASES])
def test_gradient_of_values(case: str) -> None:
    spec, options = CASES[case]
    values, target, flat, obs, numbers = double_values(spec, options)
    double = values.config.double
    net = NativeLearner(values, target, flat, double=double, otherwise=pytest.fail)
    gradient, errors, losses = net.step(obs, numbers)

    def loss() -> Tensor:
        return torch_loss(values, target, obs, numbers, double)

    assert float(gradient.abs().max()) > 1e-3
    assert (errors.shape, losses.shape) == ((N,), (2,))
    torch.testing.assert_close(gradient, flat.gradient(loss()), rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        assert_slopes(flat, gradient, loss)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", [*CASES])
def test_gradient_of_the_contrast(case: str, weighted: bool) -> None:
    spec, options = CASES[case]
    config = from_dict(DeepLearnerConfig, {**SMALL, **options})
    layout = ObsLayout(spec.obs_shape, spec.obs_dtype, spec.num_states, spec.codes)
    own = FeatureConfig(config.feature_encoder, config.representation, device="cpu", backend="torch")
    online = FeatureNet(layout, A, own, rng=torch.Generator().manual_seed(0)).online.double()
    flat, rng = FlatParameters(online.parameters()), np.random.default_rng(6)
    obs, ahead = (torch.from_numpy(observations(spec, N, rng)) for _ in range(2))
    action = torch.tensor([2, 0, 2, 2, 0, 0])  # one action is never taken
    weight = torch.rand(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64) if weighted else None
    value, gradient = NativeContrast(online.encoder, online.heads, flat).step(obs, action, ahead, weight, None, None)

    def loss() -> Tensor:
        return online.contrast(obs, action, ahead, weight=weight)

    assert float(value) == pytest.approx(float(loss().detach()), rel=1e-6)
    torch.testing.assert_close(gradient, flat.gradient(loss()), rtol=1e-8, atol=1e-12)
    with torch.no_grad():
        assert_slopes(flat, gradient, loss)


def test_td_gradient_by_hand() -> None:
    """One row, two actions, weight .5. Q: the online network takes action 1, y = 1 + .9 * 3 = 3.7, q = 4, slope .3.
    G: bonuses 0 and 5 make it action 1, y = 2 + .9 (2 + 5) = 8.3, q = 2: slope -1."""
    out, ahead = np.array([[[9.0], [4.0]], [[9.0], [2.0]]]), np.array([[[1.0], [3.0]], [[4.0], [2.0]]])
    online = np.array([[[0.0], [1.0]], [[3.0], [0.0]]])
    numbers = np.array([1.0, 2.0, 0.9, 0.5, 1.0, 0.0, 0.0, 0.0, 5.0])[:, None]
    dout, errors, losses = td_gradient(out, numbers, online_next=online, target_next=ahead)
    np.testing.assert_allclose(dout[:, :, 0], [[0.0, 0.5 * 0.3], [0.0, -0.5]])
    np.testing.assert_allclose(errors, [0.3 + 6.3])
    np.testing.assert_allclose(losses, [0.5 * 0.09, 6.3 - 0.5])


def test_contrast_gradient_by_hand() -> None:
    """d = 1 and phi = psi = 1 for u = v = log(e - 1): every f is 1, the loss 2 log 2, and df is -+1/4 for two rows."""
    u = np.full((1, 2), np.log(np.e - 1.0))
    loss, du, dv = contrast_gradient(u, u, np.full(2, 0.5), 1.0)
    assert loss == pytest.approx(2 * np.log(2))
    np.testing.assert_allclose([du, dv], 0.0, atol=1e-15)


def test_a_score_below_single_precision_has_no_gradient() -> None:
    loss, du, dv = contrast_gradient(*np.full((2, 1, 2), -60.0, dtype=np.float32), np.full(2, 0.5, np.float32), 1.0)
    assert np.isfinite(loss)
    assert not np.any([du, dv])


# -- what is chosen, and states ----------------------------------------------------------------------------------------

OTHERS: dict[str, dict[str, Any]] = {
    "atoms": {"value": {"atoms": 5}},
    "noise": {"value": {"noisy": 0.5}},
    "self-prediction": {"self_prediction": {"weight": 1.0}},
    "bf16": {"precision": "bf16"},
}
HAS = "has small mlp, minatar and minigrid networks on a CPU"


@pytest.mark.parametrize("name", OTHERS)
def test_other_options_are_torchs(name: str) -> None:
    assert Descent(VECTORS, **OTHERS[name]).steps(2).learner._native is None
    with pytest.raises(RlcError, match=f"deep: learner.backend numpy {HAS}, but not these options of the values"):
        Descent(VECTORS, backend="numpy", **OTHERS[name])


def test_numpy_is_refused_by_the_name_of_its_option() -> None:
    other = {"representation": {"objective": "infonce"}}
    with pytest.raises(RlcError, match=f"deep: learner.backend numpy {HAS}, but not this loss of features"):
        Descent(VECTORS, backend="numpy", **other)
    config = from_dict(FeatureConfig, {**other, "backend": "numpy"})
    with pytest.raises(RlcError, match=f"deep: features.backend numpy {HAS}, but not this loss of features"):
        FeatureNet(ObsLayout((5,), "float32"), A, config, rng=torch.Generator())
    with pytest.raises(RlcError, match=r"learner\.compile is of torch, and learner\.backend is numpy"):
        from_dict(DeepLearnerConfig, {"compile": True, "backend": "numpy"})  # before torch compiles for minutes
    for backend in ("auto", "torch"):
        assert from_dict(DeepLearnerConfig, {"compile": True, "backend": backend}).compile


def test_auto_takes_numpy_and_torch_is_torch() -> None:
    auto, torchs = Descent(VECTORS).learner, Descent(VECTORS, backend="torch").learner
    assert None not in (auto._native, auto.features._native)
    assert (torchs._native, torchs.features._native) == (None, None)


@pytest.mark.parametrize("options", [{"objective": "infonce"}, {"features": "simplex"}, {"mask_identical": True}])
def test_other_losses_of_features_are_torchs_and_the_values_numpys(options: dict[str, Any]) -> None:
    learner = Descent(VECTORS, representation={"dim": 4, "hidden": 8, "every": 1, **options}).steps(2).learner
    assert learner._native is not None
    assert learner.features._gradient_of == learner.features._gradient


def test_numbers_of_another_layout_go_to_torch() -> None:
    values, target, flat, obs, numbers = double_values(VECTORS, {})
    seen: list[tuple[Any, ...]] = []
    net = NativeLearner(values, target, flat, double=True, otherwise=lambda *given: seen.append(given))  # type: ignore
    net.step(obs, torch.cat([numbers, numbers[:, :1]], dim=1))
    net.step(obs, numbers, None, {"first": obs})
    assert len(seen) == 2
    net.step(obs, numbers, None, None)
    assert len(seen) == 2


@pytest.mark.parametrize("spec", [VECTORS, PLANES, CODES, STATES, BYTES], ids=lambda spec: spec.name)
def test_columns_are_the_inputs(spec: EnvSpec) -> None:
    inputs = Descent(spec).learner.values.encoder.inputs
    obs = observations(spec, 4, np.random.default_rng(0))
    expected = np.moveaxis(inputs.forward(torch.from_numpy(obs)).numpy(), 0, -1)
    np.testing.assert_allclose(Columns(inputs)(obs), expected, atol=1e-6)


@pytest.mark.parametrize("spec", [CELLS, SPECKS], ids=lambda spec: spec.name)
def test_products_with_few_inputs_are_the_whole_ones(spec: EnvSpec) -> None:
    """Equal to the bit, as each row has one number; the gradient of weights that nothing reached is 0 again."""
    values = Descent(spec).learner.values
    flat = FlatParameters(values.parameters())
    rng = np.random.default_rng(0)
    few, whole = Columns(values.encoder.inputs, vectors=True), Columns(values.encoder.inputs)
    gradients = [torch.zeros_like(flat.vector) for _ in range(2)]
    bodies = [Network(values.encoder.body, slots(flat, shared(gradient))) for gradient in gradients]
    batches = [observations(spec, 7, rng) for _ in range(2)]
    batches.insert(1, np.ones_like(batches[0]))  # all inputs at once, between two batches that reach some each
    for obs in batches:
        found = []
        for columns, body in zip((few, whole), bodies, strict=True):
            z, kept = body.saving(columns(obs))
            body.backward(np.ones_like(z), kept, inner=False)
            found.append(z)
        np.testing.assert_array_equal(*found)
        np.testing.assert_array_equal(*(gradient.numpy() for gradient in gradients))
    assert [isinstance(few(obs), Few) for obs in batches] == [True, False, True]
    assert (gradients[0] != 0).any()


def test_many_inputs_at_once_and_narrow_ones_are_whole() -> None:
    columns = Columns(Descent(CELLS).learner.values.encoder.inputs, vectors=True)
    full = np.ones((2, 300), dtype=bool)
    assert not isinstance(columns(full), Few)
    np.testing.assert_array_equal(columns(full), np.ones((300, 2)))
    narrow = Columns(Descent(BYTES).learner.values.encoder.inputs, vectors=True)
    assert not isinstance(narrow(np.zeros((2, 2, 3), dtype=np.uint8)), Few)


def test_a_state_is_the_same_for_both_and_resumes_to_the_bit() -> None:
    whole = Descent(VECTORS, alpha=0.5, backend="numpy").steps(20)
    first = Descent(VECTORS, alpha=0.5, backend="numpy").steps(8)
    again, torchs = (Descent(VECTORS, alpha=0.5, backend=backend) for backend in ("numpy", "torch"))
    for other in (again, torchs):
        other.learner.load_state_dict(first.learner.state_dict())
        other.replay.load_state_dict(first.replay.state_dict())
        other.rng.bit_generator.state = first.rng.bit_generator.state
        other.steps(12)
    np.testing.assert_array_equal(again.weights, whole.weights)
    np.testing.assert_allclose(torchs.weights, whole.weights, atol=1e-4)
    assert not np.array_equal(first.weights, whole.weights)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(("shape", "newest"), [((6, 7, 7), np.s_[:, 3:]), ((2, 5), np.s_[:, 1:])])
def test_features_of_the_newest_frame_see_no_other(backend: str, shape: tuple[int, ...], newest: Any) -> None:
    codes = (4, 3, 2) if len(shape) == 3 else ()
    layout = ObsLayout(shape, "uint8" if codes else "float32", codes=(*codes, *codes)[: len(codes)])
    rng = np.random.default_rng(0)
    obs, other = (rng.integers(2, size=(8, *shape)).astype(layout.dtype) for _ in range(2))
    other[newest] = obs[newest]
    nets = {}
    for frames in ("newest", "all"):
        options = {
            "representation": {"dim": 4, "hidden": 8, "frames": frames},
            "encoder": {"channels": [], "hidden": [9]},
        }
        config = from_dict(FeatureConfig, {**options, "backend": backend})
        nets[frames] = FeatureNet(layout, A, config, rng=torch.Generator().manual_seed(0), stack=2)
    for frames, net in nets.items():
        action = torch.arange(8) % A
        for _ in range(3):
            net.descend(torch.from_numpy(obs), action, torch.from_numpy(other))
        net.freeze()
        assert np.allclose(net.phi(obs), net.phi(other), atol=1e-6) == (frames == "newest")
    assert np.isfinite(nets["newest"].phi(obs)).all()


def test_numpy_multiplies_on_one_thread_once_it_is_chosen() -> None:
    """Ten times slower otherwise, where a program makes an agent by itself."""
    one_blas_thread.cache_clear()
    with threadpool_limits(limits=2, user_api="blas"):
        DeepLearner(VECTORS, (5,), from_dict(DeepLearnerConfig, {**SMALL, "backend": "torch"}), seed=0)
        assert one_blas_thread.cache_info().currsize == 0
        DeepLearner(VECTORS, (5,), from_dict(DeepLearnerConfig, {**SMALL, "backend": "numpy"}), seed=0)
        counts = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
        assert counts == {1}
    one_blas_thread()
