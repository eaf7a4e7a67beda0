"""Counter-based streams: the published hash, batch == singles, and statistical quality."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rl_contrastive.envs.streams import (
    NORMAL_BOUND,
    Streams,
    high_half,
    integers,
    low_half,
    mix,
    normals,
    uniforms,
)
from rl_contrastive.errors import RlcError

WEYL = 0x9E3779B97F4A7C15


def splitmix64(state: int, count: int) -> list[int]:
    """The published generator in plain integers, as an oracle."""
    out = []
    for _ in range(count):
        state = (state + WEYL) % 2**64
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        out.append(z ^ (z >> 31))
    return out


def test_oracle_and_mix_give_the_published_test_vector():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert splitmix64(1234567, 4) == published
    states = np.array([(1234567 + (k + 1) * WEYL) % 2**64 for k in range(4)], dtype=np.uint64)
    assert mix(states).tolist() == published


def test_words_are_splitmix64_from_the_mixed_seed():
    streams = Streams([5, 2**40])
    starts = [int(s) for s in streams._start]
    words = streams.words(6)
    for column, start in enumerate(starts):
        assert words[:, column].tolist() == splitmix64(start, 6)


def test_batch_equals_singles_and_blocks_do_not_matter():
    seeds = [0, 1, 7, 2**31 - 1]
    whole = Streams(seeds).words(10)
    for column, seed in enumerate(seeds):
        single = Streams([seed])
        parts = np.vstack([single.words(3), single.words(1), single.words(6)])
        np.testing.assert_array_equal(whole[:, column], parts[:, 0])
    resumed = Streams(seeds, counter=4)
    np.testing.assert_array_equal(whole[4:], resumed.words(6))


@pytest.mark.parametrize("seed", [-1, 1.5, True, "3"])
def test_bad_seed_is_one_sentence(seed):
    with pytest.raises(RlcError, match="non-negative integer"):
        Streams([seed])


def test_uniforms_pass_kolmogorov_smirnov_and_a_bent_copy_fails():
    u = uniforms(Streams(range(200)).words(500))
    assert u.min() >= 0.0
    assert u.max() < 1.0
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-4
    assert stats.kstest(u.ravel() ** 1.02, "uniform").pvalue < 1e-4  # the test can fail


def test_halves_are_uniform_and_independent():
    words = Streams(range(300)).words(400)
    high, low = high_half(words).ravel() / 2.0**32, low_half(words).ravel() / 2.0**32
    for half in (high, low):
        assert stats.kstest(half, "uniform").pvalue > 1e-4
    table = np.histogram2d(high, low, bins=16, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-4


def test_integers_pass_chi_square():
    draws = integers(Streams(range(100)).words(700), 7)
    assert draws.dtype == np.int64
    assert stats.chisquare(np.bincount(draws.ravel(), minlength=7)).pvalue > 1e-4


def test_normals_have_the_right_law_tails_and_independent_pairs():
    x = normals(Streams(range(500)).words(400))
    assert x.shape == (2, 400, 500)
    assert x.dtype == np.float32
    flat = x.ravel().astype(np.float64)
    n = flat.size
    assert abs(flat.mean()) < 5 / np.sqrt(n)
    assert abs(flat.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((flat**4).mean() - 3) < 5 * np.sqrt(96 / n)
    assert stats.kstest(flat[:100_000], "norm").pvalue > 1e-4
    assert np.abs(flat).max() < NORMAL_BOUND
    assert abs((np.abs(flat) > 3).mean() - 2 * stats.norm.sf(3)) < 5 * np.sqrt(0.0027 / n)
    assert abs(np.corrcoef(x[0].ravel(), x[1].ravel())[0, 1]) < 5 / np.sqrt(n / 2)


def test_neighbouring_seeds_and_steps_are_uncorrelated():
    u = uniforms(Streams(range(64)).words(4000)) - 0.5  # consecutive seeds are the worst case
    between = np.corrcoef(u.T)[np.triu_indices(64, 1)]
    assert np.abs(between).max() < 5.5 / np.sqrt(4000)
    for lag in (1, 2, 7):
        serial = (u[lag:] * u[:-lag]).mean() * 12
        assert abs(serial) < 5 / np.sqrt(u.size)
    shifted = np.corrcoef(u[1:, :-1].ravel(), u[:-1, 1:].ravel())[0, 1]  # stream i+1 is not stream i a step later
    assert abs(shifted) < 5 / np.sqrt(u.size)
