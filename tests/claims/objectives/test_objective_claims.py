"""Claims of objectives (part A): the numbers decide the bars, a sabotaged loss misses them, bytes repeat."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from rl_contrastive import registry
from rl_contrastive.claims.base import Context
from rl_contrastive.claims.objectives import (
    cacr,
    dcl,
    isogclr,
    multi_view,
    sft_against_cl,
    supremix,
    temperature,
    whitening,
)
from rl_contrastive.claims.runner import run_claims
from rl_contrastive.errors import RlcError
from rl_contrastive.objectives.labelled import SupCon
from rl_contrastive.objectives.multi_view import CACR, CACRConfig
from rl_contrastive.objectives.pairwise import NTXent
from rl_contrastive.objectives.robust import ISogCLR, ISogCLRConfig

TINY = {
    "cacr": {"batch": 8, "zipf": (0.0, 1.5)},
    "dcl": {"batches": (4, 8)},
    "isogclr": {"transitions": 60, "batch": 16, "frozen": 20, "rho_high": (0.6,)},
    "multi-view": {"instances": 8},
    "sft-against-cl": {"near_steps": 4, "judged": 40, "batch": 8},
    "supremix": {"batch": 8},
    "temperature": {"batch": 8, "judged": 80},
    "whitening": {"batch": 16},
}
"""Two seeds and six steps: for wiring, not for truth."""
TOO_SMALL = {"isogclr", "supremix"}
"""A dozen latents, batches of 16: the bars are for the full size, but the controls must fail all the same."""


def tiny(name, **changes):
    config = registry.get("claim", f"objectives/{name}")[0].config.quick()
    return dataclasses.replace(config, **{"seeds": (7, 8), "steps": 6, **TINY[name], **changes})


def run(name, path, **changes):
    path.mkdir(exist_ok=True)
    return registry.get("claim", f"objectives/{name}")[0].factory(tiny(name, **changes), Context(path))


@pytest.mark.parametrize("name", TINY)
def test_a_report_has_intervals_a_control_a_plot_and_the_same_bytes_again(name, tmp_path):
    report = run(name, tmp_path)
    assert any(bar.control for bar in report.bars)
    assert all("[" in bar.measured for bar in report.bars if not bar.control)
    assert (tmp_path / report.plots[0]).read_bytes().startswith(b"\x89PNG")
    again = run(name, tmp_path / "again")
    assert repr(again.numbers) == repr(report.numbers)
    assert again.bars == report.bars


@pytest.mark.long
@pytest.mark.parametrize("name", TINY)
def test_other_seeds_are_other_worlds(name, tmp_path):
    assert repr(run(name, tmp_path, seeds=(9, 8)).numbers) != repr(run(name, tmp_path).numbers)


@pytest.mark.long
@pytest.mark.parametrize("name", TINY)
def test_a_claim_in_quick_size(name, tmp_path):
    (report,) = run_claims([name], out=tmp_path, group="objectives", quick=True)
    assert all(bar.ok for bar in report.bars if bar.control), report.bars
    assert report.holds or name in TOO_SMALL, report.bars
    assert json.loads((tmp_path / name / "report.json").read_text())["holds"] is report.holds


def met(report):
    return [bar.met for bar in report.bars if not bar.control]


def test_a_loss_without_its_temperature_misses_the_bars(tmp_path, monkeypatch):
    monkeypatch.setattr(temperature, "NTXent", lambda config: NTXent())
    assert met(run("temperature", tmp_path)) == [True, False, False]  # the share's own temperature still differs


def test_infonce_in_the_place_of_dcl_misses_the_bar_at_small_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(dcl, "DCL", lambda config: NTXent())
    assert met(run("dcl", tmp_path)) == [False, True]


def test_uniform_weights_in_the_place_of_cacr_miss_both_bars(tmp_path, monkeypatch):
    monkeypatch.setitem(cacr.LOSSES, "CACR", CACR(CACRConfig(uniform=True)))
    assert met(run("cacr", tmp_path)) == [False, False]


def test_a_pairwise_loss_in_the_place_of_dhel_misses_the_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(
        multi_view, "MVDHEL", lambda config: multi_view.NTXent(multi_view.NTXentConfig(temperature=0.2))
    )
    assert met(run("multi-view", tmp_path))[0] is False


def test_supcon_in_the_place_of_supremix_misses_the_bars(tmp_path, monkeypatch):
    monkeypatch.setattr(supremix, "SupReMix", lambda config: SupCon(supremix.SupConConfig(temperature=0.5)))
    assert met(run("supremix", tmp_path)) == [False, False]


def test_temperatures_that_do_not_move_are_not_at_the_fixed_point(tmp_path):
    assert met(run("isogclr", tmp_path, eta=1e-6))[1] is False


@pytest.mark.parametrize(("white", "plain", "expected"), [(-3.0, 0.0, True), (-1.0, 0.0, False), (-3.0, -3.0, False)])
def test_whitening_is_judged_by_its_numbers(white, plain, expected, tmp_path, monkeypatch):
    def fake(config, form):
        level = white if form == whitening.FORMS[0] else plain
        numbers = {"uniformity": level, "probe": 1.0, "rank": 12.0, "rank by singular values": 13.0}
        return {n: np.full(2, v) for n, v in {**numbers, "rank of white z": 14.0}.items()}

    monkeypatch.setattr(whitening, "_measured", fake)
    assert run("whitening", tmp_path).holds is expected


@pytest.mark.parametrize(("sft", "balanced", "expected"), [(2.0, 0.5, True), (0.9, 0.5, False), (2.0, 1.5, False)])
def test_sft_against_cl_is_judged_by_its_numbers(sft, balanced, expected, tmp_path, monkeypatch):
    def fake(config, setting, weight, direction):
        total = 1.0 if weight == "cl" else balanced if setting == sft_against_cl.BALANCED else sft
        names = ("positive", "negatives", "total", "MRR of yes", "MRR of yes - no")
        return {name: np.full(2, total) for name in names}

    monkeypatch.setattr(sft_against_cl, "_measured", fake)
    assert run("sft-against-cl", tmp_path).holds is expected


def test_every_pair_of_views_is_aligned():
    z = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(z, dim=-1)
    pairs = [(unit[:, a] - unit[:, b]).square().sum(-1).mean(-1) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert torch.allclose(whitening.Alignment()(whitening.Views(z)).loss, torch.stack(pairs).mean(0), atol=1e-6)


def test_the_farthest_positive_leans_by_the_softmax():
    z = np.array([[[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]]])  # costs 0 and 2
    assert cacr.lean(z, 1.0)[0] == pytest.approx((np.e**2 - 1) / (np.e**2 + 1))
    assert cacr.lean(z, 0.0)[0] == 0.0


def test_kicked_temperatures_return_to_the_kl_asked_for():
    S = torch.randn(1, 30, 30, generator=torch.Generator().manual_seed(0)) * 0.3
    found = isogclr.returned(ISogCLR(ISogCLRConfig(rho=0.3, eta=0.05)), S, torch.full((1, 30), 0.3), 200)
    assert found["|KL - rho|, kicked"] > 0.05
    assert found["|KL - rho|, returned"] < 1e-3


def test_an_embedding_that_is_the_value_is_in_order():
    v = np.arange(100)
    angle = v / 100.0
    found = supremix.judged(np.column_stack([np.cos(angle), np.sin(angle)]), v)
    assert found["Spearman"] == pytest.approx(1.0, abs=1e-3)  # equal distances differ by rounding


def test_a_reciprocal_rank_counts_what_scores_as_high():
    score = torch.tensor([[[1.0, 0.0, 2.0], [1.0, 1.0, 0.0], [3.0, 0.0, 0.0]]])
    assert sft_against_cl.reciprocal_rank(score)[0] == pytest.approx((0.5 + 0.5 + 1.0) / 3)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (temperature.TemperatureConfig, {"temperatures": (0.5, 0.1, 0.2)}),
        (dcl.DCLClaimConfig, {"batches": (8, 4)}),
        (multi_view.MultiViewConfig, {"views": (2,)}),
        (cacr.CACRClaimConfig, {"zipf": (0.0,)}),
        (whitening.WhiteningClaimConfig, {"groups": 5}),
    ],
)
def test_sizes_that_make_no_sense_are_refused(kind, wrong):
    with pytest.raises(RlcError):
        kind(**wrong)
