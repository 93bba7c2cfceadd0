"""What raters are asked, read from YAML files: questions to people about a pair, and rubrics for a judging model.

Knows neither dialogues nor answers.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from crslib import yaml_files
from crslib.config import ROOT
from crslib.dialogue.domain import Domain
from crslib.errors import CrsError

CONTROL = "overall"
"""The criterion by which a judging model compares a dialogue with its corrupted copies."""


class Question(BaseModel):
    """One entry of `data/questions.yaml`: what people are asked about a pair of dialogues.

    `profile`: the user's private profile is shown. `check`: in an attention check the intact dialogue must win.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    criterion: str = Field(min_length=1)
    question: str = Field(min_length=1)
    profile: bool = False
    check: bool = False


class Criterion(BaseModel):
    """One entry of `data/rubrics.yaml`: what a model is asked, and what dialogues of mark 1 and of mark 5 are like.

    `profile`: the user's private profile is shown. In its texts `{label}`, `{labels}` and `{a_noun}` stand for words of
    the domain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    question: str = Field(min_length=1)
    low: str = Field(min_length=1)
    high: str = Field(min_length=1)
    profile: bool

    def about(self, domain: Domain) -> "Criterion":
        """The criterion in the words of a domain."""
        words = {"{label}": domain.label, "{labels}": domain.labels, "{a_noun}": domain.a_noun}
        texts = {name: getattr(self, name) for name in ("question", "low", "high")}
        for name, text in texts.items():
            texts[name] = re.sub(r"\{(?:labels?|a_noun)\}", lambda match: words[match[0]], text)
        return self.model_copy(update=texts)


def read_questions(path: Path = ROOT / "data/questions.yaml") -> list[Question]:
    """The questions of a YAML list, in order. Raises `CrsError` when the file cannot be read, an entry is not a
    `Question`, there is none, or two have the same criterion."""
    questions = yaml_files.read_as(path, TypeAdapter(list[Question]))
    names = [question.criterion for question in questions]
    if not names or len(set(names)) < len(names):
        raise CrsError(f"{path} must hold one or more questions of different criteria; it holds {names}")
    return questions


def read_rubrics(path: Path = ROOT / "data/rubrics.yaml", names: Sequence[str] = ()) -> dict[str, Criterion]:
    """Criteria by name from a YAML mapping: all of them, or those of `names` and `CONTROL`. Raises `CrsError` when the
    file cannot be read, an entry is not a `Criterion`, or one that is needed is missing."""
    rubrics = yaml_files.read_as(path, TypeAdapter(dict[str, Criterion]))
    for name in (CONTROL, *names):
        if name not in rubrics:
            raise CrsError(f"the rubrics {path} lack {name!r}; they hold {', '.join(rubrics)}")
    return {name: criterion for name, criterion in rubrics.items() if not names or name in (CONTROL, *names)}
