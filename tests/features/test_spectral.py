"""The closed forms against direct solves, on tables and on vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rl_contrastive.errors import RlcError
from rl_contrastive.features import spectral as spectral_module
from rl_contrastive.features import spectral_linear
from rl_contrastive.features.counts import TransitionCounts
from rl_contrastive.features.diagnostics import model_error, phi_angles
from rl_contrastive.features.spectral import fit_tabular
from rl_contrastive.features.spectral_linear import LinearSpectralConfig, fit_linear, whiten
from rl_contrastive.objectives.laws import tabular_law
from rl_contrastive.spec import StepData


def low_rank(H: int, S: int, A: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(phi (H, S, A, d), P (H, S, A, S)) with simplex features."""
    rng = np.random.default_rng(seed)
    phi = rng.dirichlet(np.full(d, 0.3), size=(H, S, A))
    psi = rng.dirichlet(np.full(S, 0.5), size=(H, d))  # (H, d, S)
    return phi, phi @ psi[:, None]


def sampled(P: np.ndarray, n: int, seed: int = 1) -> TransitionCounts:
    """n transitions of each (s, a)."""
    rng = np.random.default_rng(seed)
    H, S, A, _ = P.shape
    return TransitionCounts.from_dense(rng.multinomial(n, P.reshape(-1, S)).reshape(H, S, A, S).astype(np.float64))


def test_full_rank_is_the_empirical_model() -> None:
    table = np.random.default_rng(0).integers(1, 9, size=(2, 4, 3, 4)).astype(np.float64)
    fit = fit_tabular(TransitionCounts.from_dense(table), 4)
    for h in range(2):
        assert fit.features.model().rows(h) == pytest.approx(table[h] / table[h].sum(-1, keepdims=True), abs=1e-10)
    assert fit.singular_values[:, 0] == pytest.approx(1.0)


@pytest.mark.parametrize("law", ["uniform", "marginal", "mixture"])
def test_truncation_is_the_least_squares_minimiser(law: str) -> None:
    """No rank-2 f has a lower spectral loss: compared with 200 rounds of alternating least squares from 3 starts."""
    rng = np.random.default_rng(4)
    table = rng.integers(1, 9, size=(1, 5, 2, 5)).astype(np.float64)
    counts = TransitionCounts.from_dense(table)
    q = tabular_law(counts.succ_total(), law)
    features = fit_tabular(counts, 2, law=q).features
    joint = table[0].reshape(10, 5) / table.sum()
    anchor = joint.sum(axis=1)

    def loss(f: np.ndarray) -> float:
        return float((-2 * joint * f).sum() + (anchor[:, None] * q[0] * f**2).sum())

    closed = loss(features.phi_table[0].reshape(10, 2) @ features.psi_table[0].T)
    best = np.inf
    for _ in range(3):
        psi = rng.normal(size=(5, 2))
        for _ in range(200):
            phi = (joint @ psi / anchor[:, None]) @ np.linalg.inv(psi.T @ (q[0][:, None] * psi))
            psi = (joint.T @ phi / q[0][:, None]) @ np.linalg.inv(phi.T @ (anchor[:, None] * phi))
        best = min(best, loss(phi @ psi.T))
    assert closed == pytest.approx(best, abs=1e-9)


def test_block_krylov_equals_dense_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    _, P = low_rank(2, 120, 2, 4)
    counts = sampled(P, 8)
    monkeypatch.setattr(spectral_module, "DENSE_STATES", 96)  # the iteration is what runs
    fit = fit_tabular(counts, 4)
    law = tabular_law(counts.succ_total())
    for h in range(2):
        table = counts.dense()[h].reshape(240, 120)
        root = np.sqrt(np.where(law[h] > 0, law[h], 1.0))
        M = table / np.sqrt(table.sum(1, keepdims=True) * table.sum()) / root
        _, sigma, Vt = np.linalg.svd(M)
        assert fit.singular_values[h] == pytest.approx(sigma[:4], abs=1e-8)
        V = fit.features.psi_table[h] * root[:, None]
        assert pytest.approx(Vt[:4].T @ Vt[:4], abs=1e-6) == V @ V.T
    warm = fit_tabular(counts, 4, start=fit.features)
    for h in range(2):
        assert warm.features.model().rows(h) == pytest.approx(fit.features.model().rows(h), abs=1e-7)


@pytest.mark.parametrize("rank", [4, None])
@pytest.mark.parametrize("entries", [1 << 22, 0], ids=["one table", "step by step"])
def test_iteration_and_direct_solution_agree_and_the_sizes_choose(
    rank: int | None, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result does not depend on the limits; below them no iteration runs, above them one does."""
    counts, calls = sampled(low_rank(2, 120, 2, 4)[1], 200), []
    krylov = spectral_module._block_krylov
    monkeypatch.setattr(spectral_module, "_block_krylov", lambda *a: calls.append(1) or krylov(*a))
    monkeypatch.setattr(spectral_module, "DENSE_ENTRIES", entries)
    direct = fit_tabular(counts, rank)
    assert not calls
    monkeypatch.setattr(spectral_module, "DENSE_STATES" if rank else "DENSE_STATES_ANY_RANK", 119)
    iterated = fit_tabular(counts, rank)
    assert calls
    assert iterated.ranks.tolist() == direct.ranks.tolist()
    assert iterated.singular_values == pytest.approx(direct.singular_values, abs=1e-8)
    for h in range(2):
        assert iterated.features.model().rows(h) == pytest.approx(direct.features.model().rows(h), abs=1e-7)


def test_moments_by_action_equal_the_masked_sums() -> None:
    """Each action's ridge solution by sums over all rows, weighted 0 and 1; an action that nobody took has B = 0."""
    rng, (H, N, k, A) = np.random.default_rng(3), (3, 50, 4, 5)
    z, y, action = rng.normal(size=(H, N, k)), rng.normal(size=(H, N, 3)), rng.integers(A - 1, size=(H, N))
    mask = (np.arange(N) < np.array([[50], [20], [1]])).astype(np.float64)
    B, share = spectral_linear._per_action_ridge(z, y, action, mask, A, 0.7)
    Z = np.concatenate([z, np.ones((H, N, 1))], axis=2)
    for a in range(A):
        w = (action == a) * mask
        gram = np.einsum("hn,hni,hnj->hij", w, Z, Z) + 0.7 * np.eye(k + 1)
        expected = np.linalg.solve(gram, np.einsum("hn,hni,hnj->hij", w, Z, y))
        assert B[:, a] == pytest.approx(expected, abs=1e-12)
        assert share[:, a] == pytest.approx(w.sum(axis=1) / mask.sum(axis=1))
    assert (B[:, -1] == 0).all()


def slope(shuffle: bool) -> float:
    """Log-log slope of the mean TV of P-hat over n = 8, 32, 128, 512 transitions of each pair."""
    _, P = low_rank(3, 30, 4, 3)
    sizes, errors = (8, 32, 128, 512), []
    for n in sizes:
        counts = sampled(P, n)
        if shuffle:  # successors of random other pairs: the marginal stays, the dependence goes
            table = counts.dense()
            H, S, A, _ = table.shape
            order = np.random.default_rng(0).permutation(S * A)
            counts = TransitionCounts.from_dense(table.reshape(H, S * A, S)[:, order].reshape(table.shape))
        errors.append(model_error(fit_tabular(counts, 3).features.model(), P).mean.mean())
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def test_total_variation_falls_as_root_n_and_not_with_shuffled_successors() -> None:
    assert -0.6 < slope(shuffle=False) < -0.4
    assert slope(shuffle=True) > -0.1


def test_subspace_of_phi_is_found_up_to_rotation() -> None:
    phi, P = low_rank(2, 20, 3, 3)
    exact = fit_tabular(TransitionCounts.from_dense(P), 3).features  # probabilities as counts: no noise
    assert phi_angles(exact.phi_table, phi).max() < 1e-6
    turned = exact.rotated(np.random.default_rng(0).normal(size=(2, 3, 3)))
    assert phi_angles(turned.phi_table, phi).max() < 1e-6
    assert turned.model().rows(1) == pytest.approx(P[1], abs=1e-8)


def test_a_step_without_data_keeps_the_law_and_unseen_pairs_too() -> None:
    table = np.random.default_rng(0).integers(1, 5, size=(2, 4, 2, 4)).astype(np.float64)
    table[1] = 0.0
    table[0, 2, 1] = 0.0
    fit = fit_tabular(TransitionCounts.from_dense(table), 2)
    model = fit.features.model()
    assert model.rows(1) == pytest.approx(0.25)
    assert model.rows(0)[2, 1] == pytest.approx(fit.features.law[0], abs=1e-9)
    assert not fit.visited[0, 2, 1]
    assert not fit.visited[1].any()


def test_bad_tabular_input_is_refused() -> None:
    counts = TransitionCounts.from_dense(np.ones((1, 3, 2, 3)))
    for call in (
        lambda: fit_tabular(counts, 4),
        lambda: fit_tabular(counts, 0),
        lambda: fit_tabular(counts, 2, smoothing=-1.0),
        lambda: fit_tabular(counts, 2, law=np.ones((1, 4))),
        lambda: fit_tabular(counts, 2, law=np.array([[0.5, 0.5, 0.0]])),
    ):
        with pytest.raises(RlcError):
            call()


def rows(H: int, N: int, D: int, A: int, seed: int = 0) -> StepData:
    """Linear dynamics by action plus noise; every step full."""
    rng = np.random.default_rng(seed)
    x, a = rng.normal(size=(H, N, D)) * np.linspace(2, 0.5, D), rng.integers(A, size=(H, N))
    maps = rng.normal(size=(H, A, D, D))
    y = np.einsum("hnd,hnde->hne", x, maps[np.arange(H)[:, None], a]) + 0.1 * rng.normal(size=x.shape)
    return StepData(x, a, rng.normal(size=(H, N)), y, np.ones((H, N)), np.full(H, N))


@pytest.mark.parametrize("small", [48, 0])  # all levels together, or one by one
@pytest.mark.parametrize("N", [40, 9])  # more rows than dimensions, and fewer: both eigenproblems
def test_whitening_by_hand(N: int, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral_linear, "SMALL_OBSERVATION", small)
    data, config = rows(2, N, 12, 2), LinearSpectralConfig(pca_dim=4, rho=0.5)
    count = np.array([N, N - 2])
    x = np.where((np.arange(N) < count[:, None])[..., None], data.obs, 0.0)
    whitening, z = whiten(x, count, config)
    for h, n in enumerate(count):
        centred = x[h, :n] - x[h, :n].mean(axis=0)
        lam, U = np.linalg.eigh(centred.T @ centred / n)
        lam, U = lam[::-1][:4], U[:, ::-1][:, :4]
        T = U / np.sqrt(lam + 0.5 * lam[0])
        signs = np.sign((T * whitening.matrix[h]).sum(axis=0))
        assert whitening.matrix[h] == pytest.approx(T * signs, abs=1e-9)
        assert z[h, :n] == pytest.approx(centred @ T * signs, abs=1e-9)
        assert (z[h, n:] == 0).all()
        assert (whitening.matrix[h][np.abs(whitening.matrix[h]).argmax(axis=0), np.arange(4)] > 0).all()


def test_regression_is_the_ridge_solution_and_padding_is_ignored() -> None:
    data, config = rows(2, 30, 5, 2), LinearSpectralConfig(pca_dim=5, rho=0.3, ridge=0.7)
    fit = fit_linear(data, 2, 3, config)
    z = (data.obs[1] - fit.here.mean[1]) @ fit.here.matrix[1]
    target = np.column_stack([(data.next_obs[1] - fit.there.mean[1]) @ fit.there.matrix[1], data.reward[1]])
    for a in range(2):
        chosen = data.action[1] == a
        Z = np.column_stack([z[chosen], np.ones(chosen.sum())])
        B = np.linalg.solve(Z.T @ Z + 0.7 * np.eye(6), Z.T @ target[chosen])
        assert fit.regression[1, a] == pytest.approx(B, abs=1e-9)
    wide = StepData(
        *(np.concatenate([getattr(data, n), np.zeros_like(getattr(data, n))], axis=1) for n in
          ("obs", "action", "reward", "next_obs", "discount")), data.count
    )  # fmt: skip
    padded = fit_linear(wide, 2, 3, config)
    assert padded.features.Phi == pytest.approx(fit.features.Phi, abs=1e-9)


def test_refit_is_the_least_squares_ratio_inside_the_directions() -> None:
    """Without ridge and with all directions chosen, no other phi linear in z has a lower spectral loss beside psi."""
    data = rows(1, 400, 4, 2)
    fit = fit_linear(data, 2, 5, LinearSpectralConfig(pca_dim=4, refit_ridge=1e-9)).features
    phi = fit.phi(0, data.obs[0])[np.arange(400), data.action[0]]
    psi = fit.psi(0, data.next_obs[0])
    f = phi @ psi.T
    loss = -2 * np.diag(f).mean() + np.square(f).mean()
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = fit.Phi.copy()
        moved[..., 1:] += 0.02 * rng.normal(size=moved[..., 1:].shape)
        other = replace(fit, Phi=moved)
        g = other.phi(0, data.obs[0])[np.arange(400), data.action[0]] @ psi.T
        assert -2 * np.diag(g).mean() + np.square(g).mean() > loss


def test_levels_are_independent() -> None:
    data = rows(4, 60, 6, 3)
    whole = fit_linear(data, 3, 3)
    for h in (0, 3):
        part = StepData(*(getattr(data, n)[h : h + 1] for n in data.__dataclass_fields__))
        one = fit_linear(part, 3, 3)
        assert one.features.Phi[0] == pytest.approx(whole.features.Phi[h], abs=1e-10)
        assert one.forward[0] == pytest.approx(whole.forward[h], abs=1e-8)


def test_bad_rows_are_refused() -> None:
    data = rows(1, 20, 4, 2)
    for bad in (np.nan, np.inf):
        x = data.obs.copy()
        x[0, 3, 1] = bad
        with pytest.raises(RlcError, match="NaN"), np.errstate(invalid="ignore"):
            fit_linear(replace(data, obs=x), 2, 3)
    for call in (
        lambda: fit_linear(replace(data, count=np.zeros(1, dtype=np.int64)), 2, 3),
        lambda: fit_linear(data, 2, 1),
        lambda: fit_linear(data, 2, 9),
        lambda: LinearSpectralConfig(rho=0.0),
        lambda: LinearSpectralConfig(ridge=float("nan")),
    ):
        with pytest.raises(RlcError):
            call()


def test_constant_observations_leave_the_constant_feature() -> None:
    data = rows(1, 20, 4, 2)
    flat = replace(data, obs=np.ones_like(data.obs), next_obs=np.ones_like(data.obs))
    fit = fit_linear(flat, 2, 2).features
    assert np.isfinite(fit.Phi).all()
    f = fit.phi(0, flat.obs[0])[:, 0] @ fit.psi(0, flat.obs[0]).T
    assert f == pytest.approx(1.0)
