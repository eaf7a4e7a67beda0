"""Soccer: each rule on positions worked out by hand, the tables against a second writing of the rules, exact values."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import stats

from rl_contrastive.config import from_dict
from rl_contrastive.envs import soccer
from rl_contrastive.envs.soccer import MOVES, OVER, PLAYERS, Position, SoccerConfig, SoccerEnv, decode, encode
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.equilibrium import nash
from rl_contrastive.registry import get
from rl_contrastive.spec import joint_action

GOAL_MAX, GOAL_MIN = "goal max", "goal min"


def state(x: tuple[int, int], y: tuple[int, int], ball: int) -> int:
    """State of maximiser at (row, column) x, minimiser at y."""
    cells = tuple(np.array([5 * row + column]) for row, column in (x, y))
    return int(encode(Position(cells, np.array([ball]), np.array([-1])))[0])


def outcomes(x, y, ball: int, a: str, b: str) -> list:
    """What happens if the maximiser moves first, and if the minimiser does: (x, y, ball) or a goal."""
    successor, reward = soccer.tables()
    index = state(x, y, ball), int(joint_action(MOVES.index(a), MOVES.index(b), PLAYERS))
    out = []
    for s, r in zip(successor[index], reward[index], strict=True):
        if s == OVER:
            out.append({1.0: GOAL_MAX, -1.0: GOAL_MIN}[r])
        else:
            assert r == 0.0
            position = decode(s)
            out.append((*[divmod(int(c), 5) for c in position.cells], int(position.ball)))
    return out


def test_states_are_numbered_without_gap_or_shared_cell():
    position = decode(np.arange(OVER))
    assert np.all(position.cells[0] != position.cells[1])
    np.testing.assert_array_equal(encode(position), np.arange(OVER))
    assert OVER == 20 * 19 * 2


@pytest.mark.parametrize(
    ("x", "y", "ball", "a", "b", "first", "second"),
    [
        # Apart from each other: the order does not matter; edges are walls.
        ((1, 3), (2, 1), 0, "north", "west", ((0, 3), (2, 0), 0), None),
        ((0, 4), (3, 0), 1, "north", "south", ((0, 4), (3, 0), 1), None),
        ((0, 4), (3, 0), 1, "east", "west", ((0, 4), (3, 0), 1), None),
        ((1, 3), (2, 1), 1, "south", "stand", ((2, 3), (2, 1), 1), None),
        # Into a player that stands: the mover stays, and the ball changes hands if the mover has it.
        ((1, 3), (1, 2), 0, "west", "stand", ((1, 3), (1, 2), 1), None),
        ((1, 3), (1, 2), 1, "west", "stand", ((1, 3), (1, 2), 1), None),
        ((1, 3), (1, 2), 1, "stand", "east", ((1, 3), (1, 2), 0), None),
        # Face to face, both step into the other (no swap of cells). Whoever has the ball loses it to the other at its
        # turn; the first to move with the ball gets it back at the other's turn.
        ((1, 3), (1, 2), 0, "west", "east", ((1, 3), (1, 2), 0), ((1, 3), (1, 2), 1)),
        ((1, 3), (1, 2), 1, "west", "east", ((1, 3), (1, 2), 0), ((1, 3), (1, 2), 1)),
        # One follows the other: it gets the cell only if the other has left it. Else the ball goes forward.
        ((1, 3), (1, 2), 0, "west", "west", ((1, 3), (1, 1), 1), ((1, 2), (1, 1), 0)),
        ((1, 3), (1, 2), 0, "east", "east", ((1, 4), (1, 3), 0), ((1, 4), (1, 2), 0)),
        # Both want the same free cell: the first gets it; the second bumps into the first.
        ((1, 3), (1, 1), 0, "west", "east", ((1, 2), (1, 1), 0), ((1, 3), (1, 2), 1)),
        ((1, 3), (1, 1), 1, "west", "east", ((1, 2), (1, 1), 0), ((1, 3), (1, 2), 1)),
        # Goals: the maximiser on the left, the minimiser on the right, through rows 1 and 2, with the ball.
        ((1, 0), (3, 3), 0, "west", "stand", GOAL_MAX, None),
        ((2, 0), (3, 3), 0, "west", "north", GOAL_MAX, None),
        ((0, 0), (3, 3), 0, "west", "stand", ((0, 0), (3, 3), 0), None),
        ((3, 0), (3, 3), 0, "west", "stand", ((3, 0), (3, 3), 0), None),
        ((1, 0), (3, 3), 1, "west", "stand", ((1, 0), (3, 3), 1), None),
        ((1, 4), (3, 3), 0, "east", "stand", ((1, 4), (3, 3), 0), None),
        ((3, 3), (2, 4), 1, "stand", "east", GOAL_MIN, None),
        ((3, 3), (1, 4), 1, "stand", "east", GOAL_MIN, None),
        ((3, 3), (0, 4), 1, "stand", "east", ((3, 3), (0, 4), 1), None),
        ((3, 3), (1, 0), 1, "stand", "west", ((3, 3), (1, 0), 1), None),
        # In front of a goal, and the other steps in.
        ((1, 0), (1, 1), 0, "west", "west", GOAL_MAX, None),  # the minimiser has no ball to hand over
        ((1, 0), (2, 0), 1, "west", "north", ((1, 0), (2, 0), 0), GOAL_MAX),
    ],
)
def test_moves_worked_out_by_hand(x, y, ball, a, b, first, second):
    expected = [first, first if second is None else second]
    assert outcomes(x, y, ball, a, b) == expected


def by_the_rules(s: int, a: int, b: int, first: int) -> tuple[int, float]:
    """Littman's paragraph once more, for one state, in plain Python."""
    place = {0: divmod(s // 2 // 19, 5)}
    rest = s // 2 % 19
    place[1] = divmod(rest + (rest >= s // 2 // 19), 5)
    ball = s % 2
    for player in (first, 1 - first):
        row, column = place[player]
        row, column = {
            "north": (row - 1, column),
            "south": (row + 1, column),
            "east": (row, column + 1),
            "west": (row, column - 1),
            "stand": (row, column),
        }[MOVES[(a, b)[player]]]
        if (row, column) == place[1 - player]:
            ball = 1 - player
        elif 0 <= row < 4 and 0 <= column < 5:
            place[player] = (row, column)
        elif ball == player and row in (1, 2) and column == (-1, 5)[player]:
            return OVER, (1.0, -1.0)[player]
    return state(place[0], place[1], ball), 0.0


def test_tables_are_the_rules_for_every_state_action_and_order():
    successor, reward = soccer.tables()
    for s in range(OVER):
        for action in range(25):
            for first in (0, 1):
                found = successor[s, action, first], reward[s, action, first]
                assert found == by_the_rules(s, *divmod(action, 5), first)
    assert np.all(successor[OVER] == OVER)
    assert not reward[OVER].any()


def turned(s: np.ndarray) -> np.ndarray:
    """The state after turning the pitch by 180 degrees and renaming the players."""
    position = decode(s)
    x, y = position.cells
    return encode(Position((19 - y, 19 - x), 1 - position.ball, position.scored))


def test_the_game_is_symmetric_so_its_value_is_zero():
    env = SoccerEnv(SoccerConfig(), 1)
    V = env.exact().V
    s = np.arange(OVER)
    np.testing.assert_allclose(V[:, turned(s)], -V[:, s], atol=1e-9)
    assert env.env_spec.optimal_return == pytest.approx(0.0, abs=1e-9)
    with_ball, without = V[0, soccer.start_states()]
    assert with_ball > 0.1  # having the ball is worth something
    assert with_ball == pytest.approx(-without, abs=1e-9)


def test_exact_model_is_a_game_whose_values_satisfy_the_nash_equations():
    config = SoccerConfig(horizon=6, draw=0.2)
    env = SoccerEnv(config, 1)
    model = env.exact()
    assert model.players == env.env_spec.players == (5, 5)
    assert model.P.shape == (6, 761, 25, 761)
    np.testing.assert_allclose(model.P[0].sum(axis=-1), 1.0, atol=1e-12)
    np.testing.assert_array_equal(model.P[0, OVER, :, OVER], 1.0)
    assert model.V[:, OVER].tolist() == [0.0] * 7
    for h in range(6):
        Q = model.r[h] + model.P[h] @ model.V[h + 1]
        np.testing.assert_allclose(model.Q[h], Q, atol=1e-12)
        np.testing.assert_allclose(model.V[h], nash(Q.reshape(-1, 5, 5)).value, atol=1e-9)
    assert np.abs(model.V).max() <= 1.0
    # One move left, with the ball before an open goal: it scores. Before a wall: nothing.
    assert model.V[5, state((1, 0), (3, 3), 0)] == pytest.approx(1.0)
    assert model.V[5, state((0, 0), (3, 3), 0)] == pytest.approx(0.0)
    # Two moves left and nobody near: step in front of the goal, survive the draw, score.
    assert model.V[4, state((1, 1), (3, 4), 0)] == pytest.approx(0.8)
    # One move left, the ball far from its goal: nobody scores, unless the ball is handed over by mistake.
    assert model.V[5, state((1, 0), (2, 0), 1)] == pytest.approx(0.0)


@functools.cache
def discounted_values(gamma: float) -> np.ndarray:
    """V (760,) of Littman's infinite game by Shapley's value iteration, from the second writing of the rules."""
    table = np.array([[[by_the_rules(s, *divmod(ab, 5), f) for f in (0, 1)] for ab in range(25)] for s in range(OVER)])
    successor, reward = table[..., 0].astype(int), table[..., 1]
    V = np.zeros(OVER + 1)
    for _ in range(250):
        Q = (reward + gamma * V[successor]).mean(axis=2)
        before, V = V, np.append(nash(Q.reshape(-1, 5, 5)).value, 0.0)
    assert np.abs(V - before).max() < 1e-10
    return V


@pytest.mark.long
@pytest.mark.parametrize("horizon", [10, 30, 120])
def test_a_long_horizon_gives_littmans_discounted_game(horizon):
    V, _ = soccer.values(0.1, horizon)
    assert np.abs(V[0] - discounted_values(0.9)).max() <= 0.9**horizon
    assert np.abs(V[0] - discounted_values(0.8)).max() > 0.05  # the comparison can fail


def test_no_deterministic_policy_is_safe():
    """In some states the best pure strategy guarantees less than the value: what makes the game a game."""
    V, Q = soccer.values(0.1, 30)
    pure = Q.reshape(30, -1, 5, 5).min(axis=3).max(axis=2)
    assert np.all(pure <= V[:-1] + 1e-9)
    assert (V[0] - pure[0] > 0.01).sum() > 20


def play(env: SoccerEnv, seed: int, steps: int) -> list[tuple]:
    rng = np.random.default_rng(1)
    rows = [(env.reset(seed=seed)[0],)]
    for _ in range(steps):
        s = env.latent_states()
        action = rng.integers(25, size=env.num_envs)
        rows.append((s, action, *env.step(action)[:3]))
    return rows


def test_steps_follow_the_exact_model():
    n = 60_000
    env = SoccerEnv(SoccerConfig(horizon=8), n)
    model = env.exact()
    first, *steps = play(env, 5, 8)
    counts = np.bincount(first[0], minlength=761)
    assert set(np.flatnonzero(counts)) == set(soccer.start_states())
    assert stats.binomtest(int(counts[soccer.start_states()[0]]), n).pvalue > 1e-3
    over = np.zeros(n, bool)
    p_values = []
    for s, action, t, reward, terminated in steps:
        pairs, times = np.unique((s * 25 + action)[~over], return_counts=True)
        for pair in pairs[np.argsort(-times)[:40]]:
            rows = ~over & (s * 25 + action == pair)
            p = model.P[0, pair // 25, pair % 25]
            seen = np.bincount(t[rows], minlength=761)
            assert not seen[p == 0].any()
            if np.count_nonzero(p) > 1:
                p_values.append(stats.chisquare(seen[p > 0], p[p > 0] * rows.sum()).pvalue)
        s_r = reward[~over] - model.r[0].ravel()[(s * 25 + action)[~over]]
        assert abs(s_r.sum()) < 5 * np.sqrt(1 + np.sum(s_r**2))
        over = over | terminated
    assert len(p_values) > 200
    assert min(p_values) > 1e-3 / len(p_values)
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4


def test_goals_and_draws_end_rows_on_their_own_clock():
    env = SoccerEnv(SoccerConfig(horizon=12, draw=0.05), 300)
    env.reset(seed=0)
    clock, over, scored = np.zeros(300, int), np.zeros(300, bool), 0
    rng = np.random.default_rng(0)
    for _ in range(300):
        obs, reward, terminated, truncated, _ = env.step(rng.integers(25, size=300))
        clock = np.where(over, 0, clock + 1)
        assert not truncated.any()
        np.testing.assert_array_equal(obs[over], np.where(np.isin(obs[over], soccer.start_states()), obs[over], -1))
        np.testing.assert_array_equal(terminated[~over], ((obs == OVER) | (clock == 12))[~over])
        assert not terminated[over].any()
        assert np.all(obs[reward != 0] == OVER)
        scored += np.count_nonzero(reward)
        over = terminated
    assert scored > 50


def test_without_draws_only_goals_and_the_horizon_end_the_game():
    env = SoccerEnv(SoccerConfig(draw=0.0, horizon=30), 200)
    env.reset(seed=0)
    stand = np.full(200, 24)
    for h in range(30):
        _, reward, terminated, _, _ = env.step(stand)
        assert terminated.tolist() == [h == 29] * 200
        assert not reward.any()
    P = env.exact().P[0]
    assert not P[:OVER, 24, OVER].any()


def test_a_batch_equals_singles_with_the_same_seeds():
    config = SoccerConfig(horizon=7)
    actions = np.random.default_rng(0).integers(25, size=(40, 4))
    batch = SoccerEnv(config, 4)
    many = [batch.reset(seed=[5, 9, 2, 5])[0], *[np.array(batch.step(a)[:3]) for a in actions]]
    for row, seed in enumerate([5, 9, 2, 5]):
        single = SoccerEnv(config, 1)
        one = [single.reset(seed=[seed])[0], *[np.array(single.step(a[row : row + 1])[:3]) for a in actions]]
        for x, y in zip(many, one, strict=True):
            np.testing.assert_array_equal(x[..., row], y[..., 0])


def test_the_picture_shows_players_ball_and_goal():
    env = SoccerEnv(SoccerConfig(draw=0.0), 2)
    env.reset(seed=[0, 1])
    env._state = np.array([state((1, 0), (3, 3), 0), state((1, 0), (3, 3), 1)])
    frame = env.render()
    assert frame.dtype == np.uint8
    assert frame.shape == (200, 264, 3)
    orange, blue = [tuple(c) for c in soccer_colours()]
    assert centroid(frame[20:180, 32:232], orange) == pytest.approx((60, 20), abs=4)  # row 1, column 0, of 40 pixels
    assert centroid(frame[20:180, 32:232], blue) == pytest.approx((140, 140), abs=2)
    assert not np.array_equal(frame, env.render(1))  # the ball is elsewhere
    difference = np.argwhere((frame != env.render(1)).any(axis=2))
    assert difference.min(axis=0)[0] > 20 + 40
    west = int(joint_action(MOVES.index("west"), MOVES.index("stand"), PLAYERS))
    _, reward, terminated, _, _ = env.step(np.array([west, west]))
    assert reward.tolist() == [1.0, 0.0]
    assert terminated.tolist() == [True, False]
    lit = np.all(env.render()[61:139, :31] == orange, axis=2).sum()
    assert lit > 4 * np.all(frame[61:139, :31] == orange, axis=2).sum() * 0.7


def soccer_colours():
    from rl_contrastive.envs.soccer_picture import COLOURS

    return COLOURS


def centroid(frame: np.ndarray, colour) -> tuple[float, float]:
    where = np.argwhere(np.all(frame == colour, axis=2))
    return tuple(where.mean(axis=0))


@pytest.mark.parametrize(
    ("fields", "words"), [({"draw": 1.0}, "draw"), ({"draw": -0.1}, "draw"), ({"horizon": 0}, "horizon")]
)
def test_bad_configs_are_refused(fields, words):
    entry, _ = get("env", "soccer")
    with pytest.raises(RlcError, match=words):
        from_dict(entry.config, fields)
