"""Summaries in a language model's words, checked against the facts and against the held-out titles.

An option of `01_profiles`, which may see the holdouts. Knows nothing of dialogues.
"""

import asyncio
import contextlib
import itertools
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import polars as pl
from rapidfuzz import fuzz

from crslib.config import ProfileParameters, n_threads
from crslib.data import catalog, titles
from crslib.dialogue import templates, utterances, views
from crslib.dialogue.domain import Domain, fill
from crslib.engines import llama
from crslib.engines.background import event_loop
from crslib.engines.base import Engine, Request, Sampling, complete
from crslib.engines.server import NoAnswer, Server, is_server, parse
from crslib.identity import derive_seed
from crslib.users.profiles import ProfileTables

# An example of a rewording in the prompt makes the built-in model invent more, not less.
_TASK = (
    "You rewrite a short text about a person's taste in {plural}. Say the same facts in other words. "
    'Speak to the person as "you". Keep every {kind}, name and title with its year. '
    "Write at most five short sentences. Add nothing new."
)
_SAMPLING = Sampling(temperature=0, max_tokens=128)
_NEGATION = re.compile(r"\b(?:not|no|never|nor|hate[sd]?|avoid\w*|dislik\w+|except|cannot)\b|n['’]t\b", re.IGNORECASE)
_FIRST_PERSON = re.compile(r"\b(?:I|me|my|mine|we|us|our)\b")
_SECOND_PERSON = re.compile(r"\b(?:you|your|yours)\b", re.IGNORECASE)
Write = Callable[[Mapping[str, str]], Mapping[str, tuple[str, str]]]
"""Summaries by profile, to wordings by profile, each with the reason why it is none (empty: it is one)."""
REJECTED = pl.DataFrame(schema=dict.fromkeys(("profile_id", "reason", "wording"), pl.String))


def worded(tables: ProfileTables, parameters: ProfileParameters) -> tuple[ProfileTables, pl.DataFrame]:
    """`tables` with summaries in the style of `summary_style`, and the wordings that were rejected (see `reword`).

    Decoding is greedy, because the built-in model then invents less. Raises `CrsError` when the model cannot be loaded
    or its server fails.
    """
    if parameters.summary_style == "template":
        return tables, REJECTED.clear()
    with contextlib.ExitStack() as opened:
        if is_server(parameters.summary_model):
            server = Server(*parse(parameters.summary_model))
            opened.callback(lambda: event_loop().run(server.close()))
            write = by_server(server, tables.domain, parameters.seed)
        else:
            model = opened.enter_context(contextlib.closing(llama.Model(llama.model_path(parameters.summary_model))))
            engine = llama.LlamaEngine(model, None, _SAMPLING, n_ctx=1024, threads=n_threads(0))
            opened.callback(engine.close)
            write = by_engine(engine, tables.domain, parameters.seed)
        profiles, rejected = reword(tables.profiles, tables.holdouts, tables.items, write)
        return replace(tables, profiles=profiles), rejected


def _messages(summary: str, domain: Domain) -> list[views.Message]:
    task = fill(_TASK, plural=domain.plural, kind=domain.kind_label)
    return [views.Message("system", task), views.Message("user", summary)]


def by_engine(engine: Engine, domain: Domain, seed: int) -> Write:
    """Wordings by a local model, `engine.width` at a time."""
    template = templates.ChatTemplate(*engine.chat_template)

    def write(summaries: Mapping[str, str]) -> dict[str, tuple[str, str]]:
        wordings = {}
        profiles = list(summaries)
        for start in range(0, len(profiles), engine.width):
            requests = [
                Request(
                    profile,
                    tuple(template.encode(_messages(summaries[profile], domain), engine)),
                    derive_seed(seed, "summary", profile),
                )
                for profile in profiles[start : start + engine.width]
            ]
            for request, completion in zip(requests, complete(engine, requests), strict=True):
                engine.release(request.key)
                cut = "" if completion.finish == "end" else "cut short"
                wordings[request.key] = engine.decode(completion.ids), cut
        return wordings

    return write


def by_server(server: Server, domain: Domain, seed: int) -> Write:
    """Wordings by a model on a server, as many at a time as its limits allow."""

    async def one(profile: str, summary: str) -> tuple[str, str]:
        try:
            answer = await server.complete(_messages(summary, domain), _SAMPLING, derive_seed(seed, "summary", profile))
        except NoAnswer as error:
            return "", str(error)
        return answer.text, "" if answer.finish == "end" else "cut short"

    async def write(summaries: Mapping[str, str]) -> dict[str, tuple[str, str]]:
        await server.check()
        wordings = await asyncio.gather(*(one(*each) for each in summaries.items()))
        return dict(zip(summaries, wordings, strict=True))

    return lambda summaries: event_loop().run(write(summaries))


def reword(
    profiles: pl.DataFrame, holdouts: pl.DataFrame, items: pl.DataFrame, write: Write
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`profiles` with summaries in a model's words where these passed the check (`fault`), and the rejected wordings.

    The model sees the template summary only; where its wording fails, the template stays. The second frame has
    `profile_id`, `reason`, `wording` of the rejected ones, sorted by profile. It may quote a held-out title, so a
    simulation must not read it.
    """
    names = catalog.item_names(items)
    title_phrases = frozenset(_words(title) for title in items["title"])
    kinds = frozenset(kind for kinds in items["kinds"] for kind in kinds)
    hidden = {profile: part["item_id"].to_list() for (profile,), part in holdouts.group_by("profile_id")}
    rows = [row for row in profiles.sort("profile_id").iter_rows(named=True) if row["summary"]]
    wordings = write({row["profile_id"]: row["summary"] for row in rows})
    accepted: dict[str, str] = {}
    rejected = []
    for row in rows:
        profile = row["profile_id"]
        text, reason = wordings[profile]
        wording = utterances.one_line(text)
        withheld = [names[item] for item in hidden.get(profile, []) if item in names]
        if reason := reason or fault(wording, row, names, withheld, title_phrases, kinds):
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
    kinds: Set[str],
) -> str:
    """Why `wording` may not replace the template summary of `facts` (a row of table `profiles`); empty if it may.

    `names`: item id to `Title (Year)`. `withheld`: names of the profile's held-out items. `title_phrases`: the
    words of each title of the catalogue (see `_words`); `kinds`: all its kinds. Doubtful wordings are rejected: that
    costs nothing, because the template stays.
    """
    wording = re.sub(r"\bscience fiction\b", "sci-fi", wording, flags=re.IGNORECASE)
    summarised = [names[item] for item in (*facts["loved_items"], *facts["disliked_items"])]
    liked = [*(_title(names[item]) for item in facts["loved_items"]), *facts["liked_makers"]]
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
    time = facts["liked_decade"]
    decade = [] if time is None else [f"{time}s" if f"{time}s" in facts["summary"] else str(time)]
    for fact in (*facts["liked_kinds"], *decade, *liked, *disliked, *facts["disliked_kinds"]):
        if not _says(wording, fact):
            return f"left out: {fact}"
    for sentence in sentences:
        rest = sentence  # a title may contain "No" or "Horror"
        for name in (*liked, *disliked):
            rest = rest.replace(_without_stops(name), "")
        if new := [kind for kind in sorted(kinds) if _says(rest, kind) and not _says(facts["summary"], kind)]:
            return f"not among the facts: {new[0]}"
        likes = any(_says(sentence, n) for n in liked) or any(_says(rest, g) for g in facts["liked_kinds"])
        dislikes = any(_says(sentence, n) for n in disliked) or any(_says(rest, g) for g in facts["disliked_kinds"])
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
