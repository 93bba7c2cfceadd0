"""Charts and HTML pages of what was computed elsewhere: of a run and of several (`html`), of people's votes (`study`)
and of a judging model's answers (`judge`). `charts` draws frames. Modules are imported one by one, because charts take
a second to load.
"""

__all__ = ["charts", "html", "judge", "study"]
