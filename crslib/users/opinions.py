"""What a user remembers of an item that was mentioned, or thinks of one they have not seen.

Everything comes from visible (training) ratings, so an item that a user rated only in the hidden part of the history
counts as not seen. Knows nothing of held-out items, dialogues or the wording of notes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, Self

import numpy as np
import polars as pl
from scipy import sparse
from scipy.sparse.linalg import svds
from scipy.special import expit

from crslib.data import histories
from crslib.identity import derive_seed

# Values chosen on a second temporal split inside the visible ratings of the built-in data. The decision to use content
# and factors was also checked on held-out ratings, so the AUC reported on these is slightly optimistic.
PRIOR_RIDGE = 10.0  # of the regression of an item's quality on kinds, decade and popularity
ITEM_WEIGHT = 10.0  # ratings at which an item's own mean counts as much as that regression
N_FACTORS = 16
TASTE_RIDGE = 8.0  # shrinks a user's taste towards the average


class TasteModel:
    """Predicts z, the rating on a user's own scale, of any item of the catalogue.

    z(user, item) = q(item) + w(user) · x(item). q: the item's mean z, shrunk to a ridge regression on kinds, decade
    and log popularity. x: kinds, decade and the factors of a truncated SVD of the residuals z - q (baseline plus
    factors: Koren, Bell and Volinsky 2009). w: a ridge regression of the user's residuals on x. Content and factors
    have unit mean square length over the ratings, so that neither outweighs the other by its scale. Makers and people
    are left out: in the built-in data they add nothing measurable.

    `threshold` is the prediction from which liking the item (z >= 0) is more likely than not. It is not 0 but minus the
    median of z - q: ratings have a long tail downwards, so their median is above their mean.
    """

    def __init__(self, item_ids: Sequence[str], quality: np.ndarray, features: np.ndarray, threshold: float) -> None:
        self.quality, self.features = quality, features  # (n_items,), (n_items, n_features)
        self.threshold = threshold
        self._rows = {item: row for row, item in enumerate(item_ids)}
        self._residuals: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._tastes: dict[str, np.ndarray] = {}

    @classmethod
    def fit(cls, training: pl.DataFrame, items: pl.DataFrame) -> Self:
        """The model of tables `ratings` (visible ones only) and `items`. Deterministic, whatever the row order."""
        items = items.sort("item_id")
        training = training.join(items, on="item_id", how="semi")
        training = histories.standardise(training, histories.scales(training))
        item = items["item_id"].search_sorted(training["item_id"]).to_numpy().astype(np.int64)
        users, first, user = np.unique(training["user_id"].to_numpy(), return_index=True, return_inverse=True)
        z = training["z"].to_numpy()

        content = _content(items)
        quality = _quality(content, item, z)
        residual = z - quality[item]
        factors = _factors(sparse.csr_array((residual, (user, item)), shape=(len(users), len(items))))
        features = np.hstack([_scaled(content, item), _scaled(factors, item)])
        threshold = -round(float(np.median(residual)), 6) if len(residual) else 0.0
        model = cls(items["item_id"].to_list(), quality, features, threshold)
        for name, start, end in zip(users, first, [*first[1:], len(z)], strict=True):
            model._residuals[name] = (item[start:end], residual[start:end])
        return model

    def predict(self, user_id: str, item_ids: Iterable[str]) -> np.ndarray:
        """Predicted z of each item, to six decimals; NaN for an item that is not in the catalogue.

        A user without ratings gets the average taste.
        """
        row = np.array([self._rows.get(item, -1) for item in item_ids], dtype=np.int64)
        z = self.quality[row] + self.features[row] @ self._taste(user_id)
        return np.where(row < 0, np.nan, np.round(z, 6))

    def _taste(self, user_id: str) -> np.ndarray:
        if user_id not in self._tastes:
            weights = np.zeros(self.features.shape[1])
            if user_id in self._residuals:
                item, residual = self._residuals[user_id]
                weights = _ridge(self.features[item], residual, TASTE_RIDGE)
            self._tastes[user_id] = weights
        return self._tastes[user_id]


def _ridge(features: np.ndarray, target: np.ndarray, alpha: float) -> np.ndarray:
    return np.linalg.solve(features.T @ features + alpha * np.eye(features.shape[1]), features.T @ target)


def _content(items: pl.DataFrame) -> np.ndarray:
    """Kinds and decades as 0/1 columns, both in alphabetical order. (n_items, n_kinds + n_decades)"""
    kinds = items.select(pl.col("kinds").list.explode(empty_as_null=False).unique().drop_nulls().sort()).to_series()
    decades = (items["year"] // 10).drop_nulls().unique().sort()
    columns = [pl.col("kinds").list.contains(kind).fill_null(False).alias(f"kind {kind}") for kind in kinds]
    columns += [(pl.col("year") // 10).eq_missing(decade).alias(f"decade {decade}") for decade in decades]
    return items.select(columns).cast(pl.Float64).to_numpy() if columns else np.zeros((len(items), 0))


def _quality(content: np.ndarray, item: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Each item's mean z, shrunk to the prediction from content and popularity. (n_items,)"""
    n = np.bincount(item, minlength=len(content))
    predictors = np.hstack([content, np.log1p(n)[:, None]])
    prior = predictors @ _ridge(predictors[item], z, PRIOR_RIDGE)
    return (np.bincount(item, z, minlength=len(n)) + ITEM_WEIGHT * prior) / (n + ITEM_WEIGHT)


def _factors(residual: sparse.csr_array, power: float = 1.0) -> np.ndarray:
    """Item factors of the residuals (n_users, n_items), weighted by a power of their singular values. (n_items, at most
    16)"""
    k = min(N_FACTORS, *(size - 1 for size in residual.shape))
    if k < 1 or not residual.count_nonzero():
        return np.zeros((residual.shape[1], 0))
    start = np.random.default_rng(0).normal(size=min(residual.shape))
    _, singular, right = svds(residual, k=k, v0=start)
    return right.T * singular**power


def _scaled(features: np.ndarray, item: np.ndarray) -> np.ndarray:
    mean_square = (features[item] ** 2).sum(axis=1).mean() if len(item) else 0.0
    return features / np.sqrt(mean_square) if mean_square > 0 else features


class ChoiceModel:
    """Predicts from counts or presence whether a user would choose an item of the catalogue.

    The score of an item is its likeness to the user's own items, Σ rating(j) v(j) · v(item), with item factors v of a
    truncated SVD of the ratings, 0 where there is none (PureSVD: Cremonesi, Koren and Turrin 2010). A prediction is the
    score minus what a quarter of the catalogue reaches for this user: from 0 on, an item is of interest.
    """

    SHARE = 0.25  # of the catalogue, of interest to a user; it has no truth in data without dislikes
    threshold = 0.0

    def __init__(self, item_ids: Sequence[str], factors: np.ndarray) -> None:
        self.factors = factors  # (n_items, n_factors)
        self._rows = {item: row for row, item in enumerate(item_ids)}
        self._histories: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._scores: dict[str, np.ndarray] = {}

    @classmethod
    def fit(cls, training: pl.DataFrame, items: pl.DataFrame) -> Self:
        """The model of tables `ratings` (visible ones only) and `items`. Deterministic, whatever the row order."""
        items = items.sort("item_id")
        training = training.join(items, on="item_id", how="semi").sort("user_id", "item_id")
        item = items["item_id"].search_sorted(training["item_id"]).to_numpy().astype(np.int64)
        users, first, user = np.unique(training["user_id"].to_numpy(), return_index=True, return_inverse=True)
        weight = training["rating"].to_numpy()
        shape = (len(users), len(items))
        model = cls(items["item_id"].to_list(), _factors(sparse.csr_array((weight, (user, item)), shape=shape), 0.0))
        for name, start, end in zip(users, first, [*first[1:], len(weight)], strict=True):
            model._histories[name] = (item[start:end], weight[start:end])
        return model

    def predict(self, user_id: str, item_ids: Iterable[str]) -> np.ndarray:
        """The prediction for each item, to six decimals; NaN for an item that is not in the catalogue.

        To a user without a history every item is of interest.
        """
        row = np.array([self._rows.get(item, -1) for item in item_ids], dtype=np.int64)
        return np.where(row < 0, np.nan, self._of(user_id)[row])

    def _of(self, user_id: str) -> np.ndarray:
        if user_id not in self._scores:
            scores = np.zeros(len(self._rows))
            if user_id in self._histories and self.factors.shape[1]:
                item, weight = self._histories[user_id]
                scores = self.factors @ (self.factors[item].T @ weight)
                unknown = np.setdiff1d(np.arange(len(scores)), item)
                scores = scores - np.quantile(scores[unknown] if len(unknown) else scores, 1 - self.SHARE)
            self._scores[user_id] = np.round(scores, 6)
        return self._scores[user_id]


class UserOpinions(Protocol):
    """What a user remembers or thinks of an item that was just named."""

    def of(self, profile_id: str, item_id: str | None) -> tuple[bool | None, bool | None]:
        """(seen, liked or interested) for an item of the catalogue, or for a title that is in none (`None`)."""
        ...


class Opinions:
    """What the user of each profile remembers or thinks of an item, computed on demand."""

    model_type: type[TasteModel] | type[ChoiceModel] = TasteModel
    dislikes = True  # whether a seen item may be disliked

    def __init__(self, profiles: pl.DataFrame, training: pl.DataFrame, items: pl.DataFrame) -> None:
        """`profiles`, `training` (table `ratings`, visible ones only) and `items` of one run."""
        self.model = self.model_type.fit(training, items)
        self._users = dict(profiles.select("profile_id", "user_id").iter_rows())
        self._items = frozenset(items["item_id"])
        history = training.join(profiles, on="user_id", how="semi")
        history = histories.standardise(history, histories.scales(history))
        self._history = {
            (user, item): (z, liked)
            for user, item, z, liked in history.select("user_id", "item_id", "z", "liked").iter_rows()
        }

    def user(self, profile_id: str) -> str:
        """The user whose profile it is."""
        return self._users[profile_id]

    def of(self, profile_id: str, item_id: str | None) -> tuple[bool | None, bool | None]:
        """`(seen, liked)`. For an item in the visible history (True, rated at or above the user's mean), where None
        takes the place of False if ratings are counts; for another (False, predicted to be liked); for one that is not
        in the catalogue (False, None)."""
        if item_id is None or item_id not in self._items:
            return False, None
        if (of_history := self._history.get((self._users[profile_id], item_id))) is not None:
            liked = of_history[1]
            return True, liked if liked or self.dislikes else None
        return False, self.predicted(profile_id, item_id) >= self.model.threshold

    def rated(self, profile_id: str, item_id: str) -> float | None:
        """z of an item in the visible history, None of another one."""
        z, _ = self._history.get((self._users[profile_id], item_id), (None, None))
        return z

    def predicted(self, profile_id: str, item_id: str) -> float:
        """What the model predicts for an item of the catalogue."""
        return float(self.model.predict(self._users[profile_id], [item_id])[0])


class ChoiceOpinions(Opinions):
    """The same from counts and presence, which say of no seen item that it is disliked."""

    model_type = ChoiceModel
    dislikes = False


Serves = Callable[[str, str], bool | None]
"""Whether an item (by id) has to do with what the user of a profile (by id) looks for; None where nothing says so."""


def no_wish(profile_id: str, item_id: str) -> None:
    """Of users who look for nothing."""


class PeoplesOpinions:
    """Opinions of users who have seen more than they have rated, and who like as much of it as people do.

    A history of ratings holds a part of what somebody has seen. An unrated item has been seen with the probability with
    which people have seen what a recommender names, by the item's popularity: `SEEN`. Whether it has is a fact about
    the user and the item: drawn once, from both, and from nothing that is hidden.

    Marks below a person's mean are no dislikes: in a talk people like nearly all that they have seen. Of rated items
    those are disliked that a summary may call so (z of at most `histories.DISLIKED`); of others those with the lowest
    predictions, so many that people's shares (`DISLIKES`) of items as popular as what is rated are disliked: hardly
    more of what has nothing to do with a user's wish than of what serves it.
    """

    def __init__(
        self, opinions: Opinions, training: pl.DataFrame, items: pl.DataFrame, serves: Serves = no_wish
    ) -> None:
        """`training`, `items`: the tables that `opinions` were made from."""
        self._opinions, self._serves = opinions, serves
        share = items["n_ratings"].clip(1).to_numpy() / max(training["user_id"].n_unique(), 1)
        self._chance = dict(zip(items["item_id"], chance_of_seen(share).tolist(), strict=True))
        self._least = dict.fromkeys(DISLIKES, opinions.model.threshold)
        if opinions.dislikes:
            predicted = _of_the_popular(opinions.model, training)
            self._least = {case: float(np.quantile(predicted, share)) for case, share in DISLIKES.items()}

    def of(self, profile_id: str, item_id: str | None) -> tuple[bool | None, bool | None]:
        """`(seen, liked)` as `Opinions.of`; liked is predicted for what was seen and not rated, too. There None takes
        the place of False if ratings are counts or presence."""
        seen, liked = self._opinions.of(profile_id, item_id)
        if liked is None or item_id is None:
            return seen, liked
        if seen:
            z = self._opinions.rated(profile_id, item_id)
            return True, liked or (z is not None and z > histories.DISLIKED)
        seen = derive_seed(0, "seen", self._opinions.user(profile_id), item_id) < self._chance[item_id] * 2**32
        least = self._least[seen, self._serves(profile_id, item_id)]
        liked = self._opinions.predicted(profile_id, item_id) >= least
        return seen, liked if liked or not seen or self._opinions.dislikes else None


SEEN = (1.60, 0.332)
"""Intercept and slope: the log-odds that a seeker of ReDial's training part has seen an item that was recommended, by
the log of the share of all users of the built-in data who rated it (9,616 answers; `tests/users/test_opinions.py`
fits them anew)."""

DISLIKES: Mapping[tuple[bool, bool | None], float] = {
    (True, True): 0.040,
    (True, False): 0.069,
    (True, None): 0.058,
    (False, True): 0.064,
    (False, False): 0.077,
    (False, None): 0.086,
}
"""Shares of what was recommended to seekers of ReDial's training part that they dislike or have no interest in, by
whether it has been seen and whether it serves the wish that they had said (None: they had said none). 12,379 answers;
the same test counts them."""

_USERS, _PER_USER = 500, 40  # of whom, and of how many items each, predictions are looked at


def _of_the_popular(model: TasteModel | ChoiceModel, training: pl.DataFrame) -> np.ndarray:
    """The predictions of some users for items drawn from all ratings: as popular as what people talk about."""
    users, items = training["user_id"].unique().sort().to_numpy(), training["item_id"].to_numpy()
    if not len(items):
        return np.zeros(1)
    random = np.random.default_rng(0)
    some = random.permutation(users)[:_USERS]
    return np.concatenate([model.predict(user, random.choice(items, _PER_USER)) for user in some])


def chance_of_seen(share: np.ndarray) -> np.ndarray:
    """The probability that people have seen an item that `share` of all users have rated (above 0)."""
    intercept, slope = SEEN
    return expit(intercept + slope * np.log(share))


def of_feedback(kind: str) -> type[Opinions]:
    """The opinions for a kind of feedback (`source.Feedback`)."""
    return Opinions if kind == "marks" else ChoiceOpinions


def auc(model: TasteModel | ChoiceModel, profiles: pl.DataFrame, judged: pl.DataFrame) -> pl.DataFrame:
    """How well `model` separates liked items from others: `profile_id`, `n` (items), `auc`, sorted by profile.

    `auc` is the probability that a liked item of `judged` (`profile_id`, `item_id`, `liked`) has a higher prediction
    than one not liked, ties counting half. Items outside the catalogue are left out, and profiles that do not have both
    kinds. The figure to report is the mean over profiles. For reports, not for simulation.
    """
    judged = judged.join(profiles.select("profile_id", "user_id"), on="profile_id").sort("profile_id", "item_id")
    rows = []
    for (profile,), part in judged.group_by("profile_id", maintain_order=True):
        predicted, liked = model.predict(part["user_id"][0], part["item_id"]), part["liked"].to_numpy()
        listed = ~np.isnan(predicted)  # in the catalogue
        if 0 < liked[listed].sum() < listed.sum():
            rows.append((profile, int(listed.sum()), _area(liked[listed], predicted[listed])))
    return pl.DataFrame(rows, schema={"profile_id": pl.String, "n": pl.Int64, "auc": pl.Float64}, orient="row")


def _area(liked: np.ndarray, predicted: np.ndarray) -> float:
    """Area under the ROC curve from the ranks of the liked (Mann and Whitney 1947). scikit-learn has it too, and takes
    as long to import as this notebook takes for all else."""
    n = int(liked.sum())
    above = pl.Series(predicted).rank("average").to_numpy()[liked].sum() - n * (n + 1) / 2
    return float(above / (n * (len(liked) - n)))
