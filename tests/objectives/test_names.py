"""`from rl_contrastive.objectives import X`: every registered loss and its config, without torch until one is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rl_contrastive import objectives, registry
from rl_contrastive.errors import RlcError

LOSSES = [entry for kind in ("objective", "view-objective") for entry in registry.entries(kind)]


@pytest.mark.parametrize("name", objectives.__all__)
def test_everything_listed_is_there(name: str) -> None:
    assert getattr(objectives, name).__module__.startswith("rl_contrastive.objectives")
    assert name in dir(objectives)


@pytest.mark.parametrize("entry", LOSSES, ids=lambda entry: entry.name)
def test_every_registered_loss_is_listed(entry: registry.Entry) -> None:
    if not entry.factory.__module__.startswith("rl_contrastive."):
        pytest.skip("a plugin")
    for value in (entry.factory, entry.config):
        assert getattr(objectives, value.__name__) is value
        assert value.__name__ in objectives.__all__


def test_an_unknown_name_is_a_sentence() -> None:
    with pytest.raises(AttributeError, match="NTXent"):
        objectives.NTXentLoss  # noqa: B018


def test_a_loss_of_the_other_level_says_where_it_belongs() -> None:
    for ask in (lambda: objectives.make("nt-xent"), lambda: registry.kind_of(("objective",), "nt-xent")):
        with pytest.raises(RlcError, match=r"'nt-xent' is a loss of embeddings .*make_view.*auxiliary\.objective"):
            ask()
    with pytest.raises(RlcError, match=r"'meco' is a loss of scores .*objectives\.make"):
        objectives.make_view("meco")
    assert objectives.make_view("nt-xent", {"temperature": 0.5}).config == objectives.NTXentConfig(0.5)
    assert type(objectives.make_view("dcl")) is not type(objectives.make("dcl"))


def test_the_import_alone_loads_no_torch() -> None:
    code = (
        "import sys, rl_contrastive, rl_contrastive.objectives, rl_contrastive.objectives.laws; "
        "print('torch' in sys.modules); from rl_contrastive.objectives import NTXent, softmax; print(NTXent.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "NTXent"]
