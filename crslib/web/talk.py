"""A dialogue of a person with a simulator, as the state of a page.

It runs in a thread of its own, so that the page stays responsive. Knows neither widgets nor browsers: `do` takes a
page's requests, and `show` gets every new state.
"""

import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crslib.config import RunParameters, resolve
from crslib.data import tables
from crslib.dialogue.utterances import RECOMMENDER, USER, pieces
from crslib.errors import CrsError
from crslib.simulation.conversation import converse, new_run
from crslib.store import Run

PATIENCE = 30 * 60  # seconds without an utterance, after which the dialogue ends and its models are freed
START: Mapping[str, Any] = {
    "item": "an item",
    "items": "items",
    "phase": "start",
    "role": USER,
    "turns": [],
    "note": "",
    "private": None,
    "path": "",
}


class Talk:
    """One dialogue after another. Each has its own models, opened when it begins and freed at its end.

    `show` gets `state` whenever it changes, from any thread: what is talked about (`item`, `items`), `phase` (start,
    opening, yours, theirs, over), the person's `role`, the `turns` so far ({role, pieces}), a `note` for the person
    and, when the dialogue is over, `private` (summary, attributes and notes of a simulated user) and the `path` of the
    run.
    """

    def __init__(
        self, parameters: RunParameters, reports: Path, show: Callable[[dict[str, Any]], None] = lambda state: None
    ) -> None:
        domain = tables.domain_of(resolve(parameters.data), parameters.domain)
        self._start = {**START, "item": f"{domain.article} {domain.label}", "items": domain.labels}
        self.state = dict(self._start)
        self._parameters, self._reports, self._show = parameters, reports, show
        self._typed: queue.Queue[str | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # both the page and the thread change the state

    def do(self, action: str, content: Mapping[str, Any]) -> None:
        """Carries out a page's request: `start` (role, profile), `say` (text) or `leave`. A request that does not fit
        the phase is ignored.

        Returns at once. Where a dialogue fails, the state's `note` says why.
        """
        if action == "start" and content.get("role") in (USER, RECOMMENDER):
            role, profile = content["role"], str(content.get("profile", "")).strip()
            if self._change(("start", "over"), **{**self._start, "phase": "opening", "role": role}):
                self._typed = queue.Queue()
                self._thread = threading.Thread(target=self._talk, args=(role, profile), daemon=True)
                self._thread.start()
        elif action == "say" and (text := str(content.get("text", "")).strip()):
            if self._change(("yours",), phase="theirs"):
                self._typed.put(text)
        elif action == "leave" and self._change(("opening", "yours", "theirs"), note="You leave."):
            self._typed.put(None)

    def close(self) -> None:
        """Ends the current dialogue, if there is one, and waits until its models are freed."""
        self.do("leave", {})
        if self._thread is not None:
            self._thread.join()

    def _change(self, phases: tuple[str, ...] = (), **fields: Any) -> bool:
        """Sets fields of the state if its phase is one of `phases` (empty: any phase). Returns whether it was."""
        with self._lock:
            allowed = not phases or self.state["phase"] in phases
            if allowed:
                self.state = {**self.state, **fields}
                self._show(self.state)
        return allowed

    def _talk(self, role: str, profile: str) -> None:
        run = new_run(self._reports)
        try:
            self._converse(role, profile, run)
        except Exception as error:
            why = str(error) if isinstance(error, CrsError) else f"It failed: {type(error).__name__}: {error}"
            self._change(phase="over" if self.state["turns"] else "start", note=why)
            if not isinstance(error, CrsError):
                raise

    def _converse(self, role: str, profile: str, run: Run) -> None:
        def ask() -> str | None:
            if self._typed.empty():
                self._change(phase="yours")
            try:
                return self._typed.get(timeout=PATIENCE)
            except queue.Empty:
                return None

        def show(speaker: str, text: str) -> None:
            if text:
                self._change(turns=[*self.state["turns"], {"role": speaker, "pieces": pieces(text)}])

        def begin() -> None:
            self._change(phase="theirs")

        ending = converse(role, self._parameters, run, ask, show, profile, begin)
        private = {"summary": ending.summary, "attributes": ending.attributes, "notes": ending.notes}
        self._change(
            phase="over", note=ending.why, private=private if role == RECOMMENDER else None, path=str(run.path)
        )
