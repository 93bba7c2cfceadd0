"""Agents that work in the background: their utterances come over a network while the loop goes on.

A subclass says how one utterance is got, as a coroutine; all that are asked for run at the same time.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from crslib.agents.base import Ask, Reply, Sent
from crslib.engines.background import event_loop
from crslib.errors import CrsError

_MOMENT = 0.1  # seconds: another agent that works in the background may be ready meanwhile


class BackgroundAgent(ABC):
    """Base of agents whose `reply` is a coroutine. It runs in another thread than `ask` and `step`.

    `width`: how many utterances are worth asking for at a time; `reply` itself limits how many are sent at once.
    """

    identity: Mapping[str, Any]
    width = 16
    reproducible = False
    background = True

    def __init__(self) -> None:
        self.loop = event_loop()
        self._tasks: set[asyncio.Task[Any] | None] = set()
        self._ended: SimpleQueue[tuple[str, Reply | Exception]] = SimpleQueue()
        self._pending = 0

    @abstractmethod
    async def reply(self, ask: Ask) -> Reply:
        """The utterance that was asked for. A `CrsError` becomes a failed reply; any other exception ends the run."""

    async def shut(self) -> None:  # noqa: B027  (there may be nothing to do)
        """Frees what `reply` needs."""

    @property
    def changes(self) -> Sequence[str]:
        """How it asks otherwise than its identity says."""
        return ()

    @property
    def pending(self) -> int:
        return self._pending

    def ask(self, ask: Ask) -> None:
        self._pending += 1
        self.loop.start(self._work(ask))

    async def _work(self, ask: Ask) -> None:
        self._tasks.add(asyncio.current_task())
        try:
            self._ended.put((ask.dialogue_id, await self.reply(ask)))
        except CrsError as error:
            self._ended.put((ask.dialogue_id, Reply("", Sent("", 0), 0, "failed", error=str(error))))
        except Exception as error:  # a mistake of the program: `step` raises it where it is seen
            self._ended.put((ask.dialogue_id, error))
        finally:
            self._tasks.discard(asyncio.current_task())

    def step(self, *, wait: bool) -> list[tuple[str, Reply]]:
        """All that have ended; with `wait` it waits a moment for the first."""
        ended: list[tuple[str, Reply]] = []
        while self._pending:
            try:
                dialogue_id, reply = self._ended.get(wait and not ended, _MOMENT)
            except Empty:
                break
            self._pending -= 1
            if isinstance(reply, Exception):
                raise reply
            ended.append((dialogue_id, reply))
        return ended

    def release(self, dialogue_id: str) -> None:  # noqa: B027  (there may be nothing to do)
        pass

    def close(self) -> None:
        """Drops what is pending. May be called twice."""
        self.loop.run(self._end())
        self._pending = 0

    async def _end(self) -> None:
        tasks = [task for task in self._tasks if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.shut()
