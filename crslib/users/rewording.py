"""Summaries in a language model's words, checked against the facts and against the held-out titles.

An option of `01_profiles`, which may see the holdouts. Knows nothing of dialogues.
"""

import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import polars as pl
from rapidfuzz import fuzz

from crslib.config import ProfileParameters
from crslib.data import catalog, titles
from crslib.dialogue import templates, utterances, views
from crslib.engines import llama
from crslib.engines.base import Engine, Request, Sampling, complete
from crslib.identity import derive_seed
from crslib.users.profiles import ProfileTables

# An example of a rewording in the prompt makes the built-in model invent more, not less.
_TASK = (
    "You rewrite a short text about a person's taste in movies. Say the same facts in other words. "
    'Speak to the person as "you". Keep every genre, name and title with its year. '
    "Write at most five short sentences. Add nothing new."
)
_NEGATION = re.compile(r"\b(?:not|no|never|nor|hate[sd]?|avoid\w*|dislik\w+|except|cannot)\b|n['’]t\b", re.IGNORECASE)
_FIRST_PERSON = re.compile(r"\b(?:I|me|my|mine|we|us|our)\b")
_SECOND_PERSON = re.compile(r"\b(?:you|your|yours)\b", re.IGNORECASE)
REJECTED = pl.DataFrame(schema=dict.fromkeys(("profile_id", "reason", "wording"), pl.String))


def worded(tables: ProfileTables, parameters: ProfileParameters) -> tuple[ProfileTables, pl.DataFrame]:
    """`tables` with summaries in the style of `summary_style`, and the wordings that were rejected (see `reword`).

    Decoding is greedy, because the built-in model then invents less. Raises `CrsError` when the model cannot be loaded.
    """
    if parameters.summary_style == "template":
        return tables, REJECTED.clear()
    model = llama.Model(llama.model_path(parameters.summary_model))
    engine = llama.LlamaEngine(model, None, Sampling(temperature=0, max_tokens=128), n_ctx=1024, width=8)
    try:
        profiles, rejected = reword(tables.profiles, tables.holdouts, tables.items, engine, parameters.seed)
        return replace(tables, profiles=profiles), rejected
    finally:
        engine.close()
        model.close()


def reword(
    profiles: pl.DataFrame, holdouts: pl.DataFrame, items: pl.DataFrame, engine: Engine, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`profiles` with summaries in a model's words where these passed the check (`fault`), and the rejected wordings.

    The model sees the template summary only; where its wording fails, the template stays. The second frame has
    `profile_id`, `reason`, `wording` of the rejected ones, sorted by profile. It may quote a held-out title, so a
    simulation must not read it.
    """
    template = templates.ChatTemplate(*engine.chat_template)
    names = catalog.item_names(items)
    title_phrases = frozenset(_words(title) for title in items["title"])
    genres = frozenset(genre for genres in items["genres"] for genre in genres)
    hidden = {profile: part["item_id"].to_list() for (profile,), part in holdouts.group_by("profile_id")}
    rows = [row for row in profiles.sort("profile_id").iter_rows(named=True) if row["summary"]]
    accepted: dict[str, str] = {}
    rejected = []
    for start in range(0, len(rows), engine.width):
        batch = rows[start : start + engine.width]
        requests = [
            Request(
                row["profile_id"],
                tuple(template.encode([views.Message("system", _TASK), views.Message("user", row["summary"])], engine)),
                derive_seed(seed, "summary", row["profile_id"]),
            )
            for row in batch
        ]
        completions = complete(engine, requests)
        for row, completion in zip(batch, completions, strict=True):
            profile = row["profile_id"]
            engine.release(profile)
            wording = utterances.one_line(engine.decode(completion.ids))
            withheld = [names[item] for item in hidden.get(profile, []) if item in names]
            reason = (
                "cut short"
                if completion.finish != "end"
                else fault(wording, row, names, withheld, title_phrases, genres)
            )
            if reason:
                rejected.append({"profile_id": profile, "reason": reason, "wording": wording})
            else:
                accepted[profile] = wording
    passed = pl.col("profile_id").replace_strict(accepted, default=None, return_dtype=pl.String)
    return (
        profiles.with_columns(pl.coalesce(passed, "summary").alias("summary")),
        pl.DataFrame(rejected, schema=REJECTED.schema),
    )


def fault(
    wording: str,
    facts: Mapping[str, Any],
    names: Mapping[str, str],
    withheld: Sequence[str],
    title_phrases: Set[str],
    genres: Set[str],
) -> str:
    """Why `wording` may not replace the template summary of `facts` (a row of table `profiles`); empty if it may.

    `names`: item id to `Title (Year)`. `withheld`: names of the profile's held-out items. `title_phrases`: the
    words of each title of the catalogue (see `_words`); `genres`: all its genres. Doubtful wordings are rejected: that
    costs nothing, because the template stays.
    """
    wording = re.sub(r"\bscience fiction\b", "sci-fi", wording, flags=re.IGNORECASE)
    summarised = [names[item] for item in (*facts["loved_items"], *facts["disliked_items"])]
    liked = [*(_title(names[item]) for item in facts["loved_items"]), *facts["liked_directors"]]
    disliked = [_title(names[item]) for item in facts["disliked_items"]]
    # Names lose their full stops ("Dr. Strangelove"), so that a full stop is the end of a sentence.
    for name in (*liked, *disliked):
        wording = wording.replace(name, _without_stops(name))
    sentences = [sentence for sentence in re.split(r"(?<=[.!?])\s+", wording) if _words(sentence)]
    if not sentences:
        return "empty"
    if len(sentences) > 5:
        return "more than five sentences"
    if not _SECOND_PERSON.search(wording) or _FIRST_PERSON.search(wording):
        return "not in the second person"
    if any(_gives_away(wording, _title(name), summarised) for name in withheld):
        return "held-out title"
    if invented := _invented(sentences, facts["summary"], title_phrases):
        return f"not among the facts: {invented}"
    decade = [] if facts["liked_decade"] is None else [f"{facts['liked_decade']}s"]
    for fact in (*facts["liked_genres"], *decade, *liked, *disliked, *facts["disliked_genres"]):
        if not _says(wording, fact):
            return f"left out: {fact}"
    for sentence in sentences:
        rest = sentence  # a title may contain "No" or "Horror"
        for name in (*liked, *disliked):
            rest = rest.replace(_without_stops(name), "")
        if new := [genre for genre in sorted(genres) if _says(rest, genre) and not _says(facts["summary"], genre)]:
            return f"not among the facts: {new[0]}"
        likes = any(_says(sentence, n) for n in liked) or any(_says(rest, g) for g in facts["liked_genres"])
        dislikes = any(_says(sentence, n) for n in disliked) or any(_says(rest, g) for g in facts["disliked_genres"])
        negated = _NEGATION.search(rest) is not None
        if (likes and negated) or (dislikes and not negated):
            return f"a taste turned around: {sentence}"
    return ""


def _title(name: str) -> str:
    return titles.split_year(name)[0]


def _without_stops(name: str) -> str:
    return re.sub(r"[.!?]", " ", name)


def _words(text: str) -> str:
    """The words of `text` without case, accents and punctuation, joined by blanks."""
    letters = unicodedata.normalize("NFKD", re.sub(r"['’‘`´]", "", text.casefold()))
    return " ".join(re.findall(r"[^\W_]+", "".join(c for c in letters if not unicodedata.combining(c))))


def _says(text: str, fact: str) -> bool:
    return f" {_words(fact)} " in f" {_words(text)} "


def _gives_away(wording: str, title: str, summarised: Sequence[str]) -> bool:
    """Whether the wording has the words of a withheld title or, if it is long, similar ones (partial ratio >= 90)."""
    text, key = f" {_words(wording)} ", re.sub(r"^(?:the|a|an) (?=.)", "", _words(title))
    for name in summarised:
        if name != _title(name):  # without its year a title of the summary may be the beginning of a withheld one
            text = text.replace(f" {_words(name)} ", " / ")
    # Below four letters only a whole word counts; below ten, a ratio of 90 leaves no room for a different letter.
    phrase = f" {key}" if len(key) >= 4 else f" {key} "
    return phrase in text or (len(key) >= 10 and fuzz.partial_ratio(key, text) >= 90)


def _invented(sentences: Sequence[str], summary: str, title_phrases: Set[str]) -> str:
    """The first name, number or title in the sentences that the summary does not have; empty if there is none."""
    for sentence in sentences:
        for position, token in enumerate(re.findall(r"[^\W_]+", sentence)):
            if (token[0].isdigit() or (position and token[0].isupper())) and not _says(summary, token):
                return token
        words = _words(sentence).split()
        for start, end in itertools.combinations(range(len(words) + 1), 2):
            # A single word is looked up only at the beginning of a sentence, where any word has a capital.
            phrase = " ".join(words[start:end])
            if phrase in title_phrases and (end - start > 1 or not start) and not _says(summary, phrase):
                return phrase
        for quoted in re.findall(r"[\"“]([^\"“”]+)[\"”]", sentence):
            if not _says(summary, quoted):
                return quoted
    return ""
