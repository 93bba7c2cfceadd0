"""Dialogues of several runs as one set of training data: which pass the gates, a balanced choice of them, and a
manifest that says of every dialogue why it stayed or went.

`pooled` reads runs and `write` makes the folder; all between takes and gives frames. Held-out items are in no frame and
in no file. Knows no model.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from datasketch import MinHash, MinHashLSH

from crslib.config import ExportParameters
from crslib.data import trl
from crslib.data.corpora.redial import CREDIT
from crslib.data.exports import talks
from crslib.data.source import Source
from crslib.dialogue.domain import Domain, of_run
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.words import words
from crslib.errors import CrsError
from crslib.files import write_parquet, writing
from crslib.identity import derive_seed, digest, file_sha256
from crslib.metrics.facts import Facts
from crslib.reporting import charts
from crslib.schemas import agent_words
from crslib.store import Run

ENDINGS = ("user_left", "recommender_left", "script_ended")  # a party ended the dialogue: no limit cut it
DUPLICATE, CHOICE = "near-duplicate", "choice"  # steps after the gates
MANIFEST: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "dialogue_id": pl.String,
    "run_id": pl.String,
    "condition": pl.String,
    "opener": pl.String,
    "wish": pl.String,
    "stop_reason": pl.String,
    "kept": pl.Boolean,
    "step": pl.String,
    "why": pl.String,
    "split": pl.String,
}
_SHINGLE, _PERMUTATIONS = 3, 128
_SURE = 0.9  # above it `datasketch` has too few bands; candidates are compared exactly anyway
_RANGE = (0.01, 0.99)  # quantiles of human dialogues between which a length is people's


@dataclass(frozen=True)
class Gate:
    """What a dialogue must fulfil: its values of all `metrics` (of table `scores`) lie between `low` and `high`.

    A metric that is undefined for a dialogue says nothing against it, unless it has to be `measured`.
    """

    name: str
    words: str
    metrics: tuple[str, ...]
    low: float | None = None
    high: float | None = None
    measured: bool = False


class Pool(NamedTuple):
    """Tables of several runs, with ids that say the run: `1a2b3c4d.u122.0`. `scores` may lack a metric.

    `people`: profile_id → whose ratings it was made from, to keep a person in one split. `domain`, `source`: what all
    runs are about, and where their items and ratings come from.
    """

    dialogues: pl.DataFrame
    turns: pl.DataFrame
    profiles: pl.DataFrame
    items: pl.DataFrame
    scores: pl.DataFrame
    people: Mapping[str, str]
    domain: Domain
    source: Source


def pooled(runs: Sequence[Run]) -> Pool:
    """The tables of `runs`.

    Raises `CrsError` for a run without dialogues or scores, two that are the same, and where they are about other data:
    another domain, another source, or an item that differs between their catalogues.
    """
    tables: defaultdict[str, list[pl.DataFrame]] = defaultdict(list)
    for run in runs:
        if not run.has("dialogues") or not run.has("scores"):
            raise CrsError(f"{run.path} holds no evaluated dialogues; give the folder of a run that succeeded")
        prefix = f"{run.run_id[:8]}."
        for name in ("dialogues", "turns", "profiles", "items", "scores"):
            ids = [column for column in ("dialogue_id", "profile_id") if column in (frame := run.read(name)).columns]
            tables[name].append(
                frame.with_columns(pl.concat_str(pl.lit(prefix), column).alias(column) for column in ids)
            )
    if len({run.run_id for run in runs}) < len(runs):
        raise CrsError("the same run is given twice; give different runs")
    about, sources = {of_run(run) for run in runs}, {Source.read(run.path) for run in runs}
    if len(about) > 1 or len(sources) > 1:
        raise CrsError("the runs are about different domains or data; curate runs on the same data together")
    facts = ["item_id", "title", "year", "kinds", "makers", "people", "attributes", "external_id"]
    items = pl.concat(tables["items"]).unique(facts, keep="first", maintain_order=True).sort("item_id")
    if (twice := items.filter(pl.col("item_id").is_duplicated())).height:
        raise CrsError(f"item {twice['item_id'][0]!r} differs between the runs' catalogues; give runs on the same data")
    profiles = pl.concat(tables["profiles"])
    people = dict(profiles.select("profile_id", "user_id").iter_rows())
    dialogues, turns, scores = (pl.concat(tables[name]) for name in ("dialogues", "turns", "scores"))
    return Pool(
        dialogues.sort("dialogue_id"),
        turns.sort("dialogue_id", "turn"),
        profiles.sort("profile_id"),
        items,
        scores,
        people,
        about.pop(),
        sources.pop(),
    )


# ── gates ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def gates(human: Facts, *, titles: float = 1.0, reactions: float = 0.8, contradictions: float = 0.0) -> list[Gate]:
    """The gates in their order. Lengths lie where those of 98 % of `human` dialogues do.

    `titles`: the least share of the recommended titles that exist. `reactions`: the least share of reactions that agree
    with the user's notes. `contradictions`: the largest share of the user's statements that contradict its summary.
    """
    talks = human.turns.group_by("dialogue_id", "role").agg(pl.col("n_words").mean(), n=pl.len())
    lengths = talks.group_by("dialogue_id").agg(pl.col("n").sum())["n"]
    words_of = {role: talks.filter(role=role)["n_words"] for role in (USER, RECOMMENDER)}
    return [
        Gate(
            "leaks",
            "no prompt held hidden or private text",
            ("leaked_titles", "leaked_profiles"),
            high=0,
            measured=True,
        ),
        Gate("loops", "no utterance repeats itself", ("user_loops", "recommender_loops"), high=0),
        Gate("titles", "recommended titles exist", ("recommender_validity",), low=titles),
        Gate("repeats", "no item is recommended twice", ("repeats",), high=0),
        Gate("reactions", "reactions agree with the user's notes", ("reaction_consistency",), low=reactions),
        Gate("contradictions", "the user keeps to its summary", ("contradictions",), high=contradictions),
        Gate("turns", "as many turns as people take", ("turns",), *_most(lengths)),
        *(
            Gate(f"{role} words", f"as many words a turn as people write ({role})", (f"{role}_words",), *_most(n_words))
            for role, n_words in words_of.items()
        ),
    ]


def _most(values: pl.Series) -> tuple[float, float]:
    low, high = np.quantile(values.to_numpy(), _RANGE)
    return float(low), float(high)


def failures(pool: Pool, wanted: Sequence[Gate]) -> pl.DataFrame:
    """The first gate that each dialogue fails: `dialogue_id`, `step`, `why`; no row for one that passes all.

    Besides the gates `wanted`, in this order: it has turns of both parties, and a party ended it (`ENDINGS`).
    """
    both = pool.turns.group_by("dialogue_id").agg(pl.col("role").n_unique() == 2)
    spoken = set(both.filter("role")["dialogue_id"])
    value_of = {(row[0], row[1]): row[2] for row in pool.scores.select("dialogue_id", "metric", "value").iter_rows()}
    rows = []
    for dialogue_id, reason in pool.dialogues.select("dialogue_id", "stop_reason").iter_rows():
        if dialogue_id not in spoken:
            rows.append((dialogue_id, "spoken", "not both parties say something"))
        elif reason not in ENDINGS:
            rows.append((dialogue_id, "ending", f"no party ended it: {reason}"))
        elif (why := next(_faults(dialogue_id, value_of, wanted), None)) is not None:
            rows.append((dialogue_id, *why))
    return pl.DataFrame(rows, schema={"dialogue_id": pl.String, "step": pl.String, "why": pl.String}, orient="row")


def _faults(
    dialogue_id: str, value_of: Mapping[tuple[str, str], float], wanted: Sequence[Gate]
) -> Iterator[tuple[str, str]]:
    for gate in wanted:
        for metric in gate.metrics:
            value = value_of.get((dialogue_id, metric))
            if value is None:
                if gate.measured:
                    yield gate.name, f"{metric} was not measured"
                continue
            if gate.low is not None and value < gate.low:
                yield gate.name, f"{metric} is {value:.3g}, less than {gate.low:.3g}"
            if gate.high is not None and value > gate.high:
                yield gate.name, f"{metric} is {value:.3g}, more than {gate.high:.3g}"


def near_duplicates(turns: pl.DataFrame, threshold: float) -> dict[str, tuple[str, float]]:
    """Dialogues that hold the same words as an earlier one that stays: dialogue_id → (that dialogue, similarity).

    Similarity: Jaccard index of the sets of three words in a row (within an utterance, titles included); candidates are
    found by MinHash (Broder 1997; `datasketch`), then compared exactly. In the order of ids, so a duplicate of a
    duplicate is compared with the one that stays.
    """
    index, shingles, twins = MinHashLSH(threshold=min(threshold, _SURE), num_perm=_PERMUTATIONS), {}, {}
    for dialogue_id, rows in talks(turns):
        shingles[dialogue_id] = own = {shingle for row in rows for shingle in _shingles(words(row["text"]))}
        sketch = MinHash(num_perm=_PERMUTATIONS, seed=1)
        sketch.update_batch([shingle.encode() for shingle in sorted(own)])
        near = (
            [(len(own & shingles[one]) / len(own | shingles[one]), one) for one in index.query(sketch)] if own else []
        )
        alike, twin = max(near, default=(0.0, ""), key=lambda pair: (pair[0], pair[1]))
        if alike >= threshold:
            twins[dialogue_id] = (twin, alike)
        elif own:
            index.insert(dialogue_id, sketch)
    return twins


def _shingles(tokens: Sequence[str]) -> Iterator[str]:
    for start in range(max(1, len(tokens) - _SHINGLE + 1)):
        if tokens:
            yield " ".join(tokens[start : start + _SHINGLE])


# ── the choice ──────────────────────────────────────────────────────────────────────────────────────────────────────


def strata(pool: Pool) -> pl.DataFrame:
    """What the choice balances: `dialogue_id`, `opener`, `wish` (first wanted kind, or a dash), `stop_reason`, and
    `recommended`, the ids of the items that the recommender names first."""
    wish = pl.col("target_kinds").list.first().fill_null("–").alias("wish")
    named = (
        pool.turns.explode("items")
        .drop_nulls("items")
        .select("dialogue_id", "turn", "role", item=pl.col("items").struct.field("item_id"))
        .drop_nulls("item")
        .unique(["dialogue_id", "item"], keep="first", maintain_order=True)
        .filter(role=RECOMMENDER)
        .group_by("dialogue_id", maintain_order=True)
        .agg(recommended="item")
    )
    return (
        pool.dialogues.join(
            pool.profiles.select("profile_id", wish), on="profile_id", how="left", maintain_order="left"
        )
        .join(named, on="dialogue_id", how="left", maintain_order="left")
        .select(
            "dialogue_id", "opener", pl.col("wish").fill_null("–"), "stop_reason", pl.col("recommended").fill_null([])
        )
    )


def choose(candidates: pl.DataFrame, n: int, seed: int) -> list[str]:
    """The ids of at most `n` of `candidates` (of `strata`), sorted.

    Strata of equal opener, wish and stop reason take turns, so that each gives as many as the others while it has some.
    Within one the dialogue comes first whose recommended items have been chosen least often so far (their mean count);
    ties, and the order of the strata, are drawn by `seed`.
    """
    queues: defaultdict[tuple[str, str, str], list[tuple[float, int, str]]] = defaultdict(list)
    items = dict(candidates.select("dialogue_id", "recommended").iter_rows())
    for dialogue_id, *stratum in candidates.select("dialogue_id", "opener", "wish", "stop_reason").iter_rows():
        queues[tuple(stratum)].append((0.0, derive_seed(seed, "choice", dialogue_id), dialogue_id))
    turns = sorted(queues, key=lambda stratum: (derive_seed(seed, "stratum", *stratum), stratum))
    for queue in queues.values():
        heapq.heapify(queue)
    counted: Counter[str] = Counter()

    def crowding(dialogue_id: str) -> float:
        own = items[dialogue_id]
        return sum(counted[item] for item in own) / len(own) if own else 0.0

    chosen: list[str] = []
    while len(chosen) < n and (turns := [stratum for stratum in turns if queues[stratum]]):
        for queue in (queues[stratum] for stratum in turns[: n - len(chosen)]):
            # A count only grows, so an entry is up to date or comes too early: it is put back with its count of now.
            while queue[0][0] < (now := crowding(queue[0][2])):
                heapq.heapreplace(queue, (now, *queue[0][1:]))
            dialogue_id = heapq.heappop(queue)[2]
            chosen.append(dialogue_id)
            counted.update(items[dialogue_id])
    return sorted(chosen)


def curate(
    pool: Pool, wanted: Sequence[Gate], *, n: int, similarity: float, held_out: float, seed: int
) -> pl.DataFrame:
    """The manifest: a row of `MANIFEST` per dialogue, sorted by id.

    `n`: how many to keep at most (0: all that pass). `step`: the gate, `DUPLICATE` or `CHOICE` that decided; empty for
    a dialogue that is kept. `split`: `test` for a share `held_out` of all persons, else `train`, as `trl.split_of` has
    it; empty for a dialogue that went. Raises `CrsError` where nobody is left to train on.
    """
    shares = ExportParameters.parse({"test": held_out, "seed": seed})
    about = strata(pool)
    decided = {row[0]: row[1:] for row in failures(pool, wanted).iter_rows()}
    passed = about.filter(~pl.col("dialogue_id").is_in(list(decided)))
    for one, (twin, alike) in near_duplicates(
        pool.turns.filter(pl.col("dialogue_id").is_in(passed["dialogue_id"].implode())), similarity
    ).items():
        decided[one] = (DUPLICATE, f"{alike:.2f} of its words in a row are those of {twin}")
    passed = passed.filter(~pl.col("dialogue_id").is_in(list(decided)))
    kept = set(choose(passed, n or passed.height, seed))
    rows = []
    conditions = pool.dialogues.select("dialogue_id", "run_id", "condition", "profile_id")
    for row in (
        about.drop("recommended").join(conditions, on="dialogue_id", maintain_order="left").iter_rows(named=True)
    ):
        dialogue_id = row["dialogue_id"]
        stays = dialogue_id in kept
        step, why = ("", "") if stays else decided.get(dialogue_id, (CHOICE, "enough of its kind were chosen"))
        split = trl.split_of(pool.people[row.pop("profile_id")], shares) if stays else ""
        rows.append({**row, "kept": stays, "step": step, "why": why, "split": split})
    return pl.DataFrame(rows, schema=dict(MANIFEST)).sort("dialogue_id")


def funnel(manifest: pl.DataFrame, wanted: Sequence[Gate]) -> pl.DataFrame:
    """How many dialogues are left after each step: `step`, `left`, `gone`; the first row holds all."""
    steps = ["spoken", "ending", *(gate.name for gate in wanted), DUPLICATE, CHOICE]
    gone = Counter(manifest["step"])
    rows, left = [("all", manifest.height, 0)], manifest.height
    for step in steps:
        left -= gone[step]
        rows.append((step, left, gone[step]))
    return pl.DataFrame(rows, schema={"step": pl.String, "left": pl.Int64, "gone": pl.Int64}, orient="row")


# ── the folder ──────────────────────────────────────────────────────────────────────────────────────────────────────


def write(
    pool: Pool,
    manifest: pl.DataFrame,
    steps: pl.DataFrame,
    runs: Sequence[Run],
    settings: Mapping[str, Any],
    folder: Path,
) -> Run:
    """Writes the set into `folder`: its tables as those of a run, so that `crs export` and `crs look` take it,
    `manifest.parquet`, `funnel.svg` and `README.md`, the data card.

    Raises `CrsError` where the runs' recommenders looked up facts in one and not in another, because one export cannot
    be true to both, and when the folder holds something else or cannot be written.
    """
    infos = [run.info for run in runs]
    facts = {bool(info.get("facts")) for info in infos}
    if len(facts) > 1:
        raise CrsError("the recommender looked up facts in some of the runs only; curate runs of one kind at a time")
    baselines = ", ".join(sorted({info.get("parameters", {}).get("baseline") or "" for info in infos} - {""}))
    if folder.exists() and any(folder.iterdir()) and not (folder / trl.MANIFEST).exists():
        raise CrsError(f"{folder} holds other files; give a new folder")
    kept = manifest.filter("kept")["dialogue_id"].implode()
    set_ = Run(folder)
    dialogues = pool.dialogues.filter(pl.col("dialogue_id").is_in(kept))
    tables = {
        "dialogues": dialogues,
        "turns": pool.turns.filter(pl.col("dialogue_id").is_in(kept)),
        "profiles": pool.profiles.join(dialogues, on="profile_id", how="semi", maintain_order="left"),
        "items": pool.items,
    }
    for name, table in tables.items():
        set_.write(name, table)
    pool.domain.write(folder)
    pool.source.write(folder)
    write_parquet(manifest, folder / trl.MANIFEST)
    with writing(folder / "funnel.svg") as temporary:
        temporary.write_text(charts.svg(charts.funnel(steps)), encoding="utf-8")
    sources = [
        {"run_id": info.get("run_id", ""), "condition": info.get("parameters", {}).get("condition", ""),
         "agents": info.get("agents", {}), "scores_sha256": file_sha256(run.path / "scores.parquet")}
        for run, info in zip(runs, infos, strict=True)
    ]  # fmt: skip
    set_.update(
        run_id=digest([sources, dict(settings), manifest["dialogue_id"].to_list()], "curated"),
        status="success",
        parameters={"condition": folder.name, "baseline": baselines},
        facts=facts.pop(),
        curated={"settings": dict(settings), "sources": sources, "steps": steps.to_dicts()},
    )
    with writing(folder / "README.md") as temporary:
        temporary.write_text(card(set_.info, manifest, pool.source), encoding="utf-8")
    return set_


def card(info: Mapping[str, Any], manifest: pl.DataFrame, source: Source) -> str:
    """The data card of a set: what it is made of, every step with its numbers, and whose terms hold."""
    curated = info["curated"]
    kept = manifest.filter("kept")
    counts = kept.group_by("split").len().sort("split")
    return "\n".join(
        [
            "---",
            "language: en",
            "tags: [conversational-recommendation, synthetic, simulation]",
            "---",
            "# Curated dialogues",
            "",
            f"{kept.height} of {manifest.height} dialogues of {len(curated['sources'])} runs"
            f" ({', '.join(f'{n} {split}' for split, n in counts.iter_rows())}; a person is in one split only).",
            "`manifest.parquet` says of every dialogue why it stayed or went; `funnel.svg` draws the table below.",
            "",
            "| step | left | gone |",
            "|---|---|---|",
            *(f"| {step['step']} | {step['left']} | {step['gone']} |" for step in curated["steps"]),
            "",
            f"Settings: {', '.join(f'{name} {value}' for name, value in curated['settings'].items())}.",
            "",
            *(_made(run) for run in curated["sources"]),
            f"- The built-in adapters were trained on ReDial ({CREDIT}).",
            f"- Profiles: from ratings of {source.credit}. Licence: that of the ratings, and of the models.",
            "",
        ]
    )


def _made(run: Mapping[str, Any]) -> str:
    agents = "; ".join(f"{role}: {agent_words(agent)}" for role, agent in run["agents"].items())
    return f"- Run {run['run_id']}, condition {run['condition']}" + (f"; {agents}." if agents else ".")
