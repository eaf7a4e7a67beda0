"""What holds for every loss of embeddings: gradients, order, padding, degenerate batches, extreme temperatures."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rl_contrastive import registry
from rl_contrastive.errors import RlcError
from rl_contrastive.objectives import labelled
from rl_contrastive.objectives.views import ViewObjective, Views

NAMES = [entry.name for entry in registry.entries("view-objective")]
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in NAMES},
    "nt-xent hard": ("nt-xent", {"hard": 0.4}),
    "dcl one way": ("dcl", {"one_way": True}),
    "cacr rbf": ("cacr", {"cost": "rbf"}),
    "cacr uniform": ("cacr", {"uniform": True}),
    "supremix plain": ("supremix", {"mix_neg": False, "mix_pos": False}),
    "supremix published": ("supremix", {"published": True}),
    "sepclr unit weights": ("sepclr", {"salient": 1.0, "empty": 1.0, "independent": 1.0, "common": 1}),
}
VIEWS = {"beclr": 4, "lightgcl": 2, "mclrec": 4}
"""Losses that take this many views and no other number; the others take three here."""
HELD = {"beclr"}
"""The teacher's views carry no gradient; `test_parts_losses.py` checks the student's."""
PRODUCTS = {"lightgcl", "mclrec"}
"""Losses of products, which lengths change."""
MIXED = {"supremix", "supremix published"}
"""Part of these is held fixed, so finite differences see more than the gradient does."""


@pytest.fixture(autouse=True)
def _one_lam(monkeypatch: pytest.MonkeyPatch) -> None:
    """lam = .2 in place of draws, which differ between batches of another order or size."""
    monkeypatch.setattr(labelled, "draw_beta", lambda size, shape, *, generator: torch.full(size, 0.2))


def make(case: str, **more: Any) -> ViewObjective:
    name, options = OPTIONS[case]
    objective: ViewObjective = registry.build("view-objective", name, {**options, **more})
    return objective


def batch(case: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> Views:
    """Six instances of three classes, two groups."""
    V = VIEWS.get(case, 3)
    z = torch.randn(V, 6, 4, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    label = torch.tensor([0, 0, 1, 1, 2, 3])
    return Views(z, label=label, group=torch.tensor([0, 1, 0, 1, 1, 0]), index=torch.arange(6))


def at(views: Views, order: Tensor) -> Views:
    """The instances in another order."""
    moved = {
        field.name: None if (value := getattr(views, field.name)) is None else value[..., order]
        for field in fields(views)
        if field.name not in ("z", "gate")
    }
    return replace(views, z=views.z[..., order, :], **moved)


@pytest.mark.parametrize("case", sorted(OPTIONS.keys() - MIXED - HELD))
def test_gradient(case: str) -> None:
    views, objective = batch(case), make(case)
    z = views.z.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: objective(replace(views, z=z)).loss, z)


@pytest.mark.parametrize("case", OPTIONS)
def test_order_of_instances_does_not_matter(case: str) -> None:
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    views = batch(case)
    plain, moved = make(case)(views), make(case)(at(views, order))
    torch.testing.assert_close(moved.loss, plain.loss)
    torch.testing.assert_close(moved.rows, plain.rows[order])


@pytest.mark.parametrize("case", OPTIONS)
def test_loss_is_the_weighted_sum_of_rows(case: str) -> None:
    weight = torch.tensor([0.3, 0.1, 0.2, 0.1, 0.2, 0.1], dtype=torch.float64)
    result = make(case)(replace(batch(case), weight=weight))
    torch.testing.assert_close(result.loss, (weight * result.rows).sum())


@pytest.mark.parametrize("case", OPTIONS)
def test_an_instance_of_weight_0_changes_nothing(case: str) -> None:
    views, objective = batch(case), make(case)
    weight = torch.tensor([0.25, 0.15, 0.2, 0.15, 0.25, 0.0], dtype=torch.float64)
    z = views.z.clone().requires_grad_()
    padded = objective(replace(views, z=z, weight=weight))
    plain = objective(replace(at(views, torch.arange(5)), weight=weight[:5]))
    torch.testing.assert_close(padded.loss, plain.loss)
    torch.testing.assert_close(padded.rows[:5], plain.rows)
    assert padded.rows[5] == 0
    (gradient,) = torch.autograd.grad(padded.loss, z)
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(gradient[:, 5], torch.zeros_like(gradient[:, 5]), atol=1e-9, rtol=0)


@pytest.mark.parametrize("case", OPTIONS)
def test_leading_axes_are_separate_problems(case: str) -> None:
    one, two = batch(case, 0), batch(case, 1)
    both = {f.name: torch.stack([v, v]) for f in fields(one) if (v := getattr(one, f.name)) is not None}
    result = make(case)(Views(**{**both, "z": torch.stack([one.z, two.z])}))
    torch.testing.assert_close(result.loss, torch.stack([make(case)(one).loss, make(case)(two).loss]))


@pytest.mark.parametrize("value", [1.0, 0.0])
@pytest.mark.parametrize("case", OPTIONS)
def test_equal_embeddings_have_a_finite_gradient(case: str, value: float) -> None:
    z = torch.full((VIEWS.get(case, 3), 6, 4), value, requires_grad=True)
    result = make(case)(replace(batch(case), z=z))
    (gradient,) = torch.autograd.grad(result.loss, z)
    assert torch.isfinite(result.rows).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("case", [case for case in OPTIONS if not case.startswith("sepclr") and case not in PRODUCTS])
def test_equal_embeddings_stay_where_they_are(case: str) -> None:
    # A loss of directions is stationary where all agree; SepCLR also has |s|^2, which is not.
    z = torch.ones(VIEWS.get(case, 3), 6, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(make(case)(replace(batch(case), z=z)).loss, z)
    torch.testing.assert_close(gradient, torch.zeros_like(z), atol=1e-9, rtol=0)


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
@pytest.mark.parametrize("case", OPTIONS)
def test_extreme_temperatures_stay_finite(case: str, temperature: float) -> None:
    config = registry.get("view-objective", OPTIONS[case][0])[0].config
    names = {field.name for field in fields(config)} & {"temperature", "sigma"}
    if not names:
        pytest.skip("no temperature")
    views = batch(case, dtype=torch.float32)
    z = views.z.clone().requires_grad_()
    weight = torch.tensor([0.25, 0.15, 0.2, 0.15, 0.25, 0.0])
    result = make(case, **dict.fromkeys(names, temperature))(replace(views, z=z, weight=weight))
    (gradient,) = torch.autograd.grad(result.loss, z)
    assert torch.isfinite(result.loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", OPTIONS)
def test_the_size_of_padding_changes_nothing(case: str, dtype: torch.dtype) -> None:
    views = batch(case, dtype=dtype)
    weight = torch.tensor([0.25, 0.15, 0.2, 0.15, 0.25, 0.0], dtype=dtype)
    results = []
    for size in (0.0, 1e30):
        z = views.z.clone()
        z[:, 5] = size
        z.requires_grad_()
        loss = make(case)(replace(views, z=z, weight=weight)).loss
        results.append((loss, *torch.autograd.grad(loss, z)))
    assert torch.isfinite(results[0][0])
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"z": torch.randn(4, 0, 4)}, "the batch is empty, z has shape"),
    "array": ({"z": torch.randn(4, 6, 4).numpy()}, "z must be a torch tensor, got ndarray"),
    "list": ({"z": [[[1.0]]]}, "z must be a torch tensor, got list"),
    "none": ({"z": None}, "z must be a torch tensor, got NoneType"),
    "weight": ({"weight": [1 / 6] * 6}, "weight must be a torch tensor, got list"),
    "label": ({"label": torch.arange(6).numpy()}, "label must be a torch tensor, got ndarray"),
    "index": ({"index": list(range(6))}, "index must be a torch tensor, got list"),
    "long": ({"z": 1e16 * torch.randn(4, 6, 4)}, r"coordinates of z must lie in \[-1e\+15, 1e\+15\]"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_batch_is_one_sentence(name: str, wrong: str) -> None:
    change, sentence = WRONG[wrong]
    with pytest.raises(RlcError, match=sentence) as found:
        make(name)(replace(batch(name), **change))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("case", OPTIONS)
def test_the_largest_embeddings_stay_finite(case: str) -> None:
    views = batch(case, dtype=torch.float32)
    largest = 1e15 * views.z / views.z.abs().max()
    assert torch.isfinite(make(case)(replace(views, z=largest)).loss)


@pytest.mark.parametrize("config", [{"temperature": 0.5}, 0.5, torch.zeros(1)])
@pytest.mark.parametrize("name", NAMES)
def test_a_config_of_another_class_is_one_sentence(name: str, config: Any) -> None:
    with pytest.raises(RlcError, match="the config must be of class"):
        type(make(name))(config)


@pytest.mark.parametrize("name", NAMES)
def test_temperatures_have_ends(name: str) -> None:
    config = registry.get("view-objective", name)[0].config
    for field in {f.name for f in fields(config)} & {"temperature", "sigma"}:
        for value in (1e-40, 1e40):
            with pytest.raises(RlcError, match=f"{field} must lie in"):
                make(name, **{field: value})
