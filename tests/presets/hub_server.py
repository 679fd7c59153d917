"""A Hugging Face Hub in memory, on loopback.

It implements what the `huggingface_hub` client uses over plain HTTP (without Xet): creating
repositories and branches, preupload, the LFS batch with upload and verification, commits, infos, trees,
and files by revision. LFS files come from a second host, which must never receive a token.

    with Hub(tokens={"hf_ada": "ada"}) as hub:
        ...  # hub.url is for HF_ENDPOINT
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "other"}
DATE = "2026-01-02T03:04:05.000Z"


class Hub:
    """The state of the server; a context manager that runs it.

    Args:
        tokens: access tokens, `{token: user}`.

    Attributes:
        repos: `{"user/name": Repo}`.
        objects: files uploaded to LFS, `{sha256: bytes}`.
        requests: all requests, `["GET /api/models/…"]`, in order.
        leaked: whether the storage host received a token.
        die_in_upload: whether the server dies halfway through the next upload to LFS.
        cut_downloads: how many of the next downloads from LFS break off halfway.
    """

    def __init__(self, tokens):
        self.tokens = tokens
        self.repos, self.objects, self.requests = {}, {}, []
        self.leaked = self.die_in_upload = self.dead = False
        self.cut_downloads = 0
        self.lock = threading.Lock()

    def __enter__(self):
        self._hub, self._storage = self._serve(HubHandler), self._serve(StorageHandler)
        self.url, self.storage_url = map(_address, (self._hub, self._storage))
        return self

    def __exit__(self, *error):
        self.die()

    def die(self):
        """Refuses new connections and drops the open ones."""
        self.dead = True
        for server in (self._hub, self._storage):
            server.shutdown()
            server.server_close()

    def _serve(self, handler):
        handler = type(handler.__name__, (handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server


def _address(server):
    return "http://{}:{}".format(*server.server_address)


@dataclasses.dataclass
class File:
    content: bytes
    lfs: bool

    @property
    def sha256(self):
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self):
        size = len(self.content)
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n"
        return text.encode()

    @property
    def git_sha1(self):
        blob = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()


@dataclasses.dataclass
class Commit:
    message: str
    parent: str | None
    files: dict

    @property
    def sha(self):
        tree = sorted((path, file.git_sha1) for path, file in self.files.items())
        return hashlib.sha1(repr((self.message, self.parent, tree)).encode()).hexdigest()


class Repo:
    """Commits by hash, and branches, as in git."""

    def __init__(self, private=False):
        self.private, self.gated = private, False
        self.commits, self.branches = {}, {}
        self.add("main", Commit("initial commit", None, {".gitattributes": File(b"*.h5 lfs\n", False)}))

    def add(self, branch, commit):
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha

    def history(self, branch="main"):
        """The commits of a branch, newest first."""
        sha = self.branches[branch]
        while sha is not None:
            yield (commit := self.commits[sha])
            sha = commit.parent

    def at(self, revision):
        commit = self.commits.get(self.branches.get(revision, revision))
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit


class Refused(Exception):
    """An error response: status, message, the Hub's error code, further headers."""

    def __init__(self, status, message, code=None, body=None, **headers):
        super().__init__(message)
        self.status, self.body = status, body or {"error": message}
        self.headers = {"X-Error-Message": message, **headers}
        if code:
            self.headers["X-Error-Code"] = code


class Handler(BaseHTTPRequestHandler):
    """Answers a request with the `(status, content, headers)` that its route returns."""

    protocol_version = "HTTP/1.1"
    hub = None
    routes = ()

    def answer(self):
        if self.hub.dead:
            self.close_connection = True
            return
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        try:
            for methods, pattern, route in self.routes:
                match = re.fullmatch(pattern, path)
                if match and self.command in methods.split():
                    arguments = map(unquote, match.groups())
                    status, content, headers = route(self, *arguments)
                    break
            else:
                self.body()
                raise Refused(404, f"No route for {self.command} {path}")
        except Refused as refusal:
            status, content, headers = refusal.status, refusal.body, refusal.headers
        if status is None:  # The connection broke off.
            return
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json; charset=utf-8", **headers}
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def break_off(self):
        self.close_connection = True
        self.connection.close()
        return None, None, None

    def handle(self):
        with contextlib.suppress(ConnectionError, ValueError):  # the client may have disconnected
            super().handle()

    def log_message(self, *args):
        pass


class HubHandler(Handler):
    def user(self):
        """The user's name, or `None` without a token."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def repo(self, name, write=False):
        user = self.user()
        owner = user == name.split("/")[0]
        repo = self.hub.repos.get(name)
        if repo is None or repo.private and not owner:
            if user is None:
                # Over HTTPS the client only looks at the status.
                raise Refused(401, "Invalid username or password.", "RepoNotFound")
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write and not owner:
            if user is None:
                raise Refused(401, "Invalid username or password.")
            raise Refused(403, f"Forbidden: you don't have write access to {name}")
        return repo

    def create_repo(self):
        asked = json.loads(self.body())
        user = self.user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        owner, name = asked["organization"] or user, asked["name"]
        if owner != user:
            raise Refused(403, f"You don't have the rights to create a model under {owner!r}")
        name = f"{owner}/{name}"
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repos:
            message = "You already created this model repo"
            raise Refused(409, message, body={"error": message, "url": url})
        # Older clients send `private`.
        self.hub.repos[name] = Repo(asked.get("visibility") == "private" or asked.get("private"))
        return 200, {"url": url, "name": name}, {}

    def create_branch(self, name, branch):
        asked = json.loads(self.body() or b"{}")
        repo = self.repo(name, write=True)
        if branch in repo.branches:
            raise Refused(409, f"Reference already exists: {branch}")
        repo.branches[branch] = repo.at(asked.get("startingPoint", "main")).sha
        return 200, {}, {}

    def validate_yaml(self):
        content = json.loads(self.body())["content"]
        header = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        errors, warnings = [], []
        try:
            data = yaml.safe_load(header[1]) if header else None
        except yaml.YAMLError as error:
            data = errors.append({"message": f"Bad YAML: {error}"})
        if data is None:
            warnings.append({"message": "empty or missing yaml metadata in repo card"})
        elif data.get("license", "other") not in LICENCES:
            errors.append({"message": f'"license" must be one of {sorted(LICENCES)}'})
        return 400 if errors else 200, {"errors": errors, "warnings": warnings}, {}

    def preupload(self, name, revision):
        asked = json.loads(self.body())
        there = self.repo(name, write=True).at(revision).files
        files = []
        for file in asked["files"]:
            path, sample = file["path"], base64.b64decode(file["sample"])
            lfs = path.endswith(".h5") or b"\0" in sample or file["size"] > 10_000_000
            answer = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            if path in there:
                answer["oid"] = there[path].sha256 if lfs else there[path].git_sha1
            files.append(answer)
        return 200, {"files": files}, {}

    def lfs_batch(self, name):
        asked = json.loads(self.body())
        self.repo(name, write=True)
        if asked["operation"] != "upload" or "basic" not in asked["transfers"]:
            raise Refused(400, "Only basic uploads")
        objects = []
        for item in asked["objects"]:
            if item["oid"] not in self.hub.objects:
                item["actions"] = {
                    "upload": {"href": f"{self.hub.storage_url}/{item['oid']}?signature=upload"},
                    "verify": {"href": f"{self.hub.url}/{name}.git/info/lfs/objects/verify"},
                }
            objects.append(item)
        return 200, {"transfer": "basic", "objects": objects}, {}

    def lfs_verify(self, name):
        asked = json.loads(self.body())
        self.repo(name, write=True)
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, f"No object {asked['oid']}")
        return 200, {}, {}

    def commit(self, name, branch):
        lines = [json.loads(line) for line in self.body().splitlines()]
        repo = self.repo(name, write=True)
        parent = repo.at(branch)
        if branch not in repo.branches:
            raise Refused(400, f"{branch} is not a branch")
        files, message = dict(parent.files), ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refused(400, f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = File(self.hub.objects[value["oid"]], lfs=True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise Refused(400, f"Unknown operation {line['key']}")
        new = Commit(message, parent.sha, files)
        repo.add(branch, new)
        url = f"{self.hub.url}/{name}/commit/{new.sha}"
        return 200, {"success": True, "commitOid": new.sha, "commitUrl": url, "hookOutput": ""}, {}

    def info(self, name, revision="main"):
        repo = self.repo(name)
        commit = repo.at(revision)
        sizes = "blobs=" in urlsplit(self.path).query
        return (
            200,
            {
                "_id": "0123456789abcdef01234567",
                "id": name,
                "modelId": name,
                "sha": commit.sha,
                "private": repo.private,
                "gated": "manual" if repo.gated else False,
                "createdAt": DATE,
                "lastModified": DATE,
                "tags": [],
                "siblings": [
                    {"rfilename": path, **({"size": len(file.content)} if sizes else {})}
                    for path, file in commit.files.items()
                ],
            },
            {},
        )

    def tree(self, name, revision):
        files = []
        for path, file in self.repo(name).at(revision).files.items():
            size = len(file.content)
            item = {"type": "file", "oid": file.git_sha1, "size": size, "path": path}
            if file.lfs:
                item["lfs"] = {"oid": file.sha256, "size": size, "pointerSize": len(file.pointer)}
            files.append(item)
        return 200, files, {}

    def resolve(self, name, revision, path):
        repo = self.repo(name)
        if repo.gated:
            raise Refused(401 if self.user() is None else 403, "Access is restricted", "GatedRepo")
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        file = commit.files.get(path)
        if file is None:
            raise Refused(404, "Entry not found", "EntryNotFound", **headers)
        if not file.lfs:
            return 200, file.content, {"ETag": f'"{file.git_sha1}"', **headers}
        headers["X-Linked-Size"] = len(file.content)
        headers["X-Linked-ETag"] = f'"{file.sha256}"'
        headers["Location"] = f"{self.hub.storage_url}/{file.sha256}?signature=download"
        return 302, b"", headers

    routes = (
        ("POST", r"/api/repos/create", create_repo),
        ("POST", r"/api/validate-yaml", validate_yaml),
        ("POST", r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", create_branch),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", preupload),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", commit),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", lfs_batch),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/verify", lfs_verify),
        ("GET", r"/api/models/([^/]+/[^/]+)", info),
        ("GET", r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", info),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", tree),
        ("GET HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", resolve),
    )


class StorageHandler(Handler):
    """The host of the LFS objects: signed URLs, no tokens."""

    def check(self, signature):
        self.hub.leaked |= "Authorization" in self.headers
        if urlsplit(self.path).query != f"signature={signature}":
            raise Refused(403, "SignatureDoesNotMatch")

    def upload(self, oid):
        if self.hub.die_in_upload:
            self.rfile.read(int(self.headers.get("Content-Length", 2)) // 2)
            self.hub.die()
            return self.break_off()
        content = self.body()
        self.check("upload")
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, "BadDigest")
        self.hub.objects[oid] = content
        return 200, b"", {"ETag": f'"{oid}"'}

    def download(self, oid):
        self.check("download")
        content = self.hub.objects[oid]
        headers, status, start = {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}, 200, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked:
            status, start = 206, int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        with self.hub.lock:
            cut = self.hub.cut_downloads > 0
            self.hub.cut_downloads -= cut
        if cut:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : (start + len(content)) // 2])
            return self.break_off()
        return status, content[start:], headers

    routes = (
        ("PUT", r"/([0-9a-f]{64})", upload),
        ("GET HEAD", r"/([0-9a-f]{64})", download),
    )
