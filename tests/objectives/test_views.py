"""The interface of losses of embeddings: wrong use is one sentence, padding changes nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_contrastive import registry
from rl_contrastive.errors import RlcError
from rl_contrastive.objectives.pairwise import NTXent, NTXentConfig
from rl_contrastive.objectives.views import Views


def wave(n: int, d: int, k: float) -> Tensor:
    """X(n, d, k) of the specification: sin(0 + k), sin(1 + k), ... as n rows."""
    return torch.tensor(np.sin(np.arange(n * d) + k).reshape(n, d))


def golden_views() -> Tensor:
    return torch.stack([wave(4, 3, 0), wave(4, 3, 0.3), wave(4, 3, 0.6)])


def test_nt_xent_golden_value() -> None:
    assert float(NTXent(NTXentConfig(0.5))(Views(golden_views())).loss) == pytest.approx(1.147480, abs=1e-5)


def test_nt_xent_by_hand() -> None:
    # Two instances on the axes, both views equal: partner 1, the two others 0.
    z = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    expected = -1.0 + math.log(math.e + 2.0)
    assert float(NTXent(NTXentConfig(1.0))(Views(z)).loss) == pytest.approx(expected, abs=1e-12)


def test_padding_changes_nothing() -> None:
    z = golden_views()
    weight = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0], dtype=torch.float64)
    padded, plain = NTXent()(Views(z, weight)), NTXent()(Views(z[:, :3]))
    torch.testing.assert_close(padded.loss, plain.loss)
    torch.testing.assert_close(padded.rows[:3], plain.rows)
    assert padded.rows[3] == 0


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "one view": ({"z": torch.ones(1, 4, 3)}, "needs 2 views"),
    "a batch of 1": ({"z": torch.ones(2, 1, 3)}, "needs 2 instances"),
    "one real instance": ({"z": torch.ones(2, 2, 3), "weight": torch.tensor([1.0, 0.0])}, "needs 2 instances"),
    "NaN": ({"z": torch.full((2, 4, 3), math.nan)}, "NaN or infinite"),
    "whole numbers": ({"z": torch.ones(2, 4, 3, dtype=torch.int64)}, "floating-point"),
    "no instances axis": ({"z": torch.ones(4, 3)}, "shape"),
    "weights of another length": ({"z": torch.ones(2, 4, 3), "weight": torch.ones(3) / 3}, "weight must have shape"),
    "weights that do not sum to 1": ({"z": torch.ones(2, 4, 3), "weight": torch.ones(4)}, "sum to 1"),
    "a group of 2": ({"z": torch.ones(2, 4, 3), "group": torch.tensor([0, 1, 2, 0])}, "groups must be 0"),
    "a negative index": ({"z": torch.ones(2, 4, 3), "index": torch.tensor([0, 1, -1, 0])}, "whole number >= 0"),
    "NaN labels": ({"z": torch.ones(2, 4, 3), "label": torch.full((4,), math.nan)}, "labels must be finite"),
}


def test_a_bare_tensor_is_a_sentence() -> None:
    with pytest.raises(RlcError, match="takes Views"):
        NTXent()(torch.ones(2, 4, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", BAD)
def test_wrong_use_is_a_sentence(case: str) -> None:
    fields, sentence = BAD[case]
    with pytest.raises(RlcError, match=sentence):
        NTXent()(Views(**fields))


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries("view-objective")])
def test_a_temperature_of_0_is_refused(name: str) -> None:
    config = registry.get("view-objective", name)[0].config
    if "temperature" not in config.__dataclass_fields__:  # type: ignore[attr-defined]
        pytest.skip("no temperature")
    with pytest.raises(RlcError, match="temperature"):
        config(temperature=0.0)
