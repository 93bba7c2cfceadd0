"""The titles in human dialogues as items of a catalogue."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from crslib.data.catalog import Catalog
from crslib.data.corpora.base import Dialogue, Item, Mention, Turn, first_speakers, in_catalogue, untitled
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER


def linked(dialogue: Dialogue, catalog: Catalog, *, spot: bool) -> Dialogue:
    """The dialogue with the catalogue's ids and names of the items that it has; other titles stay as they are.

    `spot`: titles outside brackets are looked for, too (`Catalog.bracketed`).
    """
    turns = tuple(_turn(turn, catalog, spot) for turn in dialogue.turns)
    first = first_speakers(turns)
    items: dict[str, Item] = {}
    for turn in turns:
        for mention in turn.mentions:
            said = Item(mention.name, first[mention.item_id] == RECOMMENDER, None, None, "")
            items.setdefault(mention.item_id, said)
    ids = {}
    for old, item in dialogue.items.items():
        ids[old], name = _item(item.name, catalog)
        # Two spellings may be one item: what is known of either counts. Without a form, who names it first suggests it.
        before = items.get(ids[old], Item(name, None, None, None, ""))
        items[ids[old]] = Item(
            name,
            item.suggested if item.source or ids[old] not in first else before.suggested,
            item.seen if before.seen is None else before.seen,
            item.liked if before.liked is None else before.liked,
            before.source or item.source,
        )
    targets = None if dialogue.targets is None else tuple(dict.fromkeys(ids[target] for target in dialogue.targets))
    return replace(dialogue, turns=turns, items=items, targets=targets)


def _turn(turn: Turn, catalog: Catalog, spot: bool) -> Turn:
    text = catalog.bracketed(turn.text) if spot else turn.text
    found = [_item(name, catalog) for name, _, _ in utterances.mentions(text)]
    names = iter(found)
    text = utterances.replace_mentions(text, lambda _: utterances.mention(next(names)[1]))
    spans = zip(found, utterances.mentions(text), strict=True)
    return replace(turn, text=text, mentions=tuple(Mention(item_id, *span) for (item_id, _), span in spans))


def _item(name: str, catalog: Catalog) -> tuple[str, str]:
    """Id and name of the item with a name: the catalogue's, or its own name."""
    item_id = catalog.find(name)
    return (untitled(name), name) if item_id is None else (item_id, catalog.name(item_id))


@dataclass(frozen=True)
class Titles:
    """How many mentions and different titles dialogues have, and how many of them are items of the catalogue; `others`:
    the titles that are none, most frequent first."""

    mentions: int
    linked_mentions: int
    titles: int
    linked_titles: int
    others: tuple[str, ...]

    @classmethod
    def of(cls, dialogues: Sequence[Dialogue], known: frozenset[str]) -> "Titles":
        """`known`: the ids of the catalogue's items."""
        counted = Counter(m.item_id for one in dialogues for turn in one.turns for m in turn.mentions)
        names = {m.item_id: m.name for one in dialogues for turn in one.turns for m in turn.mentions}
        ours = {item_id for item_id in counted if in_catalogue(item_id) in known}
        others = sorted(counted.keys() - ours, key=lambda item_id: (-counted[item_id], names[item_id]))
        return cls(
            counted.total(),
            sum(counted[item_id] for item_id in ours),
            len(counted),
            len(ours),
            tuple(names[item_id] for item_id in others),
        )
