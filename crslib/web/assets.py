"""The files of `page/` as texts: several styles as one, several scripts as one module."""

import re
from pathlib import Path

PAGE = Path(__file__).parent / "page"
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./[\w.]+";\n', re.M)
_EXPORT = re.compile(r"^export (?!default\b)", re.M)


def text(*names: str) -> str:
    """The files `names` of `page/`, joined."""
    return "".join((PAGE / name).read_text(encoding="utf-8") for name in names)


def module(*names: str) -> str:
    """The scripts `names` as one ES module, because anywidget takes only one. Scripts that are imported come first.

    Their top-level names share one scope; only the default export stays exported.
    """
    return _EXPORT.sub("", _IMPORT.sub("", text(*names)))
