"""NT-Xent, its hard variant, DCL and DCLW: golden values, values by hand, equality with pytorch-metric-learning."""

from __future__ import annotations

import math

import pytest
import torch
from golden_waves import wave
from pytorch_metric_learning.losses import NTXentLoss

from rl_contrastive.errors import RlcError
from rl_contrastive.objectives.pairwise import DCL, DCLW, DCLConfig, DCLWConfig, NTXent, NTXentConfig
from rl_contrastive.objectives.views import Views

TWO = Views(torch.stack([wave(4, 3, 0), wave(4, 3, 0.3)]))
AXES = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
"""Two instances on the axes, both views equal: cosine 1 with the partner, 0 with the two others."""


def test_dcl_golden_values() -> None:
    assert float(DCL(DCLConfig(one_way=True))(TWO).loss) == pytest.approx(0.621604, abs=1e-5)
    assert float(DCLW(DCLWConfig(one_way=True))(TWO).loss) == pytest.approx(0.621643, abs=1e-5)


def test_two_sided_dcl_is_the_mean_of_both_directions() -> None:
    back = DCL(DCLConfig(one_way=True))(Views(TWO.z.flip(0)))
    forth = DCL(DCLConfig(one_way=True))(TWO)
    torch.testing.assert_close(DCL()(TWO).loss, (forth.loss + back.loss) / 2)


def test_dcl_by_hand() -> None:
    assert float(DCL(DCLConfig(temperature=1.0))(Views(AXES)).loss) == pytest.approx(math.log(2.0) - 1.0, abs=1e-12)


def test_dclw_by_hand() -> None:
    # Partners at cosine 1 and 0, sigma 1: shares e and 1 of e + 1, weights 2 - 2 share; other cosines 0, 0 and 0, 1.
    z = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 1]]], dtype=torch.float64)
    weight = 2.0 - 2.0 * math.e / (math.e + 1.0)
    result = DCLW(DCLWConfig(temperature=1.0, sigma=1.0))(Views(z))
    torch.testing.assert_close(result.rows, torch.tensor([math.log(2.0) - weight, math.log(2.0)]).double())


def test_dclw_equals_dcl_where_all_partners_agree_alike() -> None:
    torch.testing.assert_close(DCLW()(Views(AXES)).loss, DCL()(Views(AXES)).loss)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_nt_xent_equals_pytorch_metric_learning(temperature: float) -> None:
    z = torch.randn(2, 12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    theirs = NTXentLoss(temperature=temperature)(z.flatten(0, 1), torch.arange(12).repeat(2))
    assert float(NTXent(NTXentConfig(temperature))(Views(z)).loss) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize(("alpha", "kept"), [(0.01, 1), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_hard_negatives_are_the_most_similar_share(alpha: float, kept: int) -> None:
    z = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u = torch.nn.functional.normalize(z.flatten(0, 1), dim=-1)
    S = u @ u.T / 0.5
    rows = []
    for a in range(10):
        negatives = S[a, [b for b in range(10) if b % 5 != a % 5]].sort(descending=True).values[:kept]
        partner = S[a, (a + 5) % 10]
        rows.append(torch.logsumexp(torch.cat([partner[None], negatives]), 0) - partner)
    result = NTXent(NTXentConfig(0.5, hard=alpha))(Views(z))
    torch.testing.assert_close(result.loss, torch.stack(rows).mean())


def test_hard_negatives_count_by_weight() -> None:
    # Negatives of instance 0 at cosine .8 (weight .2) and .6 (.4): a share of .3 is the first, .4 needs the second.
    angles = torch.acos(torch.tensor([1.0, 0.8, 0.6], dtype=torch.float64))
    z = torch.stack([angles.cos(), angles.sin()], dim=-1).expand(2, 3, 2)
    weight = torch.tensor([0.4, 0.2, 0.4], dtype=torch.float64)
    for alpha, total in [(0.3, 0.6 * math.exp(0.8)), (0.4, 0.6 * math.exp(0.8) + 1.2 * math.exp(0.6))]:
        row = math.log(1.2 * math.e + 2 * total) - 1.0
        result = NTXent(NTXentConfig(1.0, hard=alpha))(Views(z, weight))
        assert float(result.rows[0]) == pytest.approx(row, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_a_share_of_negatives_beyond_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(RlcError, match="hard must lie in"):
        NTXentConfig(hard=alpha)
