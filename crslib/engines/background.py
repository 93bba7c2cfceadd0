"""An event loop in a thread of its own, for requests that are answered while the caller does something else."""

import asyncio
import functools
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class EventLoop:
    """Runs coroutines in a thread, so also where a loop is running already: in a notebook's kernel."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="crslib requests", daemon=True).start()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Begins a coroutine and returns at once."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine; waits for it and raises what it raises."""
        return self.start(coroutine).result()


@functools.cache
def event_loop() -> EventLoop:
    """The one of this process: so what all requests have in common, such as their limits, holds for all."""
    return EventLoop()
