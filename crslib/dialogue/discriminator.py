"""A discriminator: the odds that a person wrote an utterance rather than a model, by its words and pairs of words.

Titles are one word, whatever they are, so that no title makes an utterance human. Neither capitals nor punctuation
count. The classifier of the metrics reads both: what is trained or drawn by this one is judged by another.

Knows how an utterance is scored and stored; `training.discriminator` fits the weights.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from crslib import json_files
from crslib.dialogue.utterances import between
from crslib.dialogue.words import words
from crslib.errors import CrsError
from crslib.files import writing
from crslib.schemas import STRICT


@with_config(STRICT)
class _Stored(TypedDict):
    intercept: float
    weights: dict[str, float]
    about: dict[str, Any]


_STORED = TypeAdapter(_Stored)
_TITLE, _BEGINNING, _END = "[]", "^", "$"  # no words of any utterance


def features(text: str) -> list[str]:
    """The words of an utterance and its pairs of neighbours, each once, sorted; `[]` is a title, `^` and `$` the ends.

    "Seen [[Up (2009)]]?" has `seen`, `[]`, `^ seen`, `seen []` and `[] $`. An empty utterance has none.
    """
    first, *rest = (words(part) for part in between(text))
    own = first + [word for part in rest for word in (_TITLE, *part)]
    if not own:
        return []
    line = [_BEGINNING, *own, _END]
    return sorted({*own, *(f"{one} {next_one}" for one, next_one in pairwise(line))})


@dataclass(frozen=True)
class Discriminator:
    """A logistic regression on `features`. `weights`: of a feature; features without one do not count.

    `about`: how it was fitted (adapter, data, licence, figures).
    """

    intercept: float
    weights: Mapping[str, float]
    about: Mapping[str, Any] = field(default_factory=dict)

    def log_odds(self, text: str) -> float:
        """ln(D / (1 − D)): D is the probability that a person wrote `text`, if people and the model write as often.

        0 for an empty utterance: it has no words to tell.
        """
        own = features(text)
        return self.intercept + sum(self.weights.get(feature, 0.0) for feature in own) if own else 0.0

    @classmethod
    def read(cls, path: Path) -> Self:
        """The discriminator in a JSON file. Raises `CrsError` when it is missing or damaged."""
        if not path.is_file():
            raise CrsError(f"cannot read the discriminator {path}: No such file; fit one with `crs discriminator`")
        content = json_files.read_as(path, _STORED, "it is no discriminator; fit one with `crs discriminator`")
        return cls(content["intercept"], content["weights"], content["about"])

    def write(self, path: Path) -> None:
        """Writes a JSON file, atomically. Raises `CrsError` when it cannot be written."""
        with writing(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
