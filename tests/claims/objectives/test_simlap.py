"""SimLAP's gate: the area under the curve against a count of pairs, bars from numbers, same seed same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rl_contrastive.claims.base import Context
from rl_contrastive.claims.objectives import simlap as claim

QUICK = claim.SimlapClaimConfig.quick()
TINY = replace(QUICK, steps=3, batch=24, test=2)


def numbers(method: str = "", **values: float) -> dict[str, dict[str, np.ndarray]]:
    high = {"rank": 12.0, "spearman": 0.3, "spearman, centred": 0.3}
    low = {"rank": 1.2, "spearman": np.nan, "spearman, centred": np.nan}
    base = {claim.GATED: (0.98, high), claim.OPEN: (0.3, low), claim.ONE_CLASS: (0.5, {**high, "spearman": 0.1})}
    out = {}
    for name, (shared, rest) in base.items():
        row = {f"shared {k}": shared for k in range(3)} | rest | (values if name == method else {})
        out[name] = {key: np.array([v, v * 1.01]) for key, v in row.items()}
    return out


def test_bars_follow_the_numbers(tmp_path):
    def failed(found: dict[str, dict[str, np.ndarray]]) -> list[int]:
        return [i for i, bar in enumerate(claim.report(TINY, Context(tmp_path), found).bars) if not bar.ok]

    assert failed(numbers()) == []
    assert failed(numbers(claim.GATED, **{"shared 0": 0.94})) == [0]
    assert failed(numbers(claim.OPEN, **{"shared 0": 0.96})) == [1, 5]
    assert failed(numbers(claim.ONE_CLASS, **{"shared 0": 0.61})) == [2]
    assert failed(numbers(claim.OPEN, rank=3.0)) == [3]
    assert failed(numbers(claim.GATED, spearman=0.1)) == [4]
    assert failed(numbers(claim.ONE_CLASS, spearman=0.21)) == [6]


def test_area_is_the_share_of_right_pairs():
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 12, generator=rng)
    of = torch.rand(3, 12, generator=rng) < 0.4
    allowed = of | (torch.rand(3, 12, generator=rng) < 0.7)
    found = claim.area(scores, of, allowed)
    for s in range(2):
        for p in range(3):
            good, bad = scores[s, p][of[p]], scores[s, p][allowed[p] & ~of[p]]
            assert float(found[s, p]) == pytest.approx(float((good[:, None] > bad).double().mean()))


def test_the_gate_is_what_training_and_judgement_share():
    study = claim.Study(TINY, claim.GATED)
    before = study.judge()
    assert before["spearman"].shape == (2,)
    study.fit()
    assert not np.array_equal(study.judge()["shared 0"], before["shared 0"])
    still = [p.clone() for p in claim.Study(TINY, claim.OPEN).gates[0].parameters()]
    open_study = claim.Study(TINY, claim.OPEN)
    open_study.fit()
    assert all(torch.equal(a, b) for a, b in zip(still, open_study.gates[0].parameters(), strict=True))


def test_classes_share_attributes():
    assert claim.SHARED.diagonal().tolist() == [3] * 27
    assert torch.bincount(claim.SHARED.flatten()).tolist() == [27 * 8, 27 * 12, 27 * 6, 27]


def test_same_seed_same_bytes(tmp_path):
    first, again = (claim.simlap(TINY, Context(tmp_path)) for _ in range(2))
    assert str(first.numbers) == str(again.numbers)


@pytest.mark.long
def test_quick_finds_classes_but_not_with_a_sabotaged_gate(tmp_path, monkeypatch):
    report = claim.simlap(QUICK, Context(tmp_path))
    assert [i for i, bar in enumerate(report.bars) if not bar.ok] in ([], [4]), report.bars  # 4: Spearman's, missed
    assert (tmp_path / report.plots[0]).read_bytes().startswith(b"\x89PNG")
    rng = torch.Generator().manual_seed(0)  # gates that know nothing of the classes
    monkeypatch.setattr(
        claim.Study, "gate", lambda self, y1, y2, training: torch.rand(*y1.shape, self.config.dim, generator=rng)
    )
    assert not claim.simlap(QUICK, Context(tmp_path)).bars[0].ok
