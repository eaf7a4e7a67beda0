"""Shifts and intensities against loops over pixels, their laws, and what must stay as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from rl_contrastive.deep.augment import check_augment, distort, draw
from rl_contrastive.deep.config import AugmentConfig
from rl_contrastive.errors import RlcError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def brute(frames: np.ndarray, offset: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Pixel by pixel: pad by repeating the edge, crop at (shift + u, shift + v), scale."""
    out = np.empty_like(frames)
    pad = int(np.abs(offset).max(initial=0))
    for n, (u, v) in enumerate(offset):
        for c, plane in enumerate(frames[n]):
            padded = np.pad(plane, pad, mode="edge")
            for i in range(plane.shape[0]):
                for j in range(plane.shape[1]):
                    out[n, c, i, j] = factor[n] * padded[pad + u + i, pad + v + j]
    return out


@pytest.mark.parametrize("shape", [(6, 3, 5, 7), (4, 1, 9, 4)])
def test_it_is_pad_and_crop_pixel_by_pixel(shape: tuple[int, ...]) -> None:
    frames = torch.rand(shape, generator=generator(1))
    offset, factor = draw(AugmentConfig(3, 0.05), shape[0], rng=generator(2))
    assert offset.unique().numel() > 2  # or there is nothing to see
    expected = brute(frames.numpy(), offset.numpy(), factor.numpy())
    np.testing.assert_array_equal(distort(frames, offset, factor).numpy(), expected)


def test_by_hand() -> None:
    frame = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    down, left = torch.tensor([[-1, 0]]), torch.tensor([[0, 1]])
    assert distort(frame, down, torch.ones(1))[0, 0].tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert distort(frame, left, 2 * torch.ones(1))[0, 0].tolist() == [[4.0, 4.0], [8.0, 8.0]]


def test_frames_without_planes_and_kinds_without_frames() -> None:
    frames = torch.rand((6, 5, 7), generator=generator(1))
    draws = draw(AugmentConfig(3, 0.05), 6, rng=generator(2))
    assert torch.equal(distort(frames, *draws), distort(frames[:, None], *draws)[:, 0])
    check_augment(AugmentConfig(), "mlp")
    check_augment(AugmentConfig(1), "impala")
    for config in (AugmentConfig(1), AugmentConfig(0, 0.1)):
        with pytest.raises(RlcError, match="nature and impala, not for minatar"):
            check_augment(config, "minatar")


def test_all_planes_of_an_observation_move_alike_and_observations_apart() -> None:
    frames = torch.rand((1, 1, 8, 8), generator=generator(1)).expand(40, 4, 8, 8)
    out = distort(frames, *draw(AugmentConfig(2, 0.05), 40, rng=generator(2)))
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert out[:, 0].unique(dim=0).shape[0] > 20


def test_nothing_asked_is_nothing_done() -> None:
    frames = torch.rand((5, 2, 6, 6), generator=generator(1))
    offset, factor = draw(AugmentConfig(), 5, rng=generator(2))
    assert torch.equal(distort(frames, offset, factor), frames)
    offset, factor = draw(AugmentConfig(shift=2), 5, rng=generator(2))
    assert torch.equal(factor, torch.ones(5))
    assert torch.equal(draw(AugmentConfig(intensity=0.1), 5, rng=generator(2)).offset, torch.zeros(5, 2).long())


def test_all_shifts_are_equally_frequent() -> None:
    s = 2
    offset = draw(AugmentConfig(shift=s), 25_000, rng=generator(3)).offset.numpy()
    assert (offset.min(), offset.max()) == (-s, s)
    counts = np.bincount((offset[:, 0] + s) * (2 * s + 1) + offset[:, 1] + s, minlength=25)
    assert chisquare(counts).pvalue > 1e-4  # 25 pairs
    assert chisquare(counts + 250 * (np.arange(25) == 12)).pvalue < 1e-4  # the test sees a quarter more of one of them


def test_intensities_are_clipped_normals() -> None:
    scale = 0.05
    factor = draw(AugmentConfig(intensity=scale), 20_000, rng=generator(4)).factor.numpy().astype(np.float64)
    noise = (factor - 1) / scale
    assert np.abs(noise).max() == pytest.approx(2.0, abs=1e-4)
    share = (np.abs(noise) > 1.9999).mean()
    assert share == pytest.approx(0.0455, abs=0.0075)  # P(|e| > 2), five standard deviations
    inside = noise[np.abs(noise) < 1.99]
    assert kstest(inside, "truncnorm", args=(-1.99, 1.99)).pvalue > 1e-4
    assert kstest(inside * 1.1, "truncnorm", args=(-1.99, 1.99)).pvalue < 1e-4


def test_draws_come_from_the_generator_given() -> None:
    before = torch.get_rng_state()
    config = AugmentConfig(4, 0.05)
    first, twin, other = (draw(config, 16, rng=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.offset, twin.offset)
    assert torch.equal(first.factor, twin.factor)
    assert not torch.equal(first.offset, other.offset)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", [{"shift": -1}, {"intensity": -0.1}, {"intensity": 0.5}])
def test_bad_options_are_sentences(options: dict[str, float]) -> None:
    with pytest.raises(RlcError, match="augment: "):
        AugmentConfig(**options)  # type: ignore[arg-type]
