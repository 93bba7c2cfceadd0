"""Utterances as text: item mentions, `[[Title (Year)]]`, and the forms that models, parties and people see.

Conversation format v1 (DESIGN §4). Knows nothing of catalogues, views and tokens.
"""

import re

USER, RECOMMENDER = "user", "recommender"
MENTION = re.compile(r"\[\[([^\[\]]+)\]\]")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ue000-\uf8ff]+")


# ── utterances ──────────────────────────────────────────────────────────────────────────────────────────────────


def one_line(text: str) -> str:
    """`text` on one line: line breaks, invisible, direction and private-use characters become single blanks."""
    return " ".join(_UNSEEN.sub(" ", text).split())


def item_name(title: str, year: int | None) -> str:
    """`Title (Year)`, or the bare title without a year; double brackets in a title become single ones."""
    name = re.sub(r"\[+", "[", re.sub(r"\]+", "]", one_line(title)))
    return name if year is None else f"{name} ({year})"


def mention(name: str) -> str:
    """An item name as it stands in an utterance: `[[Title (Year)]]`. Single brackets inside become round ones."""
    return f"[[{name.replace('[', '(').replace(']', ')')}]]"


def clean(text: str) -> str:
    """A model's raw utterance as the other party gets it: one line, no bracket that does not belong to a mention."""
    parts = MENTION.split(one_line(text))
    outside = [part.replace("[[", "").replace("]]", "") for part in parts[::2]]
    inside = [f"[[{part.strip()}]]" if part.strip() else "" for part in parts[1::2]] + [""]
    return " ".join("".join(a + b for a, b in zip(outside, inside, strict=True)).split())


def mentions(text: str) -> list[tuple[str, int, int]]:
    """The item names in an utterance with their character spans, brackets included."""
    return [(match[1], match.start(), match.end()) for match in MENTION.finditer(text)]


def plain(text: str) -> str:
    """An utterance as people read it: mentions without their brackets."""
    return MENTION.sub(r"\1", text)


def pieces(text: str) -> list[list[str | bool]]:
    """An utterance as people read it: [text, whether it is an item], without the brackets of its mentions."""
    made, end = [], 0
    for name, start, stop in mentions(text):
        made += [[text[end:start], False], [name, True]]
        end = stop
    return [piece for piece in [*made, [text[end:], False]] if piece[0]]
