"""Pages to rate pairs of dialogues, to talk with a simulator and to view dialogues.

`widgets` shows rating and talking in JupyterLab, `server` the rating page in a browser; `viewer` writes dialogues as
one HTML file. `talk` is the state of a dialogue with a simulator, `assets` joins the files of `page/`. Modules are
imported one by one, so that raters need not wait for a model, nor the viewer for a server.
"""

__all__ = ["server", "viewer", "widgets"]
