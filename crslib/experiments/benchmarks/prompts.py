"""What the instructions of the prompted format change: the same models told what to do, and told next to nothing.

Untold, a model without an adapter gets the messages of format v1, which it was never taught: for the recommender that
is one sentence on its role and the dialogue. Prompted, it gets the instruction files.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from crslib import schemas, stats
from crslib.config import ProfileParameters, SimulationParameters
from crslib.dialogue.domain import Domain
from crslib.dialogue.stop_reasons import STOP_REASONS
from crslib.dialogue.utterances import RECOMMENDER, USER, plain
from crslib.files import Progress, no_progress
from crslib.metrics.facts import facts
from crslib.reporting import text
from crslib.simulation.loop import simulate
from crslib.simulation.opening import open_agents
from crslib.simulation.population import Population
from crslib.store import Run
from crslib.users.profiles import of_data

PROMPTED, UNTOLD = "prompted", "untold"
MEASURES: Mapping[str, str] = {
    **{
        f"{role}_{name}": f"{role}: {words}"
        for role in (USER, RECOMMENDER)
        for name, words in {
            "in_role": "share of turns in role",
            "titles": "titles named per dialogue",
            "valid": "share of titles that exist",
            "words": "words per turn",
        }.items()
    },
    "turns": "turns per dialogue",
    **{f"ends_{reason}": f"ends: {words}" for reason, words in STOP_REASONS.items()},
}
SCHEMA: schemas.Schema = {
    "condition": pl.String,
    "measure": pl.String,
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    "n": pl.Int64,
}

# ── who speaks out of role ──────────────────────────────────────────────────────────────────────────────────────


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(rf"\b(?:{pattern})" for pattern in patterns), re.IGNORECASE)


_KIND = r"(?:kinds?|types?|sorts?|genres?) of (?:movie|film)s?"
_ADVICE = r"(?:recommendations?|suggestions?)\b"
# Talk of the model about itself or its instructions, and the private notes read out.
_META = _any(
    r"as an? (?:ai|artificial|(?:large )?language model|virtual|(?:helpful )?assistant)\b",
    r"i(?:'?m| am) an? (?:ai|bot)\b",
    r"language model\b",
    r"my (?:instructions|prompt)\b",
    r"[^()]{1,80} \(\d{4}\): (?:not )?seen\b",
)
_OUT = {
    USER: _any(
        r"(?:how|what) (?:can|may) i (?:help|assist|do for)\b",
        r"(?:can|may|could) i (?:help|assist|recommend|suggest)\b",
        r"i(?:'d| would|'ll| will| can) (?:be (?:happy|glad) to )?(?:help|assist)\b",
        r"i(?:'d| would|'ll| will| can)?(?: \w+){0,3} (?:recommend|suggest)\b",
        rf"mak(?:e|ing) (?:an?|some|more|you|your) {_ADVICE}",
        rf"my {_ADVICE}",
        rf"(?:some|a few|more) {_ADVICE} for you\b",
        r"here (?:are|is) (?:some|a|a few|my)\b",
        r"you (?:might|may|would|will|should|could)(?: also| really)? (?:like|enjoy|love|try|watch|check)\b",
        rf"what {_KIND} (?:do|are|would) you\b",
        r"what (?:are you|would you like) (?:looking for|to watch)\b",
        r"are you looking for\b",
        r"do you (?:have|like) (?:any|a) (?:particular|specific|favou?rite)\b",
    ),
    RECOMMENDER: _any(
        r"i(?:'?m| am) (?:looking|searching) for (?!you\b)",
        r"i(?:'d| would) (?:like|love) to (?:watch|see)\b",
        r"i (?:want|need|wanna) (?:to (?:watch|see|find)|an?|some)\b",
        r"i(?:'?m| am) in the mood for\b",
        r"(?:can|could|would|will) you (?:please )?(?:recommend|suggest|help me)\b",
        r"(?:recommend|suggest) me\b",
        rf"(?:do you have|have you got) any {_ADVICE}",
        rf"any {_ADVICE}\?",
        r"what (?:would|do|can|should) you (?:recommend|suggest)\b",
        rf"thanks? (?:you )?for (?:the|your) {_ADVICE}",
    ),
}


def in_role(role: str, utterance: str) -> bool:
    """Whether an utterance could be `role`'s, by a simple rule.

    It is not when it is empty, talks of being a model, or reads out a private note; when a user offers help, recommends
    or asks what the other likes; and when a recommender looks for a movie itself or asks for recommendations. A lower
    bound: what no pattern knows counts as in role. Of people's turns 99 % are (ReDial, test part), and 89 % would be
    with the roles exchanged.
    """
    words = plain(utterance).replace("’", "'").strip()
    return bool(words) and not _META.search(words) and not _OUT[role].search(words)


# ── the comparison ──────────────────────────────────────────────────────────────────────────────────────────────


def measure(
    parameters: SimulationParameters, n: int, folder: Path, progress: Progress = no_progress
) -> tuple[pl.DataFrame, int]:
    """The columns of `SCHEMA` for both conditions, with `n` profiles of the built-in data, and how many dialogues
    failed.

    Adapters are left out. The dialogues are stored below `folder`; a call that was killed continues there. Raises
    `CrsError` as `simulate` does.
    """
    population = Population(**of_data(ProfileParameters(n_profiles=n, seed=parameters.seed)).visible)
    bare = {"user_adapter": "", "recommender_adapter": ""}
    conditions = {PROMPTED: bare, UNTOLD: {**bare, "user_prompt": "", "recommender_prompt": ""}}
    frames, failed, total = [], 0, len(conditions) * n * parameters.dialogues_per_profile
    for number, (name, update) in enumerate(conditions.items()):

        def report(done: int, of: int, before: int = number) -> None:
            progress(before * of + done, total)

        how = parameters.model_copy(update={**update, "condition": name})
        run = Run(folder / name)
        run.update(run_id=name)
        with open_agents(how, population) as (user, recommender), run.journal() as journal:
            talk = simulate(population, user, recommender, how, journal, report)
        talk.write(run)
        failed += len(talk.failures)
        frames.append(figures(name, talk.dialogues, talk.turns, population.domain))
    return pl.concat(frames), failed


def figures(condition: str, dialogues: pl.DataFrame, turns: pl.DataFrame, domain: Domain) -> pl.DataFrame:
    """The columns of `SCHEMA`: each of `MEASURES` that is defined, with a 95 % bootstrap interval over dialogues."""
    estimates = stats.ratios(parts(dialogues, turns, domain), dialogues["dialogue_id"], times=1000, seed=0)
    rows = [
        (condition, name, e.value, e.low, e.high, e.n) for name in MEASURES if (e := estimates.get(name)) is not None
    ]
    return pl.DataFrame(rows, schema=dict(SCHEMA), orient="row")


def parts(dialogues: pl.DataFrame, turns: pl.DataFrame, domain: Domain) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole) of `MEASURES`. Endings are those that happen at all."""
    counted = facts(dialogues, turns, domain)
    role = pl.col("role")
    fits = [in_role(role, utterance) for role, utterance in turns.select("role", "text").iter_rows()]
    frames = [
        turns.select("dialogue_id", (role + "_in_role").alias("metric"), part=pl.Series(fits, dtype=pl.Int64)),
        counted.turns.select("dialogue_id", (role + "_words").alias("metric"), part="n_words"),
        counted.mentions.select("dialogue_id", (role + "_valid").alias("metric"), part="linked"),
    ]
    by_turn = pl.concat(frame.with_columns(pl.col("part").cast(pl.Float64)) for frame in frames)
    sums = by_turn.group_by("dialogue_id", "metric").agg(pl.col("part").sum(), pl.len().cast(pl.Float64).alias("whole"))
    ids = dialogues.select("dialogue_id", "n_turns", "stop_reason")
    each = [ids.select("dialogue_id", pl.lit("turns").alias("metric"), part=pl.col("n_turns").cast(pl.Float64))]
    for reason in ids["stop_reason"].unique():
        happens = (pl.col("stop_reason") == reason).cast(pl.Float64)
        each.append(ids.select("dialogue_id", pl.lit(f"ends_{reason}").alias("metric"), part=happens))
    for who in (USER, RECOMMENDER):
        named = counted.mentions.filter(role=who).group_by("dialogue_id").len("part")
        titles = ids.select("dialogue_id").join(named, on="dialogue_id", how="left")
        each.append(
            titles.select(
                "dialogue_id", pl.lit(f"{who}_titles").alias("metric"), pl.col("part").fill_null(0).cast(pl.Float64)
            )
        )
    whole = pl.lit(1.0).alias("whole")
    return pl.concat([sums, pl.concat(each).with_columns(whole)]).sort("metric", "dialogue_id")


def formatted(measured: pl.DataFrame) -> str:
    """The result of `measure` as a Markdown table: a row per measure, a column per condition."""
    cells = {
        (row["condition"], row["measure"]): text.estimate(
            row["value"], row["low"], row["high"], form=".0%" if row["measure"].startswith("ends_") else ".2f"
        )
        for row in measured.iter_rows(named=True)
    }
    rows = [
        (words, *(cells.get((condition, name), "–") for condition in (PROMPTED, UNTOLD)))
        for name, words in MEASURES.items()
        if any((condition, name) in cells for condition in (PROMPTED, UNTOLD))
    ]
    return text.markdown(("measure", PROMPTED, UNTOLD), rows)
