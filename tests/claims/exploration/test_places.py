"""The claim on names of places: its measure by hand, bars and controls on wanted numbers, the whole at small size."""

from __future__ import annotations

import numpy as np
import pytest

from rl_contrastive import registry
from rl_contrastive.claims.base import Context
from rl_contrastive.claims.exploration import places
from rl_contrastive.claims.exploration.places import KINDS, NOISES, PlacesClaimConfig, Played, report, scores
from rl_contrastive.claims.runner import run_claims
from rl_contrastive.deep.feature_net import ObsLayout
from rl_contrastive.errors import RlcError

LAYOUT = ObsLayout((1,), "float32")


def played(view: list[int], episode: list[int]) -> Played:
    none = np.zeros((len(view), 1))
    return Played(LAYOUT, 2, none, np.zeros(len(view), dtype=int), none, np.array(view), np.array(episode))


def test_precision_and_recall_by_hand() -> None:
    """One episode, views 0 0 0 1, looks at 0, .1, 5 and .2: names 0 0 1 0. Same names 01 03 13, same views 01 02 12."""
    world = played([0, 0, 0, 1], [0, 0, 0, 0])
    psi = np.array([[0.0], [0.1], [5.0], [0.2]])  # nearest distances .1 .1 4.8 .1: r = .3 with reach 3
    assert scores(world, psi, 3.0) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert scores(world, np.array([[0.0], [0.0], [0.0], [9.0]]), 3.0) == (1.0, 1.0, 1.0)
    # Pairs of different episodes do not count.
    assert scores(played([0, 0, 1, 1], [0, 1, 0, 1]), psi, 3.0) == (0.0, 0.0, 0.0)


def found(**changes: float) -> dict:
    f1 = {"contrastive": 0.9, "inverse": 0.6, "drawn": 0.5, "shuffled": 0.55} | changes
    wobble = np.array([0.0, 0.01, -0.01])
    return {(noise, kind): np.stack([wobble + f1[kind]] * 4, axis=1) for noise in NOISES for kind in KINDS}


@pytest.mark.parametrize(
    ("changes", "plain", "failed"),
    [
        ({}, 1.0, []),
        ({"drawn": 0.8}, 1.0, ["contrastive - drawn"]),
        ({"inverse": 0.95}, 1.0, ["contrastive - inverse"]),
        ({"shuffled": 0.8}, 1.0, ["shuffled - drawn"]),
        ({}, 0.9, ["F1 of bytes"]),
    ],
)
def test_bars_and_controls_decide(changes, plain, failed, tmp_path) -> None:
    made = report(PlacesClaimConfig(seeds=(1, 2, 3)), Context(tmp_path), found(**changes), [plain])
    missed = [bar.what for bar in made.bars if not bar.ok]
    assert {part for part in failed for what in missed if part in what} == set(failed)
    assert len(missed) == (1 if plain < 1 else 2 * len(failed))
    assert (tmp_path / made.plots[0]).read_bytes().startswith(b"\x89PNG")


def test_settings_that_would_flatter_are_refused() -> None:
    with pytest.raises(RlcError, match="at least two seeds"):
        PlacesClaimConfig(seeds=(1,))
    with pytest.raises(RlcError, match="none in common"):
        PlacesClaimConfig(seeds=(1, 100))


def test_play_knows_what_noise_hides() -> None:
    pytest.importorskip("minigrid")
    config = PlacesClaimConfig(steps=130, rows=2)  # the episodes of six rooms end after 120 steps
    loud, plain = places.play(config, "disco", 3), places.play(config, "none", 3)
    assert len(loud.action) == 2 * 130 - 2  # the step after an end does nothing
    assert len(np.unique(loud.episode)) == 4
    distinct = {name: len(np.unique(x.next_obs.reshape(len(x.action), -1), axis=0)) for name, x in
                (("loud", loud), ("plain", plain))}  # fmt: skip
    assert distinct["loud"] == len(loud.action)
    assert distinct["plain"] == len(np.unique(plain.view)) < 200
    assert places.bytes_agree(config, 3) == 1.0


@pytest.mark.long
def test_the_whole_claim_at_small_size_repeats(tmp_path) -> None:
    pytest.importorskip("minigrid")
    config = PlacesClaimConfig(steps=60, updates=5, seeds=(7, 8), tuning=(9,))
    entry, _ = registry.get("claim", "exploration/places")
    first, again = (entry.factory(config, Context(tmp_path)) for _ in range(2))
    assert repr(first.numbers) == repr(again.numbers)
    (quick,) = run_claims(["places"], out=tmp_path, group="exploration", quick=True)
    assert all(bar.ok for bar in quick.bars if bar.control)
