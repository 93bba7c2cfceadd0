"""What it gains to ask a server for many utterances at once: the same dialogues with one request at a time, and with
several.

Where parameters name no server it is a loopback one that answers each request after a fixed pause, as a model would
that serves many requests in one batch. So the ratio is then that of this program and its connections, not of a model.
"""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from crslib.config import ProfileParameters, SimulationParameters
from crslib.dialogue.prompts import LEAVE
from crslib.engines.background import EventLoop
from crslib.engines.server import is_server
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
) -> list[dict[str, float]]:
    """`n` dialogues with one request at a time, and with `parameters.max_concurrency`. Of each: `at_once`, `seconds`,
    `requests`, `failed` (dialogues), and the server's `tokens_in` and `tokens_out` of both roles.

    The server is that of the parameters' models, if one is on a server, else one that takes `pause` seconds for an
    answer. `progress` counts dialogues. Raises `CrsError` where no dialogue could be made.
    """
    population = Population(**of_data(ProfileParameters(n_profiles=n)).visible)
    population.prepare(parameters)  # before any timing, as is the reader of titles without brackets
    population.catalog.spot("Heat")
    figures = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if not any(is_server(model) for model in (parameters.user_model, parameters.recommender_model)):
            model = f"openai:{MODEL}@{stack.enter_context(answering(pause))}"
            parameters = parameters.model_copy(update={"user_model": model, "recommender_model": model})
        for number, at_once in enumerate((1, parameters.max_concurrency)):

            def report(done: int, of: int, before: int = number * n) -> None:
                progress(before + done, 2 * n)

            how = parameters.model_copy(update={"max_concurrency": at_once})
            begun = perf_counter()
            with open_agents(how, population) as (user, recommender), Run(folder / str(number)).journal() as rows:
                talked = simulate(population, user, recommender, how, rows, report)
            seconds = perf_counter() - begun
            tokens = {
                name: sum(used.get(name, 0) for used in talked.usage.values()) for name in ("tokens_in", "tokens_out")
            }
            counts = {"requests": len(talked.prompts), "failed": len(talked.failures)}
            figures.append({"at_once": at_once, "seconds": round(seconds, 2), **counts, **tokens})
    return figures


def lines(figures: Sequence[Mapping[str, float]], n: int) -> list[str]:
    """The figures of `measure` for `n` dialogues in words."""
    shown = []
    for one in figures:
        per_minute, per_second = 60 * (n - one["failed"]) / one["seconds"], one["tokens_out"] / one["seconds"]
        shown.append(
            f"{one['at_once']:3} at once  {one['seconds']:6.1f} s  {per_minute:6.1f} dialogues a minute, "
            f"{per_second:.0f} tokens a second of {one['requests']} answers"
        )
    first, last = figures
    failed = f"; {first['failed']} and {last['failed']} dialogues failed" if first["failed"] + last["failed"] else ""
    return [*shown, f"ratio {first['seconds'] / last['seconds']:.1f}{failed}"]


@contextlib.contextmanager
def answering(pause: float) -> Iterator[str]:
    """The address of an OpenAI-compatible server on this machine that answers any number of requests at a time, each
    after `pause` seconds."""
    sockets, loop = bind_sockets(0, "127.0.0.1"), EventLoop()
    server = HTTPServer(Application([("/v1/models", _Models), ("/v1/chat/completions", _Chat, {"pause": pause})]))

    async def begin() -> None:
        server.add_sockets(sockets)

    async def end() -> None:
        server.stop()
        await server.close_all_connections()

    loop.run(begin())
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}/v1"
    finally:
        loop.run(end())


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
