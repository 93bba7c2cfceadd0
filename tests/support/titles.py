"""Titles in utterances of one's own."""

from crslib.data.catalog import Catalog
from crslib.dialogue import utterances


def bracketed(text: str, catalog: Catalog) -> str:
    """`text` with the titles that the catalogue spots in brackets, by its names."""
    spotted = catalog.spot(text)
    spans = [(item["start"], item["end"], utterances.mention(catalog.name(item["item_id"]))) for item in spotted]
    return utterances.replace_spans(text, spans)
