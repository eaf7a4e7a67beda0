"""Encoders of every kind of observation, heads, targets, and their states as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rl_contrastive.config import from_dict, to_dict
from rl_contrastive.deep.config import EncoderConfig
from rl_contrastive.deep.networks import QHead, choose_kind, conv, encoder, linear
from rl_contrastive.deep.replay.frames import Tables
from rl_contrastive.deep.weights import (
    FlatAdam,
    FlatParameters,
    clip,
    follow,
    frozen_copy,
    load_weights,
    weights,
)
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import EnvSpec


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


CODES = (11, 6, 3, 4)
"""MiniGrid's."""

CASES = [
    ((4,), "float32", None, "mlp"),
    ((2, 3), "float64", None, "mlp"),
    ((), "int64", 6, "mlp"),
    ((4,), "int64", 6, "mlp"),
    ((4, 7, 7), "uint8", None, "mlp"),  # bytes, whatever their shape: codes are declared
    ((8, 8, 8), "uint8", None, "mlp"),
    ((4, 12, 12), "uint8", None, "mlp"),
    ((24, 7, 7), "bool", None, "minigrid"),
    ((6, 10, 10), "bool", None, "minatar"),
    ((4, 84, 84), "uint8", None, "nature"),
    ((84, 84), "uint8", None, "nature"),
    ((3, 3), "uint8", None, "mlp"),
]


def observations(shape: tuple[int, ...], dtype: str, states: int | None, n: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    if dtype.startswith("float"):
        return torch.as_tensor(rng.normal(size=(n, *shape)).astype(dtype))
    return torch.as_tensor(rng.integers(states or 2, size=(n, *shape)).astype(dtype))


@pytest.mark.parametrize(("shape", "dtype", "states", "kind"), CASES)
def test_auto_chooses_a_kind_whose_rows_are_independent_and_repeatable(
    shape: tuple[int, ...], dtype: str, states: int | None, kind: str
) -> None:
    assert choose_kind(shape, dtype) == kind
    before = torch.get_rng_state()
    net, twin, other = (encoder(EncoderConfig(), shape, dtype, rng=generator(s), num_states=states) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)  # nothing was drawn from the global generator
    obs = observations(shape, dtype, states, 3)
    with torch.no_grad():
        z = net(obs)
        assert z.shape == (3, net.width)
        assert bool((z >= 0).all())
        assert torch.equal(z, twin(obs))
        assert not torch.equal(z, other(obs))
        assert z[1:2].numpy() == pytest.approx(net(obs[1:2]).numpy(), abs=1e-5)
        if len(obs.unique(dim=0)) == 3:  # different observations stay different
            assert float(torch.pdist(z).min()) > 1e-6


@pytest.mark.parametrize("kind", ["minatar", "minigrid", "nature", "impala"])
def test_every_convolutional_kind_learns_where_something_is(kind: str) -> None:
    """A dot in one of nine places of a frame: the place must be readable from the vector, by gradient steps on all."""
    size = {"minatar": 10, "minigrid": 7}.get(kind, 44)
    step = size // 3
    frames = torch.zeros((9, 1, size, size), dtype=torch.bool)
    for place in range(9):
        x, y = step * (place // 3), step * (place % 3)
        frames[place, 0, x : x + step, y : y + step] = True
    channels = {"nature": (8, 8, 8), "impala": (4, 8)}.get(kind)
    net = encoder(EncoderConfig(kind, hidden=(32,), channels=channels), (1, size, size), "bool", rng=generator())  # type: ignore[arg-type]
    head = QHead(net.width, 9, rng=generator(1))
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(head(net(frames))[:, 0], torch.arange(9))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(np.log(9), rel=0.05)  # the head starts near 0
    assert losses[-1] < 0.1


def test_inputs_by_hand() -> None:
    def inputs(shape: tuple[int, ...], dtype: str, states: int | None = None, **more: Any) -> nn.Module:
        return encoder(EncoderConfig(), shape, dtype, rng=generator(), num_states=states, **more).inputs

    assert inputs((), "int64", states=3)(torch.tensor([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert inputs((2,), "uint8")(torch.tensor([[255, 51]], dtype=torch.uint8))[0].tolist() == pytest.approx([1, 0.2])
    frame = torch.full((1, 84, 84), 255, dtype=torch.uint8)
    assert inputs((84, 84), "uint8")(frame).shape == (1, 1, 84, 84)
    codes = torch.zeros((1, 8, 7, 7), dtype=torch.uint8)  # two stacked frames of four code planes
    codes[0, 0, 2, 3], codes[0, 5], codes[0, 7] = 10, 4, 3
    planes = inputs((8, 7, 7), "uint8", codes=CODES)(codes)[0]
    assert planes.shape == (48, 7, 7)
    assert planes.sum(0).unique().tolist() == [8.0]  # one of each code's values, in each of 8 planes
    assert planes[10, 2, 3] == 1
    assert planes[10].sum() == 1
    assert bool((planes[24 + 11 + 4] == 1).all())  # colour 4 everywhere in the newer frame
    assert bool((planes[47] == 1).all())  # direction 3


def test_floats_are_standardised_on_request_only() -> None:
    obs = np.array([[1.0, 5.0], [3.0, 5.0]])
    net = encoder(EncoderConfig(), (2,), "float64", rng=generator())
    before = net(torch.as_tensor(obs))
    net.inputs.standardise(obs)
    # One spread from the centre is log 2; a constant column is only centred.
    assert net.inputs(torch.as_tensor(obs)).numpy() == pytest.approx(np.log([[0.5, 1.0], [2.0, 1.0]]))
    far = net.inputs(torch.tensor([[2.0 - 7.0, 5.0 + 3.0]])).numpy()
    assert far == pytest.approx(np.array([[-np.log(8.0), np.log(4.0)]]))  # the median factor, 1, where none varied
    assert not torch.equal(net(torch.as_tensor(obs)), before)
    twin = encoder(EncoderConfig(), (2,), "float64", rng=generator(5))
    load_weights(twin, weights(net), "test")
    assert torch.equal(twin(torch.as_tensor(obs)), net(torch.as_tensor(obs)))  # centre and spread are in the state
    with pytest.raises(RlcError, match="NaN or infinite"):
        net.inputs.standardise(np.array([[np.nan, 0.0]]))
    with pytest.raises(RlcError, match="cannot standardise"):
        net.inputs.standardise(np.zeros((0, 2)))


def test_codes_can_go_straight_into_linear_layers() -> None:
    net = encoder(EncoderConfig(channels=(), hidden=(5,)), (4, 7, 7), "uint8", rng=generator(), codes=CODES)
    assert [type(layer) for layer in net.body] == [nn.Flatten, nn.Linear, nn.ReLU]
    assert net.body[1].in_features == 24 * 49
    with pytest.raises(RlcError, match="nature has 3 convolutions"):
        encoder(EncoderConfig(channels=()), (4, 84, 84), "uint8", rng=generator())


def test_initial_layers() -> None:
    wide = linear(40, 10, gain=2.0, init="orthogonal", rng=generator())
    assert (wide.weight @ wide.weight.T).detach().numpy() == pytest.approx(4 * np.eye(10), abs=1e-5)
    tall = linear(10, 40, gain=1.0, init="orthogonal", rng=generator())
    assert (tall.weight.T @ tall.weight).detach().numpy() == pytest.approx(np.eye(10), abs=1e-5)
    he = conv(8, 400, 3, 1, init="he", rng=generator())
    assert float(he.weight.detach().std()) == pytest.approx(np.sqrt(2 / 72), rel=0.02)
    assert float(he.weight.detach().mean()) == pytest.approx(0.0, abs=0.003)
    for layer in (wide, tall, he):
        assert layer.bias is not None
        assert not layer.bias.any()


def test_dueling_head_by_hand() -> None:
    head = QHead(2, 3, rng=generator(), values=2, dueling=True, gain=1.0)
    z = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    with torch.no_grad():
        out = head(z)
        for v in range(2):
            value, *advantage = head.streams(z)[:, 4 * v : 4 * v + 4].T
            mean = sum(advantage) / 3
            for a in range(3):
                assert out[:, v, a].numpy() == pytest.approx((value + advantage[a] - mean).numpy(), abs=1e-6)
        plain = QHead(2, 3, rng=generator(), gain=1.0)
        assert torch.equal(plain(z)[:, 0], plain.streams(z))
        atoms = QHead(2, 3, rng=generator(), dueling=True, atoms=5, hidden=4, gain=1.0)
        assert atoms(z).shape == (2, 1, 3, 5)
        assert atoms(z)[:, 0].mean(1).numpy() == pytest.approx(atoms.streams(z)[:, :5].numpy(), abs=1e-6)
        assert not QHead(2, 3, rng=generator(), gain=0.0)(z).any()


def test_flat_parameters_are_the_networks_own() -> None:
    """One vector: gradients, a clipped norm, Adam and a target that follows agree with the usual loops."""
    usual, flat = (encoder(EncoderConfig(hidden=(8, 4)), (3,), "float32", rng=generator(1)) for _ in range(2))
    target, online = frozen_copy(flat), FlatParameters(flat.parameters())
    followers = FlatParameters(target.parameters())
    follower = frozen_copy(usual)
    adams = torch.optim.Adam(usual.parameters(), lr=0.01), FlatAdam(online, lr=0.01)
    x = torch.randn(6, 3, generator=generator(2))
    for _ in range(3):
        adams[0].zero_grad()
        (10 * usual(x)).square().sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(usual.parameters(), 2.0)
        adams[0].step()
        follow(follower, usual, 0.3)
        gradient = online.gradient((10 * flat(x)).square().sum())
        assert float(clip(gradient, 2.0)) == pytest.approx(float(norm), rel=1e-5)
        assert float(gradient.norm()) == pytest.approx(2.0)
        assert float(norm) > 2.0  # or nothing was clipped
        adams[1].step(gradient)
        followers.follow(online, 0.3)
    for nets in ((usual, flat), (follower, target)):
        for a, b in zip(*(net.parameters() for net in nets), strict=True):
            assert b.detach().numpy() == pytest.approx(a.detach().numpy(), rel=1e-4, abs=1e-6)
    loaded = weights(usual)
    load_weights(flat, loaded, "test")
    assert torch.equal(online.vector, torch.cat([p.reshape(-1) for p in usual.parameters()]))  # still views


def test_target_follows_and_copies_exactly() -> None:
    online = encoder(EncoderConfig(), (3,), "float32", rng=generator(1))
    target = frozen_copy(online)
    assert not any(p.requires_grad for p in target.parameters())
    start = weights(target)
    with torch.no_grad():
        for p in online.parameters():
            p.mul_(3.0).add_(0.1)
    online.inputs.standardise(np.random.default_rng(0).normal(size=(9, 3)))
    follow(target, online, 0.25)
    for name, value in weights(target).items():
        if name.startswith("body"):
            assert value == pytest.approx(0.75 * start[name] + 0.25 * weights(online)[name], abs=1e-6)
        else:
            assert np.array_equal(value, weights(online)[name])  # buffers are copied
    follow(target, online, 1.0)
    assert all(np.array_equal(value, weights(online)[name]) for name, value in weights(target).items())
    follow(target, online, 0.0)
    with pytest.raises(RlcError, match="tau"):
        follow(target, online, 1.5)


def test_bad_states_are_refused_with_the_name_of_what_is_wrong() -> None:
    net = encoder(EncoderConfig(hidden=(5,)), (3,), "float32", rng=generator())
    saved = weights(net)
    with pytest.raises(RlcError, match=r"test: the saved weights lack 'body\.1\.weight'"):
        load_weights(net, {k: v for k, v in saved.items() if k != "body.1.weight"}, "test")
    with pytest.raises(RlcError, match="hold 'extra'"):
        load_weights(net, {**saved, "extra": np.zeros(1)}, "test")
    with pytest.raises(RlcError, match=r"'body\.1\.bias' has shape \(6,\), not \(5,\)"):
        load_weights(net, {**saved, "body.1.bias": np.zeros(6)}, "test")


@pytest.mark.parametrize(
    ("fields", "shape", "dtype", "sentence"),
    [
        ({"kind": "nature"}, (4, 20, 20), "uint8", "too small"),
        ({"kind": "minatar"}, (5,), "float32", "2 or 3 axes"),
        ({"kind": "mlp", "hidden": ()}, (5,), "float32", "at least one hidden layer"),
        ({"hidden": ()}, (5,), "float32", "at least one hidden layer"),
        ({"hidden": (0,)}, (5,), "float32", "hidden must lie in"),
        ({"kind": "nature", "channels": (8, 8)}, (4, 84, 84), "uint8", "3 convolutions"),
        ({}, (), "int64", "num_states"),
    ],
)
def test_what_fits_nothing_is_refused(
    fields: dict[str, Any], shape: tuple[int, ...], dtype: str, sentence: str
) -> None:
    with pytest.raises(RlcError, match=sentence):
        encoder(from_dict(EncoderConfig, fields), shape, dtype, rng=generator())


def test_config_survives_json() -> None:
    config = EncoderConfig("impala", hidden=(8,), channels=(4, 4), init="he", layer_norm=True)
    assert from_dict(EncoderConfig, to_dict(config)) == config


def test_layer_norm_bounds_what_follows() -> None:
    net = encoder(EncoderConfig(hidden=(16,), layer_norm=True), (3,), "float32", rng=generator())
    z = net(1e6 * observations((3,), "float32", None, 4))
    assert float(z.detach().square().sum(1).max()) <= 16 + 1e-3  # a normalised vector of 16 has squared length 16


@pytest.mark.parametrize("kind", ["mlp", "minigrid"])
def test_double_precision_and_gradients(kind: str) -> None:
    shape, dtype = ((3,), "float64") if kind == "mlp" else ((4, 5, 5), "uint8")
    net = encoder(EncoderConfig(kind, hidden=(4,)), shape, dtype, rng=generator()).double()  # type: ignore[arg-type]
    obs = observations(shape, dtype, 3, 3)
    z = net(obs)
    assert z.dtype == torch.float64
    parameter = next(p for p in net.parameters())
    (gradient,) = torch.autograd.grad(z.square().sum(), parameter)
    flat, place = parameter.detach().reshape(-1), int(gradient.abs().argmax())
    old, values = float(flat[place]), []
    for shift in (1e-6, -1e-6):
        flat[place] = old + shift
        values.append(float(net(obs).square().sum().detach()))
    assert float(gradient.reshape(-1)[place]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


def test_what_no_table_holds_is_an_error() -> None:
    codes = EnvSpec("grid", 2, 5, (4, 7, 7), "uint8", codes=CODES)
    obs = np.zeros((3, 4, 7, 7), dtype=np.uint8)
    Tables(codes).check(obs, 0)
    obs[2, 1, 3, 3] = 6  # there are six colours
    with pytest.raises(
        RlcError, match=r"^grid: plane 1 of an observation holds 6 at step 4, but only 0\.\.5 is declared"
    ):
        Tables(codes).check(obs, 4)
    for state in (5, -1):
        with pytest.raises(RlcError, match=rf"^states: an observation holds {state} at step 1, but only 0\.\.4"):
            Tables(EnvSpec("states", 2, 5, (), "int64", num_states=5)).check(np.array([0, state]), 1)
    with pytest.raises(RlcError, match="do not fit"):
        Tables(EnvSpec("grid", 2, 5, (3, 7, 7), "uint8", codes=CODES))
    with pytest.raises(
        RlcError, match=r"4 planes of codes a frame need bytes \(k 4, H, W\), not uint8 of shape \(6, 7, 7"
    ):
        encoder(EncoderConfig(), (6, 7, 7), "uint8", rng=generator(), codes=CODES)
