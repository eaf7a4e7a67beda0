"""The needle: its model by hand, and that it takes optimism to find it."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.errors import RlcError

SMALL = {"num_states": 12, "num_actions": 3, "horizon": 5, "good_states": 2}


@pytest.fixture
def make(make_agent):
    """An agent on a small world; `agent.env` is the world."""

    def made(agent: str, fields: dict, seed: int, **world):
        return make_agent(agent, "needle", seed=seed, env={**SMALL, "mdp_seed": seed, **world}, **fields)

    return made


@pytest.mark.parametrize("seed", range(3))
def test_one_path_pays(make, seed):
    """V* lies between success^(H-1), the value of the path, and that plus all baits; no other policy earns more."""
    model = make("uniform", {}, seed).env.exact()
    np.testing.assert_allclose(model.P.sum(axis=-1), 1.0)
    np.testing.assert_allclose(np.einsum("hsad,htd->hsat", model.phi, model.psi), model.P, atol=1e-12)
    assert np.linalg.matrix_rank(model.P[1].reshape(-1, 12)) <= 3
    assert 0.97**4 <= model.optimal_return <= 0.97**4 + 5 * 0.02
    greedy = model.r[0].argmax(axis=1)  # the bait of the first step leads away from the needle for good
    start = np.flatnonzero(model.rho)
    assert (model.phi[0, start, greedy[start], 0] == 0).all()
    assert (model.phi[..., 0] > 0).sum(axis=(1, 2)).tolist() == [2] * 5  # a good action for each good state


def test_the_needle_needs_optimism(make):
    """The learner finds it on each of three worlds; the same without a bonus on none."""
    for seed in range(3):
        gaps = {}
        for gamma in (1.0, 0.0):
            agent = make("contrastive-ucb", {"gamma": gamma}, seed)
            result = agent.learn(episodes=1500, eval_every=1500, eval_episodes=10)
            gaps[gamma] = result.progress.exact["gap"] / agent.env.exact().optimal_return
        assert gaps[1.0] < 0.1
        assert gaps[0.0] > 0.8


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"good_states": 12}, "good_states"),
        ({"horizon": 0}, "^needle: horizon must be >= 1, got 0"),
        ({"num_actions": 1}, "num_actions"),
        ({"rank": 1}, "rank"),
        ({"success": 0.0}, "success"),
        ({"bait": 2.0}, "bait"),
        ({"stationary": True}, "stationary"),
    ],
)
def test_worlds_without_a_needle_are_refused(make, fields, words):
    with pytest.raises(RlcError, match=words):
        make("uniform", {}, 0, **fields)
