"""Reward models on features and collection with a bonus: the pieces by hand, the claims in small and quick size."""

import dataclasses

import numpy as np
import pytest

from rl_contrastive.claims.base import Context
from rl_contrastive.claims.preferences import features as f
from rl_contrastive.claims.preferences import linear_rewards as lr
from rl_contrastive.claims.preferences import optimism as o
from rl_contrastive.claims.runner import run_claims
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.lsvi import occupancy

TINY = {
    "features": f.FeaturesConfig(
        states=(12,), ranks=(2,), episodes=100, amounts=(50,), pairs=(5, 10), lams=(1.0, 10.0), seeds=(7, 8),
        tune_seeds=(0,),
    ),
    "optimism": o.OptimismConfig(
        chain=2, actions=2, horizon=4, block=2, states=8, rank=2, rounds=2, lams=(1.0,), betas=(1.0,), seeds=(7, 8),
        tune_seeds=(0,),
    ),
}  # fmt: skip
CLAIMS = {"features": f.features, "optimism": o.optimism}


def corridor():
    """Action 1 of state 0 leads to state 1, which is never left; entering it or staying there pays 1. Two steps."""
    phi = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    return lr.World(phi, np.eye(2), phi @ [0.0, 1.0], np.array([1.0, 0.0]), 2)


def test_values_of_a_known_world():
    world = corridor()
    assert world.ends == (2.0, 1.25)  # uniform: 1/2 at the first step, 1/2 (1) + 1/2 (1/2) at the second
    assert world.regret(world.r) == 0.0
    assert world.regret(-world.r) == pytest.approx(2.0 / 0.75)  # stays at state 0, earns nothing


def test_walks_follow_the_law():
    world = corridor()
    pairs, after = world.walk(world.uniform, 4000, rng=np.random.default_rng(0))
    assert pairs.shape == after.shape == (4000, 2)
    assert world.r.ravel()[pairs].sum(1).mean() == pytest.approx(1.25, abs=0.06)  # 5 standard errors
    assert (after[:, 0] == pairs[:, 1] // 2).all()


def test_the_logistic_gradient_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    D, theta = rng.standard_normal((7, 4)), rng.standard_normal(4)
    step = 1e-6 * np.eye(4)
    slope = [(lr.logistic(theta + e, D, 0.3)[0] - lr.logistic(theta - e, D, 0.3)[0]) / 2e-6 for e in step]
    np.testing.assert_allclose(lr.logistic(theta, D, 0.3)[1], slope, atol=1e-8)


def test_a_reward_fit_by_hand():
    lam = 1 / (1 + np.e)  # lam theta = sigma(-theta) at theta = 1
    np.testing.assert_allclose(lr.fit_reward(np.array([[1.0]]), lam), [1.0], atol=1e-7)
    np.testing.assert_allclose(lr.fit_reward(np.array([[0.0, 1.0, 0.0]]), lam), [0.0, 1.0, 0.0], atol=1e-7)


@pytest.mark.parametrize(("n", "d"), [(4, 9), (60, 9)])
def test_a_reward_fit_has_no_gradient_left(n, d):
    D = 5 * np.random.default_rng(1).standard_normal((n, d))
    assert np.abs(lr.logistic(lr.fit_reward(D, 0.01), D, 0.01)[1]).max() < 1e-5


def test_labels_follow_bradley_terry():
    world, rng = corridor(), np.random.default_rng(2)
    good, bad = np.tile([1, 2], (4000, 1)), np.tile([0, 1], (4000, 1))  # returns 2 and 1
    chosen, rejected = lr.preferred(world, good, bad, 0.5, rng=rng)
    assert (chosen + rejected == good + bad).all()
    assert (chosen == good).all(1).mean() == pytest.approx(1 / (1 + np.exp(-2)), abs=0.025)


def test_whitened_features_have_unit_covariance_and_no_constant():
    rng = np.random.default_rng(3)
    x = np.column_stack([np.ones(30), rng.random((30, 3)) * [1, 10, 100]])
    weight = rng.random(30)
    z = lr.whitened(x, weight)
    assert z.shape == (30, 3)
    np.testing.assert_allclose(weight @ z, 0, atol=1e-9)
    np.testing.assert_allclose((z.T * weight / weight.sum()) @ z, np.eye(3), atol=1e-9)


def test_the_reference_rarely_opens_the_lock():
    config = dataclasses.replace(TINY["optimism"], chain=3, actions=4, horizon=5)
    world = o.lock_world(config, 0)
    np.testing.assert_allclose(world.P.sum(-1), 1.0)
    assert world.ends[0] == pytest.approx(config.horizon - config.chain + 1)  # 1 a step from the door on
    steps = occupancy(world.steps(world.P), world.rho, world.uniform)
    assert steps[2][world.r == 1.0].sum() == pytest.approx(4.0**-3)
    assert world.regret(np.zeros(world.r.shape)) == pytest.approx(0.0 + 1.0)  # ties are the uniform policy


def test_the_bonus_of_a_trajectory_is_at_least_the_norm_of_its_own_features():
    world = o.lock_world(TINY["optimism"], 0)
    x = o.compared_features(world, 20, rng=np.random.default_rng(4))
    pairs, _ = world.walk(world.uniform, 50, rng=np.random.default_rng(5))
    bonus = o.EllipticalBonus(1, x.shape[1], 1.0)
    bonus.update(0, x[pairs[:25]].sum(1) - x[pairs[25:]].sum(1))
    assert (bonus.norm(0, x)[pairs].sum(1) >= bonus.norm(0, x[pairs].sum(1)) - 1e-12).all()


@pytest.mark.parametrize("name", CLAIMS)
def test_a_small_report_is_whole(name, tmp_path):
    report = CLAIMS[name](TINY[name], Context(tmp_path))
    assert [bar.control for bar in report.bars] == [False, True]
    assert all("[" in bar.measured for bar in report.bars)
    assert (tmp_path / report.plots[0]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
@pytest.mark.parametrize("name", CLAIMS)
def test_a_report_is_the_same_again_and_other_seeds_are_other_worlds(name, tmp_path):
    first, again, other = (
        repr(CLAIMS[name](dataclasses.replace(TINY[name], seeds=seeds), Context(tmp_path)).numbers)
        for seeds in ((7, 8), (7, 8), (9, 8))
    )
    assert first == again != other


@pytest.mark.long
@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_in_quick_size(name, tmp_path):
    (report,) = run_claims([name], out=tmp_path, group="preferences", quick=True)
    assert report.holds, report.bars


@pytest.mark.long
def test_features_that_know_nothing_miss_the_bar(tmp_path, monkeypatch):
    make = f.representations

    def blind(world, counts, *, rng):
        return make(world, counts, rng=rng) | {f.CLOSED: rng.standard_normal((world.r.size, 3))}

    monkeypatch.setattr(f, "representations", blind)
    assert not f.features(f.FeaturesConfig.quick(), Context(tmp_path)).bars[0].met


@pytest.mark.long
def test_a_bonus_of_nothing_misses_the_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(o.EllipticalBonus, "norm", lambda self, h, phi: np.zeros(len(phi)))
    assert not o.optimism(o.OptimismConfig.quick(), Context(tmp_path)).bars[0].met


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        (f.FeaturesConfig, {"pairs": (20, 10)}, "pairs must rise"),
        (f.FeaturesConfig, {"pairs": (100, 200)}, "begin at `few` or below"),
        (f.FeaturesConfig, {"states": (50,)}, "as many states as ranks"),
        (f.FeaturesConfig, {"lams": ()}, "empty"),
        (f.FeaturesConfig, {"seeds": (0, 500)}, "both lists"),
        (o.OptimismConfig, {"chain": 8}, "chain must be below horizon"),
        (o.OptimismConfig, {"betas": ()}, "empty"),
        (o.OptimismConfig, {"seeds": (0, 500)}, "both lists"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(kind, wrong, words):
    with pytest.raises(RlcError, match=words):
        kind(**wrong)
