"""A stand-in for the W&B server on loopback: what the real client sends it, exactly as sent."""

import json
import os
import re
import socket
import struct
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import matplotlib
import pytest

KEY = "0123456789abcdef" * 2 + "01234567"  # 40 digits, like a real one


@dataclass
class ServedRun:
    """One run as the server knows it.

    `sent` holds the history rows with their line numbers in the order they came, also those that
    came twice. `rows` is the history they make: a row belongs to its `_step`, and one that comes
    again replaces it, which is what `wandb sync` relies on.
    """

    info: dict[str, Any] = field(default_factory=dict)  # of every UpsertBucket so far
    sent: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    lines: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows = {row["_step"]: row for _, row in self.sent}
        return [rows[step] for step in sorted(rows)]

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.lines["wandb-summary.json"]
        return json.loads(lines[max(lines)]) if lines else {}

    @property
    def config(self) -> dict[str, Any]:
        config = json.loads(self.info.get("config") or "{}")
        return {key: item["value"] for key, item in config.items() if key != "_wandb"}

    def resume_status(self) -> dict[str, Any]:
        """What a client that resumes the run is told."""
        count = {name: 1 + max(lines, default=-1) for name, lines in self.lines.items()}
        tail = {name: [lines[max(lines)]] for name, lines in self.lines.items() if lines}
        return {
            "summaryMetrics": json.dumps(self.summary),
            "historyLineCount": count.get("wandb-history.jsonl", 0),
            "eventsLineCount": count.get("wandb-events.jsonl", 0),
            "logLineCount": count.get("output.log", 0),
            "historyTail": json.dumps(tail.get("wandb-history.jsonl", [])),
            "eventsTail": json.dumps(tail.get("wandb-events.jsonl", [])),
            "config": self.info["config"],
            "wandbConfig": json.dumps({"t": 1}),
            "tags": self.info.get("tags") or [],
        }


@dataclass
class Artifact:
    """An artifact, with the files that were uploaded for it."""

    info: dict[str, Any]  # of CreateArtifact
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False

    @property
    def id(self) -> str:
        return self.info["artifactCollectionName"]

    def description(self) -> dict[str, Any]:
        """What a client that asks for the artifact is told."""
        project = {"id": "p", "internalId": "1", "name": self.info["projectName"]}
        project |= {"entity": {"name": self.info["entityName"]}}
        return {
            "__typename": "Artifact",
            "id": self.id,
            "artifactSequence": {
                "__typename": "ArtifactSequence",
                "name": self.id,
                "project": project,
            },
            "artifactType": {"name": self.info["artifactTypeName"]},
            "versionIndex": 0,
            "state": "COMMITTED" if self.committed else "PENDING",
            "createdAt": "2025-01-01T00:00:00",
            "digest": self.info["digest"],
            "commitHash": "c",
            "fileCount": len(self.files),
            "size": sum(map(len, self.files.values())),
            "tags": [],
            "aliases": [],
            **dict.fromkeys(("description", "metadata", "historyStep", "updatedAt")),
            "ttlDurationSeconds": -1,
            "ttlIsInherited": True,
        }


class WandbServer(ThreadingHTTPServer):
    """Serves on a free port of the loopback interface, in threads, inside a `with`.

    `runs` and `artifacts` are what it was given, by id and by name. `received` is every request in
    full but for the Authorization header; `keys` is what those headers held. An agent is given
    one cell of `sweep`, the first, as the run `agents1`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, ServedRun] = defaultdict(ServedRun)
        self.artifacts: dict[str, Artifact] = {}
        self.received: list[bytes] = []
        self.keys: set[str] = set()
        self.met: set[str] = set()  # kinds of failures that a request has met
        self.sweep: dict[str, Any] = {}
        self.refused: set[str] = set()  # operations that are answered with an error
        self.lock = threading.Lock()
        self._outage: tuple[str, float] = ("", 0.0)

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def fail(self, how: Literal["reset", "503", "hang"], seconds: float) -> None:
        """From now on, for some seconds, resets connections, answers 503, or answers nothing."""
        self._outage = (how, time.monotonic() + seconds)

    @property
    def outage(self) -> tuple[str, float]:
        how, ends = self._outage
        left = ends - time.monotonic()
        return (how, left) if left > 0 else ("", 0.0)

    def graphql(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """The `data` of an answer; whatever is not known here has no project and no artifact."""
        entity = {"id": "e", "name": "someone"}
        match operation:
            case "Viewer":
                viewer = {"id": "v", "entity": "someone", "username": "someone", "flags": "{}"}
                return {"viewer": viewer}
            case "RunResumeStatus":
                name = given["name"]
                identity = {"id": name, "name": name}
                bucket = identity | self.runs[name].resume_status() if name in self.runs else None
                project = {"id": "p", "name": given["project"], "entity": entity}
                return {"model": project | {"bucket": bucket}}
            case "UpsertBucket":
                run = self.runs[given.get("name") or given["id"]]
                run.info |= {key: value for key, value in given.items() if value is not None}
                bucket = {"id": run.info["name"], "name": run.info["name"]}
                bucket |= {"displayName": run.info.get("displayName")}
                bucket |= {"project": {"id": "p", "name": run.info["project"], "entity": entity}}
                bucket |= {"sweepName": run.info.get("sweep")}
                bucket |= {"historyLineCount": run.resume_status()["historyLineCount"]}
                return {"upsertBucket": {"bucket": bucket, "inserted": True}}
            case "CreateRunFiles":
                url = f"{self.url}/storage/run/{given['run']}"
                files = [{"name": name, "uploadUrl": f"{url}/{name}"} for name in given["files"]]
                return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
            case "CreateArtifact":
                artifact = Artifact(given["input"])
                self.artifacts[artifact.id] = artifact
                created = {"id": artifact.id, "state": "PENDING", "artifactSequence": {"id": "s"}}
                return {"createArtifact": {"artifact": created}}
            case "CreateArtifactManifest":
                url = f"{self.url}/storage/artifact/{given['artifactID']}/{given['name']}"
                file = {"id": "f", "uploadUrl": url, "uploadHeaders": []}
                return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
            case "CreateArtifactFiles":
                edges = []
                for file in given["input"]["artifactFiles"]:
                    owner = file["artifactID"]
                    url = f"{self.url}/storage/artifact/{owner}/{file['name']}"
                    node = {"uploadUrl": url, "uploadHeaders": [], "artifact": {"id": owner}}
                    edges.append({"node": node})
                return {"createArtifactFiles": {"files": {"edges": edges}}}
            case "CommitArtifact":
                self.artifacts[given["artifactID"]].committed = True
                return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}
            case "ArtifactByID":
                return {"artifact": self.artifacts[given["id"]].description()}
            case "SweepWithRuns":
                sweep = {"config": json.dumps(self.sweep), "runs": {"edges": []}}
                return {"project": {"sweep": sweep}}
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": "a"}}}
            case "Heartbeat":
                commands = [] if json.loads(given["runState"]) else [self.next_command()]
                return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}}
        return {"project": None, "artifact": None}

    def next_command(self) -> dict[str, Any]:
        """What an agent is to do next: the sweep's only cell, and then nothing more."""
        if "agents1" in self.runs:
            return {"type": "exit"}
        values = {name: {"value": x["values"][0]} for name, x in self.sweep["parameters"].items()}
        program = self.sweep["program"]
        return {"type": "run", "run_id": "agents1", "program": program, "args": values}

    def stream(self, run: ServedRun, update: dict[str, Any]) -> None:
        """Takes one file_stream request."""
        for name, chunk in update.get("files", {}).items():
            for line, text in enumerate(chunk["content"], start=chunk["offset"]):
                run.lines[name][line] = text
                if name == "wandb-history.jsonl":
                    run.sent.append((line, json.loads(text, parse_constant=str)))
        run.exit_code = update.get("exitcode", run.exit_code)

    def store(self, kind: str, owner: str, name: str, content: bytes) -> None:
        """Takes one uploaded file."""
        owners: dict[str, Any] = self.runs if kind == "run" else self.artifacts
        owners[owner].files[name] = content


def isolate(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Makes a user who has never heard of W&B, in an empty home directory."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MPLCONFIGDIR", str(Path(matplotlib.get_cachedir())))
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home.parent)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        how, left = self.server.outage
        self.server.met.add(how)
        if how == "hang":
            time.sleep(left)
        if how == "reset":
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        if how == "503":
            self._answer({}, 503)
            return
        self.server.keys.add(self.headers.get("Authorization", ""))
        del self.headers["Authorization"]
        with self.server.lock:
            head = f"{self.requestline}\n{self.headers}"
            self.server.received.append(head.encode() + body)
            data = self._take(unquote(self.path), body)
        self._answer(data, 200)

    do_GET = do_POST = do_PUT = _serve

    def _take(self, path: str, body: bytes) -> dict[str, Any]:
        if path.endswith("/graphql"):
            request = json.loads(body)
            found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            operation = found[1] if found else ""
            if operation in self.server.refused:
                return {"data": None, "errors": [{"message": f"no {operation} today"}]}
            return {"data": self.server.graphql(operation, request.get("variables") or {})}
        if match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            self.server.stream(self.server.runs[match[1]], json.loads(body))
        elif match := re.fullmatch(r"/storage/(\w+)/([^/]+)/(.+)", path):
            self.server.store(match[1], match[2], match[3], body)
        return {"data": {}}

    def _answer(self, content: dict[str, Any], code: int) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: object) -> None:
        """Keeps the tests' output clean."""
