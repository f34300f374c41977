"""Download and unpack published files from a local server."""
import io
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from data.language import WordVectors
from prepare.download import fetch, main, unpack
from storage.checkpoint import find_source, read_state
from tests.toy import ROOT, refusal
from utils import InputError

CONTENT = bytes(range(256)) * 1000


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path and records the requested ranges."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/file": CONTENT}
        self.asked: list[str | None] = []
        self.knows_ranges, self.cut, self.kind = True, 0, "application/octet-stream"

    def address(self, name: str = "file") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted, content = self.headers["Range"], self.server.files.get(self.path)
        self.server.asked.append(wanted)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted[6:-1]) if wanted and self.server.knows_ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", self.server.kind)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:len(content) - self.server.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_partial_download_resumes_if_the_server_knows_ranges(server: Server, tmp_path: Path) -> None:
    server.cut = 1000
    with pytest.raises(InputError, match=r"kept in .*file\.part"):
        fetch(server.address(), tmp_path / "file")
    assert not (tmp_path / "file").exists()
    server.cut = 0
    assert fetch(server.address(), tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={len(CONTENT) - 1000}-"]

    (tmp_path / "other.part").write_bytes(b"other bytes")
    server.knows_ranges = False
    assert fetch(server.address(), tmp_path / "other").read_bytes() == CONTENT
    assert server.asked[2:] == ["bytes=11-"]


def test_wrong_files_and_what_the_network_answers_are_reported(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its sha256 is"):
        fetch(server.address(), tmp_path / "file", "0" * 64)
    assert list(tmp_path.iterdir()) == []

    with pytest.raises(InputError, match="404 Not Found"):
        fetch(server.address("nothing"), tmp_path / "file")
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(InputError, match="sent a web page"):
        fetch(server.address(), tmp_path / "file")
    with pytest.raises(InputError, match="cannot be downloaded"):
        fetch("http://127.0.0.1:1/file", tmp_path / "file")


def make_zip(path: Path, files: dict[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("make", "name", "more"), [
    (make_zip, "/evil", ()), (make_zip, "a/../../evil", ()), (make_zip, "link", (stat.S_IFLNK,)),
    (make_tar, "../evil", ()), *((make_tar, "link", (kind,)) for kind in (tarfile.SYMTYPE, tarfile.FIFOTYPE))])
def test_a_member_outside_is_refused_at_once(tmp_path: Path, make: Callable[..., Path], name: str, more: tuple) -> None:
    archive = make(tmp_path / "archive", {"good.txt": b"", name: b""}, *more)
    with pytest.raises(InputError, match="a link, a device or outside"):
        unpack(archive, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [archive]


def run_shell(name: str, *arguments: object, cwd: Path) -> str:
    command = ["bash", ROOT / "prepare" / name, *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, env=os.environ | {"PYTHON": sys.executable}, capture_output=True,
                            text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_word_vectors_are_fetched_to_where_they_are_looked_for(server: Server, tmp_path: Path) -> None:
    WordVectors(["unk", "walk"], np.arange(6).reshape(2, 3)).save(tmp_path / "made", pickles=True)
    files = {f"glove/{path.name}": path.read_bytes() for path in (tmp_path / "made").iterdir()}
    server.files["/glove.zip"] = make_zip(tmp_path / "glove.zip", files | {"__MACOSX/._x": b""}).read_bytes()
    told = run_shell("download_glove.sh", "--source", server.address("glove.zip"), cwd=tmp_path)
    assert "our_vab_data.npy, our_vab_idx.pkl" in told
    assert WordVectors.load(tmp_path / "glove").vector("walk").tolist() == [3, 4, 5]
    assert all(path.name.startswith("our_vab_") for path in (tmp_path / "glove").iterdir())


@pytest.mark.parametrize(("flags", "told"), [
    ((), "set --source to the address in prepare/download_glove.sh of MoMask"),
    (("--source", "empty.zip"), "empty.zip does not contain our_vab_data.npy"),
])
def test_what_cannot_be_fetched_is_reported(tmp_path: Path, flags: tuple[str, ...], told: str) -> None:
    make_zip(tmp_path / "empty.zip", {"a": b""})
    assert told in refusal(main, "glove", *flags, cwd=tmp_path)


def torch_file(content: object) -> bytes:
    made = io.BytesIO()
    torch.save(content, made)
    return made.getvalue()


def test_published_models_are_fetched_bare_or_packed_and_named(server: Server, tmp_path: Path) -> None:
    weights = {"trans": {"a": torch.arange(3)}}
    packed = make_tar(tmp_path / "t2m.tar", {"LaMP/readme.txt": b"", "LaMP/net_best_fid.tar": torch_file(weights)})
    server.files |= {"/vq.tar": torch_file({"net": {"b": torch.ones(2)}}), "/t2m.tar": packed.read_bytes()}
    home = tmp_path / "checkpoints" / "t2m"
    (home / "lamp_vq").mkdir(parents=True)
    (home / "lamp_vq" / "opt.txt").write_text("mine")
    run_shell("download_models.sh", "lamp_vq", "lamp_t2m", "--base", server.address(""), cwd=tmp_path)
    assert {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()} == {
        "lamp_vq/opt.txt", "lamp_vq/model/latest.tar", "lamp_t2m/opt.txt", "lamp_t2m/model/latest.tar"}
    assert (home / "lamp_vq" / "opt.txt").read_text() == "mine"
    source = find_source("lamp_t2m", "t2m", tmp_path / "checkpoints")
    assert source.needed("vq_name") == "lamp_vq"
    assert read_state(source.file, ("trans",))["a"].tolist() == [0, 1, 2]
