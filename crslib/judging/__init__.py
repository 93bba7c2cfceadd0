"""Models and people as judges of dialogues.

People compare pairs on a page: `pairs` selects them, `study` stores the votes, `analysis` turns votes into figures,
`exchange` reads and writes the formats of other annotation platforms. A model answers questions: `llm` asks it,
`rubrics` runs all questions, `verdicts` turns its answers into figures. `criteria` reads what either is asked. Modules
are imported one by one, so that a page for raters does not load a model.
"""

__all__ = ["analysis", "criteria", "exchange", "llm", "pairs", "rubrics", "study", "verdicts"]
