"""Where the tables of a data folder come from: `source.json` beside them. Reports and cards credit what it names.

Knows nothing of the tables' content.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from crslib import json_files
from crslib.dialogue.utterances import one_line
from crslib.errors import CrsError
from crslib.files import writing

NAME = "source.json"
NOT_STATED = "not stated"

_Line = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(one_line)]


class Feedback(BaseModel):
    """What a row of table `ratings` says.

    `kind`: "marks" on a scale, of which low ones say dislike; "counts", where `rating` is a weight for how often
    (`imports`); "presence", where it is always 1. Only marks say that something is not liked. `low` and `high`: the
    ends of the marks' scale; `none`: the mark that stood for "not rated", whose rows were left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["marks", "counts", "presence"] = "marks"
    low: float | None = None
    high: float | None = None
    none: float | None = None


class Source(BaseModel):
    """The name, address, licence and citation of a data set, its `domain` (a name or a file) and its kind of feedback.

    Without a `source.json` everything is "not stated", the domain `movies` and the feedback marks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Line = NOT_STATED
    url: _Line = NOT_STATED
    licence: _Line = NOT_STATED
    citation: _Line = NOT_STATED
    domain: _Line = "movies"
    feedback: Feedback = Feedback()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The source of the tables in `folder`. Raises `CrsError` when its file is damaged."""
        path = folder / NAME
        if not path.exists():
            return cls()
        return json_files.read_as(path, TypeAdapter(cls), "correct it, or import the data again")

    @classmethod
    def stated(cls, **texts: str) -> Self:
        """A source of texts that a person gave. Raises `CrsError` for one that is empty or long."""
        try:
            return cls.model_validate(texts)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise CrsError(
                f"{first['loc'][0]} is not valid: {first['msg'].lower()}; correct it or leave it out"
            ) from None

    def write(self, folder: Path) -> None:
        """Writes `source.json` into `folder`. Raises `CrsError` when the folder cannot be written."""
        with writing(folder / NAME) as temporary:
            temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @property
    def credit(self) -> str:
        """What is stated of the source, as one sentence without a full stop: `NAME (URL); licence: …; cite: …`."""
        parts = [self.name if self.url == NOT_STATED else f"{self.name} ({self.url})", f"licence: {self.licence}"]
        return "; ".join(parts if self.citation == NOT_STATED else [*parts, f"cite: {self.citation}"])


UNKNOWN = Source()
"""Nothing is stated: marks of films."""
