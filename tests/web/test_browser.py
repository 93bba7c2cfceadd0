"""The rating page and the viewer in a real browser: clicks and keys are stored as votes, and pages are accessible."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
import pytest

from crslib.config import ROOT
from crslib.judging.criteria import read_questions
from crslib.judging.study import Study, open_study
from crslib.runs import find_runs
from crslib.web import viewer
from tests.support.jupyterlab import PATIENCE, run_all, serving
from tests.support.people_runs import SCRIPT, make_runs
from tests.web.test_server import Served
from tests.web.test_viewer import replayed, viewed_runs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine; install it (Debian: apt install chromium)")
    with playwright.sync_playwright() as session:
        opened = session.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with browser.new_context(viewport={"width": 1200, "height": 850}) as context:
        context.set_default_timeout(60_000)  # of patience, not of speed
        yield context.new_page()


def make_study(folder: Path, n_profiles: int, n_pairs: int) -> Study:
    return open_study(make_runs(folder, n_profiles), n_pairs, 0, folder / "people")


def start(study: Study, port: int = 0) -> tuple[subprocess.Popen[str], str]:
    """Starts `crs people serve`; returns its process and the address that it prints."""
    words = ["people", "serve", str(study.path), "--port", str(port), "--raters", "ann"]
    command = [sys.executable, "-c", "from crslib.cli.main import main; main()", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    for line in process.stdout:
        if line.startswith("http"):
            return process, line.strip()
    raise AssertionError("no address was printed")


def test_ten_pairs_by_mouse_and_keys_with_reload_undo_and_kill(page: Any, tmp_path: Path, expect: Any) -> None:
    runs = find_runs(make_runs(tmp_path, 12))
    study = Study.of(runs, 7, 0, read_questions()[:2], tmp_path / "people")  # and two checks, and one pair again
    process, address = start(study)
    wanted: list[str] = []
    keys = {"left": ["1", "ArrowLeft"], "tie": ["2", "t"], "right": ["3", "ArrowRight"]}
    names = {"left": "Left", "tie": "No difference", "right": "Right"}
    where = page.locator(".where span").first

    def at(number: int) -> str:
        return f"Pair {number // 2 + 1} of 10, question {number % 2 + 1} of 2"

    def settled(number: int) -> None:
        expect(where).to_have_text("10 of 10 pairs" if number == 20 else at(number))

    try:
        page.goto(address)
        for number in range(20):
            settled(number)
            if number == 11:  # killed between two answers, restarted after the next one
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
            choice = ("left", "tie", "right")[(number * 7 + number // 3) % 3]
            if number % 2:
                page.keyboard.press(keys[choice][number // 2 % 2])
            else:
                page.get_by_role("button", name=names[choice], exact=False).first.click()
            wanted.append(choice)
            if number == 11:
                page.get_by_text("sent again until it is saved").wait_for()
                assert where.text_content() == at(number)
                process, _ = start(study, int(re.search(r":(\d+)/", address)[1]))
            if number == 6:
                settled(7)
                page.reload()
            if number in (3, 14):  # between two pairs, and within a pair
                settled(number + 1)
                page.keyboard.press("u")
                settled(number)
                page.keyboard.press("1")
                wanted[-1] = "left"
        settled(20)
        assert "You have answered everything" in page.locator("h2").text_content()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    votes = study.votes()
    assert votes["choice"].to_list() == wanted
    assert votes["order"].to_list() == list(range(20))
    assert (votes["seconds"] >= 0).all()


def test_markup_is_shown_as_text_and_the_page_is_accessible(page: Any, tmp_path: Path, expect: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    served = Served(make_study(tmp_path, 1, 1))  # one profile, whose dialogues hold markup
    try:
        page.goto(served.address)
        results = [axe.Axe().run(page)]
        page.keyboard.type("ann")  # the name has the focus
        page.keyboard.press("Enter")
        page.get_by_text(SCRIPT).first.wait_for()
        assert page.title() == "Which dialogue?"
        assert page.locator(".talk script, .talk img").count() == 0
        expect(page.locator("h2:focus")).to_be_visible()
        results.append(axe.Axe().run(page))
        names = []
        for _ in range(5):
            page.keyboard.press("Tab")
            names.append(
                page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent")
            )
        assert names[:3] == ["Left1 or ←", "No difference2 or T", "Right3 or →"]
        assert names[3:] == ["Left dialogue, 7 turns", "Right dialogue, 7 turns"]
        for number, key in enumerate("1231"):
            page.keyboard.press(key)
            page.get_by_text(f"question {number + 2} of 5").wait_for()
        page.locator(".profile").wait_for()
        results.append(axe.Axe().run(page))
        page.set_viewport_size({"width": 500, "height": 800})
        results.append(axe.Axe().run(page))
        violations = [violation for result in results for violation in result.response["violations"]]
        assert [v["id"] for v in violations if v["impact"] in ("serious", "critical")] == []
    finally:
        served.stop()


def test_dialogues_are_filtered_ordered_and_compared(
    page: Any, tmp_path: Path, items: pl.DataFrame, expect: Any
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    written = tmp_path / "look.html"
    written.write_text(viewer.document(viewed_runs(tmp_path, items), [replayed()]), encoding="utf-8")
    page.goto(written.as_uri())
    listed = page.locator("[role=option] .id")
    chosen = page.locator("[role=option][aria-selected=true] .id")
    box = {
        name: page.get_by_role("combobox", name=name, exact=True)
        for name in ("Run", "Stop reason", "Order by", "Order")
    }
    assert page.get_by_role("status").text_content() == "3 of 6 dialogues"
    box["Run"].select_option("all")
    assert listed.count() == 6
    box["Run"].select_option("a")

    box["Order by"].select_option("Dialogues with a hit")
    assert listed.all_text_contents() == ["u000.0", "u001.0", "u002.0"]
    assert page.locator("[role=option] .value").all_text_contents() == ["1", "0", "–"]
    box["Order"].select_option("lowest first")
    assert listed.all_text_contents() == ["u001.0", "u000.0", "u002.0"]  # dialogues without a value come last
    page.get_by_label("From").fill("0.5")
    assert listed.all_text_contents() == ["u000.0"]
    page.get_by_label("From").fill("2")
    page.get_by_text("No dialogue matches").wait_for()
    page.get_by_label("From").fill("")
    box["Stop reason"].select_option("max_turns")
    assert listed.all_text_contents() == ["u001.0"]
    box["Stop reason"].select_option("any")
    box["Order"].select_option("highest first")

    left, right = page.get_by_label("a, u000.0", exact=True), page.get_by_label("b, u000.0", exact=True)
    assert left.locator(".text").all_text_contents() == ["Seen Heat (1995)?", "not yet"]
    assert right.locator(".text").all_text_contents() == ["Seen it?", "not yet"]
    note = left.get_by_text("(Heat (1995): not seen, interested)")
    expect(note).to_be_hidden()
    page.get_by_label("Unfold private notes").check()
    expect(note).to_be_visible()
    assert left.get_by_title("< 0.1 %").text_content() == "at (1995)"
    left.get_by_text("word by word").click()
    left.locator(".tokens tbody tr").last.wait_for()  # drawn when unfolded
    assert left.locator(".tokens tbody tr").last.text_content() == "?61 %−0.50"
    left.get_by_text("Hidden targets (1)").click()
    left.locator(".targets li").last.wait_for()  # likewise
    assert left.locator(".targets li").all_text_contents() == ["Heat (1995)"]
    results = [axe.Axe().run(page)]

    page.get_by_role("listbox").focus()
    page.keyboard.press("End")
    assert chosen.text_content() == "u002.0"
    active = page.get_by_role("listbox").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active} .id").text_content() == "u002.0"
    assert page.get_by_text(SCRIPT).count() == 2  # as text, on both sides
    assert page.locator(".talk script, .talk img").count() == 0
    assert page.title() == "6 dialogues"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("PageUp")
    assert chosen.text_content() == "u000.0"
    for _ in range(10):  # the choice of a run, three ticks, the link, targets, scores, the dialogue, tokens
        page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Candidates for Heat (1995)")
    page.keyboard.press("Enter")
    table = left.locator(".candidates tbody tr")
    table.first.wait_for()  # drawn when unfolded
    assert table.all_text_contents() == ["Heat (1995) ← named17 %−3.0075 %", "Up (2009)22 %−4.50< 0.1 %"]
    page.get_by_label("Compare with").select_option("nothing")
    assert right.count() == 0
    page.set_viewport_size({"width": 500, "height": 800})
    results.append(axe.Axe().run(page))
    violations = [violation for result in results for violation in result.response["violations"]]
    assert [v["id"] for v in violations if v["impact"] in ("serious", "critical")] == []


@pytest.mark.notebook
def test_votes_in_jupyterlab_by_mouse_and_keys_with_reload_and_undo(page: Any, tmp_path: Path, expect: Any) -> None:
    """The first cells of `05_people` are run, and the page below the last one gets clicks and keys."""
    runs = find_runs(make_runs(tmp_path, 12))
    study = Study.of(runs, 7, 0, read_questions()[:1], tmp_path / "people")  # and two checks, and one pair again
    notebook = nbformat.read(ROOT / "notebooks/05_people.ipynb", as_version=4)
    notebook.cells[1].source = notebook.cells[1].source.replace(
        "runs: list = []", f"runs: list = [{str(study.path)!r}]"
    )
    notebook.cells = notebook.cells[:5]  # up to the page; the rest is analysis
    where = page.locator(".where span").first
    page.on("dialog", lambda dialog: dialog.accept())  # accepts to leave without saving

    def opened() -> None:
        run_all(page, address)
        page.get_by_label("Your name").fill("ann")
        page.keyboard.press("Enter")

    def settled(number: int) -> None:
        text = f"Pair {number + 1} of 10, question 1 of 1"
        expect(where).to_have_text("10 of 10 pairs" if number == 10 else text, timeout=PATIENCE)

    names = {"left": "Left", "tie": "No difference", "right": "Right"}
    keys = {"left": "1", "tie": "t", "right": "ArrowRight"}
    wanted = ["tie", "left", "right", "right", "tie", "left", "left", "right", "tie", "right"]
    with serving(notebook, tmp_path) as address:
        opened()
        for number, choice in enumerate(wanted):
            settled(number)
            if number == 6:
                opened()
                settled(number)
            if number in (3, 8):  # another answer comes first and is undone, by key or by mouse
                page.keyboard.press("2")
                settled(number + 1)
                page.keyboard.press("u") if number == 3 else page.get_by_role("button", name="Undo").click()
                settled(number)
            if number % 2:
                page.keyboard.press(keys[choice])
            else:
                page.get_by_role("button", name=names[choice]).click()
        settled(10)
        assert page.locator(".jp-Cell").count() == 5  # JupyterLab took no key as a command
    votes = study.votes()
    assert votes["choice"].to_list() == wanted
    assert votes["order"].to_list() == list(range(10))
    assert votes["rater"].unique().to_list() == ["ann"]
