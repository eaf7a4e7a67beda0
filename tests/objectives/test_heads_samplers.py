"""Heads and samplers: published values, brute force, the law of the draws, gradients, resume."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from golden_waves import wave
from torch import Tensor

from rl_contrastive import objectives
from rl_contrastive.errors import RlcError
from rl_contrastive.objectives.heads import Gate, GateConfig, ShuffledWhitening, WhiteningConfig, inverse_root
from rl_contrastive.objectives.samplers import (
    HardTopK,
    HardTopKConfig,
    PropensityConfig,
    PropensitySampler,
    SemanticConfig,
    SemanticNeighbours,
    mixed,
)

PLAIN = WhiteningConfig(groups=2, shuffle=False, eps=1e-9)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(dim: int, config: WhiteningConfig) -> ShuffledWhitening:
    return ShuffledWhitening(dim, config, dtype=torch.float64)


def test_whitening_golden_row() -> None:
    x = wave(15, 4, 0) ** 2 + wave(15, 4, 0.4)
    golden = [0.045907, 1.719641, 0.877437, -1.291219]
    assert double(4, PLAIN)(x[:5], True)[0].tolist() == pytest.approx(golden, abs=1e-6)
    ours = double(4, WhiteningConfig(groups=2, shuffle=False))(x[:5], True)[0]
    assert ours.tolist() == pytest.approx(golden, abs=1e-3)  # eps = 1e-5, which the published code has not


def test_each_group_is_white_in_every_shuffle() -> None:
    z = torch.tensor(np.random.default_rng(0).standard_normal((200, 8)) @ np.random.default_rng(1).random((8, 8)))
    copies = double(8, WhiteningConfig(groups=8, eps=1e-12)).copies(z, rng=seeded())
    assert copies.shape == (3, 200, 8)
    for white in copies:  # groups of one channel: variance 1 each, whatever the order
        torch.testing.assert_close(white.square().mean(0), torch.ones(8, dtype=torch.float64))
    whole = double(8, WhiteningConfig(groups=1, eps=1e-12)).copies(z, rng=seeded())
    eye = torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(whole[0].T @ whole[0] / 200, eye)
    torch.testing.assert_close(whole[0], whole[1])  # one group: the shuffle is undone
    pairs = double(8, WhiteningConfig(groups=4, eps=1e-12)).copies(z, rng=seeded())
    assert not torch.allclose(pairs[0], pairs[1])


@pytest.mark.parametrize("through", [True, False])
def test_the_gradient_passes_through_the_root_if_asked(through: bool) -> None:
    z = wave(6, 4, 0).requires_grad_()
    weight = wave(6, 4, 2)

    def loss(x: Tensor) -> Tensor:
        return (double(4, WhiteningConfig(groups=2, shuffle=False, through=through))(x, True) * weight).sum()

    numeric = torch.zeros_like(z)
    with torch.no_grad():
        for i in range(z.numel()):
            step = torch.zeros(z.numel(), dtype=torch.float64)
            step[i] = 1e-6
            step = step.view_as(z)
            numeric.view(-1)[i] = (loss(z + step) - loss(z - step)) / 2e-6
    analytic = torch.autograd.grad(loss(z), z)[0]
    assert torch.allclose(analytic, numeric, atol=1e-5) == through


def test_gradient_of_the_inverse_root() -> None:
    A = wave(3, 3, 0)
    C = (A @ A.T + torch.eye(3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: inverse_root((x + x.mT) / 2), C)
    same = torch.eye(3, dtype=torch.float64).requires_grad_()  # torch.linalg.eigh gives NaN here
    assert torch.autograd.gradcheck(lambda x: inverse_root((x + x.mT) / 2), same)


@pytest.mark.parametrize("kind", ["equal", "copies", "one channel"])
def test_degenerate_batches_stay_finite(kind: str) -> None:
    z = torch.ones(6, 4)
    if kind == "copies":
        z = wave(2, 4, 0).float().repeat(3, 1)
    if kind == "one channel":
        z = torch.cat([wave(6, 1, 0).float()] * 4, dim=1)
    z = z.clone().requires_grad_()
    white = ShuffledWhitening(4, WhiteningConfig(groups=2))(z, True, rng=seeded())
    white.square().sum().backward()
    assert torch.isfinite(white).all()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_evaluation_takes_running_statistics_and_resumes() -> None:
    head = double(4, WhiteningConfig(groups=2, momentum=0.5, eps=1e-9))
    for i in range(3):
        head(wave(9, 4, i), True, rng=seeded(i))
    z = wave(5, 4, 7)
    torch.testing.assert_close(head(z, False)[2:3], head(z[2:3], False))  # a row does not depend on its batch
    again = double(4, WhiteningConfig(groups=2, momentum=0.5, eps=1e-9))
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(z, False), head(z, False))
    assert torch.equal(again(z, True, rng=seeded()), head(z, True, rng=seeded()))
    for key, value in head.state_dict().items():
        assert np.asarray(value).tobytes() == np.asarray(again.state_dict()[key]).tobytes()
    once = double(4, PLAIN)
    torch.testing.assert_close(once(z, True), once(z, False))  # the first batch is the average


def test_gate() -> None:
    gate = Gate(5, 3, rng=seeded())
    y1, y2 = torch.tensor([0, 1, 2, 0]), torch.tensor([3, 4, 2, 3])
    g = gate(y1, y2)
    assert g.shape == (4, 3)
    assert ((g > 0) & (g < 1)).all()
    torch.testing.assert_close(g, gate(y2, y1))  # of the pair, not of its order
    torch.testing.assert_close(g[0], g[3])
    product = Gate(5, 3, GateConfig(fuse=False), rng=seeded())
    own = product(y1, y1, False)
    torch.testing.assert_close(product(y1, y2, False).square(), own * product(y2, y2, False))
    z = torch.ones(4, 3)
    torch.testing.assert_close(gate.head(z, False, y1, y2), gate(y1, y2, False))
    again = Gate(5, 3, rng=seeded(1))
    again.load_state_dict(gate.state_dict())
    assert torch.equal(again(y1, y2), gate(y1, y2))
    one = gate(y1[:1], y2[:1], False)  # evaluation needs no batch
    torch.testing.assert_close(one[0], gate(y1, y2, False)[0])
    gate(y1, y2).sum().backward()
    assert all(p.grad is not None for p in gate.parameters())


def test_heads_refuse_wrong_use() -> None:
    head, gate = ShuffledWhitening(4, WhiteningConfig(groups=2)), Gate(3, 2, rng=seeded())
    y = torch.tensor([0, 1])
    with pytest.raises(RlcError, match="multiple of groups = 8"):
        ShuffledWhitening(12)
    with pytest.raises(RlcError, match="batch of at least 2"):
        head(torch.ones(1, 4), True, rng=seeded())
    with pytest.raises(RlcError, match="needs a generator"):
        head(torch.ones(2, 4), True)
    with pytest.raises(RlcError, match="NaN"):
        head(torch.full((2, 4), math.nan), True, rng=seeded())
    with pytest.raises(RlcError, match="lacks 'covariance'"):
        head.load_state_dict({"mean": np.zeros(4)})
    with pytest.raises(RlcError, match=r"labels must lie in 0\.\.2"):
        gate(y, torch.tensor([0, 3]))
    with pytest.raises(RlcError, match="needs a label"):
        gate(y, None)  # type: ignore[arg-type]
    with pytest.raises(RlcError, match="batch of at least 2"):
        gate(y[:1], y[:1])
    with pytest.raises(RlcError, match="2 embeddings, but 1 labels"):
        gate.head(torch.ones(2, 2), False, y[:1], y[:1])


def items(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 6)), rng.standard_normal((n, 4))


def cosines(x: np.ndarray) -> np.ndarray:
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(u @ u.T)


@pytest.mark.parametrize("role", ["positive", "negative"])
def test_inverse_propensity_draws_follow_their_law(role: str) -> None:
    meaning, surface = items()
    config = PropensityConfig(role=role, k=8, draws=40_000)  # type: ignore[arg-type]
    sampler, i = PropensitySampler(meaning, surface, config), 7
    similar, e = (1 + cosines(meaning)[i]) / 2, np.maximum(((1 + cosines(surface)[i]) / 2) ** 3, 1e-3)
    mass = similar / e if role == "positive" else (1 - similar) * e
    similar[i] = -1.0
    top = sorted(range(60), key=lambda j: -similar[j])[:8] if role == "positive" else [j for j in range(60) if j != i]
    law = np.array([mass[j] if j in top else 0.0 for j in range(60)])
    law /= law.sum()
    assert sampler.law(np.array([i]))[0] == pytest.approx(law)
    drawn, weight = sampler(np.array([i, 3]), np.random.default_rng(0))
    assert drawn.shape == weight.shape == (2, 40_000)
    assert np.abs(np.bincount(drawn[0], minlength=60) / 40_000 - law).max() < 0.01
    assert set(drawn[0]) <= set(top)
    assert weight[0].sum() == pytest.approx(1.0)
    again, _ = sampler(np.array([i, 3]), np.random.default_rng(0))
    assert np.array_equal(again, drawn)


def test_inverse_propensity_removes_the_bias_to_the_surface() -> None:
    """Meaning and surface are drawn apart; the pre-trained similarity mixes both, so its neighbours look alike."""
    rng = np.random.default_rng(1)
    cluster, style = rng.integers(6, size=600), rng.integers(6, size=600)
    surface = np.eye(6)[style]
    mixture = np.concatenate([np.eye(6)[cluster], surface], axis=1)
    index = np.arange(600)
    alike = {}
    for power in (1e-9, 3.0):  # e = 1, and inverse propensity
        sampler = PropensitySampler(mixture, surface, PropensityConfig(k=300, draws=20, power=power))
        found, _ = sampler(index, np.random.default_rng(2))
        alike[power] = (style[found] == style[:, None]).mean()
    assert alike[3.0] < alike[1e-9] - 0.05


def test_copies_leave_a_proper_law() -> None:
    same = np.ones((5, 2))
    for role in ("positive", "negative"):
        sampler = PropensitySampler(same, same, PropensityConfig(role=role, k=2))  # type: ignore[arg-type]
        law = sampler.law(np.arange(5))
        assert np.isfinite(law).all()
        np.testing.assert_allclose(law.sum(1), 1.0)
        assert (np.diag(law) == 0).all()


def test_hard_top_k_against_brute_force() -> None:
    x, _ = items()
    index = np.array([4, 0, 59])
    found, weight = HardTopK(x, HardTopKConfig(6))(index)
    cosine = cosines(x)
    for row, i in zip(found, index, strict=True):
        assert row.tolist() == sorted((j for j in range(60) if j != i), key=lambda j: -cosine[i, j])[:6]
    assert (weight == 1 / 6).all()


def test_semantic_retrieval() -> None:
    x, _ = items()
    sampler = SemanticNeighbours(x, SemanticConfig(neighbours=5, width=3), rng=seeded())
    index = np.array([4, 0, 59])
    found, weight = sampler(index, np.random.default_rng(0), training=False)
    assert np.array_equal(found, HardTopK(x, HardTopKConfig(5))(index)[0])
    W, a = sampler.nets
    e = sampler.semantic
    for b, u in enumerate(index):
        scores = []
        for v in found[b]:
            s = float(a(torch.cat([W(e[u]), W(e[v])])).detach())
            scores.append(s if s > 0 else 0.2 * s)
        torch.testing.assert_close(weight[b], torch.softmax(torch.tensor(scores), 0))
    z = wave(15, 2, 0).float().reshape(3, 5, 2)
    torch.testing.assert_close(mixed(z, weight)[1], sum(weight[1, j] * z[1, j] for j in range(5)))
    mixed(z, weight).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in sampler.parameters())


def test_dropout_is_on_the_weights_and_they_are_not_normalised_again() -> None:
    x, _ = items()
    sampler = SemanticNeighbours(x, SemanticConfig(neighbours=5, width=3), rng=seeded())
    index = np.arange(60)
    _, plain = sampler(index, np.random.default_rng(0), training=False)
    _, dropped = sampler(index, np.random.default_rng(0))
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2.0 * plain[kept])
    assert 0.4 < float(kept.float().mean()) < 0.6
    assert float(dropped.detach().sum(1).std()) > 0.1
    again = SemanticNeighbours(x, SemanticConfig(neighbours=5, width=3), rng=seeded(1))
    again.load_state_dict(sampler.state_dict())
    assert torch.equal(again(index, np.random.default_rng(0))[1], dropped)


def test_samplers_refuse_wrong_use() -> None:
    x, y = items()
    with pytest.raises(RlcError, match="k must be at most the 59 others, got 60"):
        PropensitySampler(x, y, PropensityConfig(k=60))
    with pytest.raises(RlcError, match="k must be at most the 59 others, got 60"):
        HardTopK(x, HardTopKConfig(60))
    with pytest.raises(RlcError, match="60 meanings, but 3 surfaces"):
        PropensitySampler(x, y[:3])
    with pytest.raises(RlcError, match=r"index must lie in 0\.\.59"):
        HardTopK(x)(np.array([60]))
    with pytest.raises(RlcError, match="NaN"):
        HardTopK(np.full((20, 2), math.nan))
    with pytest.raises(RlcError, match="at least 2 instances"):
        PropensitySampler(x[:1], y[:1])
    with pytest.raises(RlcError, match="do not fit weights"):
        mixed(torch.ones(2, 3, 4), torch.ones(2, 2))
    with pytest.raises(RlcError, match="least must lie in"):
        PropensityConfig(least=0.0)


def test_arrays_of_the_wrong_kind_are_one_sentence() -> None:
    rows = np.ones((4, 4))
    for call, sentence in (
        (lambda: ShuffledWhitening(4, PLAIN)(rows, True), "whitening: z must be a torch tensor, got ndarray"),
        (lambda: HardTopK(rows, HardTopKConfig(1))([0, 1]), "hard top-k: the index must be a numpy array, got list"),
        (lambda: objectives.OpTA()(rows, rows), "opta: support must be a torch tensor, got ndarray"),
        (lambda: objectives.log_sinkhorn(rows, eps=0.1), "sinkhorn: cost must be a torch tensor, got ndarray"),
        (lambda: objectives.log_sinkhorn(torch.ones(3, 3), eps=1e-300), "sinkhorn: eps is so small"),
        (lambda: objectives.MIM()(*[torch.ones(4, 4)] * 3, weight=[0.25] * 4), "mim: weight must be a torch tensor"),
        (lambda: objectives.MIM()(rows, rows, rows), "mim: mean must be a torch tensor, got ndarray"),
    ):
        with pytest.raises(RlcError, match=sentence):
            call()


def test_a_sentence_names_the_part_that_was_asked() -> None:
    features = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(RlcError, match=r"^semantic: k must be at most the 4 others"):
        SemanticNeighbours(features, SemanticConfig(neighbours=5), rng=torch.Generator())
    with pytest.raises(RlcError, match=r"^svd view: counts must"):
        objectives.SVDView()(torch.ones(3))
    with pytest.raises(RlcError, match=r"^SepCLR: both heads need a coordinate, got d = 1 and common = 0"):
        objectives.SepCLR()(objectives.Views(torch.ones(2, 2, 1), group=torch.tensor([0, 1])))
