"""Human dialogues, one loader per corpus, one `Dialogue` shape for all of them."""

from crslib.corpora.dialogue import Dialogue, Item, Mention, Turn, frames

__all__ = ["Dialogue", "Item", "Mention", "Turn", "frames"]
