"""The thread that feeds prompts while the engines take steps."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Feeder:
    """One thread that does the jobs of the engines that share it, one at a time and in order."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "feeder")
        self._jobs: set[Future[Any]] = set()

    @property
    def busy(self) -> bool:
        """Whether a job is in progress or waits. False stays False until the next `submit`."""
        return bool(self._jobs)

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Queues the job `work(*arguments)`. Its future can be cancelled until the thread begins it."""
        job = self._thread.submit(work, *arguments)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job

    def close(self) -> None:
        """Cancels the jobs that wait and ends the thread."""
        self._thread.shutdown(cancel_futures=True)
