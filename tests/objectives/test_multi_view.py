"""MV-InfoNCE, MV-DHEL and CACR: golden values, values by hand, and what they are for two views."""

from __future__ import annotations

import math

import pytest
import torch
from golden_waves import wave

from rl_contrastive.objectives.multi_view import (
    CACR,
    MVDHEL,
    CACRConfig,
    MVDHELConfig,
    MVInfoNCE,
    MVInfoNCEConfig,
    square_distances,
)
from rl_contrastive.objectives.pairwise import NTXent, NTXentConfig, cosines, partners
from rl_contrastive.objectives.views import Views

THREE = Views(torch.stack([wave(4, 3, 0), wave(4, 3, 0.3), wave(4, 3, 0.6)]))
AXES = Views(torch.eye(2, dtype=torch.float64).expand(2, 2, 2))


def test_golden_values() -> None:
    assert float(MVInfoNCE(MVInfoNCEConfig(0.5))(THREE).loss) == pytest.approx(0.945742, abs=1e-5)
    assert float(MVDHEL(MVDHELConfig(0.5))(THREE).loss) == pytest.approx(2.958091, abs=1e-5)


def test_cacr_golden_values() -> None:
    cacr = CACR(CACRConfig(t_plus=1.0, t_minus=2.0))
    c = 2.0 - 2.0 * cosines(THREE.z)
    attraction, repulsion = cacr.attraction(partners(c)).mean(), cacr.repulsion(c, THREE).mean()
    assert float(attraction) == pytest.approx(0.176286, abs=1e-5)
    assert float(repulsion) == pytest.approx(-0.243309, abs=1e-5)
    torch.testing.assert_close(cacr(THREE).loss, attraction + repulsion)


def test_values_by_hand() -> None:
    # Partner at cosine 1, the others at 0: -log 2e / 2(e + 2), and -log e + log 1 + log 1.
    assert float(MVInfoNCE()(AXES).loss) == pytest.approx(math.log(math.e + 2.0) - 1.0, abs=1e-12)
    assert float(MVDHEL(MVDHELConfig(1.0))(AXES).loss) == pytest.approx(-1.0, abs=1e-12)
    # Cost 0 of the partner, 2 of the only other instance.
    assert float(CACR()(AXES).loss) == pytest.approx(-2.0, abs=1e-12)
    assert float(CACR(CACRConfig(cost="rbf"))(AXES).loss) == pytest.approx(-4.0, abs=1e-12)


def test_mv_infonce_of_two_views_is_nt_xent_plus_the_imbalance_of_the_views() -> None:
    views = Views(THREE.z[:2])
    S = cosines(views.z) / 0.5
    itself = torch.eye(2, dtype=torch.bool)[:, :, None, None] & torch.eye(4, dtype=torch.bool)
    log_D = torch.logsumexp(S.masked_fill(itself, -torch.inf), dim=(1, 3))  # (V, N): candidates of view l
    pairwise, multi = NTXent(NTXentConfig(0.5))(views), MVInfoNCE(MVInfoNCEConfig(0.5))(views)
    torch.testing.assert_close(multi.rows, pairwise.rows + ((log_D[0] - log_D[1]) / 2).cosh().log())
    equal = Views(THREE.z[:1].expand(2, 4, 3))
    torch.testing.assert_close(MVInfoNCE(MVInfoNCEConfig(0.5))(equal).rows, NTXent(NTXentConfig(0.5))(equal).rows)


def test_mv_dhel_sums_logarithms_where_the_product_overflows() -> None:
    z = torch.ones(5, 4, 2)
    expected = 5 * (math.log(3.0) + 1e3) - (math.log(10.0) + 1e3)
    assert float(MVDHEL(MVDHELConfig(1e-3))(Views(z)).loss) == pytest.approx(expected, rel=1e-6)


def test_cacr_pulls_the_farthest_view_and_pushes_the_nearest_instance() -> None:
    # Views of instance 0 at 0, 20 and 60 degrees, instance 1 at 100, instance 2 at 180.
    angles = torch.deg2rad(torch.tensor([[0.0, 100, 180], [20, 100, 180], [60, 100, 180]], dtype=torch.float64))
    z = torch.stack([angles.cos(), angles.sin()], dim=-1)
    c = (2.0 - 2.0 * cosines(z)).requires_grad_()
    cacr = CACR(CACRConfig(t_plus=2.0, t_minus=2.0))
    (pull,) = torch.autograd.grad(cacr.attraction(partners(c)).sum(), c)
    (push,) = torch.autograd.grad(cacr.repulsion(c, Views(z)).sum(), c)
    assert pull[0, 2, 0, 0] > pull[0, 1, 0, 0]
    assert push[0, 1, 0, 1] < push[0, 1, 0, 2]
    (alike,) = torch.autograd.grad(CACR(CACRConfig(uniform=True)).attraction(partners(c)).sum(), c)
    assert alike[0, 2, 0, 0] == alike[0, 1, 0, 0]


def test_square_distances_of_points_far_from_the_origin() -> None:
    a = torch.tensor([[1000.0, 0.0], [1000.0, 0.5]])
    torch.testing.assert_close(square_distances(a, a), torch.tensor([[0.0, 0.25], [0.25, 0.0]]))
