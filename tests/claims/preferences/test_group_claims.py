"""Claims of CoPG, GCPO, GRACE and Sem-DPO: the numbers decide the bars, a sabotaged part misses them, bytes repeat."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from rl_contrastive import registry
from rl_contrastive.claims.base import Context
from rl_contrastive.claims.preferences import copg, gcpo, grace, sem_dpo
from rl_contrastive.claims.preferences.bandits import Bandits, expected, fit, of_pairs, random_bandits, sampled
from rl_contrastive.claims.runner import run_claims
from rl_contrastive.errors import RlcError
from rl_contrastive.preferences import (
    DPO,
    GCPO,
    RLOO,
    Completions,
    CoPG,
    CoPGConfig,
    DPOConfig,
    GCPOConfig,
    RLOOConfig,
    SemDPO,
    SemDPOConfig,
)

TINY = {
    "copg": {"bandits": 2, "steps": 4},
    "gcpo": {"steps": 4, "groups": 2},
    "grace": {"steps": 3, "test": 3},
    "sem-dpo": {"prompts": 4, "candidates": 6, "pairs": 20, "steps": 3},
}
"""Two seeds: for wiring, not for truth."""
TOO_SMALL = {"grace", "sem-dpo"}
"""Few seeds: the bars are for the full size, but the controls must fail all the same."""


def run(name, path, **changes):
    path.mkdir(exist_ok=True)
    entry = registry.get("claim", f"preferences/{name}")[0]
    config = dataclasses.replace(entry.config.quick(), **{"seeds": (7, 8), **TINY[name], **changes})
    return entry.factory(config, Context(path))


@pytest.mark.parametrize("name", TINY)
def test_a_report_has_a_control_a_plot_and_the_same_bytes_again(name, tmp_path):
    report = run(name, tmp_path)
    assert any(bar.control for bar in report.bars)
    assert (tmp_path / report.plots[0]).read_bytes().startswith(b"\x89PNG")
    again = run(name, tmp_path / "again")
    assert repr(again.numbers) == repr(report.numbers)
    assert again.bars == report.bars
    assert repr(run(name, tmp_path, seeds=(9, 8)).numbers) != repr(report.numbers)


@pytest.mark.parametrize("name", TINY)
def test_one_seed_is_too_few(name, tmp_path):
    with pytest.raises(RlcError, match="at least two seeds"):
        run(name, tmp_path, seeds=(1,))


@pytest.mark.long
@pytest.mark.parametrize("name", TINY)
def test_a_claim_in_quick_size(name, tmp_path):
    (report,) = run_claims([name], out=tmp_path, group="preferences", quick=True)
    assert all(bar.ok for bar in report.bars if bar.control), report.bars
    assert report.holds or name in TOO_SMALL, report.bars


# --- bars from numbers ---


@pytest.fixture
def no_plots(monkeypatch):
    for module in (copg, gcpo, grace, sem_dpo):
        monkeypatch.setattr(module, "draw", lambda *_: "none.png")


def failed(report):
    return [i for i, bar in enumerate(report.bars) if not bar.ok]


def test_bars_of_copg_follow_the_numbers(tmp_path, no_plots):
    config = dataclasses.replace(copg.CoPGClaimConfig.quick(), steps=100)

    def found(**changes):
        regrets = {copg.COPG: 1e-6, copg.DRAWN: 1e-5, copg.PLAIN: 0.5, copg.BASELINE: 1e-6, copg.OWN: 1e-5,
                   "CoPG, other laws and starts": 1e-7, copg.HALF: 0.1, copg.UNSEEN: 0.2, **changes}  # fmt: skip
        arrays = {name: np.array([[x, x / 2], [x / 3, x]]) for name, x in regrets.items()}
        curves = {name: np.array([1.0, x]) for name, x in regrets.items()}
        pairs = {name: np.full(2, changes.get(name, 1e-6)) for name in ("DPO", "IPO")}
        return failed(copg.report(config, Context(tmp_path), arrays, curves, pairs, {copg.PLAIN: 0.5}))

    assert found() == []
    assert found(**{copg.COPG: 2e-3}) == [0]
    assert found(**{copg.DRAWN: 2e-3}) == [1]
    assert found(**{copg.PLAIN: 0.29}) == [3]
    assert found(IPO=2e-3) == [6]
    assert found(**{copg.HALF: 9e-4}) == [7]
    assert found(**{copg.UNSEEN: 9e-4}) == [8]


def test_bars_of_gcpo_follow_the_numbers(tmp_path, no_plots):
    config = gcpo.GCPOClaimConfig.quick()

    def found(hurts=0.01, gain=0.1, always=0.97):
        def row(p, accuracy):
            values = {"helps": 0.99, "hurts": p, "neutral": 0.2, "accuracy": accuracy, gcpo.STEPS: 50.0}
            return {key: np.array([v, v * 1.001]) for key, v in values.items()}

        of = {gcpo.PLAIN: row(0.01, 0.63), gcpo.ALWAYS: row(always, 0.5), gcpo.CONTRAST: row(hurts, 0.5 + gain)}
        curves = {(bits, name): np.full((3, 2, 3), 0.1) for bits in (1, config.bits) for name in gcpo.METHODS}
        return failed(gcpo.report(config, Context(tmp_path), of, of, curves))

    assert found() == []
    assert found(hurts=0.11) == [0]
    assert found(gain=0.04) == [1]
    assert found(always=0.05) == [2]


def test_bars_of_grace_follow_the_numbers(tmp_path, no_plots):
    config = grace.GRACEClaimConfig.quick()

    def found(softmax=0.93, published=0.8, gap=1e-16, other=0.1, untrained=0.13):
        share = {"untrained": untrained, "query": 0.75, "consistent": 0.8, "published": published, "per-rollout": 0.85,
                 "softmax": softmax}  # fmt: skip
        keys = ("mean cosine", "within a class", "between classes")
        of = {form: {"nearest neighbour": np.array([x, x + 0.001]), **{k: np.array([0.5, 0.6]) for k in keys}}
              for form, x in share.items()}  # fmt: skip
        gaps = {"published": np.array([gap]), "per-rollout": np.array([other])}
        return failed(grace.report(config, Context(tmp_path), of, gaps))

    assert found() == []
    assert found(softmax=0.87) == [0]
    assert found(published=0.9) == [1]
    assert found(gap=1e-5) == [2]
    assert found(other=1e-7) == [3]
    assert found(untrained=0.9) == [4]


def test_bars_of_sem_dpo_follow_the_numbers(tmp_path, no_plots):
    config = dataclasses.replace(sem_dpo.SemDPOClaimConfig.quick(), alphas=(1.0, 8.0))

    def found(sem=0.5, style=1.0, shuffled=0.441, mean=0.44, rise=0.1):
        def row(cosine, style):
            return {key: np.array([v, v * 1.001]) for key, v in (("cosine", cosine), ("style", style), ("KL", 1.0))}

        of = {sem_dpo.REFERENCE: row(0.5, 0.01), sem_dpo.PLAIN: row(0.44, 1.1), sem_dpo.SEM: row(sem, style),
              sem_dpo.SHUFFLED: row(shuffled, 1.1), sem_dpo.MEAN: row(mean, 1.1)}  # fmt: skip
        by_alpha = [row(0.45, 1.1), row(0.45 + rise, 1.0)]
        return failed(sem_dpo.report(config, Context(tmp_path), of, by_alpha, [np.array([0.44, 0.45])] * 2))

    assert found() == []
    assert found(sem=0.46) == [0]
    assert found(style=0.95) == [1]
    assert found(shuffled=0.46) == [2]
    assert found(shuffled=0.48) == [2, 4]
    assert found(rise=-0.01) == [3]
    assert found(mean=0.48) == [5]


# --- the worlds ---


def test_expectations_are_those_of_all_draws_and_of_many():
    bandits = random_bandits((0,), 2, 3, 0.5, 0.01)
    log_pi = torch.as_tensor(random_bandits((1,), 2, 3, 0.5, 0.01).log_mu)
    objective = CoPG(CoPGConfig(beta=0.5))
    exact = expected(objective, bandits)(log_pi)
    for n in range(2):
        total = 0.0
        for pair in itertools.product(range(3), repeat=2):
            arms = torch.tensor(pair)
            group = Completions(log_pi[n, arms].unsqueeze(-1), torch.as_tensor(bandits.log_ref[n])[arms].unsqueeze(-1))
            loss = objective(group, torch.as_tensor(bandits.reward[n])[arms]).loss
            total += float(np.exp(bandits.log_mu[n, list(pair)].sum()) * loss)
        assert float(exact[n]) == pytest.approx(total)
    drawn = sampled(objective, bandits, 40_000, 2, torch.Generator().manual_seed(0))(log_pi)
    assert torch.allclose(drawn, exact, rtol=0.05)


def test_dpo_and_copg_end_at_the_optimum_and_rloo_on_its_own_draws_too():
    bandits = random_bandits((3,), 3, 4, 0.5, 0.01)
    assert np.exp(bandits.log_mu).sum(-1) == pytest.approx(1)
    assert np.exp(bandits.log_mu).min() >= 0.01
    losses = [expected(CoPG(CoPGConfig(beta=0.5)), bandits), of_pairs(DPO(DPOConfig(beta=0.5)), bandits)]
    losses += [expected(RLOO(RLOOConfig(beta=0.5)), bandits, on_policy=True)]
    for loss in losses:
        log_pi, seen = fit(loss, bandits.log_ref, 200, 0.1, bandits.regret)
        assert bandits.regret(log_pi).max() < 1e-3 < seen[0].max()


def test_repeated_bandits_stay_in_order():
    one = Bandits(np.array([[1.0, 0.0], [2.0, 0.0]]), np.log(np.full((2, 2), 0.5)), np.log(np.full((2, 2), 0.5)), 1.0)
    assert one.repeated(2).reward[:, 0].tolist() == [1, 1, 2, 2]


@pytest.mark.long
def test_gcpo_with_its_sign_turned_does_harm(tmp_path, monkeypatch):
    right = GCPO.mask
    monkeypatch.setattr(GCPO, "mask", lambda self, accuracy, used: -right(self, accuracy, used))
    config = dataclasses.replace(gcpo.GCPOClaimConfig.quick(), bonus=3.0)  # more than accuracy is worth
    assert not gcpo.gcpo(config, Context(tmp_path)).bars[0].ok


def test_chances_of_gcpo_are_those_of_its_table():
    config = dataclasses.replace(gcpo.GCPOClaimConfig.quick(), start=0.25, penalty=0.5)
    study = gcpo.Study(config, gcpo.PLAIN, 3)
    study.step(0)
    found = study.judge()
    assert found["hurts"] == pytest.approx(0.25)
    mean = np.mean([0.75 * 0.4 + 0.25 * 0.8, 0.75 * 0.6 + 0.25 * 0.3, 0.5])
    assert found["accuracy"] == pytest.approx(mean * 0.75**2)  # two more bits, each wrong half of the time
    assert found[gcpo.STEPS].tolist() == [config.steps] * 3
    assert study.transform.config == GCPOConfig(bonus=0.0)


def test_grace_embeds_tokens_and_writes_by_the_policy():
    config = dataclasses.replace(grace.GRACEClaimConfig.quick(), seeds=(1, 2))
    study = grace.Study(config, "softmax")
    tokens = torch.tensor([0, 3, 3, 5]).expand(2, 8, 1, 4)
    want = torch.nn.functional.normalize(study.vectors[:, [0, 3, 3, 5]].mean(1), dim=-1)
    assert torch.allclose(study.embed(tokens)[:, 4, 0], want)
    sharp = torch.full((2, 8, 4, 24), -50.0)
    sharp[..., [0, 1, 2, 3], [7, 7, 2, 9]] = 50.0
    assert study.write(sharp, 3).shape == (2, 8, 3, 4)
    assert (study.write(sharp, 3) == torch.tensor([7, 7, 2, 9])).all()
    logp, p, q, neg = study.drawn()
    assert logp.shape == (2, 8, 8, 4)
    assert p.shape[:-1] == (2, 8, 8)
    assert q.shape == neg.shape == (2, 8, 16)


def test_a_path_is_read_where_its_style_was():
    path = [{"style": np.array([0.0, 0.0]), "cosine": np.array([0.5, 0.6])},
            {"style": np.array([1.0, 2.0]), "cosine": np.array([0.3, 0.2])}]  # fmt: skip
    assert sem_dpo.at_style(path, np.array([0.25, 1.0])) == pytest.approx([0.45, 0.4])


def test_pairs_of_sem_dpo_are_two_candidates_of_a_prompt_and_style_decides():
    config = dataclasses.replace(sem_dpo.SemDPOClaimConfig.quick(), seeds=(1, 2), certainty=1e6)
    world = sem_dpo.World(config)
    assert (world.chosen != world.rejected).all()
    style = world.rows(world.style, world.prompt)
    better, worse = (style.gather(-1, i.unsqueeze(-1)) for i in (world.chosen, world.rejected))
    assert (better >= worse).all()
    weight = world.weights(3.0)
    s, p = 1, 5
    x, y = world.x[s, world.prompt[s, p]], world.y[s, world.prompt[s, p], world.chosen[s, p]]
    want = SemDPO(SemDPOConfig(alpha=3.0))(x.unsqueeze(0), y.unsqueeze(0))
    assert float(weight[s, p]) == pytest.approx(float(want), rel=1e-5)
    assert world.judge(world.log_ref)["KL"] == pytest.approx(0)
