"""A corpus of human dialogues as a folder of ours: `crs data import-dialogues` writes it, trainings and references read
it.

It holds the tables `conversations`, `utterances` and `answers` (`schemas`), `items`, the catalogue with the items that
only the corpus names, `source.json` (`data.source`) and `corpus.json` (`About`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from crslib import files, schemas, store
from crslib.data.catalog import Catalog
from crslib.data.corpora.base import Contents, Dialogue, Item, Mention, Turn
from crslib.data.corpora.linking import Titles, linked
from crslib.data.source import Source
from crslib.dialogue.domain import Domain, of_run
from crslib.errors import CrsError

TEST = "test"  # a part of a corpus that nothing is trained on
_N_EXAMPLES = 5  # of titles that are not in the catalogue


class About(BaseModel):
    """What a folder was made from: the name, SHA-256 and form of the file, the part of the corpus that it is (`train`,
    `validation`, `test`, or empty), and what was understood and left out, in `lines`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: str
    file: str
    sha256: str
    part: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """Human dialogues, table `items` of what they may name, where both come from, and what they are about."""

    dialogues: Sequence[Dialogue]
    items: pl.DataFrame
    source: Source
    about: About
    domain: Domain

    @property
    def credit(self) -> str:
        """The corpus, its part, its licence and its paper in words."""
        return self.source.credit + (f"; its {self.about.part} part" if self.about.part else "")


def made(contents: Contents, items: pl.DataFrame, titles: str, source: Source, about: About, domain: Domain) -> Corpus:
    """The corpus in `contents`, titles linked to the catalogue `items` (table `items`).

    `titles`: which titles are linked: `marked`, those that the file marks; `all`, also those that `Catalog.bracketed`
    finds; `auto`: all where the file does not mark them all; `own`: none, the dialogues have the catalogue's ids
    already. Raises `CrsError` for a file without dialogues and for two dialogues of one id.
    """
    if not any(one.turns for one in contents.dialogues):
        raise CrsError(f"{about.file} holds no dialogues about {domain.plural}; give a file with at least one")
    ids = [one.dialogue_id for one in contents.dialogues]
    if len(set(ids)) < len(ids):
        twice = next(one for place, one in enumerate(ids) if one in ids[:place])
        raise CrsError(f"{about.file} holds two dialogues with the id {twice!r}; give each its own")
    dialogues = [one for one in contents.dialogues if one.turns]
    if titles != "own":
        catalog = Catalog(items, domain)
        spot = items.height > 0 and (titles == "all" or (titles == "auto" and not contents.marked))
        dialogues = [linked(one, catalog, spot=spot) for one in dialogues]
    count = Titles.of(dialogues, frozenset(items["item_id"]))
    named = {item_id for one in dialogues for item_id in one.items}
    facts = contents.facts.filter(pl.col("item_id").is_in(named))
    left_out = dict(contents.left_out) | {"left out, dialogues without words": len(ids) - len(dialogues)}
    lines = (*_lines(dialogues, count), *_lacking(dialogues), *(_left_out(left_out)))
    return Corpus(dialogues, pl.concat([items, facts]), source, about.model_copy(update={"lines": lines}), domain)


def _lines(dialogues: Sequence[Dialogue], count: Titles) -> list[str]:
    lines = [
        f"{len(dialogues):,} dialogues, {sum(len(one.turns) for one in dialogues):,} turns",
        f"{count.titles:,} titles in {count.mentions:,} mentions; {count.linked_titles:,} of them "
        f"({count.linked_mentions:,} mentions) are items of the catalogue",
    ]
    if count.others:
        examples = ", ".join(count.others[:_N_EXAMPLES])
        lines.append(f"titles that are not in the catalogue: {len(count.others):,}, most often {examples}")
    return lines


def _lacking(dialogues: Sequence[Dialogue]) -> list[str]:
    """What the views of these dialogues do not hold, because the corpus does not say it."""
    items = [item for one in dialogues for item in one.items.values()]
    n_answers = sum(item.seen is not None or item.liked is not None for item in items)
    n_told = sum(bool(one.summary) for one in dialogues)
    n_targets = sum(bool(one.targets) for one in dialogues)
    persons = {one.user for one in dialogues}
    lines = [
        f"answers on what a seeker has seen or likes: {n_answers:,}"
        + ("" if n_answers else "; so views have no private notes, and no summary made from them"),
        f"dialogues that say who the seeker is: {n_told:,}"
        + ("" if n_told else "; so summaries come from the answers, and attributes from what is asked for"),
    ]
    if n_targets:
        lines.append(f"dialogues with an item to be found: {n_targets:,}; no view holds it before it is named")
    unknown = len(persons) == len(dialogues) > 1
    return [*lines, f"seekers: {len(persons):,}" + ("; each dialogue is another person's" if unknown else "")]


def _left_out(counted: Mapping[str, int]) -> list[str]:
    return [f"{what}: {n:,}" for what, n in counted.items() if n]


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(corpus: Corpus, folder: Path) -> None:
    """Writes the folder. Raises `CrsError` when it cannot be written."""
    for name, frame in _tables(corpus.dialogues).items():
        files.write_parquet(schemas.check(frame, name), folder / f"{name}.parquet")
    files.write_parquet(schemas.check(corpus.items, "items"), folder / "items.parquet")
    corpus.source.write(folder)
    corpus.domain.write(folder)
    with files.writing(folder / "corpus.json") as temporary:
        temporary.write_text(corpus.about.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> Corpus:
    """The corpus in a folder. Raises `CrsError` when it is none, or damaged."""
    path = folder / "corpus.json"
    try:
        about = About.model_validate_json(path.read_bytes())
    except OSError:
        raise CrsError(f"{folder} is no corpus; make one with `crs data import-dialogues FILE --to FOLDER`") from None
    except ValidationError:
        raise CrsError(f"{path} is damaged; import the dialogues again") from None
    tables = {
        name: store.read_parquet(folder / f"{name}.parquet", name)
        for name in ("conversations", "utterances", "answers", "items")
    }
    return Corpus(_dialogues(tables), tables["items"], Source.read(folder), about, of_run(store.Run(folder)))


def _tables(dialogues: Sequence[Dialogue]) -> dict[str, pl.DataFrame]:
    conversations, spoken, answers = [], [], []
    for one in dialogues:
        persons = {"user": one.user, "recommender": one.recommender}
        told = {"summary": one.summary, "attributes": one.attributes}
        targets = None if one.targets is None else list(one.targets)
        conversations.append({"dialogue_id": one.dialogue_id, **persons, **told, "targets": targets})
        for number, turn in enumerate(one.turns):
            items = [{"item_id": m.item_id, "title": m.name, "start": m.start, "end": m.end} for m in turn.mentions]
            said = {"role": turn.role, "text": turn.text, "items": items, "n_messages": turn.n_messages}
            spoken.append({"dialogue_id": one.dialogue_id, "turn": number, **said})
        for item_id, item in one.items.items():
            answer = asdict(item)
            answers.append({"dialogue_id": one.dialogue_id, "item_id": item_id, "title": answer.pop("name"), **answer})
    rows: dict[str, list[dict[str, Any]]] = {"conversations": conversations, "utterances": spoken, "answers": answers}
    return {name: pl.DataFrame(table, schema=dict(schemas.TABLES[name])) for name, table in rows.items()}


def _dialogues(tables: Mapping[str, pl.DataFrame]) -> list[Dialogue]:
    """The dialogues in the tables, in their order."""
    turns: dict[str, list[Turn]] = {}
    for row in tables["utterances"].sort("dialogue_id", "turn").iter_rows(named=True):
        mentions = tuple(Mention(m["item_id"], m["title"], m["start"], m["end"]) for m in row["items"])
        turns.setdefault(row["dialogue_id"], []).append(Turn(row["role"], row["text"], mentions, row["n_messages"]))
    items: dict[str, dict[str, Item]] = {}
    for row in tables["answers"].iter_rows(named=True):
        item = Item(row["title"], row["suggested"], row["seen"], row["liked"], row["source"])
        items.setdefault(row["dialogue_id"], {})[row["item_id"]] = item
    return [
        Dialogue(
            row["dialogue_id"],
            row["user"],
            row["recommender"],
            tuple(turns.get(row["dialogue_id"], ())),
            items.get(row["dialogue_id"], {}),
            row["summary"],
            row["attributes"],
            None if row["targets"] is None else tuple(row["targets"]),
        )
        for row in tables["conversations"].iter_rows(named=True)
    ]
