"""Noise laws: densities integrate to 1, draws follow them, fits find what is there, and q must cover the data."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from rl_contrastive.energy.gaussian_mixture import GaussianMixture, MixtureFitConfig, fit_mixture, fitted_noise
from rl_contrastive.energy.kernel_density import KernelDensity
from rl_contrastive.energy.noise import (
    Gaussian,
    Mixture,
    NoiseLaw,
    Uniform,
    UserLaw,
    categorical,
    coverage,
    defended,
    require_coverage,
)
from rl_contrastive.errors import RlcError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def exponential_plane() -> UserLaw:
    """Two independent exponentials, from a user's two functions."""

    def draw(n: int, rng: torch.Generator) -> torch.Tensor:
        return -torch.log1p(-torch.rand(n, 2, generator=rng, dtype=torch.float64))

    def log_density(x: torch.Tensor) -> torch.Tensor:
        return torch.where((x >= 0).all(-1), -x.sum(-1), -math.inf)

    return UserLaw(2, draw, log_density)


SKEW = Gaussian(rows([0.5, -1.0]), rows([[1.0, 0.8], [0.8, 1.5]]))
BOX = Uniform(rows([-2.0, 0.0]), rows([1.0, 0.5]))
PAIR = GaussianMixture(
    rows([0.3, 0.7]), rows([[-3.0, 0.0], [2.0, 1.0]]), rows([[[0.5, 0.2], [0.2, 0.4]], [[1.0, -0.5], [-0.5, 2.0]]])
)
LAWS: dict[str, NoiseLaw] = {
    "gaussian": SKEW,
    "uniform": BOX,
    "gmm": PAIR,
    "kde": KernelDensity(rows([[0.0, 0.0], [1.0, 2.0], [-2.0, 1.0], [1.5, 2.5]]), 0.4),
    "mixture": Mixture([SKEW, BOX, PAIR], [0.2, 0.3, 0.5]),
    "user": exponential_plane(),
}
each_law = pytest.mark.parametrize("name", LAWS)


def mass(law: NoiseLaw, low: tuple[float, float], high: tuple[float, float], cells: int = 400) -> float:
    """Integral of the density over a box by the midpoint rule."""
    axes = [low[i] + (torch.arange(cells, dtype=torch.float64) + 0.5) * (high[i] - low[i]) / cells for i in range(2)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)  # (cells, cells, 2)
    area = (high[0] - low[0]) * (high[1] - low[1]) / cells**2
    return float(law.log_prob(points).exp().sum()) * area


@each_law
def test_the_density_integrates_to_one(name: str) -> None:
    low = 0.0 if name == "user" else -12.0
    cells = int((14.0 - low) / 0.05)  # the edges of the supports fall between cells, where the rule is exact
    tolerance = 5e-4 if name == "user" else 1e-6  # an exponential is not smooth at 0
    assert mass(LAWS[name], (low, low), (14.0, 14.0), cells) == pytest.approx(1.0, abs=tolerance)


@each_law
def test_draws_follow_the_density(name: str) -> None:
    """Chi-square over cells whose probabilities are integrals of the density; another law's draws fail it."""
    law, n = LAWS[name], 20_000
    edges = np.array([-3.0, -2.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0])
    p = np.array([[mass(law, (a, c), (b, d), 200) for c, d in cells(edges)] for a, b in cells(edges)]).ravel()
    p = np.append(p, max(1.0 - p.sum(), 0.0))

    def p_value(z: torch.Tensor) -> float:
        counts = np.histogram2d(z[:, 0].numpy(), z[:, 1].numpy(), bins=(edges, edges))[0].ravel()
        counts = np.append(counts, n - counts.sum())
        enough = n * p > 5
        observed, expected = np.append(counts[enough], counts[~enough].sum()), n * p[enough]
        expected = np.append(expected, n - expected.sum())
        keep = expected > 1e-6
        return float(stats.chi2.sf(((observed - expected)[keep] ** 2 / expected[keep]).sum(), keep.sum() - 1))

    z = law.sample(n, rng=generator(5))
    assert z.shape == (n, 2)
    assert p_value(z) > 1e-3
    assert p_value(z + 0.1) < 1e-6  # the negative control: draws of the law moved by a tenth


def cells(edges: np.ndarray) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("name", ["gaussian", "gmm", "kde", "mixture", "uniform"])
def test_the_gradient_of_log_prob(name: str) -> None:
    inside = rows([[0.3, 0.2], [-1.0, 0.4]]).requires_grad_()
    assert torch.autograd.gradcheck(LAWS[name].log_prob, (inside,))


def test_gaussian_against_scipy() -> None:
    x = torch.randn(5, 7, 2, generator=generator(), dtype=torch.float64)
    direct = stats.multivariate_normal([0.5, -1.0], [[1.0, 0.8], [0.8, 1.5]]).logpdf(x.numpy())
    np.testing.assert_allclose(SKEW.log_prob(x).numpy(), direct, rtol=1e-12)
    z = SKEW.sample(20_000, rng=generator(1)).numpy()
    assert stats.kstest(z[:, 1], stats.norm(-1.0, math.sqrt(1.5)).cdf).pvalue > 1e-3
    assert stats.kstest(z[:, 1], stats.norm(-1.0, 1.3).cdf).pvalue < 1e-3


def test_gaussian_fit_by_hand() -> None:
    law = Gaussian.fit(rows([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [2.0, 4.0]]), inflate=1.5, ridge=0.25)
    assert law.mean.tolist() == [1.0, 2.0]
    assert law.covariance.tolist() == [[1.75, 0.0], [0.0, 6.25]]  # 1.5 * (1, 4) + 1/4
    assert law.inflated(2.0).covariance.tolist() == [[3.5, 0.0], [0.0, 12.5]]


def test_the_support_of_a_box_includes_its_own_draws() -> None:
    """Float32 rounding must not put a draw where the density is 0."""
    tiny = Uniform(torch.tensor([0.1]), torch.tensor([0.1 + 2e-8]).nextafter(torch.tensor([1.0])))
    z = tiny.sample(1000, rng=generator())
    assert z.dtype == torch.float32
    assert bool(torch.isfinite(tiny.log_prob(z)).all())
    on_the_edge, beyond = BOX.log_prob(rows([[1.0, 0.5], [1.0 + 1e-12, 0.5]])).tolist()
    assert on_the_edge == pytest.approx(-math.log(1.5), rel=1e-14)
    assert beyond == -math.inf


@each_law
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    law = LAWS[name]
    a, b = law.sample(50, rng=generator(3)), law.sample(50, rng=generator(3))
    assert a.numpy().tobytes() == b.numpy().tobytes()
    assert not torch.equal(a, law.sample(50, rng=generator(4)))
    before = torch.get_rng_state()
    law.sample(10, rng=generator())
    assert torch.equal(before, torch.get_rng_state())  # the global generator is left alone


def test_float32_data_get_float32_draws_and_float64_densities() -> None:
    x = torch.randn(200, 3, generator=generator())
    laws = [Gaussian.fit(x), KernelDensity(x, 0.3), fit_mixture(x, MixtureFitConfig(3), rng=generator()).law]
    for law in laws:
        z = law.sample(4, rng=generator())
        assert z.dtype == torch.float32
        assert law.log_prob(z).dtype == torch.float64
        far = 1e6 * torch.ones(1, 3)
        assert float(law.log_prob(far)) < -1e10
        assert bool(torch.isfinite(law.log_prob(far)).all())


def test_draws_of_a_mixture_come_in_no_order() -> None:
    left, right = (Uniform(rows([a]), rows([a + 1.0])) for a in (0.0, 5.0))
    first = (Mixture([left, right], [0.5, 0.5]).sample(4000, rng=generator()) < 2.0).squeeze(-1)
    assert [float(part.double().mean()) for part in first.chunk(4)] == pytest.approx([0.5] * 4, abs=0.07)
    assert float((first[1:] == first[:-1]).double().mean()) == pytest.approx(0.5, abs=0.04)


def test_categorical_probabilities() -> None:
    weights = rows([0.0, 2.0, 1.0, 1.0, 0.0])
    counts = torch.bincount(categorical(weights, 40_000, rng=generator()), minlength=5)
    assert counts[[0, 4]].tolist() == [0, 0]
    assert stats.chisquare(counts[1:4].numpy(), [20_000, 10_000, 10_000]).pvalue > 1e-3


# --- Gaussian mixtures by EM


def two_blobs(n: int = 1500, seed: int = 11) -> torch.Tensor:
    return GaussianMixture(
        rows([0.3, 0.7]), rows([[-4.0, 0.0], [4.0, 1.0]]), rows([[[1.0, 0.6], [0.6, 1.0]], [[0.5, 0.0], [0.0, 2.0]]])
    ).sample(n, rng=generator(seed))


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_em_never_descends(covariance: str, ridge: float) -> None:
    x = torch.cat([two_blobs(300), PAIR.sample(300, rng=generator(1))])
    config = MixtureFitConfig(6, covariance=covariance, ridge=ridge, tolerance=0.0, iterations=80)  # type: ignore[arg-type]
    fit = fit_mixture(x, config, rng=generator())
    gains = fit.objective.diff()
    assert len(gains) >= 10
    assert float(gains.min()) > -1e-11
    assert float(fit.objective[-1] - fit.objective[0]) > 0.05  # and it does ascend
    if ridge == 0.0:
        assert torch.equal(fit.objective, fit.log_likelihood)
        assert float(fit.log_likelihood[-1]) == pytest.approx(float(fit.law.log_prob(x).mean()), abs=1e-3)


def test_em_recovers_a_separated_mixture_and_one_component_cannot() -> None:
    x = two_blobs()
    fit = fit_mixture(x, MixtureFitConfig(2, ridge=0.0), rng=generator())
    order = fit.law.means[:, 0].argsort()
    assert fit.converged
    np.testing.assert_allclose(fit.law.weights[order], [0.3, 0.7], atol=0.03)
    np.testing.assert_allclose(fit.law.means[order], [[-4.0, 0.0], [4.0, 1.0]], atol=0.15)
    np.testing.assert_allclose(
        fit.law.covariances[order], [[[1.0, 0.6], [0.6, 1.0]], [[0.5, 0.0], [0.0, 2.0]]], atol=0.2
    )
    held_out = two_blobs(2000, seed=12)
    single = fit_mixture(x, MixtureFitConfig(1, ridge=0.0), rng=generator()).law
    np.testing.assert_allclose(single.log_prob(held_out), Gaussian.fit(x).log_prob(held_out), rtol=1e-9)
    assert float(fit.law.log_prob(held_out).mean() - single.log_prob(held_out).mean()) > 0.3


def test_the_mixture_density_in_pieces_is_the_direct_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x = 4.0 * torch.randn(50, 2, generator=generator(), dtype=torch.float64)
    parts = [
        math.log(w) + stats.multivariate_normal(m, c).logpdf(x.numpy())
        for w, m, c in zip(PAIR.weights.tolist(), PAIR.means.numpy(), PAIR.covariances.numpy(), strict=True)
    ]
    np.testing.assert_allclose(PAIR.log_prob(x), logsumexp(parts, axis=0), rtol=1e-11)
    monkeypatch.setattr("rl_contrastive.energy.gaussian_mixture.ROOM", 12)
    np.testing.assert_allclose(PAIR.log_prob(x), logsumexp(parts, axis=0), rtol=1e-11)


def test_em_survives_copies_and_restarts_do_not_hurt() -> None:
    """More components than distinct points: the ridge keeps the spikes finite, dead components leave."""
    copies = rows([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).repeat(10, 1)
    law = fit_mixture(copies, MixtureFitConfig(5), rng=generator()).law
    assert bool(torch.isfinite(law.log_prob(copies)).all())
    x = torch.cat([two_blobs(200) + shift for shift in (0.0, 20.0, 40.0)])
    one = fit_mixture(x, MixtureFitConfig(6), rng=generator())
    five = fit_mixture(x, MixtureFitConfig(6, restarts=5), rng=generator())
    assert float(five.objective[-1]) >= float(one.objective[-1])


def test_the_default_noise_covers_new_data_and_is_close_to_them() -> None:
    x, new = two_blobs(800), two_blobs(800, seed=12)
    q = fitted_noise(x, MixtureFitConfig(4), rng=generator())
    require_coverage(q, new)
    single = Gaussian.fit(x, inflate=1.2)
    assert float(q.log_prob(new).mean()) > float(single.log_prob(new).mean()) + 0.3
    require_coverage(q, 2.0 * new)  # by the wide share: without it these are missed
    with pytest.raises(RlcError, match="less than about"):
        require_coverage(fit_mixture(x, MixtureFitConfig(4), rng=generator()).law, 2.0 * new)


# --- kernel density


def test_kde_equals_the_direct_sum_whatever_the_pieces() -> None:
    """Also in 64 dimensions, where tree codes are wrong by many nats."""
    for D, h in ((2, 0.3), (64, 0.2)):
        points = torch.rand(300, D, generator=generator(), dtype=torch.float64)
        x = torch.rand(41, D, generator=generator(1), dtype=torch.float64)
        squares = ((x[:, None] - points[None]) ** 2).sum(-1).numpy()
        direct = logsumexp(-squares / (2 * h * h), axis=1) - math.log(300) - D * math.log(h * math.sqrt(2 * math.pi))
        whole = KernelDensity(points, h).log_prob(x)
        np.testing.assert_allclose(whole, direct, rtol=1e-12, atol=1e-9)
        for room in (1, 700, 4_000):
            assert torch.equal(KernelDensity(points, h, room=room).log_prob(x), whole)


def test_kde_leave_one_out() -> None:
    points = torch.randn(40, 2, generator=generator(), dtype=torch.float64)
    direct = [
        float(KernelDensity(torch.cat([points[:i], points[i + 1 :]]), 0.4).log_prob(points[i])) for i in range(40)
    ]
    np.testing.assert_allclose(KernelDensity(points, 0.4).leave_one_out(), direct, rtol=1e-12)
    np.testing.assert_allclose(KernelDensity(points, 0.4, room=90).leave_one_out(), direct, rtol=1e-12)
    grid = [0.001, 0.01, 0.3, 1.0, 10.0]
    chosen = KernelDensity.fit(torch.randn(500, 2, generator=generator(), dtype=torch.float64), grid)
    assert chosen.bandwidth == 0.3  # the points' own density would choose the smallest
    own = [float(KernelDensity(points, h).log_prob(points).mean()) for h in grid]
    assert own[0] == max(own)


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_of_points_do_not_choose_the_bandwidth(copies: int) -> None:
    """Every point several times: the bandwidth and the score of the points once, in pieces of any size."""
    points = torch.randn(200, 2, generator=generator(), dtype=torch.float64)
    many, grid = points.repeat(copies, 1), [1e-9, 0.01, 0.5, 2.0]
    once, law = KernelDensity.fit(points, grid), KernelDensity.fit(many, grid)
    assert law.bandwidth == once.bandwidth == 0.5
    np.testing.assert_allclose(law.leave_one_out()[:200], once.leave_one_out(), rtol=1e-12)
    np.testing.assert_allclose(KernelDensity(many, 0.5, room=900).leave_one_out(), law.leave_one_out(), rtol=1e-12)
    test = torch.randn(200, 2, generator=generator(1), dtype=torch.float64)
    assert float(law.log_prob(test).mean()) == pytest.approx(-2.9, abs=0.15)  # the entropy is 2.84


def test_rounded_data_choose_a_bandwidth_of_their_grid_and_one_point_alone_none() -> None:
    points = (torch.randn(500, 1, generator=generator(), dtype=torch.float64) * 5.0).round() / 5.0
    assert KernelDensity.fit(points, [1e-6, 1e-3, 0.2, 5.0]).bandwidth == 0.2
    with pytest.raises(RlcError, match="the 3 points are all the same; no bandwidth fits them"):
        KernelDensity.fit(torch.ones(3, 2), [0.1, 1.0])


# --- coverage


def test_a_law_that_covers_passes_and_the_measure_is_calibrated() -> None:
    law = LAWS["gmm"]
    found = require_coverage(law, law.sample(5000, rng=generator(9)))
    assert found.impossible == 0.0
    assert found.outside < 0.005  # about 1/1000
    few = coverage(law, law.sample(20_000, rng=generator(8)), draws=9, rng=generator(7))
    assert 0.01 < few.outside < 0.3  # about 1/10
    x = rows([[5.0, 5.0]]).repeat(100, 1) + law.sample(100, rng=generator())
    require_coverage(Gaussian(rows([0.0, 0.0]), 400.0 * torch.eye(2, dtype=torch.float64)), x)  # wide is no fault here


def test_a_law_that_misses_data_is_refused_in_one_sentence() -> None:
    x = torch.cat([SKEW.sample(900, rng=generator()), SKEW.sample(100, rng=generator()) + 30.0])
    with pytest.raises(RlcError, match=r"10\.\d% of 1000 data points lie where the law puts less than about 0\.1%"):
        require_coverage(SKEW, x)
    with pytest.raises(RlcError, match=r"density 0 at .* of 1000 data points; widen it"):
        require_coverage(BOX, x)
    wide = Gaussian.fit(x, inflate=2.0)
    require_coverage(defended(SKEW, wide, share=0.2), x)
    require_coverage(SKEW, x, allowed=0.2)


def test_coverage_gives_the_same_answer_each_time() -> None:
    x = SKEW.sample(500, rng=generator()) * 1.4
    assert coverage(SKEW, x) == coverage(SKEW, x)


# --- errors


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Gaussian(rows([0.0, 0.0]), rows([[1.0, 2.0], [2.0, 1.0]])), "positive definite"),
        (lambda: Gaussian(rows([0.0, 0.0]), rows([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
        (lambda: Gaussian(rows([0.0, 0.0]), rows([[1.0]])), r"must be \(2, 2\)"),
        (lambda: Gaussian.fit(rows([[1.0, 2.0], [3.0, 4.0]])), "do not span 2 dimensions"),
        (lambda: Gaussian.fit(rows([[1.0, math.nan]]), ridge=1.0), "must be finite"),
        (lambda: Uniform(rows([1.0]), rows([0.0])), "low < high"),
        (lambda: Mixture([SKEW, BOX], [0.5, 0.6]), "sum to 1"),
        (lambda: Mixture([SKEW, Uniform(rows([0.0]), rows([1.0]))], [0.5, 0.5]), "one dimension"),
        (lambda: KernelDensity(rows([[0.0]]), 0.0), "bandwidth must be > 0"),
        (lambda: SKEW.log_prob(rows([[0.0, 0.0, 0.0]])), r"x must be \(\.\.\., 2\)"),
        (lambda: coverage(SKEW, rows([[0.0]])), "dimension 2, the data 1"),
        (lambda: UserLaw(2, lambda n, g: torch.zeros(n, 3), lambda x: x).sample(4, rng=generator()), r"\(4, 2\)"),
        (lambda: UserLaw(2, lambda n, g: torch.zeros(n, 2), lambda x: x).log_prob(rows([[0.0, 0.0]])), "must map"),
        (lambda: fit_mixture(rows([[0.0], [1.0]]), MixtureFitConfig(3), rng=generator()), "need as many points"),
        (lambda: fit_mixture(torch.ones(5, 2), MixtureFitConfig(2), rng=generator()), "all points are the same"),
        (lambda: MixtureFitConfig(components=0), "components must be >= 1"),
        (lambda: GaussianMixture(rows([0.5, 0.4]), PAIR.means, PAIR.covariances), "sum to 1"),
    ],
)
def test_wrong_input_is_named(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(RlcError, match=sentence):
        make()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_law_moves_to_the_device_with_its_generator() -> None:
    law = PAIR.to("cuda")
    z = law.sample(10, rng=torch.Generator("cuda").manual_seed(0))
    torch.testing.assert_close(law.log_prob(z).cpu(), PAIR.log_prob(z.cpu()))
    with pytest.raises(RlcError, match="the generator lives on cpu"):
        law.sample(10, rng=generator())
