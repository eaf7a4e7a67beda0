"""Images from noise: alterations that are told as they are, and an energy that learns unaltered images only."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rl_contrastive.claims.energy.image_data import ImageSet, cells_of, generator
from rl_contrastive.claims.energy.image_levels import NUMBERS, LevelsConfig, altering, sample_levels, train_levels
from rl_contrastive.energy.score import NoiseLadder
from rl_contrastive.errors import RlcError

STILL = LevelsConfig(altered=1.0, turn=0.0, stretch=0.0, move=0.0)


def bars(n: int) -> ImageSet:
    """5x5 images of one lit column, the second or the fourth."""
    which = torch.rand(n, generator=generator(0, "which")) < 0.5
    grid = torch.zeros(n, 5, 5)
    grid[which, :, 1] = 14.0
    grid[~which, :, 3] = 14.0
    return ImageSet("bars", grid.reshape(n, 25), which.to(torch.int64), (5, 5), 17)


def points(images: ImageSet) -> torch.Tensor:
    return images.dequantised(images.values, rng=generator(0, "u"))


def test_an_alteration_without_room_is_new_dequantisation_noise():
    images = bars(40)
    x = points(images)
    rows = altering(images, STILL)(x, generator(0, "alter"))
    assert rows.shape == (40, 25 + NUMBERS)
    assert torch.equal(cells_of(images, rows[:, :25]), images.values)
    assert not torch.equal(rows[:, :25], x)


def test_moves_are_what_the_numbers_say():
    """A grey level of bilinear interpolation is a share of the move: the lit column's centre moves by -move c."""
    images = bars(500)
    rows = altering(images, replace(STILL, move=0.8))(points(images), generator(0, "alter"))
    grid = cells_of(images, rows[:, :25]).reshape(-1, 5, 5)[:, 2]  # a row inside: vertical moves do not reach it
    centre = (grid * torch.arange(5.0)).sum(1) / grid.sum(1) - torch.where(images.labels == 1, 1.0, 3.0)
    assert torch.allclose(centre, -0.8 * rows[:, 25 + 3], atol=0.06)  # rounding to 14 levels
    assert float(rows[:, 25:].abs().max()) <= 1.0


def test_the_share_that_is_altered():
    images = bars(2000)
    rows = altering(images, replace(STILL, altered=0.3))(points(images), generator(0, "alter"))
    assert float((rows[:, 25:] != 0.0).all(1).float().mean()) == pytest.approx(0.3, abs=0.04)
    assert bool(((rows[:, 25:] == 0.0).all(1) | (rows[:, 25:] != 0.0).all(1)).all())
    with pytest.raises(RlcError, match="altered"):
        LevelsConfig(altered=1.5)


@pytest.mark.long
def test_samples_are_both_bars_unmoved():
    """A third of the training images are moved, yet most made are a column at its place; untrained they are not."""
    images = bars(300)
    config = LevelsConfig(
        steps=200, batch_size=128, altered=0.3, move=0.7, ladder=NoiseLadder(low=0.05, high=1.5, count=30)
    )

    def share(f) -> tuple[float, float]:
        made = sample_levels(f, 200, config, seed=0).reshape(-1, 5, 5).mean(1)  # (200, 5): of each column
        centre = 2.0 * (14.0 * torch.eye(5)[[1, 3]] + 0.5) / 17 - 1.0
        good = ((made[:, None] - centre).abs().amax(2) < 0.2).float()
        return float(good.sum(1).mean()), float(good[:, 0].mean())

    trained, first = share(train_levels(images, points(images), config, seed=0))
    untrained, _ = share(train_levels(images, points(images), replace(config, steps=1), seed=0))
    assert trained > 0.5
    assert 0.3 < first / trained < 0.7
    assert untrained < 0.3  # one Gaussian along the line between the two: .23
    again = train_levels(images, points(images), replace(config, steps=3), seed=0)
    same = train_levels(images, points(images), replace(config, steps=3), seed=0)
    assert torch.equal(sample_levels(again, 5, config, seed=1), sample_levels(same, 5, config, seed=1))
