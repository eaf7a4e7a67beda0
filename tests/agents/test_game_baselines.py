"""Baselines for zero-sum games: equations by hand and by loops, gaps that fall and gaps that cannot, resuming."""

from __future__ import annotations

import json

import numpy as np
import pytest
from agents_common import batches, same
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix_game import PENNIES, MatrixGame

from rl_contrastive.agents.baselines.independent_q import IndependentQ, IndependentQConfig
from rl_contrastive.agents.baselines.lsvi_game import RidgeModel
from rl_contrastive.agents.baselines.nash_q import NashQ, NashQConfig
from rl_contrastive.agents.baselines.q_learning import Episodes, QTable, StepSize
from rl_contrastive.errors import RlcError
from rl_contrastive.features.decoder import DecoderConfig
from rl_contrastive.planning import optimistic_games
from rl_contrastive.planning.games import duality_gap
from rl_contrastive.runs.oracle import make_oracle
from rl_contrastive.runs.rollout import play
from rl_contrastive.spec import EnvSpec, Transition, marginals

NAMES = ("nash-vi", "lsvi-game", "nash-q", "independent-q")
OPTIMISTIC = ("nash-vi", "lsvi-game")
Q_LEARNERS = {"nash-q": (NashQ, NashQConfig), "independent-q": (IndependentQ, IndependentQConfig)}
SMALL = {"num_states": 5, "num_actions": 2, "num_opponent_actions": 3, "horizon": 3, "rank": 2}
LOCK = {"horizon": 2, "num_actions": 3}


def gap(agent, *, explore: bool = False) -> float:
    """Exact duality gap of the agent's marginals on a tabular game."""
    model = agent.env.exact()
    H, S, _ = model.r.shape
    joint = np.stack([agent.policy(np.arange(S), h, explore=explore) for h in range(H)])
    mu, nu = marginals(joint, model.players)
    return duality_gap(model, mu[:, :, None], nu[:, :, None]).gap


def on_matrix(name: str, payoff=PENNIES, *, horizon: int = 1, rich: bool = False, seed: int = 0, **fields):
    """A Q-learner on a matrix game."""
    agent, config = Q_LEARNERS[name]
    made = config(**fields)
    return agent(MatrixGame(made.batch, payoff, horizon=horizon, rich=rich), made, seed=seed)


def scripted(agent, actions) -> None:
    """One batch of one-row episodes of the joint actions given."""
    for step in play(agent.env, [0] * agent.batch, lambda obs, h: np.array(actions)):
        agent.observe(step)
    agent.update()


# Q-learning by hand.


@pytest.mark.parametrize("step", [StepSize(0.3, 4), StepSize(1.0, 4), StepSize(None, 4)])
def test_what_is_kept_is_the_product_of_what_each_visit_keeps(step):
    for k in range(6):
        for m in range(max(k, 1), 9):
            visits = np.arange(k + 1.0, m + 1.0)
            expected = np.prod(1.0 - step.alpha(visits)) if len(visits) else 1.0
            assert step.kept(np.array(float(k)), np.array(float(m))) == pytest.approx(expected, abs=1e-12)
    assert StepSize(None, 4).alpha(np.array([1.0, 2.0])).tolist() == [1.0, 5 / 6]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.floats(-5, 5)), min_size=1, max_size=30),
    cut=st.integers(0, 30),
    alpha=st.sampled_from([None, 0.25, 1.0]),
)
def test_many_rows_at_once_equal_one_after_the_other(rows, cut, alpha):
    z, a, y = (np.array(column) for column in zip(*rows, strict=True))
    at_once = QTable(2, 3, 2, StepSize(alpha, 2))
    at_once.learn(1, z[:cut], a[:cut], y[:cut])
    at_once.learn(1, z[cut:], a[cut:], y[cut:])
    Q, n = np.zeros((3, 2)), np.zeros((3, 2))
    for i, j, target in rows:
        n[i, j] += 1
        step = alpha if alpha is not None else 3.0 / (2.0 + n[i, j])
        Q[i, j] += step * (target - Q[i, j])
    np.testing.assert_allclose(at_once.Q[1], Q, atol=1e-12)
    np.testing.assert_array_equal(at_once.visits[1], n)
    assert not at_once.Q[0].any()


def test_independent_q_by_hand():
    """Two steps of [[1, 0], [0, .5]], alpha 1/2. Episode (a, b) = (0, 0), then (1, 1).

    1: r = 1: Q1_1(0) = .5, max Q1_1 = .5: Q1_0(0) = .75; the minimiser's Q2_1 = (.5, 0), min 0: Q2_0(0) = .5.
    2: r = .5: Q1_1(1) = .25, Q1_0(1) = (.5 + .5) / 2 = .5; Q2_1(1) = .25, Q2_0(1) = (.5 + .25) / 2 = .375.
    """
    agent = on_matrix("independent-q", [[1.0, 0.0], [0.0, 0.5]], horizon=2, batch=1, alpha=0.5)
    scripted(agent, [0])
    scripted(agent, [3])
    np.testing.assert_allclose(agent.max_player.Q[:, 0], [[0.75, 0.5], [0.5, 0.25]])
    np.testing.assert_allclose(agent.min_player.Q[:, 0], [[0.5, 0.375], [0.5, 0.25]])
    np.testing.assert_allclose(agent.policy(np.array([0]), 0), [[0, 1, 0, 0]])  # a = 0 is best, b = 1 is least


def test_nash_q_by_hand():
    """All four joint actions of pennies over two steps, alpha 1: Q_1 = pennies, V_1 = 1/2, Q_0 = pennies + 1/2."""
    agent = on_matrix("nash-q", horizon=2, batch=4, alpha=1.0, epsilon=0.2)
    scripted(agent, [0, 1, 2, 3])
    np.testing.assert_allclose(agent.table.Q[:, 0], [[1.5, 0.5, 0.5, 1.5], [1.0, 0.0, 0.0, 1.0]])
    np.testing.assert_allclose(agent.V[:, 0], [1.0, 0.5])
    np.testing.assert_allclose(agent.policy(np.array([0]), 1), [[0.25] * 4])


def test_nash_q_of_a_pure_equilibrium_explores_with_epsilon():
    """[[3, 2], [1, 0]]: max plays 0, min plays 1; each deviates with probability epsilon / 2 = .1."""
    agent = on_matrix("nash-q", [[3.0, 2.0], [1.0, 0.0]], batch=4, alpha=1.0, epsilon=0.2)
    scripted(agent, [0, 1, 2, 3])
    assert agent.V[0, 0] == pytest.approx(2.0)
    np.testing.assert_allclose(agent.policy(np.array([0]), 0), [[0, 1, 0, 0]])
    np.testing.assert_allclose(agent.policy(np.array([0]), 0, explore=True), [[0.09, 0.81, 0.01, 0.09]])


def test_one_table_for_all_steps_by_hand():
    """The same games pooled: step 1 first, then step 0 on top of it, with the value that step 1 has just given."""
    agent = on_matrix("independent-q", [[1.0, 0.0], [0.0, 0.5]], horizon=2, batch=1, alpha=0.5, pool=True)
    scripted(agent, [0])
    # max: .5, then (.5 + 1 + .5) / 2 = 1; min: .5, then (.5 + 1 + min(.5, 0)) / 2 = .75.
    np.testing.assert_allclose(agent.max_player.Q, [[[1.0, 0.0]]])
    np.testing.assert_allclose(agent.min_player.Q, [[[0.75, 0.0]]])
    nash = on_matrix("nash-q", horizon=2, batch=4, alpha=1.0, pool=True)
    scripted(nash, [0, 1, 2, 3])
    np.testing.assert_allclose(nash.table.Q, [[[1.5, 0.5, 0.5, 1.5]]])
    np.testing.assert_allclose(nash.V, [[1.0]])
    np.testing.assert_allclose(nash.policy(np.array([0]), 1), [[0.25] * 4])


def test_a_terminal_is_worth_nothing_more():
    agent = on_matrix("nash-q", horizon=2, batch=2, alpha=1.0)
    zeros, alive = np.zeros(2, dtype=int), np.ones(2, dtype=bool)
    last = Transition(1, zeros, zeros, np.ones(2), zeros, np.ones(2), alive, alive)
    first = Transition(0, zeros, np.array([0, 1]), np.ones(2), zeros, np.array([0.0, 1.0]), ~alive, alive)
    agent.observe(first), agent.observe(last), agent.update()
    # V_1 is the value of Q_1 = [[1, 0], [0, 0]], which is 0: let the minimiser have no way out instead.
    np.testing.assert_allclose(agent.table.Q[0, 0], [1.0, 1.0, 0.0, 0.0])
    agent.observe(Transition(1, zeros, np.array([1, 1]), np.ones(2), zeros, np.ones(2), alive, alive))
    agent.observe(first), agent.update()
    assert agent.V[1, 0] == pytest.approx(1.0)
    np.testing.assert_allclose(agent.table.Q[0, 0], [1.0, 2.0, 0.0, 0.0])  # ended: 1; went on: 1 + V_1


def test_stored_rows_come_oldest_first_after_a_ring_wrapped():
    env = MatrixGame(4, horizon=1, rich=True)
    data = Episodes(env.env_spec, DecoderConfig(), capacity=10, growth=0.1)
    zeros, alive = np.zeros((4, 2)), np.ones(4, dtype=bool)
    for k in range(4):  # 16 rows into a ring of 10: 6, ..., 15 are left
        reward = np.arange(4.0 * k, 4.0 * k + 4.0)
        data.add(Transition(0, zeros, np.zeros(4, dtype=int), reward, zeros, np.ones(4), alive, alive))
    redecoded, parts = data.take()
    assert redecoded.tolist() == [0]
    assert parts[0].reward.tolist() == list(range(6, 16))
    assert data.take()[1] == []  # nothing grew and the batch is over


def test_an_environment_may_reuse_its_arrays():
    """What was observed is copied: here the next observations are written over the old ones."""
    agent = on_matrix("nash-q", [[1.0, 2.0], [3.0, 4.0]], horizon=1, batch=2, alpha=1.0)
    shared, alive = np.zeros(2, dtype=int), np.ones(2, dtype=bool)
    action, reward = np.array([0, 3]), np.array([1.0, 4.0])
    agent.observe(Transition(0, shared, action, reward, shared, np.zeros(2), alive, alive))
    shared[:], action[:], reward[:] = 9, 1, 7.0
    agent.update()
    np.testing.assert_allclose(agent.table.Q[0, 0], [1.0, 0.0, 0.0, 4.0])


# Plans against loops.


def test_nash_vi_plan_against_loops(make_agent):
    agent = make_agent("nash-vi", "low-rank-game", env=SMALL, batch=20, c=0.2)
    batches(agent, 0, 4)
    H, S, AB = 3, 5, 6
    dense, N, r = agent.table.counts.dense(), agent.table.visits, agent.table.reward
    sigma = agent.planned.explore
    upper, lower = np.zeros((H + 1, S)), np.zeros((H + 1, S))
    for h in range(H - 1, -1, -1):
        for s in range(S):
            q_upper, q_lower = np.zeros(AB), np.zeros(AB)
            for j in range(AB):
                n = N[h, s, j]
                if n == 0:
                    q_upper[j], q_lower[j] = H - h, 0.0
                    continue
                b = 0.2 * (H - h) / np.sqrt(n)
                q_upper[j] = min(r[h, s, j] + dense[h, s, j] @ upper[h + 1] / n + b, H - h)
                q_lower[j] = max(r[h, s, j] + dense[h, s, j] @ lower[h + 1] / n - b, 0.0)
            upper[h, s], lower[h, s] = sigma[h, s] @ q_upper, sigma[h, s] @ q_lower
            table = sigma[h, s].reshape(2, 3)
            # No player gains by leaving sigma: the CCE conditions, one deviation at a time.
            for a in range(2):
                assert table.sum(axis=0) @ q_upper.reshape(2, 3)[a] <= upper[h, s] + 1e-9
            for b in range(3):
                assert table.sum(axis=1) @ q_lower.reshape(2, 3)[:, b] >= lower[h, s] - 1e-9
    np.testing.assert_allclose(agent.planned.V_upper, upper[0], atol=1e-9)
    np.testing.assert_allclose(agent.planned.V_lower, lower[0], atol=1e-9)
    np.testing.assert_allclose(agent.certificate(np.array([2, 0])), (upper - lower)[0, [2, 0]], atol=1e-9)


@pytest.mark.long
def test_pooled_nash_vi_counts_all_steps_but_the_last(make_agent):
    """The horizon ends the last step, whatever its kernel: counted, it would look like a way to leave the game."""
    env = {**SMALL, "stationary": True}
    agent = make_agent("nash-vi", "low-rank-game", env=env, batch=20)
    seen = np.zeros((5, 6, 5))

    def count(t):
        if t.h < 2:
            np.add.at(seen, (t.obs, t.action, t.next_obs), 1)

    batches(agent, 0, 10, each=count)
    np.testing.assert_array_equal(agent.table.counts.dense(), seen[None])
    visited = seen.sum(axis=2) > 0
    np.testing.assert_allclose(agent.table.model().rows(0).sum(axis=2)[visited], 1.0)
    assert agent.policy(np.arange(5), 2).shape == (5, 6)
    gaps = np.zeros(2)
    for seed in range(3):
        for pool in (True, False):
            env = {**SMALL, "num_states": 15, "num_actions": 3, "horizon": 6, "stationary": True, "game_seed": seed}
            other = make_agent("nash-vi", "low-rank-game", env=env, batch=20, pool=pool)
            batches(other, 0, 20)
            gaps[int(pool)] += gap(other)
    assert gaps[1] < 0.6 * gaps[0]  # five times the data


def test_ridge_by_counts_equals_ridge_by_rows(make_agent):
    agent = make_agent("lsvi-game", "low-rank-game", env=SMALL, batch=10, growth=1e9)
    rows: list[list[tuple[int, int, int]]] = [[], [], []]
    batches(agent, 0, 3, each=lambda t: rows[t.h].extend(zip(t.obs, t.action, t.next_obs, strict=True)))
    agent.table.refresh()
    model = RidgeModel(agent.phi, agent.elliptical.inverse, agent.table.model().counts)
    V = np.random.default_rng(0).normal(size=(5, 2))
    for h in range(2):  # the last step is followed by nothing
        features = np.stack([agent.phi[h, s, j] for s, j, _ in rows[h]])
        d = features.shape[1]
        w = np.linalg.solve(np.eye(d) + features.T @ features, features.T @ np.stack([V[t] for _, _, t in rows[h]]))
        np.testing.assert_allclose(model.expect(h, V), agent.phi[h] @ w, atol=1e-10)
        np.testing.assert_allclose(model.rows(h) @ V, agent.phi[h] @ w, atol=1e-10)


# Learning.


@pytest.mark.long
def test_gaps_fall_on_random_games(make_agent):
    """3000 episodes, two games: true features best, counts and Nash-Q behind; independent Q and uniform play stay away
    (by their mean: an equilibrium of a game may happen to be nearly pure)."""
    gaps: dict[str, list[float]] = {}
    for seed in range(2):
        env = {**SMALL, "num_actions": 3, "game_seed": seed}
        for name in (*NAMES, "uniform"):
            agent = make_agent(name, "low-rank-game", seed=seed, env=env, batch=50)
            batches(agent, 0, 60)
            gaps.setdefault(name, []).append(gap(agent))
    assert max(gaps["lsvi-game"]) < 0.03
    assert max(gaps["nash-vi"]) < 0.08
    assert max(gaps["nash-q"]) < 0.15
    assert min(np.mean(gaps["independent-q"]), np.mean(gaps["uniform"])) > 0.2, gaps


def test_independent_q_cannot_solve_pennies_and_nash_q_does():
    """Greedy policies are pure and each can be exploited for 1/2 by either side, whatever was learned; while the
    learners' own policies go round."""
    independent, nash = on_matrix("independent-q", alpha=0.1), on_matrix("nash-q", alpha=0.1)
    best = []
    for k in range(60):
        batches(independent, k, 1)
        batches(nash, k, 1)
        best.append(int(independent.policy(np.array([0]), 0)[0].argmax()))
        if k >= 10:
            assert gap(independent) == pytest.approx(1.0)
    assert len(set(best)) == 4  # all four pairs of pure policies
    assert gap(nash) < 1e-4


@pytest.mark.parametrize("seed", range(2))
def test_q_learners_run_on_decoded_observations(seed, make_agent):
    """The duel lock of two steps: with the same decoded states Nash-Q finds how to mix, independent Q cannot."""
    gaps = {}
    for name in Q_LEARNERS:
        agent = make_agent(name, "duel-lock", seed=seed, env={**LOCK, "delta": 0.2, "lock_seed": seed}, batch=50)
        batches(agent, 0, 50)
        gaps[name] = make_oracle(agent.env.exact(), np.random.default_rng(0)).metrics(agent)["gap"]
    assert gaps["nash-q"] < 0.12
    assert gaps["independent-q"] > 0.4


def test_nash_vi_needs_ties_evened_on_the_lock(make_agent, monkeypatch):
    """Where bonuses fill the range all joint actions tie, and a vertex is the same one after each plan."""
    gaps = []
    for even in (True, False):
        if not even:
            monkeypatch.setattr(optimistic_games, "_evened", lambda sigma, upper, lower: sigma)
        agent = make_agent("nash-vi", "duel-lock", env={"horizon": 3, "observation": "state"})
        np.testing.assert_allclose(agent.policy(np.array([0]), 0, explore=True) == 1 / 25, even)
        batches(agent, 0, 40)
        gaps.append(gap(agent))
    assert gaps[0] < 0.2
    assert gaps[1] > 0.5


def test_the_certificate_covers_with_a_bonus_and_not_without(make_agent):
    model = None
    for c, sign in ((0.3, 1), (0.0, -1)):
        agent = make_agent("nash-vi", "low-rank-game", env=SMALL, batch=20, c=c, epsilon=0.2)
        model = agent.env.exact()
        spare = []
        for k in range(25):
            batches(agent, k, 1)
            plan = agent.planned.explore
            mu, nu = marginals(plan, model.players)
            true = duality_gap(model, mu[:, :, None], nu[:, :, None]).gap
            spare.append(float(model.rho @ agent.certificate(np.arange(5))) - true)
        assert (min(spare) >= 0) if sign > 0 else (max(spare) < 0)


@pytest.mark.parametrize("name", OPTIMISTIC)
def test_optimism_of_both_players_at_a_large_bonus_and_its_loss_without(name, make_agent):
    for c, sign in ((3.0, 1), (0.0, -1)):
        agent = make_agent(name, "low-rank-game", env=SMALL, batch=20, c=c)
        worst = np.inf
        for k in range(20):
            batches(agent, k, 1)
            worst = min(worst, *agent.exact_metrics(agent.env.exact()).values())
        assert (worst >= -1e-12) if sign > 0 else (worst < -0.01)


@pytest.mark.parametrize("name", [*NAMES, "uniform"])
def test_policies_are_distributions_and_products(name, make_agent):
    agent = make_agent(name, "low-rank-game", env=SMALL, batch=20)
    batches(agent, 0, 5)
    for h in range(3):
        joint = agent.policy(np.arange(5), h)
        np.testing.assert_allclose(joint.sum(axis=1), 1.0, atol=1e-12)
        mu, nu = marginals(joint, (2, 3))
        np.testing.assert_allclose(joint.reshape(5, 2, 3), mu[:, :, None] * nu[:, None], atol=1e-12)
        np.testing.assert_allclose(agent.policy(np.arange(5), h, explore=True).sum(axis=1), 1.0, atol=1e-12)


# State.


CASES = [(name, "low-rank-game", SMALL) for name in (*NAMES, "uniform")]
CASES += [(name, "duel-lock", LOCK) for name in (*Q_LEARNERS, "uniform")]


@pytest.mark.parametrize(("name", "env_name", "fields"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_a_restored_agent_continues_to_the_bit(name, env_name, fields, make_agent):
    whole, first, second, other = (make_agent(name, env_name, seed=s, env=fields, batch=10) for s in (3, 3, 3, 4))
    batches(whole, 0, 9)
    batches(first, 0, 4)
    state = first.state_dict()
    json.dumps(state, default=lambda leaf: leaf.tolist() if isinstance(leaf, np.ndarray) else 1 / 0)
    second.load_state_dict(state)
    assert same(second.state_dict(), first.state_dict())
    batches(second, 4, 5)
    assert same(second.state_dict(), whole.state_dict())
    batches(other, 0, 9)
    assert not same(other.state_dict(), whole.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_state_with_a_missing_key_or_a_wrong_shape_is_refused(name, make_agent):
    agent = make_agent(name, "low-rank-game", env=SMALL)
    state = agent.state_dict()
    for key in state:
        with pytest.raises(RlcError, match="lacks"):
            agent.load_state_dict({k: v for k, v in state.items() if k != key})
    with pytest.raises(RlcError, match="shape"):
        make_agent(name, "low-rank-game", env={**SMALL, "horizon": 2}).load_state_dict(state)


# Bad input.


@pytest.mark.parametrize("name", OPTIMISTIC)
def test_rich_observations_are_refused_in_one_sentence(name, make_agent):
    with pytest.raises(RlcError, match=rf"{name} needs tabular observations, but duel-lock has"):
        make_agent(name, "duel-lock")


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_of_one_agent_is_refused(name, make_agent):
    with pytest.raises(RlcError, match=f"^{name} is made for games"):
        make_agent(name, "probe-match")


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("nash-vi", {"c": float("nan")}, "c must be (>= 0|finite)"),
        ("nash-vi", {"epsilon": 1.5}, "epsilon must lie in"),
        ("lsvi-game", {"lam": 0.0}, "lam must be > 0"),
        ("lsvi-game", {"reward": "linear"}, "must be one of"),
        ("independent-q", {"alpha": 0.0}, "independent-q: alpha must lie in"),
        ("nash-q", {"alpha": 1.5}, "nash-q: alpha must lie in"),
        ("nash-q", {"decay_episodes": -1}, "decay_episodes must be >= 0"),
        ("independent-q", {"decoder_growth": 0.0}, "decoder_growth must be > 0"),
    ],
)
def test_impossible_values(name, fields, sentence, make_agent):
    with pytest.raises(RlcError, match=sentence):
        make_agent(name, "low-rank-game", env=SMALL, **fields)


def test_episodes_that_end_before_the_horizon_leave_steps_without_rows():
    """Vector observations, of steps that no episode reached: there is nothing to label, and nothing breaks."""
    spec = EnvSpec("short", 4, 5, (2,), "float64", players=(2, 2))
    data = Episodes(spec, DecoderConfig(), capacity=100, growth=0.1)
    rng, n = np.random.default_rng(0), 60
    for h in range(2):
        obs, after = rng.standard_normal((2, n, 2))
        ended = np.full(n, h == 1)
        data.add(Transition(h, obs, rng.integers(4, size=n), np.ones(n), after, 1.0 - ended, ended, np.ones(n, bool)))
    redecoded, parts = data.take()
    assert redecoded.tolist() == [0, 1, 2]
    assert [(rows.h, len(rows.z)) for rows in parts] == [(2, 0), (1, n), (0, n)]
