"""The seven defects of the official code (Baichenjia/Contrastive-UCB): each one re-enacted, and shown not to be ours.

docs/agents/contrastive-ucb-deep.md has a line for each. The re-enactments are the statements of the official
`scripts/run.py`, `src/algos.py` and `src/models.py`, with arrays in the places of its networks and its replay.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agents_common import batches
from torch import Tensor
from torch.nn.functional import normalize

import rl_contrastive
from rl_contrastive import registry
from rl_contrastive.cli import main
from rl_contrastive.config import from_dict
from rl_contrastive.deep.bonus import VisitBonus
from rl_contrastive.deep.bonus_config import BonusConfig
from rl_contrastive.deep.build_bonus import make_bonus
from rl_contrastive.deep.config import RepresentationConfig, SelfPredictionConfig
from rl_contrastive.deep.replay.replay import Replay
from rl_contrastive.deep.representation import Representation
from rl_contrastive.deep.self_prediction import SelfPrediction
from rl_contrastive.runs.run import resume

KINDS = ["elliptical", "tiles"]
ATOMS = torch.linspace(-10.0, 10.0, 51)


def counts(kind: str, capacity: int, dim: int, **options: Any) -> VisitBonus:
    config = from_dict(BonusConfig, {"kind": kind, **options})
    return make_bonus(config, capacity, 1, dim, beta=1.0, rng=np.random.default_rng(0))


def visit(bonus: VisitBonus, phi: np.ndarray, first: int = 0) -> None:
    """Store the features (n, d) of one action each from entry `first` on, and count them."""
    index = first + np.arange(len(phi))
    bonus.store(index, phi[:, None])
    bonus.visit(index, np.zeros(len(phi), dtype=np.int64))


def official_lambda(features: Callable[[], Tensor], updates: int) -> tuple[Tensor, Tensor]:
    """Lambda after so many updates, each by the features (512, d) of a minibatch, and the last bonus (512,)."""
    Lambda = torch.diag(torch.zeros(features().shape[1]) + 1e-5)
    for _ in range(updates):
        phi = features()
        Lambda += phi.T @ phi
    return Lambda, official_bonus(phi, Lambda)


def official_bonus(phi: Tensor, Lambda: Tensor) -> Tensor:
    square = torch.einsum("nd,nd->n", phi @ torch.inverse(Lambda), phi)
    return torch.nan_to_num(torch.sqrt(square), nan=0.0)


def return_distributions(rows: int, *, rng: torch.Generator) -> Tensor:
    """Features (rows, 51) of the official code: probabilities of the taken action's atoms, here of returns N(m, 1.5^2)
    with m ~ N(0, 4^2)."""
    m = 4.0 * torch.randn((rows, 1), generator=rng)
    return torch.softmax(-(ATOMS - m).square() / (2 * 1.5**2), dim=-1)


# -- 1 -----------------------------------------------------------------------------------------------------------------


def official_seed(words: list[str], process: random.Random) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    args.seed = process.randint(0, 100000)
    return int(args.seed)


def test_1_the_seed_given_is_the_seed_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Official: `args.seed = random.randint(...)` behind the parser, so that no run can be repeated."""
    assert official_seed(["--seed", "7"], random.Random(1)) != official_seed(["--seed", "7"], random.Random(2))

    def here(jobs: list[Any], workers: int | None, *, as_json: bool) -> int:
        return int(any(resume(job.folder)["status"] != "finished" for job in jobs))

    monkeypatch.setattr("rl_contrastive.cli.run.work", here)  # worker processes would take seconds
    words = ["run", "contrastive-ucb-deep", "deep-sea", "--env.size", "4", "--episodes", "8", "--eval-every", "4"]
    words += ["--eval-episodes", "2", "--no-tensorboard", "--agent.warm-start", "8", "--agent.learner.batch-size", "4"]
    words += ["--agent.learner.encoder.hidden", "8"]

    def metrics(out: str, seed: int) -> bytes:
        assert main([*words, "--seed", str(seed), "--out", str(tmp_path / out)]) == 0
        folder = tmp_path / out / "default" / "contrastive-ucb-deep--deep-sea" / f"seed-{seed}"
        assert json.loads((folder / "config.json").read_text())["seed"] == seed
        return (folder / "metrics.jsonl").read_bytes()

    first = metrics("first", 7)
    assert b"loss" in first  # it did learn
    assert metrics("again", 7) == first
    assert metrics("other", 8) != first


# -- 2 -----------------------------------------------------------------------------------------------------------------


def small_agent(kind: str) -> Any:
    env_entry, _ = registry.get("env", "deep-sea")
    agent_entry, _ = registry.get("agent", "contrastive-ucb-deep")
    learner = {"batch_size": 8, "encoder": {"hidden": [16]}, "representation": {"dim": 8, "hidden": 16}}
    config = {"batch": 2, "warm_start": 20, "capacity": 500, "bonus": {"kind": kind}, "learner": learner}
    env = env_entry.factory(from_dict(env_entry.config, {"size": 6}), 2)
    return agent_entry.factory(env, from_dict(agent_entry.config, config), seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_2_counts_grow_with_visits_not_with_gradient_steps(kind: str) -> None:
    """Official: each update adds the 16 x 32 replayed features of its minibatch, whether they are new or not."""
    rng = torch.Generator().manual_seed(0)
    stored = return_distributions(32, rng=rng)  # 32 visits, and no more to come

    def replayed() -> Tensor:
        return stored[torch.randint(32, (512,), generator=rng)]

    medians = [float(official_lambda(replayed, updates)[1].median()) for updates in (1, 10, 100)]
    assert medians[0] > 2 * medians[1] > 4 * medians[2]  # "visits" by gradient steps alone
    agent = small_agent(kind)
    batches(agent, 0, 6)
    phi = agent.learner.features.phi(np.arange(36))
    before = agent.bonus.value(phi)
    for _ in range(20):
        agent.learner.step(agent.replay, agent.bonus, rng=agent.fit_rng)
    np.testing.assert_array_equal(agent.bonus.value(phi), before)
    assert agent.bonus.visits == agent.steps == 72
    batches(agent, 6, 1)  # visits do count
    assert agent.bonus.visits == 84


# -- 3 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_3_counts_are_made_anew_when_features_move(kind: str) -> None:
    """Official: Lambda keeps the outer products of features that no network gives any more.

    One state was visited 100 times when its feature was e_1. The network moves: its feature is e_2 now, and that of a
    state never seen is e_1.
    """
    e = np.eye(8)
    old, new = np.repeat(e[:1], 100, axis=0), np.repeat(e[1:2], 100, axis=0)
    visited, unseen = e[1:2], e[:1]
    Lambda = 1e-5 * torch.eye(8) + torch.as_tensor(old.T @ old).float()
    stale = official_bonus(torch.as_tensor(np.concatenate([visited, unseen])).float(), Lambda)
    assert stale[0] > 100 * stale[1]  # the visited state looks new, and the new one known
    bonus = counts(kind, 100, 8)
    visit(bonus, old)
    known, novel = float(bonus.value(unseen)[0]), float(bonus.value(visited)[0])
    assert known < 0.3 * novel  # under the first network
    for _ in range(2):  # twice: nothing of the counts before may be left
        bonus.rebuild(new, iter([(np.arange(100), np.zeros(100, dtype=np.int64), new[:, None])]))
        assert float(bonus.value(visited)[0]) == pytest.approx(known)
        assert float(bonus.value(unseen)[0]) == pytest.approx(novel)


# -- 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_4_no_bonus_turns_into_nan_and_then_into_0(kind: str) -> None:
    """Official: float32, ridge 1e-5, full inverse, `nan_to_num`: after 100 updates Lambda is indefinite and a third of
    the bonuses are 0. A run makes 196 000 updates (ours over 10^5: tests/deep/test_bonus.py, slow)."""
    rng = torch.Generator().manual_seed(0)
    Lambda, bonus = official_lambda(lambda: return_distributions(512, rng=rng), 100)
    assert float(torch.linalg.eigvalsh(Lambda.double()).min()) < 0
    assert int((bonus == 0).sum()) > 51
    ours, first = counts(kind, 512, 51), torch.Generator().manual_seed(0)
    for _ in range(100):
        phi = return_distributions(512, rng=first).double().numpy()
        visit(ours, phi)
    b = ours.value(phi)
    assert np.isfinite(b).all()
    assert (b > 0).all()


def test_4_the_same_ridge_is_no_harm_in_double_precision() -> None:
    """The oracle: with ridge 1e-5, too, the form is that of an inverse by eigenvectors."""
    rng = torch.Generator().manual_seed(0)
    ours = counts("elliptical", 512, 51, lam=1e-5)
    Sigma = 1e-5 * np.eye(51)
    for _ in range(100):
        phi = return_distributions(512, rng=rng).double().numpy().astype(np.float32).astype(np.float64)
        visit(ours, phi)
        Sigma += phi.T @ phi
    values, vectors = np.linalg.eigh(Sigma)
    assert values.min() > 0
    expected = np.sqrt((np.square(phi @ vectors) / values).sum(axis=1))
    np.testing.assert_allclose(ours.value(phi), expected, rtol=1e-4)


# -- 5 -----------------------------------------------------------------------------------------------------------------


def official_bonus_return(bonus: np.ndarray, done: np.ndarray, n: int, gamma: float) -> np.ndarray:
    """(T,), (T,) -> (T - n,)."""
    out = np.zeros(len(bonus) - n)
    for n1 in range(len(out)):
        for n2 in range(n):
            out[n1] += gamma**n2 * bonus[n1 + n2] * (1 - done[n1])
    return out


def test_5_bonuses_end_with_their_episode() -> None:
    """Official: the mask is that of the first step only. Episodes of 2 and 3 steps; bonuses 1, 2 and 100, 100, 100."""
    bonus, done = np.array([1.0, 2.0, 100.0, 100.0, 100.0]), np.array([0, 1, 0, 0, 1])
    leaky = official_bonus_return(bonus, done, 3, 0.5)
    np.testing.assert_array_equal(leaky, [1 + 1 + 25, 0])  # the next episode's counts; the last step's own does not
    replay = Replay(100, (), "int64", gamma=0.5, n_step=3)
    for length in (2, 3):
        replay.begin(1)
        for k in range(length):
            end = np.array([k == length - 1])
            step = (np.array([k]), np.array([0]), np.zeros(1), np.array([k + 1]), 1.0 - end, end, np.array([True]))
            replay.add(*step)
    b = np.full(100, np.nan)
    b[[0, 1, 3, 4, 5]] = bonus  # entry 2 is the first episode's final observation: its bonus is of no step
    batch = replay.batch(np.array([0, 1, 3, 5]))
    np.testing.assert_array_equal(replay.discounted(b[batch.steps], batch.mask), [2, 2, 175, 100])


# -- 6 -----------------------------------------------------------------------------------------------------------------


def official_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """`spr_loss`: (N, d), (N, d) -> (N,)."""
    return (normalize(predicted, dim=-1) - normalize(target, dim=-1)).square().sum(-1)


def test_6_features_are_learned_from_negatives() -> None:
    """Official: what is called contrastive predicts each row's own successor; collapsed features are a perfect fit."""
    rng = torch.Generator().manual_seed(0)
    one = torch.randn((1, 5), generator=rng).expand(4, 5)
    torch.testing.assert_close(official_loss(one, one), torch.zeros(4))
    predicted, targets = (torch.randn((4, 5), generator=rng) for _ in range(2))
    swapped = targets[[0, 2, 3, 1]]
    assert official_loss(predicted, swapped)[0] == official_loss(predicted, targets)[0]  # no row sees another one
    # Ours: eight states, each followed by the next one.
    states, actions = torch.eye(8), torch.zeros(8, dtype=torch.int64)
    net = Representation(8, 1, RepresentationConfig(dim=8, hidden=0), rng=rng)
    assert net.config.objective == "nce"

    def loss(z: Tensor, z_next: Tensor) -> Tensor:
        return net.contrast(z, actions, z_next)

    collapsed = 2 * np.log(2)  # min over f of log(1 + 1/f) + log(1 + f): all that features without differences can do
    same = torch.ones((8, 8))
    assert float(loss(same, same).detach()) >= collapsed - 1e-6
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        value = loss(states, states.roll(-1, 0))
        value.backward()
        optimiser.step()
    assert float(value.detach()) < 0.6 * collapsed
    others = states.roll(-1, 0)[[0, 2, 3, 4, 5, 6, 7, 1]]
    assert float(loss(states, others).detach()) > 2 * collapsed  # whose successor is whose does matter


def test_6_self_prediction_is_an_option_and_goes_by_its_name() -> None:
    assert SelfPredictionConfig().weight == 0.0
    rng = torch.Generator().manual_seed(0)
    head = SelfPrediction(4, 2, SelfPredictionConfig(weight=1.0, steps=1), rng=rng)
    z, targets = torch.rand((3, 4), generator=rng), torch.rand((3, 1, 4), generator=rng).requires_grad_()
    head.forward(z, torch.zeros((3, 1), dtype=torch.int64), targets, torch.tensor([[True], [False], [False]]))
    assert targets.grad is None


# -- 7 -----------------------------------------------------------------------------------------------------------------


OFFICIAL = """
class Model:
\tdef __init__(self, image_shape, output_size, n_atoms, dueling, jumps, spr, augmentation, target_augmentation,
\t\t\teval_augmentation, dynamics_blocks, norm_type, noisy_nets, aug_prob, classifier):
\t\tself.classifier = classifier

\tdef head(self, p):
\t\ttry:
\t\t\tp = self.model.module(p)
\t\texcept:
\t\t\tp = self.model(p)
\t\tprint("USE softmax")
\t\treturn torch.nan_to_num(p)
"""


def blemishes(text: str) -> set[str]:
    """Which of the bad habits a source text has."""
    found = {"tab"} if "\t" in text else set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.add("bare except")
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            found |= {name} & {"print", "nan_to_num"}
        elif isinstance(node, ast.FunctionDef):
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            found |= {"more than 12 arguments"} if len(arguments) > 12 else set()
    return found


def fields_and_reads(texts: list[str]) -> tuple[set[str], set[str]]:
    """Fields of config classes, and names of attributes that are read outside of these classes."""
    fields, reads = set(), set()
    for text in texts:
        tree = ast.parse(text)
        configs = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name.endswith("Config")]
        inside = {id(node) for config in configs for node in ast.walk(config)}
        for config in configs:
            marked = [node for node in config.body if isinstance(node, ast.AnnAssign)]
            declared = [node.target for node in marked if "ClassVar" not in ast.unparse(node.annotation)]
            fields |= {target.id for target in declared if isinstance(target, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in inside:
                reads.add(node.attr)
    return fields, reads


def test_7_no_prints_no_bare_excepts_no_dead_options() -> None:
    """Official: a print at each update, `except:`, tabs, 36 arguments, options that nothing reads."""
    expected = {"tab", "bare except", "print", "nan_to_num", "more than 12 arguments"}
    assert blemishes(OFFICIAL) == expected
    root = Path(rl_contrastive.__file__).parent
    files = [*(root / "deep").glob("*.py"), root / "agents" / "contrastive_ucb_deep.py"]
    texts = [file.read_text() for file in files]
    assert {file.name: found for file, text in zip(files, texts, strict=True) if (found := blemishes(text))} == {}
    dead = "@dataclass\nclass AConfig:\n    used: int = 0\n    dead: int = 0\n\nx = AConfig().used\n"
    assert [sorted(names) for names in fields_and_reads([dead])] == [["dead", "used"], ["used"]]
    fields, reads = fields_and_reads(texts)
    assert len(fields) > 40
    assert fields - reads == set()


def test_the_page_names_each_of_these_tests() -> None:
    readme = (Path(__file__).parents[2] / "docs" / "agents" / "contrastive-ucb-deep.md").read_text(encoding="utf-8")
    section = readme.split("## What the deep agent does not copy\n", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"`(test_(\d)_\w+)`", section)
    assert [number for _, number in named] == list("1234567")
    assert all(name in globals() for name, _ in named)
