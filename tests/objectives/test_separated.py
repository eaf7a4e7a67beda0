"""SepCLR and SimLAP: golden values, values by hand, and what a batch must have."""

from __future__ import annotations

import math

import pytest
import torch
from golden_waves import unit_wave, wave

from rl_contrastive.errors import RlcError
from rl_contrastive.objectives.separated import (
    SepCLR,
    SepCLRConfig,
    SimLAP,
    SimLAPConfig,
    alignment,
    gated_cosines,
    joint_entropy,
    uniformity,
)
from rl_contrastive.objectives.views import Views


def test_sepclr_golden_values() -> None:
    a, b, w = unit_wave(4, 3, 0), unit_wave(4, 3, 0.3), torch.full((4,), 0.25, dtype=torch.float64)
    assert float(alignment(torch.stack([a, b]), 0.5).mean()) == pytest.approx(0.086418, abs=1e-5)
    assert float(uniformity(a[None], torch.zeros_like(w), 0.5)) == pytest.approx(-1.136698, abs=1e-5)
    joint = joint_entropy(a[None], wave(4, 2, 0.7)[None], w, 0.5).mean()
    assert float(joint) == pytest.approx(-1.327536, abs=1e-5)


@pytest.mark.parametrize("s", [0.0, 0.5])
def test_sepclr_by_hand(s: float) -> None:
    # Two equal views, c = 1 for both instances; s = s in the background, 1 on the target; 2 tau = 1.
    z = torch.tensor([[3.0, s], [1.0, 1.0]], dtype=torch.float64).expand(2, 2, 2)
    result = SepCLR(SepCLRConfig(salient=2.0, empty=3.0, independent=5.0))(Views(z, group=torch.tensor([0, 1])))
    expected = 2.0 * -2.0 + 3.0 * s**2 + 5.0 * math.log((1.0 + math.exp(-1.0)) / 2.0)
    assert float(result.loss) == pytest.approx(expected, abs=1e-12)


def test_sepclr_pulls_the_views_of_targets_together() -> None:
    z = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [1.0, 3.0]]], dtype=torch.float64)
    options = {"salient": 1.0, "empty": 0.0, "independent": 0.0}
    result = SepCLR(SepCLRConfig(**options))(Views(z, group=torch.tensor([0, 1])))
    assert float(result.loss) == pytest.approx(4.0 - (1.0 + 9.0), abs=1e-12)  # unif of s0: -1 and -9


@pytest.mark.parametrize("group", [0, 1])
def test_one_group_is_a_sentence(group: int) -> None:
    with pytest.raises(RlcError, match="both groups"):
        SepCLR()(Views(wave(8, 4, 0).reshape(2, 4, 4), group=torch.full((4,), group)))


@pytest.mark.parametrize(("d", "common"), [(1, 0), (3, 3)])
def test_no_room_for_both_heads_is_a_sentence(d: int, common: int) -> None:
    views = Views(wave(4, d, 0).reshape(2, 2, d), group=torch.tensor([0, 1]))
    with pytest.raises(RlcError, match="both heads"):
        SepCLR(SepCLRConfig(common=common))(views)


Y1, Y2 = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 2, 0, 2, 0, 1])


def test_simlap_golden_value() -> None:
    views = Views(wave(6, 4, 0)[None], label=Y1, partner=Y2, gate=torch.sigmoid(wave(6, 4, 0.4)))
    assert float(SimLAP()(views).loss) == pytest.approx(7.030008, abs=1e-5)


def test_simlap_by_hand() -> None:
    # Three classes on three axes: one positive and one negative at cosine 0.
    z = torch.eye(3, dtype=torch.float64)[None]
    views = Views(z, label=torch.tensor([0, 1, 2]), partner=torch.tensor([1, 2, 0]))
    assert float(SimLAP(SimLAPConfig(1.0))(views).loss) == pytest.approx(math.log(2.0), abs=1e-12)


def test_a_gate_of_1_is_no_gate() -> None:
    z = wave(6, 4, 0)[None]
    gated = SimLAP()(Views(z, label=Y1, partner=Y2, gate=torch.ones(6, 4, dtype=torch.float64)))
    torch.testing.assert_close(gated.loss, SimLAP()(Views(z, label=Y1, partner=Y2)).loss)


def test_gated_cosines_are_cosines_of_gated_vectors() -> None:
    z, gate = unit_wave(5, 4, 0.2), torch.sigmoid(wave(5, 4, 0.4))
    gated = torch.nn.functional.normalize(gate[:, None] * z, dim=-1)  # (i, j): g_i z_j
    own = torch.diagonal(gated).T  # g_i z_i
    torch.testing.assert_close(gated_cosines(z, gate), torch.einsum("id,ijd->ij", own, gated))


def test_the_gate_gets_a_gradient() -> None:
    z, gate = wave(6, 4, 0)[None].requires_grad_(), torch.sigmoid(wave(6, 4, 0.4)).requires_grad_()

    def loss(z: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return SimLAP()(Views(z, label=Y1, partner=Y2, gate=gate)).loss

    assert torch.autograd.gradcheck(loss, (z, gate))


def test_a_closed_gate_and_a_row_without_negatives_stay_finite() -> None:
    # Anchors of the pair of classes (0, 1) have no negative; the pair (1, 1) has instance 0.
    z = wave(3, 4, 0)[None].requires_grad_()
    gate = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    views = Views(z, label=torch.tensor([0, 1, 1]), partner=torch.tensor([1, 1, 0]), gate=gate)
    result = SimLAP()(views)
    assert torch.isfinite(result.loss)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(result.loss, (z, gate)))


def test_what_simlap_must_have() -> None:
    z = wave(6, 4, 0)[None]
    with pytest.raises(RlcError, match="there is no negative"):
        SimLAP()(Views(z, label=torch.zeros(6)))
    with pytest.raises(RlcError, match="has a positive"):
        SimLAP()(Views(z, label=Y1, partner=torch.full((6,), 7)))
    with pytest.raises(RlcError, match="gate must have shape"):
        SimLAP()(Views(z, label=Y1, gate=torch.ones(6)))
    with pytest.raises(RlcError, match=r"gates must lie in \[0, 1\]"):
        SimLAP()(Views(z, label=Y1, gate=torch.full((6, 4), 1.5)))
