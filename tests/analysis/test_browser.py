"""The comparison page in headless Chromium: it works from disk, by mouse and by keys, in the dark and on a phone."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from chromium import PROGRAM, Browser
from run_folders import write_run

from rl_contrastive.analysis.compare import compare
from rl_contrastive.analysis.view import Live, server

pytestmark = [pytest.mark.browser, pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")]

LONG = "contrastive-frontier, the same settings and a name that goes on <b>&amp;</b> %{x}"
SHOWN = "[...document.querySelectorAll('#tables tbody tr')].filter(r => r.offsetParent).map(r => r.innerText.trim())"
CURVES = "[...document.querySelectorAll('.plot')].filter(p => p.offsetParent).map(p => p.data.length)"


def write_runs(root) -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    for env in ("lock", "low-rank"):
        for agent in ("ucb", "random", LONG):
            for seed in range(5):
                returns = tuple(np.clip(np.linspace(0, 0.8, 12) + rng.normal(0, 0.1, 12), 0, 1))
                folder = write_run(root / str(seed) / agent[:4], "a", seed, env=env, returns=returns, solved_at=None)
                config = json.loads((folder / "config.json").read_text())
                config |= {"label": agent, "agent_config": {"rate": len(agent), "learner": {"objective": "nce " * 20}}}
                (folder / "config.json").write_text(json.dumps(config))
                lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
                text = "".join(json.dumps(line | {"tv": 1 / line["episodes"]}) + "\n" for line in lines)
                (folder / "metrics.jsonl").write_text(text)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    write_runs(root / "runs")
    compare([root / "runs"], root / "out", reps=50)
    return (root / "out" / "index.html").as_uri()


@pytest.fixture
def browser(tmp_path):
    it = Browser(tmp_path / "profile")
    yield it
    it.close()


def test_it_works_from_disk_without_a_word_of_complaint(browser, page):
    browser.open(page)
    assert browser.js(CURVES) == [9, 9]  # a line and a band's two edges of three agents
    assert browser.js("document.fonts.size") == 0
    assert len(browser.js(SHOWN)) == 6
    assert browser.problems == []


def test_filters_hide_agents_and_tasks_everywhere_and_live_in_the_address(browser, page):
    browser.open(page)
    browser.js("document.querySelector('input[data-agent=\"0\"]').click()")
    assert len(browser.js(SHOWN)) == 4
    assert browser.js(CURVES) == [6, 6]
    browser.js("document.querySelector('input[data-task=\"1\"]').click()")
    assert len(browser.js(SHOWN)) == 2
    assert browser.js(CURVES) == [6]
    before = browser.loads
    browser.call("Page.reload")
    browser.until_loaded(before)
    assert len(browser.js(SHOWN)) == 2
    browser.js("document.querySelector('[data-kind=agent] [data-all=\"0\"]').click()")
    assert browser.js("document.getElementById('nothing').hidden") is False
    browser.js("document.querySelector('[data-kind=agent] [data-all=\"1\"]').click()")
    assert len(browser.js(SHOWN)) == 3
    assert browser.problems == []


def test_the_menu_draws_any_metric_over_any_clock(browser, page):
    browser.open(page)
    menu = browser.js("[...document.getElementById('metric').options].map(o => o.value)")
    assert menu == ["return_mean", "return_sem", "tv"]
    change = "(id, v) => { const e = document.getElementById(id); e.value = v; e.dispatchEvent(new Event('change')); }"
    browser.js(f"({change})('metric', 'tv')")
    line = "document.querySelector('.plot').data.filter(t => t.hovertemplate)[0]"
    assert browser.js(f"{line}.y[0]") == pytest.approx(0.01)
    assert browser.js(f"{line}.x[0]") == 100
    browser.js(f"({change})('axis', 'env_steps')")
    assert browser.js(f"{line}.x[0]") == 500
    browser.js("document.getElementById('log-y').click()")
    assert browser.js("document.querySelector('.plot').layout.yaxis.type") == "log"
    assert "middle half" in browser.js("document.getElementById('words').textContent")
    assert browser.problems == []


def test_a_click_on_a_curve_shows_its_runs_and_hovering_tells_its_values(browser, page):
    browser.open(page)
    browser.js("document.getElementById('charts').scrollIntoView()")
    place = """(() => { const p = document.querySelector('.plot'), a = p._fullLayout, b = p.getBoundingClientRect();
      const t = p.data.filter(t => t.hovertemplate).at(-1);
      return [b.left + a.xaxis._offset + a.xaxis.d2p(t.x[5]), b.top + a.yaxis._offset + a.yaxis.d2p(t.y[5])]; })()"""
    x, y = browser.js(place)
    browser.mouse(x - 1, y)
    browser.mouse(x, y)
    boxes = "[...document.querySelectorAll('.hovertext')].map(box => box.textContent)"
    wait = f"new Promise(done => setTimeout(() => done({boxes}), 300))"
    (told,) = browser.js(wait)
    assert "episodes" in told
    assert "[" in told  # with its interval
    browser.mouse(x, y, click=True)
    browser.js(wait)
    assert browser.js(CURVES) == [14, 14]  # five runs more in each
    assert browser.js("document.querySelectorAll('[data-runs][aria-pressed=true]').length") == 1
    assert browser.problems == []


def test_everything_can_be_done_with_keys_and_has_a_name(browser, page):
    browser.open(page)
    seen, names = set(), []
    for _ in range(80):
        browser.key("Tab")
        what = browser.js("(e => e.id || e.dataset.runs && 'runs' || e.dataset.agent && 'agent' || e.tagName)"
                          "(document.activeElement)")  # fmt: skip
        if what == "runs" and "runs" not in seen:
            browser.key("Enter")
            assert browser.js("document.activeElement.getAttribute('aria-pressed')") == "true"
        if what == "agent" and "agent" not in seen:
            browser.key(" ")
            assert browser.js("document.activeElement.checked") is False
            browser.key(" ")
        seen.add(what)
    assert {"theme", "agent", "metric", "axis", "log-x", "log-y", "runs", "SUMMARY"} <= seen
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "checkbox", "combobox", "searchbox", "region", "image", "img"}
    for node in tree:
        if not node.get("ignored") and node["role"]["value"] in roles:
            names.append((node["role"]["value"], node.get("name", {}).get("value", "")))
    assert all(name for _, name in names), names
    browser.js("document.querySelector('[data-tip]').focus()")
    assert browser.js("document.getElementById('tip').hidden") is False
    browser.key("Escape")
    assert browser.js("document.getElementById('tip').hidden") is True
    assert browser.problems == []


def test_dark_follows_the_system_and_the_button_overrules_it(browser, page):
    paper = "getComputedStyle(document.body).backgroundColor"
    text = "document.querySelector('.plot .xtick text').style.fill"
    browser.open(page)
    light = browser.js(paper), browser.js(text)
    browser.dark(True)
    browser.js("new Promise(done => setTimeout(done, 300))")
    dark = browser.js(paper), browser.js(text)
    assert light[0] == "rgb(255, 255, 255)"
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    browser.js("document.getElementById('theme').click()")
    assert (browser.js(paper), browser.js(text)) == light
    assert browser.problems == []


@pytest.mark.parametrize("width", [360, 390, 768])
def test_a_phone_shows_it_whole_and_in_one_size_of_text(browser, page, width):
    browser.size(width, 844, mobile=True)
    browser.open(page)
    assert browser.js("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll('body *')]
      .filter(e => !e.closest('.scroll, figure, .plot, .skip, .choices') && e.getClientRects().length)
      .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && e.id !== 'js-plotly-tester')
      .map(e => e.outerHTML.slice(0, 80))"""
    assert browser.js(outside) == []
    words = "[...document.querySelectorAll('td, th, li, p, label, button')]"
    sizes = f"{words}.map(e => parseFloat(getComputedStyle(e).fontSize))"
    assert min(browser.js(sizes)) == browser.js("parseFloat(getComputedStyle(document.body).fontSize)")
    assert browser.problems == []


def test_view_refreshes_by_itself_and_keeps_what_was_chosen(browser, tmp_path):
    write_runs(tmp_path / "runs")
    with server(Live(tmp_path / "runs", reps=20, seconds=1.0), 0) as it:
        thread = threading.Thread(target=it.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            browser.open(f"http://127.0.0.1:{it.server_address[1]}/")
            browser.js("document.querySelector('input[data-agent=\"0\"]').click()")
            before = browser.loads
            write_run(tmp_path / "runs" / "new", "newcomer", 0)
            while browser.loads == before:
                browser.js("1")
            assert len(browser.js(SHOWN)) == 5  # two of the old agents on two tasks, and the new one
            assert browser.problems == []
        finally:
            it.shutdown()
            thread.join()
