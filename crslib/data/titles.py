"""The spellings of a title: its words, its key, its parts and its year. Knows nothing of catalogues."""

import re
import unicodedata
from typing import NamedTuple

# A misspelt title is this similar (rapidfuzz's ratio, 0 to 100) and its key this long. On ReDial's titles, with IMDb
# ids as truth, what shorter or less similar titles gain is mostly wrong; so it is in a year beside or without one.
FUZZY, FUZZY_LENGTH = 88, 10

_LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ð": "d", "þ": "th", "ł": "l", "đ": "d", "ı": "i"})
ARTICLES = ("the", "a", "an")
_SPELLINGS = {
    "colour": "color",
    "colours": "colors",
    "doctor": "dr",
    "mister": "mr",
    "no": "number",
    "pt": "part",
    "versus": "vs",
    "vol": "volume",
}
_ROMAN = {"ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8", "ix": "9", "xi": "11", "xii": "12"}
AFTER_PART = {"i": "1", "v": "5", "x": "10"}
NUMBERED = ("part", "volume", "episode", "chapter")
_COUNT = "one two three four five six seven eight nine ten eleven twelve thirteen"
_NUMBERS = {word: str(number) for number, word in enumerate(_COUNT.split(), start=1)} | _ROMAN
_PRESENTER = re.compile(
    r"(national lampoons?|dr seuss|bram stokers|tyler perrys|lee daniels|william shakespeares|(walt )?disneys|marvels"
    r"|monty pythons|cheech and chongs|jane austens|stephen kings|wes cravens|john carpenters)( presents)? (?=.)"
)


# ── titles ──────────────────────────────────────────────────────────────────────────────────────────────────────


def title_words(title: str) -> list[str]:
    """The words of a title without case, accents and punctuation; `&` is `and`, numbers are digits."""
    text = title.casefold().translate(_LETTERS).replace("&", " and ").replace("#", " number ")
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    words: list[str] = []
    for word in re.findall(r"[^\W_]+", re.sub(r"['’‘`´]", "", text)):
        # A lone "i", "v" or "x" is a number only where one is expected: "Part V", not "V for Vendetta".
        if words and words[-1] in NUMBERED:
            word = AFTER_PART.get(word, word)
        words.append(_NUMBERS.get(word) or _SPELLINGS.get(word, word))
    if len(words) > 1 and re.search(r",\s*(the|a|an)\s*$", text):
        words.insert(0, words.pop())
    return words


def title_key(title: str) -> str:
    """What the spellings of one title have in common: its words as one, without a leading article and without whose
    title it is ("National Lampoon's"). A title without any letter or digit is its own key.
    """
    words = _PRESENTER.sub("", " ".join(title_words(title)), count=1).split()
    if len(words) > 1 and words[0] in ARTICLES:
        words = words[1:]
    return "".join(words) or title.strip()


def title_parts(title: str) -> list[str]:
    """The keys of what stands between the colons and dashes of a title, where it says enough by itself.

    None for a title without them, or that ends in a later number of a series ("Hostel: Part III").
    """
    parts = [title_key(part) for part in re.split(r": | [-–—] | or: ", title)]
    if len(parts) < 2 or re.fullmatch(r"(part|episode|volume|chapter)([2-9]|1\d)", parts[-1]):
        return []
    return [part for part in parts if len(part) > 3 and not re.fullmatch(r"movie|(part|episode|volume)\d+", part)]


def split_year(name: str) -> tuple[str, int | None]:
    """`Title (1999)` as title and year; the text itself and None where it ends otherwise."""
    match = re.fullmatch(r"(.*\S)\s*\(\s*([12][0-9]{3})\s*\)\s*", name, re.DOTALL)
    return (match[1], int(match[2])) if match else (name, None)


# ── from words to items ─────────────────────────────────────────────────────────────────────────────────────────


class Entry(NamedTuple):
    item_id: str
    year: int | None
    key: str
    words: tuple[str, ...]  # articles kept: what must agree when the year does not quite
