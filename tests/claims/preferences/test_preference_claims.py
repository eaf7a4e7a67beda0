"""Claims of preferences: numbers decide the bars, controls fail, bytes repeat, parts by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rl_contrastive import registry
from rl_contrastive.claims.base import Context
from rl_contrastive.claims.preferences import coverage, negative_gradient, over_optimisation, reward_models, sparsepo
from rl_contrastive.errors import RlcError

TINY = {
    "coverage": {"steps": 12, "online": 4},
    "negative-gradient": {"steps": 5, "stored": 8},
    "over-optimisation": {"steps": 5, "pairs": 8},
    "reward-models": {"steps": 4, "pairs": 40, "test": 50, "models": 3},
    "sparsepo": {"steps": 3, "pairs": 8},
}
"""Two seeds and a few steps: for wiring, not for truth."""
MODULES = {"coverage": coverage, "negative-gradient": negative_gradient, "over-optimisation": over_optimisation,
           "reward-models": reward_models, "sparsepo": sparsepo}  # fmt: skip


def tiny(name, **changes):
    config = registry.get("claim", f"preferences/{name}")[0].config.quick()
    return dataclasses.replace(config, **{"seeds": (7, 8), **TINY[name], **changes})


def run(name, path, config=None):
    path.mkdir(exist_ok=True)
    return registry.get("claim", f"preferences/{name}")[0].factory(config or tiny(name), Context(path))


@pytest.mark.parametrize("name", TINY)
def test_a_report_has_a_control_a_plot_and_the_same_bytes_again(name, tmp_path):
    report = run(name, tmp_path)
    assert any(bar.control for bar in report.bars)
    assert (tmp_path / report.plots[0]).read_bytes().startswith(b"\x89PNG")
    again = run(name, tmp_path / "again")
    assert repr(again.numbers) == repr(report.numbers)
    assert again.bars == report.bars


def failed(report):
    return [i for i, bar in enumerate(report.bars) if not bar.ok]


def test_the_worth_decides_coverage(tmp_path):
    config, context = tiny("coverage"), Context(tmp_path)

    def ends(**changes):
        good = {"DPO": [0.6, 0.0, 0.4], "IPO": [0.8, 0.18, 0.02], "RPO": [0.95, 0.05, 1e-4], "HyPO": [0.9, 0.09, 0.01],
                coverage.UNTIED: [0.98, 0.02, 1e-5]} | changes  # fmt: skip
        return {n: np.log(np.array([p, p]) + 1e-9) for n, p in good.items()}

    curves = {n: np.zeros((2, 2)) for n in ends()}
    assert failed(coverage.report(config, context, ends(), curves)) == []
    assert failed(coverage.report(config, context, ends(DPO=[0.98, 0.02, 0.0]), curves)) == [0]
    assert failed(coverage.report(config, context, ends(HyPO=[0.5, 0.1, 0.4]), curves)) == [1]
    assert failed(coverage.report(config, context, ends(RPO=[0.5, 0.49, 0.01]), curves)) == [2]
    assert failed(coverage.report(config, context, ends(**{coverage.UNTIED: [0.6, 0.0, 0.4]}), curves)) == [4]


def test_own_samples_follow_the_policy():
    config = tiny("coverage", online=4000)
    log_pi = torch.tensor([[[0.7, 0.2, 0.1]], [[0.1, 0.1, 0.8]]], dtype=torch.float64).log()
    y = coverage.coverage_bandit().world.completions(log_pi)
    own = coverage.own(config, y, [torch.Generator().manual_seed(s) for s in (0, 1)])
    assert own.logp.shape == (2, 1, 4000, 1)
    assert float((own.logp[0].exp() - 0.7).abs().lt(1e-9).double().mean()) == pytest.approx(0.7, abs=0.03)


def test_steps_to_a_goal():
    curve = np.array([[0.1, 0.1], [0.6, 0.2], [0.4, 0.3]])
    assert negative_gradient.steps_to(curve, 0.5).tolist() == [1.0, 3.0]


def test_the_steps_decide_the_negative_gradient(tmp_path):
    config, context = tiny("negative-gradient"), Context(tmp_path)

    def curves(dpo=7, offline=0.1, coin=10):
        steps = dict.fromkeys(negative_gradient.METHODS, 10) | {"DPO": dpo, negative_gradient.COIN: coin}
        rise = lambda k: np.tile(np.where(np.arange(20) >= k, 0.9, 0.0)[:, None], (1, 2))  # noqa: E731
        flat = np.full((20, 2), offline)
        return {(m, True): rise(k) for m, k in steps.items()} | {(m, False): flat for m in steps}

    assert failed(negative_gradient.report(config, context, curves())) == []
    assert failed(negative_gradient.report(config, context, curves(dpo=9))) == [0]
    assert failed(negative_gradient.report(config, context, curves(offline=0.6))) == [1]
    assert failed(negative_gradient.report(config, context, curves(coin=5))) == [2]


def test_the_better_action_is_chosen():
    study = negative_gradient.Study(tiny("negative-gradient", lr=0.5, steps=30), "DPO", True)
    curve = study.fit()
    assert (curve[-1] > curve[0]).all()


def test_the_loss_after_the_best_step_decides_over_optimisation(tmp_path):
    config, context = tiny("over-optimisation"), Context(tmp_path)

    def curves(dpo=0.2, rpo=0.0, likely=-3.0, none=0.2):
        made = {"DPO": (dpo, -20.0), "RPO": (rpo, likely), over_optimisation.NONE: (none, -20.0)}
        return {n: (np.array([[0.5] * 2, [0.8] * 2, [0.8 - x] * 2]), np.full((3, 2), p)) for n, (x, p) in made.items()}

    assert failed(over_optimisation.report(config, context, curves())) == []
    assert failed(over_optimisation.report(config, context, curves(rpo=0.02))) == [0]
    assert failed(over_optimisation.report(config, context, curves(dpo=0.04))) == [1]
    assert failed(over_optimisation.report(config, context, curves(likely=-30.0))) == [2]
    assert failed(over_optimisation.report(config, context, curves(none=0.0))) == [3]


def test_pairs_show_only_the_arms_that_they_may():
    study = over_optimisation.Study(tiny("over-optimisation"))
    assert int(torch.stack([study.chosen, study.rejected]).max()) < study.config.shown
    assert (study.reward.gather(1, study.chosen) > study.reward.gather(1, study.rejected)).all()
    assert (study.reward[:, study.config.shown :] == 0).all()


def test_labels_are_flipped_as_often_as_told():
    data = reward_models.draw_data(tiny("reward-models", pairs=4000), 0.3)
    assert data.flipped.double().mean(-1).numpy() == pytest.approx([0.3, 0.3], abs=0.03)
    with pytest.raises(RlcError, match="two shares"):
        tiny("reward-models", flips=(0.1,))


def test_votes_find_flipped_labels_and_shuffled_ones_do_not():
    config = tiny("reward-models", steps=150, pairs=200)
    found = reward_models.measured(config, 0.1)
    assert found["detection"].mean() > 0.85 > found["detection, other pairs"].mean()


def test_the_mask_decides_sparsepo(tmp_path):
    config, context = tiny("sparsepo"), Context(tmp_path)

    def found(**masks):
        out = {}
        for name in sparsepo.methods(config):
            of = {"return": np.ones(2), "KL elsewhere": np.ones(2)}
            if name.startswith("SparsePO"):
                on, off = masks.get(name, (1.0, 1.0 if name in (sparsepo.BLIND, sparsepo.NO_L1) else 0.1))
                of |= {"mask, critical": np.full(2, on), "mask, others": np.full(2, off)}
            out[name] = of
        return out

    assert failed(sparsepo.report(config, context, found())) == []
    assert failed(sparsepo.report(config, context, found(SparsePO=(1.0, 0.3)))) == [0]
    assert failed(sparsepo.report(config, context, found(SparsePO=(0.0, 0.0)))) == [0]
    assert failed(sparsepo.report(config, context, found(**{sparsepo.BLIND: (1.0, 0.1)}))) == [1]


def test_only_critical_steps_are_rewarded():
    study = sparsepo.Study(tiny("sparsepo"), "DPO")
    assert study.critical.sum(-1).tolist() == [3, 3]
    assert (study.reward[~study.critical] == 0).all()
    with pytest.raises(RlcError, match="below horizon"):
        tiny("sparsepo", critical=12)


@pytest.mark.long
@pytest.mark.parametrize("name", TINY)
def test_quick_claims_hold(name, tmp_path):
    report = run(name, tmp_path, registry.get("claim", f"preferences/{name}")[0].config.quick())
    assert report.holds, [(bar.what, bar.measured) for bar in report.bars if not bar.ok]
