"""cMIM, MCLRec, BECLR, LightGCL and SimCTG: published values, values by hand, gradients, and what changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from golden_waves import wave
from torch import Tensor

from rl_contrastive import registry
from rl_contrastive.errors import RlcError
from rl_contrastive.objectives.augmenters import (
    Augmenters,
    MCLRec,
    MCLRecConfig,
    symmetric_nce,
    take_turns,
    too_similar,
)
from rl_contrastive.objectives.graph import (
    LightGCL,
    SVDView,
    SVDViewConfig,
    both_sides,
    drop_edges,
    normalised,
    propagate,
)
from rl_contrastive.objectives.learned import CMIM, MIM, CMIMConfig, MIMConfig, draw_code
from rl_contrastive.objectives.memory import BECLR, BECLRConfig
from rl_contrastive.objectives.samplers import SimCTG, SimCTGConfig
from rl_contrastive.objectives.views import ViewObjective, Views


def stacked(V: int, N: int = 4, d: int = 3) -> Tensor:
    return torch.stack([wave(N, d, 0.3 * v) for v in range(V)])


LOSSES: dict[str, tuple[ViewObjective, int]] = {
    "cmim": (CMIM(CMIMConfig(0.5)), 1),
    "cmim of two views": (CMIM(CMIMConfig(0.5)), 2),
    "mclrec": (MCLRec(), 4),
    "beclr": (BECLR(), 4),
    "beclr with projections": (BECLR(), 6),
    "lightgcl": (LightGCL(), 2),
    "simctg": (SimCTG(SimCTGConfig(1.3)), 1),
}


def code() -> tuple[Tensor, Tensor, Tensor]:
    mean, log_scale = wave(4, 3, 0), 0.1 * wave(4, 3, 1) - 1.0
    return mean, log_scale, mean + log_scale.exp() * wave(4, 3, 2)


def test_cmim_golden_values() -> None:
    mean, log_scale, z = code()
    k = CMIM()(Views(z[None])).rows
    assert k.tolist() == pytest.approx([0.209819, 0.206163, 0.209819, 0.206163], abs=1e-6)
    rows = MIM()(mean, log_scale, z).rows
    assert rows.tolist() == pytest.approx([2.249211, 2.040888, 2.256007, 2.038735], abs=1e-6)
    without = MIM(MIMConfig(contrast=0.0))(mean, log_scale, z, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(without.rows, rows - k + 1.0)


def test_mclrec_golden_values() -> None:
    a, b, none = wave(4, 3, 0), wave(4, 3, 0.3), torch.zeros(4, dtype=torch.float64)
    assert float(symmetric_nce(a, b, none).mean()) == pytest.approx(1.156477, abs=1e-6)
    assert float(too_similar(a, b, none).mean()) == pytest.approx(1.981541, abs=1e-6)


def test_beclr_golden_values() -> None:
    a, b = wave(4, 3, 0), wave(4, 3, 0.3)
    pos = BECLR(BECLRConfig(negative=0.0))(Views(torch.stack([a, b, a, b]))).loss
    assert float(pos) == pytest.approx(-0.956791, abs=1e-6)
    both = BECLR()(Views(torch.stack([b, a, b, a, a, b])))
    assert float(both.diagnostics["negative"]) == pytest.approx(-0.052876, abs=1e-6)
    assert float(both.loss) == pytest.approx(-0.956791 - 0.0052876, abs=1e-6)


def test_lightgcl_golden_value() -> None:
    counts = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    view = SVDView(SVDViewConfig(2)).factors(counts)
    graph = propagate(normalised(counts), view, wave(4, 3, 0), wave(3, 3, 0.5), layers=2)
    rows = torch.arange(3)
    assert float(both_sides(graph, rows, rows)) == pytest.approx(38.735229, abs=1e-5)
    columns = LightGCL()(Views(torch.stack([graph.G_i, graph.E_i]))).loss
    users = LightGCL()(Views(torch.stack([graph.G_u, graph.E_u]))).loss
    everyone = both_sides(graph, torch.arange(4), rows)
    torch.testing.assert_close(users + columns, everyone)


def test_values_by_hand() -> None:
    # Two orthogonal codes: the positive at cosine 1, the other at 0.
    z = torch.eye(2, dtype=torch.float64)
    assert float(CMIM(CMIMConfig(1.0))(Views(z[None])).loss) == pytest.approx(math.log(math.e + 1.0) - 1.0)
    # Cosine 0 against 1 - rho = .5: nothing; rho = 1.25 leaves .25 for each pair.
    assert float(SimCTG()(Views(z[None])).loss) == 0.0
    assert float(SimCTG(SimCTGConfig(1.25))(Views(z[None])).loss) == pytest.approx(0.25)
    # Partners at product 1, all others at 0.
    none = torch.zeros(2, dtype=torch.float64)
    assert symmetric_nce(z, z, none).tolist() == pytest.approx([math.log(math.e + 2.0) - 1.0] * 2)
    assert symmetric_nce(z, z, none, temperature=0.5).tolist() == pytest.approx([math.log(math.e**2 + 2.0) - 2.0] * 2)
    # pos = 1, greatest negative 0: (1 - 0)+ and mean (1 - 0)+.
    assert too_similar(z, z, none).tolist() == pytest.approx([2.0, 2.0])
    # p = z': -1, and the mean of exp(0) is 1.
    assert float(BECLR()(Views(z.expand(4, 2, 2))).loss) == pytest.approx(-1.0)
    # G = E: -1/.2 clamped at 5, candidates at 5 and 0.
    assert float(LightGCL()(Views(z.expand(2, 2, 2))).loss) == pytest.approx(math.log(math.exp(5.0) + 1.0) - 5.0)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_against_finite_differences(name: str) -> None:
    loss, V = LOSSES[name]
    z = stacked(V).requires_grad_()
    if "beclr" in name:  # the teacher's views carry no gradient, so only the student's can be checked
        fixed = z.detach()
        index = [0, 1, 4, 5] if V == 6 else [0, 1]

        def of_student(part: Tensor) -> Tensor:
            return loss(Views(fixed.index_copy(0, torch.tensor(index), part))).loss

        assert torch.autograd.gradcheck(of_student, fixed[index].requires_grad_())
        gradient = torch.autograd.grad(loss(Views(z)).loss, z)[0]
        assert (gradient[2:4] == 0).all()
        return
    assert torch.autograd.gradcheck(lambda x: loss(Views(x)).loss, z)


@pytest.mark.parametrize("name", LOSSES)
def test_padding_and_order_change_nothing(name: str) -> None:
    loss, V = LOSSES[name]
    z = stacked(V, 5)
    weight = torch.tensor([0.5, 0.2, 0.2, 0.1, 0.0], dtype=torch.float64)
    padded, plain = loss(Views(z, weight)), loss(Views(z[:, :4], weight[:4]))
    torch.testing.assert_close(padded.loss, plain.loss)
    torch.testing.assert_close(padded.rows[:4], plain.rows)
    assert padded.rows[4] == 0
    order = torch.tensor([3, 1, 4, 0, 2])
    moved = loss(Views(z[:, order], weight[order]))
    torch.testing.assert_close(moved.rows, padded.rows[order])
    torch.testing.assert_close((weight * padded.rows).sum(), padded.loss)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["equal", "zero", "pairs of copies", "large"])
def test_odd_embeddings_have_finite_losses_and_gradients(name: str, kind: str) -> None:
    loss, V = LOSSES[name]
    z = torch.ones(V, 4, 3) if kind == "equal" else torch.zeros(V, 4, 3)
    if kind == "pairs of copies":
        z = stacked(V)[:, [0, 0, 1, 1]].float()
    if kind == "large":
        z = 1e3 * stacked(V).float()
    z.requires_grad_()
    result = loss(Views(z, torch.tensor([0.5, 0.25, 0.25, 0.0])))
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
@pytest.mark.parametrize("kind", [CMIM, MCLRec, BECLR, LightGCL])
def test_extreme_temperatures_stay_finite(kind: type[ViewObjective], temperature: float) -> None:
    V = {CMIM: 1, LightGCL: 2}.get(kind, 4)  # type: ignore[call-overload]
    config = registry.get("view-objective", kind.__name__.lower())[0].config
    z = stacked(V).float().requires_grad_()
    result = kind(config(temperature=temperature))(Views(z, torch.tensor([0.5, 0.25, 0.25, 0.0])))  # type: ignore[call-arg]
    (gradient,) = torch.autograd.grad(result.loss, z)
    assert torch.isfinite(result.loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_leading_axes_are_separate_problems(name: str) -> None:
    loss, V = LOSSES[name]
    z = torch.stack([stacked(V), stacked(V).flip(-1)])
    torch.testing.assert_close(loss(Views(z)).loss, torch.stack([loss(Views(x)).loss for x in z]))


def test_the_number_of_negatives_hardly_matters_to_cmim() -> None:
    """The mean over the others, not their sum: copies of one other instance count once."""
    z = wave(2, 3, 0)
    many = torch.cat([z, z[1:].expand(6, 3)])
    torch.testing.assert_close(CMIM()(Views(many[None])).rows[0], CMIM()(Views(z[None])).rows[0])


def test_mim_divides_gradients_and_not_values() -> None:
    mean, log_scale, z = (x.requires_grad_() for x in (t.detach().clone() for t in code()))
    plain, divided = (MIM(MIMConfig(per_dim=p, contrast=0.0))(mean, log_scale, z) for p in (False, True))
    torch.testing.assert_close(plain.rows, divided.rows)
    a, b = (torch.autograd.grad(r.loss, (mean, log_scale, z)) for r in (plain, divided))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x / 3.0, y)
    assert torch.autograd.gradcheck(lambda *x: MIM()(*x).loss, (mean, log_scale, z))


def test_codes_have_their_law_and_follow_the_generator() -> None:
    mean, log_scale = torch.full((20_000, 1), 2.0), torch.full((20_000, 1), -1.0)
    z = draw_code(mean, log_scale, rng=torch.Generator().manual_seed(0))
    assert torch.equal(z, draw_code(mean, log_scale, rng=torch.Generator().manual_seed(0)))
    assert float(z.mean()) == pytest.approx(2.0, abs=0.01)
    assert float(z.std()) == pytest.approx(math.exp(-1.0), abs=0.01)
    narrow = draw_code(mean, torch.full_like(mean, -50.0), rng=torch.Generator().manual_seed(0))
    assert float(narrow.std()) == pytest.approx(math.exp(-6.0), rel=0.02)


def encoder_of(rng: torch.Generator) -> torch.nn.Linear:
    layer = torch.nn.Linear(5, 3)
    with torch.no_grad():
        layer.weight.normal_(generator=rng), layer.bias.zero_()
    return layer


def turns(count: int, saved: tuple[dict, dict, dict] | None = None) -> tuple[list[float], tuple[dict, dict, dict]]:
    """Losses of some batches of MCLRec, and the states after them."""
    encoder = encoder_of(torch.Generator().manual_seed(0))
    augmenters = Augmenters(3, rng=torch.Generator().manual_seed(1))
    optimiser = torch.optim.Adam(encoder.parameters(), lr=0.01)
    if saved is not None:
        encoder.load_state_dict(saved[0])
        augmenters.load_state_dict(saved[1])
        optimiser.load_state_dict(saved[2])
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(2))

    def encode() -> tuple[Tensor, Tensor, Tensor]:
        v1, v2 = encoder(x), encoder(0.9 * x)
        return v1, v2, v1.square().mean()

    losses = [value for _ in range(count) for value in take_turns(encode, augmenters, optimiser, MCLRec())]
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    return losses, (state, augmenters.state_dict(), optimiser.state_dict())


def test_turns_resume_to_the_byte_and_descend() -> None:
    whole, _ = turns(6)
    first, states = turns(3)
    rest, _ = turns(3, states)
    assert first + rest == whole
    longer, _ = turns(40)
    assert longer[-2] < longer[0]  # the augmenters' loss
    assert longer[-1] < longer[1]


def test_each_turn_moves_its_own_side() -> None:
    encoder, augmenters = (
        encoder_of(torch.Generator().manual_seed(0)),
        Augmenters(3, rng=torch.Generator().manual_seed(1)),
    )
    before = {name: value.copy() for name, value in augmenters.state_dict()["weights"].items()}
    z = encoder(torch.ones(4, 5) * torch.arange(4.0)[:, None])
    augmenters.step(MCLRec()(Views(augmenters(z.detach(), z.detach()))).loss)
    assert all(p.grad is None for p in encoder.parameters())
    after = augmenters.state_dict()["weights"]
    assert any((before[name] != after[name]).any() for name in before)


def test_graph_parts() -> None:
    counts = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 3.0]], dtype=torch.float64)
    N = normalised(counts)
    expected = [[2 / math.sqrt(6), 0], [0, 0], [1 / math.sqrt(12), 3 / math.sqrt(12)]]
    torch.testing.assert_close(N, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(SVDView(SVDViewConfig(2))(counts), N)  # full rank: nothing is lost
    one = SVDView(SVDViewConfig(1))(counts)
    assert int(torch.linalg.matrix_rank(one)) == 1
    assert float((N - one).norm()) == pytest.approx(float(torch.linalg.svdvals(N)[1]))  # Eckart and Young
    many = drop_edges(torch.ones(200, 200), 0.1, rng=torch.Generator().manual_seed(0))
    assert float(many.mean()) == pytest.approx(0.9, abs=0.01)


def test_wrong_use_is_a_sentence() -> None:
    z = stacked(4)
    with pytest.raises(RlcError, match="MCLRec: needs 4 views"):
        MCLRec()(Views(stacked(5)))
    with pytest.raises(RlcError, match="BECLR: needs 4 views p1, p2"):
        BECLR()(Views(stacked(5)))
    with pytest.raises(RlcError, match="LightGCL: needs 2 views"):
        LightGCL()(Views(z))
    with pytest.raises(RlcError, match="needs 2 instances"):
        MCLRec()(Views(z[:, :1]))
    with pytest.raises(RlcError, match="svd view: rank must be at most 2"):
        SVDView(SVDViewConfig(3))(torch.ones(4, 2))
    with pytest.raises(RlcError, match="counts must be finite floats >= 0"):
        normalised(torch.full((2, 2), -1.0))
    with pytest.raises(RlcError, match="reconstruction has shape"):
        MIM()(*code(), torch.ones(3))
    with pytest.raises(RlcError, match="one shape"):
        MIM()(code()[0], code()[1][:2], code()[2])
    with pytest.raises(RlcError, match="augmenters: the saved weights lack"):
        Augmenters(3, rng=torch.Generator()).load_state_dict({"weights": {}, "moments": {}})
    with pytest.raises(RlcError, match="regulariser"):
        MCLRecConfig(regulariser=-1.0)
    with pytest.raises(RlcError, match="do not fit counts"):
        propagate(torch.ones(3, 2), (torch.ones(3, 1), torch.ones(1, 2)), torch.ones(4, 2), torch.ones(2, 2))
