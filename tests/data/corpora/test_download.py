"""The official file of a corpus: downloaded from a local server, or copied."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from crslib.cli.main import main
from crslib.data.corpora import download
from crslib.data.corpora.download import Corpus, fetch
from crslib.errors import CrsError

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at every path but `/absent`; hangs up after `cut` bytes. `requests`: the paths asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.cut: int | None = None
        self.requests: list[str] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.path == "/absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        serve(monkeypatch, f"http://127.0.0.1:{served.server_port}/a.zip")
        yield served
        served.shutdown()
        thread.join()


def serve(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Makes `tiny`, a corpus whose official file is CONTENT at `url`, the only one."""
    monkeypatch.setattr(download, "CORPORA", {"tiny": Corpus("a.zip", url, SHA256, len(CONTENT), "CC0", "Nobody 1900")})


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    path = fetch("tiny", tmp_path)
    assert path == tmp_path / "tiny" / "a.zip"
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o644
    assert fetch("tiny", tmp_path) == path
    assert server.requests == ["/a.zip"]
    assert [file.name for file in path.parent.iterdir()] == ["a.zip"]


def test_a_damaged_file_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "a.zip").write_bytes(b"damaged")
    assert fetch("tiny", tmp_path).read_bytes() == CONTENT


def test_a_broken_download_leaves_no_file(server: Server, tmp_path: Path) -> None:
    server.cut = 100_000
    with pytest.raises(CrsError, match=r"cannot download http\S+/a\.zip \(\w+\); go online, or give the file"):
        fetch("tiny", tmp_path)
    assert not list((tmp_path / "tiny").iterdir())


def test_a_file_with_another_checksum_is_refused_and_deleted(server: Server, tmp_path: Path) -> None:
    server.content = b"other"
    with pytest.raises(CrsError, match=rf"does not have SHA-256 {SHA256} and was deleted; try again, or .* --path"):
        fetch("tiny", tmp_path)
    assert not list((tmp_path / "tiny").iterdir())


def test_a_missing_file_is_one_sentence(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, f"http://127.0.0.1:{server.server_port}/absent")
    with pytest.raises(
        CrsError, match=r"/absent answers 404 Client Error: Not Found; give the file at hand with --path"
    ):
        fetch("tiny", tmp_path)


def test_being_offline_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    serve(monkeypatch, "http://127.0.0.1:9/a.zip")
    with pytest.raises(CrsError, match=r"cannot download http\S+ \(ConnectionError\); go online, or give the file"):
        fetch("tiny", tmp_path)


def test_a_folder_that_cannot_be_written_is_one_sentence(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CrsError, match="cannot write"):
        fetch("tiny", tmp_path / "file")


def test_a_local_file_is_checked_and_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, "http://127.0.0.1:9/a.zip")
    given = tmp_path / "mine.zip"
    given.write_bytes(CONTENT)
    for path in (given, tmp_path / "data" / "tiny"):  # the second: the folder of the copy itself
        assert fetch("tiny", tmp_path / "data", path).read_bytes() == CONTENT
    given.write_bytes(b"other")
    with pytest.raises(CrsError, match=r"mine\.zip \(5 bytes\) is not the official a\.zip \(256,000 bytes, SHA-256 "):
        fetch("tiny", tmp_path / "data", given)
    with pytest.raises(CrsError, match=r"absent is no file; --path takes a\.zip or the folder that holds it"):
        fetch("tiny", tmp_path / "data", tmp_path / "absent")


def test_the_command_prints_path_licence_and_citation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "mine.zip"
    given.write_bytes(CONTENT)
    serve(monkeypatch, "http://127.0.0.1:9/a.zip")
    monkeypatch.setitem(download.CORPORA, "redial", download.CORPORA["tiny"])
    result = CliRunner().invoke(main, ["data", "fetch", "redial", "--path", str(given), "--to", str(tmp_path / "to")])
    assert result.output == f"{tmp_path / 'to' / 'redial' / 'a.zip'}\nlicence: CC0\ncite: Nobody 1900\n"


def test_an_unknown_corpus_is_named() -> None:
    with pytest.raises(CrsError, match="unknown corpus 'reddial'; known are redial"):
        fetch("reddial", Path("nowhere"))


def test_official_files_have_a_checksum_and_come_by_https() -> None:
    for corpus in download.CORPORA.values():
        assert corpus.url.startswith("https://")
        assert len(corpus.sha256) == 64
