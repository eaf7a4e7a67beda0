"""What a newcomer typed wrong: sizes beyond any machine, missing devices, options twice, wrong types in Python."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from rl_contrastive import Budget, RlcError, api, compare, load, make_agent, make_env, make_objective, registry, train
from rl_contrastive.cli import main
from rl_contrastive.config import MOST_COPIES, MOST_ROWS, from_dict
from rl_contrastive.device import enough_memory, require_device
from rl_contrastive.energy.flow_contrastive import FCEConfig
from rl_contrastive.objectives.heads import GateConfig
from rl_contrastive.objectives.memory import DyCEConfig

HUGE = 10**9
SMALL = {"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2}
NATIVE = [n for n in api.names("env") if not n.endswith(":")]
ADAPTED = ["gym:CartPole-v1", "pettingzoo:rps_v2", "openspiel:oshi_zumo(coins=4)", "minatar:Breakout", "atari:Pong"]


@pytest.fixture
def world():
    return make_env("low-rank", 4, **SMALL)


@pytest.fixture
def agent(world):
    return make_agent("uniform", world)


@pytest.mark.parametrize("name", [*NATIVE, *ADAPTED])
def test_a_billion_rows_are_refused_at_once(name):
    with pytest.raises(RlcError, match=r"num_envs must be >= 1 and whole, and at most"):
        make_env(name, HUGE)


def test_rows_of_a_users_environment_and_of_a_command(capsys, tmp_path):
    with pytest.raises(RlcError, match=f"at most {MOST_COPIES}"):
        make_env(lambda: gym.make("CartPole-v1"), MOST_COPIES + 1)
    words = ["run", "uniform", "low-rank", "--agent.batch", str(HUGE), "--out", str(tmp_path)]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"rlc: agent.batch must be >= 1 and whole, and at most {MOST_ROWS}")


SIZES = {
    "low-rank": ("num_states", "num_actions", "horizon", "rank"),
    "low-rank-game": ("num_states", "num_actions", "num_opponent_actions", "horizon", "rank"),
    "needle": ("num_states", "num_actions", "horizon", "rank"),
    "needle-game": ("num_states", "num_actions", "rank"),
    "combination-lock": ("horizon", "num_actions"),
    "variable-lock": ("horizon", "num_actions"),
    "duel-lock": ("horizon", "num_actions", "num_symbols"),
    "deep-sea": ("size",),
    "soccer": ("horizon",),
    "swingup": ("horizon",),
}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in SIZES.items() for field in fields])
def test_a_huge_world_is_refused_before_it_is_made(name, field):
    with pytest.raises(RlcError, match=r"must (lie|be)|needs \d+"):
        make_env(name, 1, **{field: HUGE})


WIDTHS = [
    ("contrastive-ucb", "learner.dim"),
    ("contrastive-ucb", "learner.hidden"),
    ("contrastive-ucb", "learner.batch_size"),
    ("contrastive-ucb", "learner.negatives"),
    ("contrastive-ucb", "decoder.most_latents"),
    ("contrastive-ucb", "decoder.forward"),
    ("contrastive-ucb-deep", "n_step"),
    ("contrastive-ucb-deep", "bonus.tilings"),
    ("contrastive-ucb-deep", "bonus.directions"),
    ("contrastive-ucb-deep", "learner.batch_size"),
    ("contrastive-ucb-deep", "learner.encoder.hidden"),
    ("contrastive-ucb-deep", "learner.encoder.channels"),
    ("contrastive-ucb-deep", "learner.value.atoms"),
    ("contrastive-ucb-deep", "learner.value.hidden"),
    ("contrastive-ucb-deep", "learner.representation.dim"),
    ("contrastive-ucb-deep", "learner.representation.hidden"),
    ("contrastive-ucb-deep", "learner.self_prediction.dim"),
    ("contrastive-ucb-deep", "learner.auxiliary.dim"),
    ("contrastive-ucb-deep", "search.memory"),
    ("rnd-dqn", "rnd.dim"),
    ("sb3-ppo", "net_arch"),
    ("sb3-ppo", "n_steps"),
    ("sb3-dqn", "minibatch"),
    ("sb3-qrdqn", "quantiles"),
]


@pytest.mark.parametrize(("name", "path"), WIDTHS)
def test_a_huge_network_or_batch_is_refused_by_its_config(name, path):
    *tables, field = path.split(".")
    value = [HUGE] if field in ("hidden", "channels", "net_arch") and path != "learner.value.hidden" else HUGE
    if path == "learner.representation.hidden":
        value = HUGE
    values = {field: value}
    for table in reversed(tables):
        values = {table: values}
    with pytest.raises(RlcError, match=rf"{field} must lie in \["):
        from_dict(registry.get("agent", name)[0].config, values, "agent.")


def test_huge_networks_and_devices_that_are_none_are_refused_for_claims_and_objectives(capsys, tmp_path):
    for config, field in ((GateConfig, "hidden"), (DyCEConfig, "prototypes"), (FCEConfig, "hidden")):
        with pytest.raises(RlcError, match=rf"{field} must lie in \["):
            config(**{field: HUGE})
    words = ["claims", "theory/elliptical-potential", "--quick", "--out", str(tmp_path)]
    for device, sentence in (("tpu", "device must be auto, cpu"), ("cuda:99", "device cuda:99 was asked for")):
        assert main([*words, "--device", device]) == 2
        assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_allocation_that_fails_is_one_sentence():
    with pytest.raises(RlcError, match=r"^a thing needs more memory than there is"), enough_memory("a thing"):
        np.empty((1 << 50,))
    with pytest.raises(RuntimeError, match="other"), enough_memory("a thing"):
        raise RuntimeError("another: other")  # control: not a matter of memory


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "cuda:-1", "CPU", ""])
@pytest.mark.parametrize("option", ["--device", "--agent.learner.device"])
def test_a_device_that_is_none_is_refused_for_agents_without_a_network(name, option, capsys, tmp_path):
    words = ["run", "contrastive-ucb", "low-rank", option, name, "--episodes", "50", "--out", str(tmp_path)]
    assert main(words) == 2
    assert "device must be auto, cpu, cuda or cuda:N" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_refused_for_agents_without_a_network(capsys, tmp_path, world):
    sentence = "device cuda:99 was asked for, but torch sees"
    for option in ("--device", "--agent.learner.device"):
        words = ["run", "contrastive-ucb", "low-rank", option, "cuda:99", "--episodes", "50", "--out", str(tmp_path)]
        assert main(words) == 2
        assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    sweep = tmp_path / "s.toml"
    run = {"agent": "contrastive-ucb", "env": "low-rank", "episodes": 50, "device": "cuda:99"}
    sweep.write_text("[[run]]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in run.items()))
    assert main(["sweep", str(sweep), "--out", str(tmp_path / "o")]) == 2
    assert sentence in capsys.readouterr().err
    with pytest.raises(RlcError, match=sentence):
        make_agent("contrastive-ucb", world, learner={"device": "cuda:99"})
    require_device("cpu")  # control
    require_device("auto")


@pytest.mark.parametrize("command", [["run", "uniform", "low-rank"], ["list"], ["sweep", "x.toml"], ["tune", "x.toml"]])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (".", "got the folder '.'"),
        ("", "got the folder ''"),
        ("numpy", "there is no file numpy."),
        ("notes.txt", "notes.txt does not end in .py."),
        ("x" * 5000, "there is no file xxx"),
    ],
    ids=["folder", "empty", "module", "text", "long"],
)
def test_import_takes_a_python_file(command, value, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    if command[0] == "tune":
        pytest.importorskip("optuna")
    assert main([*command, f"--import={value}"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("rlc: --import takes a Python file such as my_agent.py")
    assert sentence in shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("run uniform low-rank --seed 1 --seed 2", "--seed is given twice"),
        ("run uniform low-rank --seed=1 --seed=1", "--seed is given twice"),
        ("run uniform low-rank --env.num-states 3 --env.num_states=4", "--env.num-states is given twice"),
        ("run uniform low-rank --group a --experiment b", "--group is given twice"),
        (
            "run uniform low-rank --tensorboard --no-tensorboard",
            "--no-tensorboard exclude each other",
        ),
        (
            "run contrastive-ucb low-rank --agent.learner.dim 2 --agent.learner.dim 3",
            "learner.dim is given twice",
        ),
        ("sweep x.toml --out a --out b", "--out is given twice"),
        ("compare runs --bar 1 --bar 1", "--bar is given twice"),
        ("energy landscape --seed 1 --out a --out b", "--out is given twice"),
        ("list --json --json", "--json is given twice"),
    ],
)
def test_an_option_given_twice_is_refused(words, sentence, capsys):
    assert main(words.split()) == 2
    assert sentence in capsys.readouterr().err


def test_arguments_have_names(capsys):
    assert main(["new", "--help"]) == 0
    assert "rlc new [-h] KIND NAME" in capsys.readouterr().out
    for words, sentence in [
        (["new"], "rlc new needs KIND and NAME; see rlc new --help."),
        (["new", "agent"], "rlc new needs NAME: "),
        (["check"], "rlc check needs FILE|NAME: "),
        (["new", "agent", "9a"], "a name begins with a letter and has letters, digits and hyphens, got '9a'."),
        (["check", "."], "rlc check takes a Python file or a registered name, got the folder '.'."),
    ]:
        assert main(words) == 2
        assert sentence in capsys.readouterr().err


def test_check_speaks_of_its_own_file(capsys, tmp_path):
    (tmp_path / "bad.py").write_text("raise KeyError('x')")
    for words in (["check", str(tmp_path / "bad.py")], ["check", str(tmp_path / "none.py")]):
        assert main(words) == 2
        shown = capsys.readouterr().err
        assert "--import" not in shown
        assert str(tmp_path) in shown


class Boxed(gym.Env):
    """Spaces are what a test says."""

    def __init__(self, seen, done):
        self.observation_space, self.action_space = seen, done

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def box(low, high):
    """A Box with bounds that gymnasium may refuse when it is made, but not when they are changed."""
    made = gym.spaces.Box(-1.0, 1.0, (len(low),), np.float32)
    made.low, made.high = np.array(low, np.float32), np.array(high, np.float32)
    return made


GOOD = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
SPACES = [
    (gym.spaces.Box(-1.0, 1.0, (0,), np.float32), "has no coordinates"),
    (gym.spaces.Box(0, 255, (3, 0, 4), np.uint8), "has no coordinates"),
    (box([np.nan, 0.0], [1.0, 1.0]), "has bounds that are NaN"),
    (box([-1.0, -1.0], [1.0, np.nan]), "has bounds that are NaN"),
    (box([1.0, -1.0], [-1.0, 1.0]), "has low > high"),
    (gym.spaces.MultiDiscrete([]), "has no coordinates"),
]


@pytest.mark.parametrize(("space", "sentence"), SPACES, ids=range(len(SPACES)))
@pytest.mark.parametrize("kind", ["raw", "fourier", "tile", "bins"])
def test_impossible_spaces_of_gymnasium_are_refused(space, sentence, kind):
    with pytest.raises(RlcError, match=f"observations {sentence}"):
        make_env(lambda: Boxed(space, gym.spaces.Discrete(2)), 2, observation=kind)
    with pytest.raises(RlcError, match=f"actions {sentence}"):
        make_env(lambda: Boxed(GOOD, space), 2, observation=kind)
    assert make_env(lambda: Boxed(GOOD, GOOD), 2, observation=kind).num_envs == 2  # control


def test_a_function_that_raises_and_kwargs_twice():
    with pytest.raises(RlcError, match=r"make_env: the function that makes the environment raised ValueError"):
        make_env(lambda: Boxed(gym.spaces.Box(1.0, -1.0, (2,)), GOOD), 2)
    with pytest.raises(RlcError, match="kwargs names is_slippery twice"):
        make_env("gym:FrozenLake-v1", 1, kwargs='{"is_slippery": true, "is_slippery": false}')


@pytest.mark.parametrize("prefix", ["multi", "pettingzoo"])
@pytest.mark.parametrize("name", ["nothing_v1", "no_module:make", "json:nothing"])
def test_errors_name_the_environment_as_it_was_typed(prefix, name):
    with pytest.raises(RlcError, match=f"^{prefix}:{name}"):
        make_env(f"{prefix}:{name}", 2)


def test_the_mean_is_suggested_first(capsys, tmp_path):
    words = ["run", "uniform", "low-rank", "--episodes", "50", "--no-tensorboard", "--out", str(tmp_path)]
    assert main(words) == 0
    assert main(["compare", str(tmp_path), "--metric", "return", "--out", str(tmp_path / "c")]) == 2
    assert "did you mean 'return_mean'?" in capsys.readouterr().err


BAD_CALLS = [
    (lambda e, a: load(3), "load takes the path of a run folder, got 3"),
    (lambda e, a: load(None), "load takes the path"),
    (lambda e, a: make_env("low-rank", "4"), "num_envs must be >= 1 and whole"),
    (lambda e, a: make_agent(3, e), "agent: the name must be a text, got 3"),
    (lambda e, a: make_agent(e, "uniform"), "agent: the name must be a text"),
    (lambda e, a: make_agent("uniform", None), "must come from make_env"),
    (lambda e, a: train(3, e, episodes=8), "the first argument must be an agent"),
    (lambda e, a: train(e, a, episodes=8), "the first argument must be an agent"),
    (lambda e, a: train(a, 3, episodes=8), "the environment must come from make_env, got int"),
    (lambda e, a: train(a, e, episodes=8, eval_env=3), "eval_env must come from make_env, got int"),
    (lambda e, a: train(a, e, budget=3), "budget must be a Budget, got 3"),
    (lambda e, a: train(a, e, episodes="8"), "episodes must be a whole number, got '8'"),
    (lambda e, a: train(a, e, episodes=8.5), "episodes must be a whole number, got 8.5"),
    (lambda e, a: train(a, e, episodes=8, solve_at="x"), "solve_at must be a number, got 'x'"),
    (lambda e, a: train(a, e, episodes=8, stop_when_solved="no"), "stop_when_solved must be True or False"),
    (lambda e, a: train(a, e, episodes=8, state=3), "state must be a snapshot"),
    (lambda e, a: train(a, e, episodes=8, seed="x"), "seed must be a non-negative integer"),
    (lambda e, a: Budget(steps=[1]), "steps must be a whole number"),
    (lambda e, a: compare(3, Path("x")), "folders must be paths, got 3"),
    (lambda e, a: compare([3], Path("x")), "folders must be paths"),
    (lambda e, a: compare(["/no/folder"], "x"), "there is no folder /no/folder"),
    (lambda e, a: compare("/no/folder", 3), "out must be the path of a folder, got 3"),
    (lambda e, a: compare("/no/folder", "x", bar="y"), "bar must be a number, got 'y'"),
    (lambda e, a: compare("/no/folder", "x", reps=1.5), "reps must be a whole number, got 1.5"),
    (lambda e, a: compare("/no/folder", "x", metric=3), "metric must be a name, got 3"),
    (lambda e, a: api.names(3), "unknown kind 3"),
    (lambda e, a: api.names("agents"), "unknown kind 'agents'"),
    (lambda e, a: api.options("agent", 3), "agent: the name must be a text"),
    (lambda e, a: make_objective(3), "objective: the name must be a text"),
]


@pytest.mark.parametrize(("call", "sentence"), BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_wrong_types_in_python_are_one_sentence(call, sentence, world, agent):
    with pytest.raises(RlcError, match=sentence) as found:
        call(world, agent)
    assert "\n" not in str(found.value)


def test_numbers_of_numpy_and_plain_texts_are_fine(world, agent, tmp_path):
    assert train(agent, world, episodes=np.int64(8), eval_episodes=4).progress.episodes == 8
    words = ["run", "uniform", "low-rank", "--episodes", "50", "--no-tensorboard", "--out", str(tmp_path / "r")]
    assert main(words) == 0
    assert compare(str(tmp_path / "r"), str(tmp_path / "c"), reps=10)["tasks"]


def test_a_player_takes_observations_of_its_environment_alone(tmp_path):
    words = ["run", "ucbvi", "low-rank", "--episodes", "20", "--no-tensorboard", "--out", str(tmp_path)]
    assert main(words) == 0
    trained = load(tmp_path / "default" / "ucbvi--low-rank" / "seed-0")
    for seed in ("x", -1, 1.5, True):
        with pytest.raises(RlcError, match="player: seed must be a whole number >= 0"):
            trained.player(seed=seed)
    player = trained.player()
    for observation in (None, "x", {"a": 1}, -1, 50, 1.5, True, np.zeros(4)):
        with pytest.raises(RlcError, match="low-rank: an observation"):
            player.act(observation)
    assert player.h == 0  # none of them counts as a step
    assert player.act(0) in range(5)  # control
