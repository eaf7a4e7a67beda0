"""Decoder on the lock: latents against the true ones, the PCA control, and which steps a refit touches."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from rl_contrastive.errors import RlcError
from rl_contrastive.features.decoder import LEAST_ROWS, DecoderConfig, LatentDecoder, seen
from rl_contrastive.features.diagnostics import purity
from rl_contrastive.features.spectral_linear import LinearSpectralConfig
from rl_contrastive.features.steps import StepStore
from rl_contrastive.runs.rollout import play
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import StepData

H, A = 5, 5
# For the distractor lock: weak directions beside strong noise, so whitening is sharp and its ridge large.
SHARP = LinearSpectralConfig(rho=0.3, ridge=10.0, pca_dim=10)
DISTRACTED = DecoderConfig(forward=1, backward=1, gap=2.5, spectral=SHARP)


def recorded(env, seed: int = 10, right: float = 0.7):
    """(rows of one batch, latents (H, N)): the good action with probability `right`, else a uniform one.

    At each step about right^h of the rows are still in a good latent, so that all three occur everywhere.
    """
    spec, rng = env.env_spec, np.random.default_rng(seed)
    latents: list[np.ndarray] = []

    def act(obs, h):
        latents.append(env.latent_states())
        good = env.good_actions[h][latents[-1]]
        chance = (rng.random(len(obs)) < right) & (good >= 0)
        return np.where(chance, good, rng.integers(spec.num_actions, size=len(obs)))

    store = StepStore(spec)
    for step in play(env, SeedTree(seed).env_seeds("env", 0, env.num_envs), act):
        store.add(step)
    return store.data(), np.array(latents)


def decoder_of(env, config: DecoderConfig | None = None) -> LatentDecoder:
    spec = env.env_spec
    return LatentDecoder(
        config or DecoderConfig(), horizon=spec.horizon, num_actions=spec.num_actions, obs_shape=spec.obs_shape
    )


def purities(env, config: DecoderConfig, seed: int) -> np.ndarray:
    """(H,) purity of each step on fresh episodes, after a fit on others."""
    decoder = decoder_of(env, config)
    decoder.refit(recorded(env, seed)[0], np.arange(env.env_spec.horizon))
    data, latents = recorded(env, seed + 1000)
    return np.array([purity(decoder.label(h, data.obs[h]), latents[h]) for h in range(env.env_spec.horizon)])


def unmixed(labels: np.ndarray, kinds: np.ndarray) -> float:
    """Share of rows whose kind is the commonest of their cluster: unlike purity, splitting a kind costs nothing."""
    table = np.zeros((labels.max() + 1, kinds.max() + 1))
    np.add.at(table, (labels, kinds), 1.0)
    return float(table.max(axis=1).sum() / len(labels))


@pytest.fixture(name="lock")
def lock_fixture(make_env):
    return make_env("combination-lock", 400, horizon=H, num_actions=A)


def gaussian_rows(shape: tuple[int, ...], count=(60, 60), seed: int = 0) -> StepData:
    """Unstructured rows of two steps."""
    rng, n = np.random.default_rng(seed), max(count)
    obs, next_obs = rng.normal(size=(2, 2, n, *shape))
    action, reward = rng.integers(A, size=(2, n)), rng.normal(size=(2, n))
    return StepData(obs, action, reward, next_obs, np.ones((2, n)), np.array(count))


# Latents.


@pytest.mark.parametrize("seed", range(10, 15))
def test_latents_of_the_lock_are_the_true_ones(lock, seed):
    """Two good latents at h = 0, three from then on; every row of fresh episodes but a few."""
    assert purities(lock, DecoderConfig(), seed).min() >= 0.99


@pytest.mark.parametrize("seed", range(10, 15))
def test_pca_fails_where_variance_is_not_what_matters(make_env, seed):
    """Distractors of standard deviation 1 fill the leading principal directions; dynamics tells signal from them.

    At h = 3 both good latents have the same good action: one state for the dynamics, split at will by a gap below 2.65.
    What counts is that no cluster mixes states that act differently; PCA hardly beats naming the commonest state.
    """
    env = make_env("distractor-lock", 2000, horizon=H, num_actions=A)
    rows = recorded(env, seed)[0]
    fresh, latents = recorded(env, seed + 1000)
    same = env.good_actions[:, 0] == env.good_actions[:, 1]  # (H,)
    assert same.tolist() == [False, False, False, True, False]
    kinds = np.where(same[:, None] & (latents == 1), 0, latents)
    for directions in ("contrastive", "pca"):
        decoder = decoder_of(env, replace(DISTRACTED, directions=directions))
        decoder.refit(rows, np.arange(H))
        for h in range(H):
            commonest = np.bincount(kinds[h]).max() / kinds.shape[1]
            right = unmixed(decoder.label(h, fresh.obs[h]), kinds[h])
            assert (right >= 0.95) if directions == "contrastive" else (right <= commonest + 0.1)


def test_pca_reads_the_plain_lock(lock):
    """A fair control: where the latents do have the largest variance, principal directions find them."""
    assert purities(lock, DecoderConfig(directions="pca"), 10)[1:].min() >= 0.9


def test_labels_of_many_steps_equal_those_of_each(lock):
    """Stored rows by |u - c|^2 + offset; fresh ones, where asked, by the distance alone."""
    data, _ = recorded(lock)
    decoder = decoder_of(lock)
    decoder.refit(data, np.arange(H))
    levels = np.array([3, 1])
    both = decoder.labels(data.obs[levels], levels)
    for i, h in enumerate(levels):
        k = decoder.clusters.count[h]
        points = (data.obs[h].astype(float) - decoder.mean[h]) @ decoder.W[h]
        square = ((points[:, None] - decoder.clusters.centres[h][:k]) ** 2).sum(axis=2)
        weighted = (square + decoder.clusters.offset[h, :k]).argmin(axis=1)
        np.testing.assert_array_equal(both[i], weighted)
        np.testing.assert_array_equal(decoder.label(h, data.obs[h]), weighted)
        np.testing.assert_array_equal(decoder.label(h, data.obs[h], weighted=False), square.argmin(axis=1))


def test_fishers_directions_tell_noisy_latents_apart_better_than_the_spectral_ones(make_env):
    """Noise .3 on the lock, at which observations are ambiguous. Measured: .0158 of fresh rows wrong against .0172."""
    env = make_env("combination-lock", 1500, horizon=H, num_actions=A, noise=0.3)
    wrong = {True: 0.0, False: 0.0}
    for seed in range(10, 13):
        rows, (fresh, latents) = recorded(env, seed, 0.85)[0], recorded(env, seed + 1000, 0.85)
        for fisher in wrong:
            decoder = decoder_of(env, DecoderConfig(discriminant=fisher))
            decoder.refit(rows, np.arange(H))
            for h in (1, 2, 4):
                wrong[fisher] += 1 - unmixed(decoder.label(h, fresh.obs[h]), latents[h])
    assert wrong[True] < wrong[False]


@pytest.mark.long
def test_refinement_by_descent_reads_the_lock_and_draws_from_its_own_generator(lock):
    config = DecoderConfig(refine=True)
    rows, (fresh, latents) = recorded(lock)[0], recorded(lock, 1010)
    with pytest.raises(RlcError, match="needs a generator"):
        decoder_of(lock, config).refit(rows, np.arange(H))
    made = []
    for seed in (1, 1):
        made.append(decoder_of(lock, config))
        made[-1].refit(rows, np.arange(H), rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(made[0].W, made[1].W)
    spectral = decoder_of(lock)
    spectral.refit(rows, np.arange(H))
    assert not np.array_equal(made[0].W, spectral.W)  # at some step the descent was accepted
    same = lock.good_actions[:, 0] == lock.good_actions[:, 1]  # where both good latents act alike they may be one
    kinds = np.where(same[:, None] & (latents == 1), 0, latents)
    for h in range(H):
        assert unmixed(made[0].label(h, fresh.obs[h]), kinds[h]) >= 0.95


def test_padding_is_not_read(lock):
    data, _ = recorded(lock)
    short = replace(data, count=np.array([400, 300, 200, 100, 50]))
    spoiled = StepData(*(np.array(x) for x in vars(short).values()))
    pad = ~seen(short)
    spoiled.obs[pad], spoiled.next_obs[pad], spoiled.reward[pad] = 1e4, -1e4, 1e4
    spoiled.action[pad], spoiled.discount[pad] = 0, 1.0
    one, two = decoder_of(lock), decoder_of(lock)
    one.refit(short, np.arange(H))
    two.refit(spoiled, np.arange(H))
    for name, array in one.state_dict().items():
        np.testing.assert_allclose(two.state_dict()[name], array, atol=1e-9, err_msg=name)


def test_successors_behind_a_terminal_make_no_clusters():
    """Arrivals in the third group ended the episode: it is no state that anyone acts in."""
    data = gaussian_rows((2,), (90, 90))
    data.obs[1] = 0.01 * data.obs[1] + np.eye(2)[np.arange(90) % 2]
    data.next_obs[0] = data.obs[1]
    data.next_obs[0][::3] += 50.0
    config = DecoderConfig(directions="pca")
    counts = []
    for goes_on in (1.0, 0.0):
        data.discount[0][::3] = goes_on
        decoder = LatentDecoder(config, horizon=2, num_actions=A, obs_shape=(2,))
        decoder.refit(data, np.arange(2))
        counts.append(int(decoder.clusters.count[1]))
    assert counts == [3, 2]


# Which steps a refit touches.


@pytest.mark.parametrize(
    ("directions", "levels", "changed"),
    [
        ("contrastive", [1], [1, 2]),
        ("contrastive", [0, 1], [0, 1, 2]),
        ("contrastive", [H - 1], [H - 1]),
        ("pca", [1], [1]),
    ],
)
def test_refit_touches_the_listed_steps_and_the_next_ones(lock, directions, levels, changed):
    decoder = decoder_of(lock, DecoderConfig(directions=directions))
    decoder.refit(recorded(lock)[0], np.arange(H))
    before = decoder.state_dict()
    data, _ = recorded(lock, seed=11)
    np.testing.assert_array_equal(decoder.refit(data, np.array(levels)), changed)
    after = decoder.state_dict()
    for h in range(H):
        same = all(np.array_equal(before[name][h], after[name][h]) for name in ("mean", "W", "centres", "count"))
        assert same == (h not in changed)


def test_steps_with_few_rows_stay_one_latent():
    config = DecoderConfig()
    decoder = LatentDecoder(config, horizon=2, num_actions=A, obs_shape=(4,))
    assert len(decoder.refit(gaussian_rows((4,), (LEAST_ROWS - 1, 0)), np.arange(2))) == 0
    assert decoder.clusters.count.tolist() == [1, 1]
    np.testing.assert_array_equal(decoder.label(0, np.random.default_rng(1).normal(size=(7, 4))), np.zeros(7))
    # Step 0 has enough: the next one changes with it, by the rows that lead there.
    changed = decoder.refit(gaussian_rows((4,), (LEAST_ROWS, LEAST_ROWS - 1)), np.arange(2))
    assert changed.tolist() == [0, 1]
    assert (decoder.W[1, :, : config.forward] == 0).all()
    assert (decoder.W[1, :, config.forward :] != 0).any()


@pytest.mark.parametrize("directions", ["contrastive", "pca"])
@pytest.mark.parametrize("D", [1, 2, 3])
def test_an_observation_of_few_dimensions_has_fewer_directions(directions, D):
    config = DecoderConfig(directions=directions)
    decoder = LatentDecoder(config, horizon=2, num_actions=A, obs_shape=(D,))
    decoder.refit(gaussian_rows((D,)), np.arange(2))
    used = (decoder.W != 0).any(axis=1)  # (H, q)
    expected = [i < D for i in range(4)] if directions == "pca" else [i < D for i in range(2)] * 2
    np.testing.assert_array_equal(used[1], expected)


@pytest.mark.parametrize("discriminant", [False, True])
@pytest.mark.parametrize("most", [2, 3, 6])
@pytest.mark.parametrize("D", [1, 2, 3, 8])
def test_two_far_groups_are_told_apart_in_few_dimensions(D, most, discriminant):
    """Also with fewer dimensions, or less room in the decoder, than a discriminant of so many latents could use."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(2, size=(2, 200))
    obs = 0.1 * rng.normal(size=(2, 200, D)) + 4.0 * kinds[..., None]
    zero, n = np.zeros((2, 200), dtype=np.int64), np.array([200, 200])
    data = StepData(obs, zero, kinds.astype(float), obs[[1, 0]], np.ones((2, 200)), n)
    decoder = LatentDecoder(
        DecoderConfig(most_latents=most, gap=6.0, discriminant=discriminant), horizon=2, num_actions=1, obs_shape=(D,)
    )
    decoder.refit(data, np.arange(2))
    for h in range(2):
        assert decoder.clusters.count[h] == 2
        assert purity(decoder.label(h, obs[h]), kinds[h]) == 1.0


def test_observations_of_any_shape_are_flattened():
    flat, square = (LatentDecoder(DecoderConfig(), horizon=2, num_actions=A, obs_shape=s) for s in ((4,), (2, 2)))
    flat.refit(gaussian_rows((4,)), np.arange(2))
    square.refit(gaussian_rows((2, 2)), np.arange(2))
    np.testing.assert_array_equal(flat.W, square.W)
    obs = np.random.default_rng(3).normal(size=(9, 4))
    np.testing.assert_array_equal(flat.label(1, obs), square.label(1, obs.reshape(9, 2, 2)))


# State and configs.


def test_state_round_trip_and_refusals(lock):
    decoder, other = decoder_of(lock), decoder_of(lock)
    data, _ = recorded(lock)
    decoder.refit(data, np.arange(H))
    state = decoder.state_dict()
    json.dumps({name: np.asarray(value).tolist() for name, value in state.items()})
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.labels(data.obs, np.arange(H)), decoder.labels(data.obs, np.arange(H)))
    saved = {name: np.copy(value) for name, value in state.items()}
    decoder.refit(recorded(lock, seed=12)[0], np.arange(H))  # a snapshot does not move with its decoder
    for name, array in saved.items():
        np.testing.assert_array_equal(state[name], array)
    with pytest.raises(RlcError, match="lacks 'W'"):
        other.load_state_dict({name: array for name, array in state.items() if name != "W"})
    with pytest.raises(RlcError, match="mean has shape"):
        other.load_state_dict({**state, "mean": state["mean"][:-1]})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"most_latents": 0}, "most_latents"),
        ({"forward": 0, "backward": 0}, "not both be 0"),
        ({"forward": -1}, "forward"),
        ({"gap": 0.0}, "gap"),
        ({"gap": float("nan")}, "gap"),
        ({"smallest": 0}, "smallest"),
        ({"shrinkage": 0.0}, "shrinkage"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(RlcError, match=message):
        DecoderConfig(**fields)


def test_backward_none_is_two_directions_given_and_one_full(lock):
    data = recorded(lock)[0]
    for whitening, directions in (("given", 2), ("full", 1)):
        decoder = decoder_of(lock, DecoderConfig(backward=None, whitening=whitening))
        decoder.refit(data, np.arange(H))
        used = (decoder.backward[1:H] != 0).any(axis=1)  # (H - 1, 2)
        np.testing.assert_array_equal(used, np.broadcast_to(np.arange(2) < directions, used.shape))
