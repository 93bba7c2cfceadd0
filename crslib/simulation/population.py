"""Who is simulated, and the catalogue and visible ratings around them: all that a simulation may know.

No table here has a held-out item in it, and none is asked for.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from functools import cached_property, lru_cache
from typing import Any, Self

import polars as pl

from crslib.config import SimulationParameters
from crslib.data.catalog import Catalog
from crslib.data.source import UNKNOWN, Source
from crslib.dialogue.domain import Domain, of_run
from crslib.dialogue.stances import serves_wish
from crslib.dialogue.styles import Style
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import Turn, UserKnowledge, UserView, Wishes
from crslib.engines.base import Constraint, Engine
from crslib.identity import digest
from crslib.recommender.grounding import CatalogTitles, Grounding, RealTitles
from crslib.recommender.mixture import Mixture
from crslib.recommender.persons import Persons
from crslib.recommender.prior import ContraryPrior, ItemPrior, heard
from crslib.store import Run
from crslib.users.opinions import Opinions, PeoplesOpinions, UserOpinions, of_feedback

_ROWS = 100_000  # rows of a table that are hashed at once


class Population:
    """Tables `profiles`, `items` and `training` (table `ratings`, visible ones only) of a run, and their domain.

    `catalog`, `opinions` and `prior` are computed from them when they are first needed.
    """

    def __init__(
        self,
        profiles: pl.DataFrame,
        items: pl.DataFrame,
        training: pl.DataFrame,
        domain: Domain,
        opinions: UserOpinions | None = None,
        source: Source = UNKNOWN,
    ) -> None:
        """`opinions`: what the users think of items; None: `Opinions`, from their visible ratings. `source`: where
        items and ratings come from."""
        self.profiles, self.items, self.training = profiles.sort("profile_id"), items, training
        self.domain, self.source = domain, source
        if opinions is not None:
            self.opinions = opinions

    @classmethod
    def read(cls, run: Run) -> Self:
        """The population whose tables lie in the folder of `run`. Raises `CrsError` when one is missing or damaged."""
        profiles, items, training = (run.read(name) for name in ("profiles", "items", "ratings"))
        return cls(profiles, items, training, of_run(run), source=Source.read(run.path))

    @cached_property
    def catalog(self) -> Catalog:
        """Items by name."""
        return Catalog(self.items, self.domain)

    @cached_property
    def opinions(self) -> UserOpinions:
        """What each user remembers or thinks of an item. For the user alone."""
        return of_feedback(self.source.feedback.kind)(self.profiles, self.training, self.items)

    def opinions_for(self, parameters: SimulationParameters) -> UserOpinions:
        """`opinions`, where parameter `opinions` is "people" with as much seen and liked as people have."""
        if parameters.opinions == "people" and isinstance(self.opinions, Opinions):
            return PeoplesOpinions(self.opinions, self.training, self.items, self._serves)
        return self.opinions

    def _serves(self, profile_id: str, item_id: str) -> bool | None:
        return serves_wish(self.item_rows[item_id], Wishes.of(self.profile_rows[profile_id]), self.domain)

    @cached_property
    def profile_rows(self) -> dict[str, dict[str, Any]]:
        """The rows of table `profiles` by id."""
        return {row["profile_id"]: row for row in self.profiles.iter_rows(named=True)}

    @cached_property
    def prior(self) -> ItemPrior:
        """What the recommender knows of items: a model of the catalogue and of everybody's ratings."""
        return ItemPrior.fit(self.items, self.training, self.domain)

    def prepare(self, parameters: SimulationParameters, roles: Collection[str] = (USER, RECOMMENDER)) -> None:
        """Computes now what engines that speak for `roles` will need of the catalogue and of all ratings."""
        _ = self.catalog.credits.persons, self.item_rows, self.sha256
        _ = USER in roles and self.opinions, RECOMMENDER in roles and self.ranking(parameters)

    def with_profiles(self, profiles: pl.DataFrame) -> Self:
        """The same catalogue, ratings and opinions with other `profiles` of the same people."""
        other = copy(self)
        other.profiles = profiles.sort("profile_id")
        vars(other).pop("profile_rows", None)
        return other

    def view(self, profile: Mapping[str, Any], style: Style | None = None) -> UserView:
        """What the user of a row of table `profiles`, who writes in `style`, sees before the first word."""
        return UserView(UserKnowledge(**self.known(profile), style=style))

    def known(self, profile: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of `UserKnowledge` for a row of table `profiles`, but for `style`."""
        loved, disliked = (
            tuple(self.catalog.name(item_id) for item_id in profile[column] or ())
            for column in ("loved_items", "disliked_items")
        )
        wishes = Wishes.of(profile)
        unrelated = tuple(
            name
            for item_id, name in zip(profile["loved_items"] or (), loved, strict=True)
            if serves_wish(self.item_rows[item_id], wishes, self.domain) is False
        )
        texts = {"domain": self.domain, "summary": profile["summary"], "attributes": profile["attributes"]}
        facts = {"wishes": wishes, "loved": loved, "disliked": disliked, "unrelated": unrelated}
        return {**texts, **facts}

    @cached_property
    def item_rows(self) -> dict[str, dict[str, Any]]:
        """The rows of table `items` by id."""
        return {row["item_id"]: row for row in self.items.iter_rows(named=True)}

    def catalog_titles(
        self, engine: Engine, parameters: SimulationParameters, others: CatalogTitles | None = None
    ) -> CatalogTitles | None:
        """The catalogue's titles in the tokens of `engine`, read by it if parameters `title_…` have that count; None
        where `grounding` is "off".

        `others`: titles that are there already, which serve if `engine` has their vocabulary and they are read alike.
        """
        if parameters.grounding == "off":
            return None
        reads = bool(parameters.title_model or parameters.title_base)
        if others is not None and list(others.pieces) == list(engine.pieces) and reads == (others.table is not None):
            return others
        return CatalogTitles(self.items, engine, self.domain, reads=reads)

    def grounding(
        self, recommender: Engine, parameters: SimulationParameters, titles: CatalogTitles | None = None
    ) -> Grounding | None:
        """What keeps `recommender` to titles of the catalogue (`titles`, if they are there already); None when
        parameter `grounding` is "off"."""
        of_catalog = self.catalog_titles(recommender, parameters, titles)
        if of_catalog is None:
            return None
        mixture = Mixture(parameters.title_model, parameters.title_prior, parameters.title_base)
        return Grounding(of_catalog, self.ranking(parameters), mixture)

    def persons(self, engine: Engine) -> Persons:
        """What keeps `engine` to persons whom the catalogue has in an item."""
        return Persons(self.catalog.credits, self.catalog.link, engine)

    def of_user(
        self, engine: Engine, parameters: SimulationParameters, titles: CatalogTitles | None = None
    ) -> Callable[[UserView], Constraint] | None:
        """What a user may name by `engine`, by its view: real titles, of new ones those that go with its wish rather
        than others (`title_wish`) and no favourite that does not, and true persons. None where all is free.

        `titles`: the recommender's, which serve the user too if both have one vocabulary. Where no model reads titles,
        `title_wish` is not used.
        """
        of_catalog = self.catalog_titles(engine, parameters, titles)
        if of_catalog is None:
            return None
        real, persons = RealTitles(of_catalog), self.persons(engine)

        @lru_cache(maxsize=1024)  # a person has one wish in all of its dialogues
        def serving(wishes: Wishes) -> tuple[str, ...]:
            return tuple(
                self.catalog.name(id_) for id_, row in self.item_rows.items() if serves_wish(row, wishes, self.domain)
            )

        def constraint(view: UserView) -> Constraint:
            ids = {item["item_id"] for turn in view.turns for item in turn["items"]}
            named = {self.catalog.name(item_id) for item_id in ids if item_id is not None}
            excluded, fit = {*view.knowledge.unrelated} - named, serving(view.knowledge.wishes)
            of_view = real.constraint(excluded, fit, named, by=parameters.title_wish)
            return persons.constraint(USER, view.turns, of_view)

        return constraint

    def of_recommender(
        self, engine: Engine, parameters: SimulationParameters, titles: CatalogTitles | None = None
    ) -> Callable[[Sequence[Turn]], Constraint] | None:
        """What the recommender may name by `engine` after some turns: titles (`titles`, if they are there already) as
        `grounding` weighs them, and true persons. None where all is free."""
        grounding = self.grounding(engine, parameters, titles)
        if grounding is None:
            return None
        persons = self.persons(engine)
        return lambda turns: persons.constraint(RECOMMENDER, turns, grounding.constraint(heard(turns)))

    def ranking(self, parameters: SimulationParameters) -> ItemPrior | ContraryPrior | None:
        """What says which items fit a dialogue, as parameter `grounding` wants it; None where all fit alike."""
        if parameters.grounding == "contrary":
            return ContraryPrior(self.prior)
        return self.prior if parameters.grounding == "prior" else None

    @cached_property
    def sha256(self) -> str:
        """A hash of what all people share: items, ratings, the domain's words, and what the source says of the ratings'
        meaning."""
        tables = [table_sha256(table) for table in (self.items, self.training)]
        return digest([*tables, self.domain.sha256, self.source.feedback.kind], "population")

    def person_sha256(self, profile: Mapping[str, Any]) -> str:
        """A hash of what a row of table `profiles` says of its person."""
        return digest(dict(profile), "person")


def table_sha256(table: pl.DataFrame) -> str:
    """SHA-256 of a table's cells, row by row."""
    cells = hashlib.sha256()
    for start in range(0, len(table), _ROWS):
        cells.update(table[start : start + _ROWS].write_ndjson().encode())
    return cells.hexdigest()
