"""Whether the recommender names items that the user would like: recall of held-out items, match of attributes,
acceptance, repeats, concentration.

Reads held-out items, after the simulation only.
"""

import numpy as np
import polars as pl
from scipy import sparse

from crslib import stats
from crslib.data.catalog import item_names
from crslib.dialogue.domain import Domain
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.metrics.base import Metric, parts_of
from crslib.metrics.facts import Facts

CUTOFFS = (1, 3, 5, 10)

METRICS = (
    *(
        Metric(f"recall_at_{n}", "recommendation", f"Recall@{n} of held-out liked items", "share", "higher",
            f"Mean over dialogues of |(first {n} of L) ∩ T| / |T|. L: the distinct items that the recommender names, "
            "in order, without those that the user named before; a title that is not in the catalogue takes a rank. T: "
            "the profile's held-out liked items.",
            "Herlocker et al., Evaluating Collaborative Filtering Recommender Systems, TOIS 2004", chart=n == 5,
            claim="recommends better" if n == 5 else None, needs="holdouts")
        for n in CUTOFFS
    ),
    Metric("hits", "recommendation", "Dialogues with a hit", "share", "higher",
        "Share of dialogues in which the recommender names at least one held-out liked item that the user had not "
        "named.",
        headline="dialogues recommend a hidden {label}", chart=True, claim="recommends better", needs="holdouts"),
    Metric("attribute_match", "recommendation", "Attribute match of recommendations", "share", "higher",
        "Mean over recommended catalogue items of the share of target attributes (each kind, decade, person, "
        "maker and further one) they have; attributes unknown for an item are left out.",
        chart=True, claim="recommends better", needs="profiles"),
    Metric("preference_coverage", "recommendation", "Preferred kinds offered", "share", "higher",
        "Mean over dialogues of the share of the profile's liked kinds that some recommended item has.",
        needs="profiles"),
    Metric("acceptance", "recommendation", "Recommendations that the user says it likes", "share", "human",
        "Of the recommended items that the user's next turn calls good or bad (phrase patterns), the share that it "
        "calls good.",
        chart=True),
    Metric("repeats", "recommendation", "Recommender repeats an item", "share", "lower",
        "Share of the recommender's item mentions whose item it had named in an earlier turn.", chart=True,
        claim="recommends better"),
    *(
        Metric(f"{role}_validity", "recommendation", f"Titles that exist, {role}", "share", "higher",
            f"Share of the {role}'s [[…]] mentions that are items of the catalogue.",
            headline="recommended titles exist" if role == RECOMMENDER else "", chart=role == RECOMMENDER)
        for role in (USER, RECOMMENDER)
    ),
    Metric("coverage", "recommendation", "Catalogue recommended", "share", "higher",
        "Share of all catalogue items that were recommended at least once in the run; grows with the size of the run.",
        resampling="half"),
    Metric("gini", "recommendation", "Concentration of recommendations (Gini)", "index", "human",
        "Gini coefficient of the recommendation counts of the items recommended at least once: 0 where all counts are "
        "equal. Human: the same in as many human dialogues.",
        "Fleder and Hosanagar, Blockbuster Culture's Next Rise or Fall, Management Science 2009", resampling="half",
        chart=True),
)  # fmt: skip


def recommended(facts: Facts) -> pl.DataFrame:
    """The items that the recommender named first: (dialogue_id, rank, turn, n_turn, item, linked), each once, in order.

    Items that the user had named before are left out. Titles that are not in the catalogue take a rank too, as the user
    had to answer them. `rank` and `n_turn`, the number of the recommender's turn, begin at 1.
    """
    numbered = facts.turns.filter(pl.col("role") == RECOMMENDER).select(
        "dialogue_id", "turn", pl.col("turn").rank("ordinal").over("dialogue_id").cast(pl.Int32).alias("n_turn")
    )
    return (
        facts.mentions.unique(["dialogue_id", "item"], keep="first", maintain_order=True)
        .filter(pl.col("role") == RECOMMENDER)
        .join(numbered, on=["dialogue_id", "turn"], maintain_order="left")
        .select(
            "dialogue_id",
            pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("dialogue_id").alias("rank"),
            "turn",
            "n_turn",
            "item",
            "linked",
        )
    )


def hits(facts: Facts, dialogues: pl.DataFrame, holdouts: pl.DataFrame) -> pl.DataFrame:
    """The recommended items that are held-out and liked: the rows of `recommended` that hit."""
    targets = dialogues.select("dialogue_id", "profile_id").join(holdouts.filter("liked"), on="profile_id")
    return recommended(facts).join(
        targets.select("dialogue_id", pl.col("item_id").alias("item")),
        on=["dialogue_id", "item"],
        how="semi",
        maintain_order="left",
    )


def behaviour(facts: Facts) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole) of the metrics without targets: acceptance, repeats, validity."""
    accepted = facts.reactions.drop_nulls("says_liked").select(
        "dialogue_id", pl.lit("acceptance").alias("metric"), pl.col("says_liked").alias("value")
    )
    own = facts.mentions.filter(pl.col("role") == RECOMMENDER)
    repeated = own.select(
        "dialogue_id",
        pl.lit("repeats").alias("metric"),
        (pl.col("turn") > pl.col("turn").min().over("dialogue_id", "item")).alias("value"),
    )
    exists = [
        facts.mentions.filter(pl.col("role") == role).select(
            "dialogue_id", pl.lit(f"{role}_validity").alias("metric"), pl.col("linked").alias("value")
        )
        for role in (USER, RECOMMENDER)
    ]
    return parts_of(pl.concat([accepted, repeated, *exists]))


def parts(
    facts: Facts,
    dialogues: pl.DataFrame,
    profiles: pl.DataFrame,
    holdouts: pl.DataFrame,
    items: pl.DataFrame,
    domain: Domain,
) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole) of the metrics that need the profile: recall, hits, attribute match and
    preference coverage; `behaviour` has the others."""
    return pl.concat(
        [
            _recall(facts, dialogues, holdouts),
            _attribute_match(facts, dialogues, profiles, items, domain),
            _preference_coverage(facts, dialogues, profiles, items),
        ]
    )


def _recall(facts: Facts, dialogues: pl.DataFrame, holdouts: pl.DataFrame) -> pl.DataFrame:
    n_targets = holdouts.filter("liked").group_by("profile_id").agg(pl.len().alias("n_targets"))
    ranks = (
        hits(facts, dialogues, holdouts)
        .group_by("dialogue_id")
        .agg(
            *((pl.col("rank") <= n).sum().alias(f"recall_at_{n}") for n in CUTOFFS),
            (pl.col("n_turn") == 1).any().alias("first_turn_hits"),
            pl.lit(True).alias("hits"),
        )
    )
    per_dialogue = (
        dialogues.select("dialogue_id", "profile_id")
        .join(n_targets, on="profile_id")
        .join(ranks, on="dialogue_id", how="left")
        .with_columns(pl.col(f"recall_at_{n}").fill_null(0) / pl.col("n_targets") for n in CUTOFFS)
        .with_columns(pl.col("hits", "first_turn_hits").fill_null(False).cast(pl.Float64))
        .select("dialogue_id", "hits", "first_turn_hits", *(f"recall_at_{n}" for n in CUTOFFS))
    )
    return per_dialogue.unpivot(index="dialogue_id", variable_name="metric", value_name="part").select(
        "dialogue_id", "metric", "part", pl.lit(1.0).alias("whole")
    )


def hit_by_turn(
    facts: Facts, dialogues: pl.DataFrame, holdouts: pl.DataFrame, *, times: int, seed: int
) -> pl.DataFrame:
    """Share of dialogues in which a held-out liked item was recommended by the recommender's n-th turn, with interval.

    Columns n_turn, value, low, high. Dialogues that ended earlier count with the hits that they had by then.
    """
    first = hits(facts, dialogues, holdouts).group_by("dialogue_id").agg(pl.col("n_turn").min().alias("first"))
    with_targets = dialogues.join(holdouts.filter("liked"), on="profile_id", how="semi").select("dialogue_id")
    ordered = with_targets.join(first, on="dialogue_id", how="left").sort("dialogue_id")["first"]
    last = recommended(facts).select(pl.col("n_turn").max()).item()
    if not len(ordered) or last is None:
        return pl.DataFrame(schema={"n_turn": pl.Int64, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64})
    rows = []
    for n_turn in range(1, last + 1):
        by_then = (ordered <= n_turn).fill_null(False).cast(pl.Float64).to_numpy()
        estimate = stats.mean(by_then, times=times, seed=seed)
        assert estimate is not None
        rows.append((n_turn, estimate.value, estimate.low, estimate.high))
    return pl.DataFrame(rows, schema=["n_turn", "value", "low", "high"], orient="row")


def _attribute_match(
    facts: Facts, dialogues: pl.DataFrame, profiles: pl.DataFrame, items: pl.DataFrame, domain: Domain
) -> pl.DataFrame:
    wanted = dialogues.select("dialogue_id", "profile_id").join(
        profiles.select("profile_id", *(name for name in profiles.columns if name.startswith("target_"))),
        on="profile_id",
    )
    pairs = (
        recommended(facts)
        .filter("linked")
        .join(wanted, on="dialogue_id", maintain_order="left")
        .join(items, left_on="item", right_on="item_id", maintain_order="left")
    )
    n_kinds, n_further = pl.col("target_kinds").list.len(), pl.col("target_attributes").list.len()
    span = domain.time.span or 10
    met = pl.col("target_kinds").list.set_intersection("kinds").list.len().cast(pl.Int32)
    decade = (pl.col("year") // span * span == pl.col("target_decade")).fill_null(False)
    person = pl.col("people").list.contains(pl.col("target_person")).fill_null(False)
    maker = pl.col("makers").list.contains(pl.col("target_maker")).fill_null(False)
    further = _named("target_attributes").list.set_intersection(_named("attributes")).list.len().cast(pl.Int32)
    # A person or maker is only compared where the catalogue knows the item's people or makers.
    known = [
        (n_kinds > 0, n_kinds.cast(pl.Int32), met),
        (pl.col("target_decade").is_not_null() & pl.col("year").is_not_null(), pl.lit(1), decade),
        (pl.col("target_person").is_not_null() & (pl.col("people").list.len() > 0), pl.lit(1), person),
        (pl.col("target_maker").is_not_null() & (pl.col("makers").list.len() > 0), pl.lit(1), maker),
        ((n_further > 0) & (pl.col("attributes").list.len() > 0), n_further.cast(pl.Int32), further),
    ]
    asked = pl.sum_horizontal(pl.when(here).then(n).otherwise(0) for here, n, _ in known)
    given = pl.sum_horizontal(pl.when(here).then(value.cast(pl.Int32)).otherwise(0) for here, _, value in known)
    return (
        pairs.with_columns(asked.alias("asked"), given.alias("given"))
        .filter(pl.col("asked") > 0)
        .group_by("dialogue_id")
        .agg((pl.col("given") / pl.col("asked")).sum().alias("part"), pl.len().cast(pl.Float64).alias("whole"))
        .select("dialogue_id", pl.lit("attribute_match").alias("metric"), "part", "whole")
        .sort("dialogue_id")
    )


def _named(column: str) -> pl.Expr:
    """Further attributes as texts: Polars has no sets of structs."""
    one = pl.element().struct
    return pl.col(column).list.eval(pl.format("{}={}", one.field("name"), one.field("value"))).fill_null([])


def _preference_coverage(
    facts: Facts, dialogues: pl.DataFrame, profiles: pl.DataFrame, items: pl.DataFrame
) -> pl.DataFrame:
    liked = (
        dialogues.select("dialogue_id", "profile_id")
        .join(profiles.select("profile_id", pl.col("liked_kinds").alias("kind")), on="profile_id")
        .explode("kind")
        .drop_nulls("kind")
        .select("dialogue_id", "kind")
        .unique()
    )
    offered = (
        recommended(facts)
        .filter("linked")
        .join(items.select("item_id", pl.col("kinds").alias("kind")), left_on="item", right_on="item_id")
        .explode("kind")
        .select("dialogue_id", "kind")
        .unique()
        .with_columns(pl.lit(1.0).alias("offered"))
    )
    return (
        liked.join(offered, on=["dialogue_id", "kind"], how="left")
        .group_by("dialogue_id")
        .agg(pl.col("offered").fill_null(0.0).mean().alias("part"))
        .select("dialogue_id", pl.lit("preference_coverage").alias("metric"), "part", pl.lit(1.0).alias("whole"))
        .sort("dialogue_id")
    )


# ── recommended items over all dialogues ─────────────────────────────────────────────────────────────────────────────


def item_counts(facts: Facts) -> sparse.csr_array:
    """Whether (0 or 1) each catalogue item was recommended in each dialogue: (dialogues, items), dialogues by id."""
    rows = recommended(facts).filter("linked")
    names = rows["item"].unique().sort()
    index = pl.DataFrame({"item": names}).with_row_index("column")
    where = pl.DataFrame({"dialogue_id": facts.dialogue_ids}).with_row_index("row")
    at = rows.join(index, on="item").join(where, on="dialogue_id")
    shape = (len(facts.dialogue_ids), len(names))
    return sparse.csr_array((np.ones(len(at)), (at["row"].to_numpy(), at["column"].to_numpy())), shape=shape)


def gini(counts: np.ndarray) -> np.ndarray:
    """Gini coefficient of each row over its items with a positive count, from 0 (all equal) to 1; NaN without any."""
    values = np.sort(counts, axis=-1)
    n = (values > 0).sum(axis=-1)
    # Items that were never recommended sort to the front: ranks count from the first positive one.
    rank = np.arange(1, values.shape[-1] + 1) - (values.shape[-1] - n)[..., None]
    total, weighted = values.sum(axis=-1), (rank * values).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 2 * weighted / (n * total) - (n + 1) / n, np.nan)


def coverage(facts: Facts, items: pl.DataFrame, *, times: int, seed: int) -> stats.Estimate | None:
    """Share of the catalogue (table `items`) that was recommended at least once in the whole run."""
    counts = item_counts(facts)
    if not counts.nnz or items.is_empty():
        return None
    return stats.subsample(
        lambda drawn: ((drawn @ counts) > 0).sum(axis=1) / len(items), counts.shape[0], times=times, seed=seed
    )


def popularity(facts: Facts, human: Facts, items: pl.DataFrame) -> pl.DataFrame:
    """Recommended items, most frequent first: (source, rank, item_id, name, n, share of the dialogues).

    `source`: simulated or human. `name` is null for human dialogues: ReDial's ids are not the catalogue's.
    """
    frames = []
    for source, side in (("simulated", facts), ("human", human)):
        rows = recommended(side).filter("linked")
        frames.append(
            rows.group_by("item")
            .agg(pl.len().alias("n"))
            .sort(["n", "item"], descending=[True, False])
            .select(
                pl.lit(source).alias("source"),
                pl.int_range(1, pl.len() + 1).alias("rank"),
                pl.col("item").alias("item_id"),
                "n",
                (pl.col("n") / max(1, len(side.dialogue_ids))).alias("share"),
            )
        )
    names = items.select(
        "item_id",
        pl.lit("simulated").alias("source"),
        pl.Series("name", list(item_names(items).values()), dtype=pl.String),
    )
    return (
        pl.concat(frames)
        .join(names, on=["item_id", "source"], how="left", maintain_order="left")
        .select("source", "rank", "item_id", "name", "n", "share")
    )
