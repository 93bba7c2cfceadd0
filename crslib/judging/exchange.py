"""Pairs for other annotation platforms and votes from them: CSV and JSON lines, potato, Label Studio.

Exported pairs are blind: pair id, texts and questions, no condition. Imported votes are joined to the study's pairs by
id. The sides are those of table `pairs`, the same for every rater, and no pair is shown twice: only the project's own
page does that.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import polars as pl
import yaml
from pydantic import BaseModel, Field, ValidationError

from crslib import schemas
from crslib.dialogue.utterances import plain
from crslib.errors import CrsError
from crslib.judging.study import CHOICES, Study
from crslib.store import writing

_VOTE = dict(schemas.TABLES["votes"])


# ── export ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(study: Study, form: str, folder: Path) -> list[Path]:
    """Writes the study for `form` (csv, jsonl, potato or labelstudio) into `folder`; returns the files.

    csv, jsonl: `pairs` (pair_id, left, right, profile: texts) and `votes` (the table, which names conditions: do not
    show it to raters). potato: `config.yaml` and `pairs.jsonl`. labelstudio: `config.xml` and `tasks.json`. Raises
    `CrsError` when the folder cannot be written.
    """
    pairs = [_texts(row) for row in study.pairs.iter_rows(named=True)]
    if form in ("csv", "jsonl"):
        kind = "write_csv" if form == "csv" else "write_ndjson"
        files = {f"pairs.{form}": pl.DataFrame(pairs), f"votes.{form}": study.votes()}
        for name, frame in files.items():
            with writing(folder / name) as temporary:
                getattr(frame if form == "jsonl" else as_cells(frame), kind)(temporary)
        return [folder / name for name in files]
    texts = _potato(study, pairs) if form == "potato" else _labelstudio(study, pairs)
    for name, text in texts.items():
        with writing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def as_cells(frame: pl.DataFrame) -> pl.DataFrame:
    """Texts as spreadsheets may open them: an apostrophe before those that they would take for a formula."""
    return frame.with_columns(pl.col(pl.String).str.replace(r"^('*[=+\-@\t\r])", "'${1}"))


def from_cells(frame: pl.DataFrame) -> pl.DataFrame:
    """The texts of `as_cells`."""
    return frame.with_columns(pl.col(pl.String).str.replace(r"^'('*[=+\-@\t\r])", "${1}"))


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    profile = f"{row['summary']} Looking for: {row['attributes']}" if row["attributes"] else row["summary"]
    sides = {
        side: "\n".join(f"{turn['role'].capitalize()}: {plain(turn['text'])}" for turn in row[f"{side}_turns"])
        for side in ("left", "right")
    }
    return {"pair_id": row["pair_id"], **sides, "profile": profile}


def _potato(study: Study, pairs: list[dict[str, str]]) -> dict[str, str]:
    """One radio scheme per question and the texts as a list (https://potato-annotation.readthedocs.io)."""
    config = {
        "annotation_task_name": "Which dialogue?",
        "task_dir": ".",
        "output_annotation_dir": "annotation_output",
        "output_annotation_format": "jsonl",
        "data_files": ["pairs.jsonl"],
        "item_properties": {"id_key": "id", "text_key": "text"},
        "list_as_text": {"text_list_prefix_type": "none", "horizontal": True},
        "annotation_schemes": [
            {
                "annotation_type": "radio",
                "name": question.criterion,
                "description": question.question,
                "labels": list(CHOICES),
                "sequential_key_binding": number == 0,
            }
            for number, question in enumerate(study.questions)
        ],
    }
    parts = {"LEFT": "left", "RIGHT": "right"} | ({"THE USER": "profile"} if _has_profiles(study) else {})
    texts = [[f"{title}\n{pair[name]}" for title, name in parts.items()] for pair in pairs]
    # potato shows texts as HTML, so markup in a dialogue must be escaped
    escaped = [[_escaped(text).replace("\n", "<br>") for text in parts_of_pair] for parts_of_pair in texts]
    rows = [{"id": pair["pair_id"], "text": text} for pair, text in zip(pairs, escaped, strict=True)]
    return {
        "config.yaml": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        "pairs.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    }


def _has_profiles(study: Study) -> bool:
    """Whether there are profiles to show; pairs with a human dialogue have none."""
    return bool((study.pairs["summary"] != "").any())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _labelstudio(study: Study, pairs: list[dict[str, str]]) -> dict[str, str]:
    """Two texts and one required choice per question (https://labelstud.io/guide)."""
    choices = "".join(f'<Choice value="{choice}"/>' for choice in CHOICES)
    questions = "".join(
        f"  <Header value={quoteattr(question.question)}/>\n"
        f'  <Choices name={quoteattr(question.criterion)} toName="left" choice="single-radio" required="true">'
        f"{choices}</Choices>\n"
        for question in study.questions
    )
    profile = '  <Text name="profile" value="$profile"/>\n' if _has_profiles(study) else ""
    config = (
        '<View>\n  <View style="display: grid; grid-template-columns: 1fr 1fr; gap: 1em">\n'
        '    <Text name="left" value="$left"/>\n    <Text name="right" value="$right"/>\n  </View>\n'
        f"{profile}{questions}</View>\n"
    )
    tasks = [{"data": pair} for pair in pairs]
    return {"config.xml": config, "tasks.json": json.dumps(tasks, indent=1, ensure_ascii=False) + "\n"}


# ── import ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(study: Study, form: str, path: Path) -> pl.DataFrame:
    """Votes that were given elsewhere on the study's pairs: table `votes`.

    csv, jsonl: the table itself, or only pair_id, criterion, choice and rater with the sides of `pairs`. potato: its
    output folder (`user_state.json` of every user, or `annotated_instances.jsonl`). labelstudio: its JSON export.
    Raises `CrsError` when the file has another format, holds no votes, or a pair is of another study.
    """
    try:
        if form in ("csv", "jsonl"):
            rows = _table(form, path)
        else:
            rows = list(_from_potato(path) if form == "potato" else _from_labelstudio(path))
        for number, row in enumerate(rows, start=1):
            _check_row(row, number)
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        pl.exceptions.PolarsError,
    ) as error:
        why = " ".join(str(error).split())
        raise CrsError(f"cannot read votes in the format {form} from {path} ({why}); check --as and the file") from None
    pairs = {row["pair_id"]: row for row in study.pairs.iter_rows(named=True)}
    votes = []
    for row in rows:
        study.check_pair(row["pair_id"])
        sides = {name: value for name, value in pairs[row["pair_id"]].items() if name in _VOTE}
        votes.append({**dict.fromkeys(_VOTE), **sides, **{name: row[name] for name in row if name in _VOTE}})
    if not votes:
        raise CrsError(f"{path} holds no votes in the format {form}; check --as and the file")
    return pl.DataFrame(votes, schema=_VOTE, strict=False)


class _Row(BaseModel):
    """What a vote from elsewhere must have."""

    pair_id: str
    criterion: str = Field(min_length=1)
    choice: str
    rater: str = Field(min_length=1)
    seconds: float | None = Field(None, ge=0, allow_inf_nan=False)


def _check_row(row: Mapping[str, Any], number: int) -> None:
    try:
        _Row.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][0]
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise ValueError(f"vote {number}: {name} = {row.get(str(name))!r} is not valid: {message}") from None


def _chosen(names: Iterable[Any], criterion: str) -> Any:
    """The one choice of an answer; None where nothing was chosen. Raises `ValueError` for more than one."""
    chosen = list(names)
    if len(chosen) > 1:
        raise ValueError(f"{criterion} has more than one choice: {chosen}")
    return chosen[0] if chosen else None


def _table(form: str, path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes()  # as bytes, because Polars would read a path as a pattern
    frame = from_cells(pl.read_csv(raw, infer_schema=False)) if form == "csv" else pl.read_ndjson(raw)
    needed = ("pair_id", "criterion", "choice", "rater")
    if missing := [name for name in needed if name not in frame.columns]:
        raise ValueError(f"column {missing[0]!r} is missing")
    columns = [name for name in _VOTE if name in frame.columns]
    return frame.select(pl.col(name).cast(_VOTE[name]) for name in columns).to_dicts()


def _from_potato(folder: Path) -> Iterator[dict[str, Any]]:
    for user in sorted(path for path in folder.iterdir() if path.is_dir()):
        if (state := user / "user_state.json").exists():
            labels = json.loads(state.read_text(encoding="utf-8"))["instance_id_to_label_to_value"]
        elif (lines := user / "annotated_instances.jsonl").exists():
            records = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
            labels = {record["id"]: record["label_annotations"] for record in records}
        else:
            continue
        for order, (pair_id, given) in enumerate(labels.items()):
            # schema → {name: value}, or a list of [{schema, name}, value] in which later entries replace earlier ones
            pairs = (
                given.items() if isinstance(given, dict) else ((label["schema"], [label["name"]]) for label, _ in given)
            )
            for criterion, names in dict(pairs).items():
                if (choice := _chosen(names, criterion)) is None:
                    continue
                yield {"pair_id": pair_id, "criterion": criterion, "choice": choice, "rater": user.name, "order": order}


def _from_labelstudio(path: Path) -> Iterator[dict[str, Any]]:
    orders: dict[str, int] = {}
    for task in json.loads(path.read_text(encoding="utf-8")):
        for annotation in task["annotations"]:
            if annotation.get("was_cancelled"):
                continue
            by = annotation["completed_by"]  # a number, or a record of the person
            rater = str(by.get("email", by["id"]) if isinstance(by, dict) else by)
            order = orders[rater] = orders.get(rater, -1) + 1
            choices = [result for result in annotation["result"] if result["type"] == "choices"]
            seconds = annotation.get("lead_time")
            for result in choices:
                if (choice := _chosen(result["value"]["choices"], result["from_name"])) is None:
                    continue
                yield {
                    "pair_id": task["data"]["pair_id"],
                    "criterion": result["from_name"],
                    "choice": choice,
                    "rater": rater,
                    "order": order,
                    "seconds": seconds / len(choices) if seconds else None,
                    "at": annotation.get("created_at"),
                }
