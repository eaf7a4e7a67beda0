"""Losses end at the exact optimum under full coverage: bandit, MDP, token model; worlds by hand."""

import itertools
import math

import numpy as np
import pytest
import torch

from rl_contrastive.errors import RlcError
from rl_contrastive.preferences import (
    DPO,
    IPO,
    Autoregressive,
    CoPG,
    CoPGConfig,
    DPOConfig,
    IPOConfig,
    coverage_bandit,
    gridworld,
    language,
    low_rank,
    optimum,
    policy_value,
    random_bandit,
    regret,
)
from rl_contrastive.preferences.worlds import bins_bandit

BETA = 0.7
NETWORK = pytest.param("network", marks=pytest.mark.long)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def worlds():
    """Name -> completions, and what makes a table of decisions from parameters."""
    grid, text = gridworld(2, 3, rng=generator(1)), language(2, 4, rng=generator(2))
    short = language(2, 3, rng=generator(2))
    return {
        "bandit": (random_bandit(6, rng=generator(0)), None),
        "mdp": (grid.listed(), None),
        "histories": (grid.listed(histories=True), None),
        "tokens": (text.world, None),
        "network": (short.world, Autoregressive(short, 16, rng=generator(3))),
    }


def fit(world, network, loss, steps=3000):
    """log p(y) (N,) of the policy that minimises loss(completions)."""
    logits = world.log_ref.clone().requires_grad_(True)
    table = network if network is not None else lambda: logits.log_softmax(-1)
    parameters = [logits] if network is None else list(network.parameters())
    optimiser = torch.optim.LBFGS(parameters, lr=1, max_iter=steps, history_size=50, tolerance_grad=1e-10,
                                  tolerance_change=1e-14, line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        optimiser.zero_grad()
        total = loss(world.completions(table()))
        total.backward()
        return total

    optimiser.step(closure)
    return world.log_law(table().detach()).numpy()


def tv(log_p, log_q):
    return 0.5 * np.abs(np.exp(log_p) - np.exp(log_q)).sum()


def labelled(world):
    """All ordered pairs and how often each is the outcome."""
    pairs = world.all_pairs()
    return pairs, torch.sigmoid(world.reward[pairs.chosen] - world.reward[pairs.rejected])


def dpo(world, beta=BETA):
    pairs, wins = labelled(world)
    return lambda y: DPO(DPOConfig(beta=beta)).step(pairs.of(y, wins), {})[0].loss


def ipo(world, beta=BETA):
    pairs, wins = labelled(world)
    return lambda y: IPO(IPOConfig(beta=beta)).step(pairs.of(y, wins), {})[0].loss


def copg(world, beta=BETA):
    return lambda y: CoPG(CoPGConfig(beta=beta))(y, world.reward).loss


@pytest.mark.parametrize("name", ["bandit", "mdp", "tokens", NETWORK])
@pytest.mark.parametrize("loss", [dpo, copg])
def test_dpo_and_copg_end_at_the_exact_optimum_and_not_at_another_beta(name, loss):
    world, network = worlds()[name]
    found = fit(world, network, loss(world))
    assert tv(found, world.optimum(BETA)) < 1e-3
    assert tv(found, world.optimum(BETA / 2)) > 0.02


@pytest.mark.parametrize("name", ["bandit", "histories", "tokens", NETWORK])
def test_ipo_ends_at_the_optimum_of_its_own_reward_and_not_at_the_return_s(name):
    world, network = worlds()[name]
    found = fit(world, network, ipo(world))
    own = torch.sigmoid(world.reward[:, None] - world.reward).mean(-1)  # p(y beats mu), mu uniform
    assert tv(found, world.optimum(BETA, own)) < 1e-3
    assert tv(found, world.optimum(BETA)) > 0.02


def test_ipo_s_reward_is_no_sum_over_steps_so_a_policy_of_states_cannot_hold_its_optimum():
    world = worlds()["mdp"][0]
    own = torch.sigmoid(world.reward[:, None] - world.reward).mean(-1)
    assert tv(fit(world, None, ipo(world)), world.optimum(BETA, own)) > 1e-3


def test_the_law_of_trajectories_is_that_of_the_soft_optimal_policy():
    grid = gridworld(3, 4, rng=generator(4))
    world, best = grid.listed(), grid.soft_optimal(0.4)
    law = world.log_law(torch.from_numpy(best.log_pi.reshape(-1, 4)))
    assert len(law) == 4**4
    assert law.numpy() == pytest.approx(world.optimum(0.4))
    assert float((law.exp() * world.reward).sum()) == pytest.approx(
        policy_value(grid.P, grid.r, np.eye(9)[0], best.log_pi, grid.log_ref).value
    )


def test_random_transitions_take_dpo_away_from_the_best_policy():
    mdp = low_rank(rng=generator(5))
    world, start = mdp.listed(), np.eye(3)[0]
    assert float(world.log_law(world.log_ref).exp().sum()) == pytest.approx(1)
    logits = world.log_ref.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS([logits], max_iter=2000, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = dpo(world)(world.completions(logits.log_softmax(-1)))
        loss.backward()
        return loss

    optimiser.step(closure)
    log_pi = logits.detach().log_softmax(-1).numpy().reshape(mdp.r.shape)

    def worth(log_pi):
        found = policy_value(mdp.P, mdp.r, start, log_pi, mdp.log_ref)
        return found.value - BETA * found.kl

    best = mdp.soft_optimal(BETA)
    assert worth(best.log_pi) == pytest.approx(best.V[0, 0])
    assert worth(log_pi) < best.V[0, 0] - 1e-4


def test_sampled_trajectories_have_the_listed_law():
    mdp = low_rank(rng=generator(6))
    states, actions, returns = mdp.sample(mdp.log_ref, 40_000, rng=generator())
    world = mdp.listed()
    assert float(returns.mean()) == pytest.approx(
        float((world.log_law(world.log_ref).exp() * world.reward).sum()), abs=0.02
    )
    key = states[:, 1] * 4 + actions[:, 0] * 2 + actions[:, 1]
    law = torch.zeros(12, dtype=torch.float64)
    law.index_add_(0, (world.rows[:, 1] - 3) * 4 + world.actions[:, 0] * 2 + world.actions[:, 1],
                   world.log_law(world.log_ref).exp())  # fmt: skip
    assert (torch.bincount(key, minlength=12) / 40_000 - law).abs().max() < 0.01


def test_texts_are_all_there_and_their_probabilities_sum_to_one():
    text = language(3, 3, rng=generator())
    assert len(text.prefixes) == 1 + 3 + 9
    assert len(text.world.reward) == 13 + 27
    network = Autoregressive(text, rng=generator(1))
    for table in (text.world.log_ref, network().detach()):
        assert float(text.world.log_law(table).exp().sum()) == pytest.approx(1)


def test_the_network_reads_the_prefix_alone_and_in_order():
    text = language(2, 3, rng=generator())
    network = Autoregressive(text, rng=generator(1))
    added = network.head(network.cell(network.text)[0][torch.arange(7), network.last]).detach()
    assert all(not torch.allclose(added[i], added[j]) for i, j in itertools.combinations(range(7), 2))


def test_the_coverage_bandit_is_worth_what_its_docstring_says():
    tied = coverage_bandit()
    R, ref = tied.world.reward.numpy(), tied.world.log_ref[0].numpy()
    best = optimum(R, ref, 0.1)
    assert float((np.exp(ref) * R).sum()) == pytest.approx(0.445)
    assert float(regret(ref, R, ref, 0.1)) == pytest.approx(0.93 - 0.445, abs=1e-3)
    assert float(regret(best, R, ref, 0.1)) == pytest.approx(0, abs=1e-12)
    assert torch.allclose(tied.log_pi(torch.zeros(2, dtype=torch.float64))[0], tied.world.log_ref[0])


def test_bins():
    world = bins_bandit()
    assert int(world.reward.argmax()) == 70
    assert int(world.log_ref[0].argmax()) == 20
    assert float(world.reward[80]) == pytest.approx(math.exp(-1))


def test_too_much_is_one_sentence():
    with pytest.raises(RlcError, match="more than 65536 trajectories"):
        gridworld(3, 9, rng=generator()).listed()
    with pytest.raises(RlcError, match=r"length in \[2, 8\]"):
        language(2, 9, rng=generator())
