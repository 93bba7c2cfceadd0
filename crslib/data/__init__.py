"""Items, ratings and human dialogues, and the files that they are read from and written to.

Files: `tables` (the data folder), `builtin` (the data that come with the project), `imports` and `text_tables` (your
own CSV or Parquet files), `movielens`, `corpora` (human dialogues), `exports` (dialogues as training data). Content:
`catalog` (items by name), `titles` (spellings), `spotting` (titles outside brackets), `histories` (what is hidden).
"""

__all__ = [
    "builtin",
    "catalog",
    "corpora",
    "exports",
    "histories",
    "imports",
    "movielens",
    "spotting",
    "tables",
    "text_tables",
    "titles",
]
