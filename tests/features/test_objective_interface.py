"""What every objective promises: `step`, `recovers`, a state that is handed in, and options of its own type."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rl_contrastive.config import from_dict, to_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.features.batches import Batch
from rl_contrastive.features.config import LearnerConfig
from rl_contrastive.features.descent import DescentConfig, descend
from rl_contrastive.features.learner import FeatureLearner
from rl_contrastive.features.networks import TableFactors, TensorBatch, contrast
from rl_contrastive.objectives import make
from rl_contrastive.objectives.base import Contrast, Objective, ObjectiveResult, Sizes, State
from rl_contrastive.objectives.compositional import MECOConfig
from rl_contrastive.registry import entries

H, S, A, D = 2, 3, 2, 2
SIZES = Sizes(levels=H, anchors=S * A, dim=D)
NAMES = [entry.name for entry in entries("objective")]


def factors(seed: int = 0) -> TableFactors:
    rng = np.random.default_rng(seed)
    start = rng.normal(size=(H, S * A, D)), rng.normal(size=(H, S, D))
    return TableFactors(*start, beta=1.0, dtype=torch.float64, device="cpu")


def table() -> Batch:
    """All (s,a) x s' with random weights."""
    rng = np.random.default_rng(1)
    weight = rng.dirichlet(np.ones(S * A * S), size=H).reshape(H, S * A, S)
    return Batch(None, None, None, weight, rng.dirichlet(np.ones(S), size=H))


def seen(f: TableFactors) -> Contrast:
    return contrast(f, TensorBatch.of(table(), f.parameters[0]))


class Always:
    """A sampler of one batch."""

    def draw(self, *, rng: np.random.Generator) -> Batch:
        return table()


@pytest.mark.parametrize("name", [name for name in NAMES if not make(name).initial(SIZES)])
def test_without_a_state_a_step_is_the_call_itself(name: str) -> None:
    f, objective = factors(), make(name)
    batch = seen(f)
    assert objective.initial(SIZES) == {}
    result, state = objective.step(batch, {})
    pos, neg, law = batch.scores(objective.space)
    assert torch.equal(result.loss, objective(pos, neg, batch.pos_weight, law).loss)
    assert torch.equal(result.loss, objective.judge(batch).loss)
    assert state == {}


@pytest.mark.parametrize("name", ["meco", "meco-keyed"])
def test_a_remembered_average_changes_the_step_and_the_rows_add_up(name: str) -> None:
    batch, objective = seen(factors()), make(name)
    result, state = objective.step(batch, objective.initial(SIZES))
    assert torch.allclose((batch.row_weight * result.rows).sum(-1), result.loss)
    old = {"log_u": state["log_u"] + 1.0}
    assert not torch.allclose(objective.step(batch, old)[0].loss, result.loss)
    assert not state["log_u"].requires_grad


def test_entries_of_replaced_anchors_are_new_and_others_stay() -> None:
    keyed = make("meco-keyed", {"gamma": 0.25})
    batch = seen(factors())
    _, state = keyed.step(batch, keyed.initial(SIZES))
    after = keyed.reset(state, SIZES, torch.tensor([1, 4]))
    kept = [0, 2, 3, 5]
    assert bool(after["log_u"][:, [1, 4]].isnan().all())
    assert torch.equal(after["log_u"][:, kept], state["log_u"][:, kept])
    assert not bool(state["log_u"].isnan().any())  # the state handed in is left alone
    # A first visit takes the batch's own estimate; an old entry moves a quarter of the way.
    moved = keyed.step(seen(factors(seed=5)), after)[1]["log_u"]
    first = keyed.step(seen(factors(seed=5)), keyed.initial(SIZES))[1]["log_u"]
    assert torch.equal(moved[:, [1, 4]], first[:, [1, 4]])
    assert not torch.allclose(moved[:, kept], first[:, kept])
    plain, memory = make("meco"), {"log_u": torch.ones(H, D)}
    assert plain.reset(memory, SIZES, torch.tensor([0])) is memory  # nothing of it belongs to one anchor


@pytest.mark.parametrize("name", ["meco", "meco-keyed"])
def test_each_descent_begins_with_a_fresh_state(name: str) -> None:
    objective, config = make(name), DescentConfig(5, 0.1, 0.0, 1, 1)
    first, again = (
        descend(factors(), Always(), objective, config, rng=np.random.default_rng(0)).values for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


class Learned(Objective):
    """Likelihood plus b^2 with a learned b of each problem: a state with a parameter."""

    def initial(self, sizes: Sizes) -> State:
        return {"b": nn.Parameter(torch.ones(sizes.levels, dtype=torch.float64))}

    def loss(self, pos: Tensor, neg: Tensor, pos_weight: Tensor, neg_weight: Tensor) -> ObjectiveResult:
        return make("mle")(pos, neg, pos_weight, neg_weight)

    def step(self, batch: Contrast, state: State) -> tuple[ObjectiveResult, State]:
        self.last = state["b"]
        result = self.judge(batch)
        return replace(result, loss=result.loss + state["b"].square()), state


def test_parameters_of_a_state_are_trained_beside_the_factors() -> None:
    objective = Learned()
    start = objective.initial(SIZES)
    assert objective.parameters(start) == [start["b"]]
    descend(factors(), Always(), objective, DescentConfig(100, 0.1, 0.0, 1, 1), rng=np.random.default_rng(0))
    assert float(objective.last.detach().abs().max()) < 0.1


# P(s'|anchor) of two anchors, P^- and the ratio, as in test_objectives.py.
P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.4, 0.5]], dtype=torch.float64)
LAW = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)


def fitted_rows(objective: Objective) -> Tensor:
    """P-hat (2, 3) of a free table of scores at the minimum of exact expectations, normalised."""
    s = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    copies = 2000  # InfoNCE counts the positive among its negatives: M is large
    law = (LAW.repeat(copies) / copies).expand(2, -1)
    optimiser = torch.optim.LBFGS([s], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        given = s if objective.space == "log" else s.exp()
        loss = objective(given, given.repeat(1, copies), P / 2, law).loss
        loss.backward()
        return loss

    optimiser.step(closure)
    model = LAW * s.detach().exp()
    return model / model.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("name", "options", "recovers"),
    [
        *((name, {}, None) for name in NAMES),
        ("infonce", {"temperature": 0.5}, "tempered"),
        ("infonce", {"temperature": 2.0}, "tempered"),
        ("logistic", {"negatives": 3.0}, "ratio"),
        ("logistic", {"smoothing": 0.2}, "nothing"),
        ("dcl", {"temperature": 0.5}, "tempered"),
        ("hard", {"alpha": 1.0}, "ratio-up-to-row"),
        ("hard", {"alpha": 1.0, "temperature": 2.0}, "tempered"),
        ("reweighted", {"weight": "cl"}, "ratio-up-to-row"),
        ("reweighted", {"weight": "cl", "direction": "sft"}, "ratio-up-to-row"),
        ("reweighted", {"weight": "sft", "direction": "cl"}, "ratio"),
        ("isogclr", {"tau_0": 0.5, "tau_min": 0.5, "tau_max": 0.5}, "tempered"),
        ("isogclr", {"tau_0": 1.0, "tau_min": 1.0, "tau_max": 1.0}, "ratio-up-to-row"),
    ],
)
def test_recovers_tells_the_truth(name: str, options: dict[str, float], recovers: str | None) -> None:
    objective = make(name, options)
    assert recovers in (None, objective.recovers)
    error = float((fitted_rows(objective) - P).abs().max())
    if objective.recovers in ("ratio", "ratio-up-to-row"):
        assert error < 2e-3
    else:
        assert error > 0.02


@pytest.mark.parametrize(
    ("objective", "options", "words"),
    [
        ("infonce", {"temperature": 2.0}, "infonce with these options recovers only a tempered ratio"),
        ("logistic", {"smoothing": 0.1}, "logistic with these options recovers no ratio"),
        ("dcl", {"temperature": 0.1}, "dcl with these options recovers only a tempered ratio"),
        ("isogclr", {}, "isogclr with these options recovers only a tempered ratio"),
        ("dclw", {}, "dclw with these options recovers no ratio"),
        ("hard", {}, "hard with these options recovers no ratio"),
    ],
)
def test_the_learner_makes_no_model_of_what_is_no_ratio(objective, options, words) -> None:
    config = LearnerConfig(method="nce", objective=objective, objective_options=options)
    sizes = {"horizon": 1, "num_actions": 2, "num_states": 4}
    with pytest.raises(RlcError, match=words):
        FeatureLearner(config, **sizes)
    FeatureLearner(replace(config, allow_biased=True), **sizes)
    FeatureLearner(replace(config, objective="nce", objective_options={}), **sizes)
    FeatureLearner(replace(config, method="spectral"), **sizes)  # the objective is not used


def test_options_are_a_config_or_a_table_of_its_fields() -> None:
    assert make("meco", MECOConfig(gamma=0.3)).config == make("meco", {"gamma": 0.3}).config == MECOConfig(0.3)
    assert make("meco", {"gamma": 1}).config.gamma == 1.0
    config = LearnerConfig(objective="meco", objective_options=MECOConfig(gamma=0.3))
    stored = to_dict(config)
    assert stored["objective_options"] == {"gamma": 0.3}
    assert to_dict(from_dict(LearnerConfig, stored)) == stored
    for options, words in (
        ({"gama": 0.3}, "did you mean 'meco.gamma'"),
        (3, "must be a table of fields"),
        ({"gamma": "x"}, "gamma must be of type float"),
    ):
        with pytest.raises(RlcError, match=words):
            make("meco", options)
