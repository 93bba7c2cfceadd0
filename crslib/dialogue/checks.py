"""What an utterance must not do, by what its speaker knows: drawn again while it does (parameter `resample`).

Faults are weighed: of draws that all have some, the one with the least is said.

The same readers measure consistency and facts afterwards, so a rule cannot improve what its reader does not see.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from crslib.dialogue import reactions
from crslib.dialogue.claims import claims
from crslib.dialogue.credits import Credits
from crslib.dialogue.domain import Domain
from crslib.dialogue.stances import serves_wish, statements, wishes
from crslib.dialogue.utterances import RECOMMENDER, USER, replace_mentions
from crslib.dialogue.views import Turn, Wishes

FALSE, SILENT = 2, 1
"""Faults: to say what one knows otherwise, and to leave out what it is time to say."""
_TIME_TO_SAY = (2, 3)  # utterances of a user in which it says what it looks for, if it has not before


def user_faults(
    turn: Turn,
    history: Sequence[Turn],
    profile: Mapping[str, Any],
    items: Mapping[str, Mapping[str, Any]],
    domain: Domain,
) -> int:
    """`FALSE` for a user's reply that contradicts one of its notes, states what its summary says otherwise, or names a
    loved item, unasked, that has nothing to do with its wish; `SILENT` for one that says no part of the wish when it is
    time to; 0 for others.

    Until it has said a part, it is time to when the recommender has asked something before it has named an item, and in
    the user's second and third utterance.

    `turn`, `history`: role, text, items and notes of table `turns`; `profile`: the user's row of table `profiles`;
    `items`: rows of table `items` by id.
    """
    if not reactions.fits(turn, history, domain):
        return FALSE
    if any(contradicts for *_, contradicts in statements(turn, profile, {}, domain)):
        return FALSE
    named = {item["item_id"] for earlier in history for item in earlier["items"]}
    new = {item["item_id"] for item in turn["items"]} - named
    favourites = new & set(profile["loved_items"] or ()) & items.keys()
    if any(serves_wish(items[item_id], Wishes.of(profile), domain) is False for item_id in favourites):
        return FALSE
    number = 1 + sum(earlier["role"] == USER for earlier in history)
    silent = (_asked(history) or number in _TIME_TO_SAY) and not _says_wish([*history, turn], profile, domain)
    return SILENT if silent else 0


def _asked(history: Sequence[Turn]) -> bool:
    """Whether the recommender has just asked something and not named any item yet."""
    of_recommender = [turn for turn in history if turn["role"] == RECOMMENDER]
    named = any(turn["items"] for turn in of_recommender)
    return bool(history) and history[-1]["role"] == RECOMMENDER and "?" in history[-1]["text"] and not named


def _says_wish(turns: Sequence[Turn], profile: Mapping[str, Any], domain: Domain) -> bool:
    """Whether the user has said a part of its wish, if it has one."""
    parts = list(wishes(profile, domain))
    own = [replace_mentions(turn["text"], " , ") for turn in turns if turn["role"] == USER]
    return not parts or any(says(text) for _, says in parts for text in own)


def recommender_faults(turn: Turn, history: Sequence[Turn], credits: Credits) -> int:
    """`FALSE` for a recommender's reply that states a person or year of an item at hand which the catalogue
    contradicts; else 0."""
    return FALSE if any(claim.true is False for claim in claims(turn, history, credits)) else 0
