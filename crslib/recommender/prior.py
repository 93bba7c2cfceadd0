"""The item prior: which items the recommender is likely to name next, given the dialogue alone.

A log-linear model over the catalogue. Its evidence is the dialogue so far: the items mentioned and the opinions on
them, and the kinds, persons, years and title words that either party named. It is fitted on catalogue facts and
training ratings. Knows nothing of profiles, held-out ratings or language models.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from scipy import sparse
from scipy.special import logsumexp

from crslib.data import histories
from crslib.data import titles as data_titles
from crslib.dialogue import lexicon
from crslib.dialogue.domain import Domain
from crslib.dialogue.utterances import USER

FEATURES = (
    "popularity",  # log share of the training ratings
    "neighbours",  # log share of the ratings of users who liked what was mentioned
    "words",  # log share of the ratings of users who wrote the same words; a constant without texts
    "regression",  # log of what a linear regression on items and words predicts; a constant without texts
    "kinds",  # kinds asked for, less those refused, weighted by their rarity
    "latest_kinds",  # the same of the user's last utterance
    "people",  # makers, people and values of further attributes named
    "years",  # decades named, or "new" and "old"
    "title",  # almost the cosine with the words of the dialogue
    "same_kinds",  # cosine with the kinds of the items mentioned
    "same_people",  # makers, people and further attributes in common with the items mentioned
    "same_title",  # cosine with the title words of the items mentioned: series
    "same_years",  # decades between the item and the items mentioned, negative
)
# Conditional maximum likelihood of the items that recommenders named in ReDial's training dialogues (Li et al. 2018).
# Over the built-in catalogue with its ratings, features computed as in a simulation; 2,400 turns.
CATALOGUE = dict.fromkeys(FEATURES, 0.0) | {
    "popularity": 0.14,
    "neighbours": 0.6,
    "kinds": 0.86,
    "latest_kinds": 0.34,
    "people": 3.15,
    "years": 1.06,
    "title": 2.26,
    "same_kinds": 2.95,
    "same_people": 0.75,
    "same_title": 1.14,
    "same_years": 0.27,
}
# Over ReDial's own items, where a "rating" is a mention of the item in another dialogue; 2,215 turns.
DIALOGUES = CATALOGUE | {
    "popularity": 0.12,
    "neighbours": 0.34,
    "words": 0.22,
    "regression": 0.79,
    "kinds": 0.3,
    "latest_kinds": 0.15,
    "people": 2.18,
    "years": 1.26,
    "title": 1.97,
    "same_kinds": 1.27,
    "same_people": 0.21,
    "same_title": 1.41,
    "same_years": 0.24,
}

# Chance of an item that was mentioned to be among those that the recommender names next: of what the user's last
# utterance mentions (592 of 6,249 in ReDial's training dialogues) and of all others (678 of 22,966). What resembles an
# item, the features, says nothing of that: an item resembles itself most.
JUST_NAMED, NAMED = 0.095, 0.03
_MOST_REPEATED = 0.5  # chance of all of them together, at most

# How much a mention counts, by its speaker (empty: the recommender) and the user's polarity.
_MENTION = {(USER, 1): 1.0, (USER, 0): 1.0, (USER, -1): -0.3, ("", 1): 1.0, ("", 0): 0.6, ("", -1): -0.2}
_RECOMMENDERS_WORDS = 0.5  # how much the recommender's own words count, the user's counting 1
_SMOOTHING = 3.0  # weight of popularity in a walk
_MIN_USERS = 5  # users that must have written a word for it to be a feature
_PENALTY = 40.0  # ridge penalty of the regression
_WORD = 0.3  # weight of a word in it, an item having 1
_FLOOR = 0.01  # added to its predictions, so that they have a logarithm
_LONG = 8.0  # rarity (nats) in the length of a title, for feature `title`
_N_NEW = 4  # years before the newest item of the catalogue that still count as "new"


@dataclass
class _Evidence:
    """What a dialogue says: weights by item row, kind, person, year word and title word, and the user's n-grams."""

    items: dict[int, float] = field(default_factory=dict)
    kinds: dict[str, float] = field(default_factory=dict)
    latest_kinds: dict[str, float] = field(default_factory=dict)
    people: dict[str, float] = field(default_factory=dict)
    years: dict[str, float] = field(default_factory=dict)
    words: dict[str, float] = field(default_factory=dict)
    grams: set[str] = field(default_factory=set)


class Utterance(NamedTuple):
    """What one party says in a turn: `text` in format v1, and the item that each of its mentions is linked to."""

    role: str
    text: str
    items: Sequence[str | None] = ()


def heard(turns: Sequence[Mapping[str, Any]]) -> list[Utterance]:
    """The utterances of `turns`: rows with `role`, `text` and linked `items`. Nothing else in the rows gets further."""
    return [Utterance(turn["role"], turn["text"], [item["item_id"] for item in turn["items"]]) for turn in turns]


# ── the prior ───────────────────────────────────────────────────────────────────────────────────────────────────


class ItemPrior:
    """P(next item | dialogue) over a catalogue, log-linear in `FEATURES`.

    The item–item model is a random walk from the items mentioned to the users who liked them, and on to what else
    they like (P3, Cooper et al. 2014; RP3β, Paudel et al. 2017): p(u|i) = 1 / n_i, p(j|u) = 1 / n_u. It needs no
    training, no matrix between items and no more memory than the ratings. Where the ratings come with texts, there are
    also a walk from words and a regression on items and words (EASE, Steck 2019).
    """

    def __init__(self, items: pl.DataFrame, liked: sparse.csr_array, domain: Domain, texts: Sequence[str] = ()) -> None:
        """`items` of the domain, sorted by item_id; `liked` (n_users, n_items) of 0/1; `texts`: what each user wrote,
        or none."""
        self.domain = domain
        self.item_ids: list[str] = items["item_id"].to_list()
        self._rows = {item: row for row, item in enumerate(self.item_ids)}
        self._n_likes = np.asarray(liked.sum(axis=0), dtype=np.float32).ravel()
        self._popularity = (self._n_likes + 0.5) / (self._n_likes + 0.5).sum()
        self._likers = sparse.csr_array(liked.T)
        self._back = _back(liked)
        self._vocabulary, users_words = _vocabulary(texts)
        if texts:
            n_users = np.asarray(users_words.sum(axis=0)).ravel()
            self._from_words = sparse.csr_array((users_words * (np.log(len(texts) / n_users) / n_users)[None, :]).T)
            both = sparse.csr_array(sparse.hstack([liked, _WORD * users_words]))
            self._regression = _Regression(both, len(self.item_ids))

        labels = items["kinds"].to_list()
        kinds = sorted({kind for row in labels for kind in row or ()})
        self._kind = {kind: column for column, kind in enumerate(kinds)}
        self._kinds = _indicator(labels, self._kind).toarray()
        self._kind_rarity = _rarity(self._kinds)
        credits = _credits(items, domain)
        self._person = {
            name: column for column, name in enumerate(sorted({name for names in credits for name in names}))
        }
        self._people = _indicator(credits, self._person)
        words = [
            sorted(set(data_titles.title_words(title)) - lexicon.common(domain) - lexicon.kinds_of(domain).keys())
            for title in items["title"]
        ]
        self._word = {word: column for column, word in enumerate(sorted({w for row in words for w in row}))}
        self._full_names = _full_names(self._person, self._people, self._word, domain)
        self._own_names = _own_names(kinds, domain)
        titles = _indicator(words, self._word)
        self._titles = sparse.csr_array(titles * _rarity(titles)[None, :])
        self._year = items["year"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        self._norms = {"kinds": _norm(self._kinds), "titles": np.sqrt(self._titles.power(2).sum(axis=1)) + 1e-9}

    @classmethod
    def fit(
        cls, items: pl.DataFrame, ratings: pl.DataFrame, domain: Domain, texts: Mapping[str, str] | None = None
    ) -> Self:
        """The prior of tables `items` and `ratings` (training ratings only) of a domain. Deterministic, whatever the
        row order.

        A rating at or above its user's own mean counts as liked. `texts`: what each user of `ratings` wrote, where
        the ratings come from dialogues; without it the features `words` and `regression` are constants.
        """
        items = items.sort("item_id")
        ratings = ratings.join(items, on="item_id", how="semi")
        ratings = histories.standardise(ratings, histories.scales(ratings)).filter("liked").sort("user_id", "item_id")
        users = ratings["user_id"].unique().sort()
        user = users.search_sorted(ratings["user_id"]).to_numpy()
        item = items["item_id"].search_sorted(ratings["item_id"]).to_numpy()
        liked = sparse.csr_array((np.ones(len(user), np.float32), (user, item)), shape=(len(users), len(items)))
        return cls(items, liked, domain, [texts.get(name, "") for name in users] if texts else ())

    def log_prior(
        self, turns: Sequence[Utterance], exclude: Collection[str] = (), weights: Mapping[str, float] = CATALOGUE
    ) -> np.ndarray:
        """Log-probability (float32, nats) of each of `item_ids` to be the next item; -inf for those in `exclude`.

        `weights`: the weight of each of `FEATURES` in the model, for items that were not mentioned yet; the others have
        the chances `JUST_NAMED` and `NAMED`.
        """
        scores = np.array([weights[name] for name in FEATURES], dtype=np.float32) @ self.features(turns)
        latest = next((turn.items for turn in reversed(turns) if turn.role == USER), ())
        repeats = dict.fromkeys((item for turn in turns for item in turn.items), NAMED) | dict.fromkeys(
            latest, JUST_NAMED
        )
        scores[[self._rows[item] for item in {*exclude, *repeats} if item in self._rows]] = -np.inf
        chances = {self._rows[i]: p for i, p in repeats.items() if i in self._rows and i not in exclude}
        total = sum(chances.values())
        share = min(total, _MOST_REPEATED) if np.isfinite(scores.max()) else 1.0
        if share < 1:
            scores += np.log1p(-share) - logsumexp(scores)
        scores[list(chances)] = [np.log(share * chance / total) for chance in chances.values()]
        return scores

    def features(self, turns: Sequence[Utterance]) -> np.ndarray:
        """`FEATURES` of every item after `turns`: float32 (n_features, n_items)."""
        popularity = self._popularity
        evidence = self._evidence(turns)
        rows = np.array(list(evidence.items), dtype=np.int64)
        weight = np.array(list(evidence.items.values()), dtype=np.float32)
        liked = np.maximum(weight, 0)
        zero = np.zeros(len(self.item_ids), np.float32)
        feature = dict.fromkeys(FEATURES, zero)
        feature["popularity"] = np.log(popularity)
        reached = self._likers[rows].T @ (weight / np.maximum(self._n_likes[rows], 1))
        feature["neighbours"] = np.log(np.maximum(self._back @ reached, 0) + _SMOOTHING * popularity)
        if self._vocabulary:
            words = np.array(sorted(self._vocabulary[w] for w in evidence.grams if w in self._vocabulary), np.int64)
            walked = self._back @ (self._from_words[words].sum(axis=0) / np.sqrt(max(len(words), 1)))
            feature["words"] = np.log(np.maximum(walked, 0) + popularity)
            columns = np.concatenate([rows, len(self.item_ids) + words])
            values = np.concatenate([np.ones(len(rows)), np.full(len(words), _WORD)]).astype(np.float32)
            feature["regression"] = np.log(np.maximum(self._regression(columns, values), 0) + _FLOOR)
        feature["kinds"] = self._kinds @ (self._kind_rarity * _vector(evidence.kinds, self._kind))
        feature["latest_kinds"] = self._kinds @ (self._kind_rarity * _vector(evidence.latest_kinds, self._kind))
        feature["people"] = self._people @ _vector(evidence.people, self._person)
        feature["years"] = self._in_years(evidence.years)
        length = np.sqrt(_LONG * np.asarray(self._titles.sum(axis=1)).ravel()) + 1e-9
        feature["title"] = (self._titles @ _vector(evidence.words, self._word)) / length
        if liked.any():
            mentioned = self._kinds[rows].T @ weight
            feature["same_kinds"] = (
                self._kinds @ mentioned / (self._norms["kinds"] * (np.linalg.norm(mentioned) + 1e-9))
            )
            feature["same_people"] = np.minimum(self._people @ (self._people[rows].T @ weight), 3)
            mentioned = self._titles[rows].T @ liked
            feature["same_title"] = (
                self._titles @ mentioned / (self._norms["titles"] * (np.linalg.norm(mentioned) + 1e-9))
            )
            dated = ~np.isnan(self._year[rows]) & (liked > 0)
            if dated.any():
                centre = np.average(self._year[rows][dated], weights=liked[dated])
                feature["same_years"] = -np.nan_to_num(np.abs(self._year - centre) / 10, nan=1.0).clip(max=5)
        return np.stack([np.asarray(feature[name], dtype=np.float32) for name in FEATURES])

    # ── evidence ──

    def _evidence(self, turns: Sequence[Utterance]) -> _Evidence:
        evidence = _Evidence()
        for number, turn in enumerate(turns):
            user = turn.role == USER
            reply = turns[number + 1].text if not user and number + 1 < len(turns) else ""
            answer = lexicon.answer(reply, self.domain)
            for item, polarity in zip(turn.items, lexicon.around(turn.text, self.domain), strict=False):
                if item in self._rows:
                    evidence.items[self._rows[item]] = _MENTION[(USER, polarity) if user else ("", answer)]
            weight = 1.0 if user else _RECOMMENDERS_WORDS * (1.0 if answer >= 0 else -1.0)
            if user:
                evidence.latest_kinds.clear()
            for tokens, sign in lexicon.clauses(turn.text):
                self._add_words(tokens, weight * sign if user else weight, evidence)
                if user:
                    evidence.grams.update(_grams(tokens))
                    evidence.latest_kinds.update(dict.fromkeys(self._kinds_in(tokens), sign))
        return evidence

    def _add_words(self, tokens: Sequence[str], value: float, evidence: _Evidence) -> None:
        evidence.kinds.update(dict.fromkeys(self._kinds_in(tokens), value))
        for word in tokens:
            if word in self._word:
                evidence.words[word] = max(value, 0.0)
        for n in (3, 2, 1):
            for start in range(len(tokens) - n + 1):
                if name := self._full_names.get(" ".join(tokens[start : start + n])):
                    evidence.people[name] = value
        clause = " ".join(tokens)
        evidence.years.update(dict.fromkeys((f"{decade}s" for decade in lexicon.decades(clause, self.domain)), value))
        if self.domain.time.span == 1:
            evidence.years.update(dict.fromkeys(map(str, lexicon.years(clause, self.domain)), value))
        evidence.years.update(dict.fromkeys(lexicon.age(clause, self.domain), value))

    def _kinds_in(self, tokens: Sequence[str]) -> list[str]:
        """The kinds that the words of a clause name: by the domain's words, or by a name that the domain has not."""
        own = (
            self._own_names.get(" ".join(tokens[start : start + n]))
            for n in (3, 2, 1)
            for start in range(len(tokens) - n + 1)
        )
        named = lexicon.kinds(tokens, self.domain)
        return [*named, *filter(None, own)] if self._own_names else named

    def _in_years(self, years: Mapping[str, float]) -> np.ndarray:
        total = np.zeros(len(self.item_ids), np.float32)
        newest = np.nanmax(self._year, initial=-np.inf) if len(self._year) else 0.0
        for name, value in years.items():
            if name == "new":
                total += value * (self._year >= newest - _N_NEW)
            elif name == "old":
                total += value * (self._year < self.domain.time.old)
            else:
                first, span = int(name.rstrip("s")), 10 if name.endswith("s") else 1
                total += value * ((self._year >= first) & (self._year < first + span))
        return total


class ContraryPrior:
    """An item prior with its taste turned round, for a counterfactual recommender: log P' = 2 log P(∅) − log P(turns).

    What the dialogue makes likelier becomes as much less likely, and the other way round. P(∅), the prior before the
    first word, is popularity: it stays, so that the items named are not merely obscure.
    """

    def __init__(self, prior: ItemPrior) -> None:
        self._prior, self._before = prior, prior.log_prior([])

    def log_prior(self, turns: Sequence[Utterance], exclude: Collection[str] = ()) -> np.ndarray:
        """As `ItemPrior.log_prior`."""
        log_prior = self._prior.log_prior(turns, exclude)
        possible = np.isfinite(log_prior)
        log_prior[possible] = 2 * self._before[possible] - log_prior[possible]
        total = np.logaddexp.reduce(log_prior.astype(np.float64), initial=-np.inf)
        return (log_prior - total).astype(np.float32) if possible.any() else log_prior


def _back(liked: sparse.csr_array) -> sparse.csr_array:
    """The step from users to what they like, p(j|u) = 1 / n_u, as a matrix (n_items, n_users) applied from the left."""
    per_user = 1 / np.maximum(np.asarray(liked.sum(axis=1)).ravel(), 1)
    return sparse.csr_array((liked * per_user[:, None]).T, dtype=np.float32)


class _Regression:
    """Each item's expected value (1 liked, 0 not) given other items and words: EASE (Steck 2019) in its dual form.

    EASE regresses every column on all others: B_ij = -P_ij / P_jj with P = (X'X + λI)^-1. Here users are fewer than
    items and words, and P = (I - X'KX) / λ with K = (XX' + λI)^-1 (Woodbury), so only K, between users, is stored.
    """

    def __init__(self, users: sparse.csr_array, n_items: int) -> None:
        """`users` (n_users, n_items + n_words)."""
        gram = (users @ users.T).toarray()
        gram[np.diag_indices_from(gram)] += _PENALTY
        self._inverse = np.linalg.inv(gram)
        self._users = sparse.csr_array(users.T)
        self._items = sparse.csr_array(users[:, :n_items].T)
        leverage = np.asarray(self._items.multiply(self._items @ self._inverse).sum(axis=1)).ravel()
        self._scale = 1 / (1 - leverage)

    def __call__(self, columns: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The expected value (n_items,) of each item given `values` of `columns`; not valid for those items."""
        return self._scale * (self._items @ (self._inverse @ (self._users[columns].T @ values)))


def _vocabulary(texts: Sequence[str]) -> tuple[dict[str, int], sparse.csr_array]:
    """The column of each word and pair of words that at least `_MIN_USERS` and at most a quarter of the users wrote,
    and the matrix (n_users, n_columns) of who wrote it (0/1)."""
    grams_of_users = [{gram for tokens, _ in lexicon.clauses(text) for gram in _grams(tokens)} for text in texts]
    count = Counter(gram for grams in grams_of_users for gram in grams)
    frequent = sorted(gram for gram, n in count.items() if _MIN_USERS <= n <= len(texts) / 4)
    column = {gram: number for number, gram in enumerate(frequent)}
    return column, _indicator([grams & column.keys() for grams in grams_of_users], column)


def _grams(tokens: Sequence[str]) -> list[str]:
    return [*tokens, *(f"{a} {b}" for a, b in pairwise(tokens))]


def _indicator(rows: Iterable[Iterable[str] | None], column: Mapping[str, int]) -> sparse.csr_array:
    columns = [sorted({column[name] for name in row or ()}) for row in rows]
    indices = np.array([c for row in columns for c in row], dtype=np.int32)
    indptr = np.cumsum([0, *map(len, columns)])
    return sparse.csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=(len(columns), len(column)))


def _vector(weights: Mapping[str, float], column: Mapping[str, int]) -> np.ndarray:
    vector = np.zeros(len(column), np.float32)
    for name, weight in weights.items():
        if name in column:
            vector[column[name]] = weight
    return vector


def _norm(rows: np.ndarray) -> np.ndarray:
    return np.sqrt((rows**2).sum(axis=1)) + 1e-9


def _credits(items: pl.DataFrame, domain: Domain) -> list[list[str]]:
    """The makers, the people and, of further attributes that the domain can speak of, the values of each item."""
    return [
        [*(makers or ()), *(people or ()), *(one["value"] for one in attributes or () if one["name"] in domain.askable)]
        for makers, people, attributes in items.select("makers", "people", "attributes").iter_rows()
    ]


def _own_names(kinds: Sequence[str], domain: Domain) -> dict[str, str]:
    """Kinds of the catalogue of which the domain has no words, by their own names as people type them."""
    unknown = (kind for kind in kinds if kind not in domain.kinds)
    return {name: kind for kind in unknown if (name := " ".join(lexicon.tokens(kind.replace("-", " "))))}


def _full_names(
    person: Mapping[str, int], credits: sparse.csr_array, title_words: Collection[str], domain: Domain
) -> dict[str, str]:
    """Name as it is mentioned → full name: the full name itself, and a last name that only one person of three items or
    more has."""
    n_items = np.asarray(credits.sum(axis=0)).ravel()
    ordinary = lexicon.common(domain) | lexicon.kinds_of(domain).keys()
    full_names: dict[str, str] = {}
    last: defaultdict[str, list[str]] = defaultdict(list)
    for name, column in person.items():
        words = lexicon.tokens(name)
        if len(words) in (2, 3):
            full_names.setdefault(" ".join(words), name)
            if len(words[-1]) > 5 and n_items[column] >= 3:
                last[words[-1]].append(name)
    for word, names in last.items():
        if len(names) == 1 and not (word in ordinary or word in title_words):
            full_names.setdefault(word, names[0])
    return full_names


def _rarity(indicator: np.ndarray | sparse.csr_array) -> np.ndarray:
    """Minus the log share of rows that have each column (float32)."""
    return np.log((1 + indicator.shape[0]) / (1 + np.asarray(indicator.sum(axis=0)).ravel())).astype(np.float32)
