"""SupCon and SupReMix: golden values, values by hand, a brute-force reference, and the draws of mixtures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from golden_waves import unit_wave
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor

from rl_contrastive.errors import RlcError
from rl_contrastive.objectives import labelled
from rl_contrastive.objectives.labelled import SupCon, SupConConfig, SupReMix, SupReMixConfig
from rl_contrastive.objectives.mixtures import draw_beta, draw_pairs
from rl_contrastive.objectives.views import Views

FIVE = Views(torch.stack([unit_wave(5, 3, 0), unit_wave(5, 3, 0.2)]), label=torch.arange(5))


@pytest.fixture
def _one_lam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "draw_beta", lambda size, shape, *, generator: torch.full(size, 0.2).double())


GOLDEN: list[tuple[dict[str, Any], float]] = [
    ({"mix_neg": False, "mix_pos": False, "magnify": False}, 1.358793),
    ({"mix_neg": False, "mix_pos": False}, 2.354178),
    ({"magnify": False}, 3.648638),
    ({}, 4.603802),
    ({"magnify": False, "published": True}, 3.648846),
    ({"published": True}, 4.604070),
]


@pytest.mark.usefixtures("_one_lam")
@pytest.mark.parametrize(("options", "value"), GOLDEN)
def test_supremix_golden_values(options: dict[str, Any], value: float) -> None:
    config = SupReMixConfig(window=2.5, mixtures=1000, **options)
    assert float(SupReMix(config)(FIVE).loss) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("views", [1, 2, 3])
def test_supcon_equals_pytorch_metric_learning(views: int) -> None:
    z = torch.randn(views, 12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(views))
    label = torch.tensor([0, 1, 2, 3] * 3)
    labels = label.repeat(views)
    theirs = SupConLoss(temperature=0.2)(z.flatten(0, 1), labels)
    ours = SupCon(SupConConfig(0.2))(Views(z, label=label))
    assert float(ours.loss) == pytest.approx(float(theirs), abs=1e-6)


def test_supcon_by_hand() -> None:
    # One view; two equal vectors of class 0: -1 + log(e + 1). The third, alone in its class, drops out of the mean.
    z = torch.tensor([[[1.0, 0], [1, 0], [0, 1]]], dtype=torch.float64)
    result = SupCon(SupConConfig(1.0))(Views(z, label=torch.tensor([0, 0, 1])))
    assert float(result.loss) == pytest.approx(math.log(math.e + 1.0) - 1.0, abs=1e-12)
    assert result.rows[2] == 0


def test_large_class_numbers_stay_apart() -> None:
    label = torch.tensor([2**24, 2**24 + 1, 2**24])  # equal in float32
    z = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    small = SupCon()(Views(z, label=torch.tensor([0, 1, 0])))
    torch.testing.assert_close(SupCon()(Views(z, label=label)).loss, small.loss)


@pytest.mark.parametrize("loss", [SupCon(), SupReMix()])
def test_no_positive_anywhere_is_a_sentence(loss: SupCon | SupReMix) -> None:
    z = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RlcError, match="no instance of the batch has a positive"):
        loss(Views(z, label=torch.tensor([0, 1])))


@pytest.mark.parametrize("loss", [SupCon(), SupReMix()])
def test_one_class_is_a_batch_too(loss: SupCon | SupReMix) -> None:
    z = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(loss(Views(z, label=torch.zeros(4))).loss)


def test_supremix_by_hand() -> None:
    # Values 0, 1, 2 at e1, e2, e1. Anchor 1 has one positive, the mixture e1 at cosine 0; its sum is 2 + 2 + 1.
    z = torch.tensor([[[1.0, 0], [0, 1], [1, 0]]], dtype=torch.float64)
    config = SupReMixConfig(temperature=1.0, mix_neg=False)
    result = SupReMix(config)(Views(z, label=torch.tensor([0.0, 1.0, 2.0])))
    assert float(result.loss) == pytest.approx(math.log(5.0), abs=1e-12)


def reference(z: Tensor, y: Tensor, lam: float, n: float, tau: float) -> Tensor:
    """SupReMix by loops over anchors and mixtures, rows (R,)."""
    fixed, R, rows = z.detach(), len(z), []
    for i in range(R):
        scores, counts, positives = [], [], []
        for b in range(R):
            if b != i:
                scores.append(z[i] @ z[b])
                counts.append(abs(y[i] - y[b]) + 1)
                positives.append(y[b] == y[i])
            if y[b] != y[i]:
                scores.append(z[i] @ (lam * fixed[i] + (1 - lam) * fixed[b]))
                counts.append((1 - lam) * abs(y[i] - y[b]) + 1)
                positives.append(torch.tensor(False))
            for k in range(R):
                if y[i] - n < y[b] < y[i] < y[k] < y[i] + n:
                    share = (y[k] - y[i]) / (y[k] - y[b])
                    scores.append(z[i] @ (share * fixed[b] + (1 - share) * fixed[k]))
                    counts.append(torch.ones_like(y[i]))
                    positives.append(torch.tensor(True))
        s = torch.stack(scores) / tau
        rows.append((s + torch.stack(counts).log()).logsumexp(0) - s[torch.stack(positives)].mean())
    return torch.stack(rows)


@pytest.mark.usefixtures("_one_lam")
def test_supremix_equals_the_loops_in_value_and_gradient() -> None:
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(2, 6, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    y = torch.tensor([0.0, 0.7, 1.1, 1.1, 2.5, 4.0], dtype=torch.float64)
    unit = torch.nn.functional.normalize(z, dim=-1).flatten(0, 1)
    expected = reference(unit, y.repeat(2), 0.2, 2.0, 0.5).mean()
    result = SupReMix(SupReMixConfig(window=2.0, mixtures=1000))(Views(z, label=y))
    torch.testing.assert_close(result.loss, expected)
    theirs, ours = (torch.autograd.grad(loss, z)[0] for loss in (expected, result.loss))
    torch.testing.assert_close(ours, theirs)


def test_few_drawn_mixtures_stand_for_all() -> None:
    z = torch.randn(2, 24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    views = Views(z, label=torch.linspace(0, 4, 24, dtype=torch.float64))
    exact = SupReMix(SupReMixConfig(mix_neg=False, mixtures=1 << 16))(views).loss
    few = torch.stack([SupReMix(SupReMixConfig(mix_neg=False, mixtures=16, seed=s))(views).loss for s in range(20)])
    assert float(few.mean()) == pytest.approx(float(exact), abs=0.02)
    assert few.std() > 0


def test_the_state_resumes_the_draws() -> None:
    loss, state = SupReMix(), SupReMix().initial(0, 3)
    first, state = loss.step(FIVE, state)
    second, _ = loss.step(FIVE, {name: value.clone() for name, value in state.items()})
    again, _ = SupReMix().step(FIVE, state)
    assert first.loss != second.loss
    assert second.loss == again.loss
    assert loss(FIVE).loss == first.loss


def test_pairs_of_a_row_are_all_pairs_where_they_are_few() -> None:
    y = torch.tensor([0.0, 1.0, 2.0, 3.0, 9.0])
    real = torch.tensor([True, True, True, False, True])
    pairs = draw_pairs(y, real, 2.5, 100, generator=torch.Generator())
    found = {
        (i, int(j), int(k))
        for i in range(5)
        for j, k, count in zip(pairs.j[i], pairs.k[i], pairs.count[i], strict=True)
        if count
    }
    assert found == {(1, 0, 2)}  # 9 is too far from 3, and padding is in no pair
    torch.testing.assert_close(pairs.lam[1][pairs.count[1] > 0], torch.tensor([0.5]))


def test_drawn_pairs_are_even_and_stand_for_all() -> None:
    y, seen, generator = torch.tensor([0.0, 1, 2, 3, 4, 5, 6]), torch.zeros(7, 7), torch.Generator().manual_seed(0)
    for _ in range(2000):
        pairs = draw_pairs(y, torch.ones(7, dtype=torch.bool), 10.0, 4, generator=generator)
        seen.index_put_((pairs.j[3], pairs.k[3]), torch.tensor(1.0), accumulate=True)
        torch.testing.assert_close(pairs.count[3].sum(), torch.tensor(9.0))
        torch.testing.assert_close(pairs.lam[3] * y[pairs.j[3]] + (1 - pairs.lam[3]) * y[pairs.k[3]], y[3].expand(4))
    share = seen[:3, 4:] / 2000  # 4 of 9 pairs each time
    torch.testing.assert_close(share, torch.full((3, 3), 4 / 9), atol=0.04, rtol=0)


def test_beta_draws_have_the_moments_of_beta() -> None:
    draws = draw_beta((20000,), (2, 8), generator=torch.Generator().manual_seed(0))
    assert float(draws.mean()) == pytest.approx(0.2, abs=0.005)
    assert float(draws.var()) == pytest.approx(0.2 * 0.8 / 11, abs=0.001)
