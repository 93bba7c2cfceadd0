"""Whether what the recommender states of items is true, and whether it answers the user's questions about them.

Statements and questions are read by phrases (`dialogue.claims`), not by a model: of 60 statements read in people's
training dialogues, 54 were read as they are meant. Truth is the catalogue's. Human values are of ReDial's test
dialogues, by the facts in `data/redial` together with those of the built-in catalogue.
"""

from itertools import groupby
from operator import itemgetter

import polars as pl

from crslib.dialogue.claims import WHEN, WHO, answers, claims, questions
from crslib.dialogue.credits import YEAR, Credits
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.metrics.base import Metric, parts_of

_ABOUT = (
    "Statements are names of persons and years or decades that the recommender says of the item at hand (in the same "
    "sentence, in the question before, or the last one named), read by phrase patterns"
)
METRICS = (
    Metric("facts_true", "recommendation", "Stated persons and years that are true", "share", "higher",
        f"Share of the recommender's statements that the catalogue confirms. {_ABOUT}; those that the catalogue cannot "
        "decide are left out. A name that is in no credits of the catalogue is false.",
        headline="stated facts are true", chart=True),
    Metric("facts_decidable", "recommendation", "Stated persons and years that the catalogue can decide", "share",
        "none", f"Share of the recommender's statements on items of which the catalogue knows such facts. {_ABOUT}."),
    Metric("questions_answered", "recommendation", "Questions about an item that are answered", "share", "higher",
        "Of the user's questions who is in an item or made it, what it is about and when it is from (each sort "
        "once a turn), the share that the recommender's next turn answers: with a person; with a kind or three words "
        "of content outside questions and titles; with a year or decade.",
        chart=True),
    Metric("true_answers", "recommendation", "Questions who and when that are answered with the truth", "share",
        "higher", "Of the user's questions who is in an item or made it and when it is from, the share that the "
        "recommender's next turn answers with statements that the catalogue confirms, and with no others. Answers "
        "that the catalogue cannot decide are left out."),
)  # fmt: skip


def parts(turns: pl.DataFrame, credits: Credits) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole) of all `METRICS`. `turns`: table `turns`; turns without text do not
    count."""
    rows: list[tuple[str, str, bool]] = []
    spoken = turns.filter(pl.col("text").str.strip_chars() != "").sort("dialogue_id", "turn")
    columns = spoken.select("dialogue_id", "role", "text", "items").iter_rows(named=True)
    for dialogue_id, of_dialogue in groupby(columns, key=itemgetter("dialogue_id")):
        talk = list(of_dialogue)
        for number, turn in enumerate(talk):
            if turn["role"] != RECOMMENDER:
                continue
            stated = claims(turn, history := talk[:number], credits)
            truths = [claim.true for claim in stated]
            values = [("facts_decidable", truth is not None) for truth in truths]
            values += [("facts_true", truth) for truth in truths if truth is not None]
            for kind in (
                dict.fromkeys(questions(history[-1], credits.domain)) if history and history[-1]["role"] == USER else ()
            ):
                values.append(("questions_answered", answered := answers(kind, turn, history, credits)))
                known = [claim.true for claim in stated if (claim.kind == YEAR) == (kind == WHEN)]
                if kind in (WHO, WHEN) and (not answered or any(truth is not None for truth in known)):
                    values.append(("true_answers", answered and all(known)))
            rows += [(dialogue_id, *value) for value in values]
    schema = {"dialogue_id": pl.String, "metric": pl.String, "value": pl.Boolean}
    return parts_of(pl.DataFrame(rows, schema=schema, orient="row"))
