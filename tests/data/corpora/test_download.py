import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crslib.data.corpora import download
from crslib.data.corpora.download import Corpus, File, fetch
from crslib.errors import CrsError

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; `ranges`: if it knows them; `cut`: it hangs up after so many bytes; `seen`: what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ranges, self.content = True, CONTENT
        self.cut: int | None = None
        self.seen: list[tuple[str, str | None]] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.seen.append((self.path, wanted))
        if self.path == "/absent":
            self.send_error(404)
            return
        content = self.server.content
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def file(server: Server, path: str = "/a.zip", **known: object) -> File:
    given = {"sha256": SHA256, "size": len(CONTENT)} | known
    return File("a.zip", f"http://127.0.0.1:{server.server_port}{path}", **given)  # type: ignore[arg-type]


def corpus(monkeypatch: pytest.MonkeyPatch, *files: File) -> None:
    monkeypatch.setattr(download, "CORPORA", {"tiny": Corpus(files, "CC0", "nobody")})


def test_a_file_comes_in_once_and_is_told_of(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(monkeypatch, file(server))
    told: list[tuple[int, int]] = []
    path = fetch("tiny", tmp_path, progress=lambda done, total: told.append((done, total)))
    assert path == tmp_path / "tiny" / "a.zip"
    assert path.read_bytes() == CONTENT
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert fetch("tiny", tmp_path) == path
    assert server.seen == [("/a.zip", None)]
    assert [one.name for one in path.parent.iterdir()] == ["a.zip"]


def test_several_files_are_a_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = file(server).url
    corpus(monkeypatch, File("train.tsv", url), File("dev.tsv", url))
    assert fetch("tiny", tmp_path) == tmp_path / "tiny"
    assert sorted(one.name for one in (tmp_path / "tiny").iterdir()) == ["dev.tsv", "train.tsv"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_ended(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.cut, server.ranges = 100_000, ranges
    with pytest.raises(CrsError, match=r"broke off after 100,000 of 256,000 bytes; run the same again"):
        download.download(file(server), tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
    assert (tmp_path / "a.zip.part").stat().st_size == 100_000
    server.cut = None
    begun: list[int] = []
    download.download(file(server), tmp_path / "a.zip", lambda done, total: begun.append(done))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.seen[1][1] == "bytes=100000-"
    assert begun[0] == (100_000 if ranges else 0)
    assert not (tmp_path / "a.zip.part").exists()


def test_a_part_that_is_whole_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    download.download(file(server), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_another_content_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    wrong = hashlib.sha256(b"").hexdigest()
    with pytest.raises(CrsError, match=rf"has SHA-256 {SHA256} instead of {wrong}; run the same again"):
        download.download(file(server, sha256=wrong), tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CrsError, match="has 256,000 bytes instead of 7"):
        download.download(file(server, size=7), tmp_path / "a.zip")
    # A part of something else is found out at the end, and the next call starts anew.
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    with pytest.raises(CrsError, match="instead of"):
        download.download(file(server), tmp_path / "a.zip")
    download.download(file(server), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_offline_and_refused_are_told_in_one_sentence(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"/absent answers 404 Not Found; give the file at hand with --path"):
        download.download(file(server, "/absent"), tmp_path / "a.zip")
    server.server_close()
    gone = File("a.zip", "http://127.0.0.1:9/a.zip", SHA256)
    with pytest.raises(
        CrsError, match=r"cannot reach http.*refused\); go online, or give the file at hand with --path"
    ):
        download.download(gone, tmp_path / "a.zip")


def test_a_file_at_hand_is_checked_and_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(monkeypatch, File("a.zip", "http://127.0.0.1:9/a.zip", SHA256))
    given = tmp_path / "mine.zip"
    given.write_bytes(CONTENT)
    for path in (given, tmp_path / "data" / "tiny"):  # the second: the copy itself, by its folder
        assert fetch("tiny", tmp_path / "data", path).read_bytes() == CONTENT
    given.write_bytes(b"other")
    with pytest.raises(CrsError, match=r"mine\.zip has SHA-256 .* instead of .*; give the official a\.zip from http"):
        fetch("tiny", tmp_path / "data", given)
    with pytest.raises(CrsError, match=r"absent is no file; --path takes a\.zip"):
        fetch("tiny", tmp_path / "data", tmp_path / "absent")


def test_an_unknown_corpus_is_named() -> None:
    with pytest.raises(CrsError, match="unknown corpus 'reddial'; known are redial, inspired, ccpe"):
        fetch("reddial", Path("nowhere"))


def test_every_file_is_pinned() -> None:
    for corpus in download.CORPORA.values():
        for one in corpus.files:
            assert one.url.startswith("https://")
            assert one.sha256 or any(len(part) == 40 for part in one.url.split("/")), one.url
