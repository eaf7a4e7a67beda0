"""The wheel: whole without the two links, built on a path with spaces, and working from any folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built as from an archive that holds each link as a small text file."""
    if find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    source = tmp_path_factory.mktemp("with spaces") / "a copy"
    shutil.copytree(ROOT / "rl_contrastive", source / "rl_contrastive", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for link in ("envs", "agents"):
        (source / link).write_text(f"rl_contrastive/{link}")
    out = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out), "."]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_what_they_read(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    suffixes = {".py", ".j2", ".txt", ".typed"}
    ours = [path for path in (ROOT / "rl_contrastive").rglob("*") if path.suffix in suffixes or path.name == "py.typed"]
    missing = [path for path in ours if path.relative_to(ROOT).as_posix() not in names]
    assert len(ours) > 200
    assert missing == []
    assert not any(name.startswith(("envs/", "agents/", "tests/")) for name in names)


def test_the_installed_wheel_works_from_another_folder(wheel, tmp_path):
    site = tmp_path / "site packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        "import rl_contrastive; from rl_contrastive.cli import main; print(rl_contrastive.__file__); main(sys.argv[1:])"
    )
    words = ["run", "contrastive-ucb", "low-rank", "--episodes", "100", "--no-tensorboard"]
    run = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}", *words]
    done = subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.startswith(str(site))
    assert "finished, 100 episodes" in done.stdout
