"""What a user simulator knows: its taste and wishes, never a recommender.

`profiles` builds summaries and holds items out, `targets` draws the attributes that a user looks for, `opinions`
answers whether an item was met and is liked, `rewording` puts a summary into a language model's words.
"""

__all__ = ["opinions", "profiles", "rewording", "targets"]
