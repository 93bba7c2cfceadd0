"""Titles and their spellings: words, key, parts and year of a title. Knows nothing of catalogues."""

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

# A misspelt title is linked if it is this similar (rapidfuzz's ratio, 0 to 100) and its key this long. Measured on
# ReDial's titles with IMDb ids as truth: what lower limits add is mostly wrong, and so are misspelt titles without a
# year or with that of the year before or after.
MIN_SIMILARITY, MIN_FUZZY_LENGTH = 88, 10

LONG_TITLE = 8  # letters from which a title of one word is a title in any case

ARTICLES = ("the", "a", "an")
# A lone "i", "v" or "x" is a number only after one of these words: "Part V", not "V for Vendetta".
SERIES_WORDS = ("part", "volume", "episode", "chapter")
SERIES_NUMERALS = {"i": "1", "v": "5", "x": "10"}
_LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ð": "d", "þ": "th", "ł": "l", "đ": "d", "ı": "i"})
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
_CARDINALS = "one two three four five six seven eight nine ten eleven twelve thirteen"
_NUMBERS = {word: str(number) for number, word in enumerate(_CARDINALS.split(), start=1)} | _ROMAN
_WITH_YEAR = re.compile(r"(.*\S)\s*\(\s*([12][0-9]{3})\s*\)\s*", re.DOTALL)
_PRESENTER = re.compile(
    r"(national lampoons?|dr seuss|bram stokers|tyler perrys|lee daniels|william shakespeares|(walt )?disneys|marvels"
    r"|monty pythons|cheech and chongs|jane austens|stephen kings|wes cravens|john carpenters)( presents)? (?=.)"
)


class Entry(NamedTuple):
    """A title in a catalogue's index. `words` include articles: they must agree where the year is one off."""

    item_id: str
    year: int | None
    key: str
    words: tuple[str, ...]


def title_words(title: str) -> list[str]:
    """The words of a title without case, accents and punctuation; `&` is `and`, numbers are digits."""
    text = title.casefold().translate(_LETTERS).replace("&", " and ").replace("#", " number ")
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    words: list[str] = []
    for word in re.findall(r"[^\W_]+", re.sub(r"['’‘`´]", "", text)):
        if words and words[-1] in SERIES_WORDS:
            word = SERIES_NUMERALS.get(word, word)
        words.append(_NUMBERS.get(word) or _SPELLINGS.get(word, word))
    if len(words) > 1 and re.search(r",\s*(the|a|an)\s*$", text):
        words.insert(0, words.pop())
    return words


def title_key(title: str) -> str:
    """The same text for all spellings of a title: its words joined, without a leading article and without a presenter
    ("National Lampoon's"). A title without any letter or digit is its own key.
    """
    words = _PRESENTER.sub("", " ".join(title_words(title)), count=1).split()
    if len(words) > 1 and words[0] in ARTICLES:
        words = words[1:]
    return "".join(words) or title.strip()


def title_parts(title: str) -> list[str]:
    """The keys of the parts between the colons and dashes of a title; too short and too general ones are left out.

    Empty for a title of one part and for a later number of a series ("Hostel: Part III").
    """
    parts = [title_key(part) for part in re.split(r": | [-–—] | or: ", title)]
    if len(parts) < 2 or re.fullmatch(r"(part|episode|volume|chapter)([2-9]|1\d)", parts[-1]):
        return []
    return [part for part in parts if len(part) > 3 and not re.fullmatch(r"movie|(part|episode|volume)\d+", part)]


def split_year(name: str) -> tuple[str, int | None]:
    """The title and the year of `Title (1999)`; the text itself and None without a year at its end."""
    match = _WITH_YEAR.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, None)


def is_distinct(title: str) -> bool:
    """Whether a title (without its year) is one in any case: it has two words or `LONG_TITLE` letters."""
    words = title_words(title)
    return len(words) > 1 or sum(map(len, words)) >= LONG_TITLE


def is_named(title: str, text: str) -> bool:
    """Whether `text` holds a title (without its year) as whole words: as it stands, or in another spelling; one that
    could be an ordinary word (`is_distinct`) only as it stands, with its first capital."""
    title = title.strip()
    if is_distinct(title):
        spelt = f" {' '.join(title_words(title))} "
        readings = (text, re.sub(r"['’]s\b", " ", text))  # "Heat's ending"
        if any(spelt in f" {' '.join(title_words(reading))} " for reading in readings):
            return True
        return re.search(rf"(?<!\w){re.escape(title)}(?!\w)", text, re.IGNORECASE) is not None
    pattern = rf"(?<!\w){re.escape(title[:1].upper())}(?i:{re.escape(title[1:])})(?!\w)"
    return bool(title) and re.search(pattern, text) is not None


def without_titles(text: str, names: Iterable[str]) -> str:
    """`text` without the sentences that name one of `names` (`Title (Year)` or `Title`)."""
    kept = [sentence for sentence in re.split(r"(?<=[.!?;])\s+|\n+", text) if sentence]
    titles = [split_year(name)[0] for name in names]
    width = 1  # of a run of sentences that names a title: "Mr. Nobody" looks like the end of one and another
    while width <= len(kept):
        runs = (slice(start, start + width) for start in range(len(kept) - width + 1))
        naming = next((run for run in runs if any(is_named(title, " ".join(kept[run])) for title in titles)), None)
        if naming is None:
            width += 1
        else:
            del kept[naming]
            width = 1
        if not any(is_named(title, " ".join(kept)) for title in titles):
            break
    return " ".join(kept)
