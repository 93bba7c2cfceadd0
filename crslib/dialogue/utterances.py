"""Utterances as text: item mentions, `[[Title (Year)]]`, and the forms that models, parties and people see.

Conversation format v1 (DESIGN §4). Knows nothing of catalogues, views and tokens.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

USER, RECOMMENDER = "user", "recommender"
MENTION = re.compile(r"\[\[([^\[\]]+)\]\]")  # group 1 is the item's name
_OPENING, _CLOSING = re.compile(r"\[+"), re.compile(r"\]+")
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ue000-\uf8ff]+")


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────


def one_line(text: str) -> str:
    """`text` on one line: line breaks, invisible, direction and private-use characters and lone surrogates become
    single blanks."""
    return " ".join((text if text.isprintable() else _INVISIBLE.sub(" ", text)).split())


def item_name(title: str, year: int | None) -> str:
    """`Title (Year)`, or the bare title without a year; double brackets in a title become single ones."""
    name = _OPENING.sub("[", _CLOSING.sub("]", one_line(title)))
    return name if year is None else f"{name} ({year})"


def mention(name: str) -> str:
    """An item name as an utterance has it: `[[Title (Year)]]`. Single brackets in the name become round ones."""
    return f"[[{name.replace('[', '(').replace(']', ')')}]]"


def clean(text: str) -> str:
    """A model's raw utterance as the other party gets it: one line, no bracket that does not belong to a mention."""
    text = one_line(text)
    outside = [part.replace("[[", "").replace("]]", "") for part in between(text)]
    inside = [f"[[{name.strip()}]]" if name.strip() else "" for name, _, _ in mentions(text)] + [""]
    return " ".join("".join(a + b for a, b in zip(outside, inside, strict=True)).split())


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────


def mentions(text: str) -> list[tuple[str, int, int]]:
    """The item names in an utterance with their character spans, brackets included."""
    return [(match[1], match.start(), match.end()) for match in MENTION.finditer(text)]


def item_key(mention: Mapping[str, Any]) -> str:
    """The same text for all mentions and notes of one item: its id, or its title where no catalogue has it.

    `mention`: a row with `item_id` and `title`.
    """
    return mention["item_id"] or f"title: {mention['title'].lower()}"


def replace_mentions(text: str, by: str | Callable[[str], str]) -> str:
    """`text` with every mention replaced by `by`; if `by` is a function, by its result for the item's name."""
    return MENTION.sub(lambda match: by if isinstance(by, str) else by(match[1]), text)


def replace_spans(text: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """`text` with spans replaced by other words: (start, end, words) of each, in any order, none overlapping."""
    spans = sorted(spans)
    parts = between(text, [(start, end) for start, end, _ in spans])
    return parts[0] + "".join(words + part for (_, _, words), part in zip(spans, parts[1:], strict=True))


def between(text: str, spans: Iterable[tuple[int, int]] | None = None) -> list[str]:
    """The parts of `text` before, between and after `spans` (start, end), so one part more than spans.

    `spans` are in order, none overlapping; None means the mentions of `text`. A part may be empty.
    """
    if spans is None:
        spans = [(start, end) for _, start, end in mentions(text)]
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    return [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]


def plain(text: str) -> str:
    """An utterance as people read it: mentions without their brackets."""
    return replace_mentions(text, lambda name: name)


def pieces(text: str) -> list[list[str | bool]]:
    """An utterance as people read it: [text, whether it is an item], without the brackets of its mentions."""
    cut = [[part, bool(number % 2)] for number, part in enumerate(MENTION.split(text))]
    return [piece for piece in cut if piece[0]]
