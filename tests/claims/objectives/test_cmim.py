"""cMIM: groups of negatives, bars from numbers, a sabotaged term, same seed same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rl_contrastive.claims.base import Context
from rl_contrastive.claims.objectives import cmim as claim
from rl_contrastive.claims.objectives.cmim_learners import Autoencoder, CmimClaimConfig, Method
from rl_contrastive.claims.objectives.digits import split_digits

QUICK = CmimClaimConfig.quick()
TINY = replace(QUICK, steps=2, hidden=16, code=4, batch=8, labels=50)


def numbers(method: str = "", **values: float) -> dict[str, dict[str, np.ndarray]]:
    nn = {"MIM": 0.92, "cMIM, M = 1": 0.925, "cMIM, M = 63": 0.93, "InfoNCE, M = 1": 0.78, "InfoNCE, M = 63": 0.83}
    out = {}
    for name, accuracy in nn.items():
        row = {"1-NN": accuracy, "probe": 0.85, "rank": 10.0, "layer": 0.89, "MSE": 0.02}
        row |= {"untrained layer": 0.86, "layer, 1-NN": 0.9}
        row |= values if name == method else {}
        out[name] = {key: np.array([v, v + 0.002]) for key, v in row.items()}
    return out


def test_bars_follow_the_numbers():
    def failed(found: dict[str, dict[str, np.ndarray]]) -> list[int]:
        return [i for i, bar in enumerate(claim.bars_of(QUICK, found)) if not bar.ok]

    assert failed(numbers()) == []
    assert failed(numbers("cMIM, M = 1", **{"1-NN": 0.91})) == [0]
    assert failed(numbers("InfoNCE, M = 1", **{"1-NN": 0.825})) == [1, 5]
    assert failed(numbers("InfoNCE, M = 63", **{"1-NN": 0.89})) == [2]
    assert failed(numbers("MIM", MSE=0.015)) == [3]
    assert failed(numbers("cMIM, M = 63", layer=0.86)) == [4]


def test_a_group_of_two_has_one_negative():
    config = replace(TINY, batch=8)
    data = split_digits(config.seeds)
    one = Autoencoder(config, Method(1, decoder=False, contrast="infonce"), data)
    z = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    found = one._infonce(one._grouped(z), one._grouped(z))
    assert found.shape == (2, 4)
    cosine = torch.nn.functional.cosine_similarity(z[0, 0], z[0, 1], dim=0)
    expected = torch.logaddexp(torch.tensor(10.0), 10 * cosine) - 10
    assert torch.allclose(found[0, 0], expected, atol=1e-5)


def test_methods_train_what_they_use():
    data = split_digits(TINY.seeds)
    for name, method in claim.methods_of(TINY).items():
        model = Autoencoder(TINY, method, data)
        before = [p.clone() for p in model.decoder.parameters()]
        model.fit()
        same = all(torch.equal(a, b) for a, b in zip(before, model.decoder.parameters(), strict=True))
        assert same != method.decoder, name


@pytest.mark.long
def test_same_seed_same_bytes(tmp_path):
    first, again = (claim.cmim(TINY, Context(tmp_path)) for _ in range(2))
    assert str(first.numbers) == str(again.numbers)


@pytest.mark.long
def test_other_settings_are_reported(tmp_path):
    report = claim.cmim(replace(TINY, settings=True), Context(tmp_path))
    assert [row[0] for row in report.tables[1].rows] == [
        "summed reconstruction",
        "averaged reconstruction",
        "unit codes",
        "larger images",
    ]


@pytest.mark.long
def test_quick_is_measured(tmp_path):
    report = claim.cmim(QUICK, Context(tmp_path))
    assert all(bar.ok for bar in report.bars if bar.control), report.bars
    assert (tmp_path / report.plots[0]).read_bytes().startswith(b"\x89PNG")
