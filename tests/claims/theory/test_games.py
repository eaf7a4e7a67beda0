"""The claims about games in their quick form, and what must make each of them fail."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from rl_contrastive import registry
from rl_contrastive.claims.base import Context
from rl_contrastive.claims.runner import run_claims, selected
from rl_contrastive.claims.theory import games_equilibrium, games_lock
from rl_contrastive.claims.theory.games_equilibrium import GamesEquilibriumConfig
from rl_contrastive.claims.theory.games_lock import GamesLockConfig
from rl_contrastive.claims.theory.games_optimism import GamesOptimismConfig, games_optimism
from rl_contrastive.claims.theory.games_rate import GamesRateConfig, games_rate
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.equilibrium import Correlated, cce
from rl_contrastive.spec import optimal_values

NAMES = ["games-equilibrium", "games-lock", "games-optimism", "games-rate"]


def test_the_first_word_of_names_selects_all_of_them():
    assert selected(["games"], "theory") == [f"theory/{name}" for name in NAMES]
    first = ["games-lock", *[name for name in NAMES if name != "games-lock"]]
    assert selected(["games-lock", "games"]) == [f"theory/{name}" for name in first]
    assert "theory/regret-slope" in selected()
    for wrong in ("game", "games-", "games-loc"):
        with pytest.raises(RlcError, match="unknown claim"):
            selected([wrong])


LONG = {"games-optimism", "games-rate"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in NAMES])
def test_a_claim_holds_and_its_control_fails(name, tmp_path):
    (report,) = run_claims([name], group="theory", out=tmp_path, quick=True)
    assert report.holds, report.bars
    record = json.loads((tmp_path / name / "report.json").read_text())
    quick = registry.get("claim", f"theory/{name}")[0].config.quick()
    assert record["config"] == json.loads(json.dumps(dataclasses.asdict(quick)))
    assert (tmp_path / name / report.plots[0]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("sabotage", ["uniform", "swapped", "nearly"])
def test_what_is_no_cce_fails_the_certificate(sabotage, tmp_path, monkeypatch):
    def wrong(upper, lower):
        right = cce(upper, lower)
        if sabotage == "swapped":
            return cce(lower, upper)  # each player gets the other's bound: equilibria of pessimists
        uniform = np.full_like(right.sigma, 1.0 / right.sigma[0].size)
        weight = 1.0 if sabotage == "uniform" else 0.05
        return Correlated((1 - weight) * right.sigma + weight * uniform, right.gap, 0)

    monkeypatch.setattr(games_equilibrium, "cce", wrong)
    assert not games_equilibrium.games_equilibrium(GamesEquilibriumConfig.quick(), Context(tmp_path)).bars[0].met


def test_a_planner_without_an_opponent_fails_the_closed_form(tmp_path, monkeypatch):
    monkeypatch.setattr(games_lock, "nash_values", lambda P, r, players: optimal_values(P, r))
    assert not games_lock.games_lock(GamesLockConfig.quick(), Context(tmp_path)).bars[0].met


def test_features_of_too_low_rank_tell_nothing_apart(tmp_path, monkeypatch):
    from rl_contrastive.features.spectral import fit_tabular

    monkeypatch.setattr(games_lock, "fit_tabular", lambda counts, rank: fit_tabular(counts, 1))
    report = games_lock.games_lock(GamesLockConfig.quick(), Context(tmp_path))
    assert not report.holds


def test_the_leaning_lock_differs_only_in_where_a_passed_key_leads():
    lock = games_lock._lock(horizon=1, num_actions=3, delta=0.1, observation="symbols", num_symbols=2, lock_seed=3)
    latent = np.empty(6, dtype=np.int64)
    latent[lock.symbols] = np.arange(3)[:, None]
    P = lock.exact().P[0]
    Q = games_lock._leaning(P, lock.keys[0], latent, 3)
    np.testing.assert_allclose(Q.sum(axis=2), 1.0, atol=1e-12)
    to = lambda kernel, z: kernel[:, :, latent == z].sum(axis=2)  # noqa: E731  (6, 9): the latent that follows
    np.testing.assert_allclose(to(Q, 2), to(P, 2), atol=1e-12)  # dies as often
    for state in range(6):
        for a in range(3):
            for b in range(3):
                cell = a * 3 + b
                live = to(P, 0)[state, cell] + to(P, 1)[state, cell]
                keys = list(lock.keys[0, latent[state]]) if latent[state] < 2 else []
                share = {0: 0.8, 1: 0.2}[keys.index(a)] if a in keys else 0.5
                assert to(Q, 0)[state, cell] == pytest.approx(live * share, abs=1e-12)


@pytest.mark.long
def test_a_bonus_of_the_wrong_sign_fails_optimism(tmp_path, monkeypatch):
    from rl_contrastive.agents.baselines import lsvi_game

    plan = lsvi_game.plan_game
    monkeypatch.setattr(lsvi_game, "plan_game", lambda model, r, bonus, *a, **k: plan(model, r, -bonus, *a, **k))
    config = dataclasses.replace(GamesOptimismConfig.quick(), agents=("lsvi-game",), games=1, episodes=300)
    assert not games_optimism(config, Context(tmp_path)).bars[0].met


@pytest.mark.long
def test_the_rate_is_not_for_everyone(tmp_path):
    quick = dataclasses.replace(GamesRateConfig.quick(), episodes=1000, games=1)
    config = dataclasses.replace(quick, agent="independent-q", controls=("uniform",))
    assert not games_rate(config, Context(tmp_path)).bars[0].met
    swapped = dataclasses.replace(quick, agent="uniform", controls=("lsvi-game",))
    report = games_rate(dataclasses.replace(swapped, episodes=2000), Context(tmp_path))
    assert [bar.ok for bar in report.bars] == [False, False]


def test_bad_sizes_are_one_sentence():
    with pytest.raises(RlcError, match="actions must be >= 2"):
        GamesEquilibriumConfig(actions=(1,))
    with pytest.raises(RlcError, match="num_symbols"):
        GamesLockConfig(num_symbols=2)
    with pytest.raises(RlcError, match="episodes >= 1000"):
        GamesRateConfig(episodes=10)
    with pytest.raises(RlcError, match="theory must be > 0"):
        GamesOptimismConfig(theory=0.0)
