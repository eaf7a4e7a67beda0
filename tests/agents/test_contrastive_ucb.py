"""contrastive-ucb against Algorithm 1: roll-in and stored data, Sigma, bonus, plan, metrics; and rep-ucb beside it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from agents_common import batches, same, uniform

from rl_contrastive.agents.contrastive_ucb import RepUCBConfig
from rl_contrastive.agents.ucb_config import ContrastiveUCBConfig
from rl_contrastive.errors import RlcError
from rl_contrastive.features.steps import StepStore
from rl_contrastive.planning.lsvi import plan_model

SMALL = {"num_states": 6, "num_actions": 3, "horizon": 4, "rank": 2}
LOCK = {"horizon": 3, "num_actions": 4}


def stored(agent, store: StepStore):
    """Make `agent` also keep what its model stores, transition by transition."""
    add = agent.model.add
    agent.model.add = lambda step, rows: (store.add(step, rows), add(step, rows))[1]
    return store


# 1. Roll-in.


@pytest.fixture(name="rolling")
def rolling_fixture(make_agent):
    """(agent, log): its planned action is always 0; log holds (t, h, actions, stored rows) of three large batches."""
    agent = make_agent("contrastive-ucb", "low-rank", env=SMALL, batch=2000, roll_in="paper")
    batches(agent, 0, 1)
    agent.model.q = lambda h, obs, *, explore: np.tile([1.0, 0.0, 0.0], (len(obs), 1))
    agent.config = ContrastiveUCBConfig(warm_start=10**9)  # no more fits: Q stays as it is
    log: list[tuple] = []
    agent.model.add = lambda step, rows: log.append((agent._t.copy(), step.h, step.action, rows))
    batches(agent, 1, 3)
    return agent, log


def test_exactly_steps_t_minus_1_and_t_are_uniform_and_stored(rolling):
    _, log = rolling
    assert [h for _, h, _, _ in log] == [0, 1, 2, 3] * 3
    D, D_tilde = [], []
    for t, h, action, rows in log:
        np.testing.assert_array_equal(rows, (h == t) | (h == t - 1))
        assert (action[~rows] == 0).all()  # pi_k, which always plays 0
        D.append(action[t == h])
        D_tilde.append(action[t == h + 1])
    for actions in (np.concatenate(D), np.concatenate(D_tilde)):
        assert len(actions) > 4000
        assert uniform(actions, 3)


def test_t_is_uniform_on_0_to_h(rolling):
    _, log = rolling
    t = np.concatenate([t for t, h, _, _ in log if h == 0])
    assert set(t) == {0, 1, 2, 3, 4}
    assert uniform(t, 5)


def test_the_two_uniform_actions_of_an_episode_are_independent(rolling):
    _, log = rolling
    pairs = []
    for (t, h, action, _), (_, _, following, _) in itertools.pairwise(log):
        if h < 3:
            pairs.append((3 * action + following)[t == h + 1])
    assert len(np.concatenate(pairs)) > 3000
    assert uniform(np.concatenate(pairs), 9)


def test_sizes_of_d_and_d_tilde(make_agent):
    """Step h gets one row from each episode of t = h (D) and of t = h + 1 (D~), t = H included."""
    agent = make_agent("contrastive-ucb", "low-rank", env=SMALL, batch=50, warm_start=50, roll_in="paper")
    batches(agent, 0, 1)
    assert agent.model.rows().tolist() == [50] * 4  # the warm start keeps everything
    expected = np.full(4, 50)
    for k in range(1, 6):
        batches(agent, k, 1)
        at = np.bincount(agent._t, minlength=5)
        expected += at[:4] + at[1:]
        np.testing.assert_array_equal(agent.model.rows(), expected)
    assert agent.report["rows"] == expected.sum()


def test_the_warm_start_is_uniform_and_lasts_as_long_as_it_says(make_agent):
    agent = make_agent("contrastive-ucb", "low-rank", env=SMALL, batch=50, warm_start=150)
    actions = []
    batches(agent, 0, 2, lambda step: actions.append(step.action))
    assert agent.version == 0
    np.testing.assert_array_equal(agent.policy(np.arange(6), 0), np.full((6, 3), 1 / 3))
    batches(agent, 2, 1, lambda step: actions.append(step.action))
    assert agent.version == 1
    assert uniform(np.concatenate(actions), 3)


def test_on_policy_follows_the_plan_to_the_end_and_stores_all(make_agent):
    agent = make_agent("contrastive-ucb", "low-rank", env=SMALL, batch=50, warm_start=50, roll_in="on-policy")
    batches(agent, 0, 3)

    def check(step):
        pi = agent.policy(step.obs, step.h, explore=True)
        assert (pi[np.arange(50), step.action] > 0).all()

    batches(agent, 3, 3, check)
    assert agent.model.rows().tolist() == [300] * 4


def test_growth_skips_fits_until_the_data_grew_enough(make_agent):
    agent = make_agent("contrastive-ucb", "low-rank", env=SMALL, batch=10, warm_start=10, growth=1.0)
    fitted = []
    for k in range(12):
        batches(agent, k, 1)
        fitted.append(agent.fitted_rows)
    steps = sorted(set(fitted))
    assert agent.version == len(steps) >= 3
    assert all(later >= 2 * earlier for earlier, later in itertools.pairwise(steps))


# 2.-4. Features, Sigma, bonus, plan on tables.


@pytest.mark.parametrize("roll_in", ["paper", "on-policy"])
def test_sigma_is_lambda_plus_the_sum_over_stored_rows(roll_in, make_agent):
    agent = make_agent("contrastive-ucb", "low-rank", env=SMALL, lam=0.7, roll_in=roll_in, learner={"dim": 3})
    data = stored(agent, StepStore(agent.env_spec))
    batches(agent, 0, 6)
    rows, phi = data.data(), agent.model.learned.features.phi_table
    for h in range(4):
        Sigma = 0.7 * np.eye(3)
        for s, a in zip(rows.obs[h, : rows.count[h]], rows.action[h, : rows.count[h]], strict=True):
            Sigma += np.outer(phi[h, s, a], phi[h, s, a])
        np.testing.assert_allclose(agent.model.learned.bonus.Sigma[h], Sigma, atol=1e-9)


def planned_by_hand(agent) -> np.ndarray:
    """(4) Q_h = clip(r-hat + min(gamma ||phi||, H) + P-hat V, 0, H - h), all loops written out."""
    model, config = agent.model, agent.config
    H, S, A, _ = model.learned.features.phi_table.shape
    N = model.learned.table.counts.pair_total()
    V = np.zeros(S)
    Q = np.zeros((H, S, A))
    for h in reversed(range(H)):
        P = model.learned.features.model().rows(h)
        for s in range(S):
            for a in range(A):
                phi = model.learned.features.phi_table[h, s, a]
                norm = np.sqrt(phi @ np.linalg.inv(model.learned.bonus.Sigma[h]) @ phi)
                if config.roll_in == "on-policy" and N[h, s, a] == 0:
                    norm = 1 / np.sqrt(config.lam)
                b = min(config.gamma * norm, H)
                value = model.learned.table.reward[h, s, a] + b + P[s, a] @ (model.learned.table.alive[h] * V)
                Q[h, s, a] = np.clip(value, 0.0, H - h)
        V = Q[h].max(axis=1)
    return Q


@pytest.mark.parametrize("roll_in", ["paper", "on-policy"])
def test_optimistic_values_by_hand(roll_in, make_agent):
    agent = make_agent("contrastive-ucb", "low-rank", env=SMALL, gamma=0.4, lam=0.5, roll_in=roll_in)
    batches(agent, 0, 4)
    np.testing.assert_allclose(agent.model.Q, planned_by_hand(agent), atol=1e-9)
    for h in range(4):
        pi = agent.policy(np.arange(6), h, explore=True)
        best = agent.model.Q[h].max(axis=1, keepdims=True) == agent.model.Q[h]
        np.testing.assert_allclose(pi, best / best.sum(axis=1, keepdims=True))


def test_greedy_values_are_the_same_recursion_without_bonus_or_clip(make_agent):
    agent = make_agent("contrastive-ucb", "low-rank", env=SMALL)
    batches(agent, 0, 4)
    model = agent.model
    plan = plan_model(model.learned.features.model(), model.learned.table.reward)
    np.testing.assert_allclose(model.Q_greedy, plan.Q)
    np.testing.assert_array_equal(agent.policy(np.arange(6), 1).argmax(axis=1), plan.Q[1].argmax(axis=1))
    assert (model.Q_greedy - 1e-12 <= model.Q).all()


def test_pairs_never_tried_look_new_in_on_policy_mode_only(make_agent):
    """gamma / sqrt(lambda) = .6 / 2 = .3 at the last step, where nothing follows and r-hat is 0."""
    values = {}
    for roll_in in ("paper", "on-policy"):
        agent = make_agent(
            "contrastive-ucb", "low-rank", env=SMALL, batch=4, warm_start=4, gamma=0.6, lam=4.0, roll_in=roll_in
        )
        batches(agent, 0, 1)
        unseen = agent.model.learned.table.counts.pair_total()[-1] == 0
        assert unseen.any()
        values[roll_in] = agent.model.Q[-1][unseen]
        assert (agent.model.Q_greedy[-1][unseen] == 0).all()
    np.testing.assert_allclose(values["on-policy"], 0.3)
    assert (values["paper"] < 0.3 - 1e-6).all()


def test_without_bonus_both_policies_agree(make_agent):
    agent = make_agent("contrastive-ucb", "low-rank", env=SMALL, gamma=0.0)
    batches(agent, 0, 4)
    np.testing.assert_allclose(agent.model.Q, agent.model.Q_greedy, atol=1e-12)
    assert agent.report["bonus"] == 0.0


def test_nothing_is_worth_anything_behind_a_terminal(make_agent):
    """probe-terminal: leaving at the first step pays 1.5 and no more, though staying looks good."""
    agent = make_agent("contrastive-ucb", "probe-terminal", gamma=0.0)
    batches(agent, 0, 4)
    np.testing.assert_allclose(agent.model.Q_greedy[:, 0, 0], [1.5, 1.5, 1.5], atol=1e-9)
    np.testing.assert_allclose(agent.model.Q_greedy[:, 0, 1], [3.5, 2.5, 1.0], atol=1e-9)


def test_known_rewards_replace_the_means(make_agent):
    agent = make_agent("contrastive-ucb", "low-rank", env={**SMALL, "reward": "linear"}, known_reward=True)
    batches(agent, 0, 2)
    r = agent.env.exact().r
    np.testing.assert_array_equal(agent.model.true_reward, r)
    np.testing.assert_allclose(agent.model.Q_greedy, plan_model(agent.model.learned.features.model(), r).Q)
    assert np.abs(agent.model.learned.table.reward - r).max() > 0.01  # the means differ


# Metrics.


def test_exact_metrics_by_hand(make_agent):
    agent = make_agent("contrastive-ucb", "low-rank", env=SMALL)
    model = agent.env.exact()
    assert agent.exact_metrics(model) == {}  # no model before the first fit
    batches(agent, 0, 5)
    metrics = agent.exact_metrics(model)
    assert metrics.keys() == {"tv", "optimism", "sin_angle"}
    N, fitted = agent.model.learned.table.counts.pair_total(), agent.model.learned.features.model()
    tv = [(N[h] * 0.5 * np.abs(fitted.rows(h) - model.P[h]).sum(axis=-1)).sum() / N[h].sum() for h in range(4)]
    assert metrics["tv"] == pytest.approx(np.mean(tv), abs=1e-12)
    assert metrics["optimism"] == pytest.approx(model.rho @ agent.model.Q[0].max(axis=1) - model.optimal_return)
    assert 0 <= metrics["sin_angle"] <= 1


def test_metrics_do_not_depend_on_when_a_checkpoint_was_taken(make_agent):
    """Rows that wait for the next fit are merged by a checkpoint; the numbers must be those without one."""
    plain, saved = (make_agent("contrastive-ucb", "low-rank", env=SMALL, growth=0.5) for _ in range(2))
    for k in range(6):
        for agent in (plain, saved):
            batches(agent, k, 1)
        saved.state_dict()
        assert plain.exact_metrics(plain.env.exact()) == saved.exact_metrics(saved.env.exact())
    assert plain.model.rows().sum() > plain.fitted_rows  # some rows did wait


def test_the_model_gets_better_with_data(make_agent):
    agent = make_agent("contrastive-ucb", "low-rank", env=SMALL, learner={"dim": 2})
    batches(agent, 0, 2)
    early = agent.exact_metrics(agent.env.exact())
    batches(agent, 2, 58)
    late = agent.exact_metrics(agent.env.exact())
    assert late["tv"] < 0.5 * early["tv"]
    assert late["sin_angle"] < 0.75 * early["sin_angle"]


# Vectors.


@pytest.fixture(name="vector")
def vector_fixture(make_agent):
    agent = make_agent("contrastive-ucb", "combination-lock", seed=10, env=LOCK, lam=0.5, growth=0.0)
    batches(agent, 0, 5)
    return agent


@pytest.mark.parametrize("explore", [True, False])
def test_vectors_are_planned_through_p_hat_by_hand(vector, explore):
    """One recursion for both: Q = clip(r-hat + b + sum_m P^-(o_m) psi(o_m)'phi V(o_m)), with b = 0 for what is handed
    out; P-hat is written out as a table over the stored successors, whose rows sum to 1."""
    model, data = vector.model, vector.model.store.data()
    V = np.zeros(data.action.shape[1])
    for h in reversed(range(3)):
        n = data.count[h]
        here = model.features.phi(h, data.obs[h, :n])  # (n, A, d)
        rows = here[np.arange(n), data.action[h, :n]]
        Sigma = 0.5 * np.eye(here.shape[2]) + rows.T @ rows
        np.testing.assert_allclose(model.bonus.Sigma[h], Sigma, rtol=1e-9, atol=1e-9)
        P_hat = (here @ model.features.psi(h, data.next_obs[h, :n]).T) / n  # (n, A, n)
        np.testing.assert_allclose(P_hat.sum(axis=2), 1.0, atol=1e-9)
        if h < 2:
            V = data.discount[h, :n] * np.clip(model.q(h + 1, data.next_obs[h, :n], explore=explore), 0.0, 2 - h).max(1)
        else:
            V = np.zeros(n)
        reward = here @ np.linalg.solve(Sigma, rows.T @ data.reward[h, :n])
        norm = np.sqrt(np.einsum("nad,de,nae->na", here, np.linalg.inv(Sigma), here))
        expected = reward + P_hat @ V + (np.minimum(norm, 3.0) if explore else 0.0)
        expected = np.clip(expected, 0.0, 3 - h) if explore else expected
        np.testing.assert_allclose(model.q(h, data.obs[h, :n], explore=explore), expected, atol=1e-7)
    assert vector.exact_metrics(vector.env.exact()) == {}


@pytest.fixture(name="ridge")
def ridge_fixture(make_agent):
    agent = make_agent(
        "contrastive-ucb", "combination-lock", seed=10, env=LOCK, representation="ridge", lam=0.5, growth=0
    )
    batches(agent, 0, 5)
    return agent


def test_the_ridge_variant_has_its_sigma_and_values_by_hand(ridge):
    """phi(o,a) of the observation itself; Q = clip(phi'w + b, 0, H - h), w = Sigma^-1 sum phi (r + V)."""
    model, data = ridge.model, ridge.model.table.store.data()
    V = np.zeros(data.action.shape[1])
    for h in reversed(range(3)):
        n = data.count[h]
        phi = np.stack([model.features.phi(h, data.obs[h, i : i + 1])[0, data.action[h, i]] for i in range(n)])
        Sigma = 0.5 * np.eye(phi.shape[1]) + phi.T @ phi
        np.testing.assert_allclose(model.bonus.Sigma[h], Sigma, rtol=1e-9, atol=1e-9)
        if h < 2:
            V = data.discount[h, :n] * model.q(h + 1, data.next_obs[h, :n], explore=True).max(axis=1)
        target = data.reward[h, :n] + V[:n]
        np.testing.assert_allclose(model.w[h], np.linalg.solve(Sigma, phi.T @ target), rtol=1e-6, atol=1e-8)
        here = model.features.phi(h, data.obs[h, :n])
        norm = np.sqrt(np.einsum("nad,de,nae->na", here, np.linalg.inv(Sigma), here))
        expected = np.clip(here @ model.w[h] + np.minimum(norm, 3.0), 0.0, 3 - h)
        np.testing.assert_allclose(model.q(h, data.obs[h, :n], explore=True), expected, atol=1e-6)


def test_the_ridge_variant_hands_out_the_optimum_of_the_decoded_frequencies(ridge):
    model, table = ridge.model, ridge.model.table
    N = table.M.sum(axis=3)
    P = np.divide(table.M, N[..., None], out=np.zeros_like(table.M), where=N[..., None] > 0)
    V = np.zeros(table.num_states)
    for h in reversed(range(3)):
        Q = table.reward[h] + P[h] @ (table.alive[h] * V)
        np.testing.assert_allclose(model.Q_greedy[h], Q, atol=1e-12)
        V = Q.max(axis=1)
        obs = table.store.data().obs[h, :5]
        z = table.label(h, obs, explore=False)
        np.testing.assert_array_equal(model.q(h, obs, explore=False), model.Q_greedy[h][z])
    assert ridge.exact_metrics(ridge.env.exact()) == {}


# rep-ucb, state, configs.


def test_rep_ucb_is_contrastive_ucb_but_for_the_objective(make_agent):
    refined = {"method": "nce", "steps": 10, "batch_size": 64}  # no verdict that could reject both
    common = {"seed": 10, "env": SMALL, "growth": 0.0}
    agents = {
        "rep": make_agent("rep-ucb", "low-rank", **common, learner={**refined, "objective": "mle"}),
        "mle": make_agent("contrastive-ucb", "low-rank", **common, learner={**refined, "objective": "mle"}),
        "nce": make_agent("contrastive-ucb", "low-rank", **common, learner={**refined, "objective": "nce"}),
    }
    for agent in agents.values():
        batches(agent, 0, 4)
        assert agent.version == 3
    states = {name: agent.state_dict() for name, agent in agents.items()}
    assert same(states["rep"], states["mle"])
    assert not same(states["nce"], states["mle"])
    assert RepUCBConfig().learner.objective == "mle"
    defaults, contrastive = vars(RepUCBConfig()), vars(ContrastiveUCBConfig())
    assert {name for name in defaults if defaults[name] != contrastive[name]} == {"learner", "growth"}


@pytest.mark.parametrize(
    ("env_name", "env", "fields"),
    [
        ("low-rank", SMALL, {}),
        ("combination-lock", LOCK, {}),
        ("combination-lock", LOCK, {"representation": "ridge"}),
        ("combination-lock", LOCK, {"representation": "latent"}),
        ("low-rank", SMALL, {"growth": 0.3}),
    ],
)
def test_a_restored_agent_continues_to_the_bit(env_name, env, fields, make_agent):
    whole, first, second = (
        make_agent("contrastive-ucb", env_name, seed=3, env=env, batch=20, **fields) for _ in range(3)
    )
    batches(whole, 0, 9)
    batches(first, 0, 6)
    second.load_state_dict(first.state_dict())
    batches(second, 6, 3)
    assert same(second.state_dict(), whole.state_dict())


@pytest.mark.parametrize("key", ["episodes", "version", "fitted_rows", "report", "rng", "fit_rng", "model"])
def test_a_state_with_a_hole_is_refused(key, make_agent):
    agent = make_agent("contrastive-ucb", "low-rank", env=SMALL)
    state = agent.state_dict()
    with pytest.raises(RlcError, match=f"lacks '{key}'"):
        agent.load_state_dict({k: v for k, v in state.items() if k != key})


@pytest.mark.parametrize(
    ("env_name", "env", "fields", "keys"),
    [
        ("low-rank", SMALL, {}, ["Q", "Q_greedy", "bounds", "table", "features", "bonus", "visits"]),
        (
            "combination-lock",
            LOCK,
            {"representation": "ridge"},
            ["w", "Q_greedy", "floor", "cap", "unit", "bounds", "table", "features", "bonus"],
        ),
        (
            "combination-lock",
            LOCK,
            {},
            [
                "theta",
                "w",
                "w_greedy",
                "floor",
                "cap",
                "unit",
                "fitted",
                "store",
                "bounds",
                "bonus",
                "features",
                "learner",
            ],
        ),
    ],
)
def test_a_models_state_with_a_hole_is_refused(env_name, env, fields, keys, make_agent):
    agent = make_agent("contrastive-ucb", env_name, env=env, **fields)
    state = agent.state_dict()
    assert set(keys) == set(state["model"])
    for key in keys:
        holed = {k: v for k, v in state["model"].items() if k != key}
        with pytest.raises(RlcError, match=f"lacks '{key}'"):
            agent.load_state_dict({**state, "model": holed})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", 0),
        ("warm_start", -1),
        ("capacity", 9),
        ("gamma", -0.1),
        ("gamma", float("nan")),
        ("lam", 0.0),
        ("lam", float("inf")),
        ("growth", -0.1),
        ("decoder_growth", 0.0),
    ],
)
def test_bad_configs_are_refused(field, value):
    for config in (ContrastiveUCBConfig, RepUCBConfig):
        with pytest.raises(RlcError, match=f"ucb: {field} must be"):
            config(**{field: value})


@pytest.mark.parametrize(
    ("env_name", "fields", "message"),
    [
        ("combination-lock", {"representation": "latent", "known_reward": True}, "no exact model over its obs"),
        ("combination-lock", {"representation": "vector", "known_reward": True}, "vectors learn the reward"),
        ("combination-lock", {"representation": "vector", "learner": {"dim": 1}}, "dim must be >= 2"),
        ("low-rank", {"roll_in": "sideways"}, "roll_in"),
        ("low-rank", {"representation": "graph"}, "representation"),
    ],
)
def test_agents_that_cannot_be_are_refused(env_name, fields, message, make_agent):
    with pytest.raises(RlcError, match=message):
        make_agent("contrastive-ucb", env_name, **fields)
