"""The real huggingface_hub against a server on this machine: branches, gates, a broken download."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

SHAS = {"main": "a" * 40, "bfloat16": "b" * 40}
WEIGHTS = random.Random(0).randbytes(24 * 2**20)  # the library keeps what it has by tens of MB
FILES: dict[str, dict[str, bytes]] = {
    "open/model": {
        "config.json": b'{"model_type": "paligemma"}',
        "model.safetensors": WEIGHTS,
        "pytorch_model.bin": b"pickle",
        "README.md": b"words",
    },
    "open/model-jax": {"pt.npz": b"wide", "pt.bf16.npz": b"narrow", "tokenizer.model": b"words"},
    "closed/model": {"config.json": b"{}"},
    "open/lora": {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"},
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs. The first answer for large files breaks off."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str, str | None]]
    broken: set[str]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path.strip("/")
        self.asked.append((self.command, path, self.headers.get("Range")))
        if path.startswith("api/models/"):
            self.describe(path.removeprefix("api/models/"))
            return
        repo, _, rest = path.partition("/resolve/")
        _, _, name = rest.partition("/")
        if repo.startswith("closed/"):
            self.refuse(403, "GatedRepo")
        elif name not in FILES.get(repo, {}):
            self.refuse(404, "EntryNotFound")
        else:
            self.send_file(FILES[repo][name], rest.partition("/")[0], body=body)

    def describe(self, path: str) -> None:
        repo = "/".join(path.split("/")[:2])
        what, _, revision = path.removeprefix(repo).strip("/").partition("/")
        if repo not in FILES:
            self.refuse(401, "RepoNotFound")
        elif what == "revision" and revision not in (*SHAS, *SHAS.values()):
            self.refuse(404, "RevisionNotFound")
        elif what == "tree":
            self.send_json(
                [
                    {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                    for n, d in FILES[repo].items()
                ]
            )
        else:
            siblings = [{"rfilename": name} for name in FILES[repo]]
            sha = SHAS.get(revision or "main", revision)
            self.send_json(
                {"id": repo, "modelId": repo, "sha": sha, "siblings": siblings, "tags": []}
            )

    def send_file(self, data: bytes, commit: str, *, body: bool) -> None:
        start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        if len(data) > 1000 and self.path not in self.broken:
            self.broken.add(self.path)
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    def send_json(self, value: object) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    Hub.asked, Hub.broken = [], set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


SCRIPT = """
import json, sys
from heliodor.checkpoints import locate
from heliodor.errors import HeliodorError
for source, options in json.loads(sys.argv[1]):
    try:
        said = {"path": str(locate(source, **options))}
    except HeliodorError as error:
        said = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(said))
"""


def located(
    hub: ThreadingHTTPServer, home: Path, asked: list[tuple[str, dict[str, Any]]], **more: str
) -> list[dict[str, str]]:
    """What a process of its own finds: huggingface_hub reads its settings once."""
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        **more,
    }
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(asked)],
        env=kept | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    return [json.loads(line) for line in out.stdout.splitlines()]


@pytest.mark.slow
def test_downloads_gates_branches_and_a_connection_that_breaks(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    wide, narrow, closed, absent, nowhere, several, one, lora = located(
        hub,
        tmp_path,
        [
            ("open/model", {}),
            ("open/model", {"revision": "bfloat16"}),
            ("closed/model", {}),
            ("open/model", {"revision": "int8"}),
            ("open/nothing", {}),
            ("open/model-jax", {}),
            ("open/model-jax/pt.bf16.npz", {}),
            ("open/lora", {"adapter": True}),
        ],
    )
    folder = Path(wide["path"])
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [
        r for method, path, r in Hub.asked if method == "GET" and path.endswith("nsors") and r
    ]
    assert len(ranges) == 1, "it goes on where it broke off"
    assert int(ranges[0].removeprefix("bytes=").rstrip("-")) >= 10 * 2**20
    assert SHAS["bfloat16"] in narrow["path"]
    assert closed["error"] == "HubError"
    for part in (f"{endpoint}/closed/model", "accept its licence", "hf auth login", "HF_TOKEN"):
        assert part in closed["message"]
    assert f"no revision 'int8': see its branches at {endpoint}/open/model" in absent["message"]
    assert "does not exist, or is private" in nowhere["message"]
    assert several["error"] == "ConfigError"
    assert "holds 2 npz files (pt.bf16.npz, pt.npz): say which" in several["message"]
    assert Path(one["path"]).read_bytes() == b"narrow"
    assert sorted(p.name for p in Path(one["path"]).parent.iterdir()) == [
        "pt.bf16.npz",
        "tokenizer.model",
    ]
    assert len(list(Path(lora["path"]).iterdir())) == 2

    Hub.asked.clear()
    cached, uncached = located(
        hub,
        tmp_path,
        [("open/model", {}), ("closed/model", {})],
        HF_HUB_OFFLINE="1",
    )
    assert cached == wide
    assert "offline mode, or no network" in uncached["message"]
    assert Hub.asked == []
