"""The chat page in a real browser, with a function as the other party."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from crslib.config import ROOT, RunParameters
from crslib.errors import CrsError
from crslib.simulation.conversation import Ending
from crslib.store import Run
from crslib.web import assets
from crslib.web import talk as web_talk
from crslib.web.talk import Talk
from tests.support.jupyterlab import run_all, serving
from tests.support.people_runs import SCRIPT
from tests.web.test_browser import browser, page  # noqa: F401  fixtures

BOUND = """
const onState = (show) => {
  let last = "";
  const timer = setInterval(async () => {
    const state = await currentState();
    if (JSON.stringify(state) !== last) show(state);
    last = JSON.stringify(state);
  }, 20);
  return () => clearInterval(timer);
};
mount(document.querySelector("main"), onState, (action, content) => act(action, content));
"""


def answers(
    role: str, parameters: RunParameters, run: Run, ask: Callable, show: Callable, profile_id: str, begin: Callable
) -> Ending:
    """The other party answers each utterance with markup and leaves after the third."""
    if profile_id == "nobody":
        raise CrsError("there is no profile 'nobody' among 4")
    begin()
    for _ in range(3):
        if (text := ask()) is None:
            return Ending(f"The {role} left.", SCRIPT, "drama movie", ["(Heat (1995): seen)"])
        show(role, text)
        show("recommender" if role == "user" else "user", f"{SCRIPT} [[Heat (1995)]]")
    return Ending("The user left.", SCRIPT, "drama movie", [])


@pytest.fixture
def shown(page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:  # noqa: F811
    monkeypatch.setattr(web_talk, "converse", answers)
    talk = Talk(RunParameters(), tmp_path)
    page.expose_function("currentState", lambda: talk.state)
    page.expose_function("act", talk.do)
    script, style = assets.module("element.js", "chat.js"), assets.text("page.css", "chat.css")
    page.set_content(
        f'<!doctype html><html lang="en"><title>Talk</title><style>{style}</style>'
        f'<body class="crs-page"><main></main><script type="module">{script}{BOUND}</script>'
    )
    yield page
    talk.close()


def test_a_dialogue_by_keyboard_in_both_roles(shown: Any, expect: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    status, keys = shown.locator(".status"), shown.keyboard
    shown.get_by_role("button", name="Begin").wait_for()
    expect(shown.get_by_label("Who is the user?")).to_be_hidden()
    results = [axe.Axe().run(shown)]
    keys.press("Tab")
    keys.press("ArrowDown")  # from user to recommender
    keys.press("Tab")
    keys.type("nobody")
    keys.press("Enter")
    expect(status).to_have_text("there is no profile 'nobody' among 4")
    assert shown.get_by_label("Who is the user?").input_value() == "nobody"
    shown.get_by_label("Who is the user?").fill("")
    keys.press("Enter")
    expect(status).to_have_text("Your turn.")
    assert shown.evaluate("document.activeElement.tagName") == "TEXTAREA"
    keys.press("Enter")  # an empty text
    keys.type(SCRIPT)
    keys.press("Shift+Enter")
    keys.type("and a second line")
    keys.press("Enter")
    expect(shown.locator(".talk li")).to_have_count(2)
    assert shown.locator(".talk li .text").all_text_contents() == [
        f"{SCRIPT}\nand a second line",
        f"{SCRIPT} Heat (1995)",
    ]
    assert shown.locator(".talk li.mine .who").all_text_contents() == ["You"]
    assert shown.locator(".talk b").all_text_contents() == ["Heat (1995)"]
    assert shown.get_by_text("drama movie").count() == 0  # private knowledge is not in the page yet
    results.append(axe.Axe().run(shown))
    shown.get_by_role("button", name="Leave").click()
    expect(status).to_have_text("The recommender left.")
    expect(shown.get_by_text("drama movie")).to_be_hidden()
    expect(shown.locator(":focus")).to_have_text("Talk again")
    keys.press("Shift+Tab")
    keys.press("Enter")  # unfolds
    assert shown.locator("details p").all_text_contents() == [SCRIPT, "drama movie", "(Heat (1995): seen)"]
    expect(shown.get_by_text("drama movie")).to_be_visible()
    results.append(axe.Axe().run(shown))
    shown.get_by_role("button", name="Talk again").click()
    shown.get_by_label("You look for a film").check()
    shown.get_by_role("button", name="Begin").click()
    for number in range(3):  # then the other party leaves
        expect(shown.locator(".talk li")).to_have_count(2 * number)
        expect(status).to_have_text("Your turn.")
        shown.get_by_label("What do you say?").fill("Hello")
        shown.get_by_role("button", name="Say it").click()
    expect(status).to_have_text("The user left.")
    shown.get_by_text("had no private knowledge").wait_for()
    violations = [violation for result in results for violation in result.response["violations"]]
    assert [v["id"] for v in violations if v["impact"] in ("serious", "critical")] == []
    assert shown.title() == "Talk"
    assert shown.locator("main script, main img").count() == 0


@pytest.mark.model
@pytest.mark.notebook
@pytest.mark.skipif("CRS_LAB" not in os.environ, reason="JupyterLab takes half a minute; set CRS_LAB=1 to drive it")
def test_a_dialogue_with_the_models_in_jupyterlab(page: Any, tmp_path: Path) -> None:  # noqa: F811
    """With the chat cell of `00_quickstart`."""
    notebook = nbformat.read(ROOT / "notebooks/00_quickstart.ipynb", as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    talk = next(cell for cell in notebook.cells if "talking(" in cell.source)
    parameters.source += "\nfrom crslib.config import QuickstartParameters\n"
    parameters.source += "parameters = QuickstartParameters.pick(globals())"
    imports = "from pathlib import Path\nfrom crslib.config import RunParameters\nfrom crslib.web import widgets\n"
    talk.source = talk.source.replace("widgets.talking(", f"{imports}widgets.talking(")
    talk.source = talk.source[:-1] + f", Path({str(tmp_path)!r}))"
    notebook.cells = [nbformat.v4.new_markdown_cell("# Talk"), parameters, talk]
    with serving(notebook, tmp_path) as address:
        run_all(page, address)
        page.get_by_label("You recommend").check()
        page.get_by_role("button", name="Begin").click()
        page.get_by_text("Your turn.").wait_for()
        words = page.get_by_label("What do you say?")
        words.fill("Have you seen Toy Story (1995)?")
        words.press("Enter")
        page.get_by_text("thinking").wait_for()
        page.locator(".status", has_text="Your turn.").or_(page.locator(".status", has_text="left")).wait_for()
        if page.get_by_role("button", name="Leave").count():
            page.get_by_role("button", name="Leave").click()
        page.get_by_text("What the user knew").click()
        page.locator("details").get_by_text("You enjoy").wait_for()
        assert page.locator(".jp-Cell").count() == 3  # JupyterLab took no key as a command
    (run,) = (tmp_path / "chats").iterdir()
    assert Run(run).read("turns")["role"].to_list()[-2:] == ["recommender", "user"]
