"""The client of a language model behind any OpenAI-compatible server, for rewards and for data preparation.

Texts and keys go to the server that the user named and to nobody else: redirects are not followed, the environment's
proxies and OPENAI_* variables do not count, and no message holds a key.
"""

import asyncio
import contextlib
import functools
import ipaddress
import os
import ssl
import threading
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from reward_fns.errors import UsageError

Variables = Literal["CXR_GRPO_JUDGE", "CXR_GRPO_SECOND_JUDGE"]
"""How a judge's environment variables begin: _URL, _MODEL, _KEY, and _ALLOW_HTTP, which is yes if the server of _URL
may be another machine that gets reports unencrypted. A key is sent only to a server that the user named."""
FIRST: Variables = "CXR_GRPO_JUDGE"
KEY = f"{FIRST}_KEY"
PUBLISHED = "StanfordAIMI/GREEN-radllama2-7b"  # the first judge's model where nothing names another
PROXY = "CXR_GRPO_PROXY"
"""Environment variable: URL of the proxy for https to other machines. HTTPS_PROXY and the like are not used."""

Result = TypeVar("Result")

_BODY = 4 << 20  # bytes of an answer; the longest that anybody asks for has 100,000 tokens
_SECONDS = 1800.0  # for a question with the client's retries, however slowly a server sends
_REFUSALS = (400, 413, 422)  # of this question, rather than of every one
_SHOWN = 500  # characters of a server's complaint
_NO_KEY = "none"  # what is sent where no key is set


class JudgeFailure(Exception):
    """The server couldn't be reached, or its answer can't be used; a failure of the scorer, never a score."""


class UnusableAnswer(JudgeFailure):
    """The model answered, or the server refused, in a way that may be due to the question; a long one, for example."""


class Answer(NamedTuple):
    text: str
    complete: bool  # whether the model finished, rather than reached the limit of tokens


class Server(NamedTuple):
    """What a server's URL says."""

    host: str
    own: bool  # whether it is this machine, or among the user's own hosts
    encrypted: bool
    direct: bool  # whether no proxy may stand before it


def server(url: str, name: str, key_variable: str, own_hosts: Collection[str] = ()) -> Server:
    """Where the URL of a model's server leads. Names of hosts are never looked up.

    UsageError, which calls the URL by this name and shows nothing secret: it is not one, or holds a user, a key or a
    query; or the package `openai` is missing.

    >>> server("http://127.0.0.1:8000/v1", "base_url", KEY).own, server("http://node7/v1", "base_url", KEY).own
    (True, False)
    """
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise UsageError("asking a language model needs the package openai: pip install 'cxr-grpo[judge]'") from error
    if "@" in url:
        raise UsageError(f"{name} must not hold a user or a key; set the environment variable {key_variable}")
    if set(url) & set("?#\\ ") or not url.isprintable():
        raise UsageError(f"{name} must be like http://HOST:PORT/v1, without ?, #, \\ and spaces")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:  # whose message may hold what stands where a password would
        raise UsageError(f"{name} is not a URL: its host or port is malformed; need http://HOST:PORT/v1") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f"{name} {url}: need http://HOST:PORT/v1 or https://...")
    own = host in {"localhost", *map(str.lower, own_hosts)}
    private = own
    with contextlib.suppress(ValueError):  # a name
        address = ipaddress.ip_address(host)
        own = own or (address.is_loopback and not getattr(address, "ipv4_mapped", None))
        private = own or address.is_private
    encrypted = parts.scheme == "https"
    return Server(host, own, encrypted, direct=private or not encrypted)


@dataclass(frozen=True)
class Judge:
    """A model and its server; data preparation uses this class too."""

    base_url: str  # up to and with its version, as http://host:8000/v1
    model: str  # the name that the server knows
    key_variable: str = KEY  # environment variable
    direct: bool = True  # whether no proxy may stand before it, see `PROXY`

    async def complete(self, prompt: str, *, max_tokens: int, stop: str, temperature: float = 0.0) -> Answer:
        """Continue a prompt without a chat template. Raises JudgeFailure, or UsageError if the key can't be sent.

        The client retries 408, 409, 429, 5xx and lost connections, with back-off or as Retry-After says.
        """
        request = {"prompt": prompt, "stop": stop, "max_tokens": max_tokens, "temperature": temperature}
        return await _on_judge_loop(self._ask("completions", request))

    async def chat(
        self,
        message: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
        temperature: float = 0.0,
    ) -> Answer:
        """Answer a text, or parts of text and images as OpenAI's chat API has them; the server enforces a schema."""
        request: dict[str, Any] = {"messages": [{"role": "user", "content": message}], "max_tokens": max_tokens}
        if schema is not None:
            form = {"name": "answer", "strict": True, "schema": schema}
            request["response_format"] = {"type": "json_schema", "json_schema": form}
        return await _on_judge_loop(self._ask("chat", {**request, "temperature": temperature}))

    async def _ask(self, kind: str, request: Mapping[str, Any]) -> Answer:
        import openai

        key = _key(self.key_variable)
        client = _client(self.base_url, key, "" if self.direct else _proxy())
        create = client.completions.create if kind == "completions" else client.chat.completions.create
        failure: type[JudgeFailure] = JudgeFailure
        response: Any = None
        try:
            response = await asyncio.wait_for(create(model=self.model, **request), _SECONDS)
        except asyncio.TimeoutError:
            reason = f"no answer within {_SECONDS:g} s"
        except (openai.APIError, ValueError, RecursionError, JudgeFailure) as error:
            reason = f"{type(error).__name__}: {error}" + (f" ({error.__cause__!r})" if error.__cause__ else "")
            if getattr(error, "status_code", None) in _REFUSALS:
                failure = UnusableAnswer
        else:
            with contextlib.suppress(AttributeError, IndexError, TypeError):  # the client doesn't check what it gets
                choice = response.choices[0]
                text = choice.text if kind == "completions" else choice.message.content
                # A chat without content: the model used its tokens to think, or declined.
                text = "" if kind == "chat" and text is None else text
                return Answer("" + text, choice.finish_reason == "stop")  # a TypeError unless it is a text
            reason = f"sent no completion, but {str(response)!r}"
        # Raised here, so that no cause is attached: the client's errors hold the request, and so the key.
        for secret in {key, repr(key)[1:-1]} - {_NO_KEY}:
            reason = reason.replace(secret, "***")
        raise failure(f"model {self.model!r} at {self.base_url}: {reason[:_SHOWN]}")


def locate(
    base_url: str,
    model: str,
    router_address: str | None,
    default_model: str = "",
    variables: Variables = FIRST,
    *,
    allow_http: bool = False,
) -> Judge:
    """The judge that a reward's options name; UsageError if none is, or if reports would go there unencrypted.

    For an empty `base_url` verl's router (host:port) is taken, and else the environment variable _URL, which begins as
    `variables` says; for an empty `model` _MODEL, and else the default. Plain http is for this machine, for verl's
    router, which is one of the run's own, for what `allow_http` permits, and for _URL where _ALLOW_HTTP is yes.

    >>> locate("", "Qwen/Qwen3-8B", "10.0.0.7:4000").base_url
    'http://10.0.0.7:4000/v1'
    """
    url, named, key = (f"{variables}_{part}" for part in ("URL", "MODEL", "KEY"))
    by_router = bool(router_address and not base_url)
    where = f"http://{router_address}/v1" if by_router else base_url or os.environ.get(url, "")
    name = model or os.environ.get(named, "") or default_model
    if not where:
        raise UsageError(
            f"no judge server is named: set option base_url or the environment variable {url} to an OpenAI-compatible "
            "server, as http://127.0.0.1:8000/v1, or give verl a reward model (reward.reward_model.enable=True)"
        )
    if not name:
        raise UsageError(f"no judge model is named: set option model or the environment variable {named}")
    found = server(where, "base_url of the judge" if base_url else url, key)
    allow_http = allow_http or (not base_url and os.environ.get(f"{variables}_ALLOW_HTTP") == "yes")
    if not (found.own or found.encrypted or by_router or allow_http):
        raise UsageError(
            f"the judge at {where} is another machine, and reports would cross the network unencrypted: use https, or, "
            "if the network between is your own, as in a cluster, set option allow_http: true, or, for the judge of "
            f"{url}, {variables}_ALLOW_HTTP=yes"
        )
    return Judge(where, name, key, direct=found.direct)


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(f"the environment variable {variable} holds what can't be a key: need printable ASCII")
    return key or _NO_KEY


def _proxy() -> str:
    proxy = os.environ.get(PROXY, "")
    if proxy and not proxy.startswith(("http://", "https://")):
        raise UsageError(f"the environment variable {PROXY} must be a URL, as http://HOST:PORT")
    return proxy


# Only ever called in the judge loop, so by one thread.
@functools.cache
def _client(base_url: str, key: str, proxy: str) -> Any:
    import openai

    class Guarded(openai.DefaultAsyncHttpxClient):
        """Sends the question and the key, and nothing else; takes only an answer of bounded size."""

        async def send(self, request: Any, **options: Any) -> Any:
            # Made anew, because the package adds what OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS and others say.
            kind = "application/json"
            headers = {"Authorization": f"Bearer {key}", "Content-Type": kind, "Accept": kind}
            headers |= {"Accept-Encoding": "identity", "User-Agent": "cxr-grpo"}
            asked = self.build_request("POST", request.url, content=request.content, headers=headers)
            response = await super().send(asked, stream=True, follow_redirects=False)
            body = bytearray()
            try:
                if response.is_redirect:
                    raise JudgeFailure("the server redirects, and no redirect is followed: name the final address")
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise JudgeFailure("the answer is compressed, though none such was asked for")
                async for part in response.aiter_raw():
                    body += part
                    if len(body) > _BODY:
                        raise JudgeFailure(f"the answer has more than {_BODY >> 20} MiB")
            finally:
                await response.aclose()
            plain = [item for item in response.headers.multi_items() if item[0] != "transfer-encoding"]
            return type(response)(response.status_code, headers=plain, content=bytes(body), request=asked)

    certificates = os.environ.get("SSL_CERT_FILE")
    verify = ssl.create_default_context(cafile=certificates) if certificates else True
    http_client = Guarded(trust_env=False, proxy=proxy or None, verify=verify)
    return openai.AsyncOpenAI(base_url=base_url, api_key=key, http_client=http_client)


# A client's connections belong to one event loop, and the loops in which scores are asked for come and go.
_lock = threading.Lock()
_home: tuple[threading.Thread, asyncio.AbstractEventLoop] | None = None


async def _on_judge_loop(work: Coroutine[Any, Any, Result]) -> Result:
    global _home
    with _lock:
        if _home is None or not _home[0].is_alive():  # a forked process has no thread but the one that forked
            loop = asyncio.new_event_loop()
            _home = threading.Thread(target=loop.run_forever, name="judge", daemon=True), loop
            _home[0].start()
            _client.cache_clear()
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, _home[1]))
