"""A local server that answers as the Hugging Face Hub's HTTP API does, as far as Ludus uses it."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import unquote, urlparse


class HubStandIn:
    """Repositories in memory, each a list of commits, which are files by name."""

    def __init__(self):
        self.repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: dict[str, bool] = {}
        self.gated: set[str] = set()
        self.requests: list[str] = []
        hub = self

        class Handler(_Handler):
            stand_in: ClassVar[HubStandIn] = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def commit(self, repo, files):
        """Add a commit with exactly these files; return its hash."""
        commits = self.repositories.setdefault(repo, [])
        sha = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits.append((sha, files))
        return sha

    def close(self):
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    stand_in: ClassVar[HubStandIn]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status, content=b"", headers=()):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if "Content-Length" not in dict(headers):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _missing(self, what):
        self._answer(404, {"error": what}, [("X-Error-Code", what), ("X-Error-Message", what)])

    def _files(self, repo, revision):
        """Return hash and files of a revision; None if there is none."""
        commits = self.stand_in.repositories.get(repo)
        if not commits:
            return None
        if revision in ("main", None):
            return commits[-1]
        return next((c for c in commits if c[0] == revision), None)

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        self.stand_in.requests.append(f"{self.command} {path}")
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if info and info[1] in self.stand_in.gated:
            code = [("X-Error-Code", "GatedRepo"), ("X-Error-Message", "Access is restricted.")]
            return self._answer(403, {"error": "Access is restricted."}, code)
        if info:
            found = self._files(info[1], info[3])
            if found is None:
                known = info[1] in self.stand_in.repositories
                return self._missing("RevisionNotFound" if known else "RepoNotFound")
            sha, files = found
            sizes = {name: len(content) for name, content in files.items()}
            if info[2] == "tree":
                tree = [
                    {"type": "file", "path": n, "size": s, "oid": "0" * 40}
                    for n, s in sizes.items()
                ]
                return self._answer(200, tree)
            siblings = [{"rfilename": n, "size": s} for n, s in sizes.items()]
            return self._answer(200, {"id": info[1], "sha": sha, "siblings": siblings})
        if resolve:
            found = self._files(resolve[1], resolve[2])
            if found is None or resolve[3] not in found[1]:
                return self._missing("EntryNotFound")
            content = found[1][resolve[3]]
            tag = hashlib.sha1(content).hexdigest()
            headers = [("X-Repo-Commit", found[0]), ("ETag", f'"{tag}"')]
            headers.append(("Content-Length", str(len(content))))
            return self._answer(200, content, headers)
        return self._missing("EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self):
        path = urlparse(self.path).path
        self.stand_in.requests.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "Bearer " not in (self.headers.get("Authorization") or ""):
            return self._answer(401, {"error": "no token"})
        if path == "/api/repos/create":
            given = json.loads(body)
            repo = f"{given['organization']}/{given['name']}"
            if repo not in self.stand_in.repositories:
                self.stand_in.commit(repo, {".gitattributes": b""})
            self.stand_in.private[repo] = given.get("visibility") == "private"
            return self._answer(200, {"url": f"{self.stand_in.url}/{repo}", "name": repo})
        named = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if named and named[2] == "preupload":
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            return self._answer(200, {"files": modes})
        if named:
            repo = named[1]
            commits = self.stand_in.repositories[repo]
            files = dict(commits[-1][1]) if commits else {}
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    files.pop(line["value"]["path"], None)
            sha = self.stand_in.commit(repo, files)
            url = f"{self.stand_in.url}/{repo}/commit/{sha}"
            return self._answer(200, {"commitUrl": url, "commitOid": sha, "success": True})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        return self._missing("EntryNotFound")
