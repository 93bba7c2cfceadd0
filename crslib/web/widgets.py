"""The pages in JupyterLab as anywidgets: rating the pairs of a study, talking with a simulator, and looking at runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import polars as pl
import traitlets

from crslib.config import RunParameters, resolve
from crslib.judging.study import Study
from crslib.web import assets
from crslib.web.server import answer


def rating(study: Study, rater: str = "") -> Any:
    """A widget in which `rater` answers the questions of `study`. Empty: the page asks for a name."""

    class Rating(anywidget.AnyWidget):
        _esm = assets.module("element.js", "people.js")
        _css = assets.text("page.css", "people.css")
        rater = traitlets.Unicode().tag(sync=True)

    def on_message(widget: Any, message: dict[str, Any], _: Any) -> None:
        widget.send({"id": message["id"], **answer(study, message["action"], message["content"])})

    widget = Rating(rater=rater)
    widget.on_msg(on_message)
    return widget


def talking(parameters: RunParameters, reports: Path | None = None) -> Any:
    """A widget in which a person talks with a simulator. Models are opened when the person begins.

    Dialogues are stored below `reports`/chats, like those of `crs chat`. `close` ends the current one.
    """
    from crslib.web.talk import START, Talk  # loads llama.cpp, which raters need not wait for

    class Talking(anywidget.AnyWidget):
        _esm = assets.module("element.js", "chat.js")
        _css = assets.text("page.css", "chat.css")
        state = traitlets.Dict(dict(START)).tag(sync=True)

        def close(self) -> None:
            talk.do("leave", {})
            super().close()

    widget = Talking()
    talk = Talk(parameters, reports or resolve("reports"), lambda state: widget.set_trait("state", state))
    widget.state = talk.state
    widget.on_msg(lambda _, message, buffers: talk.do(message["action"], message["content"]))
    return widget


def looking(listed: Callable[[], pl.DataFrame], heads: Mapping[str, str] | None = None) -> Any:
    """A widget that shows the dialogues of all runs, as `crs look` does. Arguments are those of `archive.Archive`."""
    from crslib.web.archive import Archive

    archive = Archive(listed, heads)

    class Looking(anywidget.AnyWidget):
        _esm = assets.module("element.js", "viewer.js")
        _css = assets.text("page.css", "viewer.css")

    def on_message(widget: Any, message: dict[str, Any], _: Any) -> None:
        widget.send({"id": message["id"], "reply": archive.answer(message["action"], message["content"])})

    widget = Looking()
    widget.on_msg(on_message)
    return widget
