"""What words say about films, in informal English: praise and blame, genres, decades, refusals.

Word lists and patterns for talk about films, without statistics. All modules that need such words take them from here;
only `reactions` has phrases of its own, for a user's answer about one film. Knows nothing of catalogues and models.
"""

import re
from collections.abc import Sequence

from crslib.dialogue import utterances

# Genres by the words for them. A word with `?` judges a film more often than it asks for a genre ("it was funny", "when
# I was a kid"): `asks_for` counts it only in phrases like "funny movie" and "something funny".
_GENRES = {
    "action": "action",
    "adventure adventures": "adventure",
    "animation animated anime cartoon cartoons pixar disney": "animation",
    "biography biographies biopic biographical": "biography",
    "comedy comedies funny? hilarious? comedic laugh? humor? humorous? comical? parody spoof": "comedy",
    "crime gangster mafia mob heist": "crime",
    "documentary documentaries": "documentary",
    "drama dramas dramatic": "drama",
    "family kids kid? children children's disney pixar": "family",
    "fantasy magic magical": "fantasy",
    "noir": "film-noir",
    "history historical": "history",
    "horror scary? scare? slasher zombie zombies creepy? spooky? gory? frightening?": "horror",
    "musical musicals": "musical",
    "music musical musicals": "music",
    "mystery mysteries detective whodunit": "mystery",
    "romance romantic romcom romcoms chick": "romance",
    "scifi sci-fi space futuristic alien aliens robots": "sci-fi",
    "sport sports": "sport",
    "thriller thrillers suspense suspenseful": "thriller",
    "war military": "war",
    "western westerns cowboy cowboys": "western",
}
GENRES_OF: dict[str, list[str]] = {}
for _words, _genre in _GENRES.items():
    for _word in _words.replace("?", "").split():
        GENRES_OF.setdefault(_word, []).append(_genre)
_JUDGING = frozenset(word[:-1] for words in _GENRES for word in words.split() if word.endswith("?"))
_FILM = frozenset(("movie", "movies", "film", "films", "flick", "flicks"))
_SOME = frozenset(("something", "anything"))
_SPELLINGS = [
    (re.compile(r"\bsci(ence)?[ -]?fi(ction)?\b"), "scifi"),
    (re.compile(r"\brom[ -]?coms?\b"), "romantic comedy"),
    (re.compile(r"[’`]"), "'"),
]
_DECADES = {"fifties": 50, "sixties": 60, "seventies": 70, "eighties": 80, "nineties": 90}
_DECADE = re.compile(r"\b(?:(19|20)?(\d)0'?s|(fifties|sixties|seventies|eighties|nineties))(?![a-z])")
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_NEW = re.compile(r"\b(new|newer|newest|recent|recently|latest|this year|in theaters?|came out)\b")
_OLD = re.compile(r"\b(old|older|oldies?|classics?)\b")
_CLAUSE = re.compile(r"[.!?;,]+|\b(?:but|though|although|however)\b")
_TOKEN = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*")
_SENTENCE = re.compile(r"[.!?;]+|\b(?:but|though|although|however)\b")
_NEGATOR = re.compile(
    r"\b(no|not|never|nothing|without|neither|nor|can't|cannot|cant|\w+n't|dont|didnt|doesnt|isnt|wasnt)\b"
)
_NO_NEGATION = re.compile(r"\b(not only|not just|no problem|no worries|why not|not sure|don't mind|dont mind)\b")
_REFUSAL = re.compile(r"\b(hate[sd]?|dislike[sd]?|except|avoid|tired of|sick of|scared of|less)\b")
_NOT_SEEN = re.compile(
    r"\b(?:have ?n[o']?t|has ?n[o']?t|never|not|did ?n[o']?t|havent|didnt)(?: \w+){0,2} (?:seen|see|saw|watched|watch"
    r"|heard)\b"
)
_GOOD = re.compile(
    r"\b(love[sd]?|like[sd]?|enjoy(?:ed|s)?|favou?rites?|great|good|awesome|amazing|best|fan|excellent|fantastic"
    r"|wonderful|funny|hilarious|classic|perfect|fun|cool|interesting|interested)\b"
)
_BAD = re.compile(
    r"\b(hate[sd]?|dislike[sd]?|terrible|awful|boring|bored|worst|bad|stupid|horrible|overrated|disappoint\w*|sucked"
    r"|lame|dumb|ruined|meh)\b"
)
_YES = re.compile(
    r"^\W*(yes|yeah|yep|yup|sure|definitely|absolutely|of course|ok|okay|oh yes|i do|i did|i love|i have)\b"
)
_NO = re.compile(r"^\W*(no|nope|nah|not really|not a fan|i don't|i dont|i do not|i didn't|i hate)\b")


# Function words, and words that are frequent in talk about films. scikit-learn's list of stop words is not used: it has
# "bill", "fire" and "twelve", which are words of titles, and takes 90 MiB to import.
FUNCTION_WORDS = _TOKEN.findall(
    "a an the this that these those some any each every either neither both all few many much more most less least"
    " other others another such same one two three first last own enough several none"
    " i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers"
    " herself it its itself they them their theirs themselves who whom whose which what whatever whoever"
    " someone something somebody anyone anything anybody everyone everything everybody noone nothing nobody"
    " am is are was were be been being have has had having do does did doing done can could may might must shall should"
    " will would cannot cant couldnt hasnt isnt get got go going make made give put take say said seem seemed seems"
    " about above across after against along among around as at before behind below beneath beside between"
    " besides beyond by down during except for from in inside into of off on onto out over per since than through"
    " throughout till to together toward towards under until up upon via with within without"
    " and but or nor so yet if because although though while whereas whether unless however therefore thus hence"
    " no not never ever always often sometimes already still again almost also too very quite rather just only even"
    " else then there here now when where why how once perhaps maybe well back please further away elsewhere"
)
_FREQUENT_WORDS = _TOKEN.findall(
    "movie movies film films watch watched watching seen saw see like liked likes love loved good great best really"
    " think know want looking look thing things time don't i'm it's kind heard recommend recommendation suggestion"
    " thanks thank hello yes haven't new old man men day night life story big little girl boy years"
)
COMMON = frozenset(FUNCTION_WORDS + _FREQUENT_WORDS)  # words by which no film can be recognised


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────


def tokens(text: str) -> list[str]:
    """The words of a text, lower-cased, in one spelling ("sci fi" and "science fiction" are "scifi")."""
    return _TOKEN.findall(_normalised(text))


def clauses(text: str) -> list[tuple[list[str], float]]:
    """The words of each clause outside mentions, with 1, or -1 where the clause has a negation or refusal."""
    rows = []
    for clause in _CLAUSE.split(_normalised(utterances.replace_mentions(text, " , "))):
        if words := _TOKEN.findall(clause):
            refused = _NEGATOR.search(_NO_NEGATION.sub(" ", clause)) or _REFUSAL.search(clause)
            rows.append((words, -1.0 if refused else 1.0))
    return rows


def genres(words: Sequence[str]) -> list[str]:
    """The genres that the words of a clause (see `tokens`) name, in order; "musical" names two, musical and music."""
    return [genre for word in words for genre in GENRES_OF.get(word, ())]


def asks_for(genre: str, words: Sequence[str]) -> bool:
    """Whether the words of a clause (see `tokens`) speak of films of `genre`: by its own name or a word in `GENRES_OF`.

    Stricter than `genres`: a word that mostly judges a film ("it was funny") counts only in phrases like "funny movie"
    and "something funny".
    """
    name = tokens(genre)
    if name and any(list(words[start : start + len(name)]) == name for start in range(len(words))):
        return True
    return any(
        genre.lower() in GENRES_OF.get(word, ()) and (word not in _JUDGING or before in _SOME or after in _FILM)
        for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False)
    )


def decades(text: str, *, years: bool = False) -> list[int]:
    """The decades that are named: 1990 for "90s" and "nineties", 2010 for "10s"; with `years` also for "1994"."""
    named = []
    for match in _DECADE.finditer(text):
        decade = _DECADES.get(match[3] or "") or int(match[2]) * 10
        named.append((int(match[1]) * 100 if match[1] else 1900 if decade >= 30 else 2000) + decade)
    return named + [int(year) // 10 * 10 for year in _YEAR.findall(text) if years]


def age(text: str) -> set[str]:
    """`new`, `old` or both, where the words ask for it."""
    return {name for name, pattern in (("new", _NEW), ("old", _OLD)) if pattern.search(text)}


# ── praise and blame ────────────────────────────────────────────────────────────────────────────────────────────


def polarity(text: str) -> int:
    """1 where `text` praises something, -1 where it criticises something, 0 where it does not judge.

    "not bad" is praise, "not a fan" is criticism, and "have not seen it" no judgement.
    """
    score = 0
    for clause in _CLAUSE.split(_NOT_SEEN.sub(" ", _normalised(text))):
        negated = bool(_NEGATOR.search(_NO_NEGATION.sub(" ", clause)))
        verdict = bool(_GOOD.search(clause)) - bool(_BAD.search(clause))
        score += -verdict if negated else verdict
    return (score > 0) - (score < 0)


def answer(text: str) -> int:
    """The user's judgement, in a reply, of what the recommender has just named: 1, -1 or 0.

    The reply's `polarity`; where that is 0, a yes (1) or no (-1) at its beginning.
    """
    if verdict := polarity(text):
        return verdict
    text = _NOT_SEEN.sub(" ", _normalised(text))
    return bool(_YES.search(text)) - bool(_NO.search(text))


def around(text: str) -> list[int]:
    """The polarity of the sentence around each mention of `text`."""
    polarities = []
    for sentence in _SENTENCE.split(utterances.replace_mentions(text, "\ue000")):
        polarities += [polarity(sentence.replace("\ue000", " it "))] * sentence.count("\ue000")
    return polarities


def _normalised(text: str) -> str:
    text = text.casefold()
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return text
