"""Evaluation: sampling by inversion, Monte Carlo against exact values, and the policy's contract."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rl_contrastive.acting import sample
from rl_contrastive.config import from_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.behaviour import policy_value
from rl_contrastive.planning.lsvi import policy_values
from rl_contrastive.registry import get
from rl_contrastive.runs import evaluate as module
from rl_contrastive.runs.evaluate import Evaluation, evaluate, exact_evaluation, exact_model
from rl_contrastive.runs.oracle import MdpOracle
from rl_contrastive.seeding import STREAMS, SeedTree


class Fixed:
    """An agent that only has a policy: a table pi (H, S, A)."""

    batch, version = 1, 0

    def __init__(self, pi):
        self.pi, self.calls = np.asarray(pi), 0

    def policy(self, obs, h, *, explore=False):
        self.calls += 1
        return self.pi[h, obs]


def env_of(name, rows, **fields):
    entry, _ = get("env", name)
    return entry.factory(from_dict(entry.config, fields), rows)


def low_rank(rows=50):
    return env_of("low-rank", rows, num_states=5, num_actions=3, horizon=4, rank=2)


def random_policy(env, seed=0):
    spec = env.env_spec
    return np.random.default_rng(seed).dirichlet(np.ones(spec.num_actions), size=(spec.horizon, spec.num_states))


def test_sampling_follows_the_probabilities_and_one_hot_rows_are_certain():
    p = np.tile([0.2, 0.0, 0.5, 0.3], (200_000, 1))
    share = np.bincount(sample(p, rng=np.random.default_rng(0)), minlength=4) / len(p)
    np.testing.assert_allclose(share, p[0], atol=0.005)  # 4.5 standard errors
    assert share[1] == 0
    for action in range(4):
        assert (sample(np.eye(4)[[action] * 1000], rng=np.random.default_rng(1)) == action).all()


def test_mean_and_standard_error():
    result = Evaluation(np.array([1.0, 2.0, 3.0, 6.0]))
    assert result.mean == 3.0
    assert result.sem == pytest.approx(np.sqrt(14 / 3) / 2)
    assert Evaluation(np.array([2.0])).sem == 0.0


def test_exact_values_by_the_factors_equal_those_by_the_kernel():
    env = low_rank()
    model, pi = env.exact(), random_policy(env)
    by_kernel = float(model.rho @ policy_values(model.P, model.r, pi)[0][0])
    broken = replace(model, P=np.full_like(model.P, np.nan))  # the kernel is not read where there are factors
    assert policy_value(broken, pi) == pytest.approx(by_kernel, abs=1e-13)
    assert exact_evaluation(Fixed(pi), broken, explore=False) == pytest.approx(by_kernel, abs=1e-13)
    assert MdpOracle(broken).policy_loss(Fixed(pi)) == pytest.approx(model.optimal_return - by_kernel, abs=1e-13)
    without = replace(model, phi=None, psi=None)
    assert policy_value(without, pi) == by_kernel


def test_monte_carlo_agrees_with_the_exact_value():
    env = low_rank()
    agent = Fixed(random_policy(env))
    exact = exact_evaluation(agent, env.exact(), explore=False)
    result = evaluate(agent, env, 20_000, tree=SeedTree(0))
    assert result.returns.shape == (20_000,)
    assert abs(result.mean - exact) < 4 * result.sem
    other = exact_evaluation(Fixed(random_policy(env, 1)), env.exact(), explore=False)
    assert abs(other - exact) > 10 * result.sem  # the test can tell two policies apart


@pytest.mark.parametrize("memoryless", [True, False])
def test_a_policy_without_memory_is_asked_only_about_episodes_that_go_on(memoryless):
    """The returns are the same, and so are the steps. The control has a memory: it is asked about all rows."""
    env = env_of("soccer", 8)
    spec = env.env_spec

    class Counting:
        batch, version = 1, 0

        def __init__(self, memoryless):
            self.memoryless, self.rows = memoryless, []

        def policy(self, obs, h, *, explore=False):
            self.rows.append(len(obs))
            score = np.asarray(obs).reshape(len(obs), -1).sum(axis=1).astype(np.int64)
            return np.eye(spec.num_actions)[score % spec.num_actions] / 2 + 0.5 / spec.num_actions

    agent, other = Counting(memoryless), Counting(False)
    result, whole = (evaluate(one, env, 16, tree=SeedTree(3)) for one in (agent, other))
    np.testing.assert_array_equal(result.returns, whole.returns)
    assert sum(agent.rows) == (result.steps if memoryless else 8 * len(agent.rows))
    assert whole.steps == result.steps < sum(other.rows)


def test_the_optimal_policy_has_the_optimal_value_and_hand_computed_probes_are_right():
    env = low_rank()
    model = env.exact()
    greedy = np.eye(3)[model.Q.argmax(axis=-1)]
    assert exact_evaluation(Fixed(greedy), model, explore=False) == pytest.approx(model.optimal_return)
    # probe-terminal: state 0, action 0 pays 1.5 and ends, action 1 pays 1 and stays; H = 3.
    env = env_of("probe-terminal", 4)
    half = np.full((3, 2, 2), 0.5)
    assert evaluate(Fixed(np.eye(2)[np.zeros((3, 2), int)]), env, 8, tree=SeedTree(0)).mean == 1.5
    # half: V_2 = 1.25, V_1 = 1.25 + .5 * 1.25, V_0 = 1.25 + .5 * V_1
    assert exact_evaluation(Fixed(half), env.exact(), explore=False) == pytest.approx(1.25 + 0.5 * (1.25 + 0.625))


def test_evaluations_repeat_differ_by_index_and_do_not_depend_on_rows_for_a_greedy_policy():
    env = low_rank(20)
    greedy = Fixed(np.eye(3)[random_policy(env).argmax(axis=-1)])
    first = evaluate(greedy, env, 50, tree=SeedTree(4), index=2).returns
    np.testing.assert_array_equal(first, evaluate(greedy, env, 50, tree=SeedTree(4), index=2).returns)
    np.testing.assert_array_equal(first, evaluate(greedy, low_rank(50), 50, tree=SeedTree(4), index=2).returns)
    assert not np.array_equal(first, evaluate(greedy, env, 50, tree=SeedTree(4), index=3).returns)
    assert not np.array_equal(first, evaluate(greedy, env, 50, tree=SeedTree(5), index=2).returns)


def test_evaluations_share_no_stream_with_training():
    """Neither the seeds of its episodes nor its actions are those of a training of the same seed."""
    env, tree = low_rank(20), SeedTree(4)
    seeds, reset, rows = [], env.reset, env.num_envs

    def listen(*, seed=None, options=None):
        seeds.extend(seed or [])
        return reset(seed=seed, options=options)

    env.reset = listen
    agent = Fixed(np.full((4, 5, 3), 1 / 3))
    for index in range(5):
        evaluate(agent, env, 2 * rows, tree=tree, index=index)
    training = {seed for k in range(20) for seed in tree.env_seeds("env", k, 2 * rows)}
    assert len(set(seeds)) == 10 * rows
    assert not training & set(seeds)

    env.step, step, actions = lambda action: actions.append(action) or step(action), env.step, []
    evaluate(agent, env, rows, tree=tree)
    for name in STREAMS:
        drawn = sample(np.full((rows, 3), 1 / 3), rng=tree.generator(name))
        assert not np.array_equal(actions[0], drawn), name


@pytest.mark.parametrize(
    ("row", "words"),
    [([0.5, 0.5], "shape"), ([0.5, 0.2, 0.2], "sum not 1"), ([np.nan, 0.5, 0.5], "NaN"), ([1.5, -0.5, 0.0], "neg")],
)
def test_a_policy_that_is_none_is_refused(row, words):
    env = low_rank(4)
    with pytest.raises(RlcError, match=words):
        evaluate(Fixed(np.tile(row, (4, 5, 1))), env, 4, tree=SeedTree(0))


def test_the_exact_model_is_built_where_it_is_moderate_or_asked_for(monkeypatch):
    env = low_rank(1)
    assert exact_model(env) is env.exact()
    assert exact_model(env, "never") is None
    monkeypatch.setattr(module, "MOST_ENTRIES", 5 * 5 * 3 * 4 - 1)
    assert exact_model(env) is None
    assert exact_model(env, "always") is env.exact()
    rich = env_of("combination-lock", 1, horizon=3)
    assert exact_model(rich) is None
    with pytest.raises(RlcError, match="no exact model over its observations"):
        exact_model(rich, "always")
