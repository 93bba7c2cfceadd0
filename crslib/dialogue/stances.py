"""What a user says for or against something that its profile speaks of. Patterns, not a model.

Knows nothing of held-out items.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from crslib.dialogue.utterances import plain
from crslib.dialogue.words import words

# Other words for a genre of the catalogue; the genre's own name and its plural always count.
_GENRE_WORDS: Mapping[str, str] = {
    "action": "action packed",
    "animation": "animated|cartoon|cartoons|anime",
    "children": "kids|children's",
    "comedy": "comedies|comedic|funny movie|funny movies|something funny",
    "crime": "gangster|mafia|heist",
    "documentary": "documentaries",
    "drama": "dramatic",
    "family": "families|kids",
    "fantasy": "fantasies",
    "film-noir": "film noir|noir",
    "horror": "scary movie|scary movies|something scary|slasher|slashers",
    "mystery": "mysteries|whodunit",
    "romance": "romantic|rom com|romcom|love story|love stories",
    "sci-fi": "sci fi|scifi|science fiction",
    "thriller": "suspense|suspenseful",
    "war": "military",
}
DECADE_WORDS = {1920: "twenties", 1930: "thirties", 1940: "forties", 1950: "fifties", 1960: "sixties"} | {
    1970: "seventies",
    1980: "eighties",
    1990: "nineties",
}
_LIKES = re.compile(
    r"\b(?:love|loved|enjoy|enjoyed|prefer|adore|favorite|favourite|fan of|into|in the mood for)\b"
    r"|\b(?:i|we|really|also|always|do|would|i'd) (?:\w+ ){0,2}?liked?\b"
)
_DISLIKES = re.compile(
    r"(?:\bnot|\bnever|n't|\b(?:do|did|does|have|am|is|are|was)nt) (?:\w+ ){0,3}?"
    r"(?:like|liked|love|enjoy|enjoyed|care|into|fan|interested|want|mood)\b"
    r"|\b(?:hate|hated|dislike|disliked|can't stand)\b"
)
_UNSEEN = re.compile(r"(?:\bnot|\bnever|n't|\b(?:have|did)nt) (?:\w+ ){0,2}?(?:seen|saw|see|watched|watch)\b")
_SENTENCE = re.compile(r"[.!?;\n]+|\b(?:but|although|though|however|except)\b")


def statements(
    turn: Mapping[str, Any], profile: Mapping[str, Any], titles: Mapping[str, str]
) -> Iterable[tuple[str, str, bool]]:
    """What a user turn says for or against something the profile has a view on: (about, says, contradicts) of each.

    `turn`: a row of table `turns`; `profile`: columns `liked_genres` … `disliked_items`; `titles`: item id to title.
    """
    loved, disliked = set(profile["loved_items"] or ()), set(profile["disliked_items"] or ())
    enjoyed, rejected = profile["liked_genres"] or [], profile["disliked_genres"] or []
    text = turn["text"]
    for number, mention in sorted(enumerate(turn["items"]), key=lambda pair: -pair[1]["start"]):
        text = f"{text[: mention['start']]} item{number}x {text[mention['end'] :]}"
    for clause in _SENTENCE.split(plain(text).lower().replace("’", "'")):
        clause = f" {' '.join(words(clause))} "
        says = _attitude(clause)
        if says is None:
            continue
        for number, mention in enumerate(turn["items"]):
            if f" item{number}x " in clause and mention["item_id"] in loved | disliked:
                expected = "likes" if mention["item_id"] in loved else "dislikes"
                yield titles.get(mention["item_id"], mention["title"]), says, says != expected
        if says != "unseen" and not re.search(r" item\d+x ", clause):
            for genre in [*enjoyed, *rejected]:
                if genre_pattern(genre).search(clause):
                    yield genre, says, (says == "likes") != (genre in enjoyed)


def _attitude(clause: str) -> str | None:
    if re.search(r"\b(?:you|your)\b", clause):
        return None  # asks or speaks of the other
    for says, pattern in (("unseen", _UNSEEN), ("dislikes", _DISLIKES), ("likes", _LIKES)):
        if pattern.search(clause):
            return says
    return None


def genre_pattern(genre: str) -> re.Pattern[str]:
    name = re.escape(" ".join(words(genre.lower())))
    others = _GENRE_WORDS.get(genre.lower(), "")
    return re.compile(f" (?:{name}|{name}s{'|' + others if others else ''}) ")
