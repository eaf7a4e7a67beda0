"""A run's folder may be deleted, replaced, damaged or somebody else's: nothing wrong is recorded, and nothing is run
unasked."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rl_contrastive.cli import main
from rl_contrastive.errors import RlcError
from rl_contrastive.files import durably
from rl_contrastive.runs.checkpoint import NEWEST, PREVIOUS, load_state, read_state, save_state
from rl_contrastive.runs.folder import RunFolder
from rl_contrastive.runs.load import load_agent
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import RunConfig, config_json, read_config, read_summary, resume, run, run_folder

SMALL = {"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2}


@pytest.fixture
def config(tiny) -> RunConfig:
    budget = Budget(episodes=40, eval_every=8, eval_episodes=20)
    return RunConfig("tiny", "low-rank", env_config=SMALL, seed=3, budget=budget, checkpoint_seconds=0.0,
                     tensorboard=False, imports=(tiny,))  # fmt: skip


def part_of(config: RunConfig, out: Path, batches: int = 5) -> Path:
    """A run that is stopped after some batches; its folder."""
    stop = iter([False] * (batches - 1))
    run(config, out, should_stop=lambda: next(stop, True))
    return run_folder(out, config)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# The folder is the run's own


def dies_before_it_starts(folder: Path, config: RunConfig) -> None:
    """A run that is to replace the one in the folder, killed when its config is written and its agent is not made."""
    other = RunFolder(folder)
    other.create(config_json(config, ""))
    other.unlock()


def test_a_replacement_that_died_before_it_started_goes_on_and_leaves_nothing_of_the_old_run(tmp_path, config):
    run(config, tmp_path)
    longer = replace(config, budget=replace(config.budget, episodes=80))
    folder = run_folder(tmp_path, config)
    dies_before_it_starts(folder, longer)
    assert (folder / "metrics.jsonl.replaced").exists()
    assert resume(folder, trust_imports=True)["episodes"] == 80
    assert not list(folder.glob("*.replaced"))


def test_a_replacement_that_died_before_it_started_gives_the_old_run_back_where_the_next_is_refused(tmp_path, config):
    run(config, tmp_path)
    folder = run_folder(tmp_path, config)
    before = contents(folder)
    dies_before_it_starts(folder, replace(config, budget=replace(config.budget, episodes=80)))
    other = RunFolder(folder)
    other.create(config_json(replace(config, budget=replace(config.budget, episodes=120)), ""))
    other.unlock()
    other.discard()
    assert contents(folder) == before


def test_a_run_whose_folder_became_another_runs_stops_and_leaves_it_alone(tmp_path, config):
    folder = run_folder(tmp_path, config)
    other = replace(config, agent_config={"step_size": 0.25}, budget=Budget(episodes=16, eval_every=8, eval_episodes=5))
    kept = {}

    def replaced(progress):
        if progress.episodes == 20 and not kept:
            shutil.rmtree(folder)
            run(other, tmp_path)
            kept.update(contents(folder))

    summary = run(config, tmp_path, on_progress=replaced)
    assert summary["status"] == "failed"
    assert "was deleted or replaced while the run went on" in summary["error"]
    assert contents(folder) == kept
    assert read_summary(folder)["episodes"] == 16


def test_a_config_of_another_run_in_the_same_folder_is_noticed_too(tmp_path, config):
    """The lock stays, as where another run's files are copied over this one's."""
    folder = run_folder(tmp_path, config)
    foreign = run_folder(tmp_path / "b", config)
    run(config, tmp_path / "b")

    def copied(progress):
        if progress.episodes == 20:
            shutil.copy(foreign / "config.json", folder / "config.json")

    summary = run(config, tmp_path, on_progress=copied)
    assert "it holds another run" in summary["error"]
    assert read_summary(folder) is None


def test_a_deleted_folder_is_a_failed_run_and_exit_code_1(tmp_path, config, capsys):
    folder = run_folder(tmp_path, config)
    summary = run(config, tmp_path, on_progress=lambda p: shutil.rmtree(folder) if folder.exists() else None)
    assert summary["status"] == "failed"
    assert "was deleted" in summary["error"]
    assert not folder.exists()
    code = f"import shutil\nshutil.rmtree({str(tmp_path / 'c')!r}, ignore_errors=True)\n"
    agent = Path(config.imports[0]).read_text().replace('"tiny"', '"deleter"')
    file = tmp_path / "deleter.py"
    file.write_text(agent.replace("        self.rows.clear()\n", "        self.rows.clear()\n        DELETE()\n")
                    + f"\n\ndef DELETE():\n    exec({code!r})\n")  # fmt: skip
    words = ["run", "deleter", "low-rank", "--import", str(file), "--out", str(tmp_path / "c"), "--episodes", "40"]
    assert main([*words, "--no-tensorboard"]) == 1
    shown = capsys.readouterr()
    assert "failed" in shown.out
    assert "was deleted" in shown.err


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, config):
    folder = part_of(config, tmp_path / "a")
    budgets = [replace(config.budget, **change) for change in ({"eval_episodes": 10}, {"episodes": 80})]
    changes = [{"agent_config": {"step_size": 0.25}}, {"env_config": {**SMALL, "mdp_seed": 1}}, {"seed": 4}]
    for change in (*changes, *({"budget": budget} for budget in budgets)):
        other = part_of(replace(config, **change), tmp_path / "b")
        shutil.copy(folder / "checkpoint" / NEWEST, other / "checkpoint" / NEWEST)
        shutil.copy(folder / "checkpoint" / NEWEST, other / "checkpoint" / PREVIOUS)
        before = contents(other)
        with pytest.raises(RlcError, match=r"is of another run: .* there and .* here"):
            resume(other)
        assert contents(other) == before
        shutil.rmtree(tmp_path / "b")


def test_the_run_id_is_not_in_the_deterministic_bytes(tmp_path, config):
    folders = [part_of(config, tmp_path / out) for out in "ab"]
    ids = {json.loads((f / "config.json").read_text())["meta"]["run_id"] for f in folders}
    assert len(ids) == 2
    assert len({(f / "checkpoint" / NEWEST).read_bytes() for f in folders}) == 1


# Damage


@pytest.mark.parametrize("how", ["flip", "zero", "digit"])
def test_changed_metrics_are_noticed(tmp_path, config, how):
    folder = part_of(config, tmp_path)
    path = folder / "metrics.jsonl"
    data = bytearray(path.read_bytes())
    at = data.index(b"0.") + 2
    data[at] = {"flip": data[at] ^ 4, "zero": 0, "digit": 57 if data[at] != 57 else 56}[how]
    path.write_bytes(bytes(data))
    before = contents(folder)
    with pytest.raises(RlcError, match=r"metrics\.jsonl was changed since its checkpoint"):
        resume(folder)
    assert contents(folder) == before


def test_metrics_that_are_good_up_to_the_checkpoint_before_are_gone_on_from_there(tmp_path, config, capsys):
    run(config, tmp_path / "whole")
    folder = part_of(config, tmp_path, batches=6)  # the newest checkpoint counts one line more than the one before
    lengths = [read_state(folder / "checkpoint" / name)["metrics_bytes"] for name in (PREVIOUS, NEWEST)]
    if lengths[0] == lengths[1]:  # the last save comes twice
        state = read_state(folder / "checkpoint" / NEWEST)
        folder_5 = part_of(config, tmp_path / "five")
        shutil.copy(folder_5 / "checkpoint" / NEWEST, folder / "checkpoint" / PREVIOUS)
        assert read_state(folder_5 / "checkpoint" / NEWEST)["metrics_bytes"] < state["metrics_bytes"]
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-3] + b"9}\n")
    assert resume(folder)["status"] == "finished"
    assert "Going on from the last good checkpoint" in capsys.readouterr().err
    for name in ("metrics.jsonl", "checkpoint/state.npz"):
        assert (folder / name).read_bytes() == (run_folder(tmp_path / "whole", config) / name).read_bytes()


@pytest.mark.parametrize("damage", [b"", b"\xff\x00{", b"[[[", b'{"episodes": "x"}\n', b"[" * 100_000])
def test_a_damaged_timing_file_stops_nothing(tmp_path, config, damage):
    run(config, tmp_path / "whole")
    folder = part_of(config, tmp_path)
    path = folder / "timing.jsonl"
    good = path.read_bytes()
    path.write_bytes(damage + b"\n" + good[10:])
    assert resume(folder)["status"] == "finished"
    assert (folder / "metrics.jsonl").read_bytes() == (
        run_folder(tmp_path / "whole", config) / "metrics.jsonl"
    ).read_bytes()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all({"episodes", "env_steps", "wall_s"} == set(row) for row in rows)


def test_a_policy_of_a_damaged_last_checkpoint_is_asked_for(tmp_path, config):
    run(config, tmp_path)
    folder = run_folder(tmp_path, config)
    newest, previous = (folder / "checkpoint" / name for name in (NEWEST, PREVIOUS))
    older = part_of(config, tmp_path / "b", batches=9)
    shutil.copy(older / "checkpoint" / NEWEST, previous)
    whole = newest.read_bytes()
    for damage in (None, whole[:-9], bytes([*whole[:200], whole[200] ^ 1, *whole[201:]]), previous.read_bytes()):
        newest.unlink(missing_ok=True)
        if damage is not None:
            newest.write_bytes(damage)
        with pytest.raises(RlcError, match=r"last checkpoint; .*previous=True"):
            load_agent(folder)
        agent, _ = load_agent(folder, previous=True)
        assert agent.version == 9
    newest.write_bytes(whole)
    assert load_agent(folder)[0].version == 10


# Zip files that are no checkpoints


def zipped(path: Path, entries: dict[str, bytes], **options) -> None:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=options.get("compression"))


def npy(header: str) -> bytes:
    """An array file of one number whose header is another one's."""
    text = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + b"\0" * 8


def tree(state: str) -> bytes:
    return b'{"format": 1, "state": ' + state.encode() + b"}"


def encrypted(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 8] |= 1
    path.write_bytes(bytes(data))


def odd_files(path: Path):
    """(name, function that makes a bad file at `path`)."""
    yield "encrypted", lambda: encrypted(path)
    yield "bomb", lambda: zipped(path, {"tree.json": tree('"' + " " * 2**28 + '"')}, compression=zipfile.ZIP_DEFLATED)
    yield "deep", lambda: zipped(path, {"tree.json": tree('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}")})
    huge = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }")
    array = '{"x": {"__array__": 0}}'
    yield "huge", lambda: zipped(path, {"0.npy": huge, "tree.json": tree(array)})
    yield "header", lambda: zipped(path, {"0.npy": npy("{'descr': [[]], 'shape': 3}"), "tree.json": tree(array)})
    yield "number", lambda: zipped(path, {"tree.json": tree('{"x": {"__array__": [1]}}')})
    yield "null", lambda: zipped(path, {"tree.json": b"null"})
    one = io.BytesIO()
    np.save(one, np.zeros(1000))
    many = ", ".join(f'"{i}": {{"__array__": 0}}' for i in range(1000))
    yield "repeated", lambda: zipped(path, {"0.npy": one.getvalue(), "tree.json": tree("{" + many + "}")})


@pytest.mark.parametrize("name", [name for name, _ in odd_files(Path())])
def test_odd_files_are_one_sentence_and_the_checkpoint_before_is_taken(tmp_path, name):
    save_state(tmp_path, {"n": 1})
    save_state(tmp_path, {"n": 2})
    dict(odd_files(tmp_path / NEWEST))[name]()
    with pytest.raises(RlcError, match="corrupt or not a checkpoint"):
        read_state(tmp_path / NEWEST)
    assert load_state(tmp_path) == {"n": 1}


@pytest.mark.long
def test_a_bomb_is_refused_unread(tmp_path):
    import resource

    zipped(tmp_path / NEWEST, {"tree.json": tree('"' + " " * 2**29 + '"')}, compression=zipfile.ZIP_DEFLATED)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RlcError, match="compressed, encrypted, repeated or larger"):
        read_state(tmp_path / NEWEST)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


def test_a_write_that_fails_leaves_no_half_file(tmp_path):
    def fail(file):
        file.write(b"half")
        raise ValueError("mathematics")

    with pytest.raises(ValueError, match="mathematics"):
        durably(tmp_path / "x.png", fail)
    assert list(tmp_path.iterdir()) == []


# Somebody else's folder


@pytest.fixture
def foreign(tmp_path, config) -> tuple[Path, Path]:
    """A finished run whose config.json names a file that leaves a mark, and the mark."""
    run(config, tmp_path)
    folder, mark, file = run_folder(tmp_path, config), tmp_path / "mark", tmp_path / "evil.py"
    file.write_text(f"open({str(mark)!r}, 'w')\n")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "imports": [str(file)]}))
    summary = json.loads((folder / "summary.json").read_text())
    del summary["sha256"]  # somebody who means harm would make it anew
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder, mark


def test_nothing_that_a_run_folder_names_is_run_unasked(tmp_path, foreign, capsys):
    folder, mark = foreign
    out = str(tmp_path / "out")
    for words in (["replay", str(folder), "--strip", out + ".png"], ["matches", str(folder), "--out", out],
                  ["exploit", str(folder), "--out", out], ["resume", str(folder), "--episodes", "80"]):  # fmt: skip
        assert main(words) == 2, words
        shown = capsys.readouterr().err
        assert "names Python code to import" in shown
        assert "--trust-imports" in shown
    with pytest.raises(RlcError, match="trust_imports=True"):
        load_agent(folder)
    assert main(["compare", str(folder), "--out", out]) == 0  # a comparison imports nothing
    (folder / "summary.json").unlink()
    assert main(["resume", str(folder)]) == 2
    with pytest.raises(RlcError, match="trust_imports=True"):
        resume(folder)
    assert not mark.exists()


def test_it_is_run_where_it_is_asked_for(tmp_path, foreign):
    folder, mark = foreign
    load_agent(folder, trust_imports=True)
    assert mark.exists()
    mark.unlink()
    (folder / "summary.json").unlink()
    values = json.loads((folder / "config.json").read_text())
    values["imports"] = [values["imports"][0], str(Path(__file__).parent.parent / "tiny_agent.py")]
    (folder / "config.json").write_text(json.dumps(values))
    assert main(["resume", str(folder), "--trust-imports"]) == 0
    assert mark.exists()  # by the worker
    assert read_config(folder).imports == tuple(values["imports"])


# Environments that misbehave


def test_an_environment_that_cannot_be_closed_is_a_warning(tmp_path, config, capsys, monkeypatch):
    from rl_contrastive.envs.low_rank import LowRankEnv

    def close(self):
        raise OSError("no such window")

    monkeypatch.setattr(LowRankEnv, "close", close, raising=False)
    summary = run(config, tmp_path)
    assert (summary["status"], summary["episodes"]) == ("finished", 40)
    assert "warning: closing low-rank raised OSError: no such window." in capsys.readouterr().err
    load_agent(run_folder(tmp_path, config))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_sentence(tmp_path, config):
    folder = part_of(config, tmp_path)
    folder.chmod(0o500)
    try:
        with pytest.raises(RlcError, match=r"cannot write|cannot go on"):
            resume(folder)
    finally:
        folder.chmod(0o700)


def test_a_run_below_a_symbolic_link_is_a_run_like_any_other(tmp_path, config):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    folder = part_of(config, tmp_path / "link")
    assert resume(folder)["status"] == "finished"
    run(config, tmp_path / "whole")
    for name in ("metrics.jsonl", "checkpoint/state.npz"):
        whole = run_folder(tmp_path / "whole", config)
        assert (run_folder(tmp_path / "real", config) / name).read_bytes() == (whole / name).read_bytes()
