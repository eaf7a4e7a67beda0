"""Every file of examples/ runs, and says what its first lines promise."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import get_args

import pytest

from rl_contrastive import registry
from rl_contrastive.cli import main

EXAMPLES = Path(__file__).parent.parent / "examples"
LONGEST = 65
"""Lines of an example; the two with Stable-Baselines3 compare several runs and are longer."""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    for kind in get_args(registry.Kind):
        registry.entries(kind)
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))  # later tests must not see the examples' names


def played(name, capsys, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def number(text, before):
    """The number that follows `before`."""
    return float(text.split(before, 1)[1].split()[0].rstrip(",:"))


def test_features_have_the_rank_of_the_kernel_and_beat_frequencies(capsys, monkeypatch):
    out = played("features_from_transitions.py", capsys, monkeypatch)
    assert "d = 3" in out
    assert 2 * number(out, "TV to the true kernel:") < number(out, "TV of raw frequencies:")


def test_the_bonus_falls_where_we_were(capsys, monkeypatch):
    last = played("elliptical_bonus.py", capsys, monkeypatch).split("after  90", 1)[1]
    assert number(last, "visits:") < 0.5 < number(last, "where we were,") == 1.0


def test_equilibria_are_certified(capsys, monkeypatch):
    out = played("equilibria.py", capsys, monkeypatch)
    assert number(out, "at most") < 1e-12
    assert "[0.333 0.333 0.333]" in out


def test_energies_are_trained_by_both_objectives(capsys):
    runpy.run_path(str(EXAMPLES / "energy_model.py"))["main"](steps=10)
    out = capsys.readouterr().out
    assert "nce:" in out
    assert "meco:" in out


@pytest.mark.long
def test_energies_beat_their_noise_law(capsys, monkeypatch):
    out = played("energy_model.py", capsys, monkeypatch)
    assert min(number(out, "nce:"), number(out, "meco:")) > number(out, "noise law:") + 0.02


def test_my_environment_is_learned(capsys, monkeypatch):
    assert number(played("my_environment.py", capsys, monkeypatch), "return:") == 1.0


def test_my_agent_keeps_the_rules_and_solves_a_probe(capsys, tmp_path):
    file = str(EXAMPLES / "my_agent.py")
    assert main(["check", file]) == 0
    words = ["run", "random-search", "probe-match", "--import", file, "--episodes", "400", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "return 1.000" in capsys.readouterr().out


def test_my_preference_learns_the_order_of_the_arms(capsys, monkeypatch):
    assert number(played("my_preference.py", capsys, monkeypatch), "P(arm 0) =") > 0.99


def test_the_agent_takes_my_preference_by_name(capsys):
    words = ["--import", str(EXAMPLES / "my_preference.py"), "--agent.objective", "hinge", "--help-all"]
    assert main(["run", "preference-policy", "combination-lock", *words]) == 0
    assert "the loss of a pair is 0 from the margin 1/beta on" in " ".join(capsys.readouterr().out.split())


def test_my_objective_keeps_the_rules_and_learns(capsys, monkeypatch):
    out = played("my_objective.py", capsys, monkeypatch)
    assert "gradient" in out
    assert number(out, "gap:") < 0.2


def test_my_game_is_played_to_its_value(capsys, monkeypatch):
    out = played("my_game.py", capsys, monkeypatch)
    assert 0.1 < number(out, "Nash value:") < 0.9
    assert number(out, "duality gap:") < 0.05


def test_my_game_keeps_the_rules():
    assert main(["check", str(EXAMPLES / "my_game.py")]) == 0


def test_a_saved_policy_plays_in_a_plain_loop(tmp_path):
    play = runpy.run_path(str(EXAMPLES / "play_policy.py"))["main"]
    assert play(tmp_path, episodes=1000, games=50) > 0.4  # uniform play wins 1 or 2 in 100


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("sb3_bonus.py", ("--steps", "800", "--seeds", "1", "--size", "4"), "PPO + bonus"),
        ("sb3_features.py", ("--play", "400", "--steps", "512"), "fine-tuned features"),
    ],
)
def test_those_with_stable_baselines3_run(capsys, monkeypatch, name, words, said):
    assert said in played(name, capsys, monkeypatch, *words)


def test_every_example_is_short_and_tested():
    files = sorted(path.name for path in EXAMPLES.glob("*.py"))
    tests = Path(__file__).read_text(encoding="utf-8")
    for name in files:
        assert f'"{name}"' in tests, name
        lines = (EXAMPLES / name).read_text(encoding="utf-8").count("\n")
        assert lines <= LONGEST or name.startswith("sb3_"), f"{name} has {lines} lines"
