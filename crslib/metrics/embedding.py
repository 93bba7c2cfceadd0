"""Embeddings of turns by a language model: their Fréchet distance to those of human turns, and how varied they are.

The built-in model, without any adapter, reads every turn by itself, titles masked as for the two-sample test; the
turn's embedding is the mean of its tokens' hidden states after layer `LAYER`. The reader is the same for all
conditions, whatever models they simulate with. A few dimensions of such states are hundreds of times as large as the
others and would dominate every distance, so each is divided by its standard deviation over human turns (Timkey and van
Schijndel, All Bark and No Bite, EMNLP 2021).

Human turns are stored as numbers: per role the principal axes of their embeddings, and each turn's place on them.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from crslib import files, json_files, stats
from crslib.config import n_threads
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError
from crslib.files import Progress, no_progress
from crslib.identity import derive_seed, file_sha256
from crslib.metrics.base import Metric, Result, Results, per_role
from crslib.metrics.diversity import DRAWS, HALF_DRAWS, SAMPLE, TIMES
from crslib.metrics.realism import N_SPLITS, splits
from crslib.metrics.two_sample import masked
from crslib.schemas import STRICT, Schema

LAYER = 5  # of 30, from 0; the later ones are not computed
COMPONENTS = 12  # principal components; a default run has some 400 turns of either role
PER_COMPONENT = 10  # turns needed for each component
MOST = 700  # dialogues of a run that are read, drawn at random: some two minutes on two cores
PREFIX = "<|im_start|>user\n"  # before every turn, of either role: the state of a first token has no context
_FILES = ("embeddings.parquet", "axes.parquet", "embeddings.json")
_THOUSANDTHS = 1000  # places are stored as whole numbers
_PLACES: Schema = {"dialogue_id": pl.String, "role": pl.String, "place": pl.Array(pl.Int16, COMPONENTS)}


@with_config(STRICT)
class _Stored(TypedDict):
    """`embeddings.json`."""

    source: dict[str, Any]
    vendi: dict[str, float]


_STORED = TypeAdapter(_Stored)
_EMBEDDING = (
    "the mean state of its tokens, titles masked, in the built-in model, each dimension standardised by human turns; "
    f"of a run at most {MOST} random dialogues are read"
)
_SETTINGS = f"model:smollm2|layer:{LAYER}"
FRECHET = per_role(
    Metric("{role}_frechet", "realism", "Fréchet distance of the {role}'s turns", "variances", "lower",
        "|m₁ − m₂|² + Tr(C₁ + C₂ − 2 (C₁ C₂)^½) of the {role}'s turns, run against human dialogues, as a share of the "
        f"variance of human turns, on the first {COMPONENTS} principal components of these; a turn's embedding is "
        f"{_EMBEDDING}. It grows as the number of turns falls. Human: mean over {N_SPLITS} draws of as many human "
        "dialogues as the run has (at most half of them) against the rest; floor: the 95 % quantile of these draws.",
        "Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017",
        settings=f"{_SETTINGS}|components:{COMPONENTS}|splits:{N_SPLITS}", chart=True,
        claim="is closer to human dialogues")
)  # fmt: skip
VENDI = per_role(
    Metric("{role}_vendi", "diversity", f"Effective number of different turns among {SAMPLE}, {{role}} (Vendi)",
        "turns", "higher",
        f"exp of the entropy of the eigenvalues of K/n, K the cosines of the embeddings of {SAMPLE} turns, one "
        f"each of {SAMPLE} random dialogues; mean of {DRAWS} samples; a turn's embedding is {_EMBEDDING}.",
        "Friedman and Dieng, The Vendi Score, TMLR 2023", settings=f"{_SETTINGS}|sample:{SAMPLE}|draws:{DRAWS}",
        resampling="half", max_resamples=TIMES, chart=True, claim="is more diverse")
)  # fmt: skip


class Reader(Protocol):
    """A model that reads a text: `engines.llama.LayerReader`."""

    def states(self, text: str) -> np.ndarray:
        """Hidden states, (tokens, width)."""
        ...


@contextlib.contextmanager
def reader() -> Iterator[Reader]:
    """The built-in model as reader. Raises `CrsError` when it is not installed."""
    from crslib.engines import llama  # the definitions above need no engine

    with (
        contextlib.closing(llama.Model(llama.model_path(llama.BUILT_IN))) as model,
        contextlib.closing(llama.LayerReader(model, LAYER, PREFIX, threads=n_threads(0))) as opened,
    ):
        yield opened


def source() -> dict[str, Any]:
    """All that an embedding depends on. Raises `CrsError` when the built-in model is not installed."""
    from crslib.engines import llama

    model = llama.model_path(llama.BUILT_IN)
    return {"model_sha256": file_sha256(model), "layer": LAYER, "prefix": PREFIX, "components": COMPONENTS}


# ── embeddings ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Embedded:
    """Turns of one role, sorted: their `dialogues` (n,) and `vectors` (n, width)."""

    dialogues: np.ndarray
    vectors: np.ndarray


def embed(turns: pl.DataFrame, reader: Reader, mask: str, progress: Progress = no_progress) -> dict[str, Embedded]:
    """The turns of either role (table `turns`) that hold words; equal texts are read once. `mask`: the word for a
    title; `progress`: texts read."""
    spoken = turns.sort("dialogue_id", "turn").with_columns(
        pl.col("text").map_elements(partial(masked, mask=mask), return_dtype=pl.String).alias("masked")
    )
    texts = sorted(set(spoken["masked"]) - {""})
    means = {}
    for done, text in enumerate(texts, start=1):
        means[text] = reader.states(text).mean(axis=0, dtype=np.float64)
        progress(done, len(texts))
    embedded = {}
    for role in (USER, RECOMMENDER):
        rows = spoken.filter(pl.col("role") == role, pl.col("masked") != "")
        if len(rows):
            vectors = np.stack([means[text] for text in rows["masked"]])
            embedded[role] = Embedded(rows["dialogue_id"].to_numpy(), vectors)
    return embedded


# ── human turns ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Human:
    """Human turns. Per role: `centre` and `scale` (width,), mean and standard deviation of the embeddings; the
    principal `axes` (width, k) of the standardised embeddings, scaled so that the variances on them add up to 1; the
    turns' `places` on them; `vendi`, the Vendi score. `source`: see `source()`."""

    source: Mapping[str, Any]
    centre: dict[str, np.ndarray]
    scale: dict[str, np.ndarray]
    axes: dict[str, np.ndarray]
    places: dict[str, Embedded]
    vendi: dict[str, float]

    def standardised(self, role: str, turns: Embedded) -> Embedded:
        """Turns in standard deviations of human turns from their mean."""
        return Embedded(turns.dialogues, (turns.vectors - self.centre[role]) / self.scale[role])


def measure(embedded: Mapping[str, Embedded], source: Mapping[str, Any]) -> Human:
    """The axes, places and Vendi scores of human turns."""
    human = Human(source, {}, {}, {}, {}, {})
    for role, turns in embedded.items():
        human.centre[role], human.scale[role] = turns.vectors.mean(axis=0), turns.vectors.std(axis=0)
        standardised = human.standardised(role, turns)
        human.axes[role] = _axes(standardised.vectors)
        human.places[role] = Embedded(turns.dialogues, standardised.vectors @ human.axes[role])
        if (estimate := vendi(standardised, times=0, seed=0)) is not None:
            human.vendi[role] = estimate.value
    return human


def _axes(standardised: np.ndarray) -> np.ndarray:
    variances, vectors = np.linalg.eigh(np.cov(standardised, rowvar=False, bias=True))
    variances, vectors = variances[::-1][:COMPONENTS], vectors[:, ::-1][:, :COMPONENTS]
    # The sign of an axis is arbitrary; fixing it makes the stored files reproducible.
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    return vectors * signs / np.sqrt(variances.sum())


def write(human: Human, folder: Path) -> None:
    """Stores human turns as Parquet and JSON. Raises `CrsError` when the folder cannot be written."""
    places, rows = [], []
    for role, turns in human.places.items():
        whole = np.round(turns.vectors * _THOUSANDTHS).astype(np.int16)
        places += [(dialogue, role, place) for dialogue, place in zip(turns.dialogues, whole.tolist(), strict=True)]
        stacked = np.stack([human.centre[role], human.scale[role], *human.axes[role].T]).astype(np.float32)
        rows += [(role, number, row) for number, row in enumerate(stacked.tolist())]
    schema: Schema = {"role": pl.String, "row": pl.Int32, "values": pl.Array(pl.Float32, len(rows[0][2]))}
    files.write_parquet(pl.DataFrame(places, schema=_PLACES, orient="row"), folder / _FILES[0])
    files.write_parquet(pl.DataFrame(rows, schema=schema, orient="row"), folder / _FILES[1])
    text = json.dumps({"source": human.source, "vendi": human.vendi}, indent=2, sort_keys=True)
    with files.writing(folder / _FILES[2]) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> Human:
    """Stored human turns. Raises `CrsError` when a file is missing or damaged."""
    try:
        content = json_files.read_as(folder / _FILES[2], _STORED, "")
        places, axes = (pl.read_parquet(folder / name, glob=False) for name in _FILES[:2])
        human = Human(content["source"], {}, {}, {}, {}, content["vendi"])
        for role in axes["role"].unique(maintain_order=True):
            rows = axes.filter(role=role).sort("row")["values"].to_numpy().astype(float)
            human.centre[role], human.scale[role], human.axes[role] = rows[0], rows[1], rows[2:].T
            of_role = places.filter(role=role)
            vectors = of_role["place"].to_numpy() / _THOUSANDTHS
            human.places[role] = Embedded(of_role["dialogue_id"].to_numpy(), vectors)
        return human
    except (CrsError, *files.DAMAGED, ValueError, KeyError, IndexError, TypeError):
        raise CrsError(
            f"the human embeddings in {folder} are missing or damaged; make them with `crs data embeddings`"
        ) from None


# ── metrics ─────────────────────────────────────────────────────────────────────────────────────────────────────


def evaluate(turns: pl.DataFrame, folder: Path, mask: str, *, times: int, seed: int) -> Results:
    """`{role}_frechet` and `{role}_vendi` of a run (table `turns`) against the human turns stored in `folder`, in which
    `mask` is the word for a title."""
    spoken = (
        turns.filter(pl.col("text").str.strip_chars() != "")
        .group_by("role")
        .agg(pl.len(), pl.col("dialogue_id").n_unique().alias("dialogues"))
    )
    enough = (pl.col("len") >= PER_COMPONENT * COMPONENTS) | (pl.col("dialogues") >= SAMPLE)
    if spoken.filter(enough).is_empty():
        needed = f"{PER_COMPONENT * COMPONENTS} turns of a role, or {SAMPLE} dialogues"
        return Results({}, missing=f"too few turns: there must be {needed}")
    try:
        human = read(folder)
    except CrsError as error:
        return Results({}, missing=str(error))
    if human.source != source():
        problem = f"the human embeddings in {folder} are of another model; make them with `crs data embeddings`"
        return Results({}, missing=problem)
    with reader() as opened:
        return Results(compare(embed(_drawn(turns, seed), opened, mask), human, times=times, seed=seed))


def _drawn(turns: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The turns of `MOST` random dialogues, or of all where there are no more."""
    ids = sorted(turns["dialogue_id"].unique(), key=lambda dialogue: derive_seed(seed, "embedded", dialogue))
    return turns.filter(pl.col("dialogue_id").is_in(ids[:MOST]))


def compare(embedded: Mapping[str, Embedded], human: Human, *, times: int, seed: int) -> dict[str, Result]:
    """`{role}_frechet` and `{role}_vendi` of a run, where there are enough turns."""
    results = {}
    for role, turns in embedded.items():
        if role not in human.places:
            continue
        standardised = human.standardised(role, turns)
        if len(turns.vectors) >= PER_COMPONENT * COMPONENTS:
            ours = Embedded(turns.dialogues, standardised.vectors @ human.axes[role])
            results[f"{role}_frechet"] = _distance(_sums(ours), _sums(human.places[role]), times, seed)
        score = vendi(standardised, times=times, seed=seed)
        if score is not None and role in human.vendi:
            results[f"{role}_vendi"] = Result(score, human.vendi[role])
    return results


def _distance(ours: np.ndarray, theirs: np.ndarray, times: int, seed: int) -> Result:
    """The run's distance to human turns; the human value and the floor as in `realism.against_human`."""
    moments = _moments(theirs, np.ones((1, len(theirs))))
    drawn = splits(len(theirs), len(ours), seed)
    between = frechet(*_moments(theirs, drawn), *_moments(theirs, 1 - drawn))
    estimate = stats.bootstrap(
        lambda counts: frechet(*_moments(ours, counts), *moments), len(ours), times=times, seed=seed
    )
    return Result(estimate, float(between.mean()), float(np.quantile(between, stats.LEVEL)))


def _sums(turns: Embedded) -> np.ndarray:
    """A row per dialogue: how many turns it has, their sum (d) and the sum of their outer products (d²)."""
    ids, row = np.unique(turns.dialogues, return_inverse=True)
    squares = (turns.vectors[:, :, None] * turns.vectors[:, None, :]).reshape(len(row), -1)
    sums = np.zeros((len(ids), 1 + turns.vectors.shape[1] + squares.shape[1]))
    np.add.at(sums, row, np.hstack([np.ones((len(row), 1)), turns.vectors, squares]))
    return sums


def _moments(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (k, d), covariances (k, d, d) of turns, each dialogue (row of `sums`) counted as `counts` (k, n) says."""
    total = counts @ sums
    width = math.isqrt(sums.shape[1])  # d² < 1 + d + d² < (d + 1)²
    mean = total[:, 1 : width + 1] / total[:, :1]
    second = (total[:, width + 1 :] / total[:, :1]).reshape(-1, width, width)
    return mean, second - mean[:, :, None] * mean[:, None, :]


def frechet(mean: np.ndarray, covariance: np.ndarray, mean_2: np.ndarray, covariance_2: np.ndarray) -> np.ndarray:
    """|m₁ − m₂|² + Tr(C₁ + C₂ − 2 (C₁ C₂)^½), the squared Fréchet distance of Gaussians (Heusel et al., GANs Trained by
    a Two Time-Scale Update Rule, NeurIPS 2017, eq. 6). Means (…, d), covariances (…, d, d)."""
    values, vectors = np.linalg.eigh(covariance_2)
    root = (vectors * np.sqrt(np.clip(values, 0, None))[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    # (C₁ C₂)^½ has the trace of (C₂^½ C₁ C₂^½)^½, which is symmetric.
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ covariance @ root), 0, None)).sum(axis=-1)
    traces = np.trace(covariance, axis1=-2, axis2=-1) + np.trace(covariance_2, axis1=-2, axis2=-1)
    return ((mean - mean_2) ** 2).sum(axis=-1) + traces - 2 * cross


def vendi(turns: Embedded, *, times: int, seed: int) -> stats.Estimate | None:
    """Effective number of different turns among `SAMPLE`; None with fewer than `SAMPLE` dialogues.

    One random turn from each of `SAMPLE` random dialogues, mean over `DRAWS` samples; similarity is the cosine of the
    standardised embeddings. The interval is from half-samples; none with `times` = 0.
    """
    ids, first, count = np.unique(turns.dialogues, return_index=True, return_counts=True)
    if len(ids) < SAMPLE:
        return None
    unit = turns.vectors / np.linalg.norm(turns.vectors, axis=1, keepdims=True)
    pick = np.random.default_rng(derive_seed(seed, "vendi", len(ids)))

    def score(rows: np.ndarray, draws: int) -> float:
        dialogues = rows[pick.random((draws, len(rows))).argsort(axis=1)[:, :SAMPLE]]
        samples = unit[first[dialogues] + pick.integers(count[dialogues])]
        return float(vendi_score(samples @ np.swapaxes(samples, 1, 2)).mean())

    value = score(np.arange(len(ids)), DRAWS)
    if not times or len(ids) // 2 < SAMPLE:
        return stats.Estimate(value, None, None, len(ids))
    halves = stats.halves(len(ids), min(times, TIMES), seed)
    replicates = np.array([score(np.flatnonzero(half), HALF_DRAWS) for half in halves])
    return stats.Estimate(value, *stats.interval(replicates, value), len(ids), replicates)


def vendi_score(similarity: np.ndarray) -> np.ndarray:
    """exp of the entropy of the eigenvalues of K/n (Friedman and Dieng, The Vendi Score, TMLR 2023): from 1, all
    the same, to n, all different. K: (…, n, n), positive semidefinite with 1 on the diagonal."""
    values = np.clip(np.linalg.eigvalsh(similarity / similarity.shape[-1]), 0, None)
    logs = np.log(values, out=np.zeros_like(values), where=values > 0)
    return np.exp(-(values * logs).sum(axis=-1))
