"""The reports in a real browser: search, links, the dark, a phone, keys, and what axe finds."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crslib import schemas
from crslib.experiments.comparison import DIFFERENCES
from crslib.reporting import charts, html
from crslib.reporting.figure import Figure
from crslib.reporting.html import Dialogue, Verdict
from crslib.store import Run
from tests.reporting.test_html import metric
from tests.support.people_runs import SCRIPT
from tests.web.test_browser import browser  # noqa: F401  a fixture
from tests.web.test_viewer import viewed_runs

LONG = "A title that is longer than any phone is wide, and has no end: " * 3
UNFOLD = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
OVERFLOW = "document.documentElement.scrollWidth - innerWidth"


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:  # noqa: F811
    with browser.new_context(viewport={"width": 1280, "height": 850}) as context:
        context.set_default_timeout(60_000)  # of patience, not of speed
        yield context.new_page()


@pytest.fixture
def report(tmp_path: Path, items: pl.DataFrame) -> Path:
    """The report of u000 to u002: all are asked "Seen [[Heat (1995)]]?"; two answer "not yet", the last one markup."""
    run = viewed_runs(tmp_path, items)[0]
    figures = [
        metric("hits", 1 / 3, family="recommendation", unit="share", low=0.01, high=0.9, signature="crslib:9|n:5"),
        metric("turns", 12.25, family="realism", unit="turns", low=11.0, high=13.0, human=11.7, n=64),
        metric("user_words", 20.0, family="realism", unit="words", low=18.0, high=22.0, human=10.0, n=64),
        metric("user_words_ks", 0.3, family="realism", unit="distance", low=0.1, high=0.4, human=0.1, floor=0.2, n=64),
    ]
    run.write("metrics", pl.DataFrame(figures, schema=dict(schemas.TABLES["metrics"])))
    run.update(parameters={"condition": "a", "seed": 1, "user_model": LONG}, parameters_given={"user_model": LONG})
    names = pl.DataFrame({"source": ["simulated"], "rank": [1], "name": [LONG], "share": [0.5]})
    return html.write(run, [Figure("Most recommended", LONG, charts.popularity(names))])


@pytest.fixture
def comparison(tmp_path: Path, items: pl.DataFrame) -> Path:
    runs = viewed_runs(tmp_path, items)
    conditions = pl.DataFrame(
        {"condition": ["a", "b"], "seed": [LONG, "2"], "state": ["success", "error"], "error": [None, "no"],
         "traceback": [None, f"Traceback {LONG}"]}
    )  # fmt: skip
    rows = [("b", "turns", "realism", 0.1, 0.05, 0.2, 0.01, 9, True)]
    table = pl.DataFrame({"family": ["realism"], "metric": ["Turns"], "better": [""], "a": ["3.0 [2.0, 4.0]"]})
    points = pl.DataFrame({"condition": ["a", "b"], "value": [1.0, 2.0], "low": [0.5, 1.5], "high": [1.5, 2.5]})
    chart = charts.conditions(points.with_columns(human=1.0)).properties(title=LONG)
    return html.write_comparison(
        tmp_path / "c.html",
        conditions,
        table,
        [Figure("Realism", "How to read it.", charts.grid([chart, chart]))],
        pl.DataFrame(rows, schema=DIFFERENCES, orient="row"),
        [
            Verdict("yes", "a is more diverse than b", "Distinct-2, user +0.100"),
            Verdict("no", "a leaks less than b", "Hits -0.100"),
        ],
        [("a: its best dialogue", [Dialogue(run.path.name, run, "u000.0") for run in runs])],
    )


def test_search_finds_dialogues_by_what_is_said(page: Any, report: Path, expect: Any) -> None:
    page.goto(report.as_uri())
    shown = page.locator("#dialogues .entry:visible summary b")
    box = page.get_by_role("searchbox", name="Search all texts")
    assert shown.all_text_contents() == ["u000.0", "u001.0", "u002.0"]
    assert page.locator("#found").text_content() == ""
    first = page.locator(".entry .first").first
    opening = first.text_content()
    box.fill("  NOT yet ")
    assert shown.all_text_contents() == ["u000.0", "u001.0"]
    assert page.locator("#found").text_content() == "2 of 3 dialogues"
    assert first.text_content() == "not yet"
    box.fill("seen heat")
    assert first.text_content() == "Seen Heat (1995)?"  # the turn that has the words
    assert page.evaluate("CSS.highlights.get('found').size") > 0
    box.fill(SCRIPT)
    assert shown.all_text_contents() == ["u002.0"]
    assert page.locator(".entry script, .entry img").count() == 0
    box.press("Enter")
    expect(page.locator(".entry:visible .bubble").first).to_be_visible()
    expect(page.locator(":focus b")).to_have_text("u002.0")
    box.fill("no dialogue has this")
    assert (shown.count(), page.locator("#found").text_content()) == (0, "0 of 3 dialogues")
    box.fill("")
    assert (shown.count(), first.text_content()) == (3, opening)
    assert page.evaluate("CSS.highlights.get('found').size") == 0


def test_letters_that_grow_in_lower_case_and_no_dialogues_stop_no_search(page: Any, report: Path) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    run = Run(report.parent)
    run.write("turns", run.read("turns").with_columns(text=pl.lit("İİİİ not yet"), items=pl.col("items").list.head(0)))
    page.goto(html.write(run, []).as_uri())
    page.get_by_role("searchbox", name="Search all texts").fill("yet")
    assert page.locator("#found").text_content() == "3 of 3 dialogues"
    run.write("dialogues", run.read("dialogues").clear())
    page.goto(html.write(run, []).as_uri())
    assert page.locator("#search").count() == 0
    assert errors == []


def test_an_address_leads_to_a_dialogue_and_to_a_turn(page: Any, report: Path, expect: Any) -> None:
    page.goto(f"{report.as_uri()}#u001.0")
    dialogue = page.get_by_label("dialogue u001.0")
    expect(dialogue).to_be_visible()
    expect(page.get_by_label("dialogue u000.0")).to_be_hidden()
    expect(dialogue).to_be_in_viewport()
    page.goto("about:blank")
    page.goto(f"{report.as_uri()}#u002.0:1")
    expect(page.locator(":target")).to_have_text(re.compile(re.escape(SCRIPT) + "$"))
    expect(page.locator(":target")).to_be_visible()
    page.get_by_label("dialogue u002.0").get_by_role("link", name="turn 0").click()
    expect(page).to_have_url(re.compile("#u002.0:0$"))
    page.locator("#dialogue a").click()  # from the one that was drawn to its place in the list
    drawn = page.locator("#dialogue a").get_attribute("href")
    expect(page).to_have_url(re.compile(f"{drawn}$"))
    expect(page.locator(":target")).to_have_attribute("aria-label", f"dialogue {drawn[1:]}")
    expect(page.locator(":target")).to_be_visible()


def test_keys_reach_contents_search_and_what_is_folded(page: Any, report: Path, expect: Any) -> None:
    page.goto(report.as_uri())
    focused = page.locator(":focus")
    page.keyboard.press("Tab")
    expect(focused).to_have_text("A dialogue")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    for _ in range(4):
        page.keyboard.press("Tab")
    expect(focused).to_have_text("Dialogues")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#dialogues$"))  # what a key begins may end after it
    page.keyboard.press("Tab")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("dialogue u000.0")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_label("dialogue u000.0")).to_be_hidden()


def test_in_the_dark_page_and_charts_are_dark(page: Any, report: Path) -> None:
    def colours() -> list[str]:
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        text = page.locator(".drawing.wide text", has_text="Turns per dialogue")
        return [background, text.evaluate("(one) => getComputedStyle(one).fill")]

    page.goto(report.as_uri())
    assert colours() == ["rgb(247, 248, 250)", "rgb(27, 36, 48)"]
    page.emulate_media(color_scheme="dark")
    assert colours() == ["rgb(18, 23, 29)", "rgb(230, 234, 240)"]


@pytest.mark.parametrize("which", ["report", "comparison"])
def test_on_a_phone_the_page_does_not_scroll_sideways_and_charts_are_readable(
    page: Any, which: str, request: pytest.FixtureRequest
) -> None:
    page.set_viewport_size({"width": 375, "height": 800})
    page.goto(request.getfixturevalue(which).as_uri())
    assert page.evaluate(OVERFLOW) <= 0
    page.evaluate(UNFOLD)
    assert page.evaluate(OVERFLOW) <= 0
    scale = "(all) => all.map((one) => one.getBoundingClientRect().width / one.viewBox.baseVal.width).filter(Boolean)"
    scales = page.locator(".drawing svg").evaluate_all(scale)
    assert scales and min(scales) >= 0.85  # letters of at least nine pixels
    page.set_viewport_size({"width": 1280, "height": 800})
    assert page.evaluate(OVERFLOW) <= 0


@pytest.mark.parametrize("which", ["report", "comparison"])
def test_axe_finds_nothing(page: Any, which: str, scheme: Any, request: pytest.FixtureRequest) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page.emulate_media(color_scheme=scheme)
    page.goto(request.getfixturevalue(which).as_uri())
    found = []
    for width in (1280, 375):
        page.set_viewport_size({"width": width, "height": 800})
        found += axe.Axe().run(page).response["violations"]
        page.evaluate(UNFOLD)
        found += axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"][:300]) for one in found] == []
