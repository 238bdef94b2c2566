"""A chat endpoint on this machine that answers as it is told to, and misbehaves on purpose."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any, dict[str, str]]  # status, body (text, or what becomes JSON), headers


def said(text: str | None, tokens: tuple[int, int] = (100, 10), ended: str = "stop") -> Answer:
    """A chat completion."""
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": ended}], "usage": usage}, {}


def wrong(status: int, message: str = "no", **headers: str) -> Answer:
    """An error as OpenAI tells one."""
    return status, {"error": {"message": message}}, headers


@dataclass
class Local:
    """``behave(number, request)`` gives the answer to the request of that number, from 0; None: none comes. ``seen``: (headers,
    body) of each."""

    behave: Callable[[int, dict[str, Any]], Answer | None]
    url: str = ""
    seen: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def texts(self) -> list[str]:
        """What was asked, the user's message of each."""
        return [body["messages"][1]["content"] for _, body in self.seen]


def prefers(reference: float, answer: float, mark: str = "REF") -> Callable[[int, dict[str, Any]], Answer]:
    """A judge that finds the reference answer by a mark in it and scores both, whichever comes first."""

    def behave(number: int, body: dict[str, Any]) -> Answer:
        text = body["messages"][1]["content"]
        first = text.split("[First answer]\n")[1].split("\n[End")[0]
        scores = (reference, answer) if mark in first else (answer, reference)
        return said(f"{scores[0]:g} {scores[1]:g}\nbecause")

    return behave


@contextmanager
def serving(behave: Callable[[int, dict[str, Any]], Answer | None]) -> Iterator[Local]:
    """The endpoint, until the context ends."""
    local = Local(behave)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with local.lock:
                number = len(local.seen)
                local.seen.append((dict(self.headers), body))
            answer = local.behave(number, body) if self.path == "/v1/chat/completions" else wrong(404, self.path)
            if answer is None:
                time.sleep(1.0)
                return
            status, content, headers = answer
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            with suppress(ConnectionError):  # whoever asked was killed, or waits no longer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    local.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield local
    finally:
        server.shutdown()
        server.server_close()
