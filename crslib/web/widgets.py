"""The pages inside JupyterLab: modules and styles of `page/` as anywidgets, on a study's votes and on a dialogue."""

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from crslib.config import RunParameters, resolve
from crslib.judging.study import Study
from crslib.web import assets
from crslib.web.server import answer


def rating(study: Study, rater: str = "") -> Any:
    """A widget on which `rater` (empty: who types a name) answers the questions of `study`."""

    class Rating(anywidget.AnyWidget):
        _esm = assets.module("element.js", "people.js")
        _css = assets.text("page.css", "people.css")
        rater = traitlets.Unicode().tag(sync=True)

    def hear(widget: Any, message: dict[str, Any], _: Any) -> None:
        widget.send({"id": message["id"], **answer(study, message["action"], message["content"])})

    shown = Rating(rater=rater)
    shown.on_msg(hear)
    return shown


def talking(parameters: RunParameters, reports: Path | None = None) -> Any:
    """A widget on which a person talks with a simulator; nothing is opened before they begin.

    Dialogues are kept below `reports`/chats, as those of `crs chat` are. `close` ends one that is still going on.
    """
    from crslib.web.talk import (
        START,
        Talk,  # and with it llama.cpp, which raters need not wait for
    )

    class Talking(anywidget.AnyWidget):
        _esm = assets.module("element.js", "chat.js")
        _css = assets.text("page.css", "chat.css")
        state = traitlets.Dict(dict(START)).tag(sync=True)

        def close(self) -> None:
            talk.do("leave", {})
            super().close()

    shown = Talking()
    talk = Talk(parameters, reports or resolve("reports"), lambda state: shown.set_trait("state", state))
    shown.on_msg(lambda widget, message, buffers: talk.do(message["action"], message["content"]))
    return shown
