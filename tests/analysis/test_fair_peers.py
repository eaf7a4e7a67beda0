"""The competitors of `make bench` do the work that they are timed at: the values of games, the law of the steps."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rl_contrastive.envs.low_rank import LowRankConfig, LowRankEnv
from rl_contrastive.planning.equilibrium import cce, nash
from rl_contrastive.planning.simplex import deviations

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_closed_form_of_two_by_two_games_also_with_ties():
    """On all 256 games of payoffs 0..3: no action gains against the other's strategy."""
    M = np.array(list(itertools.product(range(4), repeat=4)), dtype=np.float64).reshape(-1, 2, 2)
    x, y, value = script("equilibrium").closed_form(M)
    rows = M @ np.stack([y, 1 - y], axis=1)[:, :, None]
    columns = np.stack([x, 1 - x], axis=1)[:, None] @ M
    assert rows.max(axis=1)[:, 0] == pytest.approx(value, abs=1e-12)
    assert columns.min(axis=2)[:, 0] == pytest.approx(value, abs=1e-12)
    assert ((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)).all()


@pytest.mark.parametrize(("A", "B"), [(2, 2), (3, 4)])
def test_one_programme_of_many_games_has_the_value_of_each(A, B):
    rng = np.random.default_rng(A)
    M = rng.random((20, A, B))
    one = script("equilibrium").OneProgramme
    assert one(M).solve() == pytest.approx(nash(M).value, abs=1e-9)
    lower = M - 0.3 * rng.random(M.shape)
    assert one(deviations(M, lower)).solve() == pytest.approx(cce(M, lower).gap, abs=1e-9)


@pytest.mark.long  # imports Stable-Baselines3
def test_numpy_environment_plays_the_kernel():
    config = LowRankConfig(num_states=6, num_actions=2, horizon=3, rank=2)
    model = LowRankEnv(config, 1).exact()
    envs = script("vector_env").NumpyVectorEnv(model, 50_000)
    actions = np.random.default_rng(1).integers(2, size=(3, 50_000))
    here, _ = envs.reset(seed=0)
    np.testing.assert_allclose(np.bincount(here, minlength=6) / len(here), model.rho, atol=0.012)
    for h, action in enumerate(actions):
        there, reward, terminated, *_ = envs.step(action)
        assert (reward == model.r[h, here, action]).all()
        assert terminated.all() == (h == 2)
        seen = np.zeros((6, 2, 6))
        np.add.at(seen, (here, action, there), 1.0)
        n = seen.sum(axis=2, keepdims=True)
        error = np.abs(seen / np.maximum(n, 1.0) - model.P[h]) * np.sqrt(n)
        assert error.max() < 5 * 0.5  # five standard deviations of a share
        here = there
    assert not envs.step(actions[0])[2].any()  # the next step begins the next episode


def test_pillow_resizes_by_means_over_areas():
    resize = script("game_envs").PillowInPlaceOfOpencv
    picture = np.arange(48, dtype=np.uint8).reshape(6, 8) * 4
    half = resize.resize(picture, (4, 3), interpolation=resize.INTER_AREA)
    means = picture.reshape(3, 2, 4, 2).mean(axis=(1, 3))
    assert np.abs(half - means).max() <= 1.0  # whole numbers
