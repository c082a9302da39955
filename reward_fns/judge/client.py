"""The client of a language model behind any OpenAI-compatible server."""

import asyncio
import functools
import os
import re
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from reward_fns.errors import UsageError

URL, MODEL, KEY = "CXR_GRPO_JUDGE_URL", "CXR_GRPO_JUDGE_MODEL", "CXR_GRPO_JUDGE_KEY"
"""Environment variables. The key is read from nowhere else, and is sent only to a server that the user named."""

Result = TypeVar("Result")

# How servers say it: vLLM, SGLang, llama.cpp, OpenAI.
_CONTEXT = re.compile(
    r"context[ _](length|size|window)|maximum (model|input|sequence) length|max_model_len|longer than the model",
    re.IGNORECASE,
)


class JudgeFailure(Exception):
    """The server couldn't be reached, or its answer can't be used; a failure of the scorer, never a score."""


class TooLong(JudgeFailure):
    """The server refused a question because it exceeds the context of its model."""


class Answer(NamedTuple):
    text: str
    complete: bool  # whether the model finished, rather than reached the limit of tokens


@dataclass(frozen=True)
class Judge:
    """A model and its server; data preparation uses this class too."""

    base_url: str  # up to and with its version, as http://host:8000/v1
    model: str  # the name that the server knows
    key_variable: str = KEY  # environment variable
    direct: bool = False  # ask only this host: use no proxy and follow no redirect

    async def complete(self, prompt: str, *, max_tokens: int, stop: str) -> Answer:
        """Continue a prompt without a chat template, at temperature 0. Raises TooLong, JudgeFailure.

        The client retries 408, 409, 429, 5xx and lost connections, with back-off or as Retry-After says.
        """
        request = {"prompt": prompt, "stop": stop, "max_tokens": max_tokens, "temperature": 0.0}
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

        client = _client(self.base_url, os.environ.get(self.key_variable) or "none", self.direct)
        create = client.completions.create if kind == "completions" else client.chat.completions.create
        try:
            response = await create(model=self.model, **request)
        except (openai.APIError, ValueError) as error:
            reason = f"{error} ({error.__cause__!r})" if error.__cause__ else str(error)
            failure = TooLong if isinstance(error, openai.BadRequestError) and _CONTEXT.search(reason) else JudgeFailure
            raise failure(f"model {self.model!r} at {self.base_url}: {type(error).__name__}: {reason}") from error
        try:
            choice = response.choices[0]
            text = choice.text if kind == "completions" else choice.message.content
            return Answer("" + text, choice.finish_reason == "stop")  # a TypeError unless it is a text
        except (AttributeError, IndexError, TypeError) as error:  # the client doesn't check what a server sends
            sent = f"sent no completion, but {str(response)[:200]!r}"
            raise JudgeFailure(f"model {self.model!r} at {self.base_url} {sent}") from error


def locate(base_url: str, model: str, router_address: str | None, default_model: str = "") -> Judge:
    """The judge that a reward's options name; UsageError if none is, or the package `openai` is missing.

    For an empty `base_url` verl's router (host:port) is taken, and else the environment variable `URL`; for an empty
    `model` the variable `MODEL`, and else the default.

    >>> locate("", "Qwen/Qwen3-8B", "10.0.0.7:4000").base_url
    'http://10.0.0.7:4000/v1'
    """
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise UsageError("a judge needs the package openai: pip install 'cxr-grpo[judge]'") from error
    where = base_url or (f"http://{router_address}/v1" if router_address else os.environ.get(URL, ""))
    name = model or os.environ.get(MODEL, "") or default_model
    if not where:
        raise UsageError(
            f"no judge server is named: set option base_url or the environment variable {URL} to an OpenAI-compatible "
            "server, as http://host:8000/v1, or give verl a reward model (reward.reward_model.enable=True)"
        )
    if not name:
        raise UsageError(f"no judge model is named: set option model or the environment variable {MODEL}")
    return Judge(where, name)


# Only ever called in the judge loop, so by one thread.
@functools.cache
def _client(base_url: str, key: str, direct: bool) -> Any:
    import openai

    http_client = openai.DefaultAsyncHttpxClient(trust_env=False, follow_redirects=False) if direct else None
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
