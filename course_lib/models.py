"""The model seam: ``connect()`` gives a plain ``anthropic.Anthropic``, whatever serves it.

Order of precedence: arguments, then ANTHROPIC_BASE_URL (any endpoint that speaks the Messages protocol), then
ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN (Claude), then the embedded server with course-lm.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.budget import Ledger
from course_lib.errors import ModelError, UsageError
from course_lib.registry import ModelEntry, Price, Registry, registry
from course_lib.server import Endpoint, ServerConfig, ensure, file_sha256

if TYPE_CHECKING:
    import anthropic

__all__ = [
    "ModelEntry", "Registry", "connect", "constrained", "default_model", "gguf_path", "kind_of", "ledger", "registry",
    "sampling",
]  # fmt: skip
SEED = 7
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def connect(
    *,
    budget_usd: float | None = None,
    timeout: float = 120.0,
    embedded: bool | None = None,
    model: str | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    max_retries: int = 2,
    parallel: int = 1,
) -> anthropic.Anthropic:
    """A Messages client for the model that this machine is set up for.

    budget_usd: dollars that this client may spend at most; a request that could pass it raises BudgetExceeded unsent.
    timeout: seconds without an answer, and for the embedded server to come up.
    embedded: True takes the embedded server whatever the environment says; False never starts it.
    model: which embedded model to serve (default ``course-lm-instruct``); hosted models are named in each request.
    base_url, api_key: an endpoint of your own, before the environment's.
    parallel: requests that the embedded server decodes at once. With 1, the default, an answer depends on its request
    alone, bit for bit, however many clients ask. With more, another request in the batch can flip a near tie.

    Raises ModelError when the embedded server cannot start. Does not promise that an endpoint answers or that a key is
    valid: that shows at the first request.
    """
    if embedded and base_url:
        raise UsageError("embedded=True and base_url exclude each other", fix="pass one of them")
    if budget_usd is not None and not budget_usd >= 0:
        raise UsageError(f"budget_usd must be zero or more, not {budget_usd}", fix="pass dollars, for example 0.50")
    environment = {} if embedded else os.environ
    url = base_url or environment.get("ANTHROPIC_BASE_URL") or None
    key = api_key or environment.get("ANTHROPIC_API_KEY") or None
    token = None if key else environment.get("ANTHROPIC_AUTH_TOKEN") or None
    if url is None and key is None and token is None:
        if embedded is False:
            fix = "set ANTHROPIC_API_KEY or ANTHROPIC_BASE_URL, or allow the embedded server"
            raise ModelError("no model is set up, and the embedded server is switched off", fix=fix)
        name = model or registry().default_embedded
        return _connect_embedded(name, parallel, budget_usd, timeout, max_retries)
    return _connect_remote(url, key, token, budget_usd, timeout, max_retries)


def _connect_remote(
    url: str | None, key: str | None, token: str | None, budget_usd: float | None, timeout: float, max_retries: int
) -> anthropic.Anthropic:
    import anthropic

    from course_lib.transport import http_client

    local = url is not None and _host(url) in _LOOPBACK
    book = Ledger(budget_usd, _price_local if local else _price)
    client = http_client(book, timeout=timeout, loopback=local)
    if key is None and token is None:
        key = "none"  # many local servers want some key and read none
    address = url or "https://api.anthropic.com"
    return anthropic.Anthropic(
        base_url=address, api_key=key, auth_token=token, timeout=timeout, max_retries=max_retries, http_client=client
    )


def _connect_embedded(
    model: str, parallel: int, budget_usd: float | None, timeout: float, max_retries: int
) -> anthropic.Anthropic:
    import anthropic

    from course_lib.transport import http_client

    config = ServerConfig(gguf_path(model), registry().get(model).id, parallel=parallel)

    def renew() -> Endpoint:
        return ensure(config, timeout_s=timeout)

    endpoint = renew()
    book = Ledger(budget_usd, _price_free, free=True)
    client = http_client(book, timeout=timeout, loopback=True, endpoint=endpoint, renew=renew)
    url, key = endpoint.base_url, endpoint.api_key
    return anthropic.Anthropic(
        base_url=url, api_key=key, timeout=timeout, max_retries=max_retries, http_client=client
    )


def ledger(client: anthropic.Anthropic) -> Ledger:
    """What this client used so far: ``.total``, ``.by_model``, ``.left_usd``. Copies of a client share one ledger."""
    book = getattr(client._client, "ledger", None)
    if not isinstance(book, Ledger):
        raise UsageError("this client keeps no ledger", fix="make it with course_lib.connect()")
    return book


def kind_of(client: anthropic.Anthropic | str) -> str:
    """``embedded`` (the course's own server), ``claude`` (anthropic.com) or ``compatible`` (anything else)."""
    if not isinstance(client, str) and getattr(client._client, "endpoint", None) is not None:
        return "embedded"
    host = _host(client if isinstance(client, str) else str(client.base_url))
    return "claude" if host == "anthropic.com" or host.endswith(".anthropic.com") else "compatible"


def default_model(client: anthropic.Anthropic | None = None) -> str:
    """The model id for requests: COURSE_MODEL if set, else the registry's default for what the client (or, without one,
    the environment) points at. On an unknown endpoint it is the first model that ``/v1/models`` lists.
    """
    if named := os.environ.get("COURSE_MODEL"):
        return named
    if client is None:
        if os.environ.get("ANTHROPIC_BASE_URL"):
            client = connect()
        elif os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("ANTHROPIC_AUTH_TOKEN"):
            return registry().default_hosted
        else:
            return registry().default_embedded
    kind = kind_of(client)
    if kind == "embedded":
        return str(client._client.endpoint.alias)  # type: ignore[attr-defined]
    return registry().default_hosted if kind == "claude" else _first_model(client)


def _first_model(client: anthropic.Anthropic) -> str:
    import anthropic

    try:
        return next(iter(client.models.list())).id
    except (anthropic.AnthropicError, StopIteration, AttributeError, TypeError) as error:
        what, fix = "the endpoint does not say which models it serves", "set COURSE_MODEL to the id that it serves"
        raise ModelError(what, where=str(client.base_url), fix=fix) from error


def sampling(
    client: anthropic.Anthropic | str,
    model: str,
    *,
    temperature: float = 0.0,
    seed: int = SEED,
    top_k: int | None = None,
) -> dict[str, Any]:
    """Keyword arguments for ``messages.create`` that ask for this sampling where the endpoint takes it.

    ``{}`` for Claude, whose current models refuse such settings. Elsewhere they travel in ``extra_body``. The embedded
    server's Messages endpoint knows no seed of a request: it samples each with its own fixed one, so equal requests
    give equal text at any temperature. For many different samples use ``constrained``.
    """
    kind = kind_of(client)
    if kind == "claude":
        accepted: Sequence[str] = registry().get(model).sampling
        values: dict[str, Any] = {name: v for name, v in {"temperature": temperature}.items() if name in accepted}
    else:
        values = {"temperature": temperature} | ({} if kind == "embedded" else {"seed": seed})
        if top_k is not None:
            values["top_k"] = top_k
    return {"extra_body": values} if values else {}


def constrained(
    client: anthropic.Anthropic,
    messages: Sequence[Mapping[str, Any]],
    *,
    max_tokens: int,
    system: str = "",
    grammar: str = "",
    json_schema: Mapping[str, Any] | None = None,
    temperature: float = 0.0,
    seed: int = SEED,
    **options: Any,
) -> dict[str, Any]:
    """One answer of a llama.cpp server with what its Messages endpoint does not take: a seed, a grammar, a JSON schema,
    ``logprobs=True``. Goes to ``/v1/chat/completions`` through the same client, so budget and ledger hold.

    grammar: GBNF. messages: role and plain text content. Returns the server's JSON as it is:
    ``result["choices"][0]["message"]["content"]``, ``["finish_reason"]``, ``result["usage"]``.
    """
    if kind_of(client) == "claude":
        fix = "use messages.create with output_config, or connect(embedded=True)"
        raise UsageError("grammars and seeds are settings of llama.cpp's server", fix=fix)
    first = [{"role": "system", "content": system}] if system else []
    body: dict[str, Any] = {"messages": [*first, *messages], "max_tokens": max_tokens, "temperature": temperature}
    body |= {"seed": seed, "model": default_model(client), **options}
    if grammar:
        body["grammar"] = grammar
    if json_schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": dict(json_schema)}}
    return client.post("/v1/chat/completions", body=body, cast_to=dict[str, Any])


def model_folder() -> Path:
    """``data/models/course-lm`` of this course."""
    from course_lib.catalog import repo_root

    return repo_root() / "data" / "models" / "course-lm"


def gguf_path(model: str) -> Path:
    """The GGUF file of an embedded model, checked against SHA256SUMS where listed; COURSE_LM_GGUF names another.

    Raises ModelError when the model is unknown or not embedded, the file is missing, or its checksum is wrong.
    """
    from course_lib.catalog import repo_root

    entry = registry().get(model)
    if entry.kind != "embedded" or entry.file is None:
        fix = "name course-lm-instruct or course-lm-base, or set COURSE_LM_GGUF to a file of your own"
        raise ModelError(f"{entry.id} is not an embedded model", fix=fix)
    if override := os.environ.get("COURSE_LM_GGUF"):
        path = Path(override).expanduser()
        file_sha256(path)
        return path
    path = repo_root() / "data" / "models" / entry.file
    digest, sums = file_sha256(path), path.parent / "SHA256SUMS"
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    expected = {name.lstrip("*"): value for value, name in (line.split(maxsplit=1) for line in lines if line.strip())}
    if expected.get(path.name, digest) != digest:
        fix = "restore the file from the repository"
        raise ModelError(f"{path.name} does not match its checksum in {sums.name}", where=str(path), fix=fix)
    return path


def _host(url: str) -> str:
    from urllib.parse import urlsplit

    return (urlsplit(url if "//" in url else f"http://{url}").hostname or "").lower()


def _price(model: str) -> Price | None:
    book = registry()
    return book.get(model).price if model in book else None


def _price_local(model: str) -> Price | None:
    """Open weights on this machine cost no money per token. A hosted id keeps its price: it may be a relay."""
    book = registry()
    entry = book.get(model) if model in book else None
    return _price_free(model) if entry is not None and entry.kind != "hosted" else (entry.price if entry else None)


def _price_free(model: str) -> Price:
    return Price(input=0, output=0, as_of=registry().as_of, source="runs on this machine")
