"""The files of `page/`, one by one or joined where only one text is taken, and utterances as scripts take them."""

import re
from pathlib import Path

PAGE = Path(__file__).parent / "page"
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./[\w.]+";\n', re.M)
_EXPORT = re.compile(r"^export (?!default\b)", re.M)


def text(*names: str) -> str:
    """The files `names` one after the other."""
    return "".join((PAGE / name).read_text(encoding="utf-8") for name in names)


def module(*names: str) -> str:
    """One ES module (anywidget takes no more) of scripts `names`, each behind those that it imports from.

    Their top-level names share one scope; the default export alone stays exported.
    """
    return _EXPORT.sub("", _IMPORT.sub("", text(*names)))
