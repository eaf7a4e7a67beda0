"""Every claim in its quick form: it holds, its control fails, its record is complete; and reports can go wrong."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from rl_contrastive import registry
from rl_contrastive.analysis.figures import plain, rng_of
from rl_contrastive.claims.base import Context, Report
from rl_contrastive.claims.page import render, summary
from rl_contrastive.claims.runner import run_claims
from rl_contrastive.claims.theory import sampling
from rl_contrastive.claims.theory.potential import PotentialConfig, elliptical_potential
from rl_contrastive.claims.theory.recovery import RecoveryConfig, feature_recovery
from rl_contrastive.claims.theory.tv_rate import TvRateConfig, tv_rate
from rl_contrastive.errors import RlcError

NAMES = [
    "elliptical-potential",
    "feature-recovery",
    "nce-ratio",
    "optimism",
    "regret-slope",
    "sample-complexity",
    "tv-rate",
]


def test_all_claims_are_registered_with_a_summary():
    entries = registry.entries("claim", "theory")
    names = [entry.name.removeprefix("theory/") for entry in entries]
    assert [name for name in names if not name.startswith("games-")] == NAMES  # test_games has the others
    assert all(entry.summary for entry in entries)


LONG = {"optimism", "regret-slope", "sample-complexity"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in NAMES])
def test_a_claim_holds_and_its_control_fails(name, tmp_path):
    (report,) = run_claims([name], out=tmp_path, group="theory", quick=True)
    assert report.holds, report.bars
    record = json.loads((tmp_path / name / "report.json").read_text())
    assert record["holds"] is True
    assert record["config"] == json.loads(
        json.dumps(dataclasses.asdict(registry.get("claim", f"theory/{name}")[0].config.quick()))
    )
    assert (tmp_path / name / report.plots[0]).read_bytes().startswith(b"\x89PNG")
    assert report.bars[0].measured.replace("|", "\\|") in (tmp_path / "claims.md").read_text()


def test_a_seed_chooses_other_problems_and_is_recorded(tmp_path):
    measured = {}
    for name in ("nce-ratio", "elliptical-potential", "feature-recovery", "tv-rate", "games-lock", "games-equilibrium"):
        for seed in (None, 7):
            (report,) = run_claims([name], out=tmp_path, group="theory", quick=True, seed=seed)
            measured[name, seed] = report.numbers
            recorded = json.loads((tmp_path / name / "report.json").read_text())["config"]["seed"]
            assert recorded == (0 if seed is None else seed)
        assert str(measured[name, None]) != str(measured[name, 7]), name
    with pytest.raises(RlcError, match="seed"):
        run_claims(["nce-ratio"], out=tmp_path, quick=True, seed=-1)
    assert all(hasattr(entry.config(), "seed") for entry in registry.entries("claim", "theory"))


LARGER = {
    "theory/sample-complexity": {"seeds": 5, "ranks": (2, 4, 8), "episodes": 20_000, "rank_episodes": 3000},
    "theory/regret-slope": {"mdps": 5, "episodes": 10_000},
}
"""Exponents of two sizes, or slopes of two runs, are any number: where quick is too small to judge other seeds by."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1000, 2000, 3000])
@pytest.mark.parametrize("name", [entry.name for entry in registry.entries("claim", "theory")])
def test_a_claim_holds_on_other_seeds(name, seed, tmp_path):
    """Three disjoint sets of MDPs, locks, games and data, none of which anything was chosen on."""
    entry, _ = registry.get("claim", name)
    config = dataclasses.replace(entry.config.quick(), seed=seed, **LARGER.get(name, {}))
    report = entry.factory(config, Context(tmp_path))
    assert report.holds, report.bars


@pytest.mark.long
def test_the_same_call_gives_the_same_bytes_in_processes_of_their_own(tmp_path):
    names = ["elliptical-potential", "feature-recovery"]
    run_claims(names, out=tmp_path / "one", quick=True)
    run_claims(names, out=tmp_path / "two", quick=True, workers=2)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) == 2 + 2 * 4
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def met(report: Report) -> bool:
    return all(bar.met for bar in report.bars if not bar.control)


def test_a_fit_of_too_low_rank_fails_the_claims(tmp_path, monkeypatch):
    # Negative control of the verdicts themselves: a learner that keeps d - 1 directions must not pass.
    from rl_contrastive.claims.theory import recovery
    from rl_contrastive.claims.theory import tv_rate as rate
    from rl_contrastive.features import spectral

    def narrow(counts, rank, **options):
        fit = spectral.fit_tabular(counts, rank - 1, **options)
        phi = np.pad(fit.features.phi_table, [(0, 0)] * 3 + [(0, 1)])
        psi = np.pad(fit.features.psi_table, [(0, 0)] * 2 + [(0, 1)])
        return dataclasses.replace(fit, features=dataclasses.replace(fit.features, phi_table=phi, psi_table=psi))

    monkeypatch.setattr(rate, "fit_tabular", narrow)
    monkeypatch.setattr(recovery, "fit_tabular", narrow)
    assert not met(tv_rate(TvRateConfig.quick(), Context(tmp_path)))
    assert not met(feature_recovery(RecoveryConfig.quick(), Context(tmp_path)))


def test_a_bonus_that_forgets_fails_the_potential_lemma(tmp_path, monkeypatch):
    from rl_contrastive.planning.bonus import EllipticalBonus

    monkeypatch.setattr(EllipticalBonus, "update", lambda self, h, phi: None)
    assert not met(elliptical_potential(PotentialConfig.quick(), Context(tmp_path)))


def test_tv_and_angles_by_hand():
    P = np.array([[[0.5, 0.5], [1.0, 0.0]]])  # (S=1, A=2, S'=2)
    Q = np.array([[[0.25, 0.75], [0.0, 1.0]]])
    assert sampling.mean_tv(P, Q) == pytest.approx((0.25 + 1.0) / 2)
    plane = np.eye(3)[:, :2]
    tilted = np.array([[1.0, 0.0], [0.0, np.cos(0.3)], [0.0, np.sin(0.3)]])
    assert sampling.largest_angle(tilted, plane) == pytest.approx(np.sin(0.3), abs=1e-12)
    mixed = tilted @ np.array([[2.0, 1.0], [-1.0, 3.0]])  # another basis of the same plane
    assert sampling.largest_angle(mixed, tilted) == pytest.approx(0.0, abs=1e-12)


def test_drawn_counts_have_n_a_pair_and_shuffling_keeps_the_rows():
    P = sampling.one_step_model(12, 3, 2, 0).P[0]
    counts = sampling.draw_counts(P, 40, rng=rng_of(0))
    assert counts.shape == (1, 12, 3, 12)
    assert (counts.sum(axis=-1) == 40).all()
    mixed = sampling.shuffled(counts, rng=rng_of(1))
    assert not np.array_equal(mixed, counts)
    rows = [sorted(map(tuple, table.reshape(-1, 12))) for table in (counts, mixed)]
    assert rows[0] == rows[1]


def test_bad_input_is_one_sentence(tmp_path):
    with pytest.raises(RlcError, match="did you mean 'tv-rate'"):
        run_claims(["tv-rates"], group="theory", out=tmp_path)
    with pytest.raises(RlcError, match="workers"):
        run_claims(["tv-rate"], out=tmp_path, workers=0)
    with pytest.raises(RlcError, match="at least two"):
        TvRateConfig(num_states=(5,))
    (tmp_path / "file").write_text("")
    with pytest.raises(RlcError, match="cannot make the folder"):
        run_claims(["elliptical-potential"], out=tmp_path / "file", quick=True)


def test_reports_read_as_text(tmp_path):
    (report,) = run_claims(["elliptical-potential"], out=tmp_path, quick=True)
    bars = [dataclasses.replace(bar, met=not bar.met) for bar in report.bars]
    broken = dataclasses.replace(report, name="broken", bars=bars)
    text = summary([report, broken], {report.name: "a", "broken": "b"})
    assert "](a/report.md): holds" in text
    assert "](b/report.md): does not hold" in text
    assert "DID NOT FAIL" in text
    terminal = io.StringIO()
    for part in render([report, broken]):
        Console(width=80, file=terminal).print(part)
    shown = terminal.getvalue()
    assert "elliptical-potential" in shown  # a name that is cut cannot be typed again
    assert "…" not in shown
    assert plain({"x": np.array([1.0, np.nan]), "y": np.float64(2)}) == {"x": [1.0, None], "y": 2.0}
