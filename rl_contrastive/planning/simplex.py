"""The simplex method for thousands of small linear programmes at once: each step pivots every programme once.

A matrix game is the packing programme (Dantzig 1951; Chvatal, Linear Programming, 1983, ch. 15)

    max 1'w  s.t.  P w <= 1, w >= 0,   P (m, n) > 0:   w / 1'w minimises max_i (P w)_i, and the value is 1 / 1'w,

whose dual variables u >= 0 (P'u >= 1) give the other player's strategy u / 1'u. Its start w = 0 is feasible, so there
is no phase one, and P > 0 makes it bounded. It has two forms, both in float64 (float32 loses the vertex):

- `packing`: the condensed tableau, (m+1) x (n+1) numbers a programme.
- `correlated_packing`: the revised simplex for D of a pair of games, (A+B) x AB, which never builds D: a step keeps
  the (A+B) x (A+B) inverse of the basis and prices all joint actions by two small products.

Solved programmes leave the batch. No arithmetic mixes programmes, so a result does not depend on its neighbours.
Dantzig's rule (steepest reduced cost) is fast but may cycle on ties. After CALM (m+n) pivots Bland's rule (lowest
label, which cannot cycle) takes over. A programme that is not optimal within CAP (m+n) pivots is reported as unsolved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_contrastive.spec import BoolArray, FloatArray, IntArray

OPTIMAL = 1e-11
"""A reduced cost above -OPTIMAL counts as >= 0; entries of P are of order 1."""
PIVOT = 1e-10
"""Smaller entries of the entering column count as 0."""
SLACK = 1e-13
"""Basic variables this close to 0 count as 0. This is rounding, far below the tolerance of a certificate."""
CALM = 3
"""Dantzig's rule for CALM (m+n) pivots, Bland's from there on."""
CAP = 10
"""At most CAP (m+n) pivots."""
_LAST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Packing:
    """Optimal vertices of N programmes."""

    w: FloatArray
    """(N, n) primal variables; meaningless where not solved."""
    u: FloatArray
    """(N, m) dual variables, likewise."""
    solved: BoolArray
    """(N,) optimality was reached."""
    basis: IntArray
    """(N, m) labels of the last basis: 0..n-1 columns of P, n..n+m-1 slacks."""
    pivots: int
    """Steps of the slowest programme."""


def packing(P: FloatArray, *, basis: IntArray | None = None) -> Packing:
    """max 1'w s.t. P w <= 1, w >= 0 for N matrices P (N, m, n) > 0, by the condensed tableau.

    basis (N, m): start there instead of at w = 0, with a fresh tableau, because pivots on near ties lose digits.

    The tableau T (m+1, n+1, N) writes basic variables through nonbasic ones, x_basic = T[:m, n] - T[:m, :n] x_nonbasic,
    with the reduced costs in row m. The batch is its last axis: every operation runs along thousands of programmes.
    """
    N, m, n = P.shape
    T, basic, nonbasic = _tableau_of_slacks(P) if basis is None else _tableau_of(P, basis)
    live, last = np.arange(N), basic.T.copy()
    primal, dual, solved = np.zeros((N, n + m)), np.zeros((N, n + m)), np.zeros(N, dtype=np.bool_)
    c, done = _entering(T[m, :n], nonbasic, calm=True)
    if basis is None:  # any column may enter, all cost -1: the best pure strategy is often nearly right
        c = _first(T[:m, :n].max(axis=0))
    stuck = np.zeros(N, dtype=np.bool_)
    for pivots in range(CAP * (m + n) + 1):
        out = done | stuck
        if out.any():
            rows = live[out]
            last[rows], solved[rows] = basic[:, out].T, ~stuck[out]
            primal[rows, basic[:, out]] = T[:m, n, out]
            dual[rows, nonbasic[:, out]] = T[m, :n, out].T
            keep = ~out
            T = np.ascontiguousarray(T[..., keep])
            basic, nonbasic = np.ascontiguousarray(basic[:, keep]), np.ascontiguousarray(nonbasic[:, keep])
            live, c = live[keep], c[keep]
        if not live.size:
            break
        here, calm = np.arange(live.size), pivots < CALM * (m + n)
        r, stuck = _leaving(T[:m, c, here], T[:m, n], basic, calm=calm)
        _exchange(T, r, c)
        basic[r, here], nonbasic[c, here] = nonbasic[c, here], basic[r, here]
        c, done = _entering(T[m, :n], nonbasic, calm=calm)
    return Packing(primal[:, :n], dual[:, n:], solved, last, pivots)


def _tableau_of_slacks(P: FloatArray) -> tuple[FloatArray, IntArray, IntArray]:
    """T (m+1, n+1, N) of w = 0, and the labels basic (m, N) and nonbasic (n, N)."""
    N, m, n = P.shape
    T = np.zeros((m + 1, n + 1, N))
    T[:m, :n] = P.transpose(1, 2, 0)
    T[:m, n], T[m, :n] = 1.0, -1.0
    return T, np.repeat(np.arange(n, n + m)[:, None], N, axis=1), np.repeat(np.arange(n)[:, None], N, axis=1)


def _tableau_of(P: FloatArray, basis: IntArray) -> tuple[FloatArray, IntArray, IntArray]:
    """The same for a basis (N, m), after `_repair`, or for the slacks where the basis is singular."""
    N, m, n = P.shape
    full = np.concatenate([P, np.broadcast_to(np.eye(m), (N, m, m)), np.ones((N, m, 1))], axis=2)  # P, slacks, 1
    repeated = (np.diff(np.sort(basis, axis=1), axis=1) == 0).any(axis=1)
    singular = np.linalg.slogdet(np.take_along_axis(full, basis[:, None], axis=2))[0] == 0.0
    basis = np.where((repeated | singular)[:, None], np.arange(n, n + m), basis)
    outside = np.ones((N, n + m + 1), dtype=np.bool_)
    np.put_along_axis(outside, basis, False, axis=1)
    columns = np.nonzero(outside)[1].reshape(N, n + 1)  # nonbasic variables, then the right-hand side
    rest = np.take_along_axis(full, columns[:, None], axis=2)
    rest = np.linalg.solve(np.take_along_axis(full, basis[:, None], axis=2), rest)  # (N, m, n+1)
    T = np.empty((m + 1, n + 1, N))
    T[:m] = rest.transpose(1, 2, 0)
    T[m] = ((basis < n).astype(np.float64)[:, None] @ rest)[:, 0].T  # 1'w of what is basic
    T[m, :n] -= (columns[:, :n] < n).T
    basic, nonbasic = np.ascontiguousarray(basis.T), np.ascontiguousarray(columns[:, :n].T)
    _repair(T, basic, nonbasic)
    return T, basic, nonbasic


def _repair(T: FloatArray, basic: IntArray, nonbasic: IntArray) -> None:
    """Dual simplex in place: a basis that is optimal up to lost digits may have x_basic < 0 and costs >= 0.

    The most negative variable leaves. The ratio of the costs chooses the entering one among the entries < 0 in its row.
    """
    m, n = len(basic), len(nonbasic)
    for _ in range(m + n):
        rows = np.flatnonzero(T[:m, n].min(axis=0) < -SLACK)
        if not rows.size:
            break
        part, here = T[..., rows], np.arange(rows.size)
        r = _first(part[:m, n])
        c, stuck = _leaving(-part[r, :n, here].T, part[m, :n], nonbasic[:, rows], calm=True)
        if stuck.all():
            break
        rows, r, c, part = rows[~stuck], r[~stuck], c[~stuck], np.ascontiguousarray(part[..., ~stuck])
        _exchange(part, r, c)
        T[..., rows] = part
        basic[r, rows], nonbasic[c, rows] = nonbasic[c, rows], basic[r, rows]
    T[:m, n] = np.maximum(T[:m, n], 0.0)  # the rest counts as rounding; the certificate checks it


def _first(values: FloatArray) -> IntArray:
    """Index of the smallest value along axis 0, the first of several; argmin itself is slow along a leading axis."""
    return np.asarray((values == values.min(axis=0)).argmax(axis=0), dtype=np.int64)


def _entering(cost: FloatArray, labels: IntArray, *, calm: bool) -> tuple[IntArray, BoolArray]:
    """Which nonbasic variable grows, and whether none may: cost, labels (n, N) -> (N,), (N,)."""
    lowest = cost.min(axis=0)
    choice = cost == lowest if calm else labels == np.where(cost < -OPTIMAL, labels, _LAST).min(axis=0)
    return np.asarray(choice.argmax(axis=0), dtype=np.int64), lowest >= -OPTIMAL


def _leaving(column: FloatArray, rhs: FloatArray, labels: IntArray, *, calm: bool) -> tuple[IntArray, BoolArray]:
    """Which basic variable falls to 0 first, and whether none does (rounding only: P > 0); (m, N) -> (N,), (N,).

    Of those within SLACK of the first the largest pivot wins (Harris 1973), because small pivots amplify rounding.
    """
    falls = column > PIVOT
    safe = np.where(falls, column, 1.0)
    ratio = np.where(falls, np.maximum(rhs, 0.0), np.inf) / safe
    tied = ratio <= (ratio + SLACK / safe).min(axis=0)
    if calm:
        pivot = np.where(tied, column, 0.0)
        choice = pivot == pivot.max(axis=0)
    else:
        choice = tied & (labels == np.where(tied, labels, _LAST).min(axis=0))
    return np.asarray(choice.argmax(axis=0), dtype=np.int64), np.asarray(~falls.any(axis=0))


def _exchange(T: FloatArray, r: IntArray, c: IntArray) -> None:
    """Swap basic r and nonbasic c in place: with p = T[r, c],

    T[r, c] = 1/p,  T[r, j] = T[r, j]/p,  T[i, c] = -T[i, c]/p,  T[i, j] = T[i, j] - T[i, c] T[r, j]/p.
    """
    here = np.arange(r.size)
    column = T[:, c, here]  # (m+1, N)
    p = column[r, here]
    p = np.where(np.abs(p) > PIVOT, p, 1.0)  # a programme that is stuck leaves after this step
    row = T[r, :, here].T / p  # (n+1, N)
    row[c, here] = 1.0 / p
    column[r, here] = -1.0  # so that the one product below writes row r as well
    T[:, c, here] = 0.0
    T[r, :, here] = 0.0
    T -= column[:, None] * row[None]


def correlated_packing(U: FloatArray, L: FloatArray) -> Packing:
    """`packing` of P = D + 2 for N pairs U, L (N, A, B) with D in [-1, 1] (see `deviations`), by the revised simplex.

    E (N, m+1, m+1) with m = A + B holds the inverse of the basis, the right-hand side, the duals y = (y_A, y_B) and the
    value. Reduced costs of all joint actions at once:

        y'P_(a,b) - 1 = (y_A'U)_b - (1'y_A) U(a,b) + (1'y_B) L(a,b) - (L y_B)_a + 2 (1'y) - 1;   of slack i: y_i.
    """
    N, A, B = U.shape
    m, n = A + B, A * B
    E = np.zeros((N, m + 1, m + 1))
    E[:, :m, :m], E[:, :m, m] = np.eye(m), 1.0
    basic = np.repeat(np.arange(n, n + m)[None], N, axis=0)  # labels: 0..n-1 joint actions, n..n+m-1 slacks
    live = np.arange(N)
    primal, dual, solved = np.zeros((N, n + m)), np.zeros((N, m)), np.zeros(N, dtype=np.bool_)
    last = basic.copy()
    pivots = 0
    # Any cell may enter first: the one with the smallest deviation gain is often in the support.
    gain = np.maximum(U.max(axis=1, keepdims=True) - U, L - L.min(axis=2, keepdims=True)).reshape(N, n)
    c = gain.argmin(axis=1)
    cost = np.full(N, -1.0)
    while live.size and pivots < CAP * (m + n):
        here = np.arange(live.size)
        column = _column(E, U, L, c)  # (N, m): of the basis times P_c
        r, stuck = _leaving(column.T, E[:, :m, m].T, basic.T, calm=pivots < CALM * (m + n))
        p = column[here, r]
        row = E[here, r] / np.where(p > PIVOT, p, 1.0)[:, None]
        E -= np.concatenate([column, cost[:, None]], axis=1)[:, :, None] * row[:, None]
        E[here, r] = row
        basic[here, r] = c
        pivots += 1
        c, cost = _price(E[:, m, :m], U, L, basic, calm=pivots < CALM * (m + n))
        done = cost >= -OPTIMAL
        out = done | stuck
        if out.any():
            rows = live[out]
            last[rows], solved[rows], dual[rows] = basic[out], ~stuck[out], E[out, m, :m]
            primal[rows[:, None], basic[out]] = E[out, :m, m]
            keep = ~out
            E, U, L, basic = E[keep], U[keep], L[keep], basic[keep]
            live, c, cost = live[keep], c[keep], cost[keep]
    return Packing(primal[:, :n], dual, solved, last, pivots)


def deviations(U: FloatArray, L: FloatArray) -> FloatArray:
    """D (N, A+B, AB): rows a' hold U(a',b) - U(a,b), rows A+b' hold L(a,b) - L(a,b'), of every joint action (a, b)."""
    N, A, B = U.shape
    of_max = U[:, :, None, :] - U[:, None]  # (N, a', a, b)
    of_min = L[:, None] - L.transpose(0, 2, 1)[:, :, :, None]  # (N, b', a, b)
    return np.concatenate([of_max.reshape(N, A, A * B), of_min.reshape(N, B, A * B)], axis=1)


def _column(E: FloatArray, U: FloatArray, L: FloatArray, c: IntArray) -> FloatArray:
    """The inverse of the basis times column c of (P, I): (N, m)."""
    N, A, B = U.shape
    here = np.arange(N)
    a, b = np.divmod(np.minimum(c, A * B - 1), B)
    P_c = np.concatenate([U[here, :, b] - U[here, a, b, None], L[here, a, b, None] - L[here, a]], axis=1) + 2.0
    slack = c >= A * B
    if slack.any():
        P_c[slack] = np.eye(A + B)[c[slack] - A * B]
    return np.asarray((E[:, : A + B, : A + B] @ P_c[:, :, None])[:, :, 0])


def _price(y: FloatArray, U: FloatArray, L: FloatArray, basic: IntArray, *, calm: bool) -> tuple[IntArray, FloatArray]:
    """The entering label (N,) and its reduced cost (N,); y (N, A+B)."""
    N, A, B = U.shape
    y_max, y_min = y[:, :A], y[:, A:]
    sum_max, sum_min = y_max.sum(axis=1), y_min.sum(axis=1)
    joint = sum_min[:, None, None] * L - sum_max[:, None, None] * U
    joint += (y_max[:, None] @ U) + (2.0 * (sum_max + sum_min) - 1.0)[:, None, None]
    joint -= L @ y_min[:, :, None]
    costs = np.concatenate([joint.reshape(N, A * B), y], axis=1)
    costs[np.arange(N)[:, None], basic] = 0.0  # rounding would let them enter twice
    c = costs.argmin(axis=1) if calm else (costs < -OPTIMAL).argmax(axis=1)
    return c, costs[np.arange(N), c]
