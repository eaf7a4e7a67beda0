"""N agents as rows: what each is shown and paid, early ends, shared parameters that learn, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import spread_env

from rl_contrastive import RlcError, make_agent, make_env, train
from rl_contrastive.runs.budget import Budget
from rl_contrastive.runs.load import load_trained
from rl_contrastive.runs.rollout import play
from rl_contrastive.runs.run import RunConfig, run, run_folder

NAME = "multi:spread_env:make"


def ring(rows: int, **arguments):
    options = {name: arguments.pop(name) for name in ("cooperative", "horizon") if name in arguments}
    return make_env(NAME, rows, kwargs=json.dumps(arguments), **options)


def test_rows_are_agents_and_show_their_number():
    env = ring(6)
    assert (env.env_spec.group, env.env_spec.horizon, env.env_spec.obs_shape) == (3, 6, (8,))
    obs, _ = env.reset(seed=[4, 9, 9, 5, 9, 9])
    np.testing.assert_array_equal(obs[:, 5:], np.tile(np.eye(3), (2, 1)))
    alone = spread_env.Ring()
    seen, _ = alone.reset(seed=5)
    np.testing.assert_array_equal(obs[3:, :5], np.stack(list(seen.values())))
    states = ring(3, vector=False)
    found, _ = states.reset(seed=[4, 0, 0])
    assert states.env_spec.num_states == 15
    np.testing.assert_array_equal(found % 3, [0, 1, 2])
    np.testing.assert_array_equal(found // 3, obs[:3, :5].argmax(1))


def test_rewards_are_ones_own_or_the_sum():
    own, team = ring(3), ring(3, cooperative=True)
    for env in (own, team):
        env.reset(seed=[1, 1, 1])
    for action in np.random.default_rng(0).integers(3, size=(6, 3)):
        mine, shared = own.step(action)[1], team.step(action)[1]
        np.testing.assert_array_equal(shared, np.full(3, mine.sum()))


def test_an_agent_that_ends_early_waits_for_the_others():
    env = ring(6, early=True)
    steps = list(play(env, range(6), lambda obs, h: np.zeros(6, dtype=int)))
    assert len(steps) == 6
    alive = np.stack([step.alive for step in steps])
    np.testing.assert_array_equal(alive.sum(0), [6, 6, 3, 6, 6, 3])
    assert steps[2].discount.tolist() == [1, 1, 0, 1, 1, 0]  # a true end, and not the horizon's
    assert steps[5].boundary.tolist() == [True, True, False, True, True, False]
    again = list(play(env, range(6), lambda obs, h: np.zeros(6, dtype=int)))
    for one, two in zip(steps, again, strict=True):
        np.testing.assert_array_equal(one.obs, two.obs)


def test_shared_parameters_learn_a_cell_for_each_agent():
    env = ring(12, vector=False)
    result = train(make_agent("ucbvi", env, c=0.1), env, episodes=3000, eval_episodes=48)
    lazy = train(make_agent("uniform", env), env, episodes=120, eval_episodes=48)
    assert result.final_return > 4.5  # five of six steps at home, on average one or two away
    assert lazy.final_return < 2.0  # control


def test_a_run_evaluates_whole_copies_and_can_be_loaded(tmp_path):
    config = RunConfig(
        agent="contrastive-ucb-deep",
        env=NAME,
        agent_config={"batch": 6, "warm_start": 60, "learner": {"batch_size": 8}},
        budget=Budget(episodes=24, eval_every=12, eval_episodes=7),
        tensorboard=False,
    )
    assert run(config, tmp_path)["status"] == "finished"
    trained = load_trained(run_folder(tmp_path, config))
    assert trained.make_env(1).num_envs == 3


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ring(4), "multiple of 3"),
        (lambda: ring(3, odd=True), "different observation spaces"),
        (lambda: ring(3).step(np.zeros(3, dtype=int)), "reset"),
        (lambda: make_env("multi:no_such_v1", 3), "no environment 'no_such_v1'"),
        (lambda: make_env(NAME, 3, kwargs="[1]"), "JSON object"),
        (lambda: make_env(NAME, 3, kwargs='{"no": 1}'), "cannot be made"),
    ],
)
def test_bad_calls_are_one_sentence(call, sentence):
    with pytest.raises(RlcError, match=sentence):
        call()


def test_illegal_actions_name_what_is_allowed():
    env = ring(3)
    env.reset(seed=0)
    for bad in (np.array([0, 1, 3]), np.zeros(2, dtype=int), np.zeros(3)):
        with pytest.raises(RlcError, match=r"3 integer actions in 0\.\.2"):
            env.step(bad)
