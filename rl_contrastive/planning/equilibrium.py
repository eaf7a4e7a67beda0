"""Equilibria of thousands of small zero-sum games at once, each with a certificate of how exact it is.

    Nash:  (x, y) with  max_a (M y)_a = x'M y = min_b (x'M)_b                                     (von Neumann 1928)
    CCE:   a correlated sigma over (a, b) from which no deviation fixed in advance gains,
           E_sigma[U(a', b)] <= E_sigma[U(a, b)] for all a',   E_sigma[L(a, b')] >= E_sigma[L(a, b)] for all b'

where the row player maximises U (the optimistic Q-bar of Xie et al. 2020 and Qiu et al. 2022, Alg. 2) and the column
player minimises L (Q-under). A CCE is a matrix game as well: with the deviation gains D (A+B, AB) of `deviations`,

    min_sigma max_i (D sigma)_i <= 0   since a Nash equilibrium of (U, -L) exists and is a CCE,

and its minimiser is the CCE at which deviating costs most (gains are strictly negative where U != L allow it). So one
linear programme, solved in batches by `simplex`, serves both. Where U = L, sigma's marginals are a Nash equilibrium.

Certificates are computed from the payoffs and never trust the solver. A game whose gap exceeds TOLERANCE times the
range of its payoffs continues from its basis with a fresh tableau, up to twice. Then HiGHS solves it. The best of
these solutions is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.scales import (
    APART,
    FLOOR,
    NOISE,
    SADDLE,
    SHRUNK,
    crowded,
    exact_deviations,
    exact_packing,
    fold,
    fold_joint,
    rationals,
    within_reach,
    without_dominated,
)
from rl_contrastive.planning.simplex import correlated_packing, deviations, packing
from rl_contrastive.spec import BoolArray, FloatArray, IntArray

TOLERANCE = 1e-9
"""A solution is certified if its gap is at most this times the range of the payoffs."""
HOPELESS = 1e-6
"""A gap that is still above this times the range after HiGHS is an error."""
TABLEAU_CELLS = 12
"""With more joint actions than this, a CCE is solved by the revised simplex (measured: faster from 4 x 4 on)."""
CHUNK = 64_000
"""Size of the tableaux of one batch, in numbers: half a megabyte, which stays in a core's cache."""


@dataclass(frozen=True)
class Nash:
    """Nash equilibria of N matrix games M (N, A, B)."""

    x: FloatArray
    """(N, A) strategies of the row player, who maximises."""
    y: FloatArray
    """(N, B) strategies of the column player."""
    value: FloatArray
    """(N,) values, each within gap / 2."""
    gap: FloatArray
    """(N,) exploitability max_a (M y)_a - min_b (x'M)_b >= 0 up to rounding: the certificate."""
    fallbacks: int
    """Games that were solved again by HiGHS."""


@dataclass(frozen=True)
class Correlated:
    """Coarse correlated equilibria of N pairs (U, L), each (N, A, B)."""

    sigma: FloatArray
    """(N, A, B) joint probabilities."""
    gap: FloatArray
    """(N,) largest gain of a deviation, negative where every deviation costs: the certificate."""
    fallbacks: int
    """Pairs that were solved again by HiGHS."""


def nash(M: FloatArray) -> Nash:
    """Nash equilibria of the zero-sum games M (N, A, B), payoffs to the row player."""
    M = _payoffs("nash", "M", M)
    N, A, B = M.shape
    P, offset, scale = _normal(M)
    x, y, basis = np.empty((N, A)), np.empty((N, B)), np.empty((N, A), dtype=np.int64)
    for part in _parts(N, (A + 1) * (B + 1)):
        solution = packing(P[part] + 1.0)  # + 1 makes P positive and shifts only the value
        x[part], y[part], basis[part] = _distributions(solution.u), _distributions(solution.w), solution.basis
    gap, fallbacks = _nash_gap(P, x, y), 0
    for again in (_afresh, _afresh, _highs):
        rows = np.flatnonzero(~(gap <= TOLERANCE))
        fallbacks = rows.size
        if not rows.size:
            break
        w, u, basis[rows] = again(P[rows] + 1.0, basis[rows])
        other_x, other_y = _distributions(u), _distributions(w)
        other = _nash_gap(P[rows], other_x, other_y)
        better = other < gap[rows]
        x[rows[better]], y[rows[better]], gap[rows[better]] = other_x[better], other_y[better], other[better]
    _refuse_hopeless("nash", gap)
    high, low = _best_responses(P, x, y)
    found = Nash(x, y, offset + scale * (0.5 * (high + low)), scale * gap, fallbacks)
    return _nash_by_size(M, found, scale)


def cce(upper: FloatArray, lower: FloatArray) -> Correlated:
    """For each pair, the CCE whose largest deviation gain is smallest (most negative); upper, lower (N, A, B).

    The row player maximises E_sigma upper, the column player minimises E_sigma lower; both are in the same units.
    """
    upper, lower = _payoffs("cce", "upper", upper), _payoffs("cce", "lower", lower)
    U, L, scale = _normal_pair("cce", upper, lower)
    N, A, B = U.shape
    tableau = A * B <= TABLEAU_CELLS
    sigma, basis = np.empty((N, A, B)), np.empty((N, A + B), dtype=np.int64)
    for part in _parts(N, (A + B + 1) * (A * B + 1 if tableau else A + B + 1)):
        u, l = U[part], L[part]  # noqa: E741
        solution = packing(deviations(u, l) + 2.0) if tableau else correlated_packing(u, l)
        sigma[part], basis[part] = _distributions(solution.w).reshape(-1, A, B), solution.basis
    gap, fallbacks = _cce_gap(U, L, sigma), 0
    for again in (_afresh, _afresh, _highs):
        rows = np.flatnonzero(~(gap <= TOLERANCE))
        fallbacks = rows.size
        if not rows.size:
            break
        w, _, basis[rows] = again(deviations(U[rows], L[rows]) + 2.0, basis[rows])
        other_sigma = _distributions(w).reshape(-1, A, B)
        other = _cce_gap(U[rows], L[rows], other_sigma)
        better = other < gap[rows]
        sigma[rows[better]], gap[rows[better]] = other_sigma[better], other[better]
    _refuse_hopeless("cce", gap)
    return _cce_by_size(upper, lower, Correlated(sigma, scale * gap, fallbacks), scale)


def nash_gap(M: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Exploitability max_a (M y)_a - min_b (x'M)_b (N,) of strategies x (N, A), y (N, B): 0 exactly at equilibria."""
    M = _payoffs("nash_gap", "M", M)
    N, A, B = M.shape
    x, y = _strategies("nash_gap", "x", x, (N, A)), _strategies("nash_gap", "y", y, (N, B))
    P, offset, scale = _normal(M)
    value = offset + scale * (x[:, None] @ P @ y[:, :, None])[:, 0, 0]
    gap, _, size = _nash_judged(M, x, y, value)
    by_range = scale * _nash_gap(P, x, y)
    return _by_size(gap, by_range, size, scale, crowded(M, value))


def cce_gap(upper: FloatArray, lower: FloatArray, sigma: FloatArray) -> FloatArray:
    """Largest gain (N,) of a fixed deviation from sigma (N, A, B): sigma is a CCE where it is <= 0.

    max( max_a' E_sigma[upper(a', b) - upper(a, b)], max_b' E_sigma[lower(a, b) - lower(a, b')] )
    """
    upper, lower = _payoffs("cce_gap", "upper", upper), _payoffs("cce_gap", "lower", lower)
    U, L, scale = _normal_pair("cce_gap", upper, lower)
    sigma = _strategies("cce_gap", "sigma", sigma, U.shape)
    gap, size = _cce_judged(upper, lower, sigma)
    by_range = scale * _cce_gap(U, L, sigma)
    far = [crowded(M, (sigma * M).sum(axis=(1, 2))) for M in (upper, lower)]
    return _by_size(gap, by_range, size, scale, far[0] | far[1])


def _by_size(
    judged: FloatArray, by_range: FloatArray, size: FloatArray, scale: FloatArray, far: BoolArray
) -> FloatArray:
    """Certificates (N,) relative to the range, or to the payoffs met in play where others are far larger."""
    differ = np.abs(judged - by_range) > TOLERANCE * np.abs(by_range) + SADDLE * scale
    return np.where(far & (size < APART * scale) & differ, judged, by_range)


def _nash_by_size(M: FloatArray, found: Nash, scale: FloatArray) -> Nash:
    """The solution; games decided by payoffs far larger than those that count are solved again (`scales`)."""
    x, y, value, gap, fallbacks = found.x, found.y, found.value, found.gap, found.fallbacks
    judged, better_value, size = _nash_judged(M, x, y, value)
    some, poor = _several_sizes(judged, size, scale, value, M)
    gap[some], value[some] = judged[some], better_value[some]
    if not poor.size:
        return Nash(x, y, value, gap, fallbacks)
    U, _, rows, columns = without_dominated(M[poor], M[poor])
    near = within_reach(U, value[poor], np.maximum(judged, size)[poor], scale[poor])
    again = np.flatnonzero(np.ptp(near, axis=(1, 2)) < SHRUNK * scale[poor])
    other_x, other_y = x[poor], y[poor]
    if again.size:
        part = nash(near[again])
        other_x[again], other_y[again] = fold(part.x, rows[again]), fold(part.y, columns[again])
        fallbacks += part.fallbacks
    other, _, other_size = _nash_judged(M[poor], other_x, other_y, value[poor])
    unsolved = np.minimum(other, judged[poor]) > TOLERANCE * np.minimum(other_size, size[poor])
    left = unsolved & crowded(M[poor], value[poor], least=NOISE)
    for k in np.flatnonzero(left):
        w, u = exact_packing(rationals(U[k]))
        other_x[k], other_y[k] = fold(u[None], rows[k : k + 1])[0], fold(w[None], columns[k : k + 1])[0]
    other, other_value, _ = _nash_judged(M[poor], other_x, other_y, value[poor])
    better = other < judged[poor]
    which = poor[better]
    x[which], y[which], value[which], gap[which] = other_x[better], other_y[better], other_value[better], other[better]
    return Nash(x, y, value, gap, fallbacks)


def _cce_by_size(upper: FloatArray, lower: FloatArray, found: Correlated, scale: FloatArray) -> Correlated:
    """The same for pairs."""
    sigma, gap, fallbacks = found.sigma, found.gap, found.fallbacks
    judged, size = _cce_judged(upper, lower, sigma)
    means = [(sigma * M).sum(axis=(1, 2)) for M in (upper, lower)]
    some, poor = (
        np.union1d(*parts)
        for parts in zip(
            *(_several_sizes(judged, size, scale, *pair) for pair in zip(means, (upper, lower), strict=True)),
            strict=True,
        )
    )
    gap[some] = judged[some]
    if not poor.size:
        return Correlated(sigma, gap, fallbacks)
    U, L, rows, columns = without_dominated(upper[poor], lower[poor])
    reach = np.maximum(judged, size)[poor]
    near = [within_reach(M, mean[poor], reach, scale[poor]) for M, mean in zip((U, L), means, strict=True)]
    again = np.flatnonzero(np.max([np.ptp(M, axis=(1, 2)) for M in near], axis=0) < SHRUNK * scale[poor])
    other_sigma = sigma[poor]
    if again.size:
        part = cce(near[0][again], near[1][again])
        other_sigma[again] = fold_joint(part.sigma, rows[again], columns[again])
        fallbacks += part.fallbacks
    other, other_size = _cce_judged(upper[poor], lower[poor], other_sigma)
    unsolved = np.minimum(other, judged[poor]) > TOLERANCE * np.minimum(other_size, size[poor])
    wide = crowded(upper[poor], means[0][poor], least=NOISE) | crowded(lower[poor], means[1][poor], least=NOISE)
    for k in np.flatnonzero(unsolved & wide):
        w, _ = exact_packing(exact_deviations(U[k], L[k]))
        other_sigma[k] = fold_joint(w.reshape(1, *U[k].shape), rows[k : k + 1], columns[k : k + 1])[0]
    other, _ = _cce_judged(upper[poor], lower[poor], other_sigma)
    better = other < judged[poor]
    sigma[poor[better]], gap[poor[better]] = other_sigma[better], other[better]
    return Correlated(sigma, gap, fallbacks)


def _several_sizes(
    judged: FloatArray, size: FloatArray, scale: FloatArray, value: FloatArray, M: FloatArray
) -> tuple[IntArray, IntArray]:
    """Games that have payoffs far larger than those met in play, and the games that must be solved again."""
    some = np.flatnonzero(size < APART * scale)  # for other games the range is enough
    D, R, gap = M[some], scale[some], judged[some]
    between = crowded(D, value[some], least=NOISE)
    real = (gap > TOLERANCE * size[some]) & (gap > FLOOR * np.abs(value[some]))
    poor = real & ((gap > NOISE * R) | crowded(D, value[some]))
    return some[between | poor], some[poor]


def _nash_judged(
    M: FloatArray, x: FloatArray, y: FloatArray, value: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """An upper bound of the gap, the value, and the size E |M - value| of the payoffs that are met, each (N,).

    The value is subtracted first, so that far-off payoffs, which nobody plays, cause no rounding. The bound adds the
    rounding that remains.
    """
    D = M - value[:, None, None]
    A, B = M.shape[1:]
    rounding = (A + B + 4) * np.finfo(np.float64).eps
    rows, columns = (D @ y[:, :, None])[:, :, 0], (x[:, None] @ D)[:, 0]
    size_rows, size_columns = (np.abs(D) @ y[:, :, None])[:, :, 0], (x[:, None] @ np.abs(D))[:, 0]
    high = (rows + rounding * size_rows).max(axis=1)
    low = (columns - rounding * size_columns).min(axis=1)
    mixed = (x.max(axis=1) < 1.0) | (y.max(axis=1) < 1.0)  # sums of probabilities are 1 up to rounding
    gap = high - low + np.where(mixed, rounding * np.abs(value), 0.0)
    return gap, value + 0.5 * (rows.max(axis=1) + columns.min(axis=1)), (x * size_rows).sum(axis=1)


def _cce_judged(U: FloatArray, L: FloatArray, sigma: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The same for a pair: an upper bound of the largest gain, and the size of the payoffs that are met, each (N,)."""
    A, B = U.shape[1:]
    rounding = (A * B + A + B + 4) * np.finfo(np.float64).eps
    mu, nu = sigma.sum(axis=2), sigma.sum(axis=1)
    size, gains = np.zeros(len(U)), []
    mixed = np.where(sigma.max(axis=(1, 2)) < 1.0, rounding, 0.0)
    for M, other, sign in ((U, nu, 1.0), (L.transpose(0, 2, 1), mu, -1.0)):
        own = sigma if sign > 0 else sigma.transpose(0, 2, 1)
        mean = (own * M).sum(axis=(1, 2))
        D = sign * (M - mean[:, None, None])
        met = (own * np.abs(D)).sum(axis=(1, 2))
        instead = (D + rounding * np.abs(D)) @ other[:, :, None]
        gains.append(instead[:, :, 0].max(axis=1) - (own * D).sum(axis=(1, 2)) + rounding * met + mixed * np.abs(mean))
        size += met
    return np.maximum(*gains), size


def _best_responses(M: FloatArray, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """max_a (M y)_a and min_b (x'M)_b, each (N,)."""
    return (M @ y[:, :, None])[:, :, 0].max(axis=1), (x[:, None] @ M)[:, 0].min(axis=1)


def _nash_gap(M: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    high, low = _best_responses(M, x, y)
    return np.asarray(high - low)


def _cce_gap(U: FloatArray, L: FloatArray, sigma: FloatArray) -> FloatArray:
    mu, nu = sigma.sum(axis=2), sigma.sum(axis=1)
    high, low = _best_responses(U, mu, nu)[0], _best_responses(L, mu, nu)[1]
    gain_max, gain_min = high - (sigma * U).sum(axis=(1, 2)), (sigma * L).sum(axis=(1, 2)) - low
    return np.asarray(np.maximum(gain_max, gain_min))


def _normal(M: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """M = offset + scale P with P in [0, 1]: (P (N, A, B), offset (N,), scale (N,)).

    It also keeps certificates exact at any offset: 1e8 + u has a rounding error of 1e-8, its differences have none.
    """
    offset = M.min(axis=(1, 2), keepdims=True)
    scale = M.max(axis=(1, 2), keepdims=True) - offset
    return (M - offset) / np.where(scale > 0, scale, 1.0), offset[:, 0, 0], scale[:, 0, 0]


def _normal_pair(where: str, upper: FloatArray, lower: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Both payoffs minus their minimum, divided by the larger range: (U, L, scale (N,)), entries in [0, 1]."""
    require(upper.shape == lower.shape, f"{where}: upper is {upper.shape}, lower {lower.shape}; shapes must agree.")
    least = [M.min(axis=(1, 2), keepdims=True) for M in (upper, lower)]
    scale = np.maximum(*(M.max(axis=(1, 2), keepdims=True) - low for M, low in zip((upper, lower), least, strict=True)))
    unit = np.where(scale > 0, scale, 1.0)
    return (upper - least[0]) / unit, (lower - least[1]) / unit, scale[:, 0, 0]


def _distributions(weights: FloatArray) -> FloatArray:
    """Nonnegative rows (N, k) divided by their sums. An unsolved row becomes uniform, and its gap then shows that."""
    weights = np.maximum(weights, 0.0)  # vertices are >= 0 up to rounding
    total = weights.sum(axis=1, keepdims=True)
    good = np.isfinite(total) & (total > 0.0)
    return np.where(good, weights / np.where(good, total, 1.0), 1.0 / weights.shape[1])


def _parts(N: int, cells: int) -> list[slice]:
    """Slices of N programmes of `cells` numbers each that fit the cache together."""
    step = max(1, CHUNK // cells)
    return [slice(start, min(start + step, N)) for start in range(0, N, step)]


def _afresh(P: FloatArray, basis: IntArray) -> tuple[FloatArray, FloatArray, IntArray]:
    """(w (N, n), u (N, m), basis) from a basis with a fresh tableau, because near ties cost a tableau its digits."""
    solution = packing(P, basis=basis)
    return solution.w, solution.u, solution.basis


def _highs(P: FloatArray, basis: IntArray) -> tuple[FloatArray, FloatArray, IntArray]:
    """(w (N, n), u (N, m), basis as it was) by HiGHS, one programme after the other; zeros where it fails."""
    from scipy.optimize import linprog  # imported here, because it would slow every `rlc --help` by a quarter second

    N, m, n = P.shape
    w, u = np.zeros((N, n)), np.zeros((N, m))
    for i in range(N):
        result = linprog(-np.ones(n), A_ub=P[i], b_ub=np.ones(m), method="highs")
        if result.x is not None:
            w[i], u[i] = result.x, -result.ineqlin.marginals
    return w, u, basis


def _refuse_hopeless(where: str, gap: FloatArray) -> None:
    hopeless = np.flatnonzero(~(gap <= HOPELESS))
    if hopeless.size:
        i = int(hopeless[0])
        raise RlcError(f"{where}: neither the simplex nor HiGHS solves game {i}: its gap is {gap[i]:.2g} of its range.")


def _payoffs(where: str, name: str, M: FloatArray) -> FloatArray:
    """(N, A, B) float64 of finite numbers whose range is finite, or RlcError."""
    M = np.asarray(M, dtype=np.float64)
    good = M.ndim == 3 and min(M.shape[1:]) >= 1
    hint = f"; of one game give {name}[None]" if M.ndim == 2 else ""
    require(good, f"{where}: {name} must be (N, A, B) with A, B >= 1, got shape {M.shape}{hint}.")
    M = np.ascontiguousarray(M)
    finite = np.isfinite(M).all(axis=(1, 2))
    if finite.all():  # compare halves, because the range of 1e308 and -1e308 overflows
        finite = 0.5 * M.max(axis=(1, 2)) - 0.5 * M.min(axis=(1, 2)) < 0.5 * np.finfo(np.float64).max
    if not finite.all():
        i = int(np.flatnonzero(~finite)[0])
        raise RlcError(f"{where}: {name} must be finite, with a finite range; game {i} is not.")
    return M


def _strategies(where: str, name: str, p: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Probabilities (N, ...) that are >= 0 and sum to 1 to 1e-6, or RlcError."""
    p = np.asarray(p, dtype=np.float64)
    require(p.shape == shape, f"{where}: {name} has shape {p.shape}, not {shape}.")
    total = p.sum(axis=tuple(range(1, p.ndim)))
    good = bool((p >= -1e-9).all() and (np.abs(total - 1.0) <= 1e-6).all())
    require(good, f"{where}: {name} must hold probabilities that sum to 1.")
    return p
