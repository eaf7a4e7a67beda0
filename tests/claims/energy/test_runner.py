"""`rlc energy`: names, options, a page that says what was met, and nothing deleted that is not a study's."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest

from rl_contrastive import registry
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.runner import markdown, run_study
from rl_contrastive.cli import main
from rl_contrastive.config import require
from rl_contrastive.errors import RlcError


@dataclass(frozen=True)
class CoinConfig:
    """A coin."""

    throws: int = 100
    """How many."""

    @classmethod
    def quick(cls) -> CoinConfig:
        return cls(throws=10)

    def __post_init__(self) -> None:
        require(self.throws >= 1, f"coin: throws must be >= 1, got {self.throws}.")


def coin(config: CoinConfig, context: Context) -> Report:
    """Throw a coin."""
    context.say(f"{config.throws} throws")
    table = Table("Throws", ("n", "heads [95%]"), [(str(config.throws), "5|5")])
    bars = [Bar("heads", "<= 6", "5", True), Bar("tails", "<= 4", "5", False)]
    return Report(
        "test-coin", "Is it fair?", "n is too small to say.", [table], bars, ["coin.png"], {"x": float("nan")}
    )


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    registry.entries("study")
    monkeypatch.setitem(
        registry._ENTRIES,
        ("study", "test-coin"),
        registry.Entry("study", "test-coin", coin, CoinConfig, "Throw a coin."),
    )


def test_the_page_shows_bars_met_and_missed(tmp_path, capsys):
    assert main(["energy", "test-coin", "--quick", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr()
    assert "NOT met" in out.out
    assert "10 throws" in out.err
    page = re.sub(" +", " ", (tmp_path / "test-coin" / "report.md").read_text())
    assert "| heads | <= 6 | 5 | met |" in page
    assert "| tails | <= 4 | 5 | NOT met |" in page
    assert "5\\|5" in page
    record = json.loads((tmp_path / "test-coin" / "report.json").read_text())
    assert record["config"] == {"throws": 10}
    assert record["numbers"] == {"x": None}
    assert record["command"] == "rlc energy test-coin --quick"  # the place changes no number


def test_options_and_json(tmp_path, capsys):
    args = ["energy", "test-coin", "--study.throws", "3", "--out", str(tmp_path), "--json"]
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["config"] == {"throws": 3}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["energy"], "needs the name of a study"),
        (["energy", "test-cion"], "did you mean .?test-coin"),
        (["energy", "test-coin", "--study.throw", "3"], "did you mean --study.throws"),
        (["energy", "test-coin", "--study.throws", "0"], "coin: throws must be >= 1, got 0"),
        (["energy", "test-coin", "--workers", "0"], "workers must be >= 1"),
    ],
)
def test_bad_input_is_one_sentence(args, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    import re

    assert re.search(words, error), error


def test_overwrite_deletes_studies_only(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RlcError, match="no study's folder"):
        run_study("test-coin", CoinConfig(), Context(tmp_path / "mine"), overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    run_study("test-coin", CoinConfig(), Context(tmp_path / "s"))
    (tmp_path / "s" / "old.png").write_text("old")
    run_study("test-coin", CoinConfig(), Context(tmp_path / "s"), overwrite=True)
    assert not (tmp_path / "s" / "old.png").exists()


def test_tables_refuse_ragged_rows():
    with pytest.raises(RlcError, match="has not 2 cells"):
        Table("t", ("a", "b"), [("1",)])
    report = coin(CoinConfig(), Context(out=None))
    assert markdown(report).splitlines()[0] == "# test-coin"


def test_every_study_has_quick_settings_and_a_summary():
    for entry in registry.entries("study"):
        assert entry.summary.endswith(".")
        assert isinstance(entry.config.quick(), entry.config)
