"""The rating page inside JupyterLab: the module and style of `page/` as an anywidget. Votes go to the same study."""

from typing import Any

from crslib.errors import CrsError
from crslib.people import pages
from crslib.people.server import answer
from crslib.people.votes import Study


def rating(study: Study, rater: str = "") -> Any:
    """A widget on which `rater` (empty: who types a name) answers the questions of `study`.

    Raises `CrsError` when anywidget is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ImportError:
        raise CrsError("the widget needs anywidget; pip install 'crslib[people]', or use `crs people serve`") from None

    class Rating(anywidget.AnyWidget):
        _esm = pages.module("element.js", "people.js")
        _css = pages.text("page.css", "people.css")
        rater = traitlets.Unicode().tag(sync=True)

    def hear(widget: Any, message: dict[str, Any], _: Any) -> None:
        widget.send({"id": message["id"], **answer(study, message["action"], message["content"])})

    shown = Rating(rater=rater)
    shown.on_msg(hear)
    return shown
