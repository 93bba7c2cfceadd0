"""The page for talking in a real browser, bound to a dialogue whose other party is a function."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crslib.config import RunParameters
from crslib.conversation import Ending
from crslib.errors import CrsError
from crslib.people import pages, talking
from crslib.people.talking import Talk
from crslib.store import Run
from tests.people_runs import SCRIPT
from tests.test_people_browser import browser, page  # noqa: F401  fixtures

BOUND = """
const onState = (show) => {
  let last = "";
  const timer = setInterval(async () => {
    const state = await heldState();
    if (JSON.stringify(state) !== last) show(state);
    last = JSON.stringify(state);
  }, 20);
  return () => clearInterval(timer);
};
mount(document.querySelector("main"), onState, (action, content) => act(action, content));
"""


def answers(
    role: str, parameters: RunParameters, run: Run, ask: Callable, tell: Callable, profile_id: str, begin: Callable
) -> Ending:
    """The other answers each utterance with markup and leaves after the third."""
    if profile_id == "nobody":
        raise CrsError("there is no profile 'nobody' among 4")
    begin()
    for _ in range(3):
        if (text := ask()) is None:
            return Ending(f"The {role} left.", SCRIPT, "drama movie", ["(Heat (1995): seen)"])
        tell(role, text)
        tell("recommender" if role == "user" else "user", f"{SCRIPT} [[Heat (1995)]]")
    return Ending("The user left.", SCRIPT, "drama movie", [])


@pytest.fixture
def shown(page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:  # noqa: F811
    monkeypatch.setattr(talking, "converse", answers)
    talk = Talk(RunParameters(), tmp_path)
    page.expose_function("heldState", lambda: talk.state)
    page.expose_function("act", talk.do)
    script, style = pages.module("element.js", "chat.js"), pages.text("page.css", "chat.css")
    page.set_content(
        f'<!doctype html><html lang="en"><title>Talk</title><style>{style}</style>'
        f'<body class="crs-page"><main></main><script type="module">{script}{BOUND}</script>'
    )
    yield page
    talk.close()


def test_a_talk_by_keyboard_in_both_roles(shown: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    expect = pytest.importorskip("playwright.sync_api").expect
    status, keys = shown.locator(".status"), shown.keyboard
    shown.get_by_role("button", name="Begin").wait_for()
    expect(shown.get_by_label("Who is it?")).to_be_hidden()
    found = [axe.Axe().run(shown)]
    keys.press("Tab")
    keys.press("ArrowDown")  # from user to recommender
    keys.press("Tab")
    keys.type("nobody")
    keys.press("Enter")
    expect(status).to_have_text("there is no profile 'nobody' among 4")
    assert shown.get_by_label("Who is it?").input_value() == "nobody"
    shown.get_by_label("Who is it?").fill("")
    keys.press("Enter")
    expect(status).to_have_text("Your turn.")
    assert shown.evaluate("document.activeElement.tagName") == "TEXTAREA"
    keys.press("Enter")  # nothing to say
    keys.type(SCRIPT)
    keys.press("Shift+Enter")
    keys.type("and a second line")
    keys.press("Enter")
    expect(shown.locator(".talk li")).to_have_count(2)
    assert shown.locator(".talk li .said").all_text_contents() == [
        f"{SCRIPT}\nand a second line",
        f"{SCRIPT} Heat (1995)",
    ]
    assert shown.locator(".talk li.mine .who").all_text_contents() == ["You"]
    assert shown.locator(".talk b").all_text_contents() == ["Heat (1995)"]
    assert shown.get_by_text("drama movie").count() == 0  # what is private is not in the page yet
    found.append(axe.Axe().run(shown))
    shown.get_by_role("button", name="I go").click()
    expect(status).to_have_text("The recommender left.")
    assert not shown.get_by_text("drama movie").is_visible()
    assert shown.evaluate("document.activeElement.textContent") == "Talk again"
    keys.press("Shift+Tab")
    keys.press("Enter")  # unfolds
    assert shown.locator("dd").all_text_contents() == [SCRIPT, "drama movie", "(Heat (1995): seen)"]
    assert shown.get_by_text("drama movie").is_visible()
    found.append(axe.Axe().run(shown))
    shown.get_by_role("button", name="Talk again").click()
    shown.get_by_label("You look for a film").check()
    shown.get_by_role("button", name="Begin").click()
    for number in range(3):  # the other leaves after that
        expect(shown.locator(".talk li")).to_have_count(2 * number)
        expect(status).to_have_text("Your turn.")
        keys.type("Hello")
        shown.get_by_role("button", name="Say it").click()
        shown.get_by_label("What do you say?").focus() if number < 2 else None
    expect(status).to_have_text("The user left.")
    shown.get_by_text("held nothing back").wait_for()
    shown.set_viewport_size({"width": 420, "height": 700})
    found.append(axe.Axe().run(shown))
    violations = [violation for result in found for violation in result.response["violations"]]
    assert [v["id"] for v in violations if v["impact"] in ("serious", "critical")] == []
    assert shown.title() == "Talk"
    assert shown.locator("main script, main img").count() == 0
