"""`rlc view`: a page on the loopback address that follows the runs, and nothing else."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import contextmanager

import pytest
from run_folders import write_run

from rl_contrastive.analysis.view import Live, server
from rl_contrastive.cli import main
from rl_contrastive.errors import RlcError


@contextmanager
def serving(live):
    with server(live, 0) as it:
        thread = threading.Thread(target=it.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield it.server_address[1]
        finally:
            it.shutdown()
            thread.join()


def get(port, path, *, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, answer


def test_the_page_follows_the_runs(tmp_path, monkeypatch):
    live = Live(tmp_path, reps=10)
    monkeypatch.setattr("rl_contrastive.analysis.view.monotonic", iter(range(0, 10**6, 5)).__next__)  # looks each time
    with serving(live) as port:
        status, empty, answer = get(port, "/")
        assert (status, "There is no run yet." in empty) == (200, True)
        assert answer.headers["Cache-Control"] == "no-store"
        version = get(port, "/version")[1]
        folder = write_run(tmp_path, "ucb", 0)
        (folder / "summary.json").unlink()
        newer = get(port, "/version")[1]
        assert newer != version
        page = get(port, "/")[1]
        assert f'data-live="{newer}"' in page
        assert "1 run has no summary.json yet" in page
        assert "counted as" not in page  # a run that goes on has not failed
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"episodes": 900, "env_steps": 4500, "return_mean": 0.123}) + "\n")
        assert get(port, "/version")[1] != newer
        assert "0.123" in get(port, "/")[1]
        assert get(port, "/version")[1] == get(port, "/version")[1]


def test_runs_that_did_not_change_are_read_once(tmp_path, monkeypatch):
    import rl_contrastive.analysis.view as module

    read = []
    monkeypatch.setattr(module, "read_run", lambda path, real=module.read_run: read.append(path.name) or real(path))
    monkeypatch.setattr(module, "monotonic", iter(range(0, 10**6, 5)).__next__)
    write_run(tmp_path, "a", 0)
    live = Live(tmp_path, reps=5)
    live.html()
    live.html()
    write_run(tmp_path, "a", 1)
    live.html()
    assert read == ["seed-0", "seed-1"]


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/%2e%2e/secret",
        "//etc/passwd",
        "/a--lock/seed-0/config.json",
        "/index.html",
        "/?x=1",
        "/version/..",
    ],
)
def test_nothing_else_is_served(tmp_path, path):
    (tmp_path / "secret").write_text("secret words")
    write_run(tmp_path / "runs", "a", 0)
    with serving(Live(tmp_path / "runs", reps=5)) as port:
        status, text, _ = get(port, path)
        assert status == 404
        assert "secret words" not in text
        assert get(port, "/", method="POST")[0] == 501


def test_other_names_for_this_machine_are_refused(tmp_path):
    with serving(Live(tmp_path)) as port:
        assert get(port, "/", host="evil.example:80")[0] == 403
        assert get(port, "/version", host=f"localhost:{port}")[0] == 200


def test_it_listens_on_the_loopback_address_alone(tmp_path):
    with server(Live(tmp_path), 0) as it:
        assert it.socket.getsockname()[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_one_sentence(tmp_path, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RlcError, match=f"port {port} is taken by another program; choose another with --port"):
            server(Live(tmp_path), port)
        assert main(["view", str(tmp_path), "--port", str(port)]) == 2
    assert "is taken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--port", "70000"], "port must be in"),
        (["--every", "0.1"], "every must be >= 1"),
        (["--bar", "2"], "bar must lie"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path, capsys, words, sentence):
    assert main(["view", str(tmp_path), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path, capsys):
    assert main(["view", str(tmp_path / "absent")]) == 2
    assert "there is no folder" in capsys.readouterr().err
