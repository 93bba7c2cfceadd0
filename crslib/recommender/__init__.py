"""What decides which titles the recommender names, from the dialogue and training ratings alone, never a user.

`prior` says how likely each item is next, `trie` restricts tokens to titles, `grounding` joins the two.
"""

__all__ = ["grounding", "prior", "trie"]
