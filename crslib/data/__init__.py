"""Items, ratings and human dialogues, and the files that they are read from and written to.

Files: `tables` (the data folder), `source` (where its tables come from), `builtin` (the data that come with the
project), `imports` (your own files; `readers` opens them, `columns` and `cells` say what they mean, `feedback` writes
ratings, `tags` adds tags), `movielens`, `corpora` (human dialogues), `exports` and `trl` (dialogues as training data).
Content: `catalog` (items by name), `titles` (spellings), `spotting` (titles outside brackets), `histories` (what is
hidden).
"""

__all__ = [
    "builtin",
    "catalog",
    "cells",
    "columns",
    "corpora",
    "exports",
    "feedback",
    "histories",
    "imports",
    "movielens",
    "readers",
    "source",
    "spotting",
    "tables",
    "tags",
    "titles",
    "trl",
]
