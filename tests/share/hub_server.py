"""The few routes of the Hugging Face Hub that its client calls to push, list and pull models, on 127.0.0.1."""

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

os.environ["HF_HUB_DISABLE_XET"] = "1"  # its storage is another server; before the import that reads it
from huggingface_hub import ModelCard

Files = dict[str, bytes]


class HubServer(ThreadingHTTPServer):
    """``commits``: the files of each commit of each repository, in order. What is sent as a commit is all or nothing.
    Cards are checked by the Hub's own classes, as the Hub checks them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, dict[str, Files]] = {}
        self.large: dict[str, bytes] = {}  # by SHA-256, as of Git LFS
        self.heard: list[tuple[str, str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repository: str, revision: str) -> tuple[str, Files] | None:
        commits = self.commits.get(repository, {})
        commit = list(commits)[-1] if commits and revision == "main" else revision
        return (commit, commits[commit]) if commit in commits else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        words = path.strip("/").split("/")
        if path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            exists = repository in self.server.commits
            self.server.commits.setdefault(repository, {})
            self._send({"url": f"{self.server.url}/{repository}"}, 409 if exists else 200)
        elif path == "/api/validate-yaml":
            self._send({"errors": _problems(json.loads(body)["content"]), "warnings": []})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = {"actions": {"upload": {"href": f"{self.server.url}/lfs"}}}
            self._send({"transfer": "basic", "objects": [{**one, **upload} for one in objects]})
        elif words[4:5] == ["preupload"]:
            kinds = [(file["path"], file["path"].endswith(".safetensors")) for file in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "lfs" if big else "regular", "shouldIgnore": False} for p, big in kinds]
            self._send({"files": modes})
        elif words[4:5] == ["commit"]:
            self._commit("/".join(words[2:4]), body)
        else:
            self._send({"error": "no such route"}, 404)

    def _commit(self, repository: str, body: bytes) -> None:
        kept = dict((self.server.files(repository, "main") or ("", {}))[1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                kept[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                kept[value["path"]] = self.server.large[value["oid"]]
        commit = hashlib.sha1(body + str(len(self.server.commits[repository])).encode()).hexdigest()
        self.server.commits[repository][commit] = kept
        url = f"{self.server.url}/{repository}/commit/{commit}"
        self._send({"commitUrl": url, "commitOid": commit, "success": True})

    def do_PUT(self) -> None:
        body = self._body()
        self.server.large[hashlib.sha256(body).hexdigest()] = body
        self._send({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        words = unquote(url.path).strip("/").split("/")
        self._body()
        if words == ["api", "models"]:
            (author,) = parse_qs(url.query)["author"]
            found = [self._info(name) for name in self.server.commits if name.startswith(f"{author}/")]
            self._send([one for one in found if one["siblings"]])
        elif words[:2] == ["api", "models"] and "/".join(words[2:4]) in self.server.commits:
            repository, revision = "/".join(words[2:4]), words[5] if words[4:5] in (["revision"], ["tree"]) else "main"
            if (found := self.server.files(repository, revision)) is None:
                return self._send({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
            tree = [{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in found[1].items()]
            self._send(tree if words[4:5] == ["tree"] else self._info(repository, revision))
        elif words[2:3] == ["resolve"] and (found := self.server.files("/".join(words[:2]), words[3])):
            self._send_file(found, "/".join(words[4:]))
        else:
            self._send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _info(self, repository: str, revision: str = "main") -> dict[str, Any]:
        commit, files = self.server.files(repository, revision) or ("", {})
        card = ModelCard(files["README.md"].decode()).data.to_dict() if "README.md" in files else {}
        siblings = [{"rfilename": p, "size": len(c), "blobId": _oid(c)} for p, c in files.items()]
        return {"id": repository, "modelId": repository, "sha": commit, "cardData": card, "siblings": siblings}

    def _send_file(self, found: tuple[str, Files], path: str) -> None:
        commit, files = found
        if path not in files:
            return self._send({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_oid(files[path])}"'}
        self._send_bytes(files[path], 200, headers)

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.heard.append((self.command, self.path, body))
        return body

    def _send(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send_bytes(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send_bytes(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _problems(content: str) -> list[dict[str, str]]:
    try:
        ModelCard(content)
    except ValueError as error:
        return [{"message": str(error)}]
    return []


@contextmanager
def hub() -> Iterator[HubServer]:
    server = HubServer()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
