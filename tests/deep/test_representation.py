"""The contrastive features: losses by hand, the ratio they fit, the law of the negatives, and what the bonus counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_contrastive.deep.config import RepresentationConfig, SelfPredictionConfig
from rl_contrastive.deep.feature_net import FeatureConfig, FeatureNet, ObsLayout
from rl_contrastive.deep.representation import Representation, identical, off_diagonal
from rl_contrastive.deep.self_prediction import SelfPrediction
from rl_contrastive.deep.weights import load_weights, weights
from rl_contrastive.energy.low_rank import log_products
from rl_contrastive.errors import RlcError
from rl_contrastive.objectives.scores import log_softplus, pair_scores

S, A, D = 4, 2, 6
EYE = torch.eye(S)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def heads(seed: int = 1, width: int = S, **fields: Any) -> Representation:
    return Representation(width, A, RepresentationConfig(**{"dim": D, "hidden": 0, **fields}), rng=generator(seed))


def rows(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = generator(seed)
    return torch.randn((n, S), generator=g), torch.randint(A, (n,), generator=g), torch.randn((n, S), generator=g)


def ratios(net: Representation, z: Tensor, action: Tensor, z_next: Tensor) -> np.ndarray:
    """f (N, N) in plain numpy."""
    beta = net.config.beta
    phi = np.logaddexp(0, beta * net.anchors(z).detach().numpy()[np.arange(len(z)), action.numpy()]) / beta
    psi = np.logaddexp(0, beta * net.successors(z_next).detach().numpy()) / beta
    return np.asarray(phi @ psi.T)


def test_nce_is_the_papers_loss_over_all_pairs() -> None:
    net, (z, action, z_next) = heads(beta=2.0), rows(5)
    f = ratios(net, z, action, z_next)
    positives = np.log1p(1 / f.diagonal()).mean()
    negatives = np.mean([np.log1p(f[i, j]) for i in range(5) for j in range(5) if i != j])
    assert float(net.contrast(z, action, z_next).detach()) == pytest.approx(positives + negatives, rel=1e-5)
    others = f + np.diag(np.full(5, -np.inf))
    report = net.diagnose(z, action, z_next)
    assert report["top1"] == pytest.approx((f.diagonal() > others.max(axis=1)).mean())
    lower = np.mean([f[i, j] < 1 for i in range(5) for j in range(5) if i != j])
    assert report["binary"] == pytest.approx(0.5 * ((f.diagonal() > 1).mean() + lower))
    assert report["normaliser"] == pytest.approx(f.mean(), rel=1e-5)


def test_infonce_is_cross_entropy_of_the_batch() -> None:
    net, (z, action, z_next) = heads(objective="infonce"), rows(6)
    logits = torch.as_tensor(np.log(ratios(net, z, action, z_next)))
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(6))
    assert float(net.contrast(z, action, z_next).detach()) == pytest.approx(float(expected), rel=1e-5)


def test_importance_weights_count_rows_and_negatives() -> None:
    """A row of weight 2 is that row twice, but for the pair of the two copies with each other."""
    net, (z, action, z_next) = heads(), rows(4)
    f = ratios(net, z, action, z_next)
    w = np.array([2.0, 1.0, 1.0, 0.5])
    expected = 0.0
    for i in range(4):
        others = [j for j in range(4) if j != i]
        law = w[others] / w[others].sum()
        expected += w[i] / w.sum() * (np.log1p(1 / f[i, i]) + law @ np.log1p(f[i, others]))
    loss = net.contrast(z, action, z_next, weight=torch.as_tensor(w))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", ["nce", "infonce", "spectral", "meco"])
@pytest.mark.parametrize("hidden", [0, 5])
def test_gradients_agree_with_finite_differences(objective: str, hidden: int) -> None:
    net = heads(objective=objective, hidden=hidden).double().eval()
    z, action, z_next = (x.double() if x.is_floating_point() else x for x in rows(6))
    if objective == "meco":
        # The surrogate's gradient is that of the likelihood where the average is the batch's: gamma = 1 here.
        net.objective = heads(objective="meco", objective_options={"gamma": 1.0}).objective

        def value() -> float:
            f, total = ratios(net, z, action, z_next), 0.0
            for mine, others in ((range(3), range(3, 6)), (range(3, 6), range(3))):
                total += sum(np.log(f[i, list(others)].mean()) - np.log(f[i, i]) for i in mine) / 6
            return total
    else:

        def value() -> float:
            return float(net.contrast(z, action, z_next).detach())

    parameters = list(net.parameters())
    gradients = torch.autograd.grad(net.contrast(z, action, z_next), parameters)
    rng = np.random.default_rng(0)
    for p, g in zip(parameters, gradients, strict=True):
        flat = p.detach().reshape(-1)
        for place in rng.integers(len(flat), size=3):
            old, values = float(flat[place]), []
            for shift in (1e-6, -1e-6):
                flat[place] = old + shift
                values.append(value())
            flat[place] = old
            assert float(g.reshape(-1)[place]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-8)


def fit(net: Representation, P: np.ndarray, steps: int = 300, batch: int = 128) -> np.ndarray:
    """Train on draws of a table, (s, a) uniform; returns f (S, A, S)."""
    rng = np.random.default_rng(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = 0.03 if k < steps // 2 else 0.005
        s, action = rng.integers(S, size=batch), rng.integers(A, size=batch)
        following = np.minimum((rng.random((batch, 1)) > P[s, action].cumsum(-1)).sum(-1), S - 1)
        same = torch.as_tensor(identical(following)) if net.config.mask_identical else None
        contrast = net.contrast(EYE[s], torch.as_tensor(action), EYE[following], same=same)
        optimizer.zero_grad()
        contrast.backward()
        optimizer.step()
    s, action = np.divmod(np.arange(S * A), A)
    beta = net.config.beta
    phi = np.logaddexp(0, beta * net.anchors(EYE).detach().numpy()) / beta  # (S, A, d)
    psi = np.logaddexp(0, beta * net.successors(EYE).detach().numpy()) / beta
    return np.asarray(phi @ psi.T)


def table(seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """P (S, A, S) of rank S and the law P^- (S,) of successors under uniform (s, a)."""
    P = np.random.default_rng(seed).dirichlet(np.full(S, 0.5), size=(S, A))
    return P, P.mean(axis=(0, 1))


@pytest.mark.parametrize("objective", ["nce", "meco"])
def test_in_batch_negatives_recover_the_transition_law(objective: str) -> None:
    P, law = table()
    net = heads(objective=objective, beta=3.0, features="simplex")
    f = fit(net, P)
    fitted = law * f
    mass = fitted.sum(-1)
    tv = 0.5 * np.abs(fitted / mass[..., None] - P).sum(-1)
    assert tv.mean() < 0.03
    assert 0.5 * np.abs(law - P).sum(-1).mean() > 0.3  # what features without any information would miss
    if objective == "nce":
        assert mass == pytest.approx(1.0, abs=0.1)  # nce fits the normaliser, too
    # The bonus's features are the posterior of the mixture: P-hat = sum_k w_k p_k with p_k = P^- psi_k / u_k.
    u = net.log_u.exp().numpy()
    psi = np.logaddexp(0, 3 * net.successors(EYE).detach().numpy()) / 3
    assert u == pytest.approx(law @ psi, rel=0.15)
    w = net.features(EYE).numpy()
    assert w.sum(-1) == pytest.approx(1.0, abs=1e-5)
    mixture = w @ (law * (psi / (law @ psi)).T)  # (S, A, S)
    assert 0.5 * np.abs(mixture - P).sum(-1).mean() < 0.05


def test_identical_successors_belong_to_the_negatives() -> None:
    """Where s' is certain, f = P/P^- is finite with all negatives, and runs away if the row's own s' is left out."""
    P = np.zeros((S, A, S))
    P[np.arange(S)[:, None], np.arange(A), (np.arange(S)[:, None] + np.arange(A)) % S] = 1.0
    law = P.mean(axis=(0, 1))  # uniform: 1 / P^- = 4
    right = fit(heads(beta=3.0, dim=12), P, steps=200)
    assert right[P == 1] == pytest.approx(1 / law[0], rel=0.25)
    masked = fit(heads(beta=3.0, dim=12, mask_identical=True), P, steps=200)
    assert masked[P == 1].min() > 3 / law[0]


def test_masked_rows_and_rows_without_negatives() -> None:
    net, (z, action, z_next) = heads(mask_identical=True), rows(4)
    z_next[1] = z_next[0]
    f = ratios(net, z, action, z_next)
    keep = {0: [2, 3], 1: [2, 3], 2: [0, 1, 3], 3: [0, 1, 2]}
    expected = np.mean([np.log1p(1 / f[i, i]) + np.log1p(f[i, js]).mean() for i, js in keep.items()])
    same = torch.as_tensor(identical(z_next.numpy()))
    assert float(net.contrast(z, action, z_next, same=same).detach()) == pytest.approx(expected, rel=1e-5)
    alone = net.contrast(z, action, z_next, same=torch.ones((4, 4), dtype=torch.bool))
    assert float(alone.detach()) == 0.0
    gradients = torch.autograd.grad(alone, list(net.parameters()))
    assert all(not g.any() for g in gradients)  # finite, and 0
    with pytest.raises(RlcError, match="needs `same`"):
        net.contrast(z, action, z_next)


def test_identical_compares_bytes() -> None:
    obs = np.array([[[1, 2]], [[1, 3]], [[1, 2]]], dtype=np.uint8)
    expected = [[True, False, True], [False, True, False], [True, False, True]]
    assert identical(obs).tolist() == expected
    assert identical(obs[:, :, ::-1]).tolist() == expected  # any memory layout
    assert identical(np.array([7, 8, 7])).tolist() == expected
    assert identical(obs.astype(np.float32)).tolist() == expected
    assert identical(obs == 2).tolist() == expected


def test_products_in_logarithms_are_the_librarys_scores_and_survive_extremes() -> None:
    u, v = (3 * torch.randn((n, D), generator=generator(n)) for n in (5, 7))
    expected = pair_scores(u[None], v[None], 2.0, log=True)[0]
    assert torch.allclose(log_products(log_softplus(u, 2.0), log_softplus(v, 2.0)), expected, atol=1e-6)
    low = torch.full((2, 3), -200.0, requires_grad=True)  # e^-400 is 0 in float32
    score = log_products(low, low)
    assert score.detach().numpy() == pytest.approx(-400 + np.log(3))
    (gradient,) = torch.autograd.grad(score.sum(), low)
    assert bool(torch.isfinite(gradient).all())
    assert gradient.numpy() == pytest.approx(4 / 3, rel=1e-5)  # each entry is in four products of three terms


def test_off_diagonal_keeps_the_order() -> None:
    x = torch.arange(16).reshape(4, 4)
    assert off_diagonal(x).tolist() == [[1, 2, 3], [4, 6, 7], [8, 9, 11], [12, 13, 14]]


@pytest.mark.parametrize("kind", ["simplex", "unit", "raw"])
def test_features_by_hand_and_of_given_actions(kind: str) -> None:
    net, (z, action, z_next) = heads(features=kind, beta=2.0), rows(5)
    phi = np.logaddexp(0, 2 * net.anchors(z).detach().numpy()) / 2
    if kind == "raw":
        expected = phi
    elif kind == "unit":
        expected = phi / np.linalg.norm(phi, axis=-1, keepdims=True)
    else:
        expected = phi / phi.sum(-1, keepdims=True)  # before the first batch u counts as 1
    assert net.features(z).numpy() == pytest.approx(expected, rel=1e-5)
    net.contrast(z, action, z_next)
    if kind == "simplex":
        u = (np.logaddexp(0, 2 * net.successors(z_next).detach().numpy()) / 2).mean(axis=0)
        expected = phi * u / (phi @ u)[..., None]
    assert net.features(z).numpy() == pytest.approx(expected, rel=1e-5)
    assert net.features(z, action).numpy() == pytest.approx(expected[np.arange(5), action.numpy()], rel=1e-5)
    assert not net.features(z).requires_grad
    if kind == "simplex":  # phi_k -> c_k phi_k, psi_k -> psi_k / c_k changes nothing (exact in the exponential tail)
        shift = torch.tensor([-1.0, 0.0, 1.0, -0.5, 0.5, 0.2])
        far, moved = (heads(beta=1.0, features=kind) for _ in range(2))
        with torch.no_grad():
            for net_, sign in ((far, 0.0), (moved, 1.0)):
                net_.phi_head[-1].bias += -30 + sign * shift.repeat(A)
                net_.psi_head[-1].bias += -30 - sign * shift
                net_.contrast(z, action, z_next)
        assert moved.features(z).numpy() == pytest.approx(far.features(z).numpy(), rel=1e-4)


def test_the_average_moves_in_training_only_and_is_saved() -> None:
    net, (z, action, z_next) = heads(law_rate=0.25, features="simplex"), rows(5)
    assert bool(net.log_u.isnan().all())
    psi = net.successors(z_next).detach().double().numpy()
    first = np.logaddexp(0, psi).mean(axis=0)
    net.contrast(z, action, z_next)
    assert net.log_u.exp().numpy() == pytest.approx(first, rel=1e-6)
    net.contrast(z, action, z_next.flip(0)[:, [1, 0, 2, 3]])
    second = np.logaddexp(0, net.successors(z_next[:, [1, 0, 2, 3]]).detach().double().numpy()).mean(axis=0)
    assert net.log_u.exp().numpy() == pytest.approx(0.75 * first + 0.25 * second, rel=1e-6)
    kept = net.log_u.clone()
    net.eval().contrast(z, action, z_next)
    assert torch.equal(net.log_u, kept)
    twin = heads(seed=9, features="simplex")
    load_weights(twin, weights(net), "test")
    assert torch.equal(twin.log_u, kept)
    assert torch.equal(twin.features(z), net.features(z))


def test_meco_follows_its_own_average() -> None:
    net, (z, action, z_next) = heads(objective="meco"), rows(6)
    assert bool(net.state_log_u.isnan().all())
    net.contrast(z, action, z_next).backward()
    psi = np.logaddexp(0, net.successors(z_next).detach().double().numpy())
    # First the first half by the second half's successors, which start the average; then the other way round.
    expected = 0.9 * psi[3:].mean(axis=0) + 0.1 * psi[:3].mean(axis=0)
    assert net.state_log_u[0].exp().numpy() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("objective", ["nce", "meco"])
def test_checkpoints_of_older_versions_load(objective: str) -> None:
    """They hold `log_state` for every objective; only meco's means something."""
    config = FeatureConfig(representation=RepresentationConfig(dim=D, hidden=0, objective=objective), device="cpu")
    net = FeatureNet(ObsLayout((S,), "float32"), A, config, rng=generator())
    saved, average = net.state_dict(), np.arange(float(D))[None]
    for name in ("online", "frozen"):
        saved[name].pop("heads.state_log_u", None)
        saved[name]["heads.log_state"] = average
    net.load_state_dict(saved)
    if objective == "meco":
        assert torch.equal(net.online.heads.state_log_u, torch.as_tensor(average))
    saved["online"]["heads.other"] = average
    with pytest.raises(RlcError, match=r"hold 'heads.other'"):
        net.load_state_dict(saved)


def test_diagnoses_of_collapse_and_of_a_good_fit() -> None:
    z, action, z_next = rows(64)
    net = heads(features="unit")
    healthy = net.diagnose(z, action, z_next)
    assert healthy["spread"] > 0.05
    assert 2.0 < healthy["rank"] <= D
    f = ratios(net, z, action, z_next)
    assert healthy["normaliser"] == pytest.approx(f.mean(), rel=1e-5)
    with torch.no_grad():
        net.phi_head[-1].weight.zero_()
        net.phi_head[-1].bias.fill_(1.0)
    collapsed = net.diagnose(z, action, z_next)
    assert collapsed["spread"] == pytest.approx(0.0, abs=1e-10)
    assert collapsed["rank"] == 0.0
    with torch.no_grad():
        net.phi_head[-1].bias.fill_(float("nan"))
    with pytest.raises(RlcError, match="NaN or infinite"):
        net.diagnose(z, action, z_next)


def test_half_precision_inputs_change_no_score() -> None:
    """Under autocast the encoder's vectors come in bfloat16; logarithms of sums are still taken in float32."""
    net, (z, action, z_next) = heads().eval(), rows(5)
    z, z_next = z.bfloat16(), z_next.bfloat16()
    plain = net.contrast(z, action, z_next)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net.contrast(z, action, z_next)
    assert plain.dtype == mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(RlcError, match="meco-keyed keeps an entry for each stored transition"):
        heads(objective="meco-keyed")
    with pytest.raises(RlcError, match="cannot leave out"):
        heads(objective="meco", mask_identical=True)
    with pytest.raises(RlcError, match="unknown objective"):
        heads(objective="ncee")
    with pytest.raises(RlcError, match="two rows"):
        heads().contrast(*rows(1))
    for fields in ({"dim": 0}, {"beta": 0.0}, {"law_rate": 0.0}, {"features": "cosine"}):
        with pytest.raises(RlcError, match="representation"):
            heads(**fields)


def test_self_prediction_by_hand() -> None:
    config = SelfPredictionConfig(weight=1.0, steps=3, hidden=5, dim=4)
    net = SelfPrediction(S, A, config, rng=generator(2))
    z = rows(2)[0].abs()
    actions, targets = torch.tensor([[0, 1, 1], [1, 0, 0]]), torch.rand((2, 3, S), generator=generator(4))
    mask = torch.tensor([[True, True, True], [True, False, False]])
    loss, _ = net(z, actions, targets, mask)
    cosines = []
    for i, steps in enumerate((3, 1)):
        x = z[i : i + 1]
        for k in range(steps):
            x = net.transition(x, actions[i, k : k + 1])
            a, b = net.predict(net.project(x))[0].detach(), net.target(targets[i, k])
            cosines.append(float(a @ b / (a.norm() * b.norm())))
    assert float(loss.detach()) == pytest.approx(1 - np.mean(cosines), rel=1e-5)
    changed = targets.clone()
    changed[1, 1:] = 7.0  # behind the episode's end
    assert torch.equal(net(z, actions, changed, mask)[0], loss)
    loss.backward()
    assert all(p.grad is None for p in net.target.parameters())
    assert all(p.grad is not None for n, p in net.named_parameters() if not n.startswith("target"))


def test_self_prediction_learns_a_cycle_and_its_target_follows() -> None:
    """States turn by 1 + action: predictions over 3 steps come to be right, and are wrong for the other actions."""
    width = 32
    config = SelfPredictionConfig(weight=1.0, steps=3, hidden=32, dim=8, tau=0.05)
    net = SelfPrediction(width, A, config, rng=generator())
    vectors = torch.relu(torch.randn((S, width), generator=generator(5)))
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.01)
    rng = np.random.default_rng(0)

    def batch(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        s, actions = rng.integers(S, size=n), rng.integers(A, size=(n, 3))
        places = (s[:, None] + (1 + actions).cumsum(1)) % S
        return vectors[s], torch.as_tensor(actions), vectors[places], torch.ones((n, 3), dtype=torch.bool)

    for _ in range(200):
        loss, _ = net(*batch(48))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before = net.target.weight.clone()
        net.follow()
        expected = before + 0.05 * (net.project.weight.detach() - before)
        assert torch.allclose(net.target.weight, expected, atol=1e-6)
    z, actions, targets, mask = batch(64)
    good, diagnostics = net(z, actions, targets, mask)
    wrong, _ = net(z, 1 - actions, targets, mask)
    assert float(good.detach()) < 0.02 < 0.15 < float(wrong.detach())
    assert float(diagnostics["cosine"]) == pytest.approx(1 - float(good.detach()), abs=1e-6)
    assert float(diagnostics["spread"]) > 0.1
    assert float(net(z, actions, vectors[torch.zeros((64, 3), dtype=torch.int64)], mask)[1]["spread"]) < 1e-5
