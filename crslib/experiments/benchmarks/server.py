"""What it gains to ask a server for many utterances at once: the same dialogues with one request at a time, and with
several.

The server is a loopback one that answers each request after a fixed pause, as a model would that serves many requests
in one batch. So the ratio is that of this program and its connections, not of a model.
"""

import asyncio
import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from crslib.config import ProfileParameters, SimulationParameters
from crslib.dialogue.prompts import LEAVE
from crslib.files import Progress, no_progress
from crslib.simulation.loop import simulate
from crslib.simulation.opening import open_agents
from crslib.simulation.population import Population
from crslib.store import Run
from crslib.users.profiles import of_data

MODEL = "echo"
_TURNS = 12  # messages after which the server's user leaves


def measure(
    parameters: SimulationParameters, n: int, pause: float, progress: Progress = no_progress
) -> dict[str, float]:
    """`seconds_one` and `seconds_many` of `n` dialogues, with one request at a time and with
    `parameters.max_concurrency`; `ratio` of the two; `requests` of either.

    `pause`: seconds that the server takes for an answer. `progress` counts dialogues.
    """
    population = Population(**of_data(ProfileParameters(n_profiles=n)).visible)
    _ = population.catalog.spot("Heat"), population.prior, population.opinions, population.sha256  # before any timing
    seconds: list[float] = []
    with answering(pause) as url, tempfile.TemporaryDirectory() as folder:
        both = {f"{role}_model": f"openai:{MODEL}@{url}" for role in ("user", "recommender")}
        for number, at_once in enumerate((1, parameters.max_concurrency)):

            def report(done: int, of: int, before: int = number * n) -> None:
                progress(before + done, 2 * n)

            how = parameters.model_copy(update={**both, "max_concurrency": at_once})
            begun = perf_counter()
            with open_agents(how, population) as (user, recommender), Run(Path(folder) / str(number)).journal() as rows:
                talked = simulate(population, user, recommender, how, rows, report)
            seconds.append(perf_counter() - begun)
    one, many = seconds
    return {"seconds_one": one, "seconds_many": many, "ratio": one / many, "requests": float(len(talked.prompts))}


@contextlib.contextmanager
def answering(pause: float) -> Iterator[str]:
    """The address of an OpenAI-compatible server on this machine that answers any number of requests at a time, each
    after `pause` seconds."""
    sockets = bind_sockets(0, "127.0.0.1")
    started, loop = threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        server = HTTPServer(Application([("/v1/models", _Models), ("/v1/chat/completions", _Chat, {"pause": pause})]))
        server.add_sockets(sockets)
        started.set()

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Models(RequestHandler):
    def get(self) -> None:
        self.finish({"object": "list", "data": [{"id": MODEL, "object": "model"}]})


class _Chat(RequestHandler):
    def initialize(self, pause: float) -> None:
        self._pause = pause

    async def post(self) -> None:
        asked = json.loads(self.request.body)
        await asyncio.sleep(self._pause)
        n = len(asked["messages"])
        text = f"That would be number {asked['seed'] % 1000} for me. " + (
            LEAVE if n > _TURNS else "What else is there?"
        )
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 20 * n, "completion_tokens": 12, "total_tokens": 20 * n + 12}
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": MODEL}
        self.finish({**head, "choices": [choice], "usage": usage})
