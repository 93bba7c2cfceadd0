"""Whether hidden information leaks: an audit of every prompt, and whether users name their hidden items.

The audit reads exactly what was fed to the models. Titles are matched as whole words, punctuation aside:

- `Title (Year)` always; the bare title if it has two words or eight letters, in any case;
- a shorter one ("Heat", "Her") only as it is capitalised and not at the start of a sentence, so that ordinary words do
  not count as titles;
- never inside the name of another item ("Alien" in "Alien: Covenant"), or of a person or kind of the profile.

What an utterance of the dialogue already holds is no leak: utterances are searched in the same way.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from rapidfuzz import fuzz

from crslib import stats
from crslib.data.catalog import item_names
from crslib.dialogue import utterances
from crslib.dialogue.domain import Domain
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import note_words
from crslib.dialogue.words import spaced, words
from crslib.metrics.base import Metric

FUZZY = 90  # rapidfuzz's ratio, 0 to 100, from which a title counts as named
LONG_TITLE = 8  # letters from which a single word is matched in any case

_ANONYMITY = "Sweeney, k-anonymity, 2002"
METRICS = (
    Metric("leaked_titles", "leakage", "User prompts with a hidden title", "prompts", "lower",
        "Number of user prompts that name a held-out item before either party named it; every prompt is read.",
        resampling="none", claim="leaks less", needs="prompts"),
    Metric("leaked_profiles", "leakage", "Recommender prompts with private text", "prompts", "lower",
        "Number of recommender prompts with a sentence of the summary, the attributes, their headings or a private "
        "note, or of a held-out item, that no utterance held before; every prompt is read.",
        resampling="none", claim="leaks less", needs="prompts"),
    Metric("target_named_by_user", "leakage", "User names a target first", "share", "lower",
        "Share of dialogues in which the user names a held-out liked item before the recommender does: by a link, or "
        f"by a run of words with a rapidfuzz ratio ≥ {FUZZY} to its title and the same numbers (titles of one short "
        "word: with the year). Human dialogues: items that, by the form, the recommender suggested and the seeker "
        "liked.",
        settings=f"ratio:{FUZZY}", chart=True, claim="leaks less", needs="holdouts"),
    Metric("first_turn_hits", "leakage", "Hits in the recommender's first turn", "share", "none",
        "Share of dialogues whose first recommender turn names a held-out liked item; a high share is a sign that the "
        "recommender knows the target.", needs="holdouts"),
    Metric("k_anonymity", "leakage", "Items that match the target attributes (median)", "items", "higher",
        "Median over dialogues of the number of catalogue items that have all target attributes.", _ANONYMITY,
        needs="profiles"),
    Metric("k_anonymity_min", "leakage", "Items that match the target attributes (minimum)", "items", "higher",
        "Minimum over dialogues of the number of catalogue items that have all target attributes.", _ANONYMITY,
        resampling="none", needs="profiles"),
)  # fmt: skip

IN_PROFILE = "hidden item in profile"
KINDS: Mapping[str, str] = {
    "hidden title": "user prompts: a hidden item before anyone named it",
    "profile text": "recommender prompts: summary or attributes",
    "profile marker": "recommender prompts: heading of the private part",
    "private note": "recommender prompts: private note",
    "hidden title looked up": "recommender prompts: a hidden item before anyone named it",
    IN_PROFILE: "profiles: a hidden item among the known ones",
}
_MARKERS = ("About you:", "Looking for:")
_CONTROL = re.compile(r"<\|[^|>]*\|>")


@dataclass(frozen=True)
class Audit:
    """`findings` (dialogue_id, turn, role, kind, evidence; turn −1: in a profile), and how many prompts were read."""

    findings: pl.DataFrame
    n_user_prompts: int
    n_recommender_prompts: int
    n_profiles: int

    @property
    def counts(self) -> dict[str, int | None]:
        """For `run.json`: prompts read, and prompts (or profiles) with a finding of each kind; None: nothing was read
        in which there could be one."""
        n_by_kind = Counter(self.findings.unique(["dialogue_id", "turn", "role", "kind"])["kind"])
        return {
            "user_prompts": self.n_user_prompts,
            "recommender_prompts": self.n_recommender_prompts,
            "profiles": self.n_profiles,
            **{kind.replace(" ", "_"): n_by_kind[kind] if n_read else None for kind, n_read in self._read.items()},
        }

    @property
    def _read(self) -> dict[str, int]:
        """How many prompts or profiles were read for each kind of finding."""
        read = {"hidden title": self.n_user_prompts, IN_PROFILE: self.n_profiles}
        return {kind: read.get(kind, self.n_recommender_prompts) for kind in KINDS}

    def table(self) -> pl.DataFrame:
        """One row per check: (check, findings, read)."""
        counts = self.counts
        return pl.DataFrame(
            {
                "check": list(KINDS.values()),
                "findings": [counts[kind.replace(" ", "_")] or 0 for kind in KINDS],
                "read": list(self._read.values()),
            }
        )


# ── audit of the prompts ────────────────────────────────────────────────────────────────────────────────────────


def audit(
    prompts: pl.DataFrame,
    profiles: pl.DataFrame,
    holdouts: pl.DataFrame,
    items: pl.DataFrame,
    dialogues: pl.DataFrame,
    turns: pl.DataFrame,
    domain: Domain,
) -> Audit:
    """Reads every prompt (table `prompts`) for hidden items, those of the recommender for private text too, and every
    profile for hidden items.

    All held-out items count as hidden, liked or not. A recommender prompt may hold a private text as often as the
    utterances before it do; once more is a leak. Names of the makers and people of mentioned items are no titles.
    """
    titles = _Titles(items)
    named_with = items.select("item_id", pl.concat_list("makers", "people")).iter_rows()
    credits: dict[str, list[str]] = dict(named_with)
    mentioned, note = _mentioned(turns), _note(domain)
    hidden = {key[0]: rows["item_id"].to_list() for key, rows in holdouts.sort("item_id").group_by("profile_id")}
    known = {row["profile_id"]: row for row in profiles.iter_rows(named=True)}
    owner = dict(dialogues.select("dialogue_id", "profile_id").iter_rows())
    utterances_of = _utterances(turns)
    rows: list[tuple[str, int, str, str, str]] = []
    for prompt in prompts.sort("dialogue_id", "turn").iter_rows(named=True):
        profile = known.get(owner.get(prompt["dialogue_id"], ""), {})
        history = [text for turn, text in utterances_of[prompt["dialogue_id"]] if turn < prompt["turn"]]
        text = _CONTROL.sub("\n", prompt["text"])
        targets = hidden.get(owner.get(prompt["dialogue_id"], ""), [])
        if prompt["role"] == USER:
            unsaid = titles.unsaid(targets, text, history, _own_words(profile))
            leaks = [("hidden title", name) for name in unsaid]
        else:
            named = (item for turn, item in mentioned[prompt["dialogue_id"]] if turn < prompt["turn"])
            persons = [person for item in dict.fromkeys(named) for person in credits.get(item, ())]
            leaks = list(_private(profile, text, [domain.system.recommender, *history], note))
            leaks += [("hidden title looked up", name) for name in titles.unsaid(targets, text, history, persons)]
        rows += [(prompt["dialogue_id"], prompt["turn"], prompt["role"], kind, evidence) for kind, evidence in leaks]
    for profile_id, profile in sorted(known.items()):
        own = {*(profile["loved_items"] or ()), *(profile["disliked_items"] or ())}
        rows += [
            (profile_id, -1, USER, IN_PROFILE, item) for item in sorted(own.intersection(hidden.get(profile_id, ())))
        ]
    schema = {
        "dialogue_id": pl.String,
        "turn": pl.Int32,
        "role": pl.String,
        "kind": pl.String,
        "evidence": pl.String,
    }
    return Audit(
        pl.DataFrame(rows, schema=schema, orient="row"),
        prompts.filter(pl.col("role") == USER).height,
        prompts.filter(pl.col("role") == RECOMMENDER).height,
        len(known),
    )


def _utterances(turns: pl.DataFrame) -> defaultdict[str, list[tuple[int, str]]]:
    """Dialogue → (turn, text), in order."""
    texts: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for dialogue_id, turn, text in turns.sort("dialogue_id", "turn").select("dialogue_id", "turn", "text").iter_rows():
        texts[dialogue_id].append((turn, text))
    return texts


def _mentioned(turns: pl.DataFrame) -> defaultdict[str, list[tuple[int, str]]]:
    """Dialogue → (turn, item id) of its mentions, in order."""
    items: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for dialogue_id, turn, mentions in (
        turns.sort("dialogue_id", "turn").select("dialogue_id", "turn", "items").iter_rows()
    ):
        items[dialogue_id] += [(turn, mention["item_id"]) for mention in mentions]
    return items


def _own_words(profile: Mapping[str, Any]) -> list[str]:
    lists = ("target_kinds", "liked_kinds", "disliked_kinds", "liked_makers")
    single = (profile.get("target_person"), profile.get("target_maker"))
    own = [word for name in lists for word in profile.get(name) or ()]
    return [*own, *filter(None, single)]


def _note(domain: Domain) -> re.Pattern[str]:
    """A part of a private note."""
    words = sorted({part for words in note_words(domain).values() for part in words.split(", ")})
    return re.compile(rf"[:,] (?:{'|'.join(map(re.escape, words))})(?=[,;)])")


def _private(
    profile: Mapping[str, Any], prompt: str, history: Sequence[str], note: re.Pattern[str]
) -> Iterator[tuple[str, str]]:
    """(kind, evidence) of private text that a recommender's prompt holds more often than the utterances `history`."""
    parts = [*re.split(r"(?<=[.!?])\s+", profile.get("summary") or ""), profile.get("attributes") or ""]
    fed, public = spaced(prompt).lower(), "".join(spaced(text).lower() for text in history)
    for part in parts:
        phrase = spaced(part).lower().rstrip(" .") + " "
        if phrase.strip() and phrase in fed and _count(phrase, fed) > _count(phrase, public):
            yield "profile text", part
    for marker in _MARKERS:
        if prompt.count(marker) > sum(text.count(marker) for text in history):
            yield "profile marker", marker
    notes = note.findall(prompt)
    if len(notes) > sum(len(note.findall(utterances.plain(text))) for text in history):
        yield "private note", notes[0]


def _count(phrase: str, text: str) -> int:
    """Occurrences of `phrase`; successive ones may share the space between them."""
    return len(re.findall(f"(?={re.escape(phrase)})", text))


class _Titles:
    """Finds titles of a catalogue in texts."""

    def __init__(self, items: pl.DataFrame) -> None:
        names, titles = item_names(items), dict(items.select("item_id", "title").iter_rows())
        self._names = {item_id: (titles[item_id], name) for item_id, name in names.items()}
        self._bare = {item_id: f" {spaced(title).strip(' .').lower()} " for item_id, title in titles.items()}
        # Every name's words as one text, to find the names that contain another one.
        self._phrases = {item_id: spaced(name).lower() for item_id, (_, name) in self._names.items()}
        self._holders: dict[str, list[str]] = {}

    def unsaid(
        self, targets: Iterable[str], text: str, history: Sequence[str], own_words: Sequence[str]
    ) -> Iterator[str]:
        """Names of the `targets` (item ids) that are in `text` and in none of the utterances `history`."""
        fed = spaced(text)
        lower = fed.lower()
        public: str | None = None
        for item_id in targets:
            if item_id not in self._names or self._bare[item_id] not in lower:
                continue  # at once: nearly always
            if not self._in(item_id, fed, own_words):
                continue
            public = "".join(map(spaced, history)) if public is None else public
            if not self._in(item_id, public, own_words):
                yield self._names[item_id][1]

    def _in(self, item_id: str, text: str, own_words: Sequence[str]) -> bool:
        title, name = self._names[item_id]
        bare, full = spaced(title).strip(" ."), spaced(name).strip(" .")
        if not bare or f" {bare.lower()} " not in text.lower():
            return False
        text = _without(text, [*self._longer(item_id, bare.lower()), *own_words])
        if f" {full.lower()} " in text.lower():
            return True
        if " " in bare or len(bare) >= LONG_TITLE:
            return f" {bare.lower()} " in text.lower()
        return re.search(rf"(?<! \.)(?<!^) {re.escape(bare)} ", text) is not None

    def _longer(self, item_id: str, bare: str) -> list[str]:
        """Names of other items that contain the words `bare`, the longest first."""
        if item_id not in self._holders:
            held = [other for other, phrase in self._phrases.items() if other != item_id and f" {bare} " in phrase]
            spellings = {name for other in held for name in self._names[other]}
            self._holders[item_id] = sorted(
                (name for name in spellings if spaced(name).strip(" .").lower() != bare), key=lambda n: (-len(n), n)
            )
        return self._holders[item_id]


def _without(text: str, phrases: Iterable[str]) -> str:
    for phrase in phrases:
        if words_of := spaced(phrase).strip(" ."):
            text = re.sub(rf" {re.escape(words_of)}(?= )", " |", text, flags=re.IGNORECASE)
    return text


# ── targets named in the dialogue ───────────────────────────────────────────────────────────────────────────────


# Of a row of `first_named`: the user named the target before the recommender did.
USER_FIRST = pl.col("user").is_not_null() & (pl.col("recommender").is_null() | (pl.col("user") < pl.col("recommender")))


def first_named(turns: pl.DataFrame, targets: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """When either party first named a target: (dialogue_id, item_id, user, recommender), turns or null.

    `targets`: (dialogue_id, item_id). An item is named by its link, or in words outside links by a run of words at
    least `FUZZY` similar to its title with the same numbers; titles of one short word by `Title (Year)` only.
    """
    named = items.join(targets, on="item_id", how="semi")
    titles = {
        item_id: (words(title), words(name))
        for title, (item_id, name) in zip(named["title"], item_names(named).items(), strict=True)
    }
    wanted: defaultdict[str, list[str]] = defaultdict(list)
    for dialogue_id, item_id in targets.select("dialogue_id", "item_id").sort("dialogue_id", "item_id").iter_rows():
        wanted[dialogue_id].append(item_id)
    first: dict[tuple[str, str, str], int] = {}
    columns = ("dialogue_id", "turn", "role", "text", "items")
    for turn in turns.sort("dialogue_id", "turn").select(columns).iter_rows(named=True):
        linked = {mention["item_id"] for mention in turn["items"]}
        links = ((item["start"], item["end"], " | ") for item in turn["items"] if item["item_id"] is not None)
        loose = words(utterances.replace_spans(turn["text"], links))
        for item_id in wanted[turn["dialogue_id"]]:
            key = (turn["dialogue_id"], item_id, turn["role"])
            if key not in first and (item_id in linked or _names(*titles.get(item_id, ([], [])), loose)):
                first[key] = turn["turn"]
    rows = [
        (dialogue_id, item_id, first.get((dialogue_id, item_id, USER)), first.get((dialogue_id, item_id, RECOMMENDER)))
        for dialogue_id, item_ids in sorted(wanted.items())
        for item_id in item_ids
    ]
    schema = {"dialogue_id": pl.String, "item_id": pl.String, "user": pl.Int32, "recommender": pl.Int32}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _names(bare: list[str], full: list[str], spoken: list[str]) -> bool:
    if not bare or not spoken:
        return False
    title = bare if len(bare) > 1 or len(bare[0]) >= LONG_TITLE else full
    if title is full and len(full) == len(bare):  # a short title without a year: only a link names it
        return False
    wanted, numbers = " ".join(title), [word for word in title if word.isdigit()]
    if fuzz.partial_ratio(wanted, " ".join(spoken), score_cutoff=FUZZY - 10) == 0:
        return False
    for length in (len(title), len(title) + 1, len(title) - 1):
        for start in range(len(spoken) - length + 1 if length > 0 else 0):
            window = spoken[start : start + length]
            same_numbers = [word for word in window if word.isdigit()] == numbers
            if same_numbers and fuzz.ratio(wanted, " ".join(window)) >= FUZZY:
                return True
    return False


def named_by_user_first(turns: pl.DataFrame, targets: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole): of dialogues with a target, those in which the user named one first."""
    return (
        first_named(turns, targets, items)
        .group_by("dialogue_id")
        .agg(USER_FIRST.any().cast(pl.Float64).alias("part"))
        .select("dialogue_id", pl.lit("target_named_by_user").alias("metric"), "part", pl.lit(1.0).alias("whole"))
        .sort("dialogue_id")
    )


def k_anonymity(dialogues: pl.DataFrame, profiles: pl.DataFrame, *, times: int, seed: int) -> dict[str, stats.Estimate]:
    """Median (with interval) and minimum number of catalogue items that match a profile's target attributes."""
    used = dialogues.select("dialogue_id", "profile_id").join(profiles, on="profile_id").drop_nulls("k_anonymity")
    values = used.sort("dialogue_id")["k_anonymity"].to_numpy()
    if not len(values):
        return {}
    median = stats.bootstrap(
        lambda counts: np.array([np.median(np.repeat(values, row)) for row in counts]),
        len(values),
        times=times,
        seed=seed,
    )
    return {
        "k_anonymity": median,
        "k_anonymity_min": stats.Estimate(float(values.min()), None, None, len(values)),
    }
