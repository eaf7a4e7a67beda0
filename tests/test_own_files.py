"""`rlc new`, `rlc check` and the contract tests that ship with the library: what they accept and what they refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from rl_contrastive import make_agent, make_env, make_objective, names, registry
from rl_contrastive.cli import main
from rl_contrastive.errors import RlcError
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.learner import FeatureLearner
from rl_contrastive.objectives.base import NoOptions, Objective, ObjectiveResult, Recovers, reduce_rows
from rl_contrastive.testing import check_agent, check_env, check_objective, check_opponent


@pytest.mark.parametrize("kind", ["agent", "env", "objective"])
def test_a_new_file_passes_its_check(kind, tmp_path, capsys, monkeypatch):
    for known in get_args(registry.Kind):
        registry.entries(known)  # discovered now, or the copy below would take what is discovered with it
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))  # later tests must not see the new name
    file = tmp_path / f"fresh_{kind}.py"
    assert main(["new", kind, f"fresh-{kind}", "--out", str(file)]) == 0
    assert main(["check", str(file)]) == 0
    assert f"ok    {kind} fresh-{kind}:" in capsys.readouterr().out
    before = file.read_bytes()
    assert main(["new", kind, "other", "--out", str(file)]) == 2  # nothing is overwritten
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["new", "agnt", "x"], "did you mean 'agent'"),
        (["new", "agent", "ucbvi"], "already taken"),
        (["new", "agent", "no way"], "letters, digits and hyphens"),
        (["new", "env", "x", "--out", "x.txt"], "must end in .py"),
        (["check", "ucbv"], "did you mean 'ucbvi'"),
        (["check", "no_such_file.py"], "there is no file"),
    ],
)
def test_bad_words_are_one_sentence(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [n for n in names("env") if not n.endswith(":") and n not in ("soccer", "swingup")])
def test_our_environments_keep_the_rules(name):
    assert "seeds" in check_env(lambda rows: make_env(name, rows), episodes=2)


@pytest.mark.parametrize("name", names("objective"))
def test_our_objectives_keep_the_rules(name):
    assert "gradient" in check_objective(make_objective(name))


@pytest.mark.parametrize("name", ["ucbvi", "q-learning", "contrastive-ucb", "nash-vi", "uniform"])
def test_our_agents_keep_the_rules(name):
    if name not in names("agent"):
        pytest.skip("not registered")
    world = "low-rank-game" if name == "nash-vi" else "low-rank"

    def make(seed):
        env = make_env(world, 50, num_states=6, horizon=3, rank=2)
        return make_agent(name, env, seed=seed), env

    assert "state" in check_agent(make)


def broken_env(change):
    """The lock, with one rule broken."""

    def make(rows):
        env = make_env("combination-lock", rows, horizon=3, num_actions=3)
        change(env)
        return env

    return make


def wrap_step(env, change):
    step, count = env.step, [0]

    def changed(action):
        count[0] += 1
        return change(count[0], *step(action))

    env.step = changed


def unseeded(env):
    reset = env.reset
    env.reset = lambda seed=None, options=None: reset(seed=None)


BROKEN_ENVS = {
    "equal seeds": unseeded,
    "rewards lie in": lambda env: wrap_step(env, lambda n, o, r, *rest: (o, r - 5.0, *rest)),
    "observations are": lambda env: wrap_step(env, lambda n, o, *rest: (o[:, :2], *rest)),
    "NaN": lambda env: wrap_step(env, lambda n, o, *rest: (o * np.nan, *rest)),
    "terminated is": lambda env: wrap_step(env, lambda n, o, r, t, c, i: (o, r, t.astype(int), c, i)),
    "longer than the horizon": lambda env: wrap_step(env, lambda n, o, r, t, c, i: (o, r, t & False, c & False, i)),
}


@pytest.mark.parametrize("sentence", BROKEN_ENVS)
def test_a_broken_environment_is_refused(sentence):
    with pytest.raises(RlcError, match=sentence):
        check_env(broken_env(BROKEN_ENVS[sentence]))


def test_a_row_that_depends_on_its_neighbours_is_refused():
    def make(rows):
        env = make_env("combination-lock", rows, horizon=3, num_actions=3)
        wrap_step(env, lambda n, o, r, *rest: (o + len(r), r, *rest))
        return env

    with pytest.raises(RlcError, match="neighbours"):
        check_env(make)


def broken_agent(change):
    def make(seed):
        env = make_env("low-rank", 8, num_states=6, horizon=3, rank=2)
        agent = make_agent("ucbvi", env, seed=seed)
        change(agent)
        return agent, env

    return make


def global_draws(agent):
    act = agent.act
    agent.act = lambda obs, h: (np.random.rand(), act(obs, h))[1]  # noqa: NPY002


def forgets(agent):
    load = agent.load_state_dict
    agent.load_state_dict = lambda state: load({**agent.state_dict(), **state})


BROKEN_AGENTS = {
    "whole numbers in": lambda agent: setattr(agent, "act", lambda obs, h: np.full(len(obs), 99)),
    "global random generator": global_draws,
    "was loaded": forgets,
    "update returns": lambda agent: setattr(agent, "update", lambda: None),
}


@pytest.mark.parametrize("sentence", BROKEN_AGENTS)
def test_a_broken_agent_is_refused(sentence):
    with pytest.raises(RlcError, match=sentence):
        check_agent(broken_agent(BROKEN_AGENTS[sentence]))


@dataclass
class Wrong:
    """An objective whose rows, padding or gradient are wrong."""

    how: str

    def __call__(self, pos, neg, w, v):
        rows = (w * -pos).sum(-1) / w.sum(-1).clamp_min(1e-30) + (v * neg).sum(-1)
        if self.how == "padding":
            return ObjectiveResult((w.sum(-1) * rows).sum(-1) + 0.0 * rows.sum(-1) + rows.shape[-1], rows)
        if self.how == "gradient":
            rows = rows + (v * neg.detach() ** 2).sum(-1)
        loss = (w.sum(-1) * rows).sum(-1)
        return ObjectiveResult(loss.sum() if self.how == "shapes" else loss, rows)


@pytest.mark.parametrize(
    ("how", "sentence"), [("shapes", "loss is"), ("padding", "sum of its rows"), ("gradient", "finite differences")]
)
def test_a_broken_objective_is_refused(how, sentence):
    with pytest.raises(RlcError, match=sentence):
        check_objective(Wrong(how))


class Made(Objective):
    """nce with one fault."""

    recovers = "ratio"

    def __init__(self, how=""):
        self.how = how
        self.recovers = "ratios" if how == "name" else "ratio"

    def loss(self, pos, neg, w, v):
        if self.how == "sign":
            pos, neg = -pos, -neg
        if self.how == "law":
            v = torch.full_like(v, 1 / v.shape[-1])
        if self.how == "negatives":
            v = v + 0.1
        rest = neg.exp().log1p() if self.how == "overflow" else softplus(neg)
        return ObjectiveResult(*reduce_rows(softplus(-pos), (v * rest).sum(-1), w))


MADE = {
    "name": "recovers must be one of 'ratio', .*, got 'ratios'",
    "sign": "recovers = 'ratio', but its descent raises the score of the rarer successor",
    "law": "a negative of weight 0 changed the loss|neg_weight, did not change the loss",
    "negatives": "a negative of weight 0 changed the loss",
    "overflow": "positives of score 100 and negatives of 100 give no finite loss",
}


@pytest.mark.parametrize("how", MADE)
def test_a_wrong_objective_is_refused(how):
    assert "direction" in check_objective(Made())  # the control
    with pytest.raises(RlcError, match=f"Made: .*({MADE[how]})"):
        check_objective(Made(how))


def test_recovers_is_checked_where_it_is_registered_and_used(monkeypatch):
    registry.entries("objective")
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    assert get_args(Recovers) == registry.RECOVERS
    with pytest.raises(RlcError, match="register: objective 'odd': recovers must be one of"):
        registry.register("objective", "odd", NoOptions)(type("Odd", (Objective,), {"recovers": "all"}))
    registry.register("objective", "odd", NoOptions)(lambda config: Made("name"))
    with pytest.raises(RlcError, match="learner: objective odd: recovers must be one of"):
        FeatureLearner(LearnerConfig(method="nce", objective="odd"), horizon=2, num_actions=2, num_states=3)


def test_opponents():
    spec = make_env("duel-lock", 1, horizon=3, num_actions=3).env_spec
    entry = registry.get("opponent", "q-learner")[0]

    def make(seed):
        return entry.factory(spec, entry.config(), rng=np.random.default_rng(seed))

    assert check_opponent(make, spec) == ["actions", "seeds", "state"]

    def forgetful(seed):
        opponent = make(seed)
        opponent.load_state_dict = lambda state: None
        return opponent

    with pytest.raises(RlcError, match="went on differently"):
        check_opponent(forgetful, spec)


@pytest.mark.parametrize("line", ["raise KeyError('boom')", "raise SystemExit(0)"])
def test_an_agent_that_raises_or_exits_is_one_sentence(line, tmp_path, capsys, monkeypatch):
    for known in get_args(registry.Kind):
        registry.entries(known)
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    file = tmp_path / "ends.py"
    assert main(["new", "agent", "ends", "--out", str(file)]) == 0
    file.write_text(
        file.read_text().replace(
            "        return self.rng.integers", f"        {line}\n        return self.rng.integers"
        )
    )
    assert main(["check", str(file)]) == 2
    assert capsys.readouterr().err.startswith("rlc: agent ends raised")


def test_a_file_that_exits_is_one_sentence(tmp_path, capsys):
    (tmp_path / "leaves.py").write_text("import sys\n\nsys.exit(3)\n")
    assert main(["check", str(tmp_path / "leaves.py")]) == 2
    assert "raised SystemExit: 3" in capsys.readouterr().err
