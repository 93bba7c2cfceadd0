"""Titles outside brackets: words that match an item's title are a mention if that is likelier than ordinary words.

Knows titles, names of persons and numbers of ratings; nothing of users or files.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import polars as pl
from rapidfuzz import fuzz, process

from crslib.data.titles import (
    ARTICLES,
    MIN_FUZZY_LENGTH,
    MIN_SIMILARITY,
    SERIES_NUMERALS,
    SERIES_WORDS,
    Entry,
    title_words,
)
from crslib.dialogue import utterances
from crslib.dialogue.domain import Domain

# ── the evidence and its weights ────────────────────────────────────────────────────────────────────────────────

# Natural logarithms of odds. `title` is the prior odds that a word begins an item's title; the weights were set on
# ReDial's training dialogues.
SURE = 3.0  # the least log odds of a match
_LOG_ODDS: Mapping[str, float] = {
    "title": -4.6,
    "year": 9.0,  # the item's year follows
    "year in parentheses": 14.0,
    "quoted": 6.0,
    "capital": 3.5,  # its words, except small ones, have capitals that are not due to the start of a sentence
    "another capital": 1.5,
    "no capital": -3.0,
    "one small word": -2.0,  # it is a single word without a capital
    "alone": 3.0,  # it is the whole sentence
    "cue": 2.0,  # after "seen", "about", "called", … or before "is", "was"
    "article": 0.3,
    "no article": -1.5,  # the title has one, the text has not
    "determiner": -5.0,  # "a taxi driver": the text has one, the title has not
    "name": -4.0,  # next to another capitalised word: probably a part of a longer name
    "part": -1.5,  # only a part of the title
    "spacing": -3.0,  # words written as one, or one as two
    "misspelt": -4.0,
}

# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────

# The most frequent words of ReDial's training dialogues outside links, in the order of frequency, without those that
# mostly have a capital. (A statistic of the corpus, Li et al. 2018, CC BY 4.0.)
_FREQUENT = """
    i you a it have that good the like is seen one of for to and movie movies was great are what hi about bye but
    hello in too really do yes thanks will or not out also its love with how my havent watch can looking thank see any
    think im check those so liked me well suggestions day some am your help would all no as there recommend funny kind
    something loved ok if did action heard comedy them ive ill enjoy be very hope they sure saw more know okay pretty
    on yeah night favorite thats sounds never another just both lol new we watched much film now horror welcome
    classic yet today this other an dont nice goodbye maybe find want hey he has though should time films try type
    suggest awesome comedies lot either ones anything might enjoyed cool old could into look then were interesting
    favorites suggestion drama didnt up go similar definitely kids watching recommendations first these actually at
    scary youre from thought family who tonight right genre interested may which haha best take need been ever little
    fan going again older two his romantic got him list she give by same problem last always fun things get even
    recently better still thriller sci cute series fi hilarious story care else original when year let weekend amazing
    please recent bit animated perfect doing id course her cant had few helped sorry whats than chatting evening based
    newer probably most hmm wow many romance does happy glad sound super book looks remember make only before fantasy
    people sequel add because ideas recommendation big actor bad classics times agree soon theres long came made fine
    here say years reviews such theaters true different morning guess excellent already along mind others tell wasnt
    second remake seeing war while yep thing worth quite music types yea couple appreciate thrillers choice must ya
    hear stuff way ago talking alright adventure called kid youve mood sad afternoon since doesnt hes kinds wonderful
    fantastic thinking dramas theater off trying back mean superhero wait actors genres seems done man sort after chat
    lately over life whole prefer lines date guy makes stars believe mine their rewatch isnt laugh work ah enough
    creepy especially forgot highly feel flick wanted where why choices mentioned name mystery documentary friend idea
    rest young daughter girl suspense lets part read real theyre crazy far hoping husband hard lots sequels wrong
    around later musical usually weird friendly absolutely huge humor version 80s asking coming show kinda nope start
    although dark exactly fiction hmmm keep able crime everyone loves week intense myself taste youll comes fav gave
    set familiar hahaha found trailer forward pick school chance down packed sweet helpful hero hopefully perhaps plot
    director ohh science specific come end live open son every everything guys job particular childrens friends
    musicals nothing almost books goes next ooh opinion scenes seem cry days decent past space yup alot flicks gets
    historical popular totally boy franchise home interest least likes serious supposed wanting world girls hows
    modern said having line youd children meant rated sports starring animation comic ha re stories three used bet
    except psychological put related won cast catch helping shes sometimes top choose consider getting high honestly
    together twist adult being excited forget gory meaning rom silly someone style entertaining moment murder our
    plays rent teens female gonna helps however looked us adults alien arent away full house newest oldie own
    personally seeking through tried went woman wont wouldnt anyway couldnt ending hit lead mostly suggested western
    90s bro characters god main matter reccomend reminds shot started talk awards car character comedys options person
    scared scifi understand finding less once stay surprised weve yourself ages bunch chick each follow game goodie
    luck omg whos wife wondering age ahh directed goodnight happen making marathon missed non role wish animals boys
    certainly cheesy era ghost indeed merry neither play plenty scene white actress com cop during group parts place
    several songs anime certain current finished haven killer light month point title acting anymore anyways
    documentaries early epic favourite gotta heart latest reason released sense soundtrack younger cartoon child
    history known office period plan run tastes teen theme under zombie box case checking example hot men mention miss
    oooh rather recommended stick stream surprisingly without yesss awhile effects etc future goofy head police
    release searching somewhat spy submit suspenseful trailers until wonder worries basically close dude enjoyable
    felt forever funnier gives gone huh meet mix mom personal recall side special use yo 2nd ahead behind between
    blood foreign given hadnt holiday horrors indie mixed novel question recomended tear umm westerns works ask boring
    cannot compare considered conversation dad dumb earlier general hate howdy military move pass played pleasure
    previews serial strange stupid suppose takes third waiting wants women
"""
_RANKS = {word: rank for rank, word in enumerate(_FREQUENT.split(), start=1)}
# Words that have a capital in ordinary text too.
_CAPITALISED = frozenset(
    """
    i im ive id ill monday tuesday wednesday thursday friday saturday sunday january february march april may june july
    august september october november december christmas halloween easter thanksgiving american british english french
    german italian japanese chinese indian mexican russian spanish america england france hollywood earth god disney
    netflix marvel pixar dc dvd tv pg oscar robin jack paul max ray ali troy jackie wilson arthur emma
    """.split()  # noqa: SIM905
)
_SMALL = frozenset({"the", "a", "an", "of", "and", "in", "to", "for", "on", "at", "with", "from", "by", "or", "is"})
# Words that titles follow.
_CUES = frozenset(
    """
    called or about liked like enjoyed loved love try and maybe recommend original
    """.split()  # noqa: SIM905
)
_DETERMINERS = frozenset(
    """
    the a an this that these those my your his her its our their some any another no every each
    """.split()  # noqa: SIM905
)
# Words after a title that make it the name of a series, or of something else.
_MANY = frozenset({"series", "franchise", "trilogy", "sequel", "sequels", "song", "songs", "fan", "fans"})
_ABBREVIATED = frozenset({"dr", "mr", "mrs", "ms", "st", "vs", "vol", "pt", "jr", "inc"})

# ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────────────

_TOKEN = re.compile(r"[^\W_](?:['’‘`´]*[^\W_])*|[&#]")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)]*(\s|\Z)")
_YEAR_AFTER = re.compile(r"\s*,?\s*(?:\(\s*([12][0-9]{3})\s*(?:\)|\Z)|(from )?((?:19|20)[0-9]{2})(?![\w'’]))")
_LATER_NUMBER = re.compile(r"[2-9]|1[0-9]|I{2,3}|IV|VI{0,3}")
_ENDS = 5  # letters: a long title with one typing error still has its first or its last five
_QUOTES = "\"'“”‘’"


class _Token(NamedTuple):
    surface: str
    word: str  # normalised as by `title_words`
    start: int
    end: int
    opens: bool  # it begins a sentence
    apart: bool  # it begins the text or a sentence, or follows a mention

    @property
    def capital(self) -> bool | None:
        """Whether it begins with a capital; None where that is no evidence."""
        if self.opens or self.word in _CAPITALISED or not self.surface[0].isalpha():
            return None
        return self.surface[0].isupper()


class _Match(NamedTuple):
    first: int  # of tokens
    last: int
    start: int  # of characters
    end: int
    item_id: str | None  # None: a person
    log_odds: float


# ── matching ────────────────────────────────────────────────────────────────────────────────────────────────────


class Spotter:
    """Recognises titles among ordinary words, as `Catalog.spot` describes."""

    def __init__(
        self,
        items: pl.DataFrame,
        domain: Domain,
        by_key: Mapping[str, list[Entry]],
        by_part: Mapping[str, list[Entry]],
    ) -> None:
        """`items`: table `items`; `domain`: words before and after titles; `by_key`, `by_part`: its entries by title
        key and by the keys of parts of titles, each list in the order of preference."""
        self._by_key, self._by_part = by_key, by_part
        self._cues, self._many = _CUES | {*domain.cues}, _MANY | {*domain.many}
        self._ratings = {item_id: n or 0 for item_id, n in items.select("item_id", "n_ratings").iter_rows()}
        self._total = sum(self._ratings.values()) + len(self._ratings)
        names = pl.concat([items["people"].explode(), items["makers"].explode()]).drop_nulls().unique()
        name_words = (title_words(name) for name in names)
        self._person_names = {"".join(words) for words in name_words if len(words) > 1}
        self._max_length = max(map(len, (*by_key, *by_part)), default=0)
        self._longer_titles: Counter[tuple[str, ...]] = Counter()  # ratings of the titles that continue these words
        for entry in (entry for entries in by_key.values() for entry in entries):
            words = _without_article(entry.words)
            for length in range(1, len(words)):
                if not words[length][0].isdigit() and words[length] not in ("part", "volume"):
                    self._longer_titles[words[:length]] += self._ratings[entry.item_id]
        self._by_end: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
        for key, entries in by_key.items():
            if len(key) >= MIN_FUZZY_LENGTH:
                self._by_end["first", key[:_ENDS]].append(entries[0])
                self._by_end["last", key[-_ENDS:]].append(entries[0])

    def spot(self, text: str) -> list[dict[str, Any]]:
        """The items named in `text` outside brackets, as rows of `schemas.MENTION` in the order of the text."""
        tokens = _tokens(text)
        matches = [match for first in range(len(tokens)) for match in self._matches(text, tokens, first)]
        matches.sort(key=lambda match: (match.first - match.last, -match.log_odds, match.first))
        taken: set[int] = set()
        chosen = []
        for match in matches:
            if taken.isdisjoint(range(match.first, match.last + 1)):
                taken.update(range(match.first, match.last + 1))
                chosen.append(match)
        return [
            {"item_id": match.item_id, "title": text[match.start : match.end], "start": match.start, "end": match.end}
            for match in sorted(chosen)
            if match.item_id is not None
        ]

    def _matches(self, text: str, tokens: Sequence[_Token], first: int) -> Iterator[_Match]:
        """The titles and the names of persons among the runs of words that begin at token `first`."""
        key = ""
        for last in range(first, len(tokens)):
            if last > first and tokens[last].apart:
                return
            key += tokens[last].word
            if len(key) > self._max_length + 2:
                return
            if last > first and key in self._person_names:
                yield _Match(first, last, tokens[first].start, tokens[last].end, None, math.inf)
            entries, how = self._look_up(key, [token.word for token in tokens[first : last + 1]])
            if entries and (match := self._weigh(text, tokens, first, last, entries, how)):
                yield match

    def _look_up(self, key: str, words: list[str]) -> tuple[Sequence[Entry], str]:
        """The entries that `key` may mean, and how it matches them: `key`, `part` or `misspelt`."""
        if words[0] in ARTICLES:  # `_weigh` adds the article
            return (), ""
        if key in self._by_key:
            return self._by_key[key], "key"
        if len(key) > 7 and len(entries := self._by_part.get(key, ())) == 1:
            return entries, "part"
        if len(key) < MIN_FUZZY_LENGTH - 1:
            return (), ""
        candidates = [*self._by_end.get(("first", key[:_ENDS]), ()), *self._by_end.get(("last", key[-_ENDS:]), ())]
        keys = sorted({entry.key for entry in candidates if _maybe_misspelt(words, entry.words)})
        best = process.extractOne(key, keys, scorer=fuzz.ratio, score_cutoff=MIN_SIMILARITY)
        return (self._by_key[best[0]], "misspelt") if best else ((), "")

    def _weigh(
        self, text: str, tokens: Sequence[_Token], first: int, last: int, entries: Sequence[Entry], how: str
    ) -> _Match | None:
        """The match of `tokens[first..last]` with one of `entries`; None where the log odds are below `SURE`."""
        run = tokens[first : last + 1]
        start, end = run[0].start, run[-1].end
        evidence = ["title"]
        if year_after := _YEAR_AFTER.match(text, end):
            year = int(year_after[1] or year_after[3])
            dated = [entry for entry in entries if entry.year == year]
            dated = dated or [entry for entry in entries if abs((entry.year or 0) - year) == 1]
            if not dated or (dated[0].year != year and len(dated) > 1):
                return None
            entry = dated[0]
            evidence.append("year in parentheses" if year_after[1] else "year")
            end = end if year_after[2] else year_after.end()
        else:
            entry = entries[0]
            if (
                self._is_series(entry)
                or _is_continued(tokens, last, self._many)
                or re.match(r": [A-Z0-9]", text[end : end + 3])
            ):
                return None
        words = [token.word for token in run]
        before = tokens[first - 1] if first and not run[0].apart else None
        after = tokens[last + 1] if last + 1 < len(tokens) and not tokens[last + 1].apart else None
        if how == "part":
            article = before.word if before and before.word in ARTICLES else None
        else:
            article = entry.words[0] if len(entry.words) > 1 and entry.words[0] in ARTICLES else None
        if article and before and before.word == article:
            evidence.append("article")
            first, start = first - 1, before.start
            before = tokens[first - 1] if first and not tokens[first].apart else None
        elif article:
            evidence.append("no article")
        if before and before.word in _DETERMINERS:
            evidence.append("determiner")
        if text[max(0, start - 1) : start] in tuple(_QUOTES) and re.match(rf"[,.!?]?[{_QUOTES}]", text[end : end + 2]):
            evidence.append("quoted")
        if how != "key":
            evidence.append(how)
        elif len(entry.words) not in (len(words), len(words) + 1):
            evidence.append("spacing")
        evidence += _capitals(tokens, run)
        if not year_after and "quoted" not in evidence:
            key = "".join(words)
            if len(key) < 3 or key.isdigit():
                return None
            if len(words) == 1 and not run[0].surface[0].isupper():
                evidence.append("one small word")
            if _is_name(before) or _is_name(after):
                evidence.append("name")
        if tokens[first].apart and (last + 1 == len(tokens) or tokens[last + 1].apart):
            evidence.append("alone")
        elif (before and before.word in self._cues) or (after and after.word in ("is", "was")):
            evidence.append("cue")
        popularity = math.log((self._ratings[entry.item_id] + 1) / self._total)
        log_odds = popularity + _surprise(words) + sum(_LOG_ODDS[name] for name in evidence)
        return _Match(first, last, start, end, entry.item_id, log_odds) if log_odds >= SURE else None

    def _is_series(self, entry: Entry) -> bool:
        """Whether longer titles that begin with this one have more ratings together: "Batman" may mean any of them."""
        return self._longer_titles[_without_article(entry.words)] > self._ratings[entry.item_id]


def _without_article(words: tuple[str, ...]) -> tuple[str, ...]:
    return words[1:] if len(words) > 1 and words[0] in ARTICLES else words


@lru_cache(maxsize=1 << 16)
def _normalised(surface: str) -> str:
    return "".join(title_words(surface))


def _tokens(text: str) -> list[_Token]:
    """The words of an utterance outside brackets."""
    for _, start, end in utterances.mentions(text):
        text = f"{text[:start]}{chr(0) * (end - start)}{text[end:]}"
    tokens: list[_Token] = []
    previous_end = 0
    for match in _TOKEN.finditer(text):
        if not (word := _normalised(match[0])):
            continue
        between, previous_end = text[previous_end : match.start()], match.end()
        if tokens and tokens[-1].word in SERIES_WORDS:
            word = SERIES_NUMERALS.get(word, word)
        ended = _SENTENCE_END.search(between) is not None
        if tokens and between[:1] == "." and tokens[-1].surface.lower() in _ABBREVIATED:
            ended = False
        mention = chr(0) in between
        opens = ended or (not tokens and not mention)
        tokens.append(_Token(match[0], word, match.start(), match.end(), opens, opens or mention))
    return tokens


def _capitals(tokens: Sequence[_Token], run: Sequence[_Token]) -> list[str]:
    """The evidence of capitals in a run of tokens; none where the other words have capitals too."""
    others = [token.capital for token in tokens if token not in run and token.capital is not None]
    upper = [token.surface.isupper() for token in tokens if len(token.surface) > 1]
    if len(upper) > 1 and sum(upper) > 0.7 * len(upper):
        return ["no capital"]
    if len(others) > 1 and sum(others) >= 0.5 * len(others):
        return []
    content = [token for token in run if token.word not in _SMALL] or run
    capitals = [token.capital for token in content if token.capital is not None]
    if capitals and all(capitals):
        return ["capital", *["another capital"] * (len(capitals) - 1)]
    return ["no capital"] if capitals and not any(capitals) else []


def _is_continued(tokens: Sequence[_Token], last: int, many: Container[str]) -> bool:
    """Whether the next word makes it a later item of a series, or several: "Rocky 7", "Hostel part 3", "Saw movies"."""
    following = [*tokens[last + 1 : last + 3]]
    if not following or following[0].apart:
        return False
    if following[0].word in SERIES_WORDS:
        return len(following) > 1 and following[1].word.isdigit()
    return following[0].word in many or _LATER_NUMBER.fullmatch(following[0].surface) is not None


def _is_name(token: _Token | None) -> bool:
    return (
        token is not None and token.surface[0].isupper() and token.word not in _RANKS and token.word not in _CAPITALISED
    )


def _maybe_misspelt(words: Sequence[str], title: tuple[str, ...]) -> bool:
    """Whether `words` may be a misspelt `title`: as many words, and those that differ are similar, but are no numbers,
    no frequent words and no plurals of each other."""
    title = _without_article(title)
    if len(words) != len(title):
        return False
    differing = [(word, title_word) for word, title_word in zip(words, title, strict=True) if word != title_word]
    return all(
        word not in _RANKS
        and not word.isdigit()
        and not title_word.isdigit()
        and word.rstrip("s") != title_word.rstrip("s")
        and fuzz.ratio(word, title_word) >= 75
        for word, title_word in differing
    )


def _surprise(words: Sequence[str]) -> float:
    """Minus the logarithm of roughly how often these words come together in ordinary text. The rarest counts in full,
    the others half, because words come in phrases ("now and then")."""
    rarities = sorted(map(_rarity, words))
    return rarities[-1] + sum(rarities[:-1]) / 2


def _rarity(word: str) -> float:
    """Minus the logarithm of a word's frequency: by its rank (Zipf's law), or by its length if it is not frequent."""
    if rank := _RANKS.get(word):
        return math.log(10 * rank)
    return 7.0 if word.isdigit() else 9 + 0.5 * min(len(word), 8)
