"""Files of dialogues as records, and the parts that their forms share: texts, names, roles, titles inside texts.

Lines end with `\\n` alone: texts hold other separators of lines.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from crslib.data.titles import is_distinct, split_year
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError

ROLES: Mapping[str, str] = {
    **dict.fromkeys(("user", "usr", "human", "customer", "seeker", "initiator", "simulator"), USER),
    **dict.fromkeys(("recommender", "agent", "assistant", "bot", "crs", "respondent", "system", "wizard"), RECOMMENDER),
}
"""Spellings of the two roles, in lower case."""
_DBPEDIA = re.compile(r"<?https?://dbpedia\.org/resource/(?P<name>[^>]+)>?")
_FILM = re.compile(r"_\((?:(?P<year>\d{4})_)?film(?:_series)?\)$")
Record = Mapping[str, Any]
T = TypeVar("T")


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def content_of(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark. Raises `CrsError` when it is none."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except IsADirectoryError:
        raise CrsError(f"{path} is a folder; give one file of dialogues") from None
    except OSError as error:
        raise CrsError(f"cannot read {path}: {error.strerror}; give a file of dialogues") from None
    except UnicodeDecodeError as error:
        raise CrsError(f"{path} is not UTF-8 at byte {error.start}; save it in UTF-8") from None


def json_records(path: Path, inside: str = "") -> list[Any]:
    """The records of a file: of a JSON list, of one JSON mapping (of its list `inside`, where it has that), or of JSON
    lines. Raises `CrsError` for anything else."""
    content = content_of(path)
    try:
        whole = json.loads(content)
    except ValueError:
        return _json_lines(path, content)
    except RecursionError:
        raise CrsError(f"{path} is nested too deeply to be dialogues; give JSON or JSON lines") from None
    records = whole.get(inside, [whole]) if isinstance(whole, dict) else whole
    return records if isinstance(records, list) else [records]


def _json_lines(path: Path, content: str) -> list[Any]:
    records = []
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                reason = str(error).split(":")[0].lower()
                raise CrsError(f"{path} line {number} is not JSON ({reason}); give JSON or JSON lines") from None
    return records


def each(path: Path, form: str, shape: str, records: Iterable[Any], read: Callable[[int, Any], T]) -> list[T]:
    """`read` of the place (from 1) and the content of each record. Raises `CrsError` with file, place and the `shape`
    that a record of `form` has."""
    results = []
    for place, record in enumerate(records, start=1):
        try:
            results.append(read(place, record))
        except CrsError as error:
            raise CrsError(f"{path}, dialogue {place}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            lack = f"lacks {error}" if isinstance(error, KeyError) else "has another shape"
            raise CrsError(f"{path}, dialogue {place} {lack}; --as {form} reads {shape}") from None
    return results


# ── parts of a record ───────────────────────────────────────────────────────────────────────────────────────────────


def text_of(value: Any) -> str:
    """A text, without halves of surrogate pairs, which no file can hold. Raises `TypeError` for anything else."""
    if not isinstance(value, str):
        raise TypeError
    return value.encode("utf-8", "replace").decode("utf-8")


def words_of(value: Any) -> str:
    """What somebody said, on one line and without double brackets, which are for titles."""
    return utterances.one_line(text_of(value)).replace("[[", "").replace("]]", "")


def name_of(value: Any, place: int) -> str:
    """An id as text; without one the dialogue's place in the file, or nothing for place 0."""
    if value is None or value == "":
        return f"{place:04d}" if place else ""
    return utterances.one_line(text_of(value if isinstance(value, str) else str(value)))


def title_of(value: Any) -> str:
    """A title as a mention has it, `Title (Year)` or `Title`; empty for an empty one."""
    return utterances.mention(utterances.item_name(*split_year(utterances.one_line(text_of(value)))))[2:-2].strip()


def resource_title(name: str) -> str:
    """A title as it is, or that in an address of DBpedia."""
    if resource := _DBPEDIA.fullmatch(name):
        film = _FILM.search(resource["name"])
        title = _FILM.sub("", resource["name"]).replace("_", " ")
        return f"{title} ({film['year']})" if film and film["year"] else title
    return name


def role_of(name: Any) -> str:
    """`user` or `recommender`. Raises `CrsError` for a name that is in no spelling of `ROLES`."""
    role = ROLES.get(name.strip().casefold()) if isinstance(name, str) else None
    if role is None:
        raise CrsError(f"role {name!r} is unknown; write user or recommender (also {', '.join(sorted(ROLES))})")
    return role


def mark(text: str, titles: Iterable[str], *, certain: bool = True) -> str:
    """`text` with `titles` in `[[…]]`: each where it stands as a word after the one before it, else where it stands
    first, and where it is not in the text with its year, without it. A title that is not in the text, or in brackets
    already, marks nothing.

    `certain`: the file says that the text names these titles, in any case. Else a title that could be an ordinary word
    must have its capitals.
    """
    taken = [(start, end) for _, start, end in utterances.mentions(text)]
    spans: list[tuple[int, int, str]] = []
    after = 0
    for title in map(str.strip, titles):
        bare = split_year(title)[0]
        any_case = certain or is_distinct(bare)
        free = _free(text, title, taken, any_case) or _free(text, bare, taken, any_case)
        if free:
            start, end = next((span for span in free if span[0] >= after), free[0])
            spans.append((start, end, utterances.mention(title)))
            taken.append((start, end))
            after = end
    return utterances.replace_spans(text, spans)


def _free(text: str, words: str, taken: Iterable[tuple[int, int]], any_case: bool) -> list[tuple[int, int]]:
    """Where `words` stand in `text` as whole words outside the spans `taken`."""
    if not words or words.casefold() not in text.casefold():
        return []
    case = re.IGNORECASE if any_case else re.NOFLAG
    spans = [at.span() for at in re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", text, case)]
    return [span for span in spans if all(span[1] <= start or end <= span[0] for start, end in taken)]
