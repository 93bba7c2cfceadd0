"""Pages for people: rating pairs and chatting with a simulator in JupyterLab (`widgets`), the rating page for a browser
(`server`), and a viewer of dialogues as one HTML file (`viewer`). Modules are imported one by one, so that raters wait
for no model and the viewer for no server.
"""

__all__ = ["server", "viewer", "widgets"]
