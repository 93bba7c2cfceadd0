"""INSPIRED (Hayati et al., INSPIRED: Toward Sociable Recommendation Dialog Systems, EMNLP 2020): people recommend films
to each other. No licence is stated with the data.

Reads a TSV file of `data/dialog_data`: a row per utterance with at least `dialog_id`, `speaker` (RECOMMENDER or SEEKER)
and `text`; `movies` holds the titles that a program found in the text, `Title (Year)`, some of which are none. A column
says whether the seeker accepted the recommendation, but not of which film: it is not read.

Files that a spreadsheet saved again are read too: with a byte order mark, CRLF, and quoted fields that hold tabs. Lines
end with `\\n` alone, because texts hold other separators of lines.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from crslib.data.corpora.base import Contents, conversation
from crslib.data.corpora.reading import content_of, mark, name_of, role_of, title_of, words_of
from crslib.dialogue import utterances
from crslib.errors import CrsError

_NEEDED = ("dialog_id", "speaker", "text")
_BETWEEN = re.compile(r"(?<=\))\s*[;,|]\s*")  # titles, which end with their year
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def read(path: Path) -> Contents:
    """The dialogues in file order. Raises `CrsError` with the line that is not of INSPIRED."""
    lines = [line.removesuffix("\r") for line in content_of(path).split("\n")]
    header = _fields(lines[0], lines[0].count("\t") + 1)
    if lacking := [name for name in _NEEDED if name not in header]:
        raise CrsError(f"{path} has no column {lacking[0]}; --as inspired reads TSV with {', '.join(_NEEDED)}")
    left_out: Counter[str] = Counter()
    messages: list[tuple[str, str, str]] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        fields = _fields(line, len(header))
        row = dict(zip(header, fields, strict=False))
        try:
            if len(fields) != len(header):
                raise CrsError(f"{len(fields)} fields where the header has {len(header)}")
            text = words_of(row["text"].replace("QUOTATION_MARK", '"'))
            titles = [*filter(None, map(title_of, _BETWEEN.split(row.get("movies", ""))))]
            marked = mark(text, titles)
            left_out["left out, titles that are not in their text as they are spelt"] += len(titles) - len(
                utterances.mentions(marked)
            )
            messages.append((name_of(row["dialog_id"], 0), role_of(row["speaker"]), marked))
        except CrsError as error:
            raise CrsError(f"{path} line {number} is not a message of INSPIRED: {error}") from None
    dialogues = [
        conversation(dialogue_id, [(role, text) for _, role, text in talk])
        for dialogue_id, talk in groupby(messages, key=lambda message: message[0])
    ]
    return Contents(tuple(dialogues), True, left_out=left_out)


def _fields(line: str, n: int) -> Sequence[str]:
    """The fields of a line, quoted ones without their quotes. Where there are more than `n`, quoted ones hold tabs."""
    fields = line.split("\t")
    if len(fields) > n:
        return next(csv.reader([line.replace("\r", " ")], delimiter="\t"))
    return [quoted[1].replace('""', '"') if (quoted := _QUOTED.fullmatch(field)) else field for field in fields]
