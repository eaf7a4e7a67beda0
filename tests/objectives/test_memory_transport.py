"""The memory of BECLR and optimal transport: another library's plans, brute force, overwritten positions, resume."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from golden_waves import wave
from torch import Tensor

from rl_contrastive.errors import RlcError
from rl_contrastive.objectives.memory import DyCEConfig, DyCEMemory, assign, k_means
from rl_contrastive.objectives.transport import OpTA, OpTAConfig, estimate_marginal, log_sinkhorn
from rl_contrastive.spec import State


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def blobs(count: int, spread: float, *, seed: int, dim: int = 8) -> tuple[Tensor, np.ndarray]:
    """Unit vectors around 4 axes, and which."""
    rng = generator(seed)
    label = rng.integers(4, size=count)
    z = np.eye(4, dim)[label] + spread * rng.standard_normal((count, dim))
    return torch.tensor(z, dtype=torch.float32), label


def test_sinkhorn_equals_pot() -> None:
    ot = pytest.importorskip("ot")
    rng = generator()
    cost = torch.tensor(rng.random((3, 5, 7)))
    mu, nu = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(7))
    for a, b in ((np.full(5, 0.2), np.full(7, 1 / 7)), (mu, nu)):
        marginals = {"mu": torch.tensor(a).expand(3, 5), "nu": torch.tensor(b).expand(3, 7)}
        ours = log_sinkhorn(cost, eps=0.05, rounds=20_000, tolerance=1e-14, **marginals).exp()
        for plan, c in zip(ours, cost, strict=True):
            other = ot.sinkhorn(a, b, c.numpy(), 0.05, method="sinkhorn_log", stopThr=1e-14, numItermax=20_000)
            assert np.abs(plan.numpy() - other).max() < 1e-8


def test_sinkhorn_approaches_the_cheapest_matching() -> None:
    """Brute force over the permutations of 5; the entropy costs at most eps log 5! / 5."""
    cost = torch.tensor(generator(1).random((5, 5)))
    plan = log_sinkhorn(cost, eps=1e-3, rounds=20_000, tolerance=1e-9).exp()
    best = min(sum(float(cost[i, p[i]]) for i in range(5)) for p in itertools.permutations(range(5))) / 5
    assert float((plan * cost).sum()) == pytest.approx(best, abs=1e-3)


def test_marginals_hold_and_may_be_a_wish() -> None:
    cost = torch.tensor(generator(2).random((4, 6)), dtype=torch.float32)
    plan = log_sinkhorn(100.0 * (1.0 + cost), eps=0.05, rounds=200).exp()  # exp(-C/eps) would be 0 everywhere
    torch.testing.assert_close(plan.sum(0), torch.full((6,), 1 / 6), atol=1e-4, rtol=0)
    mu = torch.tensor([0.5, 0.5, 0.0, 0.0])
    empty = log_sinkhorn(cost, eps=0.05, mu=mu).exp()
    assert (empty[2:] == 0).all()
    torch.testing.assert_close(empty.sum(1), mu, atol=1e-3, rtol=0)
    free, strict = (log_sinkhorn(cost, eps=0.05, relax=r, tolerance=1e-9).exp() for r in (1e-6, 1e6))
    torch.testing.assert_close(free, torch.softmax(-cost / 0.05, dim=0) / 6)  # each column alone
    torch.testing.assert_close(strict, log_sinkhorn(cost, eps=0.05, tolerance=1e-9).exp(), atol=1e-4, rtol=0)


def test_opta_golden_prototypes() -> None:
    found = OpTA()(wave(3, 2, 0), wave(6, 2, 0.5))
    golden = [[0.351268, 0.949854], [0.694205, -0.193923], [-0.927729, -0.790241]]
    assert np.abs(found.numpy() - golden).max() < 1e-3
    batched = OpTA(OpTAConfig(passes=2))(wave(3, 2, 0).expand(2, 3, 2), wave(6, 2, 0.5).expand(2, 6, 2))
    torch.testing.assert_close(batched[0], OpTA()(found, wave(6, 2, 0.5)))
    kept = OpTA(OpTAConfig(keep=0.5))(wave(3, 2, 0), wave(6, 2, 0.5))
    torch.testing.assert_close(kept, 0.5 * wave(3, 2, 0) + 0.5 * found)
    same = torch.ones(3, 2)
    torch.testing.assert_close(OpTA()(same, torch.ones(6, 2)), same)  # every cost 0


def test_a_class_without_queries_stays() -> None:
    support = torch.tensor([[0.0, 0.0], [100.0, 0.0]])
    query = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    found = OpTA(OpTAConfig(marginal="estimated", prior=0.0, eps=1e-3))(support, query)
    assert found.isfinite().all()
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.25], [100.0, 0.0]]))


def few_shot(sizes: list[int], shift: float, episodes: int = 40) -> dict[str, float]:
    """Accuracy of the nearest prototype, one labelled point a class, 5 Gaussian classes in 10 dimensions."""
    rng = generator(3)
    centres = 1.6 * rng.standard_normal((episodes, 5, 10))
    label = np.repeat(np.arange(5), sizes)
    support = torch.tensor(centres + rng.standard_normal((episodes, 5, 10)))
    moved = shift * rng.standard_normal((episodes, 1, 10))
    query = torch.tensor(centres[:, label] + rng.standard_normal((episodes, len(label), 10)) + moved)

    def accuracy(prototypes: Tensor) -> float:
        return float((torch.cdist(query, prototypes).argmin(-1).numpy() == label).mean())

    names = ("uniform", "estimated", "relaxed")
    return {name: accuracy(OpTA(OpTAConfig(marginal=name))(support, query)) for name in names} | {  # type: ignore[arg-type]
        "none": accuracy(support)
    }


def test_opta_gains_on_balanced_and_shifted_queries() -> None:
    for shift in (0.0, 0.5):
        balanced = few_shot([15] * 5, shift)
        assert balanced["uniform"] > balanced["none"] + 0.03
        assert balanced["estimated"] > balanced["none"] + 0.03


def test_estimated_marginals_lose_less_on_unbalanced_queries() -> None:
    """The published uniform marginal forces 75 queries into equal classes of 15; EM sees that they are not."""
    found = few_shot([45, 15, 9, 4, 2], 0.0)
    assert found["uniform"] < found["none"] - 0.05
    assert found["estimated"] > found["uniform"] + 0.1
    assert found["relaxed"] > found["uniform"] + 0.03


def test_em_finds_the_shares() -> None:
    z, label = blobs(400, 0.05, seed=4)
    keep = np.flatnonzero((label == 0) | (generator().random(400) < 0.2))
    cost = torch.cdist(torch.eye(4, 8), z[keep]).square() / 2.0
    share = np.bincount(label[keep], minlength=4) / len(keep)
    assert np.abs(estimate_marginal(cost, eps=0.05, prior=0.0).numpy() - share).max() < 1e-3


def filled(config: DyCEConfig, pushes: int = 12, saved: State | None = None, start: int = 0) -> DyCEMemory:
    memory = DyCEMemory(8, config, slots=1000)
    if saved is not None:
        memory.load_state_dict(saved)
    for i in range(start, pushes):
        z, _ = blobs(10, 0.2, seed=i)
        memory.push(z, np.arange(10 * i, 10 * i + 10), rng=generator(i))
    return memory


SMALL = DyCEConfig(prototypes=4, scale=20)


def test_positions_are_overwritten_oldest_first() -> None:
    memory = DyCEMemory(2, DyCEConfig(prototypes=1, scale=5), slots=100)
    for i in range(4):
        memory.push(torch.full((2, 2), float(i + 1)), np.array([2 * i, 2 * i + 1]), rng=generator())
    assert memory.index.tolist() == [5, 6, 7, 3, 4]  # the first batch and half of the next are gone
    assert memory.z[:, 0].tolist() == [3.0, 4.0, 4.0, 2.0, 3.0]
    memory.push(torch.arange(14.0).reshape(7, 2), np.arange(10, 17), rng=generator())
    assert sorted(memory.index.tolist()) == [12, 13, 14, 15, 16]  # of seven, the last five
    memory.forget(np.array([13, 50]))
    assert (memory.index == 13).sum() == 0
    assert memory.filled.sum() == 4
    assert (memory.label[~memory.filled] == -1).all()
    with pytest.raises(RlcError, match="at most the 4 vectors"):
        memory.nearest(torch.ones(1, 2), 5)


def test_forgotten_positions_do_not_put_off_the_first_partition() -> None:
    """A replay that overwrites empties some position at all times; the memory is never quite full."""
    memory = DyCEMemory(8, SMALL, slots=1000)
    for i in range(9):
        z, _ = blobs(10, 0.2, seed=i)
        memory.push(z, np.arange(10 * i, 10 * i + 10), rng=generator(i))
        memory.forget(np.array([10 * i]))
    assert memory.clustered_at >= 0
    assert set(memory.label[memory.filled]) == {0, 1, 2, 3}
    assert memory.filled[memory.nearest(z, 3)].all()


@pytest.mark.parametrize("own", [False, True])
def test_nearest_against_brute_force(own: bool) -> None:
    memory = filled(SMALL)
    memory.forget(np.arange(60, 63))
    z, _ = blobs(30, 0.3, seed=99)
    slots = np.arange(70, 100)
    found = memory.nearest(z, 7, own=slots if own else None)
    unit = memory.z / memory.z.norm(dim=1, keepdim=True)
    for i, row in enumerate(z):
        direction = row / row.norm()
        centre = memory.prototypes / memory.prototypes.norm(dim=1, keepdim=True)
        home = int(torch.tensor([float((direction - c).norm()) for c in centre]).argmin())
        all_of = [j for j in range(80) if memory.index[j] >= 0 and not (own and memory.index[j] == slots[i])]
        inside = [j for j in all_of if memory.label[j] == home]
        pool = inside if len(inside) >= 7 else all_of
        best = sorted(pool, key=lambda j: -float(direction @ unit[j]))[:7]
        assert set(found[i]) == set(best)


def test_a_small_partition_gives_way_to_the_whole_memory() -> None:
    memory = filled(SMALL)
    z, _ = blobs(5, 0.2, seed=50)
    largest = int(np.bincount(memory.label, minlength=4).max())
    cosine = torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(memory.z).T
    expected = cosine.topk(largest + 1).indices.numpy()
    assert [set(row) for row in memory.nearest(z, largest + 1)] == [set(row) for row in expected]


def test_positives_of_the_right_kind_and_the_published_sign() -> None:
    """Members assigned by plus the distance carry the label of a far prototype."""
    right = {}
    for sign in (False, True):
        memory = filled(DyCEConfig(prototypes=4, scale=20, published_sign=sign), pushes=8)
        prototypes = memory.prototypes
        z, _ = blobs(40, 0.1, seed=77)
        home = torch.cdist(torch.nn.functional.normalize(z), torch.nn.functional.normalize(prototypes)).argmin(1)
        right[sign] = float((assign(z, prototypes, memory.config) == home.numpy()).mean())
        assert len(set(home.tolist())) == 4
    assert right[False] > 0.9
    assert right[True] < 0.1


def test_shares_are_even() -> None:
    z, _ = blobs(40, 0.2, seed=5)
    z[:30] = z[0] + 0.05 * z[:30]  # three quarters near one prototype
    label = assign(z, torch.eye(4, 8), DyCEConfig(prototypes=4, rounds=200))
    assert np.bincount(label, minlength=4).max() <= 16  # the plan is even, its greatest entries nearly
    plain = torch.cdist(torch.nn.functional.normalize(z), torch.eye(4, 8)).argmin(1)
    assert np.bincount(plain.numpy(), minlength=4).max() >= 30


def test_prototypes_are_the_means_of_their_members() -> None:
    memory = filled(SMALL)
    unit = torch.nn.functional.normalize(memory.z)
    for k in range(4):
        members = torch.from_numpy(memory.label == k)
        torch.testing.assert_close(memory.prototypes[k], unit[members].mean(0))
    again = filled(DyCEConfig(prototypes=4, scale=20, momentum=0.9))
    assert not torch.allclose(again.prototypes, memory.prototypes, atol=1e-4)


@pytest.mark.parametrize("every", [0, 3])
def test_the_memory_resumes_to_the_byte(every: int) -> None:
    config = DyCEConfig(prototypes=4, scale=20, every=every)
    whole = filled(config, 14).state_dict()
    for cut in (3, 10):  # before and after the first k-means
        rest = filled(config, 14, filled(config, cut).state_dict(), cut).state_dict()
        assert rest.keys() == whole.keys()
        for name, value in whole.items():
            assert np.asarray(value).tobytes() == np.asarray(rest[name]).tobytes()


def test_k_means_finds_blobs_and_bears_copies() -> None:
    z, label = blobs(200, 0.1, seed=6)
    _, found = k_means(z, 4, 20, rng=generator())
    assert all(len(set(found[label == k])) == 1 for k in range(4))
    centres, _ = k_means(torch.ones(6, 2), 3, 5, rng=generator())
    torch.testing.assert_close(centres, torch.ones(3, 2))


def test_wrong_use_is_a_sentence() -> None:
    memory, z = DyCEMemory(3, DyCEConfig(prototypes=2, scale=2), slots=5), torch.ones(2, 3)
    with pytest.raises(RlcError, match=r"index must lie in 0\.\.4"):
        memory.push(z, np.array([0, 5]), rng=generator())
    with pytest.raises(RlcError, match="2 vectors, but 1 indices"):
        memory.push(z, np.array([0]), rng=generator())
    with pytest.raises(RlcError, match="NaN"):
        memory.push(torch.full((2, 3), torch.nan), np.array([0, 1]), rng=generator())
    with pytest.raises(RlcError, match="d = 3"):
        memory.push(torch.ones(2, 4), np.array([0, 1]), rng=generator())
    with pytest.raises(RlcError, match="k must be at most the 0 vectors"):
        memory.nearest(z, 1)
    with pytest.raises(RlcError, match="lacks 'centres'"):
        memory.load_state_dict({"z": np.zeros((4, 3))})
    with pytest.raises(RlcError, match="has shape"):
        memory.load_state_dict(DyCEMemory(3, DyCEConfig(prototypes=2, scale=3), slots=5).state_dict())
    cost = torch.ones(2, 2)
    for bad, sentence in (({"eps": 0.0}, "eps must be > 0"), ({"eps": 1.0, "relax": 0.0}, "relax must be > 0")):
        with pytest.raises(RlcError, match=sentence):
            log_sinkhorn(cost, **bad)
    with pytest.raises(RlcError, match="mu must be >= 0 and sum to 1"):
        log_sinkhorn(cost, eps=1.0, mu=torch.ones(2))
    with pytest.raises(RlcError, match="do not fit together"):
        OpTA()(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(RlcError, match="NaN"):
        OpTA()(torch.ones(2, 3), torch.full((2, 3), torch.nan))
