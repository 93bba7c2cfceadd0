"""A run's dialogues as training data: for TRL, in ReDial's schema, for DialogueKit, and as Parquet with a data card.

Tests read every format back with the software that it is for. Summaries and attributes are only in the user's
`messages` (which train a user simulator) and in `dataset`. Notes are only in the user's `messages` and, as the answers
in the forms, in `redial`. Held-out items are in no format.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from crslib.config import ExportParameters
from crslib.data import trl
from crslib.data.catalog import lookup
from crslib.data.corpora.redial import CREDIT
from crslib.data.source import Source
from crslib.dialogue import utterances
from crslib.dialogue.domain import Domain, of_run
from crslib.dialogue.styles import Style
from crslib.dialogue.utterances import RECOMMENDER, USER, plain
from crslib.dialogue.views import Lookup, RecommenderView, UserKnowledge, UserView
from crslib.errors import CrsError
from crslib.files import write_parquet, writing
from crslib.schemas import agent_words
from crslib.store import Run

FORMS = ("dataset", "redial", "dialoguekit")
_TURN = pl.Struct(
    {"role": pl.String, "text": pl.String, "items": pl.List(pl.Struct({"item_id": pl.String, "title": pl.String}))}
)
DATASET: dict[str, pl.DataType | type[pl.DataType]] = {
    "dialogue_id": pl.String,
    "condition": pl.String,
    "summary": pl.String,
    "attributes": pl.String,
    "stop_reason": pl.String,
    "turns": pl.List(_TURN),
}
_ANSWER = {True: 1, False: 0, None: 2}  # in ReDial's forms
Rows = list[dict[str, Any]]  # the turns of a dialogue, rows of table `turns`


def talks(turns: pl.DataFrame) -> Iterator[tuple[str, Rows]]:
    """Each dialogue's id and turns, in order."""
    for (dialogue_id,), talk in turns.sort("dialogue_id", "turn").group_by("dialogue_id", maintain_order=True):
        yield str(dialogue_id), talk.to_dicts()


def view(
    rows: Rows, role: str, dialogue: Mapping[str, Any], profile: Mapping[str, Any], facts: Lookup, domain: Domain
) -> UserView | RecommenderView:
    """A whole dialogue (of `talks`) in the view that `role` had of it.

    `dialogue`: its row of table `dialogues`; `profile`: the user's row of `profiles`; `facts`: those that the
    recommender could look up.
    """
    style = Style.parse(dialogue[f"{role}_style"])
    if role == RECOMMENDER:
        return RecommenderView.of(rows, domain, facts, style)
    return UserView.of(rows, UserKnowledge(domain, profile["summary"], profile["attributes"], style))


def write(run: Run, form: str, folder: Path) -> Path:
    """Writes the dialogues of a run into `folder` in one of `FORMS` and returns the file.

    Raises `CrsError` when the run has no turns or the file cannot be written.
    """
    dialogues, turns, profiles = run.read("dialogues"), run.read("turns"), run.read("profiles")
    if turns.is_empty():
        raise CrsError(f"nobody says a word in the dialogues of {run.path}; there is nothing to export")
    if form == "dataset":
        path, frame = folder / "dialogues.parquet", dataset(dialogues, turns, profiles)
        write_parquet(frame, path)
        _write(card(run.info, frame, Source.read(run.path), of_run(run)), folder / "README.md")
    elif form == "redial":
        path = folder / "train_data.jsonl"
        _write(lines(redial(dialogues, turns)), path)
    else:
        path = folder / "dialogues.json"
        _write(json.dumps(dialoguekit(dialogues, turns), ensure_ascii=False, indent=1) + "\n", path)
    return path


def write_trl(run: Run, role: str, folder: Path, parameters: ExportParameters) -> trl.Written:
    """Writes the dialogues of a run into `folder` for SFT of `role` with TRL, people split by the user of the profile,
    or, of a curated set, as its manifest says.

    Raises `CrsError` when the run has no dialogues, none can be trained on, a file cannot be written, or a curated set
    shall be split anew.
    """
    dialogues, turns, profiles = run.read("dialogues"), run.read("turns"), run.read("profiles")
    facts = lookup(run.read("items")) if run.info.get("facts") else {}
    person = {dialogue_id: row["user_id"] for dialogue_id, row in _profiles(dialogues, profiles).items()}
    frame = messages(
        dialogues, turns, profiles, facts, role, of_run(run), fold=parameters.system == "fold"
    ).with_columns(person=pl.col("dialogue_id").replace_strict(person, return_dtype=pl.String))
    split = {one: trl.split_of(user, parameters) for one, user in person.items()}
    if (manifest := run.path / trl.MANIFEST).is_file():
        if parameters.validation or parameters.test:
            raise CrsError(f"{run.path} has been split when it was curated; leave --validation and --test out")
        split = dict(pl.read_parquet(manifest, glob=False).select("dialogue_id", "split").iter_rows())
    frame = frame.with_columns(split=pl.col("dialogue_id").replace_strict(split, return_dtype=pl.String))
    return trl.write(frame, role, folder, parameters, _origin(run.info, Source.read(run.path)))


# ── the formats ─────────────────────────────────────────────────────────────────────────────────────────────────────


def messages(
    dialogues: pl.DataFrame,
    turns: pl.DataFrame,
    profiles: pl.DataFrame,
    facts: Lookup,
    role: str,
    domain: Domain,
    fold: bool = False,
) -> pl.DataFrame:
    """TRL's data for SFT of `role` (user or recommender): `dialogue_id` and `messages`, as `trl.conversation` has them.

    `assistant` is the role that is trained. A user's messages contain its summary, attributes and notes, and the mark
    of leaving where it left; a recommender's contain the utterances and, of the items in them, `facts`.
    """
    row_of = {row["dialogue_id"]: row for row in dialogues.iter_rows(named=True)}
    profile_of = _profiles(dialogues, profiles)
    rows = []
    for dialogue_id, talk in talks(turns):
        party_view = view(talk, role, row_of[dialogue_id], profile_of[dialogue_id], facts, domain)
        left = role == USER and row_of[dialogue_id]["stop_reason"] == "user_left"
        rows.append((dialogue_id, trl.conversation(party_view.messages, left=left, fold=fold)))
    return pl.DataFrame(rows, schema={"dialogue_id": pl.String, "messages": trl.MESSAGES}, orient="row")


def redial(dialogues: pl.DataFrame, turns: pl.DataFrame) -> Rows:
    """One record per dialogue in the schema of ReDial's files (Li et al. 2018): items in texts are `@id`.

    ReDial's ids are numbers. Where those of the catalogue are not, the mentioned items are numbered from 1 in the order
    of their ids. A title without an item stays text. The forms of both parties hold the answers in the user's notes.
    """
    owner = dict(dialogues.select("dialogue_id", "profile_id").iter_rows())
    item_ids = sorted({item["item_id"] for items in turns["items"] for item in items if item["item_id"]})
    numeric = all(item_id.isascii() and item_id.isdigit() for item_id in item_ids)
    number = {item_id: int(item_id) if numeric else place for place, item_id in enumerate(item_ids, start=1)}
    worker = {profile: place for place, profile in enumerate(sorted(set(owner.values())), start=1)}
    records = []
    for place, (dialogue_id, talk) in enumerate(talks(turns), start=1):
        mentioned: dict[str, str] = {}
        answers: dict[str, dict[str, int]] = {}
        for row in talk:
            for item in row["items"]:
                if (key := item["item_id"]) is not None:
                    mentioned.setdefault(str(number[key]), item["title"])
                    form = {"suggested": int(row["role"] == RECOMMENDER), "seen": _ANSWER[None], "liked": _ANSWER[None]}
                    answers.setdefault(str(number[key]), form)
            for note in row["notes"]:
                if note["item_id"] in number:
                    noted = {"seen": _ANSWER[note["seen"]], "liked": _ANSWER[note["liked"]]}
                    answers[str(number[note["item_id"]])].update(noted)
        user = worker[owner[dialogue_id]]
        records.append(
            {
                "conversationId": str(place),
                "initiatorWorkerId": user,
                "respondentWorkerId": 0,
                "messages": [
                    {
                        "messageId": 1000 * place + row["turn"],
                        "timeOffset": row["turn"],
                        "senderWorkerId": user if row["role"] == USER else 0,
                        "text": _linked(row, number),
                    }
                    for row in talk
                ],
                "movieMentions": mentioned,
                "initiatorQuestions": answers,
                "respondentQuestions": answers,
            }
        )
    return records


def dialoguekit(dialogues: pl.DataFrame, turns: pl.DataFrame) -> Rows:
    """One record per dialogue for DialogueKit's `json_to_dialogues`; items are annotations."""
    about = {row["dialogue_id"]: row for row in dialogues.iter_rows(named=True)}
    return [
        {
            "conversation_id": dialogue_id,
            "agent": {"id": "recommender", "type": "AGENT"},
            "user": {"id": about[dialogue_id]["profile_id"], "type": "USER"},
            "metadata": {key: about[dialogue_id][key] for key in ("condition", "stop_reason")},
            "conversation": [
                {
                    "participant": "USER" if row["role"] == USER else "AGENT",
                    "utterance": plain(row["text"]),
                    "utterance_id": f"{dialogue_id}:{row['turn']}",
                    "annotations": [["item", item["title"]] for item in row["items"]],
                }
                for row in talk
            ],
        }
        for dialogue_id, talk in talks(turns)
    ]


def dataset(dialogues: pl.DataFrame, turns: pl.DataFrame, profiles: pl.DataFrame) -> pl.DataFrame:
    """One row per dialogue that has turns: the columns of `DATASET`, sorted by id."""
    items = pl.col("items").list.eval(pl.struct(pl.element().struct.field("item_id", "title")))
    return (
        turns.sort("dialogue_id", "turn")
        .group_by("dialogue_id", maintain_order=True)
        .agg(turns=pl.struct("role", "text", items))
        .join(dialogues, on="dialogue_id", maintain_order="left")
        .join(profiles, on="profile_id", maintain_order="left")
        .select(pl.col(name).cast(kind) for name, kind in DATASET.items())
    )


def card(info: Mapping[str, Any], frame: pl.DataFrame, source: Source, domain: Domain) -> str:
    """The data card (README.md) of a dataset: YAML for a hub such as Hugging Face's, then text.

    `info`: the run's `run.json`; `frame`: of `dataset`; `source`: of its data.
    """
    if "source" in info:
        return _card_of_file(info, frame)
    parameters, agents = info.get("parameters", {}), info.get("agents", {})
    informed = parameters.get("baseline") or "nobody"
    lengths = frame["turns"].list.len()
    hashes = [f"- {role}: {agent_words(agent)}." for role, agent in agents.items()]
    return "\n".join(
        [
            "---",
            "configs:",
            "- config_name: default",
            "  data_files: dialogues.parquet",
            "language: en",
            "tags: [conversational-recommendation, synthetic, simulation]",
            "---",
            f"# Simulated dialogues of {domain.article} {domain.noun} seeker and a recommender",
            "",
            f"{len(frame)} dialogues, {int(lengths.sum())} turns, generated by language models that talk to each "
            f"other. Who knew the target items: {informed}. No part was written by a person.",
            "",
            "`turns` are in order. Items in a `text` are written `[[Title (Year)]]`; `item_id` is null for a title in "
            "no catalogue. The user's model was given `summary` and `attributes`, the recommender's only the dialogue.",
            "",
            f"- Run: {info.get('run_id', 'by hand')}, condition {parameters.get('condition', '')}, seed "
            f"{parameters.get('seed', 0)}.",
            *hashes,
            f"- The built-in adapters were trained on ReDial ({CREDIT}).",
            f"- Profiles: from the run's ratings; source: {source.credit}.",
            "- Known faults: small models contradict themselves and their notes, and know little about plots.",
            "",
        ]
    )


def _origin(info: Mapping[str, Any], data: Source) -> list[str]:
    """Where a run's dialogues come from, and their licence, for the card of TRL's files. `info`: its `run.json`;
    `data`: of its ratings."""
    if "source" in info:
        source = info["source"]
        return [
            f"From: the file `{_quoted(source['name'])}` ({source['form']}, SHA-256 {source['sha256']})",
            "Licence: for the maker of that file to say",
        ]
    parameters, agents = info.get("parameters", {}), info.get("agents", {})
    run = f"{info.get('run_id', 'by hand')}, condition {parameters.get('condition', '')}"
    return [
        f"From: curated set {run}" if "curated" in info else f"From: run {run}, seed {parameters.get('seed', 0)}",
        *(f"The {role}: {agent_words(agent)}" for role, agent in agents.items()),
        f"The built-in adapters were trained on ReDial ({CREDIT})",
        f"Profiles: from ratings of {data.credit}",
        f"Licence: that of the ratings ({data.licence}), and of the models",
    ]


def _quoted(name: str) -> str:
    """A name within backquotes of Markdown."""
    return utterances.one_line(name).replace("`", "'")


def _card_of_file(info: Mapping[str, Any], frame: pl.DataFrame) -> str:
    """The data card of dialogues that others made (`crs evaluate`): of their making it knows nothing."""
    source = info["source"]
    name = _quoted(source["name"])
    return "\n".join(
        [
            "---",
            "configs:",
            "- config_name: default",
            "  data_files: dialogues.parquet",
            "tags: [conversational-recommendation]",
            "---",
            "# Dialogues of a seeker and a recommender",
            "",
            f"{len(frame)} dialogues, {int(frame['turns'].list.len().sum())} turns, read from the file `{name}` "
            f"({source['form']}, SHA-256 {source['sha256']}). Who or what wrote them, and their licence, is for the "
            "maker of that file to say.",
            "",
            "`turns` are in order. Items in a `text` are written `[[Title (Year)]]`; `item_id` is null for a title in "
            "no catalogue.",
            "",
        ]
    )


def lines(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as JSON lines."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _write(text: str, path: Path) -> None:
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _profiles(dialogues: pl.DataFrame, profiles: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """The row of `profiles` that belongs to each dialogue, by dialogue id."""
    rows = {row["profile_id"]: row for row in profiles.iter_rows(named=True)}
    return {
        dialogue_id: rows[owner] for dialogue_id, owner in dialogues.select("dialogue_id", "profile_id").iter_rows()
    }


def _linked(row: Mapping[str, Any], number: Mapping[str, int]) -> str:
    """The text with `@id` for each mention. Every other `@` is removed, because it could be read as a mention."""
    items = sorted(row["items"], key=lambda item: item["start"])
    names = [item["title"] if item["item_id"] is None else f"@{number[item['item_id']]}" for item in items]
    parts = utterances.between(row["text"], [(item["start"], item["end"]) for item in items])
    pairs = zip(parts, [*names, ""], strict=True)
    return utterances.one_line("".join(part.replace("@", "") + name for part, name in pairs))
