"""Losses of groups: hand-computed numbers, identities between them, and exact expectations of gradients on a bandit."""

import itertools
import math

import pytest
import torch

from rl_contrastive import preferences, registry
from rl_contrastive.errors import RlcError
from rl_contrastive.preferences import (
    AWR,
    GRPO,
    IPO,
    PPO,
    RLOO,
    AWRConfig,
    BestOfN,
    BestOfNConfig,
    Completions,
    CoPG,
    CoPGConfig,
    GRPOConfig,
    IPOConfig,
    PPOConfig,
    Reinforce,
    ReinforceConfig,
    RLOOConfig,
)

F64 = torch.float64
NAMES = [entry.name for entry in registry.entries("group-objective")]


def tensor(x):
    return torch.tensor(x, dtype=F64)


def drawn(*shape, seed=0, spread=1.0):
    """Log-probabilities, log-probabilities of the reference, rewards (shape without its last axis)."""
    rng = torch.Generator().manual_seed(seed)
    logp, ref = (-spread * torch.rand(*shape, dtype=F64, generator=rng) - 0.1 for _ in range(2))
    return logp, ref, torch.randn(*shape[:-1], dtype=F64, generator=rng)


# Three completions of two steps, the last step of the third is padding: h = .3, -.4, .2; R_b = 2 - .03, 1 + .04, -.02.
LOGP, REF, MASK = (
    [[-1.0, -0.5], [-2.0, -1.0], [-0.8, 7.0]],
    [[-1.2, -0.6], [-1.8, -0.8], [-1.0, -9.0]],
    [[1, 1], [1, 1], [1, 0]],
)
GROUP = Completions(tensor(LOGP), tensor(REF), tensor(MASK))
REWARD = tensor([2.0, 1.0, 0.0])
TOTAL = (-1.5, -3.0, -0.8)  # log pi(y)
VALUE = (1.97, 1.04, -0.02)  # R_b at beta .1
ALONE = (1.97 - 0.51, 1.04 - 0.975, -0.02 - 1.505)  # less the mean of the others


def product(advantages):
    """-mean A_i log pi(y_i)."""
    return -sum(a * p for a, p in zip(advantages, TOTAL, strict=True)) / 3


@pytest.mark.parametrize(
    ("objective", "want"),
    [
        (CoPG(), (0.93**2 + 1.99**2 + 1.06**2) / 2),
        (Reinforce(), product(VALUE)),
        (Reinforce(ReinforceConfig(baseline="mean")), 2 / 3 * product(ALONE)),
        (RLOO(), product(ALONE)),
        (PPO(), -(2 * ALONE[0] + 2 * ALONE[1] + ALONE[2]) / 3),  # rho = 1 on each real step
        (PPO(PPOConfig(reduce="mean")), 0.0),
        (AWR(AWRConfig(beta=1.0)), (1.5 * math.exp(1.5) + 3.0 + 0.8 * math.exp(-1.5)) / 3),
        (AWR(AWRConfig(beta=1.0, largest=2.0)), (1.5 * 2 + 3.0 + 0.8 * math.exp(-1.5)) / 3),
        (BestOfN(), 1.5),
        (BestOfN(BestOfNConfig(negative=0.5, reduce="mean")), 0.75 - 0.5 * 0.8),
    ],
)  # fmt: skip
def test_by_hand(objective, want):
    result = objective(GROUP, REWARD)
    assert result.rows.shape == result.margin.shape == (3,)
    assert float(result.loss) == pytest.approx(want, abs=1e-12)
    assert float(result.rows.mean()) == pytest.approx(want, abs=1e-12)


def test_ppo_and_grpo_clip_by_hand():
    # One start, two completions of one step; pi/pi_old = 1.5 and .5, the first is better.
    logp = tensor([[0.0], [0.0]]) + math.log(0.3)
    old = logp - tensor([[math.log(1.5)], [math.log(0.5)]])
    ref = logp + tensor([[math.log(2.0)], [0.0]])
    group, reward = Completions(logp, ref), tensor([1.0, 0.0])
    # R_b = R - .1 log(old/ref): log(old/ref) = -log 3 and log 2.
    A = (1 + 0.1 * math.log(3)) - (0 - 0.1 * math.log(2))
    found = PPO()(group, reward, old_logp=old)
    assert found.rows.tolist() == pytest.approx([-1.2 * A, 0.8 * A])  # both beyond the clip: no gradient
    assert float(found.diagnostics["clipped"]) == 1.0
    # The other way round both ratios are on the side that the clip leaves alone.
    other = PPO(PPOConfig(beta=0.0))(group, 1 - reward, old_logp=old)
    assert other.rows.tolist() == pytest.approx([1.5, -0.5])
    assert float(other.diagnostics["clipped"]) == 0.0
    # GRPO: A = +-.5/(std + 1e-4), std = sqrt(1/2); k3 = 2 - log 2 - 1 and 0.
    a = 0.5 / (math.sqrt(0.5) + 1e-4)
    grpo = GRPO(GRPOConfig(beta=0.3))(group, reward, old_logp=old)
    assert grpo.rows.tolist() == pytest.approx([-1.2 * a + 0.3 * (1 - math.log(2)), 0.8 * a])
    plain = GRPO(GRPOConfig(beta=0.3, std=False, clip=0.9))(group, reward, old_logp=old)
    assert plain.rows.tolist() == pytest.approx([-0.75 + 0.3 * (1 - math.log(2)), 0.25])


def test_grpo_takes_the_mean_over_real_steps_or_their_sum():
    two = Completions(GROUP.logp[[0, 2]], GROUP.ref[[0, 2]], GROUP.mask[[0, 2]])
    k3 = [math.exp(d) - d - 1 for d in (-0.2, -0.1, -0.2)]
    for reduce, steps in (("mean", 2), ("sum", 1)):
        found = GRPO(GRPOConfig(beta=1.0, std=False, reduce=reduce))(two, tensor([1.0, -1.0]))
        share = 1 / steps
        want = [share * (k3[0] + k3[1]) - 2 * share, k3[2] + 1]
        assert found.rows.tolist() == pytest.approx(want)


def test_copg_is_the_sum_over_pairs():
    logp, ref, reward = drawn(5, 4, 3)
    value = reward - 0.7 * (logp - ref).sum(-1)
    pairs = sum((value[:, i] - value[:, j]) ** 2 for i in range(4) for j in range(i)) / 3
    found = CoPG(CoPGConfig(beta=0.7))(Completions(logp, ref), reward)
    assert torch.allclose(found.loss, pairs)
    assert found.loss.shape == (5,)


def test_copg_of_two_with_rewards_half_apart_is_beta_squared_times_ipo():
    logp, ref, _ = drawn(6, 2, 3, seed=1)
    logp.requires_grad_(True)
    one = CoPG(CoPGConfig(beta=0.3))(Completions(logp, ref), tensor([0.75, 0.25]).expand(6, 2)).loss
    chosen, rejected = (Completions(logp[:, i], ref[:, i]) for i in range(2))
    ipo = 0.3**2 * IPO(IPOConfig(beta=0.3))(chosen, rejected).rows
    assert torch.allclose(one, ipo)
    grads = [torch.autograd.grad(x.sum(), logp, retain_graph=True)[0] for x in (one, ipo)]
    assert torch.allclose(*grads)


def test_minus_the_gradient_of_copg_is_2_beta_times_the_contrastive_one_and_2_beta_k_times_that_of_rloo():
    logp, ref, reward = drawn(4, 3, seed=2)
    logp.requires_grad_(True)
    group = Completions(logp, ref)
    grad = torch.autograd.grad(CoPG(CoPGConfig(beta=0.3))(group, reward).loss, logp)[0]
    value = (reward - 0.3 * group.h()).detach()
    # The paper's for two: (R_b(y) - R_b(y')) (grad log pi(y) - grad log pi(y')); for K: each against the others' mean.
    alone = torch.stack([value[i] - value[[j for j in range(4) if j != i]].mean() for i in range(4)])
    assert torch.allclose(-grad, 2 * 0.3 * alone.unsqueeze(-1).expand(4, 3))
    rloo = torch.autograd.grad(RLOO(RLOOConfig(beta=0.3))(group, reward).loss, logp)[0]
    assert torch.allclose(grad, 2 * 0.3 * 4 * rloo)


# --- exact expectations on a bandit of three arms ---

ARMS, K, BETA = 3, 3, 0.4
R = tensor([1.3, -0.2, 0.4])
LOG_REF = tensor([0.2, 0.5, 0.3]).log()
LOG_MU = tensor([0.6, 0.1, 0.3]).log()
LOGITS = tensor([0.3, -0.8, 0.5])
DRAWS = torch.tensor(list(itertools.product(range(ARMS), repeat=K)))  # (27, K)


def expected(objective, logits, log_mu=None, given=False):
    """E of the loss over groups of K independent draws; None: the policy's, without a gradient through the draws."""
    logp = logits.log_softmax(-1)
    law = logp.detach() if log_mu is None else log_mu
    group = Completions(logp[DRAWS].unsqueeze(-1), LOG_REF[DRAWS].unsqueeze(-1))
    old = law[DRAWS].unsqueeze(-1) if given else None
    return (law[DRAWS].sum(-1).exp() * objective(group, R[DRAWS], old_logp=old).loss).sum()


def gradient(loss, logits=LOGITS):
    x = logits.clone().requires_grad_(True)
    return torch.autograd.grad(loss(x), x)[0]


def finite_difference(value, step=1e-5):
    """Central differences of a function of the logits."""
    rows = step * torch.eye(ARMS, dtype=F64)
    return torch.stack([(value(LOGITS + e) - value(LOGITS - e)) / (2 * step) for e in rows])


def regularised(reward_weight=1.0, forward=False):
    """-(weight E_pi[R] - beta KL(pi || ref)); forward: KL(ref || pi)."""

    def value(logits):
        logp = logits.log_softmax(-1)
        kl = (LOG_REF.exp() * (LOG_REF - logp)).sum() if forward else (logp.exp() * (logp - LOG_REF)).sum()
        return BETA * kl - reward_weight * (logp.exp() * R).sum()

    return value


def shrunk(logits):
    return (K - 1) / K * regularised()(logits)


@pytest.mark.parametrize(
    ("objective", "exact", "scale"),
    [
        (Reinforce(ReinforceConfig(beta=BETA)), regularised(), 1.0),
        (Reinforce(ReinforceConfig(beta=BETA, baseline="mean")), shrunk, 1.0),
        (RLOO(RLOOConfig(beta=BETA)), regularised(), 1.0),
        (PPO(PPOConfig(beta=BETA)), regularised(), 1.0),
        (CoPG(CoPGConfig(beta=BETA)), regularised(), 2 * BETA * K),
        (GRPO(GRPOConfig(beta=BETA, std=False)), regularised((K - 1) / K, forward=True), 1.0),
    ],
    ids=["reinforce", "reinforce-mean", "rloo", "ppo", "copg", "grpo"],
)
def test_on_policy_the_mean_gradient_is_that_of_the_exact_objective(objective, exact, scale):
    found = gradient(lambda x: expected(objective, x))
    assert torch.allclose(found, scale * finite_difference(exact), atol=1e-8)


@pytest.mark.parametrize(
    "objective", [Reinforce(ReinforceConfig(beta=BETA)), RLOO(RLOOConfig(beta=BETA))], ids=["reinforce", "rloo"]
)
def test_draws_of_another_law_need_its_log_probabilities(objective):
    want = finite_difference(regularised())
    assert torch.allclose(gradient(lambda x: expected(objective, x, LOG_MU, given=True)), want, atol=1e-8)
    assert (gradient(lambda x: expected(objective, x, LOG_MU)) - want).abs().max() > 0.005


def minimiser(objective, log_mu):
    logits = torch.zeros(ARMS, dtype=F64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        optimiser.zero_grad()
        loss = expected(objective, logits, log_mu)
        loss.backward()
        return loss

    optimiser.step(closure)
    return logits.detach().softmax(-1)


def test_copg_has_one_minimiser_whoever_draws_and_awr_that_of_its_law():
    best = (LOG_REF + R / BETA).softmax(-1)
    for log_mu in (LOG_REF, LOG_MU, tensor([0.05, 0.05, 0.9]).log()):
        assert torch.allclose(minimiser(CoPG(CoPGConfig(beta=BETA)), log_mu), best, atol=1e-6)
        tilted = (log_mu + R / BETA).softmax(-1)
        assert torch.allclose(minimiser(AWR(AWRConfig(beta=BETA, largest=1e6)), log_mu), tilted, atol=1e-6)
    assert (tilted - best).abs().max() > 0.1
    assert (minimiser(AWR(AWRConfig(beta=BETA)), LOG_REF) - best).abs().max() > 0.005  # the cap binds


def test_best_of_n_imitates_the_best_of_the_draws():
    mu = LOG_MU.exp()
    worse = tensor([float(mu[r > R].sum()) for r in R])
    want = (worse + mu) ** K - worse**K  # all K at most this good, less all K worse
    assert torch.allclose(minimiser(BestOfN(), LOG_MU), want, atol=1e-6)


# --- what holds for all ---


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    """Advantages are constants: beta = 0 where they are R_b without its gradient."""
    options = {"beta": 0.0} if name in ("reinforce", "rloo") else {}
    objective = registry.build("group-objective", name, options)
    logp, ref, reward = drawn(2, 3, 2, seed=3)
    old = logp + 0.1 * torch.randn(logp.shape, dtype=F64, generator=torch.Generator().manual_seed(5))
    logp.requires_grad_(True)
    given = old if name in ("ppo", "grpo") else None
    assert torch.autograd.gradcheck(lambda x: objective(Completions(x, ref), reward, old_logp=given).loss, (logp,))


@pytest.mark.parametrize("name", NAMES)
def test_order_and_padding_change_nothing(name):
    objective = registry.build("group-objective", name)
    logp, ref, reward = drawn(2, 4, 3, seed=4)
    plain = objective(Completions(logp, ref), reward, old_logp=ref)
    order = torch.tensor([2, 0, 3, 1])
    turned = objective(Completions(logp[:, order], ref[:, order]), reward[:, order], old_logp=ref[:, order])
    assert torch.allclose(turned.loss, plain.loss)
    assert torch.allclose(turned.rows, plain.rows[:, order])
    pad = torch.full((2, 4, 1), -math.inf, dtype=F64)
    long = torch.cat((logp, pad), -1).requires_grad_(True)
    mask = torch.cat((torch.ones_like(logp), torch.zeros_like(pad)), -1)
    with_pad = torch.cat((ref, pad), -1)
    padded = objective(Completions(long, with_pad, mask), reward, old_logp=with_pad)
    assert torch.allclose(padded.loss, plain.loss)
    grad = torch.autograd.grad(padded.loss.sum(), long)[0]
    assert torch.isfinite(grad).all()
    assert (grad[..., -1] == 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("far", [200.0, -200.0])
def test_far_from_the_reference_and_from_the_old_policy_all_stays_finite(name, far):
    objective = registry.build("group-objective", name)
    logp = torch.full((3, 2), -300.0, requires_grad=True)
    other = torch.full((3, 2), -300.0 + far)
    for reward in (torch.tensor([1e3, 0.0, -1e3]), torch.zeros(3)):
        loss = objective(Completions(logp, other), reward, old_logp=other).loss
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, logp)[0]).all()


def test_equal_rewards_push_nothing_but_imitate():
    group = Completions(tensor([[-1.0], [-2.0]]).requires_grad_(True), tensor([[-1.0], [-2.0]]))
    for objective, want in ((CoPG(), 0.0), (RLOO(), 0.0), (GRPO(), 0.0), (BestOfN(BestOfNConfig(negative=1.0)), 1.5)):
        assert float(objective(group, tensor([1.0, 1.0])).loss.detach()) == pytest.approx(want)


ONE = Completions(tensor([[-1.0], [-1.0]]), tensor([[-1.0], [-1.0]]))


@pytest.mark.parametrize(
    ("group", "reward", "old", "words"),
    [
        (Completions(tensor([-1.0]), tensor([-1.0])), tensor(1.0), None, r"shape \(\.\.\., K, T\)"),
        (Completions(ONE.logp[:1], ONE.ref[:1]), tensor([1.0]), None, "at least 2 completions of each start, got 1"),
        (ONE, tensor([1.0, 2.0, 3.0]), None, "one a completion"),
        (ONE, tensor([1.0, math.nan]), None, "rewards must be finite"),
        (ONE, tensor([1.0, 2.0]), tensor([1.0]), "old_logp must have the shape of logp"),
        (ONE, tensor([1.0, 2.0]), tensor([[math.nan], [0.0]]), "old_logp holds NaN"),
        (Completions(ONE.logp, tensor([[-1.0], [-math.inf]])), tensor([1.0, 2.0]), None, "the reference policy gives"),
        (Completions(ONE.logp, ONE.ref, torch.zeros(2, 1)), tensor([1.0, 2.0]), None, "no real step"),
        (ONE.logp, tensor([1.0, 2.0]), None, "must be Completions"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_sentence(group, reward, old, words):
    with pytest.raises(RlcError, match=words) as error:
        RLOO()(group, reward, old_logp=old)
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (CoPGConfig, {"beta": 0.0}),
        (PPOConfig, {"clip": 1.0}),
        (GRPOConfig, {"reduce": "max"}),
        (AWRConfig, {"beta": -1.0}),
    ],
)
def test_options_out_of_range_are_one_sentence(config, options):
    with pytest.raises(RlcError, match="must"):
        config(**options)


@pytest.mark.parametrize("name", NAMES)
def test_every_registered_loss_and_its_config_can_be_imported_by_name(name):
    entry = registry.get("group-objective", name)[0]
    assert getattr(preferences, entry.factory.__name__) is entry.factory
    assert getattr(preferences, entry.config.__name__) is entry.config
    assert entry.summary.endswith(".")


def test_log_probabilities_of_the_sampler_get_no_gradient():
    from rl_contrastive.preferences import GRPO, GRPOConfig

    logp = (-torch.rand(4, 3, generator=torch.Generator().manual_seed(0))).requires_grad_()
    reward = torch.tensor([0.0, 1.0, 1.0, 0.0])
    sums = []
    for old in (logp, logp.detach(), None):
        loss = GRPO(GRPOConfig(beta=0.0))(Completions(logp, logp.detach()), reward, old_logp=old).loss
        sums.append(torch.autograd.grad(loss, logp)[0].abs().sum().item())
    assert sums[0] > 0.1
    assert sums == [sums[0]] * 3


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_whole_rewards_are_numbers_too(dtype):
    from rl_contrastive.preferences import GRPO, RLOO, CoPG

    y = Completions(torch.zeros(4, 3), torch.zeros(4, 3))
    reward = torch.tensor([0, 1, 1, 0])
    for objective in (GRPO(), RLOO(), CoPG()):
        assert objective(y, reward.to(dtype)).loss == objective(y, reward.float()).loss


def test_semantic_weights_do_not_depend_on_scale():
    from rl_contrastive.preferences import SemDPO

    E = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for scale in (1e-30, 1.0, 1e30):
        assert torch.allclose(SemDPO()(E * scale, E * scale), torch.ones(3))


LEVEL_FREE = [GRPO(), RLOO(), PPO(), CoPG(), AWR(), BestOfN(), Reinforce(ReinforceConfig(baseline="mean"))]


@pytest.mark.parametrize("objective", LEVEL_FREE)
def test_equal_rewards_have_no_advantage_whatever_their_level(objective):
    logp = -torch.rand(3, 2, generator=torch.Generator().manual_seed(0))
    same = Completions(logp, logp)  # h = 0
    for level in (0.1, 1000.1, -1e14):
        result = objective(same, torch.full((3,), level))
        assert result.margin.tolist() == [0, 0, 0]
        assert float(result.diagnostics["above"]) == 0


def test_small_differences_of_large_rewards_are_kept():
    y = Completions(torch.zeros(3, 1), torch.zeros(3, 1))
    reward = torch.tensor([1e8, 1e8, 1e8 + 8])
    for objective in (RLOO(), PPO(), AWR(AWRConfig(beta=10.0))):
        assert objective(y, reward).margin.tolist() == [-4, -4, 8]
    assert CoPG()(y, reward).margin.tolist() == pytest.approx([-8 / 3, -8 / 3, 16 / 3])
    plain = Reinforce(ReinforceConfig(baseline="none"))  # control: here the level is part of the loss
    assert plain(y, reward).margin.tolist() == reward.tolist()
