"""A run's dialogues as training data for others: for TRL, in ReDial's schema, for CRSLab and DialogueKit, as Parquet.

Every format is read back in a test by what reads it elsewhere. Private parts go only where a user simulator is trained
(`messages` of the user); hidden items go nowhere.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from crslib.data import crslab
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER, USER, plain
from crslib.dialogue.views import Note, RecommenderView, UserKnowledge, UserView
from crslib.store import Run, write_parquet, writing

FORMS = ("dataset", "trl", "redial", "crslab", "dialoguekit")
_MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
_TURN = pl.Struct(
    {"role": pl.String, "text": pl.String, "items": pl.List(pl.Struct({"item_id": pl.String, "title": pl.String}))}
)
DATASET = {
    "dialogue_id": pl.String,
    "condition": pl.String,
    "summary": pl.String,
    "attributes": pl.String,
    "stop_reason": pl.String,
    "turns": pl.List(_TURN),
}
_UNKNOWN = 2  # ReDial's answer for what was not said
_ANSWER = {True: 1, False: 0, None: _UNKNOWN}
Rows = list[dict[str, Any]]  # the turns of a dialogue, rows of table `turns`


def talks(turns: pl.DataFrame) -> Iterator[tuple[str, Rows]]:
    """Every dialogue's id with its turns, in order; after a recommender's turn `notes` are the user's on it."""
    for (dialogue_id,), talk in turns.sort("dialogue_id", "turn").group_by("dialogue_id", maintain_order=True):
        rows = talk.to_dicts()
        for row, answer in pairwise(rows):  # a user's row holds the notes on what was named in the turn before it
            if row["role"] == RECOMMENDER:
                row["notes"] = answer["notes"]
        if rows[-1]["role"] == RECOMMENDER:
            rows[-1]["notes"] = []
        yield str(dialogue_id), rows


def view(rows: Rows, role: str, profile: Mapping[str, Any]) -> UserView | RecommenderView:
    """A whole dialogue (of `talks`) in the view that `role` had of it; `profile` (row of `profiles`) is the user's."""
    if role == RECOMMENDER:
        heard = RecommenderView()
        for row in rows:
            (heard.say if row["role"] == role else heard.hear)(row["text"])
        return heard
    seen = UserView(UserKnowledge(profile["summary"], profile["attributes"]))
    for row in rows:
        if row["role"] == role:
            seen.say(row["text"])
        else:
            seen.hear(row["text"], [Note(note["title"], note["seen"], note["liked"]) for note in row["notes"]])
    return seen


def write(run: Run, form: str, role: str, folder: Path) -> Path:
    """The dialogues of a run in one of `FORMS`, written into `folder`; the file that was written, or for CRSLab, which
    reads ten, the folder.

    `role`: who learns from them, for `trl`. Raises `CrsError` when the run has no dialogues or the file cannot be
    written.
    """
    dialogues, turns, profiles = run.read("dialogues"), run.read("turns"), run.read("profiles")
    if form == "crslab":
        for name, text in crslab.files(dialogues, turns, run.read("items")).items():
            _write(text, folder / name)
        return folder
    name = {"trl": f"{role}.jsonl", "redial": "train_data.jsonl", "dialoguekit": "dialogues.json"}.get(form)
    if name is None:
        frame = dataset(dialogues, turns, profiles)
        write_parquet(frame, folder / "dialogues.parquet")
        _write(card(run.info, frame), folder / "README.md")
        return folder / "dialogues.parquet"
    if form == "trl":
        text = lines(messages(dialogues, turns, profiles, role).to_dicts())
    elif form == "redial":
        text = lines(redial(dialogues, turns))
    else:
        text = json.dumps(dialoguekit(dialogues, turns), ensure_ascii=False, indent=1) + "\n"
    _write(text, folder / name)
    return folder / name


# ── the formats ─────────────────────────────────────────────────────────────────────────────────────────────────────


def messages(dialogues: pl.DataFrame, turns: pl.DataFrame, profiles: pl.DataFrame, role: str) -> pl.DataFrame:
    """For SFT of `role` (user or recommender) with TRL: `dialogue_id` and `messages`, lists of `role` and `content`.

    `assistant` is the role that learns. A user's messages hold its summary, attributes and notes, and an empty last one
    where it left; a recommender's hold what was said aloud.
    """
    people = _people(dialogues, profiles)
    left = set(dialogues.filter(stop_reason="user_left")["dialogue_id"])
    rows = []
    for dialogue_id, talk in talks(turns):
        seen = view(talk, role, people[dialogue_id])
        if role == USER and dialogue_id in left and talk[-1]["role"] == RECOMMENDER:
            seen.say("")
        rows.append((dialogue_id, [{"role": one.role, "content": one.text} for one in seen.messages]))
    return pl.DataFrame(rows, schema={"dialogue_id": pl.String, "messages": _MESSAGES}, orient="row")


def redial(dialogues: pl.DataFrame, turns: pl.DataFrame) -> Rows:
    """In the schema of ReDial's files (Li et al. 2018), one record per dialogue: movies in texts are `@id`.

    Ids are numbers there: those of the catalogue where they are, else the row's place among the ids named, from 1. What
    is in no catalogue stays a plain title. The forms hold what the user's notes knew; both parties fill in the same.
    """
    owner = dict(dialogues.select("dialogue_id", "profile_id").iter_rows())
    named = sorted({item["item_id"] for found in turns["items"] for item in found if item["item_id"]})
    numeric = all(item.isascii() and item.isdigit() for item in named)
    number = {item: int(item) if numeric else place for place, item in enumerate(named, start=1)}
    person = {profile: place for place, profile in enumerate(sorted(set(owner.values())), start=1)}
    found = []
    for place, (dialogue_id, talk) in enumerate(talks(turns), start=1):
        mentioned: dict[str, str] = {}
        answers: dict[str, dict[str, int]] = {}
        for row in talk:
            for item in row["items"]:
                if (key := item["item_id"]) is not None:
                    mentioned.setdefault(str(number[key]), item["title"])
                    form = {"suggested": int(row["role"] == RECOMMENDER), "seen": _UNKNOWN, "liked": _UNKNOWN}
                    answers.setdefault(str(number[key]), form)
            for note in row["notes"]:
                if note["item_id"] in number and row["role"] == RECOMMENDER:
                    known = {"seen": _ANSWER[note["seen"]], "liked": _ANSWER[note["liked"]]}
                    answers[str(number[note["item_id"]])].update(known)
        user = person[owner[dialogue_id]]
        found.append(
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
    return found


def dialoguekit(dialogues: pl.DataFrame, turns: pl.DataFrame) -> Rows:
    """As DialogueKit reads them (`json_to_dialogues`): participants USER and AGENT, items as annotations."""
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
    """One row per dialogue that has turns: the columns of `DATASET`, sorted; to be written as Parquet."""
    people = _people(dialogues, profiles)
    about = {row["dialogue_id"]: row for row in dialogues.iter_rows(named=True)}
    rows = []
    for dialogue_id, talk in talks(turns):
        said = [
            {
                "role": row["role"],
                "text": row["text"],
                "items": [{"item_id": item["item_id"], "title": item["title"]} for item in row["items"]],
            }
            for row in talk
        ]
        own, person = about[dialogue_id], people[dialogue_id]
        rows.append((dialogue_id, own["condition"], person["summary"], person["attributes"], own["stop_reason"], said))
    return pl.DataFrame(rows, schema=DATASET, orient="row")


def card(info: Mapping[str, Any], frame: pl.DataFrame) -> str:
    """The data card (README.md) of a dataset: what a hub reads at its head, then what a person should know.

    `info`: the run's `run.json`; `frame`: of `dataset`.
    """
    parameters, engines = info.get("parameters", {}), info.get("engines", {})
    told = parameters.get("baseline") or "nobody"
    lengths = frame["turns"].list.len()
    hashes = [
        f"- {role}: model SHA-256 {engine['model_sha256']}, adapter {engine['adapter_sha256'] or 'none'}."
        for role, engine in engines.items()
    ]
    return "\n".join(
        [
            "---",
            "configs:",
            "- config_name: default",
            "  data_files: dialogues.parquet",
            "language: en",
            "tags: [conversational-recommendation, synthetic, simulation]",
            "---",
            "# Simulated dialogues of a movie seeker and a recommender",
            "",
            f"{len(frame)} dialogues, {int(lengths.sum())} turns, made by language models that talk to one another. "
            f"Who was told the target items: {told}. Nothing in them was said by a person.",
            "",
            "`turns` are in order; an item in a `text` stands as `[[Title (Year)]]`, `item_id` is null for a title in "
            "no catalogue. `summary` and `attributes` are what the user's model was told; the recommender's saw the "
            "words alone.",
            "",
            f"- Run: {info.get('run_id', 'by hand')}, condition {parameters.get('condition', '')}, seed "
            f"{parameters.get('seed', 0)}.",
            *hashes,
            "- The built-in adapters were trained on ReDial (Li et al. 2018, CC BY 4.0).",
            "- People: histories of the run's rating data; the built-in ones are MovieLens' (Harper and Konstan 2015), "
            "for research, not for commerce. Cite both.",
            "- Known faults: small models contradict themselves and their notes, and know little of plots.",
            "",
        ]
    )


def lines(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as JSON lines."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _write(text: str, path: Path) -> None:
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _people(dialogues: pl.DataFrame, profiles: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """The row of `profiles` of every dialogue."""
    known = {row["profile_id"]: row for row in profiles.iter_rows(named=True)}
    return {dialogue: known[owner] for dialogue, owner in dialogues.select("dialogue_id", "profile_id").iter_rows()}


def _linked(row: Mapping[str, Any], number: Mapping[str, int]) -> str:
    """A text with `@id` in the place of its mentions; a stray `@` could be taken for one and goes."""
    pieces, end = [], 0
    for item in sorted(row["items"], key=lambda item: item["start"]):
        name = item["title"] if item["item_id"] is None else f"@{number[item['item_id']]}"
        pieces += [row["text"][end : item["start"]].replace("@", ""), name]
        end = item["end"]
    return utterances.one_line("".join([*pieces, row["text"][end:].replace("@", "")]))
