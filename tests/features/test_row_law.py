"""The law `propensity`: stored successors weigh 1/density, so that negatives are uniform; on tables it is uniform."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.errors import RlcError
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.learner import FeatureLearner
from rl_contrastive.features.row_problem import RowProblem, successor_law
from rl_contrastive.objectives.laws import row_density, row_law, sample_states, tabular_law
from rl_contrastive.spec import StepData


def two_places(n: int = 400, rare: float = 0.1, padding: int = 20) -> tuple[StepData, np.ndarray]:
    """One step; o' lies in one of two places, the second one rarely; (data, place of each row)."""
    rng = np.random.default_rng(0)
    place = (rng.random(n) < rare).astype(np.int64)
    action = np.where(rng.random(n) < 0.9, place, 1 - place)  # mostly says where o' is
    width = n + padding
    obs, next_obs = np.zeros((1, width, 2)), np.zeros((1, width, 2))
    obs[0, :n] = rng.standard_normal((n, 2))
    next_obs[0, :n] = 6.0 * np.eye(2)[place] + 0.5 * rng.standard_normal((n, 2))
    actions = np.zeros((1, width), dtype=np.int64)
    actions[0, :n] = action
    zero = np.zeros((1, width))
    return StepData(obs, actions, zero, next_obs, zero + 1.0, np.array([n])), place


def test_on_tables_it_is_uniform() -> None:
    succ = np.array([[6.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert np.array_equal(tabular_law(succ, "propensity"), tabular_law(succ, "uniform"))
    assert not np.array_equal(tabular_law(succ, "propensity")[0], tabular_law(succ)[0])


def test_densities_follow_a_known_law() -> None:
    """Of 2000 draws of a normal law, the estimate is the law smoothed by the kernels' width."""
    x = np.random.default_rng(0).standard_normal((2000, 1))
    inside = np.abs(x[:, 0]) < 2.0
    width = 1.0 + 512 ** (-2.0 / 5.0)
    true = np.exp(-0.5 * x[:, 0] ** 2 / width)
    found = row_density(x)
    ratio = (found / true)[inside]
    assert ratio.std() / ratio.mean() < 0.1


@pytest.mark.parametrize("law", ["marginal", "propensity"])
def test_negatives_of_two_places(law: str) -> None:
    data, place = two_places()
    p = successor_law(data, LearnerConfig(method="nce", law=law))  # type: ignore[arg-type]
    assert p.shape == (1, 420)
    assert p.sum() == pytest.approx(1.0)
    assert (p[0, 400:] == 0).all()
    drawn = sample_states(p, 4000, rng=np.random.default_rng(1))[0]
    rare = place[drawn].mean()
    assert rare == pytest.approx(place.mean(), abs=0.03) if law == "marginal" else 0.35 < rare < 0.65


def test_odd_rows_keep_a_proper_law() -> None:
    count = np.array([5, 1, 0, 5])
    rows = np.zeros((4, 6, 2))
    rows[3] = np.random.default_rng(0).standard_normal((6, 2))
    rows[3, 4] = 1e6  # a lone outlier
    p = row_law(rows, count, "propensity")
    np.testing.assert_allclose(p.sum(1), [1.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(p[0, :5], 0.2)  # copies are alike
    assert p[1, 0] == 1.0
    assert (p >= 0).all()
    with pytest.raises(RlcError, match="no law uniform"):
        row_law(rows, count, "uniform")


def test_the_model_of_either_law_is_the_same() -> None:
    """P-hat = P^- psi'phi: the ratio changes with the law, what follows an action does not."""
    data, place = two_places()
    n, share = 400, {}
    for law in ("marginal", "propensity"):
        config = LearnerConfig(method="nce", law=law, dim=2, steps=300, objective="mle")  # type: ignore[arg-type]
        learner = FeatureLearner(config, horizon=1, num_actions=2)
        features = learner.fit_rows(data, rng=np.random.default_rng(0)).features
        phi, psi = features.phi(0, data.obs[0, :n]), features.psi(0, data.next_obs[0, :n])
        mass = successor_law(data, config)[0, :n] * np.maximum(phi[:20].reshape(-1, 2) @ psi.T, 0.0)  # (40, n)
        mass /= mass.sum(1, keepdims=True)
        share[law] = (mass * place).sum(1).reshape(20, 2).mean(0)
    true = [place[data.action[0, :n] == a].mean() for a in (0, 1)]
    for law in share:
        assert np.abs(share[law] - true).max() < 0.12
    # Control: the features of one law with the other law's P^- are another model.
    wrong = successor_law(data, LearnerConfig())[0, :n] * np.maximum(phi[:20].reshape(-1, 2) @ psi.T, 0.0)
    wrong /= wrong.sum(1, keepdims=True)
    assert np.abs((wrong * place).sum(1).reshape(20, 2).mean(0) - true).max() > 0.2


def test_a_fit_draws_its_negatives_from_the_law() -> None:
    data, place = two_places()
    config = LearnerConfig(method="nce", law="propensity", dim=2, negatives=4000)
    problem = RowProblem(data, 2, config, spectral=None, start=None, rng=np.random.default_rng(0), version=0)
    batch = problem.sampler(train=False).draw(rng=np.random.default_rng(0))
    assert batch.negatives is not None
    assert batch.positives is not None
    assert 0.35 < place[batch.negatives[0]].mean() < 0.65
    assert place[batch.positives[0]].mean() < 0.3


def test_the_closed_form_of_vectors_refuses_it() -> None:
    for method in ("spectral", "spectral+nce"):
        config = LearnerConfig(method=method, law="propensity")  # type: ignore[arg-type]
        with pytest.raises(RlcError, match="'propensity' needs method nce"):
            FeatureLearner(config, horizon=1, num_actions=2)
        FeatureLearner(config, horizon=1, num_actions=2, num_states=3)  # tables: uniform
