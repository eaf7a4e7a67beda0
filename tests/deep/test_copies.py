"""Copies between the program and the device, counted on the CPU: all go through functions of `device.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from deep_common import sea
from torch.utils._python_dispatch import TorchDispatchMode

from rl_contrastive import device
from rl_contrastive.agents import contrastive_ucb_deep
from rl_contrastive.deep import auxiliary, feature_net, learner
from rl_contrastive.deep.feature_net import FeatureNet
from rl_contrastive.energy import trainer
from rl_contrastive.energy.energies import MLPConfig, MLPEnergy
from rl_contrastive.energy.noise import Gaussian
from rl_contrastive.energy.objectives import make
from rl_contrastive.energy.trainer import TrainConfig, Trainer
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.rollout import play

USERS = (device, learner, feature_net, auxiliary, trainer, contrastive_ucb_deep)
TORCH = {
    "batch_size": 8,
    "encoder": {"hidden": [16]},
    "feature_encoder": {"hidden": [16]},
    "representation": {"dim": 8, "hidden": 16, "every": 1},
    "device": "cpu",
    "backend": "torch",
}


@pytest.fixture(name="copies")
def copies_fixture(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often arrays were put on the device, and tensors fetched from it."""
    counts = {"put": 0, "fetch": 0}
    for name in counts:
        real = getattr(device, name)

        def counted(*args: Any, name: str = name, real: Any = real) -> Any:
            counts[name] += 1
            return real(*args)

        for module in USERS:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, counted)
    return counts


class Reads(TorchDispatchMode):
    """Counts `float`, `int`, `bool` and `item` of tensors, each of which waits for a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_arrays_go_to_a_gpu_by_pinned_memory_and_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: calls.append("pinned") or x)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, to, **how: calls.append((to.type, how["non_blocking"])) or x)
    array = np.arange(3.0)
    here = device.put(array, torch.device("cpu"))
    assert calls == [("cpu", True)]
    array[0] = 7.0
    assert here[0] == 7.0  # no copy
    calls.clear()
    device.put(array, torch.device("cuda"))
    assert calls == ["pinned", ("cuda", True)]
    calls.clear()
    device.move(torch.empty(3, device="meta"), torch.device("cuda"))  # what is on a device already is not pinned
    assert calls == [("cuda", True)]


def test_the_tensors_of_a_report_are_fetched_together(copies: dict[str, int]) -> None:
    told = {"a": torch.tensor(0.1), "b": 2, "c": torch.tensor([3.0]), "d": np.float32(0.1)}
    found = device.fetch_numbers(told)
    assert copies["fetch"] == 1
    assert list(found) == list("abcd")
    assert found == {name: float(number) for name, number in told.items()}  # the control: two reads
    assert device.fetch_numbers({"b": 2}) == {"b": 2.0}
    assert copies["fetch"] == 1


@pytest.mark.parametrize(("beta", "each"), [(0.1, 2), (0.0, 1)], ids=["features", "no bonus"])
def test_a_step_fetches_values_and_features_once_each(beta, each, copies) -> None:
    """Values when it acts, features when it has seen; at h = 0 those of the first observations too. Gradient steps
    between, whose losses are reported, fetch nothing; `update` fetches them at once."""
    agent = sea({}, learner=TORCH, train_every=1, beta=beta, growth=1e6, capacity=400)
    steps, learned = [], agent.learner.steps
    for k in range(12):
        agent.begin(2)
        before = dict(copies)
        for step in play(agent.env, agent.seeds.env_seeds("env", k, 2), agent.act):
            agent.observe(step)
            steps.append((k, step.h, copies["fetch"] - before["fetch"]))
            before = dict(copies)
        agent.update()
        assert copies["fetch"] - before["fetch"] == (1 if agent._report else 0)
    last = [(h, count) for k, h, count in steps if k == 11]
    assert last == [(h, each + (h == 0 and beta > 0)) for h in range(6)]
    assert agent.learner.steps - learned > 40
    tensors = [number for number in agent._report.values() if isinstance(number, torch.Tensor)]
    assert len(tensors) >= 2  # read one by one, they would be as many waits


@pytest.mark.parametrize("ahead", [0.0, 0.5])
def test_a_gradient_step_reads_no_number_and_puts_each_batch_once(ahead, copies, monkeypatch) -> None:
    representation = {**TORCH["representation"], "ahead": ahead}
    agent = sea({}, learner={**TORCH, "representation": representation}, n_step=1, capacity=400)
    for k in range(8):
        agent.begin(2)
        for step in play(agent.env, agent.seeds.env_seeds("env", k, 2), agent.act):
            agent.observe(step)

    def learn() -> tuple[int, int, int]:
        before = dict(copies)
        with Reads() as reads:
            agent.learner.step(agent.replay, agent.bonus, rng=agent.fit_rng)
        return copies["put"] - before["put"], copies["fetch"] - before["fetch"], reads.count

    # Observations, numbers and actions; later observations are others.
    assert learn() == (3 + (ahead > 0), 0, 0)
    # Controls: observations that the features put again, and a loss that is read.
    contrast, descend = agent.learner._contrast, FeatureNet.descend
    monkeypatch.setattr(agent.learner, "_contrast", lambda batch, replay, rng, ends: contrast(batch, replay, rng))
    assert learn() == (4 + (ahead > 0), 0, 0)
    monkeypatch.setattr(FeatureNet, "descend", lambda self, *args, **rest: float(descend(self, *args, **rest)))
    assert learn()[2] == 1


def fit(**options: Any) -> Trainer:
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    f = MLPEnergy.for_data(x, MLPConfig(hidden=(8,)), rng=torch.Generator().manual_seed(1))
    config = TrainConfig(steps=40, batch_size=32, log_every=20, device="cpu", **options)
    return Trainer(f, make("nce"), x, q=Gaussian.fit(x), config=config, rng_seed=0)


@pytest.mark.parametrize(
    "options", [{}, {"clip": 0.5}, {"optimiser": "normalised"}], ids=["adam", "clip", "normalised"]
)
def test_on_a_gpu_the_trainer_reads_its_gradients_only_with_its_lines(options, copies, monkeypatch) -> None:
    """The control is the CPU, where nothing waits: there each gradient is read at once."""
    plain = fit(**options)
    plain.run()
    assert copies["fetch"] == 40 + 3  # steps, and the lines at 0, 20 and 39
    copies["fetch"] = 0
    monkeypatch.setattr(trainer, "waits", lambda device: True)
    late = fit(**options)
    late.run()
    assert copies["fetch"] == 3 + 3
    assert late.history == plain.history
    for mine, its in zip(late.f.parameters(), plain.f.parameters(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("gpu", [True, False])
def test_a_gradient_that_is_not_finite_is_refused_later_on_a_gpu(gpu, monkeypatch) -> None:
    """It is no later than a state that would hold what came of it; on the CPU at once."""
    monkeypatch.setattr(trainer, "waits", lambda device: gpu)
    late = fit()
    late.run(5)
    next(late.f.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    act = late.take_step
    if gpu:
        late.take_step()
        act = late.state_dict
    with pytest.raises(RlcError, match="gradient is NaN or infinite at step"):
        act()
