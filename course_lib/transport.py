"""The HTTP client below the SDK: meters every request, survives a fork, finds the embedded server after a crash."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from course_lib.budget import (
    Ledger,
    Reservation,
    UsageReader,
    check_unmetered,
    json_objects,
    metered,
    through_sdk,
)
from course_lib.errors import UsageError
from course_lib.server import Endpoint

if TYPE_CHECKING:
    import httpx2

IGNORED = ("seed", "grammar", "json_schema", "response_format", "logprobs", "n_probs")


def http_client(
    ledger: Ledger, *, timeout: float, loopback: bool, endpoint: Endpoint | None = None,
    renew: Callable[[], Endpoint] | None = None,
) -> httpx2.Client:  # fmt: skip
    """A client for ``anthropic.Anthropic(http_client=...)`` that books into ``ledger``.

    timeout: seconds without any byte. loopback: ignore the proxy settings of the environment.
    endpoint, renew: the embedded server and how to get it again when it is gone.
    """
    return _client_type()(ledger, endpoint, renew, loopback, timeout)


class _Course:
    """The course's part of the client, before the SDK's own: ``send`` is the one way out for all requests."""

    def __init__(
        self,
        ledger: Ledger,
        endpoint: Endpoint | None,
        renew: Callable[[], Endpoint] | None,
        loopback: bool,
        seconds: float,
    ) -> None:
        import httpx2

        self.ledger, self.endpoint, self._renew = ledger, endpoint, renew
        self._settings, self._pid = (loopback, seconds), os.getpid()
        # with a transport of its own the SDK's client does not look at HTTP_PROXY
        direct = {"transport": httpx2.HTTPTransport(trust_env=False), "trust_env": False} if loopback else {}
        super().__init__(timeout=seconds, **direct)

    def send(self, request: httpx2.Request, *, stream: bool = False, **kwargs: Any) -> httpx2.Response:
        """Reserve, send, and book. Raises BudgetExceeded before anything is sent."""
        import httpx2

        if os.getpid() != self._pid:  # a forked child must not share its parent's connections
            _Course.__init__(self, self.ledger, self.endpoint, self._renew, *self._settings)
        if not metered(request):
            check_unmetered(self.ledger, request)
            return self._deliver(request, stream=stream, **kwargs)
        content = request.read()
        body = json.loads(content)
        if self.endpoint is not None and request.url.path.endswith("/v1/messages"):
            refuse_ignored(body)
        reservation = self.ledger.reserve(body, len(content))
        request.headers["accept-encoding"] = "identity"  # usage is read from the bytes as they pass
        try:
            response = self._deliver(request, stream=True, **kwargs)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout):
            self.ledger.release(reservation)
            raise
        except BaseException:
            self.ledger.settle(reservation, None)  # it may have been served and billed
            raise
        if response.status_code >= 400:
            self.ledger.release(reservation)
        else:
            response.stream = _metering(response, self.ledger, reservation)
        if not stream:
            response.read()
        return response

    def _deliver(self, request: httpx2.Request, **kwargs: Any) -> httpx2.Response:
        """Send; when the embedded server is gone, start or find it again and send once more."""
        import httpx2

        send: Callable[..., httpx2.Response] = super().send  # type: ignore[misc]
        if self.endpoint is None or self._renew is None:
            return send(request, **kwargs)
        _aim(request, self.endpoint)
        try:
            return send(request, **kwargs)
        except httpx2.ConnectError:
            self.endpoint = self._renew()
            _aim(request, self.endpoint)
            return send(request, **kwargs)


@lru_cache(maxsize=1)
def _client_type() -> type[httpx2.Client]:
    import anthropic

    return type("CourseClient", (_Course, anthropic.DefaultHttpxClient), {})


def refuse_ignored(body: Mapping[str, Any]) -> None:
    """Raise UsageError for what llama.cpp's Messages endpoint drops without a word although the answer hangs on it.

    It also drops thinking, metadata and cache_control; those change cost or depth, not what was asked for.
    """
    reasons = [f"the setting {name}" for name in IGNORED if body.get(name) is not None]
    if (body.get("output_config") or {}).get("format"):
        reasons.append("output_config.format")
    if (body.get("tool_choice") or {}).get("type") == "none" and body.get("tools"):
        reasons.append("tool_choice none (leave the tools out instead)")
    if any(block.get("type") == "document" for block in json_objects(body.get("messages"))):
        reasons.append("document blocks (send their text instead)")
    if reasons:
        fix = "use course_lib.models.constrained for seeds, grammars and JSON schemas, or another endpoint"
        raise through_sdk(UsageError)(f"the embedded server would ignore {', '.join(reasons)}", fix=fix)


def _aim(request: httpx2.Request, endpoint: Endpoint) -> None:
    """Point a request at where the server is now: a restarted one has another port and key."""
    import httpx2

    target = httpx2.URL(endpoint.base_url)
    request.url = request.url.copy_with(scheme=target.scheme, host=target.host, port=target.port)
    request.headers["host"] = f"{target.host}:{target.port}"
    request.headers["authorization"] = f"Bearer {endpoint.api_key}"


def _metering(response: httpx2.Response, ledger: Ledger, reservation: Reservation) -> Any:
    """The response's stream, with its usage read in passing and booked once, at the end or when it is left."""
    import httpx2

    inner = response.stream
    reader = UsageReader(events="event-stream" in response.headers.get("content-type", ""))

    class Metering(httpx2.SyncByteStream):
        settled = False

        def __iter__(self) -> Iterator[bytes]:
            for chunk in inner:  # type: ignore[union-attr]
                reader.feed(chunk)
                yield chunk

        def close(self) -> None:
            try:
                inner.close()  # type: ignore[union-attr]
            finally:
                if not self.settled:
                    self.settled = True
                    usage = reader.close()
                    ledger.settle(reservation, usage, complete=reader.complete)

    return Metering()
