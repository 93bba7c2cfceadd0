"""What is in the files of a study: `study.json`, and the lines of `votes.jsonl`. Knows nothing of files."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from crslib.judging.criteria import Question

_CLOSED = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
_Text = Annotated[str, Field(min_length=1)]
_Number = Annotated[int, Field(ge=0, lt=1 << 31)]  # as wide as its column


@with_config(_CLOSED)
class _RunOfStudy(TypedDict):
    run_id: str
    path: str


@with_config(_CLOSED)
class _Facts(TypedDict):
    """`study.json`."""

    study_id: str
    seed: int
    redial: str | None
    runs: Annotated[dict[str, _RunOfStudy], Field(min_length=1)]
    questions: Annotated[list[Question], Field(min_length=1)]
    created: str


@with_config(_CLOSED)
class Vote(TypedDict):
    """A row of table `votes` that a person gave."""

    pair_id: str
    criterion: _Text
    rater: _Text
    left_run: str
    left_condition: str
    left_dialogue: str
    right_run: str
    right_condition: str
    right_dialogue: str
    choice: Literal["left", "tie", "right"]
    preference: Annotated[float, Field(ge=-1, le=1)] | None
    order: _Number | None
    seconds: Annotated[float, Field(ge=0)] | None
    at: str | None


@with_config(_CLOSED)
class _Joined(TypedDict):
    act: Literal["join"]
    rater: _Text
    number: _Number
    key: str
    at: str


@with_config(_CLOSED)
class _Voted(TypedDict):
    """`number`: that of the rater, in case the line with which they joined is damaged."""

    act: Literal["vote"]
    rater: _Text
    number: NotRequired[_Number]
    key: str
    vote: Vote


@with_config(_CLOSED)
class _Undone(TypedDict):
    act: Literal["undo"]
    rater: _Text
    key: str
    undone: str
    at: str


@with_config(_CLOSED)
class _Imported(TypedDict):
    act: Literal["import"]
    rater: _Text
    key: str
    vote: Vote


FACTS = TypeAdapter(_Facts)
RECORD: TypeAdapter[Any] = TypeAdapter(Annotated[_Joined | _Voted | _Undone | _Imported, Field(discriminator="act")])
VOTE = TypeAdapter(Vote)
