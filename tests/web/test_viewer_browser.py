"""The viewer over all runs in a real browser: search, filters, links, keys, a phone's width, dark mode, axe."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crslib.store import Run
from crslib.web import assets, viewer
from tests.web.test_archive import Served, opened, runs  # noqa: F401  a fixture
from tests.web.test_browser import browser, page  # noqa: F401  fixtures
from tests.web.test_viewer import viewed_runs


@pytest.fixture
def served(runs: list[Run]) -> Iterator[Served]:  # noqa: F811
    (runs[0].path / "report.html").write_text("<title>A report</title><p>report")
    running = Served(opened(runs[0].path.parent))
    yield running
    running.stop()


def names(page: Any) -> list[str]:  # noqa: F811
    """The dialogues in the list, each with its run."""
    rows = zip(page.locator("[role=option] .id").all(), page.locator("[role=option] .soft").all(), strict=True)
    return [f"{soft.text_content().split(' · ')[0]} {one.text_content()}" for one, soft in rows]


def violations(page: Any) -> list[str]:  # noqa: F811
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    return [violation["id"] for violation in axe.Axe().run(page).response["violations"]]


def test_dialogues_of_all_runs_are_searched_and_filtered(page: Any, served: Served, expect: Any) -> None:  # noqa: F811
    page.goto(served.page)
    count = page.get_by_role("status")
    expect(count).to_have_text("6 of 6 dialogues")
    search = page.get_by_role("searchbox", name="Search")
    search.fill("HEAT (1995)?")
    expect(count).to_have_text("3 of 6 dialogues")
    assert [name.split()[-1] for name in names(page)] == ["u000.0", "u001.0", "u002.0"]
    assert page.evaluate("CSS.highlights.get('crs-found').size") == 1
    search.fill("nobody says this")
    expect(count).to_have_text("0 of 6 dialogues")
    page.get_by_text("No dialogue matches these filters.").wait_for()
    search.fill("")
    page.get_by_label("Parameter").select_option("temperature")
    page.get_by_label("Value").select_option("0.5")
    expect(count).to_have_text("3 of 6 dialogues")
    rows = page.locator(".runs tbody tr")
    expect(rows).to_have_count(1)
    page.get_by_label("Parameter").select_option("any")
    expect(rows).to_have_count(2)
    page.get_by_label("Stop reason").select_option("max_turns")
    expect(count).to_have_text("2 of 6 dialogues")
    page.get_by_label("Order by").select_option("Dialogues with a hit")
    page.get_by_label("From").fill("0.5")
    expect(count).to_have_text("0 of 6 dialogues")
    page.get_by_label("Stop reason").select_option("any")
    expect(count).to_have_text("1 of 6 dialogues")
    assert page.locator("[role=option] .value").all_text_contents() == ["1"]
    page.get_by_label("From").fill("")
    rows.first.get_by_role("button").click()
    expect(count).to_have_text("3 of 6 dialogues")
    expect(rows.first.get_by_role("button")).to_have_attribute("aria-pressed", "true")
    heads = page.locator(".runs thead th")
    heads.first.get_by_role("button").click()
    expect(heads.first).to_have_attribute("aria-sort", "ascending")
    heads.first.get_by_role("button").click()
    expect(heads.first).to_have_attribute("aria-sort", "descending")


def test_two_dialogues_stand_side_by_side(page: Any, served: Served, expect: Any) -> None:  # noqa: F811
    page.goto(served.page)
    page.locator(".talk").first.wait_for()
    expect(page.locator(".sides section")).to_have_count(1)
    page.get_by_label("Compare with").select_option(index=1)
    sides = page.locator(".sides h2")
    expect(sides).to_have_count(2)
    assert {text.split(", ")[-1] for text in sides.all_text_contents()} == {"u000.0"}
    page.get_by_label("Compare with").select_option("nothing")
    page.get_by_label("Keep at the left").check()
    page.locator(".list li").nth(2).click()  # of another person
    expect(sides).to_have_count(2)
    assert [text.split(", ")[-1] for text in sides.all_text_contents()] == ["u000.0", "u002.0"]
    page.get_by_label("Keep at the left").uncheck()
    expect(sides).to_have_count(1)


def test_a_link_opens_its_dialogue_whatever_the_filters_are(page: Any, served: Served, expect: Any) -> None:  # noqa: F811
    page.goto(f"{served.page}#run-b/u001.0")
    title = page.locator(".sides h2")
    expect(title).to_have_text(re.compile(r"u001\.0"))
    expect(page).to_have_url(re.compile(r"#run-b/u001\.0$"))
    expect(title.get_by_role("link")).to_have_attribute("href", "#run-b/u001.0")
    page.locator(".list li").nth(0).click()
    expect(page).to_have_url(re.compile(r"#run-b/u000\.0$"))
    page.get_by_role("searchbox").fill("nobody says this")
    page.get_by_text("No dialogue matches").wait_for()
    page.evaluate("location.hash = '#run-a/u002.0'")
    expect(title).to_have_text(re.compile(r"u002\.0"))
    expect(page.get_by_role("searchbox")).to_have_value("")
    page.evaluate("location.hash = '#run-a/%E0%A4%A'")  # nothing that can be read
    expect(title).to_have_text(re.compile(r"u002\.0"))
    with page.expect_popup() as popup:
        page.get_by_role("link", name="report of the run").click()
    assert popup.value.title() == "A report"


def test_a_link_into_a_file_opens_its_dialogue(page: Any, tmp_path: Path, items: pl.DataFrame, expect: Any) -> None:  # noqa: F811
    written = tmp_path / "look.html"
    written.write_text(viewer.document(viewed_runs(tmp_path, items)), encoding="utf-8")
    page.goto(f"{written.as_uri()}#run-b/u001.0")
    expect(page.locator(".sides h2").first).to_have_text("b, u001.0")
    page.get_by_role("searchbox").fill("seen it?")
    expect(page.get_by_role("status")).to_have_text("3 of 6 dialogues")


def test_keys_reach_everything(page: Any, served: Served, expect: Any) -> None:  # noqa: F811
    page.goto(served.page)
    page.locator(".talk").first.wait_for()
    page.keyboard.press("/")
    page.keyboard.type("not yet")
    expect(page.get_by_role("status")).to_have_text("4 of 6 dialogues")
    page.keyboard.press("/")  # in the box it is a letter
    expect(page.get_by_role("searchbox")).to_have_value("not yet/")
    expect(page.get_by_role("status")).to_have_text("0 of 6 dialogues")
    page.keyboard.press("Backspace")
    expect(page.get_by_role("status")).to_have_text("4 of 6 dialogues")
    for _ in range(9):  # the filters' heading, five choices, two bounds, then the list
        page.keyboard.press("Tab")
    expect(page.get_by_role("listbox")).to_be_focused()
    chosen = page.locator("[role=option][aria-selected=true] .id")
    for key, name in (("ArrowDown", "u001.0"), ("End", "u001.0"), ("Home", "u000.0"), ("PageDown", "u001.0")):
        page.keyboard.press(key)
        expect(chosen).to_have_text(name)
    active = page.get_by_role("listbox").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_it_is_accessible_and_fits_a_phone_in_light_and_dark(
    browser: Any,  # noqa: F811
    served: Served,
    expect: Any,
    scheme: str,
    width: int,
) -> None:
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(served.page)
        page.locator(".talk").first.wait_for()
        page.get_by_role("searchbox").fill("not yet")
        expect(page.get_by_role("status")).to_have_text("4 of 6 dialogues")  # else the answer draws all once more
        page.get_by_label("Compare with").select_option(index=1)
        page.locator(".sides.of-2").wait_for()
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        page.locator(".targets li").first.wait_for()
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing has to be scrolled sideways
        light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(238, 241, 245)"
        assert light == (scheme == "light")


def test_a_server_that_ended_is_named(page: Any, served: Served, expect: Any) -> None:  # noqa: F811
    page.goto(served.page)
    page.locator(".talk").first.wait_for()
    page.route("**/api/*", lambda route: route.abort())
    page.get_by_role("searchbox").fill("not yet")
    page.get_by_text("No connection: begin").wait_for()
    page.unroute("**/api/*")
    page.goto(f"{served.address}/?token=guess")
    page.get_by_text("This address lacks the token").wait_for()


def test_more_of_a_long_list_is_drawn_as_one_scrolls(page: Any, expect: Any) -> None:  # noqa: F811
    """Twenty thousand dialogues, as the page in JupyterLab gets them: by messages."""
    index = {
        "runs": [{"id": "run", "name": "a run", "cells": {}, "parameters": {}, "report": "word"}],
        "metrics": [],
        "dialogues": [
            {
                "run": 0,
                "id": f"u{n}.0",
                "profile": f"u{n}",
                "stop": "user_left",
                "ending": "x",
                "n_turns": 2,
                "read": False,
            }
            for n in range(20_000)
        ],
    }
    whole = {
        "id": "",
        "opener": "user",
        "summary": "",
        "attributes": "",
        "k": None,
        "labels": "",
        "targets": [],
        "scores": {},
    }
    whole["turns"] = [{"role": "user", "notes": "", "pieces": [["Hello", "", None]], "candidates": []}]
    script = assets.module("element.js", "viewer.js").replace("export default", "const shown =")
    style = assets.text("page.css", "viewer.css")
    script += f"""
      const replies = {{ index: {json.dumps(index)}, dialogue: {json.dumps(whole)} }};
      let hear = null;
      const model = {{
        on: (_, listener) => {{ hear = listener; }},
        send: ({{ id, action }}) => hear({{ id, reply: replies[action] }}),
      }};
      shown.render({{ model, el: document.querySelector("main") }});"""
    head = f'<!doctype html><html lang="en"><title>x</title><style>{style}</style>'
    page.set_content(f'{head}<main></main><script type="module">{script}</script>')
    expect(page.get_by_role("status")).to_have_text("20000 of 20000 dialogues")
    assert page.locator(".list li").count() == 200
    page.locator(".list").evaluate("list => { list.scrollTop = list.scrollHeight; }")
    expect(page.locator(".list li")).to_have_count(400)
    page.get_by_text("Hello").wait_for()
    assert page.get_by_role("link", name="report of the run").count() == 0  # JupyterLab has no address of it
