"""The frame of claims: names, options, a page that says what was met, and nothing deleted that is not a claim's."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

import pytest

from rl_contrastive import registry
from rl_contrastive.claims.base import Bar, Context, Report, Table, control
from rl_contrastive.claims.page import page
from rl_contrastive.claims.runner import _seeded, run_claims, selected
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
    return Report("Is it fair?", bars, "n is too small to say.", [table], ["coin.png"], {"x": float("nan")})


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    registry.entries("claim")
    entry = registry.Entry("claim", "energy/test-coin", coin, CoinConfig, "Throw a coin.")
    monkeypatch.setitem(registry._ENTRIES, ("claim", "energy/test-coin"), entry)


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
    assert record["command"] == "rlc claims energy/test-coin --quick"  # the place changes no number


@pytest.mark.parametrize("word", ["--claim.throws", "--study.throws"])  # the second is the old name
def test_options_and_json(word, tmp_path, capsys):
    args = ["energy", "test-coin", word, "3", "--out", str(tmp_path), "--json"]
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["config"] == {"throws": 3}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["energy", "test-cion"], "did you mean .?test-coin"),
        (["energy", "test-coin", "--claim.throw", "3"], "did you mean --claim.throws"),
        (["energy", "test-coin", "--claim.throws", "0"], "coin: throws must be >= 1, got 0"),
        (["energy", "test-coin", "--workers", "0"], "workers must be >= 1"),
    ],
)
def test_bad_input_is_one_sentence(args, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(words, error), error


def test_overwrite_deletes_claims_only(tmp_path):
    mine = tmp_path / "test-coin"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(RlcError, match="no claim's folder"):
        run_claims(["test-coin"], out=tmp_path, group="energy", overwrite=True)
    assert (mine / "thesis.txt").exists()
    run_claims(["test-coin"], out=tmp_path / "s")
    old = tmp_path / "s" / "energy" / "test-coin" / "old.png"
    old.write_text("old")
    run_claims(["test-coin"], out=tmp_path / "s", overwrite=True)
    assert not old.exists()


def test_tables_refuse_ragged_rows():
    with pytest.raises(RlcError, match="has not 2 cells"):
        Table("t", ("a", "b"), [("1",)])


def test_every_claim_has_quick_settings_and_a_summary():
    for entry in registry.entries("claim"):
        assert entry.summary.endswith(".")
        assert isinstance(entry.config.quick(), entry.config)


def test_a_claim_holds_where_bars_are_met_and_controls_fail():
    met, missed = Bar("x", "<= 1", "0", True), Bar("x", "<= 1", "2", False)
    fails, does_not = control("2", failed=True), control("0", failed=False)
    assert Report("x", [met, fails]).holds
    assert not Report("x", [missed, fails]).holds
    assert not Report("x", [met, does_not]).holds
    assert "| DID NOT FAIL |" in page(Report("x", [met, does_not]))
    assert "| fails as it must |" in page(Report("x", [met, fails]))


def test_names_stand_for_groups_and_first_words():
    theory = [name for name in selected() if name.startswith("theory/")]
    assert selected(["theory"]) == theory == selected(group="theory")
    assert selected(["games"]) == selected(["theory/games"]) == [n for n in theory if "/games-" in n]
    assert selected(["ood", "energy/ood"]) == ["energy/ood"]
    with pytest.raises(RlcError, match=r"did you mean 'theory/tv-rate'"):
        selected(["theory/tv-rat-e"])


def test_a_seed_moves_all_seeds():
    @dataclass(frozen=True)
    class Seeds:
        seeds: tuple[int, ...] = (10, 11)

    assert _seeded(Seeds(), 20).seeds == (20, 21)
    assert _seeded(Seeds(), None).seeds == (10, 11)
    assert _seeded(CoinConfig(), 5) == CoinConfig()


def test_the_command_line_measures_several_claims_and_says_whether_all_hold(tmp_path, capsys):
    args = ["claims", "--quick", "test-coin", "theory/elliptical-potential", "--out", str(tmp_path)]
    assert main(args) == 1
    assert "energy/test-coin: does not hold" in capsys.readouterr().out
    assert [r["holds"] for r in json.loads((tmp_path / "claims.json").read_text())] == [False, True]
    assert "(theory/elliptical-potential/report.md): holds" in (tmp_path / "claims.md").read_text()
    with pytest.raises(RlcError, match="single claim"):
        run_claims(["energy"], out=tmp_path, config=CoinConfig())


def test_a_claim_has_one_thread_of_torch_and_gives_the_others_back(tmp_path, monkeypatch):
    import torch

    seen = []
    entry = registry.get("claim", "energy/test-coin")[0]
    threads = lambda *given: (seen.append(torch.get_num_threads()), entry.factory(*given))[1]  # noqa: E731
    monkeypatch.setitem(registry._ENTRIES, ("claim", "energy/test-coin"), replace(entry, factory=threads))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run_claims(["energy/test-coin"], out=tmp_path, quick=True)
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)
