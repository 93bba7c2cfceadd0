"""How well `Catalog.spot` finds titles without brackets: the mentions of human dialogues, typed in several ways.

The writers of ReDial picked films from a list, so the item of every mention is known; here its brackets are removed and
its title is written in another way. What it does not know: how people really type. A title that a writer typed without
picking it counts as `elsewhere`, although it may be right.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from crslib import schemas
from crslib.data.catalog import Catalog, item_row
from crslib.data.corpora import Dialogue
from crslib.data.titles import MIN_FUZZY_LENGTH, split_year, title_key
from crslib.dialogue import utterances as dialogue_utterances
from crslib.identity import derive_seed

Retype = Callable[[str, str], str]  # name and position of a mention -> the text that replaces it


def _title(name: str, _position: str) -> str:
    return split_year(name)[0]


def _bare_year(name: str, _position: str) -> str:
    title, year = split_year(name)
    return title if year is None else f"{title} {year}"


def _misspelt(name: str, position: str) -> str:
    """The title, if it is long with one typing error: a letter left out, doubled, changed or swapped with the next."""
    title = split_year(name)[0]
    letters = [i for i, letter in enumerate(title[:-1]) if letter.isalpha() and title[i + 1].isalpha()]
    if len(title_key(title)) < MIN_FUZZY_LENGTH or not letters:
        return title
    at = letters[derive_seed(0, position, "letter") % len(letters)]
    before, one, other, after = title[:at], title[at], title[at + 1], title[at + 2 :]
    changed = "abcdefghijklmnopqrstuvwxyz"[derive_seed(0, position, "changed") % 26]
    errors = (other, one + one + other, changed + other, other + one)
    return before + errors[derive_seed(0, position, "slip") % len(errors)] + after


VARIANTS: Mapping[str, Retype] = {
    "title": _title,
    "title (year)": lambda name, _position: name,
    "title year": _bare_year,
    "lower case": _title,  # and the whole utterance in lower case
    "one slip": _misspelt,
    "mentions cut out": lambda _name, _position: "",
}


def corpus_items(names: Mapping[str, str], counted: Sequence[Dialogue]) -> pl.DataFrame:
    """Table `items` of a corpus's catalogue: `names` maps item ids to `Title (Year)`; `n_ratings` is the number of
    mentions in the (training) dialogues `counted`.
    """
    mentioned = [mention.item_id for dialogue in counted for turn in dialogue.turns for mention in turn.mentions]
    counts = dict(pl.Series("item_id", mentioned, dtype=pl.String).value_counts().iter_rows())
    rows = []
    for item_id, name in sorted(names.items()):
        title, year = split_year(name)
        rows.append(item_row(item_id, title, year, n_ratings=counts.get(item_id, 0)))
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["items"]))


def measure(dialogues: Sequence[Dialogue], catalog: Catalog) -> pl.DataFrame:
    """One row per way of typing: (variant, utterances, mentions, right, wrong, elsewhere, precision, recall,
    elsewhere_per_1000).

    `mentions`: those whose name the catalogue knows (`find`). `right` and `wrong` count the spotted titles that overlap
    a mention, by whether the item is the same; `elsewhere` those that overlap none. Precision is right / (right +
    wrong), null where both are 0.
    """
    return pl.DataFrame(
        [_measured(variant, retype, dialogues, catalog) for variant, retype in VARIANTS.items()],
        schema={
            "variant": pl.String,
            **dict.fromkeys(("utterances", "mentions", "right", "wrong", "elsewhere"), pl.Int64),
            **dict.fromkeys(("precision", "recall", "elsewhere_per_1000"), pl.Float64),
        },
    )


def _measured(variant: str, retype: Retype, dialogues: Sequence[Dialogue], catalog: Catalog) -> dict[str, Any]:
    utterances = mentions = right = wrong = elsewhere = 0
    for dialogue in dialogues:
        for number, turn in enumerate(dialogue.turns):
            text, truth = _typed(turn.text, retype, f"{dialogue.dialogue_id}.{number}", catalog)
            if variant == "lower case":
                text = _lower(text)
            utterances += 1
            mentions += sum(item_id is not None for item_id, _, _ in truth)
            for row in catalog.spot(text):
                overlapping = [item_id for item_id, start, end in truth if start < row["end"] and row["start"] < end]
                right += row["item_id"] in overlapping
                wrong += bool(overlapping) and row["item_id"] not in overlapping
                elsewhere += not overlapping
    return {
        "variant": variant,
        "utterances": utterances,
        "mentions": mentions,
        "right": right,
        "wrong": wrong,
        "elsewhere": elsewhere,
        "precision": right / (right + wrong) if right + wrong else None,
        "recall": right / mentions if mentions else None,
        "elsewhere_per_1000": 1000 * elsewhere / utterances if utterances else None,
    }


def _typed(text: str, retype: Retype, position: str, catalog: Catalog) -> tuple[str, list[tuple[str | None, int, int]]]:
    """An utterance with its mentions retyped, and these mentions: (item id, start, end)."""
    typed, *others = dialogue_utterances.between(text)
    truth = []
    for number, (name, _, _) in enumerate(dialogue_utterances.mentions(text)):
        title = retype(name, f"{position}.{number}")
        if title:
            truth.append((catalog.find(name), len(typed), len(typed) + len(title)))
        typed += (title or "|") + others[number]  # `|` separates the words around a gap
    return typed, truth


def _lower(text: str) -> str:
    """`text` in lower case, of the same length: the few letters whose lower case is two characters stay as they are."""
    return "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)


def formatted(measured: pl.DataFrame) -> str:
    """The rows of `measure` as lines of text for a terminal."""
    lines = [f"{'typed as':<18}{'mentions':>9}{'precision':>11}{'recall':>8}{'elsewhere per 1,000':>21}"]
    for row in measured.iter_rows(named=True):
        shares = [format(row[name], ".3f") if row[name] is not None else "–" for name in ("precision", "recall")]
        rate = "–" if row["elsewhere_per_1000"] is None else format(row["elsewhere_per_1000"], ".1f")
        lines.append(f"{row['variant']:<18}{row['mentions']:>9,}{shares[0]:>11}{shares[1]:>8}{rate:>21}")
    return "\n".join(lines)
