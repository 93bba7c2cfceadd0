"""Charts and HTML pages of what was computed elsewhere.

`html` writes the reports of a run and of a sweep, `study` that of people's votes, `judge` that of a judging model's
answers. `charts` draws frames; `text` writes numbers, intervals and tables; `summary` says in words what came out,
`likeness` whether a metric is like people's; `transcripts` has the dialogues of a page. Modules are imported one by
one, because charts take a second to load.
"""

__all__ = ["charts", "html", "judge", "likeness", "study", "summary", "text", "transcripts"]
