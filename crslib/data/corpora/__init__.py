"""Human dialogues, one loader per corpus, one `Dialogue` shape for all of them."""

from crslib.data.corpora.base import Dialogue, Item, Mention, Turn, frames

__all__ = ["Dialogue", "Item", "Mention", "Turn", "frames"]
