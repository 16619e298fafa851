"""A hub of models on this machine: the answers that huggingface_hub reads, over real HTTP, with the errors of the real one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)


@dataclass
class Hub:
    """Repositories (id -> path -> content) and what was asked for; the files of ``gated`` ones are not given away."""

    repositories: Mapping[str, Mapping[str, bytes]]
    gated: frozenset[str] = frozenset()
    url: str = ""
    downloads: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a GET."""
        steps = path.partition("?")[0].strip("/").split("/")
        if steps[:2] == ["api", "models"]:
            repository, revision = "/".join(steps[2:4]), steps[5]
            if error := self._refused(repository, revision):
                return error
            files = self.repositories[repository]
            if steps[4] == "revision":
                return _json({"id": repository, "modelId": repository, "sha": COMMIT, "tags": [], "siblings": []})
            return _json([{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in files.items()])
        repository, revision, file = "/".join(steps[:2]), steps[3], "/".join(steps[4:])
        if error := self._refused(repository, revision):
            return error
        if repository in self.gated:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}, b""
        content = self.repositories[repository][file]
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{_oid(content)}"'}, content

    def _refused(self, repository: str, revision: str) -> tuple[int, dict[str, str], bytes] | None:
        if repository not in self.repositories:  # what the real hub answers who is logged in, and who is not
            return (404, {"X-Error-Code": "RepoNotFound"}, b"") if "unknown" in repository else (401, {}, b"")
        if revision not in REVISIONS:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        return None


def _json(value: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run a hub on a free port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(body=True)

        def do_HEAD(self) -> None:
            self._send(body=False)

        def _send(self, *, body: bool) -> None:
            status, headers, content = hub.answer(self.path)
            if body and "/resolve/" in self.path:
                hub.downloads.append(self.path.rpartition("/resolve/")[2].partition("/")[2])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  (the name is that of the base class)
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
