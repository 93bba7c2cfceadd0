"""How well `Catalog.spot` finds titles that nobody put in brackets: human mentions, retyped as people would type them.

ReDial's people picked films from a list, so every link is known; here the brackets go and the title is written anew.
What it does not know: how people really type. A title that somebody typed beside the links without linking it counts
as a false alarm, though it may be right; `unlinked` draws such finds for a person to judge.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from crslib import schemas
from crslib.data.catalog import Catalog
from crslib.data.corpora import Dialogue
from crslib.data.titles import MIN_FUZZY_LENGTH, split_year, title_key
from crslib.dialogue import utterances as dialogue_utterances
from crslib.identity import derive_seed

Words = Callable[[str, str], str]  # a mention's name and where it stands -> what is typed instead


def _title(name: str, _where: str) -> str:
    return split_year(name)[0]


def _bare_year(name: str, _where: str) -> str:
    title, year = split_year(name)
    return title if year is None else f"{title} {year}"


def _slip(name: str, where: str) -> str:
    """The title with one letter left out, doubled, changed or swapped with the next, if it is long."""
    title = split_year(name)[0]
    letters = [i for i, letter in enumerate(title[:-1]) if letter.isalpha() and title[i + 1].isalpha()]
    if len(title_key(title)) < MIN_FUZZY_LENGTH or not letters:
        return title
    at = letters[derive_seed(0, where, "letter") % len(letters)]
    before, one, other, after = title[:at], title[at], title[at + 1], title[at + 2 :]
    changed = "abcdefghijklmnopqrstuvwxyz"[derive_seed(0, where, "changed") % 26]
    slips = (other, one + one + other, changed + other, other + one)
    return before + slips[derive_seed(0, where, "slip") % len(slips)] + after


VARIANTS: Mapping[str, Words] = {
    "title": _title,
    "title (year)": lambda name, _where: name,
    "title year": _bare_year,
    "lower case": _title,  # and so is all that is said around it
    "one slip": _slip,
    "mentions cut out": lambda _name, _where: "",
}


def corpus_items(names: Mapping[str, str], counted: Sequence[Dialogue]) -> pl.DataFrame:
    """Table `items` of a corpus's own catalogue: `names` maps item ids to `Title (Year)`; `n_ratings` is the number of
    mentions in the (training) dialogues `counted`.
    """
    mentioned = [mention.item_id for dialogue in counted for turn in dialogue.turns for mention in turn.mentions]
    counts = dict(pl.Series("item_id", mentioned, dtype=pl.String).value_counts().iter_rows())
    rows = []
    for item_id, name in sorted(names.items()):
        title, year = split_year(name)
        unknown = {"genres": [], "directors": [], "cast": [], "imdb_id": None, "mean_rating": None}
        rows.append({"item_id": item_id, "title": title, "year": year, "n_ratings": counts.get(item_id, 0)} | unknown)
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["items"]))


def measure(dialogues: Sequence[Dialogue], catalog: Catalog) -> pl.DataFrame:
    """One row per variant of writing: (variant, utterances, mentions, right, wrong, elsewhere, precision, recall,
    elsewhere_per_1000).

    `mentions`: those whose name the catalogue knows (`find`), the truth. `right` and `wrong` count the finds that touch
    a mention, by item; `elsewhere` those that touch none. Precision is right / (right + wrong), null without finds.
    """
    return pl.DataFrame(
        [_measured(variant, words, dialogues, catalog) for variant, words in VARIANTS.items()],
        schema={
            "variant": pl.String,
            **dict.fromkeys(("utterances", "mentions", "right", "wrong", "elsewhere"), pl.Int64),
            **dict.fromkeys(("precision", "recall", "elsewhere_per_1000"), pl.Float64),
        },
    )


def _measured(variant: str, words: Words, dialogues: Sequence[Dialogue], catalog: Catalog) -> dict[str, Any]:
    utterances = mentions = right = wrong = elsewhere = 0
    for dialogue in dialogues:
        for number, turn in enumerate(dialogue.turns):
            text, truth = _typed(turn.text, words, f"{dialogue.dialogue_id}.{number}", catalog)
            if variant == "lower case":
                text = _lower(text)
            utterances += 1
            mentions += sum(item_id is not None for item_id, _, _ in truth)
            for row in catalog.spot(text):
                here = [item_id for item_id, start, end in truth if start < row["end"] and row["start"] < end]
                right += row["item_id"] in here
                wrong += bool(here) and row["item_id"] not in here
                elsewhere += not here
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


def _typed(text: str, words: Words, where: str, catalog: Catalog) -> tuple[str, list[tuple[str | None, int, int]]]:
    """An utterance with its mentions typed anew, and what they are: (item id, start, end)."""
    typed, seen = "", 0
    truth = []
    for number, (name, start, end) in enumerate(dialogue_utterances.mentions(text)):
        typed += text[seen:start]
        said = words(name, f"{where}.{number}")
        if said:
            truth.append((catalog.find(name), len(typed), len(typed) + len(said)))
        else:
            typed += "|"  # the words around the gap stay apart
        typed += said
        seen = end
    return typed + text[seen:], truth


def _lower(text: str) -> str:
    """`text` in lower case, letter for letter: a few capitals outside English would become two characters."""
    return "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)


def unlinked(dialogues: Sequence[Dialogue], catalog: Catalog, sample: int, seed: int = 0) -> pl.DataFrame:
    """At most `sample` of the titles that people typed without linking them: (dialogue_id, turn, item_id, said,
    before, after), in a seeded order, to judge by hand. The texts are the corpus's: they belong into no repository.
    """
    rows = [
        {
            "dialogue_id": dialogue.dialogue_id,
            "turn": number,
            "item_id": row["item_id"],
            "said": row["title"],
            "before": turn.text[max(0, row["start"] - 60) : row["start"]],
            "after": turn.text[row["end"] : row["end"] + 60],
        }
        for dialogue in dialogues
        for number, turn in enumerate(dialogue.turns)
        for row in catalog.spot(turn.text)
    ]
    rows.sort(key=lambda row: derive_seed(seed, row["dialogue_id"], row["turn"], row["item_id"], row["before"]))
    schema = {
        "dialogue_id": pl.String,
        "turn": pl.Int32,
        **dict.fromkeys(("item_id", "said", "before", "after"), pl.String),
    }
    return pl.DataFrame(rows[:sample], schema=schema)


def formatted(measured: pl.DataFrame) -> str:
    """The rows of `measure` as lines of text for a terminal."""
    lines = [f"{'typed as':<18}{'mentions':>9}{'precision':>11}{'recall':>8}{'elsewhere per 1,000':>21}"]
    for row in measured.iter_rows(named=True):
        shares = [format(row[name], ".3f") if row[name] is not None else "–" for name in ("precision", "recall")]
        often = "–" if row["elsewhere_per_1000"] is None else format(row["elsewhere_per_1000"], ".1f")
        lines.append(f"{row['variant']:<18}{row['mentions']:>9,}{shares[0]:>11}{shares[1]:>8}{often:>21}")
    return "\n".join(lines)
