"""The item prior in another domain: further attributes and kinds that the domain has no words for."""

import polars as pl
import pytest

from crslib.dialogue.utterances import USER
from crslib.recommender.prior import ItemPrior, Utterance
from tests.support.books import books, ratings
from tests.support.domains import BOOKS


def raised(text: str, items: pl.DataFrame) -> set[str]:
    """Ids of the items that a user's words make likelier than they were."""
    prior = ItemPrior.fit(items, ratings(), BOOKS)
    gained = prior.log_prior([Utterance(USER, text)]) - prior.log_prior([])
    return {item for item, gain in zip(prior.item_ids, gained, strict=True) if gain > 0}


@pytest.mark.parametrize(
    ("text", "column", "value"),
    [
        ("something about old houses", "attributes", {"name": "tag", "value": "old houses"}),
        ("do you know books by Mara Okafor?", "makers", "Mara Okafor"),
        ("a science fiction novel please", "kinds", "science-fiction"),
    ],
)
def test_what_is_named_raises_its_items(text: str, column: str, value: object) -> None:
    items = books()
    wanted = {row["item_id"] for row in items.iter_rows(named=True) if value in row[column]}
    assert raised(text, items) == wanted


def test_a_kind_without_words_in_the_domain_is_known_by_its_name() -> None:
    items = books().with_columns(kinds=pl.when(pl.int_range(60) < 6).then(["cosy-crime"]).otherwise("kinds"))
    assert raised("any cosy crime?", items) >= {f"b{number:02d}" for number in range(6)}
