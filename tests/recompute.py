"""Recomputes the metrics of a run from its Parquet files, by other means than `crslib.metrics`.

    python -m tests.recompute RUN_FOLDER [--redial PATH] [--models] [--human FOLDER] [--draws N]

This module imports nothing of crslib: every metric is implemented again from its definition (`crslib.metrics.METRICS`),
in SQL or with a well-known library. Metrics that need a tagger, phrase patterns or a model are in
`tests.support.readings`, which takes those, and no metric, from crslib. Prints a line per metric and ends with status 1
when one differs. Knows nothing of intervals. Metrics of random draws are computed from other draws; the table states
the tolerance.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import ir_measures
import numpy as np
import polars as pl
from ir_measures import R, Success
from rapidfuzz import fuzz
from sacrebleu.metrics import BLEU
from scipy import stats

from tests.support import readings

EXACT = 1e-9
STATES, LOGITS = 1e-6, 2e-3  # tolerances: of a matrix root, and of llama.cpp called in another way
BUDGET, SAMPLE, DRAWS = 1000, 30, 100  # words of distinct-n, utterances of self-BLEU, draws behind a stored figure
ROLES = ("user", "recommender")

# The options of this script that metrics need.
NEEDS = {
    "two_sample": "--redial",
    "two_sample_length": "--redial",
    "two_sample_form": "--redial",
    "cross_entropy": "--redial",
    "frechet": "--models",
    "vendi": "--models",
    "people_cross_entropy": "--redial and --models",
}
NOT_RECOMPUTED = {f"{role}_{name}": f"needs {option}" for name, option in NEEDS.items() for role in ROLES}

Figure = tuple[float | None, str, float]  # value, by what, tolerance


# ── the run as views ────────────────────────────────────────────────────────────────────────────────────────────────

VIEWS = r"""
CREATE VIEW spoken AS  -- turns with text, and their words
SELECT *, regexp_extract_all(lower(replace(regexp_replace(text, '\[\[([^\[\]]+)\]\]', '\1', 'g'), '’', '''')),
                             '[\p{L}\p{N}_]+(?:''[\p{L}\p{N}_]+)*') AS words
FROM turns WHERE trim(text, E' \t\n\r') <> '';

CREATE VIEW mentions AS
SELECT dialogue_id, turn, role, place, coalesce(item.item_id, 'title: ' || lower(item.title)) AS item,
       item.item_id IS NOT NULL AS known
FROM (SELECT dialogue_id, turn, role, unnest(items) AS item, generate_subscripts(items, 1) AS place FROM spoken);

CREATE VIEW recommended AS  -- items that the recommender named first, each once
SELECT dialogue_id, turn, item, known, row_number() OVER (PARTITION BY dialogue_id ORDER BY turn, place) AS rank
FROM (SELECT *, row_number() OVER (PARTITION BY dialogue_id, item ORDER BY turn, place) AS n FROM mentions)
WHERE n = 1 AND role = 'recommender';

CREATE VIEW targets AS
SELECT dialogue_id, item_id FROM dialogues JOIN holdouts USING (profile_id) WHERE liked;

CREATE VIEW wishes AS SELECT dialogue_id, profiles.* FROM dialogues JOIN profiles USING (profile_id);
"""


def opened(run: Path, human: Path) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute("SET threads = 1")
    for path in run.glob("*.parquet"):
        con.execute(f"CREATE VIEW {path.stem} AS SELECT * FROM read_parquet('{path}')")
    con.execute(f"CREATE VIEW human AS SELECT * FROM read_parquet('{human / 'turns.parquet'}')")
    con.execute(VIEWS)
    return con


# ── metrics by one query ────────────────────────────────────────────────────────────────────────────────────────────


def queries() -> dict[str, str]:
    first = "turn = (SELECT min(turn) FROM spoken AS t WHERE t.dialogue_id = spoken.dialogue_id)"
    opening = (
        "(SELECT min(turn) FROM spoken WHERE spoken.dialogue_id = recommended.dialogue_id AND role = 'recommender')"
    )
    hit = "item IN (SELECT item_id FROM targets WHERE targets.dialogue_id = recommended.dialogue_id)"
    sql = {
        "turns": "SELECT count(*) / count(DISTINCT dialogue_id) FROM spoken",
        "recommender_opens": f"SELECT avg((role = 'recommender')::INT) FROM spoken WHERE {first}",
        "liked_share": """
            SELECT avg(liked::INT)
            FROM (SELECT DISTINCT dialogue_id, turn, coalesce(note.item_id, lower(note.title)), note.liked AS liked
                  FROM (SELECT dialogue_id, turn, unnest(notes) AS note FROM spoken WHERE role = 'user'))""",
        "repeats": """
            SELECT avg((turn > first)::INT)
            FROM (SELECT turn, min(turn) OVER (PARTITION BY dialogue_id, item) AS first FROM mentions
                  WHERE role = 'recommender')""",
        "own_items_fit": """
            SELECT avg((coalesce(len(list_intersect(kinds, target_kinds)) > 0, FALSE)
                        OR coalesce(year - year % 10 = target_decade, FALSE)
                        OR coalesce(list_contains("people", target_person), FALSE)
                        OR coalesce(list_contains(makers, target_maker), FALSE))::INT)
            FROM (SELECT *, row_number() OVER (PARTITION BY dialogue_id, item ORDER BY turn, place) AS n FROM mentions)
            JOIN wishes USING (dialogue_id) JOIN items ON item = item_id
            WHERE n = 1 AND role = 'user' AND len(kinds) > 0
              AND (len(target_kinds) > 0
                   OR coalesce(target_decade::VARCHAR, target_person, target_maker) IS NOT NULL)""",
        "coverage": """
            SELECT count(DISTINCT item) / (SELECT count(*) FROM items) FROM recommended WHERE known
            HAVING count(*) > 0""",
        "first_turn_hits": f"""
            SELECT count(DISTINCT dialogue_id) / (SELECT nullif(count(DISTINCT dialogue_id), 0) FROM targets)
            FROM recommended WHERE turn = {opening} AND {hit}""",
        "attribute_match": """
            WITH pairs AS (
                SELECT len(target_kinds) AS n_genres, len(list_intersect(target_kinds, kinds)) AS genres_met,
                       target_decade IS NOT NULL AND year IS NOT NULL AS dated, year - year % 10 = target_decade AS met,
                       target_person IS NOT NULL AND len("people") > 0 AS cast_known,
                       list_contains("people", target_person) AS acts,
                       target_maker IS NOT NULL AND len(makers) > 0 AS directors_known,
                       list_contains(makers, target_maker) AS directs
                FROM recommended JOIN wishes USING (dialogue_id) JOIN items ON item = item_id
            )
            SELECT avg((genres_met + (dated AND met)::INT + (cast_known AND acts)::INT
                        + (directors_known AND directs)::INT)
                       / nullif(n_genres + dated::INT + cast_known::INT + directors_known::INT, 0))
            FROM pairs""",
        "preference_coverage": """
            WITH liked AS (SELECT DISTINCT dialogue_id, unnest(liked_kinds) AS genre FROM wishes),
            offered AS (SELECT DISTINCT dialogue_id, unnest(kinds) AS genre, TRUE AS there
                        FROM recommended JOIN items ON item = item_id)
            SELECT avg(share)
            FROM (SELECT avg((there IS NOT NULL)::INT) AS share
                  FROM liked LEFT JOIN offered USING (dialogue_id, genre) GROUP BY dialogue_id)""",
    }
    for name, statistic in (("k_anonymity", "median"), ("k_anonymity_min", "min")):
        sql[name] = f"""
            SELECT {statistic}(n) FROM (
                SELECT count(item_id) AS n
                FROM wishes LEFT JOIN items
                  ON list_has_all(kinds, target_kinds)
                 AND (target_decade IS NULL OR year - year % 10 = target_decade)
                 AND (target_person IS NULL OR list_contains("people", target_person))
                 AND (target_maker IS NULL OR list_contains(makers, target_maker))
                GROUP BY dialogue_id)"""
    for role in ROLES:
        own = f"FROM spoken WHERE role = '{role}'"
        sql |= {
            f"{role}_words": f"SELECT sum(len(words)) / nullif(count(*), 0) {own}",
            f"{role}_questions": f"SELECT avg(contains(text, '?')::INT) {own}",
            f"{role}_items": f"SELECT sum(len(items)) / nullif(count(*), 0) {own}",
            f"{role}_validity": f"SELECT avg(known::INT) FROM mentions WHERE role = '{role}'",
            f"{role}_duplicates": f"""
                SELECT avg((n > 1)::INT)
                FROM (SELECT words {own}) JOIN
                     (SELECT words, count(DISTINCT dialogue_id) AS n {own} GROUP BY words) USING (words)""",
            f"{role}_loops": f"""
                SELECT avg((n > 1)::INT)
                FROM (SELECT row_number() OVER (PARTITION BY dialogue_id, words ORDER BY turn) AS n {own})""",
        }
    return sql


def by_query(con: duckdb.DuckDBPyConnection) -> dict[str, Figure]:
    figures = {}
    for name, sql in queries().items():
        row = next(iter(con.sql(sql).fetchall()), None)
        figures[name] = (None if row is None or row[0] is None else float(row[0]), "DuckDB", EXACT)
    return figures


# ── metrics by libraries ────────────────────────────────────────────────────────────────────────────────────────────


def recall(con: duckdb.DuckDBPyConnection) -> dict[str, Figure]:
    qrels = [ir_measures.Qrel(dialogue, item, 1) for dialogue, item in con.sql("FROM targets").fetchall()]
    ranked = [ir_measures.ScoredDoc(d, item, -rank) for d, item, rank in con.sql(
        "SELECT dialogue_id, item, rank FROM recommended ORDER BY dialogue_id, rank").fetchall()]  # fmt: skip
    if not qrels:
        return {}
    measures = {f"recall_at_{n}": R @ n for n in (1, 3, 5, 10)} | {"hits": Success @ 1000}
    values = ir_measures.calc_aggregate(measures.values(), qrels, ranked)
    return {name: (values[measure], f"ir-measures {measure}", EXACT) for name, measure in measures.items()}


def variety(con: duckdb.DuckDBPyConnection) -> dict[str, Figure]:
    counts = con.sql("SELECT item, count(*) AS n FROM recommended WHERE known GROUP BY item").pl()["n"].to_numpy()
    if not len(counts):
        return {}
    spread = np.abs(counts[:, None] - counts[None, :]).mean() / (2 * counts.mean())
    return {
        "item_entropy": (float(stats.entropy(counts, base=2)), "scipy entropy", EXACT),
        "gini": (float(spread), "half the relative mean difference", EXACT),
    }


def distances(con: duckdb.DuckDBPyConnection) -> dict[str, Figure]:
    pairs = {
        "turns": (
            "SELECT count(*) FROM spoken GROUP BY dialogue_id",
            "SELECT count(*) FROM human GROUP BY dialogue_id",
        )
    }
    for role in ROLES:
        for what, ours in (("words", "len(words)"), ("items", "len(items)")):
            pairs[f"{role}_{what}"] = (
                f"SELECT {ours} FROM spoken WHERE role = '{role}'",
                f"SELECT n_{what} FROM human WHERE role = '{role}'",
            )
    figures: dict[str, Figure] = {}
    for name, sides in pairs.items():
        ours, theirs = (con.sql(sql).pl().to_series().to_numpy() for sql in sides)
        if len(ours) and len(theirs):
            ks = stats.ks_2samp(ours, theirs, method="asymp").statistic
            figures[f"{name}_ks"] = (float(ks), "scipy ks_2samp", EXACT)
            figures[f"{name}_wasserstein"] = (
                float(stats.wasserstein_distance(ours, theirs)), "scipy wasserstein_distance", EXACT
            )  # fmt: skip
    return figures


# ── metrics of random draws ─────────────────────────────────────────────────────────────────────────────────────────


def sampled(con: duckdb.DuckDBPyConnection, draws: int) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    draw = np.random.default_rng(20261123)
    for role in ROLES:
        turns = con.sql(
            f"SELECT dialogue_id, words FROM spoken WHERE role = '{role}' AND len(words) > 0 ORDER BY dialogue_id, turn"
        ).pl()
        spoken = [part["words"].to_list() for _, part in turns.group_by("dialogue_id", maintain_order=True)]
        if sum(map(len, turns["words"])) >= BUDGET:
            for n in (1, 2, 3):
                values = [distinct(spoken, n, draw) for _ in range(10 * draws)]
                figures[f"{role}_distinct_{n}"] = drawn(values, "own draws")
        if len(spoken) >= SAMPLE:
            figures[f"{role}_self_bleu"] = drawn(
                [self_bleu(spoken, draw) for _ in range(draws)], "sacrebleu, own draws"
            )
    return figures


def drawn(values: list[float], how: str) -> Figure:
    """The mean of `values`; the stored value is the mean of `DRAWS` other draws. The tolerance is the difference that
    chance exceeds once in 10,000 times (Student's t)."""
    error = np.std(values, ddof=1) * np.sqrt(1 / len(values) + 1 / DRAWS)
    return float(np.mean(values)), f"{how}: {len(values)}", max(EXACT, stats.t.ppf(1 - 5e-5, len(values) - 1) * error)


def distinct(spoken: list[list[list[str]]], n: int, draw: np.random.Generator) -> float:
    grams, left = [], BUDGET
    for dialogue in draw.permutation(len(spoken)):
        for words in spoken[dialogue]:
            read = words[:left]
            left -= len(read)
            grams += zip(*(read[i:] for i in range(n)), strict=False)
        if not left:
            break
    return len(set(grams)) / len(grams)


def self_bleu(spoken: list[list[list[str]]], draw: np.random.Generator) -> float:
    bleu = BLEU(tokenize="none", effective_order=True)
    texts = [" ".join(spoken[d][draw.integers(len(spoken[d]))]) for d in draw.permutation(len(spoken))[:SAMPLE]]
    return float(np.mean([bleu.sentence_score(t, texts[:i] + texts[i + 1 :]).score for i, t in enumerate(texts)])) / 100


# ── leakage ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def leaks(con: duckdb.DuckDBPyConnection) -> dict[str, Figure]:
    """Prompts that hold `Title (Year)` of a held-out item, or private text, that no earlier turn holds."""
    before = """
        SELECT coalesce(string_agg(text, ' | ' ORDER BY turn), '') FROM turns
        WHERE turns.dialogue_id = prompts.dialogue_id AND turns.turn < prompts.turn"""
    prompts = con.sql(f"""
        SELECT role, text, ({before}) AS aloud, summary, attributes,
               (SELECT list(title || coalesce(' (' || year || ')', '')) FROM holdouts JOIN items USING (item_id)
                WHERE holdouts.profile_id = wishes.profile_id) AS hidden
        FROM prompts JOIN wishes USING (dialogue_id)""").pl()
    n_leaks = {role: 0 for role in ROLES}
    for row in prompts.iter_rows(named=True):
        fed, aloud = (re.sub(r"\[\[|\]\]", "", row[name]) for name in ("text", "aloud"))
        if row["role"] == "user":
            names = [name for name in row["hidden"] or () if name in fed]
            leaked = any(re.sub(r" \(\d{4}\)$", "", name).lower() not in aloud.lower() for name in names)
        else:
            private = [*re.split(r"(?<=[.!?]) ", row["summary"] or ""), row["attributes"] or ""]
            searches = [rf"(?i)\b{re.escape(text.strip(' .'))}\b" for text in private if text.strip(" .")]
            searches += ["About you:", "Looking for:", r"[:,] (?:not )?(?:seen|liked|disliked|interested)(?=[,;)])"]
            leaked = any(len(re.findall(search, fed)) > len(re.findall(search, aloud)) for search in searches)
        n_leaks[row["role"]] += leaked
    n_read = dict(prompts["role"].value_counts().iter_rows())
    return {
        name: (float(n_leaks[role]), "plain search in prompts", EXACT)
        for name, role in (("leaked_titles", "user"), ("leaked_profiles", "recommender"))
        if role in n_read
    }


def first_named(con: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], dict[str, int]]:
    """(dialogue, target) → role → the first turn in which it names the target."""
    targets = con.sql("""
        SELECT dialogue_id, item_id, title, year FROM targets JOIN items USING (item_id) ORDER BY ALL""").fetchall()
    spoken: dict[str, list[tuple[int, str, set[str], list[str]]]] = {}
    for dialogue, turn, role, text, items in con.sql(
        "SELECT dialogue_id, turn, role, text, items FROM turns ORDER BY dialogue_id, turn"
    ).fetchall():
        for item in items:
            if item["item_id"] is not None:
                text = text.replace(f"[[{item['title']}]]", " | ")
        linked = {item["item_id"] for item in items}
        spoken.setdefault(dialogue, []).append((turn, role, linked, read(text)))
    first: dict[tuple[str, str], dict[str, int]] = {}
    for dialogue, item, title, year in targets:
        turns = first.setdefault((dialogue, item), {})
        for turn, role, linked, words in spoken.get(dialogue, ()):
            if role not in turns and (item in linked or alike(title, year, words)):
                turns[role] = turn
    return first


def named_first(con: duckdb.DuckDBPyConnection) -> dict[str, Figure]:
    by_user = {dialogue: False for (dialogue,) in con.sql("SELECT dialogue_id FROM targets").fetchall()}
    for (dialogue, _), turns in first_named(con).items():
        by_user[dialogue] |= min(turns, key=turns.__getitem__, default="") == "user"
    if not by_user:
        return {}
    return {"target_named_by_user": (float(np.mean(list(by_user.values()))), "links and rapidfuzz", EXACT)}


def read(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)*", re.sub(r"\[\[|\]\]", "", text).lower().replace("’", "'"))


def alike(title: str, year: int | None, spoken: list[str]) -> bool:
    """Whether successive words are 90 % similar to the title, with the same numbers; one short word needs its year."""
    wanted = read(title)
    if len(wanted) == 1 and len(wanted[0]) < 8:
        if year is None:
            return False
        wanted.append(str(year))
    runs = [spoken[i : i + n] for n in {len(wanted) + d for d in (-1, 0, 1)} - {0} for i in range(len(spoken) - n + 1)]
    return any(
        fuzz.ratio(" ".join(wanted), " ".join(run)) >= 90
        and [w for w in wanted if w.isdigit()] == [w for w in run if w.isdigit()]
        for run in runs
    )


# ── metrics from readings ───────────────────────────────────────────────────────────────────────────────────────────


def from_readings(
    con: duckdb.DuckDBPyConnection, run: Path, human: Path, redial: Path | None, models: bool, draws: int
) -> dict[str, Figure]:
    def exactly(values: readings.Values, how: str, tolerance: float = EXACT) -> dict[str, Figure]:
        return {name: (value, how, tolerance) for name, value in values.items()}

    figures = exactly(readings.acts(con, human), "scipy jensenshannon, on the tagger's acts")
    figures |= exactly(readings.answers(con), "plain loops, over what the phrase patterns read")
    figures |= exactly(readings.later_consistency(con), "plain loops, over what the phrase patterns read")
    figures |= exactly(readings.truth(con), "plain loops, over the statements and questions that the phrases read")
    figures |= exactly(readings.repetition(con), "plain loops over sentences")
    figures |= exactly(readings.guesswork(con, first_named(con)), "plain loops, over the ranks of the item prior")
    info = json.loads(path.read_text(encoding="utf-8")) if (path := run / "run.json").exists() else {}
    given = info.get("parameters", {})
    test, train = readings.human_dialogues(redial) if redial else ((), pl.DataFrame())
    if redial:
        figures |= exactly(readings.two_sample(con, test, given.get("seed", 0)), "scikit-learn cross_val_predict")
        figures |= exactly(readings.cross_entropy(con, train), "Kneser–Ney, another implementation")
    if models:
        exact, samples = readings.embeddings(con, human, 10 * draws)
        figures |= exactly(exact, "scipy sqrtm, on the model's states", STATES)
        figures |= {name: drawn(values, "singular values, own draws") for name, values in samples.items()}
    if redial and models and given.get("baseline", "scripted") != "scripted":
        figures |= exactly(readings.foresight(given, test), "llama-cpp-python's Llama", LOGITS)
    return figures


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────────


def recompute(
    run: Path, human: Path, draws: int = 100, redial: Path | None = None, models: bool = False
) -> tuple[pl.DataFrame, bool]:
    """(metric, stored, recomputed, difference, by) of every metric that the run or this script knows, and whether all
    that could be recomputed is equal."""
    with opened(run, human) as con:
        figures: dict[str, Figure] = {}
        parts: list[Callable[[duckdb.DuckDBPyConnection], dict[str, Figure]]] = [
            leaks, named_first, recall, by_query, distances, variety, lambda con: sampled(con, draws),
            lambda con: from_readings(con, run, human, redial, models, draws),
        ]  # fmt: skip
        for part in parts:
            figures |= part(con)
        stored = dict(con.sql("SELECT metric, value FROM metrics").fetchall())
    rows, equal = [], True
    for name in dict.fromkeys([*stored, *sorted(figures)]):
        old, (value, how, tolerance) = stored.get(name), figures.get(name, (None, "", 0.0))
        if name not in figures:
            why = NOT_RECOMPUTED.get(name, "this script does not know it")
            rows.append((name, old, None, None, f"not recomputed: {why}"))
        elif old is not None or value is not None:
            difference = None if old is None or value is None else value - old
            right = difference is not None and abs(difference) <= tolerance * max(1, abs(old or 0))
            sure = "" if tolerance == EXACT else f", ± {tolerance:.4f}"
            rows.append((name, old, value, difference, f"{'' if right else 'DIFFERS: '}{how}{sure}"))
            equal &= right
    schema = {"metric": pl.String} | dict.fromkeys(("stored", "recomputed", "difference"), pl.Float64)
    return pl.DataFrame(rows, schema={**schema, "by": pl.String}, orient="row"), equal


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--human", type=Path, default=Path(__file__).parent.parent / "data" / "human")
    parser.add_argument("--draws", type=int, default=30, help="samples of self-BLEU; ten times as many of distinct-n")
    parser.add_argument("--redial", type=Path, help="ReDial zip or folder, for metrics that need human texts")
    parser.add_argument("--models", action="store_true", help="metrics that need models too: minutes")
    given = parser.parse_args(arguments)
    table, equal = recompute(given.run, given.human, given.draws, given.redial, given.models)
    for name, old, value, difference, how in table.iter_rows():
        figures = [f"{x:12.6f}" if x is not None else f"{'-':>12}" for x in (old, value)]
        off = f"{difference:10.1e}" if difference is not None else f"{'-':>10}"
        print(f"{name:32} {' '.join(figures)} {off}  {how}")
    skipped = table["by"].str.starts_with("not recomputed").sum()
    wrong = table["by"].str.starts_with("DIFFERS").sum()
    print(f"{len(table) - skipped - wrong} equal, {wrong} different, {skipped} not recomputed")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
