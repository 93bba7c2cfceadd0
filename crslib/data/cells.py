"""What the cells of item files say: kinds, names, years, titles with a series. Knows nothing of files."""

import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from crslib.dialogue import utterances

# How files say that a cell has no value. "NA" counts in capitals only: Na is a name.
_PLACEHOLDER = re.compile(r"[-–—.?_*#]+|\\N|NA|N\.A\.?|#N/A|(?i:n/a|null|none|nan)")
_NO_PERSON = re.compile(r"\d+(st|nd|rd|th) |list of |art director|dialogue writer")
_ROLE = re.compile(
    r"\s*\((?:[^()]*\b)?(?:author|artist|director|illustrator|translator|editor|narrator|contributor|writer|creator"
    r"|introduction|foreword|afterword|photographer|composer|performer|actor|actress|producer)\b[^()]*\)",
    re.IGNORECASE,
)
_FORMAT = re.compile(r"\s*,?\s*Format:.*$", re.DOTALL)  # Amazon's field `store`
_SERIES = re.compile(r"(.*\S)\s*\(([^()#]*[^()#,\s]),?\s*#\s*[^()]+\)")  # Goodreads: Salt (The Salt Games, #1)
_ENTITY = re.compile(
    r"&(?:amp|quot|lt|gt|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5}|[a-zA-Z]{2,8}(?:acute|grave|uml|circ|tilde|cedil));"
)
MAX_VALUES = 5  # of a list with counts, such as shelves
_NOTHING: Mapping[str, str] = {}


def is_placeholder(cell: str | None) -> bool:
    """Whether a cell, or one of several values in it, stands for no value: `-`, `\\N`, `N/A`, `null`."""
    return cell is not None and _PLACEHOLDER.fullmatch(cell.strip()) is not None


def values(cell: str | None) -> list[str]:
    """The values in a cell as they are: of a JSON list, else separated by `|`, `;` or `,` (the first of them that it
    has). Of a list of records their names, the first `MAX_VALUES`."""
    if not cell:
        return []
    if cell.startswith("[") and cell.endswith("]"):
        try:
            listed = json.loads(cell)
        except (ValueError, RecursionError):
            return values(cell[1:-1])
        if any(isinstance(each, dict) for each in listed):
            listed = [each.get("name") for each in listed if isinstance(each, dict)][:MAX_VALUES]
        return [unescaped(str(each)) for each in listed if each is not None and not isinstance(each, list)]
    cell = unescaped(cell)
    separator = next((sign for sign in "|;," if sign in cell), "|")
    return cell.split(separator)


def unescaped(text: str) -> str:
    """`text` without character references of HTML: `Tom &amp; Jerry` is `Tom & Jerry`."""
    return html.unescape(text) if _ENTITY.search(text) else text


def split_kinds(cell: str | None, called: Mapping[str, str] = _NOTHING) -> list[str]:
    """Kinds as sorted lower-case words: `Poetry; Thriller` is `[poetry, thriller]`. A comma separates too.

    `called`: of `domain.ItemFiles`: with children → family `Action|Children` is `[action, family]`.
    """
    parts = (part for value in values(cell) for part in value.split(","))
    words = (utterances.one_line(part).lower() for part in parts if not is_placeholder(part))
    return sorted({kind for word in words if word and (kind := called.get(word, word))})


def split_names(cell: str | None) -> list[str]:
    """The names of persons in a cell, in order: separated by `|` if it has one, else by `;` or commas, where "Jr." and
    "III" belong to the name before. Roles in parentheses are cut off; titles of nobility, list pages and some other
    jobs are left out."""
    if not cell:
        return []
    names: list[str] = []
    for name in (_ROLE.sub("", part).strip() for part in values(_FORMAT.sub("", cell))):
        if names and re.fullmatch(r"[JS]r\.?|I{2,3}|IV", name):
            names[-1] += f", {name}" if name[0] in "JS" else f" {name}"
        elif name and not is_placeholder(name) and not _NO_PERSON.match(name):
            names.append(utterances.one_line(name))
    return list(dict.fromkeys(names))


def parse_year(cell: str) -> tuple[int | None, bool]:
    """The year in a cell (a year or a date), and whether the cell is understood.

    None where the year is outside 1000 to 2999, which is all that `Title (Year)` can say. Two digits are not
    understood: 95 may mean 1995.
    """
    if re.fullmatch(r"[12]\d{3}(\.0+)?", cell):
        return int(float(cell)), True
    if dated := re.fullmatch(r"([12]\d{3})-\d\d(?:-\d\d.*)?|[A-Z][a-z]{2,8}\.? \d{1,2}, ([12]\d{3})", cell):
        return int(dated[1] or dated[2]), True
    return None, re.fullmatch(r"-?\d+(\.\d+)?", cell) is not None and not re.fullmatch(r"\d\d", cell)


def split_series(title: str) -> tuple[str, str | None]:
    """The title and the series of `Salt (The Salt Games, #1)`, without its number; None without one."""
    matched = _SERIES.fullmatch(title)
    return (matched[1], utterances.one_line(matched[2])) if matched else (title, None)


def n_placeholders(cells: Sequence[str | None]) -> int:
    """How many of the cells have a value that stands for none."""
    return sum(n for cell, n in Counter(cells).items() if cell and any(map(is_placeholder, re.split(r"[|;,]", cell))))
