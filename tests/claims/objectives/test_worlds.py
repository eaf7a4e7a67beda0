"""The block world: shares, views, seeds that do not see their neighbours, and the judge's linear probe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rl_contrastive.claims.objectives.worlds import (
    BlockWorld,
    Encoders,
    WorldConfig,
    discriminant,
    smallest_step,
    train,
)
from rl_contrastive.errors import RlcError
from rl_contrastive.objectives.pairwise import NTXent

CONFIG = WorldConfig(latents=4, size=6, details=2)


def test_latents_follow_zipf_and_the_judge_sees_each_equally_often():
    world = BlockWorld(replace(CONFIG, zipf=1.0), (0,))
    assert world.share == pytest.approx(np.array([12, 6, 4, 3]) / 25)
    share = np.bincount(world.latents(20_000)[0], minlength=4) / 20_000
    assert share == pytest.approx(world.share, abs=0.02)
    assert np.bincount(world.latents(40, even=True)[0]).tolist() == [10] * 4


def test_views_share_latent_and_detail_and_nothing_else():
    world = BlockWorld(replace(CONFIG, noise=0.1), (0, 1))
    instances = world.instances(world.latents(2000, even=True))
    views = world.views(instances, 2)
    assert views.shape == (2, 2, 2000, 6)
    assert (views[:, 0] - instances).std() == pytest.approx(0.1, rel=0.05)
    rest = views - instances[:, None]
    assert abs((rest[:, 0] * rest[:, 1]).mean()) < 1e-3


def test_a_seed_does_not_see_its_neighbours():
    def weights(seeds):
        encoders, world = Encoders(seeds, (6, 5, 3)), BlockWorld(CONFIG, seeds)
        train(encoders, NTXent(), world.batches(5, 8, 2), lr=1e-2)
        return [p.detach() for p in encoders.parameters()]

    both, alone = weights((3, 4)), weights((4,))
    assert all(torch.allclose(a[1], b[0], atol=1e-5) for a, b in zip(both, alone, strict=True))
    assert not torch.allclose(both[0][0], both[0][1])


def test_the_probe_reads_a_latent_that_is_there_and_none_that_is_not():
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    x = np.eye(4)[y] + 0.05 * rng.standard_normal((400, 4))
    assert discriminant(x[:200], y[:200], x[200:], y[200:]) == 1.0
    assert discriminant(x[:200], y[:200], rng.standard_normal((200, 4)), y[200:]) < 0.4
    assert discriminant(np.ones((200, 4)), y[:200], np.ones((200, 4)), y[200:]) == 0.25


def test_the_smallest_step_is_that_of_the_smallest_mean():
    values = np.array([[0.0, 0.0], [1.0, 3.0], [1.5, 3.5]])
    assert smallest_step(values, 1).estimate == pytest.approx(0.5)
    assert smallest_step(values, -1).estimate == pytest.approx(-2.0)


def test_a_world_needs_a_seed_and_two_latents():
    with pytest.raises(RlcError, match="seed"):
        BlockWorld(CONFIG, ())
    with pytest.raises(RlcError, match="latents"):
        WorldConfig(latents=1)
