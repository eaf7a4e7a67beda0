"""Log-partition estimates against closed forms, with the cases in which each of them must look bad."""

import math

import pytest
import torch

from rl_contrastive.energy.gaussian_mixture import GaussianMixture
from rl_contrastive.energy.noise import Gaussian, Uniform
from rl_contrastive.energy.partition import (
    AnnealedImportance,
    Importance,
    Method,
    PartitionEstimate,
    Quadrature,
    log_partition,
)
from rl_contrastive.errors import RlcError

LOG_2PI = math.log(2 * math.pi)
DOUBLE = torch.empty(0, dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(dim: int, variance: float = 1.0, mean: float = 0.0) -> Gaussian:
    eye = torch.eye(dim, dtype=torch.float64)
    return Gaussian(torch.full((dim,), mean, dtype=torch.float64), variance * eye)


def bowl(x: torch.Tensor) -> torch.Tensor:
    """-|x|^2 / 2: Z = (2 pi)^(D/2)."""
    return -0.5 * x.square().sum(-1)


def two_modes(x: torch.Tensor) -> torch.Tensor:
    """Unit Gaussians at -6 and 6 on each axis, heights e^0 and e^1: Z = (2 pi)^(D/2) (1 + e)."""
    return torch.logaddexp(bowl(x + 6.0), bowl(x - 6.0) + 1.0)


# --- quadrature


def test_quadrature_of_gaussians_in_one_two_and_three_dimensions() -> None:
    for dim, points in ((1, 201), (2, 121), (3, 61)):
        box = Quadrature((-8.0,) * dim, (8.0,) * dim, points)
        found = log_partition(bowl, box, like=DOUBLE)
        assert float(found.log_z) == pytest.approx(0.5 * dim * LOG_2PI, abs=1e-9)
        assert float(found.error) < 1e-2
        assert float(found.edge) < 1e-12
        assert math.isnan(float(found.acceptance))


def test_the_trapezoid_rule_by_hand() -> None:
    """exp(f) = x on [1, 3] with 3 nodes: 1 (1/2 + 2 + 3/2) = 4, exact for a line; the coarse rule agrees."""
    found = log_partition(lambda x: x.squeeze(-1).log(), Quadrature((1.0,), (3.0,), 3), like=DOUBLE)
    assert float(found.log_z) == pytest.approx(math.log(4.0), rel=1e-14)
    assert float(found.error) < 1e-14
    assert float(found.edge) == pytest.approx(0.5)
    assert float(found.ess) == pytest.approx(16.0 / (0.25 + 4.0 + 2.25))


def test_unequal_axes() -> None:
    found = log_partition(
        lambda x: -x[:, 0] + 0 * x[:, 1], Quadrature((0.0, -1.0), (30.0, 4.0), 1001), like=DOUBLE
    )  # int e^-x dx = 1, times 5
    assert float(found.log_z) == pytest.approx(math.log(5.0), abs=1e-3)


def test_quadrature_says_when_it_is_wrong() -> None:
    truth = 0.5 * LOG_2PI
    small = log_partition(bowl, Quadrature((-1.0,), (1.0,), 201), like=DOUBLE)
    assert truth - float(small.log_z) > 0.3
    assert float(small.edge) > 1e-3
    spike = log_partition(lambda x: 1e4 * bowl(x - 0.013), Quadrature((-8.0,), (8.0,), 201), like=DOUBLE)
    assert abs(float(spike.log_z) - (truth - 0.5 * math.log(1e4))) > 0.3
    assert float(spike.error) > 0.3
    assert float(spike.ess) < 2.0


def test_pieces_change_nothing() -> None:
    whole = log_partition(two_modes, Quadrature((-12.0,), (12.0,), 101), like=DOUBLE)
    pieces = log_partition(two_modes, Quadrature((-12.0,), (12.0,), 101), like=DOUBLE, chunk=7)
    assert float(whole.log_z) == pytest.approx(float(pieces.log_z), rel=1e-14)
    q = normal(2, 2.0)
    a = log_partition(bowl, Importance(1000), q=q, rng=generator())
    b = log_partition(bowl, Importance(1000), q=q, rng=generator(), chunk=13)
    assert float(a.log_z) == pytest.approx(float(b.log_z), rel=1e-14)


def test_values_far_from_zero_do_not_overflow() -> None:
    shifted = log_partition(lambda x: bowl(x) + 5000.0, Quadrature((-8.0,), (8.0,), 201), like=DOUBLE)
    assert float(shifted.log_z) == pytest.approx(5000.0 + 0.5 * LOG_2PI, abs=1e-9)
    sampled = log_partition(lambda x: bowl(x) - 5000.0, Importance(20_000), q=normal(1, 2.0), rng=generator())
    assert float(sampled.log_z) == pytest.approx(-5000.0 + 0.5 * LOG_2PI, abs=0.03)


# --- importance sampling


def test_importance_sampling_with_the_law_itself_is_exact() -> None:
    law = GaussianMixture(
        torch.tensor([0.4, 0.6], dtype=torch.float64),
        torch.tensor([[-3.0], [1.0]], dtype=torch.float64),
        torch.tensor([[[1.0]], [[0.25]]], dtype=torch.float64),
    )
    found = log_partition(lambda x: law.log_prob(x) + 2.5, Importance(500), q=law, rng=generator())
    assert float(found.log_z) == pytest.approx(2.5, abs=1e-12)
    assert float(found.ess) == pytest.approx(500.0)
    assert float(found.error) < 1e-6


def test_importance_sampling_and_its_error() -> None:
    """N(0, 1) under q = N(0, 2): E w^2 / (E w)^2 = int p^2/q = 2/sqrt(3); z-scores of repetitions are standard."""
    q, truth, n = normal(1, 2.0), 0.5 * LOG_2PI, 2000
    runs = [log_partition(bowl, Importance(n), q=q, rng=generator(seed)) for seed in range(100)]
    assert float(runs[0].ess) == pytest.approx(n * math.sqrt(3) / 2, rel=0.05)
    z = torch.stack([(run.log_z - truth) / run.error for run in runs])
    assert float(z.mean().abs()) < 0.4
    assert 0.8 < float(z.std()) < 1.25


def test_a_narrow_law_has_a_low_ess_and_misses_and_a_wide_one_has_not() -> None:
    dim, truth = 4, 2.0 * LOG_2PI
    narrow = [log_partition(bowl, Importance(5000), q=normal(dim, 0.09), rng=generator(seed)) for seed in range(15)]
    # Too low in the middle, as the logarithm of a mean that few draws carry is.
    assert float(torch.stack([run.log_z for run in narrow]).median()) < truth - 0.3
    assert all(float(run.ess) < 100 and float(run.error) > 0.1 for run in narrow)
    wide = log_partition(bowl, Importance(5000), q=normal(dim, 1.5), rng=generator())
    assert float(wide.log_z) == pytest.approx(truth, abs=0.05)
    assert float(wide.ess) > 3000
    # A mode that no draw visits shows in no number: the ESS is no certificate.
    blind = log_partition(two_modes, Importance(5000), q=normal(1, 1.5, mean=-6.0), rng=generator())
    assert float(blind.ess) > 3000
    assert float(blind.log_z) < 0.5 * LOG_2PI + math.log1p(math.e) - 1.0


# --- annealed importance sampling


def annealed(f: object = bowl, dim: int = 10, **changes: object) -> PartitionEstimate:
    method = AnnealedImportance(**{"chains": 300, "temperatures": 60, "steps": 2, "step_size": 1.0, **changes})  # type: ignore[arg-type]
    return log_partition(f, method, q=normal(dim, 4.0, mean=1.0), rng=generator())  # type: ignore[arg-type]


def test_annealing_finds_what_importance_sampling_from_the_same_law_cannot() -> None:
    truth = 5.0 * LOG_2PI
    found = annealed()
    assert abs(float(found.log_z) - truth) < 4 * float(found.error) + 0.02
    assert float(found.error) < 0.1
    assert float(found.ess) > 100
    assert float(found.acceptance) > 0.5
    # The same number of energies, 300 x 60 x 3, as plain draws of the same law.
    direct = log_partition(bowl, Importance(54_000), q=normal(10, 4.0, mean=1.0), rng=generator())
    assert float(found.ess) / 300 > 50 * float(direct.ess) / 54_000


def test_annealing_to_two_modes() -> None:
    found = log_partition(
        two_modes,
        AnnealedImportance(chains=1500, temperatures=50, steps=2, step_size=1.0),
        q=normal(2, 30.0),
        rng=generator(),
    )
    assert float(found.log_z) == pytest.approx(LOG_2PI + math.log1p(math.e), abs=0.1)


def test_the_transitions_matter_and_so_does_their_exactness() -> None:
    truth = 5.0 * LOG_2PI
    frozen = annealed(step_size=1e-9)  # no transition moves: plain importance sampling of 300 draws
    assert float(frozen.ess) < 60
    # Without the Metropolis decision log Z is off by a nat at an ESS as good as the exact one's.
    biased = annealed(kernel="langevin")
    assert float(biased.log_z) < truth - 0.5
    assert float(biased.ess) > 100
    assert float(biased.acceptance) == 1.0


def test_the_ladder() -> None:
    assert AnnealedImportance(temperatures=4).ladder == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert AnnealedImportance(temperatures=2, power=2.0).ladder == (0.0, 0.25, 1.0)


def test_same_seed_same_bytes_and_no_gradient() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    methods: list[Method] = [Importance(100), AnnealedImportance(chains=20, temperatures=3)]
    for method in methods:
        a, b = (
            log_partition(lambda x: weight * bowl(x), method, q=normal(2), rng=generator(seed=6)).log_z
            for _ in range(2)
        )
        assert a.numpy().tobytes() == b.numpy().tobytes()
        assert not a.requires_grad
    assert weight.grad is None


# --- errors


def test_wrong_input_is_named() -> None:
    with pytest.raises(RlcError, match="needs a noise law q and a generator"):
        log_partition(bowl, Importance(10))
    with pytest.raises(RlcError, match=r"f is NaN or \+inf at \d+ of 11 grid nodes"):
        log_partition(lambda x: x.squeeze(-1).sqrt(), Quadrature((-1.0,), (1.0,), 11), like=DOUBLE)
    with pytest.raises(RlcError, match=r"f must map \(11, 1\) to \(11,\), got \(11, 1\)"):
        log_partition(lambda x: x, Quadrature((-1.0,), (1.0,), 11))
    far = Uniform(torch.full((1,), 100.0), torch.full((1,), 101.0))
    with pytest.raises(RlcError, match="every one of 50 draws of q density 0"):
        log_partition(far.log_prob, Importance(50), q=normal(1), rng=generator())
    with pytest.raises(RlcError, match="points must be odd"):
        Quadrature((0.0,), (1.0,), 10)
    with pytest.raises(RlcError, match="below high"):
        Quadrature((0.0, 2.0), (1.0, 2.0))
    with pytest.raises(RlcError, match="more than 4000000"):
        Quadrature((0.0,) * 3, (1.0,) * 3, 301)
    with pytest.raises(RlcError, match="temperatures must be >= 1"):
        AnnealedImportance(temperatures=0)
