"""Conversation format v1, and how utterances are read; knows nothing of data, models and engines.

Writing: `utterances` (mentions and plain text), `views` (what each party sees), `templates` (views as token ids),
`scripts` (formats in which a model knows the targets), `stop_reasons` (why a dialogue ended). `domain`: what the talk
is about. Reading: `acts` (what a turn does), `claims` (what it states of an item; `credits`: what the catalogue says),
`questions`, `form` (how it is written), `lexicon` (words on items), `reactions` (seen, liked), `stances` (for or
against the profile), `words`.
"""

__all__ = [
    "acts",
    "claims",
    "credits",
    "domain",
    "form",
    "lexicon",
    "reactions",
    "scripts",
    "stances",
    "stop_reasons",
    "templates",
    "utterances",
    "views",
    "words",
]
