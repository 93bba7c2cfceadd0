"""In a real browser no text of a run, of a rater or of a model is run as script, on any page, even without the content
policies of the pages."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crslib import schemas
from crslib.judging.study import Study, open_study
from crslib.reporting import html
from crslib.reporting import study as study_report
from crslib.store import Run
from crslib.web import viewer
from tests.reporting.test_html import metric
from tests.web import test_archive
from tests.web.test_browser import browser  # noqa: F401  a fixture
from tests.web.test_server import Served
from tests.web.test_viewer import replayed, viewed_runs

PARTS = [
    "<script>hit()</script>",
    '<img src=x onerror="hit()">',
    "<svg onload=hit()>",
    "</script></style></textarea><script>hit()</script>",
    "<a href='javascript:hit()'>",
    "\" onmouseover='hit()' autofocus onfocus=hit() x=\"",
    "<iframe srcdoc='<script>parent.hit()</script>'>",
    "<!--",
    "{{ hit() }} {% for a in b %} ${hit()} $title `hit()`",
    "&lt;script&gt; &#60;b&#62;",
    "<|im_end|><|im_start|>system",
    "]] [[ [[<b>hit</b>]]",
    "\u2028\u202e\x9b\x1b[31m",
]
EVIL = " ".join(PARTS)
MADE = "img[src=x], svg[onload], iframe, a[href^=javascript], [onerror], [onmouseover], [onfocus], [autofocus]"


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:  # noqa: F811
    """A page that has no content policy, and counts what is run."""
    with browser.new_context(bypass_csp=True) as context:
        context.set_default_timeout(60_000)  # of patience, not of speed
        context.add_init_script("window.hits = 0; window.hit = () => { window.hits += 1; }")
        yield context.new_page()


def hostile_runs(folder: Path, items: pl.DataFrame) -> list[Run]:
    """Runs in which every text that data, people and models write is hostile."""
    runs = viewed_runs(folder, items.with_columns(title=pl.lit(EVIL), makers=pl.lit([EVIL]), kinds=pl.lit([EVIL])))
    for run in runs:
        turns = run.read("turns")
        titled = pl.element().struct.with_fields(title=pl.lit(EVIL))
        named = [pl.col(name).list.eval(titled) for name in ("items", "notes")]
        run.write("turns", turns.with_columns(pl.col("text") + pl.lit(" " + EVIL), *named))
        words = {"summary": pl.lit(EVIL), "attributes": pl.lit(EVIL)}
        run.write("profiles", run.read("profiles").with_columns(**words))
        figures = [metric("turns", 12.25, low=11.0, high=13.0, human=11.7, n=3), metric(EVIL, 1.0, family=EVIL)]
        run.write("metrics", pl.DataFrame(figures, schema=dict(schemas.TABLES["metrics"])))
        condition = f"{run.path.name} {EVIL}"
        run.update(parameters={"condition": condition, "seed": 1}, parameters_given={"condition": condition})
    return runs


def holds(page: Any, asked: list[str], own: Callable[[str], bool]) -> None:
    """Nothing was run, nothing of a text became an element, and nothing else was asked for."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.wait_for_timeout(200)
    page.mouse.move(300, 300)
    assert page.evaluate("window.hits") == 0
    assert page.locator(MADE).count() == 0
    assert [url for url in asked if not own(url) and not url.startswith("data:")] == []
    shown = page.evaluate("document.body.textContent")
    for part in PARTS[:4]:
        assert part in shown


def test_the_texts_are_hostile(page: Any) -> None:
    """On a page that takes them as markup they are run."""
    page.set_content(f"<title>x</title><body>{EVIL}")
    page.wait_for_function("window.hits > 0")
    assert page.locator(MADE).count() > 0


def test_reports_and_the_viewer_run_nothing(page: Any, tmp_path: Path, items: pl.DataFrame) -> None:
    runs = hostile_runs(tmp_path / "runs", items)
    look = tmp_path / "look.html"
    look.write_text(viewer.document(runs, [replayed()]), encoding="utf-8")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for file in (look, html.write(runs[0], [])):
        page.goto(file.as_uri())
        holds(page, asked, lambda url: url.startswith("file:") and url.endswith(".html"))
    page.locator("#search").fill(PARTS[1])  # of the run's report: what it finds is shown as text
    assert page.locator(".entry:visible").count() == 3
    holds(page, asked, lambda url: url.startswith("file:") and url.endswith(".html"))
    page.goto(look.as_uri())
    page.locator("[role=option]").nth(1).click()
    page.locator(".talk").first.wait_for()
    holds(page, asked, lambda url: url.startswith("file:") and url.endswith(".html"))


def test_the_viewer_over_all_runs_runs_nothing(page: Any, tmp_path: Path, items: pl.DataFrame) -> None:
    runs = hostile_runs(tmp_path / "runs", items)
    for run in runs:
        run.update(parameters={**run.info["parameters"], "user_model": f"{run.path.name} {EVIL}"})
    html.write(runs[0], [])
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    served = test_archive.Served(test_archive.opened(tmp_path / "runs"))
    try:
        page.goto(served.page)
        page.locator(".talk").first.wait_for()
        holds(page, asked, lambda url: url.startswith(served.address))
        page.get_by_label("Parameter").select_option("user_model")
        page.get_by_label("Value").select_option(index=1)
        page.get_by_role("searchbox").fill(PARTS[1])
        page.locator(".list li").nth(1).click()
        page.get_by_label("Compare with").select_option(index=1)
        page.locator(".sides.of-2").wait_for()
        holds(page, asked, lambda url: url.startswith(served.address))
        page.goto(f"{served.page}#{'%3Cscript%3Ehit()%3C/script%3E/' * 2}")
        page.reload()
        page.locator(".talk").first.wait_for()
        holds(page, asked, lambda url: url.startswith(served.address))
        page.goto(f"{served.address}/report/{runs[0].run_id}?token={test_archive.TOKEN}")
        assert page.evaluate("window.hits") == 0 and page.locator(MADE).count() == 0
    finally:
        served.stop()


def test_the_rating_page_and_its_report_run_nothing(page: Any, tmp_path: Path, items: pl.DataFrame) -> None:
    paths = [run.path for run in hostile_runs(tmp_path / "runs", items)]
    study: Study = open_study(paths, 2, 0, tmp_path / "people")
    rater = '<img src=x onerror="hit()">{{7*7}}'
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    served = Served(study)
    try:
        page.goto(served.address)
        page.keyboard.type(rater)
        page.keyboard.press("Enter")
        for number in range(1, 6):
            page.get_by_text(f"question {number} of 5").wait_for()
            holds(page, asked, lambda url: url.startswith(served.address))
            assert page.locator(".rater").text_content() == rater
            page.keyboard.press("1")
        page.get_by_text("Pair 2 of").wait_for()
        page.goto(f"{served.address}/?rater=%3Cscript%3Ehit()%3C/script%3E")
        page.get_by_text("question 1 of 5").wait_for()
        holds(page, asked, lambda url: url.startswith(served.address))
    finally:
        served.stop()
    assert study.votes()["rater"].unique().to_list() == [rater]
    page.goto(study_report.write(study).as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("window.hits") == 0 and page.locator(MADE).count() == 0
    assert rater in page.evaluate("document.body.textContent")
