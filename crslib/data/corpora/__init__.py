"""Human dialogues: a reader for each public corpus, all into `Dialogue`s; `importing` makes a folder of ours of any of
them (`folder`). IARD is a part of ReDial whose turns are labelled with dialogue acts."""

from crslib.data.corpora.base import Dialogue, Item, Mention, Turn, frames

__all__ = ["Dialogue", "Item", "Mention", "Turn", "frames"]
