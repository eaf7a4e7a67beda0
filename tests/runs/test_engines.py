"""Engines: the same folders and bytes from local processes and from Ray, whatever is killed in the middle."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from rl_contrastive import registry
from rl_contrastive.cli import main
from rl_contrastive.errors import RlcError
from rl_contrastive.runs import ray_task
from rl_contrastive.runs.budget import Budget
from rl_contrastive.runs.engine_options import EngineOptions
from rl_contrastive.runs.engines import start_engine
from rl_contrastive.runs.parcel import further, pack, unpack
from rl_contrastive.runs.ray_engine import RayEngine, resources
from rl_contrastive.runs.run import read_summary, resolve, resume
from rl_contrastive.runs.run_config import RunConfig
from rl_contrastive.runs.sweep import load_sweep, plan_jobs
from rl_contrastive.runs.workers import Job, Needs, Pool

HERE = Path(__file__).parent
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray: pip install '.[ray]'")


@pytest.fixture(scope="module")
def mortal(tmp_path_factory):
    """The folder of the user's file, where a test leaves its orders."""
    folder = tmp_path_factory.mktemp("mortal")
    for file in (HERE / "mortal_agent.py", HERE.parent / "tiny_agent.py"):
        shutil.copy(file, folder)
    registry.import_file(folder / "mortal_agent.py")
    return folder


def configs(mortal, count, episodes=400):
    base = RunConfig(
        agent="mortal",
        env="low-rank",
        env_config={"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2},
        budget=Budget(episodes=episodes, eval_every=40, eval_episodes=20),
        checkpoint_seconds=0.0,
        tensorboard=False,
        imports=(str(mortal / "mortal_agent.py"),),
    )
    return [resolve(replace(base, seed=seed)) for seed in range(count)]


def results(out):
    """What must not depend on the engine: the records and the final states, by their place."""
    names = ("metrics.jsonl", "state.npz")
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.name in names}


@pytest.fixture
def local(mortal, tmp_path):
    """`local(count)`: the folder of so many runs by the local engine."""

    def make(count, episodes=400):
        jobs, _ = plan_jobs(configs(mortal, count, episodes), tmp_path / "local")
        assert {o.summary["status"] for o in Pool(2).run(jobs)} == {"finished"}
        return tmp_path / "local"

    return make


def finished(outcomes):
    return [o.summary and o.summary["status"] for o in outcomes] == ["finished"] * len(outcomes)


# Without Ray


def test_a_folder_travels_whole_and_replaces_the_same_run_only(config, tmp_path):
    job = plan_jobs([config], tmp_path / "here")[0][0]
    start = pack(job.folder)
    away = tmp_path / "away" / "seed-3"
    unpack(start, away)
    resume(away, trust_imports=True)
    back = pack(away)
    assert further(start, away)
    assert not further(back, job.folder)
    unpack(back, job.folder)
    assert sorted(p.name for p in job.folder.iterdir()) == sorted(p.name for p in away.iterdir())
    assert results(job.folder) == results(away)
    assert read_summary(job.folder)["status"] == "finished"
    assert pack(job.folder) == back
    assert [p.name for p in job.folder.parent.iterdir()] == ["seed-3"]
    (job.folder / "config.json").write_text("{}")
    with pytest.raises(RlcError, match="was changed while its run was elsewhere"):
        unpack(back, job.folder)
    assert (job.folder / "config.json").read_text() == "{}"


def test_a_parcel_cannot_write_outside_its_folder(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../escaped", b"x")
    with pytest.raises(RlcError, match="names the file"):
        unpack(out.getvalue(), tmp_path / "a" / "b")
    assert not (tmp_path / "a" / "escaped").exists()


def test_a_local_run_that_dies_is_started_again_where_that_is_asked_for(mortal, local, tmp_path, capfd):
    expected = results(local(1))
    for retries, status in ((0, "failed"), (1, "finished")):
        (mortal / "kill-run-0").touch()
        out = tmp_path / f"retries-{retries}"
        jobs, _ = plan_jobs(configs(mortal, 1), out)
        [outcome] = Pool(1, retries=retries).run(jobs)
        assert (outcome.summary["status"], outcome.died) == (status, status == "failed")
    assert results(out) == expected
    assert "its process died and is started again" in capfd.readouterr().err


def test_resources_come_from_flags_then_the_file_then_the_run(mortal, tmp_path):
    [config] = configs(mortal, 1)
    job = Job(tmp_path, config, needs=Needs())
    assert resources(job, EngineOptions()) == (1, 0)
    assert resources(replace(job, config=replace(config, threads=3)), EngineOptions()) == (3, 0)
    asked = replace(job, needs=Needs(cpus=2.0, gpus=0.25))
    assert resources(asked, EngineOptions()) == (2, 0.25)
    assert resources(replace(job, config=replace(config, device="cuda:0")), EngineOptions()) == (1, 1)
    if importlib.util.find_spec("ray") is not None:
        assert resources(asked, EngineOptions(engine="ray", cpus=4.0, gpus=0.0)) == (4, 0)


def test_a_sweep_file_says_what_its_runs_need(tmp_path):
    path = tmp_path / "s.toml"
    text = 'no_compare = true\n[defaults]\nepisodes = 50\nagent = "uniform"\nenv = "probe-constant"\nseeds = [1, 2]\n'
    path.write_text(text + '[[run]]\ncpus = 2\ngpus = 0.5\n[[run]]\nlabel = "b"\n')
    plan = load_sweep(path)
    assert plan.needs == [Needs(2.0, 0.5)] * 2 + [Needs()] * 2
    assert [job.needs for job in plan_jobs(plan.runs, tmp_path / "out", needs=plan.needs)[0]] == plan.needs
    for wrong, words in (("cpus = 0", "cpus must be > 0"), ("gpus = -1", "gpus must be >= 0"), ('cpus = "a"', "cpus")):
        path.write_text(text + f"[[run]]\n{wrong}\n")
        with pytest.raises(RlcError, match=words):
            load_sweep(path)


def test_options_of_ray_alone_are_refused_elsewhere(tmp_path, capsys):
    for words, sentence in (
        (["--address", "auto"], "rlc: --address: for --engine ray only.\n"),
        (["--cpus", "2", "--gpus", "1"], "rlc: --cpus and --gpus: for --engine ray only.\n"),
        (["--retries", "-1"], "rlc: --retries must be >= 0, got -1.\n"),
        (["--workers", "0"], "rlc: --workers must be >= 1, got 0.\n"),
    ):
        assert main(["sweep", str(tmp_path / "none.toml"), *words]) == 2
        assert capsys.readouterr().err == sentence


def test_nodes_with_other_versions_are_refused():
    with pytest.raises(RlcError, match=r"has numpy .* in place of 1\.0: install the same versions"):
        ray_task._require_versions({"numpy": "1.0"})


# With Ray


@pytest.fixture(scope="module")
def ray_here():
    """One Ray of two CPUs for all tests that need no more."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@needs_ray
@pytest.mark.long
@pytest.mark.parametrize("disk", ["auto", "apart"])
def test_ray_gives_the_bytes_of_local_runs_though_processes_are_killed(mortal, local, tmp_path, ray_here, disk, capfd):
    expected = results(local(4))
    (mortal / "kill-run-1").touch()
    (mortal / "kill-parent-2").touch()
    jobs, _ = plan_jobs(configs(mortal, 4), tmp_path / "ray")
    assert finished(start_engine(EngineOptions(engine="ray", disk=disk)).run(jobs))
    assert results(tmp_path / "ray") == expected
    assert not list(mortal.glob("kill-*"))
    assert "its node or Ray worker is gone" in capfd.readouterr().err
    assert not list((tmp_path / "ray").glob(".rlc-*"))
    if disk == "apart":
        assert not any(ray_task.scratch(ray_task.run_id_of(job.folder)).exists() for job in jobs)


@needs_ray
@pytest.mark.long
@pytest.mark.parametrize(("first", "then"), [("local", "ray"), ("ray", "local"), ("apart", "apart")])
def test_a_sweep_stopped_on_one_engine_is_finished_by_the_other(mortal, local, tmp_path, ray_here, first, then):
    expected = results(local(3, 2000))
    engines = {
        "local": EngineOptions(workers=2),
        "ray": EngineOptions(engine="ray"),
        "apart": EngineOptions(engine="ray", disk="apart"),
    }
    runs, out = configs(mortal, 3, 2000), tmp_path / "both"
    jobs, _ = plan_jobs(runs, out)
    engine = start_engine(engines[first], lambda job, message: engine.stop() if message["episodes"] > 100 else None)
    halves = [o.summary and o.summary["status"] for o in engine.run(jobs)]
    assert "aborted" in halves
    jobs, _ = plan_jobs(runs, out)
    assert len(jobs) >= 1
    assert finished(start_engine(engines[then]).run(jobs))
    assert results(out) == expected


@needs_ray
@pytest.mark.long
def test_bad_input_on_a_node_is_a_sentence_and_leaves_no_new_folder(mortal, tmp_path, ray_here):
    [config] = configs(mortal, 1)
    jobs, _ = plan_jobs([replace(config, agent_config={**config.agent_config, "batch": 0})], tmp_path / "out")
    [outcome] = start_engine(EngineOptions(engine="ray", disk="apart")).run(jobs)
    assert outcome.bad_input is not None
    assert "batch must be >= 1" in outcome.bad_input
    assert not jobs[0].folder.exists()


@needs_ray
@pytest.mark.long
def test_a_run_that_dies_each_time_fails_and_can_go_on(mortal, tmp_path, ray_here):
    jobs, _ = plan_jobs(configs(mortal, 1), tmp_path / "out")
    (mortal / "kill-parent-0").touch()
    [outcome] = start_engine(EngineOptions(engine="ray", retries=0)).run(jobs)
    assert (outcome.summary["status"], outcome.died) == ("failed", True)
    assert "died 1 times" in json.loads((jobs[0].folder / "summary.json").read_text())["error"]
    jobs, _ = plan_jobs(configs(mortal, 1), tmp_path / "out")
    assert finished(Pool(1).run(jobs))


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("disk", ["auto", "apart"])
def test_a_node_that_dies_costs_no_result(mortal, local, tmp_path, disk):
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    expected = results(local(4, 2000))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

    def report(job, message):
        if nodes and message["episodes"] > 100:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    try:
        jobs, _ = plan_jobs(configs(mortal, 4, 2000), tmp_path / "ray")
        engine = RayEngine(
            EngineOptions(engine="ray", disk=disk), lambda *words: report(*words) if len(nodes) > 1 else None
        )
        assert finished(engine.run(jobs))
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert len(nodes) == 1
    assert results(tmp_path / "ray") == expected
