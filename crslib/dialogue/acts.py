"""Dialogue acts: what a turn does (seek, accept, reject, recommend, explain, …), by a small linear tagger.

The acts are the user intents and recommender actions of IARD (Cai and Chen, UMAP 2020); a turn may have several. Each
act has a logistic regression on words, pairs of words and the turns before (see `features`). All titles count as the
same word. The length of a turn is no feature. The tagger's weights are two tables in `data/acts`, with a file of their
measured accuracy. Knows nothing of metrics.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import TypeAdapter, with_config
from scipy import sparse
from typing_extensions import TypedDict

from crslib import files, json_files
from crslib.config import resolve
from crslib.dialogue.utterances import MENTION, RECOMMENDER, USER
from crslib.errors import CrsError
from crslib.identity import derive_seed, digest
from crslib.schemas import OPEN

# Codes that share a name are siblings in IARD's taxonomy; at least one of them cannot be recognised from words (Cohen's
# kappa below 0.4, see data/acts/README.md).
NAMES: Mapping[str, Mapping[str, str]] = {
    USER: {
        "IQU": "first query",
        "CON": "further query",
        "REF": "further query",
        "STO": "further query",
        "PRO": "preference",
        "ANS": "answer",
        "ASK": "ask opinion",
        "SEE": "seen",
        "ACC": "accept",
        "REJ": "reject",
        "INQ": "inquire",
        "CRI-F": "critique",
        "CRI-A": "critique",
        "CRI-C": "critique",
        "NRE": "neutral",
        "OTH": "other",
    },
    RECOMMENDER: {
        "REQ": "request",
        "CLQ": "request",
        "RESP": "respond",
        "R-ANS": "respond",
        "REC-S": "recommend",
        "REC-E": "recommend by asking",
        "EXP-I": "explain",
        "EXP-P": "explain",
        "EXP-S": "explain",
        "OTH": "other",
    },
}
SCHEMA = {"dialogue_id": pl.String, "turn": pl.Int32, "role": pl.String, "act": pl.String}
FOLDER, FIGURES = resolve("data/acts"), "figures.json"
MIN_DIALOGUES = 10  # in which a word or pair must occur to be a feature
FOLDS = 5
_C = 0.3  # inverse strength of the penalty
_BIAS = "(bias)"
_TOKEN = re.compile(rf"{MENTION.pattern}|[^\W_]+(?:'[^\W_]+)*|[?!]")


def features(turns: pl.DataFrame) -> pl.DataFrame:
    """(dialogue_id, turn, role, features) of the turns that are not empty, sorted: what the tagger reads of each.

    `turns`: dialogue_id, turn, role, text. A feature is present or absent: lower-case words, `?`, `!`, `ITEM`, pairs of
    these and, in parentheses: the turn opens the dialogue, is its speaker's first; the turn before has a question mark,
    names an item; the turn names an item that is new, that its speaker named before, that the other party named before.
    """
    spoken = turns.filter(pl.col("text").str.strip_chars() != "").sort("dialogue_id", "turn")
    rows: list[tuple[str, int, str, list[str]]] = []
    before: list[str] | None = None
    for dialogue_id, turn, role, text in spoken.select("dialogue_id", "turn", "role", "text").iter_rows():
        if not rows or rows[-1][0] != dialogue_id:
            before, speakers, named = None, set[str](), dict[str, str]()
        matches = list(_TOKEN.finditer(text.lower().replace("’", "'")))
        items = [match[1] for match in matches if match[1]]
        tokens = ["ITEM" if match[1] else match[0] for match in matches]
        context = {
            "(opens)": before is None,
            "(own first turn)": role not in speakers,
            "(after a question)": "?" in (before or ()),
            "(after an item)": "ITEM" in (before or ()),
            "(new item)": any(item not in named for item in items),
            "(own item again)": any(named.get(item) == role for item in items),
            "(other's item again)": any(named.get(item, role) != role for item in items),
        }
        pairs = (f"{first} {second}" for first, second in pairwise(tokens))
        present = {*tokens, *pairs, *(name for name, holds in context.items() if holds)}
        rows.append((dialogue_id, turn, role, sorted(present)))
        named = {**dict.fromkeys(items, role), **named}
        speakers.add(role)
        before = tokens
    return pl.DataFrame(
        rows,
        schema={"dialogue_id": pl.String, "turn": pl.Int32, "role": pl.String, "features": pl.List(pl.String)},
        orient="row",
    )


@dataclass(frozen=True)
class Tagger:
    """`weights`: role → a row per feature, the bias first, and a column per act. An act's score is the sum of the bias
    and the weights of the features present; a turn has every act of score 0 or more, or else the act of highest score.
    `accuracy`: (role, act) → F1 on dialogues outside the training set, where it is known."""

    weights: Mapping[str, pl.DataFrame]
    accuracy: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """A hash of the weights."""
        return digest({role: table.write_csv(float_precision=3) for role, table in self.weights.items()}, "tagger")

    def tag(self, turns: pl.DataFrame) -> pl.DataFrame:
        """The acts of `turns` (dialogue_id, turn, role, text): `SCHEMA`, a row per act, sorted. Empty turns have none.

        Raises `CrsError` for a role without weights.
        """
        rows = []
        for (role,), part in features(turns).group_by("role", maintain_order=True):
            if role not in self.weights:
                raise CrsError(f"turns of role {role!r} have no acts; roles are {', '.join(self.weights)}")
            names = np.array(self.weights[role].columns[1:])
            turn_rows, act_columns = np.nonzero(_tags(self.scores(part["features"], str(role))))
            rows.append(
                part[turn_rows].select(
                    "dialogue_id", "turn", "role", pl.Series("act", names[act_columns], dtype=pl.String)
                )
            )
        return pl.concat([pl.DataFrame(schema=SCHEMA), *rows]).sort("dialogue_id", "turn", "act")

    def scores(self, present: pl.Series, role: str) -> np.ndarray:
        """(turns, acts): bias plus the weights of each list of features."""
        table = self.weights[role]
        values = table.drop("feature").to_numpy()
        return _presence(present, table["feature"][1:].to_list()) @ values[1:] + values[0]


def _tags(scores: np.ndarray) -> np.ndarray:
    tags = scores >= 0
    untagged = np.flatnonzero(~tags.any(axis=1))
    tags[untagged, scores[untagged].argmax(axis=1)] = True
    return tags


def _presence(lists: pl.Series, vocabulary: Sequence[str]) -> sparse.csr_array:
    """One row per list of features, one column per feature of the vocabulary: 1 where it is present."""
    column = {feature: place for place, feature in enumerate(vocabulary)}
    places = [[column[feature] for feature in row if feature in column] for row in lists]
    ends = np.cumsum([0, *map(len, places)], dtype=np.int32)
    flat = np.array([place for row in places for place in row], dtype=np.int32)
    return sparse.csr_array((np.ones(len(flat)), flat, ends), shape=(len(places), len(vocabulary)))


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────


@with_config(OPEN)
class _Accuracy(TypedDict):
    role: str
    act: str
    f1: float


@with_config(OPEN)
class _Figures(TypedDict):
    """`figures.json`."""

    cross_validation: list[_Accuracy]


_FIGURES = TypeAdapter(_Figures)


def write(tagger: Tagger, folder: Path = FOLDER) -> None:
    """Writes the weights, a table `ROLE.csv` per role. Raises `CrsError` when the folder cannot be written."""
    for role, table in tagger.weights.items():
        with files.writing(folder / f"{role}.csv") as temporary:
            table.write_csv(temporary, float_precision=3)


def read(folder: Path = FOLDER) -> Tagger:
    """The tagger stored in `folder`, with its accuracy. Raises `CrsError` when a file is missing or damaged."""
    weights = {}
    path = folder / FIGURES
    try:
        rows = json_files.read_as(path, _FIGURES, "")["cross_validation"]
        accuracy = {(row["role"], row["act"]): row["f1"] for row in rows}
        for role in (USER, RECOMMENDER):
            path = folder / f"{role}.csv"
            table = pl.read_csv(path, glob=False, schema_overrides={"feature": pl.String})
            if table.columns[0] != "feature" or table["feature"].head(1).to_list() != [_BIAS] or table.width < 2:
                raise ValueError
            weights[role] = table.cast({pl.selectors.exclude("feature"): pl.Float64})
            if not np.isfinite(weights[role].drop("feature").to_numpy()).all():
                raise ValueError
    except (CrsError, *files.DAMAGED, ValueError):
        raise CrsError(f"{path} is missing or damaged; write it with `crs data acts --iard PATH`") from None
    return Tagger(weights, accuracy)


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────


def named(labelled: pl.DataFrame) -> pl.DataFrame:
    """Turns of `corpora.iard.read` with the names in `NAMES` for their codes. Raises `CrsError` for an unknown code."""
    for role, code in labelled.explode("acts").select("role", "acts").unique().sort("role", "acts").iter_rows():
        if code not in NAMES[role]:
            raise CrsError(f"{code!r} is no act of a {role} in IARD; its acts are {', '.join(NAMES[role])}")
    acts = [
        sorted({NAMES[role][code] for code in codes}) for role, codes in labelled.select("role", "acts").iter_rows()
    ]
    return labelled.with_columns(pl.Series("acts", acts, dtype=pl.List(pl.String)))


def fit(labelled: pl.DataFrame) -> Tagger:
    """A tagger of the acts in `labelled` (dialogue_id, turn, role, text, acts), its weights rounded to three decimals.

    L2-regularized logistic regression. The biases are set in cross-validation: each act is given to as many turns as
    the annotators gave it to. The tagger is used for shares of acts, and a threshold of 0.5 would lose rare acts.
    """
    tagged = features(labelled).join(labelled.select("dialogue_id", "turn", "acts"), on=["dialogue_id", "turn"])
    weights = {}
    for role in (USER, RECOMMENDER):
        part = tagged.filter(role=role).sort("dialogue_id", "turn")
        vocabulary = _vocabulary(part)
        present = _presence(part["features"], vocabulary)
        names = part["acts"].explode().unique().sort().to_list()
        fold = part["dialogue_id"].replace_strict(folds(part["dialogue_id"])).to_numpy()
        columns = {}
        for name in names:
            labels = part["acts"].list.contains(name).to_numpy()
            held_out_scores = np.zeros(len(labels))
            for number in range(FOLDS):
                coefficients, intercept = _regression(present[fold != number], labels[fold != number])
                held_out_scores[fold == number] = present[fold == number] @ coefficients + intercept
            coefficients, intercept = _regression(present, labels)
            threshold = np.sort(held_out_scores)[-labels.sum()]
            columns[name] = np.round([intercept - threshold, *coefficients], 3) + 0.0
        weights[role] = pl.DataFrame({"feature": [_BIAS, *vocabulary], **columns})
    return Tagger(weights)


def out_of_fold(labelled: pl.DataFrame) -> pl.DataFrame:
    """`Tagger.tag` of the same turns, each by a tagger that was not trained on its dialogue: five-fold, by dialogue."""
    fold = labelled["dialogue_id"].replace_strict(folds(labelled["dialogue_id"]))
    tagged = [fit(labelled.filter(fold != number)).tag(labelled.filter(fold == number)) for number in range(FOLDS)]
    return pl.concat(tagged).sort("dialogue_id", "turn", "act")


def folds(dialogue_ids: pl.Series) -> dict[str, int]:
    """Dialogue → the number of its fold, whatever the order of the rows."""
    order = sorted(dialogue_ids.unique(), key=lambda dialogue_id: derive_seed(0, "act folds", dialogue_id))
    return {dialogue_id: place % FOLDS for place, dialogue_id in enumerate(order)}


def _vocabulary(turns: pl.DataFrame) -> list[str]:
    pairs = turns.select("dialogue_id", "features").explode("features").unique()
    common = pairs.group_by("features").len().filter(pl.col("len") >= MIN_DIALOGUES)
    return sorted(common["features"])


def _regression(present: sparse.csr_array, labels: np.ndarray) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression  # slow to import, and not needed to read acts

    if not labels.any() or labels.all():
        return np.zeros(present.shape[1]), 10.0 if labels.any() else -10.0
    model = LogisticRegression(C=_C, solver="liblinear").fit(present, labels)
    return model.coef_[0], float(model.intercept_[0])
