"""Presets are the settings of the sweep files that measured them, and other options win."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from rl_contrastive.cli import main
from rl_contrastive.config import from_dict, to_dict
from rl_contrastive.registry import get
from rl_contrastive.runs.sweep import load_sweep

RESULTS = Path(__file__).parent.parent.parent / "docs" / "results"


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `rlc run WORDS` up to the start; what was parsed, and what was said on stderr."""
    kept = []
    monkeypatch.setattr("rl_contrastive.cli.run.start", lambda agent, env, parsed, _: kept.append(parsed) or 0)

    def run(*words: str):
        assert main(["run", *words]) == 0, capsys.readouterr().err
        return kept[-1], capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("agent", "env", "name", "file"),
    [
        ("contrastive-ucb-deep", "minigrid:MiniGrid-DoorKey-8x8-v0", "minigrid", "bonus-doorkey"),
        ("contrastive-ucb-deep", "minigrid:MiniGrid-KeyCorridorS3R2-v0", "minigrid", "bonus-corridor"),
        ("contrastive-ucb-deep", "minigrid:MiniGrid-MultiRoom-N4-S5-v0", "minigrid", "bonus-rooms"),
        ("rnd-dqn", "minigrid:MiniGrid-DoorKey-8x8-v0", "minigrid", "minigrid"),
        ("contrastive-ucb-deep", "minatar:Breakout", "minatar", "minatar"),
        ("contrastive-ucb-deep", "gym:MountainCar-v0", "classic", "deep-classic"),
        ("contrastive-ucb-deep", "gym:Acrobot-v1", "classic", "deep-classic"),
        ("contrastive-ucb-deep", "gym:CartPole-v1", "classic", "deep-cartpole"),
    ],
)
def test_a_bare_command_has_the_settings_of_its_sweep(command, agent, env, name, file) -> None:
    parsed, said = command(agent, env)
    assert said == (
        f"rlc: settings of the preset {name}, from docs/results/{file}.toml "
        "(--preset none for the agent's own defaults).\n"
    )
    configs = load_sweep(RESULTS / f"{file}.toml").runs
    measured = next(
        c for c in configs if (c.agent, c.env) == (agent, env) and c.label in (None, agent, "ours-arrival, rho .99")
    )
    entry, _ = get("agent", agent)
    both = parsed.agent, from_dict(entry.config, measured.agent_config)
    now, then = (to_dict(config) for config in both)
    for config, table in zip(both, (now, then), strict=True):  # what can be said in two ways
        table["bonus"]["width"] = config.bonus.parts.width
        table["learner"]["representation"].pop("objective_options")
        table["learner"]["auxiliary"].pop("objective_options")
    assert now == then
    for key, value in measured.env_config.items():
        assert getattr(parsed.env, key) == value
    limits = {field.name: getattr(measured.budget, field.name) for field in fields(measured.budget)}
    if file == "bonus-doorkey":  # other agents of that sweep were run longer
        limits["steps"] = max(c.budget.steps or 0 for c in configs)
    assert {name: getattr(parsed.run, name) for name in limits} == limits


def test_atari_has_the_networks_that_were_run(command) -> None:
    parsed, said = command("contrastive-ucb-deep", "atari:Breakout")
    assert "preset atari" in said
    (measured,) = load_sweep(RESULTS / "atari-short.toml").runs
    entry, _ = get("agent", "contrastive-ucb-deep")
    expected = replace(from_dict(entry.config, measured.agent_config), capacity=100_000)
    assert to_dict(parsed.agent)["learner"]["encoder"] == to_dict(expected)["learner"]["encoder"]
    assert parsed.agent.n_step == expected.n_step
    assert parsed.env.fire_reset


def test_other_options_win_and_say_so(command) -> None:
    world = ("contrastive-ucb-deep", "minigrid:MiniGrid-DoorKey-8x8-v0")
    parsed, said = command(*world, "--agent.beta", "0.5")
    assert (parsed.agent.batch, parsed.env.stack) == (1, 1)  # an option of the agent: no preset by itself
    assert said == (
        "rlc: preset minigrid left out, because options of the agent are given "
        "(--preset minigrid takes it beside them, --preset none is silent).\n"
    )
    parsed, said = command(*world, "--preset=none", "--agent.beta", "0.5")
    assert (said, parsed.agent.batch) == ("", 1)
    parsed, said = command(*world, "--preset", "minigrid", "--agent.beta", "0.5", "--episodes", "16")
    assert "preset minigrid" in said
    assert (parsed.agent.beta, parsed.agent.batch, parsed.run.episodes, parsed.run.steps) == (0.5, 8, 16, None)
    parsed, said = command(*world, "--preset", "minigrid", "--agent.bonus.kind", "etd", "--agent.bonus.unit")
    bonus = parsed.agent.bonus  # another kind has none of the parts of the preset's
    assert (bonus.kind, bonus.unit, bonus.rho, parsed.agent.beta, parsed.agent.batch) == ("etd", True, None, 0.003, 8)
    parsed, said = command(*world, "--preset", "minigrid", "--agent.bonus.power=1")
    assert (parsed.agent.bonus.kind, parsed.agent.bonus.rho, parsed.agent.bonus.power) == ("ours-arrival", 0.99, 1.0)
    parsed, said = command(*world, "--env.stack", "3", "--eval-every-steps=5000")
    assert (parsed.env.stack, parsed.agent.batch, parsed.run.eval_every) == (3, 8, None)
    parsed, said = command(*world, "--preset=none")
    assert (said, parsed.agent.batch, parsed.run.steps) == ("", 1, None)
    for agent, env in (("contrastive-ucb-deep", "deep-sea"), ("uniform", world[1])):  # no preset would have applied
        assert command(agent, env)[1] == command(agent, env, "--agent.batch", "2")[1] == ""


def test_a_preset_that_does_not_fit_is_a_sentence(capsys) -> None:
    assert main(["run", "uniform", "deep-sea", "--preset", "minatar"]) == 2
    assert "preset minatar is one of contrastive-ucb-deep, not of uniform" in capsys.readouterr().err
    assert main(["run", "contrastive-ucb-deep", "deep-sea", "--preset", "minitar"]) == 2
    assert "preset" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("label", "bonus"), [("etd", "etd --agent.bonus.unit"), ("rnd, gate tried", "rnd --agent.bonus.gate tried")]
)
def test_a_kind_beside_the_preset_is_the_row_of_its_sweep(command, label, bonus) -> None:
    """The two commands of the agent's page."""
    agent, env = "contrastive-ucb-deep", "minigrid:MiniGrid-DoorKey-8x8-v0"
    parsed, _ = command(agent, env, "--preset", "minigrid", "--agent.bonus.kind", *bonus.split())
    measured = next(c for c in load_sweep(RESULTS / "bonus-doorkey.toml").runs if c.label == label)
    assert to_dict(parsed.agent) == to_dict(from_dict(get("agent", agent)[0].config, measured.agent_config))
