"""Algorithm 2: what is played and kept, what is planned, what is certified, and that it learns (controls fail)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from agents_common import batches, same, uniform

from rl_contrastive import registry
from rl_contrastive.config import from_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.planning.games import nash_values
from rl_contrastive.registry import register
from rl_contrastive.runs.loop import train
from rl_contrastive.runs.oracle import GameOracle
from rl_contrastive.spec import marginals, product, split_action


@dataclass(frozen=True)
class Nothing:
    """No options."""


GAME = {"num_states": 6, "num_actions": 2, "num_opponent_actions": 3, "horizon": 3, "rank": 2}


@pytest.fixture
def agent(make_agent):
    def make(seed=0, env=GAME, env_name="low-rank-game", **fields):
        return make_agent("contrastive-ucb-game", env_name, seed=seed, env=env, **fields)

    return make


def oracle(agent):
    return GameOracle(agent.env.exact(), np.random.default_rng(0))


def test_paper_roll_in_is_uniform_at_two_steps_and_keeps_them_only(agent):
    a = agent(roll_in="paper", warm_start=0)
    batches(a, 0, 3)
    before, seen, kept = a.model.learned.rows().sum(), [], 0

    def each(step):
        nonlocal kept
        forced = (a._t == step.h) | (a._t - 1 == step.h)
        planned = a.policy(step.obs, step.h, explore=True)
        played = planned[np.arange(len(step.obs)), step.action]
        assert (played[~forced] > 0).all()  # elsewhere only what sigma plays
        seen.extend(step.action[forced])
        kept += forced.sum()

    batches(a, 3, 40, each)
    assert a.model.learned.rows().sum() - before == kept
    assert uniform(np.array(seen), 6)


def test_mixed_roll_in_keeps_everything(agent):
    a = agent(roll_in="mixed", warm_start=0)
    batches(a, 0, 5)
    assert a.model.learned.rows().tolist() == [250] * 3


def test_uniform_roll_in_plans_and_never_follows_the_plan(agent):
    a, actions = agent(roll_in="uniform", warm_start=0), []
    batches(a, 0, 20, lambda step: actions.extend(step.action))
    assert a.version == 20
    assert uniform(np.array(actions), 6)


def test_what_is_handed_out_is_a_product_of_policies_and_not_what_explores(agent):
    a = agent()
    batches(a, 0, 6)
    states = np.arange(6)
    for h in range(3):
        out = a.policy(states, h)
        np.testing.assert_allclose(out.sum(axis=1), 1.0)
        np.testing.assert_allclose(out, product(*marginals(out, (2, 3))), atol=1e-12)
    sigma = np.concatenate([a.policy(states, h, explore=True) for h in range(3)])
    final_policy = np.concatenate([a.policy(states, h) for h in range(3)])
    assert np.abs(sigma - final_policy).max() > 0.1


def test_the_bonus_by_hand(agent):
    """gamma sqrt(A B) ||phi|| (H - h), capped at the range; all of it where nothing was tried; none at gamma = 0."""
    a = agent(gamma=0.2)
    batches(a, 0, 2)
    learned = a.model.learned
    phi, N = learned.features.phi_table, learned.visits
    b = a.model.bonus()
    Sigma = np.eye(3) + np.einsum("sa,sad,sae->de", N[1], phi[1], phi[1])
    by_hand = 0.2 * np.sqrt(6) * np.sqrt(np.einsum("sad,de,sae->sa", phi[1], np.linalg.inv(Sigma), phi[1]))
    np.testing.assert_allclose(b[1], np.where(N[1] > 0, np.minimum(by_hand, 1.0), 1.0) * 2.0, atol=1e-10)
    assert (N == 0).any()
    zero = agent(gamma=0.0)
    batches(zero, 0, 2)
    assert (zero.model.bonus() == 0).all()


def test_learns_the_equilibrium_and_certifies_it(agent):
    """Gap of the policies handed out falls under .1 (uniform: over .25), and every plan's width covers its gap."""
    a = agent(known_reward=True)
    result = train(a, a.env, episodes=3000, eval_every=1000, eval_episodes=20)
    exact = result.progress.exact
    assert exact["gap"] < 0.1
    assert exact["covered"] == 1.0
    assert exact["certificate"] < 0.35
    assert exact["tv"] < 0.12
    assert min(exact["optimism"], exact["pessimism"]) > 0
    control = agent(known_reward=True)  # never planned
    assert oracle(control).gap(control, explore=False).gap > 0.25


def test_certificate_fails_without_a_bonus(agent):
    """Control of the certificate: at gamma = 0 nothing but a misfit is left of it, and the gap is not 0."""
    a = agent(gamma=0.0, known_reward=True)
    result = train(a, a.env, episodes=500, eval_every=250, eval_episodes=20)
    assert result.progress.exact["covered"] < 0.5
    np.testing.assert_allclose(a.model.V_upper, a.model.V_lower, atol=1e-9)
    assert result.progress.exact["certificate"] == pytest.approx(a.model.misfit)


@pytest.mark.parametrize(("dim", "covered_without"), [(1, 0.6), (None, 1.0)])
def test_what_too_small_a_rank_leaves_out_is_part_of_the_certificate(agent, dim, covered_without):
    """d = 1, P-hat = P^-, in a game of rank 6: the bonus shrinks, the error of P-hat stays. The default d is enough."""
    env = {"num_states": 6, "num_actions": 2, "num_opponent_actions": 2, "horizon": 3, "rank": 6, "game_seed": 1}
    a = agent(known_reward=True, growth=0.2, env=env, learner={"dim": dim})
    judge, plans, version = oracle(a), [], 0
    for k in range(80):
        batches(a, k, 1)
        if a.version > version:
            version = a.version
            width = float(judge.model.rho @ (a.model.V_upper - a.model.V_lower))
            plans.append((judge.gap(a, explore=True).gap, judge.certificate(a), width))
    gap, certificate, width = np.array(plans).T
    assert (certificate >= gap).all()
    assert (width >= gap).mean() <= covered_without
    assert a.report["misfit"] == a.model.misfit
    bounded = np.minimum(a.model.V_upper - a.model.V_lower + a.model.misfit, 3.0)  # three rewards in [0, 1]
    assert certificate[-1] == pytest.approx(float(judge.model.rho @ bounded))
    assert a.model.misfit > 0.1 if dim == 1 else a.model.misfit < 0.05


def test_descended_features_plan_as_well(agent):
    a = agent(known_reward=True, learner={"method": "spectral+nce", "dim": 2, "steps": 60}, growth=0.5)
    result = train(a, a.env, episodes=1000, eval_every=500, eval_episodes=20)
    assert result.progress.exact["gap"] < 0.2
    assert 0.0 <= result.progress.scalars["refined"] <= 1.0


def test_the_pooled_model_uses_the_data_of_all_steps(agent):
    stationary = {**GAME, "stationary": True}
    pooled, apart = (agent(env=stationary, pool=pool, learner={"dim": 2}) for pool in (True, False))
    for a in (pooled, apart):
        batches(a, 0, 8)
    assert pooled.model.learned.rows().tolist() == [800]  # the last step ends for the horizon's sake
    assert apart.model.learned.rows().tolist() == [400] * 3
    model = pooled.env.exact()
    assert pooled.exact_metrics(model)["tv"] < apart.exact_metrics(model)["tv"]
    assert (pooled.model.learned.table.alive == 1.0).all()
    assert not agent().model.learned.pooled  # only where the environment says that all steps are alike


@pytest.mark.long
def test_on_the_lock_latents_are_decoded_and_both_sides_explore(agent):
    """H = 3, few hundred episodes: past the decoy. Without a bonus it is what greedy players settle for."""
    env = {"horizon": 3, "num_actions": 4, "delta": 0.1}
    gaps = {}
    for gamma in (0.1, 0.0):
        a = agent(env=env, env_name="duel-lock", gamma=gamma)
        gaps[gamma] = train(a, a.env, episodes=2500, eval_every=2500, eval_episodes=10).progress.exact["gap"]
    assert gaps[0.1] < 0.15
    uniform_pair = agent(env=env, env_name="duel-lock")
    assert oracle(uniform_pair).gap(uniform_pair, explore=False).gap > 0.6


def test_an_opponent_plays_the_columns_and_is_seen_only(agent):
    @register("opponent", "second-column", Nothing)
    class Second:
        """Always its second action."""

        def __init__(self, spec, config, *, rng):
            self.steps = 0

        def act(self, obs, h):
            return np.ones(len(obs), dtype=np.int64)

        def observe(self, transition):
            self.steps += 1

        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, state):
            self.steps = int(state["steps"])

    columns = []
    a = agent(opponent="second-column", warm_start=0)
    batches(a, 0, 4, lambda step: columns.extend(split_action(step.action, (2, 3))[1]))
    assert set(columns) == {1}
    assert a.opponent.opponent.steps == 12
    assert a.certificate(np.arange(6)) is None  # it bounds nothing about a player that is not ours
    again = agent(opponent="second-column", warm_start=0)
    again.load_state_dict(a.state_dict())
    assert same(again.state_dict(), a.state_dict())


def test_optimism_against_a_free_opponent_bounds_the_value_from_above(agent):
    a = agent(opponent="uniform", known_reward=True)
    train(a, a.env, episodes=1000, eval_every=1000, eval_episodes=10)
    assert a.exact_metrics(a.env.exact())["optimism"] > 0
    assert oracle(a).metrics(a)["loss_max"] < 0.1


def test_an_illegal_opponent_ends_the_run_with_its_name(agent):
    @register("opponent", "out-of-range", Nothing)
    class Broken:
        """Plays what does not exist."""

        def __init__(self, spec, config, *, rng):
            pass

        def act(self, obs, h):
            return np.full(len(obs), 3)

    a = agent(opponent="out-of-range")
    with pytest.raises(RlcError, match=r"out-of-range.*action 3 .*h=0.*0\.\.2"):
        batches(a, 0, 1)
    with pytest.raises(RlcError, match="unknown opponent"):
        agent(opponent="nobody")


def test_agents_of_one_player_and_games_do_not_mix(make_env, make_agent):
    with pytest.raises(RlcError, match="made for games, but low-rank is an environment of one agent"):
        make_agent("contrastive-ucb-game", "low-rank")
    with pytest.raises(RlcError, match="is a two-player game"):
        make_agent("contrastive-ucb", "low-rank-game")


@pytest.mark.parametrize(
    ("field", "value"), [("gamma", -1.0), ("lam", 0.0), ("growth", -0.1), ("capacity", 1), ("roll_in", "both")]
)
def test_impossible_values_are_refused(field, value):
    entry, _ = registry.get("agent", "contrastive-ucb-game")
    with pytest.raises(RlcError, match=field):
        from_dict(entry.config, {field: value})


def test_a_saved_state_of_another_game_is_refused(agent):
    a, other = agent(), agent(env={**GAME, "num_states": 5})
    batches(a, 0, 3)
    with pytest.raises(RlcError, match="saved"):
        other.load_state_dict(a.state_dict())


def test_values_behind_the_oracle_are_those_of_backward_induction(agent):
    model = agent().env.exact()
    V, _ = nash_values(model.P, model.r, model.players)
    np.testing.assert_allclose(model.V, V, atol=1e-12)
