"""Pairs for other annotation platforms and votes from them: CSV and JSON lines, potato, Label Studio.

Exported pairs are blind: pair id, texts and questions, no condition. Imported votes are joined to the study's pairs by
id. The sides are those of table `pairs`, the same for every rater, and no pair is shown twice: only the project's own
page does that.
"""

import codecs
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from crslib import json_files, schemas
from crslib.dialogue.utterances import plain
from crslib.errors import CrsError
from crslib.files import DAMAGED, writing
from crslib.judging.study import CHOICES, Study

_VOTE = dict(schemas.TABLES["votes"])
_SHOWN = (
    "rater",
    "pair_id",
    "criterion",
    "left_run",
    "left_condition",
    "left_dialogue",
)  # one question as it was shown


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
    output folder (`user_state.json` of every user, or `annotated_instances.jsonl`). labelstudio: its JSON export; an
    annotation of nobody is a rater of its own. A warning tells of questions without an answer, which are left out, and
    of second answers. Raises `CrsError` when the file has another format or no votes, and for a vote as `Study.add`.
    """
    try:
        if form in ("csv", "jsonl"):
            rows = _table(form, path)
        else:
            rows = list(_from_potato(path) if form == "potato" else _from_labelstudio(path))
    except ValidationError as error:
        raise _unread(form, path, json_files.fault(error)) from None
    except (*DAMAGED, ValueError) as error:
        raise _unread(form, path, " ".join(str(error).split())) from None
    answered = [row for row in rows if row["choice"] is not None]
    if n_empty := len(rows) - len(answered):
        warnings.warn(f"{path}: {n_empty} of {len(rows)} questions have no answer and are left out", stacklevel=2)
    if not answered:
        raise CrsError(f"{path} holds no votes in the format {form}; check --as and the file")
    pairs = {row["pair_id"]: row for row in study.pairs.iter_rows(named=True)}
    votes = []
    for number, row in enumerate(answered, start=1):
        pair = pairs.get(row["pair_id"], {}) if isinstance(row["pair_id"], str) else {}
        votes.append({name: row.get(name, pair.get(name)) for name in _VOTE})
        try:
            study.check(votes[-1], number)
        except CrsError as error:
            raise CrsError(f"{path}: {error}") from None
    frame = pl.DataFrame(votes, schema=_VOTE)
    if n_again := frame.height - frame.n_unique(_SHOWN):
        warnings.warn(
            f"{path}: {n_again} answers are second ones of a rater to the same; the first counts", stacklevel=2
        )
    return frame


def _unread(form: str, path: Path, why: str) -> CrsError:
    return CrsError(f"cannot read votes in the format {form} from {path} ({why}); check --as and the file")


def _parsed(raw: bytes) -> Any:
    return json_files.parse(raw.removeprefix(codecs.BOM_UTF8))


def _lines(raw: bytes) -> list[Any]:
    return [_parsed(line) for line in raw.split(b"\n") if line.strip()]


def _chosen(names: list[Any], criterion: Any) -> Any:
    """The one choice of an answer; None where nothing was chosen. Raises `ValueError` for more than one."""
    if len(names) > 1:
        raise ValueError(f"{criterion} has more than one choice: {names}")
    return names[0] if names else None


_RECORDS = TypeAdapter(list[dict[str, Any]])
_NEEDED = ("pair_id", "criterion", "choice", "rater")


def _table(form: str, path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes()  # as bytes, because Polars would read a path as a pattern
    if form == "csv":
        frame = from_cells(pl.read_csv(raw, infer_schema=False))
        rows = frame.select(pl.col(name).cast(_VOTE.get(name, pl.String)) for name in frame.columns).to_dicts()
    else:
        rows = _RECORDS.validate_python(_lines(raw))
    if missing := [name for name in _NEEDED if rows and not any(name in row for row in rows)]:
        raise ValueError(f"column {missing[0]!r} is missing")
    return [{**dict.fromkeys(_NEEDED), **row} for row in rows]


# ── potato ──


class _State(BaseModel):
    """A `user_state.json`."""

    labels: dict[str, Any] = Field(alias="instance_id_to_label_to_value")


class _Instance(BaseModel):
    """A line of `annotated_instances.jsonl`."""

    id: str
    labels: Any = Field(alias="label_annotations")


class _Label(BaseModel):
    scheme: str = Field(alias="schema")
    name: Any


_BY_SCHEME = TypeAdapter(dict[str, list[Any] | dict[Any, Any]])
_LOGGED = TypeAdapter(list[tuple[_Label, Any]])


def _from_potato(folder: Path) -> Iterator[dict[str, Any]]:
    for user in sorted(path for path in folder.iterdir() if path.is_dir()):
        rater = user.name.encode("utf-8", "replace").decode()  # the system may have names that no file can hold
        if (state := user / "user_state.json").exists():
            labels = _State.model_validate(_parsed(state.read_bytes())).labels
        elif (lines := user / "annotated_instances.jsonl").exists():
            instances = map(_Instance.model_validate, _lines(lines.read_bytes()))
            labels = {instance.id: instance.labels for instance in instances}
        else:
            continue
        for order, (pair_id, given) in enumerate(labels.items()):
            for criterion, names in _by_scheme(given).items():
                choice = _chosen(list(names), criterion)
                yield {"pair_id": pair_id, "criterion": criterion, "choice": choice, "rater": rater, "order": order}


def _by_scheme(given: Any) -> dict[str, Any]:
    """Scheme → the names that were chosen. potato has {scheme: {name: value}}, or a log of [{scheme, name}, value] in
    which later entries replace earlier ones."""
    if isinstance(given, dict):
        return dict(_BY_SCHEME.validate_python(given))
    return {label.scheme: [label.name] for label, _ in _LOGGED.validate_python(given)}


# ── Label Studio ──


class _Exported(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Choices(_Exported):
    choices: list[Any]


class _Result(_Exported):
    type: str
    from_name: Any = None
    value: Any = None


class _Annotation(_Exported):
    """`completed_by`: a number, or a record of the person."""

    id: int | str | None = None
    completed_by: int | str | dict[str, Any] | None = None
    was_cancelled: bool | None = None
    result: list[_Result]
    lead_time: float | None = None
    created_at: str | None = None

    @property
    def rater(self) -> str:
        """Who answered; nobody knows that two annotations without a name are of one person."""
        by = self.completed_by
        name = (by.get("email") or by.get("id")) if isinstance(by, dict) else by
        if name in (None, "") and self.id in (None, ""):
            raise ValueError("an annotation has neither completed_by nor an id")
        return f"annotation {self.id}" if name in (None, "") else str(name)


class _Task(_Exported):
    data: dict[str, Any]
    annotations: list[_Annotation]


_TASKS = TypeAdapter(list[_Task])


def _from_labelstudio(path: Path) -> Iterator[dict[str, Any]]:
    content = _parsed(path.read_bytes())
    if isinstance(content, list) and any(isinstance(task, dict) and "annotations" not in task for task in content):
        raise ValueError("a task has no annotations: export from Label Studio as JSON, not as JSON-MIN")
    orders: dict[str, int] = {}
    for task in _TASKS.validate_python(content):
        for annotation in task.annotations:
            if annotation.was_cancelled:
                continue
            rater = annotation.rater
            order = orders[rater] = orders.get(rater, -1) + 1
            answers = [result for result in annotation.result if result.type == "choices"]
            for answer in answers:
                yield {
                    "pair_id": task.data.get("pair_id"),
                    "criterion": answer.from_name,
                    "choice": _chosen(_Choices.model_validate(answer.value).choices, answer.from_name),
                    "rater": rater,
                    "order": order,
                    "seconds": annotation.lead_time / len(answers) if annotation.lead_time else None,
                    "at": annotation.created_at,
                }
