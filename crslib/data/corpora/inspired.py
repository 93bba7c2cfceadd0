"""INSPIRED (Hayati et al., EMNLP 2020) as `Dialogue`s: 1,001 sociable dialogues with a recommender, 801/100/100.

Reads `train.tsv`, `dev.tsv` and `test.tsv` of the official repository: a line per message, with the movies that an
automatic annotation found in it. Those are noisy ("Mine is …" is not *Mine*), so a movie counts as mentioned where the
words of its title are in the text; a title of one word only with a capital and within a sentence. Its item id is its
name. There are no forms: what was seen and liked is not known, and neither are persons, so everybody talks once.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from crslib.data.corpora.base import Dialogue, Item, first_speakers, merged
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError

Split = Literal["train", "dev", "test"]

_ROLES = {"SEEKER": USER, "RECOMMENDER": RECOMMENDER}
_NEEDED = ("dialog_id", "speaker", "text", "movies")
_YEAR = re.compile(r"^(.*\S)\s*\((\d{4})\)$")


def read(path: Path, split: Split) -> list[Dialogue]:
    """The dialogues of one split, in file order. `path`: the folder of the three files, or the split's own file.

    Raises `CrsError` when the file is missing, of another split, or not INSPIRED's.
    """
    file = path / f"{split}.tsv" if path.is_dir() else path
    if file.name != f"{split}.tsv":
        raise CrsError(f"{file} is not INSPIRED's {split}.tsv; give that file or the folder that holds it")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CrsError(f"cannot read {file} ({error}); fetch INSPIRED again") from None
    header = lines[0].lstrip("\ufeff").split("\t") if lines else []
    if missing := [name for name in _NEEDED if name not in header]:
        raise CrsError(f"{file} has no column {missing[0]}; give the official {split}.tsv of INSPIRED")
    columns = [header.index(name) for name in _NEEDED]
    said: dict[str, list[tuple[str, str, list[str]]]] = {}
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(header) or cells[columns[1]] not in _ROLES:
            raise CrsError(f"{file} line {number} is not a message of INSPIRED; fetch INSPIRED again")
        dialogue_id, speaker, text, movies = (cells[column] for column in columns)
        said.setdefault(dialogue_id, []).append((_ROLES[speaker], *_utterance(text, movies.split(";"))))
    return [_dialogue(dialogue_id.removesuffix(".pkl"), messages) for dialogue_id, messages in said.items()]


def _dialogue(dialogue_id: str, messages: Sequence[tuple[str, str, list[str]]]) -> Dialogue:
    turns = merged(messages)
    items = {name: Item(name, role == RECOMMENDER, None, None, "") for name, role in first_speakers(turns).items()}
    return Dialogue(dialogue_id, f"{dialogue_id}:seeker", f"{dialogue_id}:recommender", turns, items)


def _utterance(raw: str, movies: Sequence[str]) -> tuple[str, list[str]]:
    """The text in format v1 and the names of the movies in it, in its order."""
    text = utterances.one_line(raw.replace("QUOTATION_MARK", '"')).replace("[[", "").replace("]]", "")
    spans: list[tuple[int, int, str]] = []
    for movie in sorted(
        {utterances.one_line(movie) for movie in movies} - {""}, key=lambda movie: (-len(movie), movie)
    ):
        dated = _YEAR.match(movie)
        for start, end in _spans(text, dated[1] if dated else movie, dated[2] if dated else ""):
            if all(end <= other_start or other_end <= start for other_start, other_end, _ in spans):
                spans.append((start, end, utterances.item_name(dated[1], int(dated[2])) if dated else movie))
    for start, end, name in sorted(spans, reverse=True):
        text = text[:start] + utterances.mention(name) + text[end:]
    return text, [name for _, _, name in sorted(spans)]


def _spans(text: str, title: str, year: str) -> list[tuple[int, int]]:
    words = re.findall(r"\w+", title)
    if not words:
        return []
    pattern = r"(?<!\w)" + r'[^\w.!?"]+'.join(map(re.escape, words)) + rf"(?!\w)(?:\s*\(?{year}\)?(?!\w))?"
    found = [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]
    return found if len(words) > 1 else [span for span in found if _is_name(text, *span)]


def _is_name(text: str, start: int, end: int) -> bool:
    """Whether a single word is written as a name: with a capital that no sentence's beginning calls for, or alone."""
    alone = not re.search(r"\w", text[:start] + text[end:])
    begins = not re.search(r"[\w,;:\"'(-]\s*$", text[:start])
    return alone or (text[start].isupper() and not begins)
