"""The needle game: its model and values by hand, and that it takes optimism to find both needles."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive.errors import RlcError
from rl_contrastive.planning.games import duality_gap

SMALL = {"num_states": 14, "horizon": 5}


@pytest.fixture
def make(make_agent):
    """An agent on a small world; `agent.env` is the world."""

    def made(agent: str, fields: dict, seed: int, **world):
        return make_agent(agent, "needle-game", seed=seed, env={**SMALL, "game_seed": seed, **world}, **fields)

    return made


@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_the_module_docstring(make, seed):
    model = make("uniform", {}, seed).env.exact()
    np.testing.assert_allclose(model.P.sum(axis=-1), 1.0)
    np.testing.assert_allclose(np.einsum("hsad,htd->hsat", model.phi, model.psi), model.P, atol=1e-12)
    assert np.linalg.matrix_rank(model.P[1].reshape(-1, 14)) <= 4
    for h in range(5):
        value = 0.97 ** (4 - h) / 2
        np.testing.assert_allclose(np.sort(model.V[h]), [-value] * 2 + [0.0] * 10 + [value] * 2, atol=1e-12)
    np.testing.assert_allclose(np.sort(model.V[0][model.rho > 0]), [-(0.97**4) / 2] * 2 + [0.97**4 / 2] * 2)
    assert model.optimal_return == pytest.approx(0.0, abs=1e-12)


def test_each_player_alone_opens_its_path_and_is_baited_away_from_it(make):
    model = make("uniform", {}, 0).env.exact()
    r, phi = model.r.reshape(5, 14, 3, 3), model.phi.reshape(5, 14, 3, 3, 4)
    for player, sign in ((0, 1.0), (1, -1.0)):
        baits = []
        for h in range(4):
            for s in np.flatnonzero(sign * model.V[h] > 0.1):
                stays = np.moveaxis(phi[h, s, ..., player], player, 0)
                assert (stays == 0.97).all(axis=1).sum() == 1
                assert np.count_nonzero(stays) == 3
                right = int(np.flatnonzero(stays[:, 0])[0])
                pay = sign * np.moveaxis(r[h, s], player, 0)
                assert (pay[right] == 0.0).all()
                wrong = np.delete(pay, right, axis=0)
                assert (wrong > 0.0).all()
                assert (np.ptp(wrong, axis=1) == 0.0).all()
                baits.append((h, wrong.min(), wrong.max()))
        for h, least, _ in baits:
            assert all(least > most for later, _, most in baits if later > h)


def test_what_a_baited_pair_loses_by_hand(make):
    """Each takes the bait on its path and is uniform elsewhere: the best response to it walks the whole path and wins
    2/3 at its end, against a guess among three. gap = 2 (1/2) success^4 (2/3) while baits are worth nothing."""
    model = make("uniform", {}, 1, bait=1e-9).env.exact()
    mu, nu = np.full((5, 14, 1, 3), 1 / 3), np.full((5, 14, 1, 3), 1 / 3)
    r = model.r.reshape(5, 14, 3, 3)
    for h in range(4):
        for s in range(14):
            if model.V[h, s] > 0.1:
                mu[h, s] = np.eye(3)[r[h, s, :, 0].argmax()]
            if model.V[h, s] < -0.1:
                nu[h, s] = np.eye(3)[r[h, s, 0].argmin()]
    assert duality_gap(model, mu, nu).gap == pytest.approx(0.97**4 * 2 / 3, abs=1e-7)


def test_both_needles_need_optimism(make):
    """The learner finds the equilibrium on each of three games; the same without a bonus on none."""
    for seed in range(3):
        gaps = {}
        for gamma in (0.1, 0.0):
            agent = make("contrastive-ucb-game", {"gamma": gamma}, seed)
            result = agent.learn(episodes=1500, eval_every=1500, eval_episodes=10)
            gaps[gamma] = result.progress.exact["gap"]
        assert gaps[0.1] < 0.01
        assert gaps[0.0] > 0.4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"path_states": 7}, "path_states"),
        ({"num_actions": 1}, "num_actions"),
        ({"rank": 2}, "rank"),
        ({"success": 0.0}, "success"),
        ({"bait": 0.5}, "bait"),
        ({"game_seed": -1}, "game_seed"),
        ({"alpha_psi": 0.0}, "alpha_psi"),
    ],
)
def test_games_without_a_needle_are_refused(make, fields, words):
    with pytest.raises(RlcError, match=words):
        make("uniform", {}, 0, **fields)
