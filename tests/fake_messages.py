"""A Messages endpoint on loopback that answers by rule and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"input_tokens": 100, "output_tokens": 50}


@dataclass
class Fake:
    """usage: what each answer claims. fail: statuses for the next requests. cut: end streams before their last events.

    hold_s, drip_s: seconds before each answer, and between the events of a stream. bodies, headers: what came in.
    """

    url: str = ""
    usage: dict[str, Any] = field(default_factory=lambda: dict(USAGE))
    fail: list[int] = field(default_factory=list)
    cut: bool = False
    hold_s: float = 0.0
    drip_s: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body.get("model", "")}
        text = [{"type": "text", "text": "fine"}]
        return message | {"content": text, "stop_reason": "end_turn", "stop_sequence": None, "usage": self.usage}

    def events(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        start = self.answer(body) | {"content": [], "stop_reason": None, "usage": {**self.usage, "output_tokens": 1}}
        out = {"output_tokens": self.usage["output_tokens"]}
        events = [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "fine"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": out},
            {"type": "message_stop"},
        ]
        return events[:3] if self.cut else events


def _handler(fake: Fake) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            fake.paths.append(self.path)
            self._send(200, {"data": [{"id": "served-model", "type": "model"}], "has_more": False})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            fake.bodies.append(body)
            fake.paths.append(self.path)
            fake.headers.append({k.lower(): v for k, v in self.headers.items()})
            time.sleep(fake.hold_s)
            if fake.fail:
                self._send(fake.fail.pop(0), {"type": "error", "error": {"type": "api_error", "message": "no"}})
            elif self.path.endswith("/count_tokens"):
                self._send(200, {"input_tokens": 100})
            elif body.get("stream"):
                lines = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in fake.events(body)]
                self._send(200, "".join(lines).encode(), "text/event-stream")
            else:
                self._send(200, fake.answer(body))

        def _send(self, status: int, body: Any, kind: str = "application/json") -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            parts = data.split(b"\n\n") if fake.drip_s else [data]
            try:
                for number, part in enumerate(parts):
                    self.wfile.write(part + b"\n\n" * (number < len(parts) - 1))
                    time.sleep(fake.drip_s)
            except OSError:
                pass  # the client left

    return Handler


@contextmanager
def serving(**rules: Any) -> Iterator[Fake]:
    """A running endpoint; ``fake.url`` is its address."""
    fake = Fake(**rules)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    fake.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


