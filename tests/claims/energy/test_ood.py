"""Detectors: scores by hand, energies relative to their noise law, a contest that tuning decides, and a quick study."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from rl_contrastive.claims.base import Context
from rl_contrastive.claims.energy import ood as study
from rl_contrastive.claims.energy.image_data import ImageSet, generator
from rl_contrastive.claims.energy.image_energies import EnergyConfig, _nce_on, relative, train_energy
from rl_contrastive.claims.energy.image_features import EncoderConfig, class_energies, contrastive_encoder, info_nce
from rl_contrastive.claims.energy.ood import KINDS, OodConfig, aurocs, contest, ood
from rl_contrastive.claims.energy.ood_scorers import METHODS, nearest, together
from rl_contrastive.claims.grid import Cell
from rl_contrastive.claims.ledger import Task
from rl_contrastive.energy.energies import MLPConfig, MLPEnergy, tilted
from rl_contrastive.energy.noise import Gaussian
from rl_contrastive.energy.objectives import make
from rl_contrastive.energy.partition import Quadrature, log_partition
from rl_contrastive.errors import RlcError


def test_aurocs_by_hand_ties_count_half():
    normal = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    strange = {"far": torch.tensor([[9.0], [8.0]]), "middle": torch.tensor([[1.0]]), "near": torch.tensor([[-1.0]])}
    found = aurocs(lambda x: x[:, 0], normal, strange)
    assert found == {"far": 1.0, "middle": 1.5 / 4, "near": 0.0}
    # Negative control: a score that knows nothing.
    rng = generator(0, "blind")
    many = torch.zeros(2000, 1)
    assert abs(aurocs(lambda x: torch.rand(len(x), generator=rng), many, {"x": many})["x"] - 0.5) < 0.04


def test_the_nearest_distances_by_hand():
    score = nearest(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), 2)
    assert torch.allclose(score(torch.tensor([[0.0, 0.0], [3.0, 4.0]])), torch.tensor([0.5, math.sqrt(18) / 2]))


def test_joined_scores_do_not_depend_on_their_units():
    normal, x = torch.randn(50, 2, generator=generator(0, "n")), torch.randn(20, 2, generator=generator(1, "n"))
    one = together([lambda v: v[:, 0], lambda v: v[:, 1]], normal)(x)
    other = together([lambda v: 1e4 * v[:, 0] - 7.0, lambda v: v[:, 1]], normal)(x)
    assert torch.allclose(one, other, atol=1e-4)
    by_hand = ((x - normal.mean(0)) / normal.std(0)).sum(1)
    assert torch.allclose(one, by_hand.to(torch.float64), atol=1e-5)


@pytest.mark.parametrize("name", ["nce", "ence", "meco", "snis", "infonce"])
def test_relative_to_the_noise_law_every_objective_is_the_same(name):
    """l = f - log q = g: the loss, its gradient and Z agree with those of f = log q + g under q itself."""
    q = Gaussian(torch.zeros(3), torch.diag(torch.tensor([1.0, 2.0, 0.5])))
    x, z = torch.randn(40, 3, generator=generator(0, "x")), q.sample(60, rng=generator(0, "z"))
    losses, gradients, nlls = [], [], []
    for whole in (True, False):
        g = MLPEnergy(3, MLPConfig(hidden=(8,)), rng=generator(0, "g"))
        f, law = (tilted(q, g), q) if whole else (g, relative(q))
        objective = make(name)
        out = objective.loss(f, x, q=law, z=z, state=objective.initial_state())
        out.surrogate.backward()
        losses.append(float(out.surrogate.detach()))
        gradients.append(torch.cat([p.grad.ravel() for p in g.parameters()]))
        nlls.append(float(out.nll) + (0.0 if whole else -float(q.log_prob(x).mean())))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)
    assert nlls[0] == pytest.approx(nlls[1], abs=1e-4)
    if name in ("nce", "ence"):
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def flat_images(shape: tuple[int, int] = (1, 2)) -> ImageSet:
    return ImageSet("flat", torch.zeros(1, shape[0] * shape[1]), torch.zeros(1, dtype=torch.int64), shape, 17)


@pytest.mark.long
@pytest.mark.parametrize("objective", ["nce", "meco"])
def test_a_trained_energy_is_a_better_density_than_its_noise_law(objective):
    """Two narrow clusters under one Gaussian, log Z by quadrature on points never trained on."""
    rng = generator(0, "clusters")

    def draw(n: int) -> torch.Tensor:
        side = torch.randint(2, (n, 1), generator=rng) * 2.0 - 1.0
        return torch.cat([0.5 * side, torch.zeros(n, 1)], 1) + 0.15 * torch.randn(n, 2, generator=rng)

    x, validation, unseen = draw(1500), draw(200), draw(1000)
    config = EnergyConfig(law="gauss", steps=300, lr=5e-3)
    energy = train_energy(flat_images(), x, objective, {}, config, seed=0, validation=validation)
    log_z = float(log_partition(energy, Quadrature((-3.0, -3.0), (3.0, 3.0), points=201)).log_z)
    with torch.no_grad():
        nll_model = log_z - float(energy.score(unseen).mean())
        nll_noise = -float(energy.q.log_prob(unseen).mean())
    truth = 2 * (math.log(0.15) + 0.5 * math.log(2 * math.pi * math.e)) + math.log(2.0)  # clusters 6.7 sd apart
    assert nll_model < nll_noise - 0.3
    assert nll_model < truth + 0.15
    # Control: without training g = 0 and the model is q.
    start = train_energy(flat_images(), x, objective, {}, dataclasses.replace(config, steps=1, lr=1e-12), seed=0)
    assert torch.allclose(start.score(unseen), start.q.log_prob(unseen), atol=1e-6)


def test_the_validation_loss_does_not_see_the_constant_of_g():
    q = Gaussian(torch.zeros(2), torch.eye(2))
    x = 0.5 * torch.randn(100, 2, generator=generator(0, "x"))

    class Shifted(torch.nn.Module):
        def __init__(self, shift: float, scale: float) -> None:
            super().__init__()
            self.shift, self.scale = shift, scale

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.shift + self.scale * x.square().sum(-1)

    loss = _nce_on(x, q, seed=0)
    assert loss(Shifted(0.0, -1.5)) == pytest.approx(loss(Shifted(30.0, -1.5)), abs=1e-5)  # the truth: -1.5 |x|^2
    assert loss(Shifted(0.0, -1.5)) < loss(Shifted(0.0, 0.0)) - 0.05
    assert loss(Shifted(0.0, 0.0)) == pytest.approx(2 * math.log(2.0), abs=1e-6)
    assert loss(Shifted(0.0, 0.5)) > 2 * math.log(2.0) - 1e-6


def test_info_nce_by_hand():
    unit = torch.eye(3)
    assert float(info_nce(unit, unit, 0.5)) == pytest.approx(math.log(1 + 2 * math.exp(-2.0)), abs=1e-6)
    assert float(info_nce(unit, unit[[1, 2, 0]], 0.5)) == pytest.approx(2 + math.log(1 + 2 * math.exp(-2.0)), abs=1e-6)


def bars_and_columns(n: int = 120) -> ImageSet:
    """Class 0: a lit row; class 1: a lit column, each at one of six places."""
    rng = generator(0, "bars")
    values = torch.zeros(n, 6, 6)
    labels = torch.arange(n) % 2
    for i, place in enumerate(torch.randint(6, (n,), generator=rng).tolist()):
        values[i, place, :] = 16.0 if labels[i] == 0 else 0.0
        if labels[i] == 1:
            values[i, :, place] = 16.0
    return ImageSet("bars", values.reshape(n, 36), labels, (6, 6), 17)


def test_encoders_learn_and_are_their_seed():
    images = bars_and_columns()
    config = EncoderConfig(hidden=(32,), outputs=8, steps=60, batch_size=32)
    x = images.dequantised(images.values, rng=generator(0, "x"))
    encode = contrastive_encoder(images, images.values, config, seed=0)
    e = encode(x)
    assert torch.allclose(e.norm(dim=1), torch.ones(len(x)), atol=1e-5)
    assert torch.equal(e, contrastive_encoder(images, images.values, config, seed=0)(x))
    # Two dequantisations of an image are told from other images better than by an encoder that took one step.
    again = images.dequantised(images.values, rng=generator(1, "x"))
    untrained = contrastive_encoder(images, images.values, dataclasses.replace(config, steps=1), seed=0)
    few = slice(0, 12)
    assert float(info_nce(encode(x[few]), encode(again[few]), 0.2)) < float(
        info_nce(untrained(x[few]), untrained(again[few]), 0.2)
    )


def test_class_energies_know_the_classes():
    images = bars_and_columns()
    f = class_energies(images, images.values[:80], images.labels[:80] + 3, EncoderConfig(steps=150), seed=0)
    x = images.dequantised(images.values[80:], rng=generator(0, "x"))
    assert f(x).shape == (40, 2)
    assert float((f(x).argmax(1) == images.labels[80:]).float().mean()) > 0.9


def made_cell(method: str, values: list[float]) -> Cell:
    # The values of three seeds, three times over: three alone say little of a mean.
    return Cell(
        "digits", method, {}, tuple(range(10, 19)), {kind: np.array(values * 3) for kind in (*KINDS, "overall")}
    )


def test_the_rival_is_chosen_on_tuning_seeds_and_the_baseline_on_the_report():
    names = ("GMM", "k-NN", "NCE, GMM", "MECO, GMM", "1-NN + class energies")
    config = OodConfig(methods=names)
    report = [[0.7, 0.7, 0.7], [0.8, 0.9, 0.8], [0.9, 0.95, 0.9], [0.85, 0.95, 0.9], [0.99, 0.99, 0.99]]
    tuning = [[0.9] * 3, [0.1] * 3, [0.6] * 3, [0.8] * 3, [0.99] * 3]
    cells = {("digits", m): made_cell(m, v) for m, v in zip(names, report, strict=True)}
    tuned = {("digits", m): made_cell(m, v) for m, v in zip(names, tuning, strict=True)}
    found = contest(config, cells, tuned, "digits", "class")
    assert (found.baseline, found.rival) == ("k-NN", "MECO, GMM")  # not NCE, GMM: that would be choosing by the result
    assert found.difference.estimate == pytest.approx((0.05 + 0.05 + 0.1) / 3)
    assert found.differences["1-NN + class energies"].estimate == pytest.approx((0.19 + 0.09 + 0.19) / 3)
    assert study.verdict(found.difference) == "ahead"


def test_every_method_scores_the_same_points(monkeypatch):
    pytest.importorskip("sklearn")
    seen: dict[str, list[torch.Tensor]] = {"GMM": [], "k-NN": []}
    for name in seen:

        def fit(problem, options, name=name):
            seen[name].append(problem.x)
            return lambda x: (seen[name].append(x), x[:, 30])[1]

        monkeypatch.setitem(METHODS, name, dataclasses.replace(METHODS[name], fit=fit))
    config = OodConfig.quick()
    for name in seen:
        study.fit(config, Task("digits", name, {}, (12,), "cpu", None))
    assert len(seen["GMM"]) == len(seen["k-NN"]) == 2 + len(KINDS)
    assert all(torch.equal(a, b) for a, b in zip(seen["GMM"], seen["k-NN"], strict=True))


@pytest.mark.long
def test_the_quick_study(tmp_path):
    pytest.importorskip("sklearn")
    report = ood(OodConfig.quick(), Context(tmp_path, device="cpu"))
    assert [table.title for table in report.tables] == ["digits", "Against the best simple detector"]
    auroc = report.numbers["auroc"]["digits"]
    assert set(auroc) == set(OodConfig.quick().methods)
    assert min(auroc["GMM"]["class"]) > 0.85
    assert min(auroc["k-NN"]["invert"]) > 0.999
    assert all(len(row) == len(report.tables[0].columns) for row in report.tables[0].rows)
    assert report.bars[0].bar == ">= 0.98"
    assert (tmp_path / "ood-digits.png").read_bytes().startswith(b"\x89PNG")
    assert "held-out class" in report.answer
    again = ood(OodConfig.quick(), Context(tmp_path, device="cpu"))  # from the ledger
    assert again.numbers == report.numbers


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(RlcError, match="baseline"):
        OodConfig(methods=("NCE, GMM",))
    with pytest.raises(RlcError, match="none of"):
        OodConfig(methods=("GMM", "NCE, Uniform"))
    with pytest.raises(RlcError, match="image set"):
        OodConfig(image_sets=("cifar",))
    with pytest.raises(RlcError, match="law"):
        EnergyConfig(law="uniform")
    with pytest.raises(RlcError, match="temperature"):
        EncoderConfig(temperature=0.0)
