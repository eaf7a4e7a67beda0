"""Baselines: equations against brute force, probes solved, optimism needed, state that continues to the bit."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from agents_common import batches, same
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rl_contrastive.agents.base import grew_by
from rl_contrastive.agents.baselines.epsilon_greedy import design, linear_values
from rl_contrastive.envs.adapters.gym_adapter import GymConfig, GymEnv
from rl_contrastive.errors import RlcError
from rl_contrastive.features.steps import StepStore
from rl_contrastive.features.tables import EmpiricalModel, StateTable
from rl_contrastive.planning.bounds import ReturnBounds
from rl_contrastive.planning.lsvi import plan_ridge
from rl_contrastive.registry import get
from rl_contrastive.runs.evaluate import exact_evaluation
from rl_contrastive.runs.loop import train
from rl_contrastive.spec import EnvSpec, StepData, Transition

TABULAR = ("ucbvi", "lsvi-ucb", "epsilon-greedy")
PROBES = (
    "probe-constant",
    "probe-observation",
    "probe-delay",
    "probe-action",
    "probe-match",
    "probe-terminal",
    "probe-truncation",
)
SMALL = {"num_states": 6, "num_actions": 3, "horizon": 4, "rank": 2}
SEEDS = range(5)


def table(horizon: int, num_states: int, num_actions: int) -> StateTable:
    """An empty table of states."""
    return StateTable(EnvSpec("x", num_actions, horizon, (), "int64", num_states=num_states))


def transition(h: int, rows: list[tuple[int, int, float, int, float]], alive=None) -> Transition:
    """Rows (s, a, r, s', discount)."""
    s, a, r, s_next, discount = (np.array(column) for column in zip(*rows, strict=True))
    everyone = np.ones(len(rows), dtype=bool)
    alive = everyone if alive is None else np.array(alive, dtype=bool)
    return Transition(h, s, a, r.astype(float), s_next, discount.astype(float), ~everyone, alive)


# Counts and the empirical model.


def test_counts_by_hand():
    seen = table(2, 3, 2)
    seen.add(transition(0, [(0, 1, 0.5, 2, 1), (0, 1, 1.5, 1, 1), (0, 1, 1.0, 2, 0), (1, 0, 9.0, 0, 1)], [1, 1, 1, 0]))
    seen.refresh()
    assert seen.visits[0, 0, 1] == 3
    assert seen.rows().tolist() == [3, 0]  # the row that was not alive left no trace
    assert seen.reward[0, 0, 1] == 1.0
    # Two of three transitions went on: to 2 and to 1. The terminal one adds a visit and no successor.
    np.testing.assert_allclose(seen.model().rows(0)[0, 1], [0, 1 / 3, 1 / 3])
    np.testing.assert_allclose(seen.model().expect(0, np.array([9.0, 3.0, 6.0]))[0], [0.0, 3.0])
    np.testing.assert_allclose(seen.counts.dense()[0, 0, 1], [0, 1, 2])  # with the ends
    np.testing.assert_allclose(seen.alive[0], [1.0, 1.0, 0.5])


def test_an_end_belongs_to_its_pair_and_survives_a_checkpoint():
    """Both actions arrive in state 1, one of them always ends there: the model must not share the blame."""
    seen, other = table(1, 2, 2), table(1, 2, 2)
    seen.add(transition(0, [(0, 0, 0.0, 1, 1), (0, 1, 0.0, 1, 0), (0, 1, 0.0, 1, 0)]))
    other.load_state_dict(seen.state_dict())
    seen.refresh()
    for made in (seen, other):
        np.testing.assert_array_equal(made.model().rows(0)[0], [[0, 1], [0, 0]])
        np.testing.assert_allclose(made.alive[0], [1, 1 / 3])
        assert made.rows().tolist() == [3]


def test_nan_reward_is_refused():
    with pytest.raises(RlcError, match="NaN"):
        table(1, 2, 2).add(transition(0, [(0, 0, np.nan, 1, 1)]))


def test_counts_merged_late_equal_counts_merged_at_each_step():
    rng = np.random.default_rng(0)
    late, early = table(2, 5, 2), table(2, 5, 2)
    for _ in range(20):
        rows = [(int(rng.integers(5)), int(rng.integers(2)), 0.0, int(rng.integers(5)), 1) for _ in range(7)]
        for seen in (late, early):
            seen.add(transition(int(rng.integers(1)), rows))
        early.refresh()
        np.testing.assert_array_equal(early.counts.total(), early.rows())
    late.refresh()
    np.testing.assert_array_equal(late.counts.dense(), early.counts.dense())


def test_empirical_model_equals_its_table():
    rng = np.random.default_rng(1)
    seen = table(1, 4, 3)
    seen.add(transition(0, [(*rng.integers([4, 3]), 0.0, int(rng.integers(4)), 1) for _ in range(50)]))
    seen.refresh()
    model: EmpiricalModel = seen.model()
    V = rng.normal(size=4)
    np.testing.assert_allclose(model.expect(0, V), model.rows(0) @ V, atol=1e-14)


def test_lazy_planning():
    assert grew_by(1, 0, 0.05)
    assert not grew_by(104, 100, 0.05)
    assert grew_by(105, 100, 0.05)
    assert not grew_by(100, 100, 0.0)
    assert grew_by(101, 100, 0.0)


def test_reward_bounds_contain_zero_and_need_no_declaration():
    def spec(low: float, high: float) -> EnvSpec:
        return EnvSpec("x", 2, 3, (), "int64", num_states=2, reward_range=(low, high))

    assert ReturnBounds(spec(0.5, 2.0), None).reward() == (0.0, 2.0)
    assert ReturnBounds(spec(-3.0, -1.0), None).reward() == (-3.0, 0.0)
    assert ReturnBounds(spec(0.0, 1.0), 7.0).reward() == (0.0, 7.0)
    unknown = ReturnBounds(spec(-np.inf, np.inf), None)
    assert unknown.reward() == (0.0, 1.0)  # nothing was paid yet
    unknown.note(np.array([-5.0, -1.0]))
    assert unknown.reward() == (-5.0, 0.0)
    unknown.note(np.array([50.0]))
    assert (unknown.reward(), unknown.unit) == ((-5.0, 50.0), 55.0)
    assert unknown.returns()[1].tolist() == [150.0, 100.0, 50.0]
    again = ReturnBounds(spec(-np.inf, np.inf), None)
    again.load_state_dict(unknown.state_dict())
    assert again.reward() == unknown.reward()


class Chain(gym.Env):
    """Action 0 takes half a unit and ends the episode, action 1 walks on; cell 8 pays one unit. Bounds: undeclared."""

    observation_space, action_space = gym.spaces.Discrete(9), gym.spaces.Discrete(2)

    def __init__(self, unit: float) -> None:
        self.unit = unit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = 0
        return 0, {}

    def step(self, action):
        if action == 0:
            return self.cell, 0.5 * self.unit, True, False, {}
        self.cell += 1
        return self.cell, self.unit * (self.cell == 8), self.cell == 8, False, {}


@pytest.mark.parametrize("unit", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("agent", ["contrastive-ucb", "ucbvi"])
def test_the_scale_of_rewards_need_not_be_declared(agent, unit):
    """F06: with rewards of 100 and no word of it, values were clipped at H and every action tied."""
    entry, _ = get("agent", agent)
    config = entry.config()
    rows = SyncVectorEnv([lambda: Chain(unit)] * config.batch, autoreset_mode=AutoresetMode.SAME_STEP)
    env = GymEnv(rows, GymConfig(id="Chain"), 12)
    result = entry.factory(env, config, seed=1).learn(episodes=2000, eval_episodes=20, exact="never")
    assert result.final_return == pytest.approx(unit)
    assert result.history[-1]["agent/reward_high"] == pytest.approx(unit)


# Plans against brute force.


def test_ucbvi_plan_against_loops(make_agent):
    """Q_h = min(H - h, r + sum_s' N(s,a,s')/N(s,a) V + c H / sqrt(N)) written as loops over stored transitions."""
    agent = make_agent("ucbvi", "low-rank", env=SMALL, c=0.1, growth=0.0)
    batches(agent, 0, 6)
    H, S, A = 4, 6, 3
    dense, N = agent.table.counts.dense(), agent.table.visits
    V = np.zeros(S)
    for h in reversed(range(H)):
        Q = np.full((S, A), float(H - h))
        for s in range(S):
            for a in range(A):
                n = N[h, s, a]
                if n > 0:
                    mean = agent.table.reward_sum[h, s, a] / n
                    Q[s, a] = min(H - h, mean + dense[h, s, a] @ V / n + 0.1 * H / np.sqrt(n))
        V = Q.max(axis=1)
        np.testing.assert_allclose(agent.planned.V[h], V, atol=1e-12)
        np.testing.assert_array_equal(agent.planned.explore[h].argmax(axis=1), Q.argmax(axis=1))


def test_hoeffding_bonus_by_hand(make_agent):
    agent = make_agent("ucbvi", "low-rank", env=SMALL, c=1.0, bonus="hoeffding", delta=0.1)
    agent.table.visits[2, 3, 1] = 4.0
    L = np.log(5 * 6 * 3 * 4 / 0.1)
    assert agent.bonus()[2, 3, 1] == pytest.approx(7 * 4 * L / 2, rel=1e-12)
    assert np.isinf(agent.bonus()[0, 0, 0])


def recorded_levels(agent, iterations: int) -> StepData:
    """Play and also keep the transitions one by one."""
    store = StepStore(agent.env_spec)
    observe = agent.observe
    agent.observe = lambda t: (store.add(t), observe(t))[1]
    batches(agent, 0, iterations)
    return store.data()


def test_lsvi_ucb_by_sufficient_statistics_equals_the_papers_sums(make_agent):
    """`plan` (sums over pairs) against `plan_ridge` (sums over all stored visits), with the reward regressed."""
    agent = make_agent("lsvi-ucb", "low-rank", env={**SMALL, "reward": "linear"}, reward="linear", growth=0.0, c=0.2)
    data = recorded_levels(agent, 8)
    phi = agent.phi
    bonus = agent.elliptical.bonuses(phi, 0.2 * 4, cap=4.0)
    h = np.arange(4)[:, None]
    following = np.minimum(h + 1, 3)
    w = plan_ridge(
        phi[h, data.obs, data.action],
        data.reward,
        phi[following, data.next_obs],
        bonus[following, data.next_obs],
        data.discount,
        data.count,
        lam=1.0,
        cap=agent.cap,
    )
    Q = np.clip(np.einsum("hsad,hd->hsa", phi, w) + bonus, 0.0, agent.cap[:, None, None])
    np.testing.assert_allclose(agent.plan(bonus).Q, Q, atol=1e-9)


def test_lsvi_ucb_covariance_counts_each_visit_once(make_agent):
    agent = make_agent("lsvi-ucb", "low-rank", env=SMALL)
    data = recorded_levels(agent, 5)
    for h in range(4):
        phi = agent.phi[h, data.obs[h, : data.count[h]], data.action[h, : data.count[h]]]
        np.testing.assert_allclose(agent.elliptical.Sigma[h], np.eye(2) + phi.T @ phi, atol=1e-10)


def test_onehot_lsvi_ucb_has_the_bonus_of_counts(make_agent):
    agent = make_agent("lsvi-ucb", "low-rank", env=SMALL, features="onehot", reward="table")
    batches(agent, 0, 5)
    expected = 1.0 / np.sqrt(1.0 + agent.table.visits)
    np.testing.assert_allclose(agent.elliptical.norms(agent.phi), expected, atol=1e-10)


def test_linear_values_equal_ridge_on_block_features():
    """One regression per action = `plan_ridge` on phi(x, a) = one-hot(a) (x) (x, 1)."""
    rng = np.random.default_rng(2)
    H, N, D, A = 3, 40, 2, 3
    obs, next_obs = rng.normal(size=(2, H, N, D))
    action, reward = rng.integers(A, size=(H, N)), rng.random((H, N))
    discount = (rng.random((H, N)) > 0.2).astype(float)
    count = np.array([40, 31, 17])
    w = linear_values(StepData(obs, action, reward, next_obs, discount, count), A, lam=0.5)
    z, z_next = (np.stack([design(level) for level in x]) for x in (obs, next_obs))
    eye = np.eye(A)
    phi = np.einsum("hna,hnd->hnad", eye[action], z).reshape(H, N, -1)
    phi_next = np.einsum("ba,hnd->hnbad", eye, z_next).reshape(H, N, A, -1)
    expected = plan_ridge(phi, reward, phi_next, np.zeros((H, N, A)), discount, count, lam=0.5)
    np.testing.assert_allclose(w, expected.reshape(H, A, D + 1).swapaxes(1, 2), atol=1e-10)


# Learning, with negative controls.


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("name", TABULAR)
def test_probes_are_solved_exactly_in_100_episodes(name, probe, seed, make_agent):
    # Bonus and epsilon are large enough for 100 episodes: at first, staying in probe-terminal looks .5 worse.
    fields = {"ucbvi": {}, "lsvi-ucb": {"c": 1.0}, "epsilon-greedy": {"epsilon": 0.3}}[name]
    agent = make_agent(name, probe, seed=seed, **fields)
    batches(agent, 0, 10)
    model = agent.env.exact()
    assert exact_evaluation(agent, model, explore=False) == pytest.approx(model.optimal_return, abs=1e-9)


@pytest.mark.parametrize("probe", ["probe-action", "probe-match", "probe-terminal"])
def test_uniform_solves_no_probe_that_needs_an_action(probe, make_agent):
    agent = make_agent("uniform", probe)
    batches(agent, 0, 2)
    model = agent.env.exact()
    assert exact_evaluation(agent, model, explore=False) < model.optimal_return - 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_ucbvi_solves_deep_sea_and_needs_its_bonus(seed, make_agent):
    """N = 10 within 200 episodes on every seed; c = 0 and epsilon-greedy reach the treasure on none."""

    def value(name: str, **fields) -> float:
        agent = make_agent(name, "deep-sea", seed=seed, env={"size": 10}, batch=2, **fields)
        batches(agent, 0, 100)
        return exact_evaluation(agent, agent.env.exact(), explore=False)

    assert value("ucbvi", c=0.005) > 0.98
    assert value("ucbvi", c=0.0) < 0.1
    assert value("epsilon-greedy") < 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_true_features_beat_counts_on_a_low_rank_mdp(seed, make_agent):
    """Gap below 1% of V* after 400 episodes with phi; counts (3000 unknowns) are at least ten times as far."""
    gaps = {}
    for name in ("lsvi-ucb", "ucbvi"):
        agent = make_agent(name, "low-rank", seed=seed, env={"num_states": 100, "mdp_seed": seed}, batch=20)
        batches(agent, 0, 20)
        model = agent.env.exact()
        gaps[name] = 1.0 - exact_evaluation(agent, model, explore=False) / model.optimal_return
    assert gaps["lsvi-ucb"] < 0.01
    assert gaps["ucbvi"] > max(10 * gaps["lsvi-ucb"], 0.05)


@pytest.mark.parametrize("name", ["ucbvi", "lsvi-ucb"])
def test_optimism_at_a_theory_size_bonus_and_its_loss_without(name, make_agent):
    big = {"c": 1.0, "bonus": "hoeffding"} if name == "ucbvi" else {"c": 3.0}
    for fields, sign in ((big, 1), ({"c": 0.0}, -1)):
        agent = make_agent(name, "low-rank", env=SMALL, **fields)
        worst = np.inf
        for k in range(20):
            batches(agent, k, 1)
            worst = min(worst, agent.exact_metrics(agent.env.exact())["optimism"])
        assert (worst >= 0) if sign > 0 else (worst < -0.01)


def test_epsilon_greedy_learns_from_vectors_what_uniform_does_not(make_agent):
    """The lock of one step: the best action per observation is linear in the features."""
    returns = {}
    for name in ("epsilon-greedy", "uniform"):
        agent = make_agent(name, "combination-lock", env={"horizon": 1, "num_actions": 4}, batch=20)
        returns[name] = train(agent, agent.env, episodes=600, eval_every=600).final_return
    assert returns["epsilon-greedy"] > 0.95
    assert returns["uniform"] < 0.5


def test_epsilon_decays_to_its_final_value(make_agent):
    agent = make_agent("epsilon-greedy", "probe-action", epsilon=0.2, decay_episodes=40)
    seen = [agent.epsilon]
    for k in range(5):
        batches(agent, k, 1)
        seen.append(agent.epsilon)
    np.testing.assert_allclose(seen, [1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    np.testing.assert_allclose(agent.policy(np.array([0]), 0, explore=True), [[0.1, 0.9]])
    np.testing.assert_allclose(agent.policy(np.array([0]), 0), [[0.0, 1.0]])


# State.


CASES = [(name, "low-rank", SMALL) for name in (*TABULAR, "uniform")]
CASES += [(name, "combination-lock", {"horizon": 3}) for name in ("epsilon-greedy", "uniform")]


@pytest.mark.parametrize(("name", "env_name", "fields"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_a_restored_agent_continues_to_the_bit(name, env_name, fields, make_agent):
    whole, first, second = (make_agent(name, env_name, seed=3, env=fields) for _ in range(3))
    batches(whole, 0, 9)
    batches(first, 0, 4)
    state = first.state_dict()
    json.dumps(state, default=lambda leaf: leaf.tolist() if isinstance(leaf, np.ndarray) else 1 / 0)
    second.load_state_dict(state)
    assert same(second.state_dict(), first.state_dict())
    batches(second, 4, 5)
    assert same(second.state_dict(), whole.state_dict())
    # A negative control of the comparison: another seed gives another state.
    other = make_agent(name, env_name, seed=4, env=fields)
    batches(other, 0, 9)
    assert not same(other.state_dict(), whole.state_dict())


@pytest.mark.parametrize("name", [*TABULAR, "uniform"])
def test_a_state_with_a_missing_key_or_a_wrong_shape_is_refused(name, make_agent):
    agent, other = make_agent(name, "low-rank", env=SMALL), make_agent(name, "low-rank", env={**SMALL, "horizon": 3})
    state = agent.state_dict()
    for key in state:
        with pytest.raises(RlcError, match="lacks"):
            make_agent(name, "low-rank", env=SMALL).load_state_dict({k: v for k, v in state.items() if k != key})
    if name != "uniform":
        with pytest.raises(RlcError, match="shape"):
            other.load_state_dict(state)


# Bad input.


@pytest.mark.parametrize("name", ["ucbvi", "lsvi-ucb"])
def test_rich_observations_are_refused_in_one_sentence(name, make_agent):
    with pytest.raises(RlcError, match=rf"{name} needs tabular observations, but combination-lock has .* \(16,\)"):
        make_agent(name, "combination-lock")


def test_lsvi_ucb_needs_an_exact_model(make_agent):
    with pytest.raises(RlcError, match="no exact model"):
        make_agent("lsvi-ucb", "gym:CartPole-v1", env={"observation": "bins"})
    with pytest.raises(RlcError, match="d = S A <= 1000, got 1500"):
        make_agent("lsvi-ucb", "low-rank", env={"num_states": 300}, features="onehot")


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("ucbvi", {"c": -1.0}, "c must be (>= 0|finite)"),
        ("ucbvi", {"c": float("nan")}, "c must be (>= 0|finite)"),
        ("ucbvi", {"delta": 1.0}, "delta must lie in"),
        ("ucbvi", {"bonus": "bernstein"}, "must be one of"),
        ("lsvi-ucb", {"lam": 0.0}, "lam must be > 0"),
        ("lsvi-ucb", {"growth": -0.1}, "growth must be >= 0"),
        ("epsilon-greedy", {"epsilon": 1.5}, "epsilon must lie in"),
        ("uniform", {"batch": 0}, "batch must be >= 1"),
    ],
)
def test_impossible_values(name, fields, sentence, make_agent):
    with pytest.raises(RlcError, match=sentence):
        make_agent(name, "low-rank", **fields)
