"""Human dialogues: ReDial as `Dialogue`s, and IARD, a part of it whose turns are labelled with dialogue acts."""

from crslib.data.corpora.base import Dialogue, Item, Mention, Turn, frames

__all__ = ["Dialogue", "Item", "Mention", "Turn", "frames"]
