"""What decides which titles and persons are named, from the dialogue and training ratings alone, never a user.

`prior` says how likely each item is next, `trie` restricts tokens to titles, `grounding` joins the two; `persons` keeps
what is said of an item's people to the catalogue.
"""

__all__ = ["grounding", "persons", "prior", "trie"]
