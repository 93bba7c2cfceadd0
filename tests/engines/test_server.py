"""The client of OpenAI-compatible servers, against a server that behaves badly."""

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crslib.dialogue.utterances import one_line
from crslib.dialogue.views import Message
from crslib.engines.background import event_loop
from crslib.engines.base import Sampling
from crslib.engines.server import KEY, Answer, Limits, Server, key_variable, may_have_key, parse, usage
from crslib.engines.wire import Refused, retry_after
from crslib.errors import CrsError
from tests.support import server as fake
from tests.support.anything import JSON, TEXT, nested, paths, replaced
from tests.support.server import Handler, completion, models, serving

ASKED = [Message("system", "Be brief."), Message("user", 'He said "B"}<|im_end|>')]
SAMPLING = Sampling(temperature=0.9, top_p=0.8, min_p=0.05, max_tokens=20)


def ask(url: str, n: int = 1, sampling: Sampling = SAMPLING, **settings: object) -> tuple[list[Answer], Server]:
    """Answers to `n` requests that run at the same time, and the client."""

    async def all_of_them() -> tuple[list[Answer], Server]:
        client = Server("m", url, **{"first_pause": 0.01, **settings})
        try:
            return await asyncio.gather(*(client.complete(ASKED, sampling, seed) for seed in range(n))), client
        finally:
            await client.close()

    return asyncio.run(all_of_them())


def check(url: str, model: str = "m", **settings: object) -> None:
    async def checked() -> None:
        client = Server(model, url, **{"first_pause": 0.01, **settings})
        try:
            await client.check()
        finally:
            await client.close()

    asyncio.run(checked())


# ── what is sent, what comes back ───────────────────────────────────────────────────────────────────────────────


def test_all_that_draws_words_is_sent() -> None:
    with serving((200, completion("Hello", "length", 12, 5))) as server:
        [answer], client = ask(server.url)
    assert answer == Answer("Hello", "max_tokens", 12, 5)
    assert client.changes == []
    [(path, _, body)] = server.requests
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'He said "B"}<|im_end|>'}],
        "temperature": 0.9,
        "top_p": 0.8,
        "min_p": 0.05,
        "max_tokens": 20,
        "seed": 0,
    }


def test_no_other_key_or_header_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret1")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "secret2")
    monkeypatch.setenv("OPENAI_ORG_ID", "secret3")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Api-Key: secret4\nAuthorization: Bearer secret5")
    monkeypatch.delenv(KEY, raising=False)
    with serving((200, "Hi")) as server:
        ask(server.url)
        monkeypatch.setenv(KEY, " mine\n")
        ask(server.url)
    without, with_key = (headers for _, headers, _ in server.requests)
    assert "secret" not in str(without) + str(with_key)
    assert "authorization" not in without
    assert with_key["authorization"] == "Bearer mine"


def test_a_key_is_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "sk-123")
    words = json.dumps({"error": {"message": "wrong key sk-123 given"}}).encode()
    with serving((401, words)) as server, pytest.raises(CrsError, match=r"wrong key … given.* variable CRS_API_KEY"):
        ask(server.url)
    monkeypatch.setenv(KEY, "sk 123")
    with pytest.raises(CrsError, match="CRS_API_KEY holds blanks") as caught:
        Server("m", "http://localhost/v1")
    assert "123" not in str(caught.value)


@pytest.mark.parametrize("word", ["none", "ollama", "1234"])
def test_a_word_in_place_of_a_key_may_be_said(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, word)
    with serving((200, f"It is {word}.")) as server:
        [answer], _ = ask(server.url)
    assert answer.text == f"It is {word}."


def test_a_redirect_is_not_followed() -> None:
    with serving((200, "Hi")) as elsewhere, serving((307, b"", {"Location": elsewhere.url})) as server:
        with pytest.raises(CrsError, match=r"answers 307 .* check the address"):
            ask(server.url)
        assert not elsewhere.requests


# ── what is tried again ─────────────────────────────────────────────────────────────────────────────────────────


def test_temporary_failures_are_tried_again() -> None:
    with serving((500, b"oops"), (503, b"{}"), cut_off, without_end, (200, "Hi")) as server:
        [answer], _ = ask(server.url)
    assert answer.text == "Hi"
    assert len(server.requests) == 5


def cut_off(handler: Handler) -> None:
    """Breaks off in the middle of a body whose length was said."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(completion("Hi")[:50])
    handler.wfile.flush()
    handler.connection.close()


def without_end(handler: Handler) -> None:
    """Closes the connection without an answer."""
    handler.connection.close()


def test_the_server_says_when_to_come_back_and_all_requests_wait() -> None:
    times: list[float] = []

    def timed(answer: fake.Answer) -> Callable[[Handler], None]:
        def write(handler: Handler) -> None:
            times.append(time.monotonic())
            handler.reply(answer)

        return write

    async def ask_twice(url: str) -> None:
        client = Server("m", url, first_pause=0.01)
        first = asyncio.create_task(client.complete(ASKED, SAMPLING, 1))
        while not times:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await asyncio.gather(first, client.complete(ASKED, SAMPLING, 2))
        await client.close()

    with serving(timed((429, b"{}", {"Retry-After": "1"})), timed((200, "Hi"))) as server:
        asyncio.run(ask_twice(server.url))
    assert len(times) == 3
    assert min(times[1:]) - times[0] >= 0.9  # the client counts from when it read the answer, by its own clock


def test_a_wait_beyond_the_deadline_is_a_failure_at_once() -> None:
    with serving((429, b"{}", {"Retry-After": "3600"})) as server:
        with pytest.raises(CrsError, match=r"answers 429 .* \(it asks to wait 3600 s, which is too long\)"):
            ask(server.url)
        assert len(server.requests) == 1


@given(st.text(max_size=30))
def test_any_header_is_read(value: str) -> None:
    seconds = retry_after({"retry-after": value})
    assert seconds is None or 0 <= seconds < 1e12


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after({"retry-after": "2"}) == 2
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after({"retry-after": formatdate(time.time() + 100, usegmt=True)}) == pytest.approx(100, abs=2)
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


# ── failures for good ───────────────────────────────────────────────────────────────────────────────────────────


def huge(handler: Handler) -> None:
    """Sends zeros until the client has had enough, at most 1 GB."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(bytes(1 << 20))


def huge_error(handler: Handler) -> None:
    handler.send_response(400)
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(bytes(1 << 20))


def slow(handler: Handler) -> None:
    """A byte at a time, for up to a minute."""
    handler.send_response(200)
    handler.end_headers()
    for byte in completion("Hi" * 300):
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, b"oops"), "answers 500 for the model 'm'; check it and run the same command again"),
        ((401, b"{}"), f"answers 401 .* environment variable {KEY}, which is empty"),
        ((404, b"{}"), "answers 404 .* check the address .* and the name of the model"),
        ((400, b'{"error": {"message": "no\\nsuch"}}'), r"answers 400 for the model 'm' \(no such\); .* another model"),
        ((400, b'{"error": {"message": "maximum context length is 512"}}'), "give the server a longer context"),
        ((200, b"<html>hello</html>"), "no chat completion"),
        ((200, b'{"error": "no"}'), "no chat completion"),
        ((200, b'{"choices": []}'), "no chat completion"),
        ((200, b'{"choices": [{"message": {"content": 3}}]}'), "no chat completion"),
        ((200, b"[1]"), "no chat completion"),
        ((200, b"\xff\xfe"), "no chat completion"),
        ((200, completion("Hi")[:-5]), "no chat completion"),
        ((200, completion(None, "tool_calls")), r"without text \(tool_calls\)"),
        ((200, completion("", "length")), "spent all 20 tokens on thoughts"),
        ((200, completion("Hm", "content_filter")), "withheld its answer"),
        ((200, completion(None, "a\n\x1b[31mb" + "c" * 200)), r"without text \(a \[31mbc{93}\); give"),
        ((200, "word " * 81), "sent 81 words, where max_tokens = 20"),
        ((200, "w" * 801), "sent 801 characters, where max_tokens = 20"),
        ((200, nested(100_000)), "no chat completion"),
        ((200, gzip.compress(completion("Hi")), {"Content-Encoding": "gzip"}), "sent a compressed answer \\('gzip'\\)"),
        ((200, gzip.compress(bytes(1 << 30), 1), {"Content-Encoding": "gzip"}), "sent a compressed answer"),
        (cut_off, "broke off its answer"),
        (without_end, "cannot reach the endpoint"),
        (huge, "sent more than 8 MiB"),
        (huge_error, "answers 400 for the model 'm'; "),
    ],
)
def test_failures_are_one_sentence(answer: fake.Answer, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    with serving(answer) as server, pytest.raises(CrsError, match=message) as caught:
        ask(server.url, retries=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wait", [slow, lambda handler: time.sleep(0.5)], ids=["slow", "silent"])
def test_an_answer_that_takes_too_long_is_a_failure(wait: Callable[[Handler], None]) -> None:
    with serving(wait) as server, pytest.raises(CrsError, match=r"gave no answer within 0\.2 s"):
        ask(server.url, timeout=0.2, retries=1)
    assert len(server.requests) == 2


@pytest.fixture(scope="module")
def worst() -> Iterator[tuple[fake.Server, Server]]:
    """A server of which tests say what it answers next, and its client."""
    with serving((200, "Hi")) as server:
        client = Server("m", server.url)
        yield server, client
        event_loop().run(client.close())


def is_sentence(error: CrsError) -> bool:
    """Whether it is on one line, without signs that a terminal obeys or cannot show."""
    return str(error) == one_line(str(error))


COMPLETION = json.loads(completion("Hi"))


@given(st.sampled_from(paths(COMPLETION)), JSON | TEXT)
def test_any_json_in_any_field_is_an_answer_or_a_sentence(
    worst: tuple[fake.Server, Server], path: tuple[str | int, ...], value: object
) -> None:
    server, client = worst
    server.script = [(200, json.dumps(replaced(COMPLETION, path, value)).encode())]
    try:
        answer = event_loop().run(client.complete(ASKED, SAMPLING, 0))
    except CrsError as error:
        assert is_sentence(error)
    else:
        assert answer.text.encode().decode() == answer.text
        assert min(answer.tokens_in, answer.tokens_out) >= 0


MODELS = json.loads(models("m", "a"))


@given(st.sampled_from(paths(MODELS)), JSON | TEXT)
def test_any_json_in_a_list_of_models_is_read_or_a_sentence(
    worst: tuple[fake.Server, Server], path: tuple[str | int, ...], value: object
) -> None:
    server, client = worst
    server.models, server.script = (200, json.dumps(replaced(MODELS, path, value)).encode()), [(200, "Hi")]
    try:
        event_loop().run(client.check())
    except CrsError as error:
        assert "does not know the model 'm'" in str(error) and is_sentence(error)


@given(st.sampled_from([400, 401, 404, 422]), st.sampled_from(["error", "detail", "message", "other"]), JSON)
def test_any_json_in_an_error_is_a_sentence(
    worst: tuple[fake.Server, Server], status: int, field: str, value: object
) -> None:
    server, client = worst
    server.script = [(status, json.dumps({field: value}).encode())]
    with pytest.raises(CrsError, match=f"answers {status} ") as caught:
        event_loop().run(client.complete(ASKED, SAMPLING, 0))
    assert is_sentence(caught.value)


def test_the_deadline_ends_all_attempts() -> None:
    with serving((500, b"")) as server, pytest.raises(CrsError, match="answers 500"):
        ask(server.url, deadline=0.05, first_pause=0.03, retries=100)
    assert len(server.requests) < 5


def asks_twice(url: str, between: Callable[[], object] = lambda: None, **settings: object) -> list[str]:
    """The words of two answers, the second asked for after `between`."""

    async def both() -> list[str]:
        client = Server("m", url, **{"first_pause": 0.01, **settings})
        try:
            first = await client.complete(ASKED, SAMPLING, 0)
            between()
            return [first.text, (await client.complete(ASKED, SAMPLING, 1)).text]
        finally:
            await client.close()

    return asyncio.run(both())


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_server_that_starts_again_is_waited_for_beyond_its_retries(status: int) -> None:
    gone: list[fake.Answer] = [(status, b"")] * 5
    with serving((200, "Hi"), *gone, (200, "Back")) as server:
        assert asks_twice(server.url, retries=1) == ["Hi", "Back"]
    assert len(server.requests) == 7


def test_a_server_that_is_away_for_some_time_is_waited_for_beyond_its_retries() -> None:
    heard = threading.Event()

    def comes_back() -> None:
        time.sleep(0.3)
        with serving((200, "Back"), port=server.server_port):
            heard.wait(30)

    def goes() -> None:
        server.shutdown()
        server.server_close()
        later.start()

    later = threading.Thread(target=comes_back)
    with serving((200, "Hi")) as server:
        assert asks_twice(server.url, goes, retries=1) == ["Hi", "Back"]
    heard.set()
    later.join()


@pytest.mark.parametrize(
    ("answers", "n_asked"), [([(503, b"")], 2), ([(200, "Hi"), (500, b"")], 3)], ids=["never there", "an error of its"]
)
def test_any_other_server_is_waited_for_as_long_as_its_retries(answers: list[fake.Answer], n_asked: int) -> None:
    with serving(*answers) as server, pytest.raises(CrsError, match="answers 50"):
        asks_twice(server.url, retries=1)
    assert len(server.requests) == n_asked


def test_the_deadline_ends_waiting_for_a_server_that_starts_again() -> None:
    with serving((200, "Hi"), (503, b"")) as server, pytest.raises(CrsError, match="answers 503"):
        asks_twice(server.url, retries=1, deadline=0.2)


def test_an_absent_server_is_a_failure() -> None:
    with pytest.raises(CrsError, match=r"cannot reach the endpoint http://127\.0\.0\.1:9/v1 .*start it"):
        ask("http://127.0.0.1:9/v1", retries=0)


@pytest.mark.parametrize("count", [{"prompt_tokens": -3}, {"prompt_tokens": "x"}, {"prompt_tokens": 10**30}, None])
def test_odd_counts_count_nothing(count: object) -> None:
    body = json.dumps({**json.loads(completion("Hi")), "usage": count}).encode()
    with serving((200, body)) as server:
        [answer], _ = ask(server.url)
    assert answer == Answer("Hi", "end", 0, 0)


# ── parameters that are not supported ───────────────────────────────────────────────────────────────────────────


def refusing(*names: str, words: str = "Unsupported parameter: '{}' is not supported with this model.") -> fake.Answer:
    """A server that refuses requests with parameters `names`."""

    def answer(handler: Handler) -> None:
        body = handler.server.requests[-1][2]
        found = next((name for name in names if name in body), None)
        refusal = json.dumps({"error": {"message": words.format(found)}}).encode()
        handler.reply((400, refusal) if found else (200, "Hi"))

    return answer


def test_unsupported_parameters_are_left_out_and_that_is_said() -> None:
    with serving(refusing("min_p", "seed", "temperature")) as server:
        answers, client = ask(server.url, 2, limits=Limits(1))
    assert [answer.text for answer in answers] == ["Hi", "Hi"]
    assert sorted(client.changes) == [
        f"{name} is left out: the server does not support it" for name in ("min_p", "seed", "temperature")
    ]
    assert len(server.requests) == 5  # three refusals, and then no more of them
    assert set(server.requests[-1][2]) == {"model", "messages", "top_p", "max_tokens"}


def test_max_tokens_has_another_name_on_some_servers() -> None:
    words = "Unsupported parameter: '{}' is not supported with this model. Use 'max_completion_tokens' instead."
    with serving(refusing("max_tokens", words=words)) as server:
        _, client = ask(server.url)
    assert client.changes == ["max_tokens is sent as max_completion_tokens: the server wants it so"]
    assert server.requests[-1][2]["max_completion_tokens"] == 20


def test_the_form_of_fastapi_is_understood() -> None:
    detail = {
        "detail": [{"type": "extra_forbidden", "loc": ["body", "min_p"], "msg": "Extra inputs are not permitted"}]
    }
    with serving((422, json.dumps(detail).encode()), (200, "Hi")) as server:
        _, client = ask(server.url)
    assert client.changes == ["min_p is left out: the server does not support it"]


def test_a_wrong_value_is_not_left_out() -> None:
    with serving(refusing("temperature", words="{} must be at most 0.5")) as server:
        with pytest.raises(CrsError, match="temperature must be at most"):
            ask(server.url)
        assert len(server.requests) == 1


def test_a_server_that_refuses_everything_is_a_failure() -> None:
    with serving((400, b'{"error": "min_p seed top_p temperature max_tokens not supported"}')) as server:
        with pytest.raises(CrsError, match="answers 400"):
            ask(server.url)
        assert len(server.requests) == 5


# ── limits ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_so_many_requests_at_once_and_no_more() -> None:
    with serving((200, "Hi"), pause=0.05) as server:
        ask(server.url, 9, limits=Limits(3))
    assert server.most == 3


def test_requests_and_tokens_per_minute_are_spread() -> None:
    with serving((200, completion("Hi", "stop", 60, 40))) as server:
        begun = time.monotonic()
        ask(server.url, 4, limits=Limits(requests_per_minute=1200))
        assert time.monotonic() - begun >= 3 * 0.05
        begun = time.monotonic()
        ask(server.url, 3, limits=Limits(1, tokens_per_minute=60_000))  # 100 tokens take 0.1 s
        assert time.monotonic() - begun >= 2 * 0.1
    assert len(server.requests) == 7


def test_money_is_counted_where_a_price_is_given() -> None:
    assert usage(2_000_000, 500_000, 0.5, 2) == {"tokens_in": 2_000_000, "tokens_out": 500_000, "price": 2.0}
    assert usage(3, 4) == {"tokens_in": 3, "tokens_out": 4}


# ── opening ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("listed", "model"),
    [(models("a", "m"), "m"), (models("llama3:latest"), "llama3"), (models("models/gemini"), "gemini")],
)
def test_a_known_model_passes_without_a_completion(listed: bytes, model: str) -> None:
    with serving((500, b""), models=(200, listed)) as server:
        check(server.url, model)
    assert not server.requests


@pytest.mark.parametrize("listed", [(404, b"{}"), (200, b"<html>"), (200, b'{"data": []}'), (200, b'{"data": [1]}')])
def test_a_server_that_lists_no_models_is_asked_for_a_word(listed: fake.Answer) -> None:
    with serving((200, completion("", "length")), models=listed) as server:
        check(server.url)
    assert server.requests[0][2]["max_tokens"] == 1
    with serving((404, b"not found"), models=listed) as server, pytest.raises(CrsError, match="often ends in /v1"):
        check(server.url)


@pytest.mark.parametrize(
    ("listed", "model", "message"),
    [
        ((200, models("llama-3.1-8b", "qwen")), "lama-3.1-8b", "does not know .*: did you mean 'llama-3.1-8b'"),
        ((200, models("a\n\x1b[31mb", "c")), "zzz", r"does not know the model 'zzz': it knows a .*b, c$"),
        ((200, models(*map(str, range(12)))), "zzz", "9 and 2 more$"),
        ((401, b"{}"), "m", f"answers 401 .* put its key into the environment variable {KEY}, which is empty"),
        ((500, b"{}"), "m", "answers 500"),
    ],
)
def test_what_is_wrong_is_said_at_opening(
    listed: fake.Answer, model: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    with serving((200, "Hi"), models=listed) as server, pytest.raises(CrsError, match=message) as caught:
        check(server.url, model)
    assert "\x1b" not in str(caught.value)


def test_an_absent_server_is_said_at_opening() -> None:
    with pytest.raises(CrsError, match="cannot reach the endpoint"):
        check("http://127.0.0.1:9/v1")


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("openai:m@http://localhost:8080/v1", ("m", "http://localhost:8080/v1")),
        ("openai:org/m:7b@q4@https://a.b/v1/", ("org/m:7b@q4", "https://a.b/v1")),
        ("openai:m@http://[::1]:80", ("m", "http://[::1]:80")),
    ],
)
def test_a_name_has_a_model_and_an_address(name: str, parts: tuple[str, str]) -> None:
    assert parse(name) == parts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("openai:gpt", "is named openai:MODEL@URL"),
        ("openai:@http://localhost/v1", "is named openai:MODEL@URL"),
        ("openai:m@localhost:8080", "is named openai:MODEL@URL"),
        ("openai:m@http://", "not an HTTP address"),
        ("openai:m@http://a b/v1", "not an HTTP address"),
        ("openai:m@http://a:99999", "not an HTTP address"),
        ("openai:m@http://me:hush@a/v1", "holds a name, a password or a query"),
        ("openai:m@http://me:hush@a:99999/v1", "holds a name, a password or a query"),
        ("openai:m@https://a/v1?key=hush", "holds a name, a password or a query"),
        ("openai:m@http://a\\.b/v1", "not an HTTP address"),
        ("openai:m@http://a%2eb/v1", "not an HTTP address"),
    ],
)
def test_a_wrong_name_is_refused_without_its_password(name: str, message: str) -> None:
    with pytest.raises(CrsError, match=message) as caught:
        parse(name)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "variable", "sent"),
    [
        ("https://api.openai.com/v1", "OPENAI_API_KEY", True),
        ("https://API.OPENAI.com/v1", "OPENAI_API_KEY", True),
        ("http://api.openai.com/v1", "OPENAI_API_KEY", False),
        ("https://api.openai.com.evil.org/v1", "CRS_API_KEY_API_OPENAI_COM_EVIL_ORG", True),
        ("https://evil.org/api.openai.com", "CRS_API_KEY_EVIL_ORG", True),
        ("https://api.my-lab.org:8000/v1", "CRS_API_KEY_API_MY__LAB_ORG", True),
        ("https://api.my.lab.org/v1", "CRS_API_KEY_API_MY_LAB_ORG", True),
        ("https://api.my_lab.org/v1", "CRS_API_KEY_API_MY___LAB_ORG", True),
        ("http://10.0.0.5:8000/v1", "CRS_API_KEY_10_0_0_5", False),
        ("https://[2001:db8::1]/v1", "CRS_API_KEY_2001____DB8________1", True),
        ("http://localhost:11434/v1", "CRS_API_KEY", True),
        ("http://127.0.0.1:8080/v1", "CRS_API_KEY", True),
        ("http://[::1]:8080/v1", "CRS_API_KEY", True),
        ("http://localhost.evil.org/v1", "CRS_API_KEY_LOCALHOST_EVIL_ORG", False),
    ],
)
def test_each_host_has_a_key_of_its_own_and_none_goes_unencrypted(url: str, variable: str, sent: bool) -> None:
    assert (key_variable(url), may_have_key(url)) == (variable, sent)


@given(
    st.lists(st.from_regex(r"[ab]{1,2}(-[ab])?", fullmatch=True), min_size=1, max_size=3), st.text("ab.-_", max_size=8)
)
def test_no_other_host_has_the_variable_of_a_host(labels: list[str], other: str) -> None:
    host = ".".join(labels)
    if other not in (host, ""):
        assert key_variable(f"https://{host}/v1") != key_variable(f"https://{other}/v1")


def test_a_key_is_held_for_its_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (KEY, "OPENAI_API_KEY", f"{KEY}_A_ORG", f"{KEY}_B_ORG"):
        monkeypatch.setenv(name, f"sk-{name}")
    held = {url: Server("m", url)._key for url in ("https://a.org/v1", "http://a.org/v1", "https://c.org/v1")}
    assert held == {"https://a.org/v1": "sk-CRS_API_KEY_A_ORG", "http://a.org/v1": "", "https://c.org/v1": ""}


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a host that cannot be asked here: only its sentence."""
    monkeypatch.setenv(KEY, "sk-mine")
    refused = Refused(401, {}, b"{}")
    assert "variable CRS_API_KEY_C_ORG, which is empty" in Server("m", "https://c.org/v1")._sentence(refused)
    assert "no key is sent unencrypted: give an https address" in Server("m", "http://c.org/v1")._sentence(refused)
