"""Recomputes the figures of a run from its Parquet files, by other means than those that made them.

    python -m tests.recompute RUN_FOLDER [--redial PATH] [--models] [--human FOLDER] [--draws N]

Nothing of crslib is imported: every figure is written anew from its definition (`crslib/metrics/definitions.py`), in
SQL or with a library that people know for it. What first has to be read by something, a tagger, phrases, a model, is
in `readings`. Prints a line per metric and ends with status 1 when one differs. Knows nothing of intervals. Figures
that rest on random draws are drawn anew; how far they may differ stands in the table.
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
STATES, LOGITS = 1e-6, 2e-3  # an indefinite root; another way through llama.cpp
BUDGET, SAMPLE, DRAWS = 1000, 30, 100  # words of distinct-n, utterances of self-BLEU, draws behind a stored figure
ROLES = ("user", "recommender")

# What is left out without the one or the other.
NEEDS = {
    "two_sample": "--redial",
    "two_sample_length": "--redial",
    "cross_entropy": "--redial",
    "frechet": "--models",
    "vendi": "--models",
    "people_cross_entropy": "--redial and --models",
}
NOT_RECOMPUTED = {f"{role}_{name}": f"needs {option}" for name, option in NEEDS.items() for role in ROLES}

Figure = tuple[float | None, str, float]  # value, by what, tolerance


# ── the run as views ────────────────────────────────────────────────────────────────────────────────────────────────

VIEWS = r"""
CREATE VIEW said AS  -- turns in which something is said, with their words
SELECT *, regexp_extract_all(lower(replace(regexp_replace(text, '\[\[([^\[\]]+)\]\]', '\1', 'g'), '’', '''')),
                             '[\p{L}\p{N}_]+(?:''[\p{L}\p{N}_]+)*') AS words
FROM turns WHERE trim(text, E' \t\n\r') <> '';

CREATE VIEW mentions AS
SELECT dialogue_id, turn, role, place, coalesce(item.item_id, 'title: ' || lower(item.title)) AS item,
       item.item_id IS NOT NULL AS known
FROM (SELECT dialogue_id, turn, role, unnest(items) AS item, generate_subscripts(items, 1) AS place FROM said);

CREATE VIEW recommended AS  -- what the recommender brought up, each item once
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
    con.execute(f"CREATE VIEW people AS SELECT * FROM read_parquet('{human / 'turns.parquet'}')")
    con.execute(VIEWS)
    return con


# ── figures that are one query ──────────────────────────────────────────────────────────────────────────────────────


def queries() -> dict[str, str]:
    first = "turn = (SELECT min(turn) FROM said AS t WHERE t.dialogue_id = said.dialogue_id)"
    opening = "(SELECT min(turn) FROM said WHERE said.dialogue_id = recommended.dialogue_id AND role = 'recommender')"
    hit = "item IN (SELECT item_id FROM targets WHERE targets.dialogue_id = recommended.dialogue_id)"
    found = {
        "turns": "SELECT count(*) / count(DISTINCT dialogue_id) FROM said",
        "recommender_opens": f"SELECT avg((role = 'recommender')::INT) FROM said WHERE {first}",
        "liked_share": """
            SELECT avg(liked::INT)
            FROM (SELECT DISTINCT dialogue_id, turn, coalesce(note.item_id, lower(note.title)), note.liked AS liked
                  FROM (SELECT dialogue_id, turn, unnest(notes) AS note FROM said WHERE role = 'user'))""",
        "repeats": """
            SELECT avg((turn > first)::INT)
            FROM (SELECT turn, min(turn) OVER (PARTITION BY dialogue_id, item) AS first FROM mentions
                  WHERE role = 'recommender')""",
        "coverage": """
            SELECT count(DISTINCT item) / (SELECT count(*) FROM items) FROM recommended WHERE known
            HAVING count(*) > 0""",
        "first_turn_hits": f"""
            SELECT count(DISTINCT dialogue_id) / (SELECT nullif(count(DISTINCT dialogue_id), 0) FROM targets)
            FROM recommended WHERE turn = {opening} AND {hit}""",
        "attribute_match": """
            WITH pairs AS (
                SELECT len(target_genres) AS n_genres, len(list_intersect(target_genres, genres)) AS genres_met,
                       target_decade IS NOT NULL AND year IS NOT NULL AS dated, year - year % 10 = target_decade AS met,
                       target_actor IS NOT NULL AND len("cast") > 0 AS cast_known,
                       list_contains("cast", target_actor) AS acts,
                       target_director IS NOT NULL AND len(directors) > 0 AS directors_known,
                       list_contains(directors, target_director) AS directs
                FROM recommended JOIN wishes USING (dialogue_id) JOIN items ON item = item_id
            )
            SELECT avg((genres_met + (dated AND met)::INT + (cast_known AND acts)::INT
                        + (directors_known AND directs)::INT)
                       / nullif(n_genres + dated::INT + cast_known::INT + directors_known::INT, 0))
            FROM pairs""",
        "preference_coverage": """
            WITH liked AS (SELECT DISTINCT dialogue_id, unnest(liked_genres) AS genre FROM wishes),
            offered AS (SELECT DISTINCT dialogue_id, unnest(genres) AS genre, TRUE AS there
                        FROM recommended JOIN items ON item = item_id)
            SELECT avg(share)
            FROM (SELECT avg((there IS NOT NULL)::INT) AS share
                  FROM liked LEFT JOIN offered USING (dialogue_id, genre) GROUP BY dialogue_id)""",
    }
    for name, statistic in (("k_anonymity", "median"), ("k_anonymity_min", "min")):
        found[name] = f"""
            SELECT {statistic}(n) FROM (
                SELECT count(item_id) AS n
                FROM wishes LEFT JOIN items
                  ON list_has_all(genres, target_genres)
                 AND (target_decade IS NULL OR year - year % 10 = target_decade)
                 AND (target_actor IS NULL OR list_contains("cast", target_actor))
                 AND (target_director IS NULL OR list_contains(directors, target_director))
                GROUP BY dialogue_id)"""
    for role in ROLES:
        mine = f"FROM said WHERE role = '{role}'"
        found |= {
            f"{role}_words": f"SELECT sum(len(words)) / nullif(count(*), 0) {mine}",
            f"{role}_questions": f"SELECT avg(contains(text, '?')::INT) {mine}",
            f"{role}_items": f"SELECT sum(len(items)) / nullif(count(*), 0) {mine}",
            f"{role}_validity": f"SELECT avg(known::INT) FROM mentions WHERE role = '{role}'",
            f"{role}_duplicates": f"""
                SELECT avg((n > 1)::INT)
                FROM (SELECT words {mine}) JOIN
                     (SELECT words, count(DISTINCT dialogue_id) AS n {mine} GROUP BY words) USING (words)""",
            f"{role}_loops": f"""
                SELECT avg((n > 1)::INT)
                FROM (SELECT row_number() OVER (PARTITION BY dialogue_id, words ORDER BY turn) AS n {mine})""",
        }
    return found


def by_query(con: duckdb.DuckDBPyConnection) -> dict[str, Figure]:
    found = {}
    for name, sql in queries().items():
        row = next(iter(con.sql(sql).fetchall()), None)
        found[name] = (None if row is None or row[0] is None else float(row[0]), "DuckDB", EXACT)
    return found


# ── figures of libraries ────────────────────────────────────────────────────────────────────────────────────────────


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
            "SELECT count(*) FROM said GROUP BY dialogue_id",
            "SELECT count(*) FROM people GROUP BY dialogue_id",
        )
    }
    for role in ROLES:
        for what, ours in (("words", "len(words)"), ("items", "len(items)")):
            pairs[f"{role}_{what}"] = (
                f"SELECT {ours} FROM said WHERE role = '{role}'",
                f"SELECT n_{what} FROM people WHERE role = '{role}'",
            )
    found: dict[str, Figure] = {}
    for name, sides in pairs.items():
        ours, theirs = (con.sql(sql).pl().to_series().to_numpy() for sql in sides)
        if len(ours) and len(theirs):
            ks = stats.ks_2samp(ours, theirs, method="asymp").statistic
            found[f"{name}_ks"] = (float(ks), "scipy ks_2samp", EXACT)
            found[f"{name}_wasserstein"] = (
                float(stats.wasserstein_distance(ours, theirs)), "scipy wasserstein_distance", EXACT
            )  # fmt: skip
    return found


# ── figures of random draws ─────────────────────────────────────────────────────────────────────────────────────────


def sampled(con: duckdb.DuckDBPyConnection, draws: int) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    draw = np.random.default_rng(20261123)
    for role in ROLES:
        said = con.sql(
            f"SELECT dialogue_id, words FROM said WHERE role = '{role}' AND len(words) > 0 ORDER BY dialogue_id, turn"
        ).pl()
        spoken = [part["words"].to_list() for _, part in said.group_by("dialogue_id", maintain_order=True)]
        if sum(map(len, said["words"])) >= BUDGET:
            for n in (1, 2, 3):
                values = [distinct(spoken, n, draw) for _ in range(10 * draws)]
                found[f"{role}_distinct_{n}"] = drawn(values, "own draws")
        if len(spoken) >= SAMPLE:
            found[f"{role}_self_bleu"] = drawn([self_bleu(spoken, draw) for _ in range(draws)], "sacrebleu, own draws")
    return found


def drawn(values: list[float], how: str) -> Figure:
    """Their mean; the stored figure is a mean of `DRAWS` others. A difference that chance makes once in 10,000 is let
    pass (Student's t)."""
    error = np.std(values, ddof=1) * np.sqrt(1 / len(values) + 1 / DRAWS)
    return float(np.mean(values)), f"{how}: {len(values)}", float(stats.t.ppf(1 - 5e-5, len(values) - 1) * error)


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
    """Prompts that hold `Title (Year)` of a held-out item, or private text, that no turn before them held."""
    before = """
        SELECT coalesce(string_agg(text, ' | ' ORDER BY turn), '') FROM turns
        WHERE turns.dialogue_id = prompts.dialogue_id AND turns.turn < prompts.turn"""
    prompts = con.sql(f"""
        SELECT role, text, ({before}) AS aloud, summary, attributes,
               (SELECT list(title || coalesce(' (' || year || ')', '')) FROM holdouts JOIN items USING (item_id)
                WHERE holdouts.profile_id = wishes.profile_id) AS hidden
        FROM prompts JOIN wishes USING (dialogue_id)""").pl()
    told = {role: 0 for role in ROLES}
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
        told[row["role"]] += leaked
    read = dict(prompts["role"].value_counts().iter_rows())
    return {
        name: (float(told[role]), "plain search in prompts", EXACT)
        for name, role in (("leaked_titles", "user"), ("leaked_profiles", "recommender"))
        if role in read
    }


def first_named(con: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], dict[str, int]]:
    """(dialogue, target) → role → the first turn in which it names the target."""
    targets = con.sql("""
        SELECT dialogue_id, item_id, title, year FROM targets JOIN items USING (item_id) ORDER BY ALL""").fetchall()
    said: dict[str, list[tuple[int, str, set[str], list[str]]]] = {}
    for dialogue, turn, role, text, items in con.sql(
        "SELECT dialogue_id, turn, role, text, items FROM turns ORDER BY dialogue_id, turn"
    ).fetchall():
        for item in items:
            if item["item_id"] is not None:
                text = text.replace(f"[[{item['title']}]]", " | ")
        linked = {item["item_id"] for item in items}
        said.setdefault(dialogue, []).append((turn, role, linked, read(text)))
    first: dict[tuple[str, str], dict[str, int]] = {}
    for dialogue, item, title, year in targets:
        turns = first.setdefault((dialogue, item), {})
        for turn, role, linked, words in said.get(dialogue, ()):
            if role not in turns and (item in linked or alike(title, year, words)):
                turns[role] = turn
    return first


def named_first(con: duckdb.DuckDBPyConnection) -> dict[str, Figure]:
    told = {dialogue: False for (dialogue,) in con.sql("SELECT dialogue_id FROM targets").fetchall()}
    for (dialogue, _), turns in first_named(con).items():
        told[dialogue] |= min(turns, key=turns.__getitem__, default="") == "user"
    if not told:
        return {}
    return {"target_named_by_user": (float(np.mean(list(told.values()))), "links and rapidfuzz", EXACT)}


def read(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)*", re.sub(r"\[\[|\]\]", "", text).lower().replace("’", "'"))


def alike(title: str, year: int | None, said: list[str]) -> bool:
    """Is a run of words at least 90 like the title, with the same numbers? One short word needs its year beside it."""
    wanted = read(title)
    if len(wanted) == 1 and len(wanted[0]) < 8:
        if year is None:
            return False
        wanted.append(str(year))
    runs = [said[i : i + n] for n in {len(wanted) + d for d in (-1, 0, 1)} - {0} for i in range(len(said) - n + 1)]
    return any(
        fuzz.ratio(" ".join(wanted), " ".join(run)) >= 90
        and [w for w in wanted if w.isdigit()] == [w for w in run if w.isdigit()]
        for run in runs
    )


# ── figures of what has been read ───────────────────────────────────────────────────────────────────────────────────


def from_readings(
    con: duckdb.DuckDBPyConnection, run: Path, human: Path, redial: Path | None, models: bool, draws: int
) -> dict[str, Figure]:
    def exactly(values: readings.Values, how: str, tolerance: float = EXACT) -> dict[str, Figure]:
        return {name: (value, how, tolerance) for name, value in values.items()}

    found = exactly(readings.acts(con, human), "scipy jensenshannon, of the tagger's acts")
    found |= exactly(readings.answers(con), "plain loops, of what the phrases find")
    found |= exactly(readings.guesswork(con, first_named(con)), "plain loops, of the item prior")
    info = json.loads(path.read_text(encoding="utf-8")) if (path := run / "run.json").exists() else {}
    given = info.get("parameters", {})
    test, turns, train = readings.people(redial) if redial else ((), pl.DataFrame(), pl.DataFrame())
    if redial:
        found |= exactly(readings.two_sample(con, turns, given.get("seed", 0)), "scikit-learn cross_val_predict")
        found |= exactly(readings.surprise(con, train), "Kneser–Ney, written anew")
    if models:
        exact, samples = readings.embeddings(con, human, 10 * draws)
        found |= exactly(exact, "scipy sqrtm, of the model's states", STATES)
        found |= {name: drawn(values, "singular values, own draws") for name, values in samples.items()}
    if redial and models and given.get("baseline", "scripted") != "scripted":
        found |= exactly(readings.foresight(given, test), "llama-cpp-python's Llama", LOGITS)
    return found


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────────


def recompute(
    run: Path, human: Path, draws: int = 100, redial: Path | None = None, models: bool = False
) -> tuple[pl.DataFrame, bool]:
    """(metric, stored, recomputed, difference, by) of every metric that the run or this script knows, and whether all
    that could be recomputed is equal."""
    with opened(run, human) as con:
        found: dict[str, Figure] = {}
        parts: list[Callable[[duckdb.DuckDBPyConnection], dict[str, Figure]]] = [
            leaks, named_first, recall, by_query, distances, variety, lambda con: sampled(con, draws),
            lambda con: from_readings(con, run, human, redial, models, draws),
        ]  # fmt: skip
        for part in parts:
            found |= part(con)
        stored = dict(con.sql("SELECT metric, value FROM metrics").fetchall())
    rows, equal = [], True
    for name in dict.fromkeys([*stored, *sorted(found)]):
        kept, (value, how, tolerance) = stored.get(name), found.get(name, (None, "", 0.0))
        if name not in found:
            why = NOT_RECOMPUTED.get(name, "this script does not know it")
            rows.append((name, kept, None, None, f"not recomputed: {why}"))
        elif kept is not None or value is not None:
            difference = None if kept is None or value is None else value - kept
            right = difference is not None and abs(difference) <= tolerance * max(1, abs(kept or 0))
            sure = "" if tolerance == EXACT else f", ± {tolerance:.4f}"
            rows.append((name, kept, value, difference, f"{'' if right else 'DIFFERS: '}{how}{sure}"))
            equal &= right
    schema = {"metric": pl.String} | dict.fromkeys(("stored", "recomputed", "difference"), pl.Float64)
    return pl.DataFrame(rows, schema={**schema, "by": pl.String}, orient="row"), equal


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--human", type=Path, default=Path(__file__).parent.parent / "data" / "human")
    parser.add_argument("--draws", type=int, default=30, help="samples of self-BLEU; ten times as many of distinct-n")
    parser.add_argument("--redial", type=Path, help="ReDial zip or folder, for what needs people's words")
    parser.add_argument("--models", action="store_true", help="let models read, for what needs them: minutes")
    given = parser.parse_args(arguments)
    table, equal = recompute(given.run, given.human, given.draws, given.redial, given.models)
    for name, kept, value, difference, how in table.iter_rows():
        figures = [f"{x:12.6f}" if x is not None else f"{'-':>12}" for x in (kept, value)]
        off = f"{difference:10.1e}" if difference is not None else f"{'-':>10}"
        print(f"{name:32} {' '.join(figures)} {off}  {how}")
    skipped = table["by"].str.starts_with("not recomputed").sum()
    wrong = table["by"].str.starts_with("DIFFERS").sum()
    print(f"{len(table) - skipped - wrong} equal, {wrong} different, {skipped} not recomputed")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
