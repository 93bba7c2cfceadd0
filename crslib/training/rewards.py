"""Rules that score an utterance by what is right for its speaker. Preference pairs are selected by these scores.

A rule returns 1 where the utterance follows it, 0 where it breaks it, a value between where it follows it in part, and
None where the rule does not apply. It reads the dialogue as rows of table `turns` (role, text, items, notes), all
linked to one catalogue. Rules are phrase patterns, not a model: they miss some faults, and human utterances break them
too.

Knows nothing of prompts, tokens and models, and of the held-out items of a run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rapidfuzz import fuzz

from crslib.dialogue import lexicon, stances
from crslib.dialogue.domain import Domain
from crslib.dialogue.reactions import react, reaction
from crslib.dialogue.utterances import RECOMMENDER, USER, clean, item_key
from crslib.dialogue.views import Turn
from crslib.dialogue.words import words

Scores = dict[str, float | None]

LONGEST = {USER: 30, RECOMMENDER: 32}  # words; 97.5 % of the turns in ReDial's training dialogues have no more
ALIKE = 85  # rapidfuzz's ratio of the words of two turns, 0 to 100, from which one repeats the other
_SENTENCE = 4  # words; shorter turns ("I loved it!") may be repeated

WEIGHTS: Mapping[str, Mapping[str, float]] = {
    USER: {
        "agrees_with_note": 3.0,
        "agrees_with_summary": 2.0,
        "no_unprompted_title": 1.0,
        "no_self_repetition": 1.0,
        "well_formed": 2.0,
        "not_too_long": 1.0,
    },
    RECOMMENDER: {
        "no_repeat": 3.0,
        "title_exists": 3.0,
        "follows_kinds": 1.0,
        "no_self_repetition": 1.0,
        "well_formed": 2.0,
        "not_too_long": 1.0,
    },
}
"""The cost of breaking each rule, by role: highest for the known faults of the adapters. A single rule of cost 1 never
outweighs another rule."""
RULES = tuple(dict.fromkeys(rule for weights in WEIGHTS.values() for rule in weights))


# ── the user ────────────────────────────────────────────────────────────────────────────────────────────────────────


def agrees_with_summary(turn: Turn, profile: Mapping[str, Any], domain: Domain) -> float | None:
    """0 where the user contradicts the profile (columns `liked_kinds`, `disliked_kinds`, `loved_items`,
    `disliked_items`; see `stances.statements`), 1 where they agree, None where they mention none of it.
    """
    contradicts = [contradicts for _, _, contradicts in stances.statements(turn, profile, {}, domain)]
    return float(not any(contradicts)) if contradicts else None


def no_unprompted_title(turn: Turn, history: Sequence[Turn], domain: Domain) -> float | None:
    """0 where the user brings up an item that does not exist, or only to say that they have not met it.

    None for a user who brings up no new item.
    """
    mentioned = {item_key(mention) for earlier in history for mention in earlier["items"]}
    new = {item_key(mention): mention["item_id"] for mention in turn["items"] if item_key(mention) not in mentioned}
    for key, item_id in new.items():
        if item_id is None or react("", turn, key, domain, alone=False).seen is False:
            return 0.0
    return 1.0 if new else None


# ── the recommender ─────────────────────────────────────────────────────────────────────────────────────────────────


def no_repeat(turn: Turn, history: Sequence[Turn]) -> float | None:
    """0 where the recommender names an item in a second turn, unless the user has just mentioned it.

    None where it names nothing.
    """
    if not turn["items"]:
        return None
    earlier = {item_key(mention) for other in history if other["role"] == RECOMMENDER for mention in other["items"]}
    last = history[-1] if history else None
    asked = {item_key(mention) for mention in last["items"]} if last is not None and last["role"] == USER else set()
    return float(not any(item_key(mention) in earlier - asked for mention in turn["items"]))


def title_exists(turn: Turn) -> float | None:
    """Share of the named titles that are in the catalogue; None where nothing is named."""
    known = [float(mention["item_id"] is not None) for mention in turn["items"]]
    return sum(known) / len(known) if known else None


def follows_kinds(
    turn: Turn, history: Sequence[Turn], kinds: Mapping[str, Sequence[str]], domain: Domain
) -> float | None:
    """Share of the recommended items that have no kind that the user refused and, if the user asked for any, at least
    one that it asked for. The last statement on a kind counts.

    `kinds`: item id → kinds. None where the user spoke of no kind, or no item with known kinds is recommended; an item
    that the user had named is not a recommendation.
    """
    wanted, refused = stated_kinds(history, domain)
    named = {mention["item_id"] for other in history if other["role"] == USER for mention in other["items"]}
    of_items = [set(kinds.get(mention["item_id"], ())) for mention in turn["items"] if mention["item_id"] not in named]
    fits = [float(not own & refused and (not wanted or bool(own & wanted))) for own in of_items if own]
    return sum(fits) / len(fits) if fits and wanted | refused else None


def stated_kinds(history: Sequence[Turn], domain: Domain) -> tuple[set[str], set[str]]:
    """The kinds that the user asked for and those refused. Statements about items already met are neither."""
    signs: dict[str, float] = {}
    for turn in history:
        if turn["role"] == USER:
            for clause, sign in lexicon.clauses(turn["text"]):
                if not set(domain.meeting.past).intersection(clause):
                    signs.update(dict.fromkeys(lexicon.kinds(clause, domain), sign))
    return {kind for kind, sign in signs.items() if sign > 0}, {kind for kind, sign in signs.items() if sign < 0}


# ── both roles ────────────────────────────────────────────────────────────────────────────────────────────────────────


def no_self_repetition(turn: Turn, history: Sequence[Turn]) -> float | None:
    """0 where a turn, titles included, is almost the same as an earlier one of its speaker, else 1; None where it has
    fewer than four words, or there is no earlier one."""
    mine = words(turn["text"])
    own = [" ".join(words(earlier["text"])) for earlier in history if earlier["role"] == turn["role"]]
    if not own or len(mine) < _SENTENCE:
        return None
    return float(all(fuzz.ratio(" ".join(mine), one) < ALIKE for one in own))


def well_formed(raw: str, finish: str) -> float:
    """1 for an utterance that the model ended itself and that reaches the other party unchanged: one line, whole
    brackets. `raw`: the model's own text; `finish`: see table `turns`.
    """
    return float(finish == "end" and raw == clean(raw))


def not_too_long(turn: Turn) -> float:
    """1 for a turn of at most `LONGEST` words. Shorter turns earn nothing more."""
    return float(len(words(turn["text"])) <= LONGEST[turn["role"]])


# ── all rules ─────────────────────────────────────────────────────────────────────────────────────────────────────


def scores(
    turn: Turn,
    history: Sequence[Turn],
    raw: str,
    *,
    profile: Mapping[str, Any],
    kinds: Mapping[str, Sequence[str]],
    domain: Domain,
) -> Scores:
    """The score of every rule in the speaker's `WEIGHTS`. `history`: the dialogue before the turn; `raw` and `kinds`:
    see `well_formed` and `follows_kinds`; `profile`: see `agrees_with_summary`, read for user turns only."""
    both: Scores = {
        "no_self_repetition": no_self_repetition(turn, history),
        "well_formed": well_formed(raw, turn["finish"]),
        "not_too_long": not_too_long(turn),
    }
    if turn["role"] == USER:
        own = {
            "agrees_with_note": reaction(turn, history, domain),
            "agrees_with_summary": agrees_with_summary(turn, profile, domain),
            "no_unprompted_title": no_unprompted_title(turn, history, domain),
        }
    else:
        own = {
            "no_repeat": no_repeat(turn, history),
            "title_exists": title_exists(turn),
            "follows_kinds": follows_kinds(turn, history, kinds, domain),
        }
    return own | both


def total(by_rule: Mapping[str, float | None], role: str) -> float:
    """Minus the cost of the broken rules; 0: none is broken. A rule that does not apply costs nothing."""
    return -sum(weight * (1 - score) for rule, weight in WEIGHTS[role].items() if (score := by_rule[rule]) is not None)
