"""Whether an utterance is a good one for its party, by rules that a program can check: what preferences are made of.

A rule gives 1 where it is kept, 0 where it is broken, something between in part, and None where it has nothing to say.
It reads the dialogue as rows of table `turns` (role, text, items, notes), all linked to one catalogue. Patterns, not a
model: they see a part of what is wrong, and people break them too, which is why people's figures stand beside theirs.

Knows nothing of prompts, tokens and models, and of the held-out items of a run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rapidfuzz import fuzz

from crslib.dialogue import lexicon, stances
from crslib.dialogue.reactions import Turn, react, reaction
from crslib.dialogue.utterances import RECOMMENDER, USER, clean, item_key
from crslib.dialogue.words import words

Scores = dict[str, float | None]

LONGEST = {USER: 30, RECOMMENDER: 32}  # words; 97.5 % of the turns in ReDial's training dialogues have no more
ALIKE = 85  # rapidfuzz's ratio of two turns' words, 0 to 100, from which they are the same sentence again
_PAST = frozenset(("seen", "saw", "watched"))
_SENTENCE = 4  # words; shorter turns ("I loved it!") may come again

WEIGHTS: Mapping[str, Mapping[str, float]] = {
    USER: {"reaction": 3.0, "summary": 2.0, "unasked": 1.0, "again": 1.0, "ends": 2.0, "length": 1.0},
    RECOMMENDER: {"new": 3.0, "exists": 3.0, "heeds": 1.0, "again": 1.0, "ends": 2.0, "length": 1.0},
}
"""What breaking a rule costs; a rule of 1 outweighs no other. The first are the faults the adapters are known for."""


def summary(turn: Turn, profile: Mapping[str, Any]) -> float | None:
    """0 where the user's words contradict the profile (columns `liked_genres`, `disliked_genres`, `loved_items`,
    `disliked_items`; see `metrics.consistency.preferences`), 1 where they agree, None where they speak of none of it.
    """
    contradicts = [contradicts for _, _, contradicts in stances.statements(turn, profile, {})]
    return float(not any(contradicts)) if contradicts else None


def unasked(turn: Turn, said: Sequence[Turn]) -> float | None:
    """Whether items that the user brings up exist, and are not brought up only to say that they were not seen.

    None for a user who brings up nothing that was not mentioned before.
    """
    mentioned = {item_key(mention) for earlier in said for mention in earlier["items"]}
    own = {item_key(mention): mention["item_id"] for mention in turn["items"] if item_key(mention) not in mentioned}
    for key, item_id in own.items():
        if item_id is None or react("", turn, key, alone=False).seen is False:
            return 0.0
    return 1.0 if own else None


# ── the recommender ─────────────────────────────────────────────────────────────────────────────────────────────────


def new(turn: Turn, said: Sequence[Turn]) -> float | None:
    """0 where the recommender names an item again that it had named before, unless the user has just spoken of it.

    None where it names nothing. A title twice in one turn is once.
    """
    if not turn["items"]:
        return None
    earlier = {item_key(mention) for other in said if other["role"] == RECOMMENDER for mention in other["items"]}
    asked = {item_key(mention) for mention in said[-1]["items"]} if said and said[-1]["role"] == USER else set()
    return float(not any(item_key(mention) in earlier - asked for mention in turn["items"]))


def exists(turn: Turn) -> float | None:
    """Share of the titles named that are in the catalogue; None where nothing is named."""
    found = [float(mention["item_id"] is not None) for mention in turn["items"]]
    return sum(found) / len(found) if found else None


def heeds(turn: Turn, said: Sequence[Turn], genres: Mapping[str, Sequence[str]]) -> float | None:
    """Share of the recommended items whose genres are what the user said: none that was refused and, where some are
    wanted, one of those. The last word on a genre counts.

    `genres`: of each item. None where no genre was said, or no item with known genres is recommended; what the user
    had named is no recommendation.
    """
    wanted, refused = stated(said)
    named = {mention["item_id"] for other in said if other["role"] == USER for mention in other["items"]}
    of = [set(genres.get(mention["item_id"], ())) for mention in turn["items"] if mention["item_id"] not in named]
    kept = [float(not own & refused and (not wanted or bool(own & wanted))) for own in of if own]
    return sum(kept) / len(kept) if kept and wanted | refused else None


def stated(said: Sequence[Turn]) -> tuple[set[str], set[str]]:
    """The genres that the user asked for, and those refused. What was said of having seen a film is neither."""
    signs: dict[str, float] = {}
    for turn in said:
        if turn["role"] == USER:
            for clause, sign in lexicon.clauses(turn["text"]):
                if not _PAST.intersection(clause):
                    signs.update(dict.fromkeys(lexicon.genres(clause), sign))
    return {genre for genre, sign in signs.items() if sign > 0}, {genre for genre, sign in signs.items() if sign < 0}


# ── either ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def again(turn: Turn, said: Sequence[Turn]) -> float | None:
    """0 where a sentence is (almost) one that its speaker said before, titles included; None where nothing can be
    compared: no earlier own turn, or few words."""
    mine = words(turn["text"])
    own = [" ".join(words(earlier["text"])) for earlier in said if earlier["role"] == turn["role"]]
    if not own or len(mine) < _SENTENCE:
        return None
    return float(all(fuzz.ratio(" ".join(mine), one) < ALIKE for one in own))


def ends(raw: str, finish: str) -> float:
    """1 for words that the speaker ended, and that reach the other party as they were made: one line, whole brackets.

    `raw`: the model's own text; `finish`: see table `turns`.
    """
    return float(finish == "end" and raw == clean(raw))


def length(turn: Turn) -> float:
    """1 for a turn no longer than people's are (`LONGEST`). What is shorter is worth no less and no more."""
    return float(len(words(turn["text"])) <= LONGEST[turn["role"]])


# ── all of them ─────────────────────────────────────────────────────────────────────────────────────────────────────


def scores(
    turn: Turn, said: Sequence[Turn], raw: str, *, profile: Mapping[str, Any], genres: Mapping[str, Sequence[str]]
) -> Scores:
    """Every rule of the speaker's `WEIGHTS`, by name. `said`: the dialogue before; `profile` is the user's and read for
    its turns only; for the others see the rules."""
    both: Scores = {"again": again(turn, said), "ends": ends(raw, turn["finish"]), "length": length(turn)}
    if turn["role"] == USER:
        own = {"reaction": reaction(turn, said), "summary": summary(turn, profile), "unasked": unasked(turn, said)}
    else:
        own = {"new": new(turn, said), "exists": exists(turn), "heeds": heeds(turn, said, genres)}
    return own | both


def total(found: Mapping[str, float | None], role: str) -> float:
    """Minus what the broken rules cost: 0 is faultless. A rule with nothing to say costs nothing."""
    return -sum(weight * (1 - score) for rule, weight in WEIGHTS[role].items() if (score := found[rule]) is not None)
