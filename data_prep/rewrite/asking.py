"""Asking a language model many questions: which server may see the texts, what it will cost, and going on after a stop.

The server is any that speaks OpenAI's chat API, as `vllm serve` does. A key comes from the environment variable
CXR_GRPO_LLM_KEY only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import ipaddress
import json
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from data_prep.checks.seen import Seen, digest
from data_prep.options import positive
from data_prep.problems import Problems, RefusedData
from data_prep.rewrite.journal import Journal
from reward_fns.errors import UsageError
from reward_fns.judge.client import Judge, JudgeFailure

KEY = "CXR_GRPO_LLM_KEY"
_ATTEMPTS = 3  # per question, each a bit less deterministic than the one before
_WARMER = 0.3
_CHARACTERS_PER_TOKEN = 4  # of English, roughly, in the tokenizers of today's models
REMINDER = (
    "Texts and images of credentialed data sets (MIMIC-CXR and what is made of it, CheXpert Plus, PadChest-GR, ...) "
    "may only go where their licence allows: as a rule not to a public service."
)

Message = str | Sequence[Mapping[str, Any]]


class Unusable(Exception):
    """What is wrong with an answer."""


@dataclass(frozen=True)
class Question:
    """One thing to ask.

    Attributes:
        key: the same for the same question to the same model; see `key_of`.
        where: the row it is for.
        characters: of its text, for the estimate of costs.
        image_tokens: of its images, at most.
        message: makes what is sent.
        check: gives the answer as it is to be used, or raises `Unusable`.
    """

    key: str
    where: str
    characters: int
    image_tokens: int
    message: Callable[[], Message]
    check: Callable[[str], str]


def add_arguments(parser: argparse.ArgumentParser, *, required: bool, max_tokens: int) -> None:
    """The options of commands that ask a model."""
    group = parser.add_argument_group("the model")
    group.add_argument("--endpoint", metavar="URL", required=required, help="server, as http://127.0.0.1:8000/v1")
    group.add_argument("--model", metavar="NAME", required=required, help="the name that the server knows it by")
    group.add_argument("--allow-remote", action="store_true", help=f"send to a server elsewhere. {REMINDER}")
    group.add_argument(
        "--private-host", action="append", default=[], metavar="NAME", help="this host of the endpoint is yours, too"
    )
    group.add_argument("--max-tokens", type=positive, default=max_tokens, help="of an answer (%(default)s)")
    group.add_argument("--concurrency", type=positive, default=32, help="requests at a time (%(default)s)")
    group.add_argument("--journal", type=Path, metavar="FILE", help="answers so far (OUT/journal.jsonl)")
    group.add_argument("--dry-run", action="store_true", help="print what it would cost, ask nothing, write nothing")
    group.add_argument("--yes", action="store_true", help="start without asking back, as a batch job must")


def server(options: argparse.Namespace) -> Judge:
    """The model that the options name, if the texts may go there.

    Local are the address of this machine itself (127.x.x.x, ::1, localhost) and hosts given with --private-host. Names
    are compared letter by letter, never looked up.

    Raises:
        UsageError: the URL is none, or is of another machine and --allow-remote was not given, or `openai` is missing.
    """
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise UsageError("asking a model needs the package openai: pip install 'cxr-grpo[judge]'") from error
    try:
        url = urlsplit(options.endpoint)
        host, _ = url.hostname or "", url.port
    except ValueError as error:
        raise UsageError(f"--endpoint {options.endpoint} is no URL: {error}") from error
    if url.scheme not in ("http", "https") or not host or "\\" in options.endpoint:
        raise UsageError(f"--endpoint {options.endpoint}: need http://HOST:PORT/v1 or https://...")
    if url.username is not None or url.password is not None:
        raise UsageError(f"--endpoint must not hold a user or a key; set the environment variable {KEY}")
    own = _is_loopback(host) or host in {name.lower() for name in options.private_host}
    if not own and not options.allow_remote:
        raise UsageError(
            f"--endpoint {options.endpoint}: {host} is not this machine. {REMINDER} If they may go there, give "
            f"--allow-remote; if the host is your own, as a node of your cluster, give --private-host {host}"
        )
    if not own and url.scheme != "https":
        raise UsageError(f"--endpoint {options.endpoint}: texts would cross the network in the clear; use https")
    return Judge(options.endpoint, options.model, key_variable=KEY, direct=own)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address in _LOOPBACK[address.version]


_LOOPBACK: dict[int, Any] = {4: ipaddress.ip_network("127.0.0.0/8"), 6: ipaddress.ip_network("::1/128")}


def template(name: str) -> str:
    """One of our prompts, `filter` or `trace`."""
    return (files("data_prep.rewrite") / "texts" / f"{name}.txt").read_text(encoding="utf-8")


def fill(text: str, **values: str) -> str:
    """A prompt with its places filled; `{mark}` becomes a word that the values don't hold.

    >>> fill("{mark} {a}", a="{b} 1")
    '3011 {b} 1'
    """
    joined = "\n".join(values.values())
    mark = hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()
    length = next(size for size in range(4, len(mark)) if mark[:size] not in joined)
    parts = text.replace("{mark}", mark[:length])
    for i, place in enumerate(names := list(values)):
        parts = parts.replace(f"{{{place}}}", f"\0{i}\0")
    for i, place in enumerate(names):
        parts = parts.replace(f"\0{i}\0", values[place])
    return parts


def key_of(model: Judge, *parts: str) -> str:
    """A journal's key: of the model's name, the prompt and everything that goes into it."""
    return hashlib.sha256(json.dumps([model.model, *parts]).encode()).hexdigest()


@contextlib.contextmanager
def journal_of(options: argparse.Namespace) -> Iterator[Journal]:
    """The journal that the options name; a dry run that finds none leaves none."""
    path = options.journal or options.out / "journal.jsonl"
    with contextlib.ExitStack() as stack:
        if options.dry_run and not path.exists():
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / path.name
        journal = stack.enter_context(Journal(path))
        if journal.unreadable:
            print(f"{path}: {journal.unreadable} lines can't be read; their questions are asked again", file=sys.stderr)
        yield journal


@dataclass
class Estimate:
    """What asking would cost; tokens are a rough guess from characters."""

    questions: int = 0
    answered: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __str__(self) -> str:
        return (
            f"{self.questions:,} questions, {self.answered:,} of them answered in the journal, "
            f"{self.questions - self.answered - self.requests:,} repeated; {self.requests:,} requests to make, "
            f"about {self.input_tokens:,} tokens in and {self.output_tokens:,} out (estimated, without retries)"
        )


def estimate(questions: Iterable[Question], journal: Journal, output: Callable[[Question], int]) -> Estimate:
    """Go through all questions without asking any; `output` guesses the tokens of an answer."""
    total = Estimate()
    for question in _unanswered(questions, journal, total):
        total.requests += 1
        total.input_tokens += question.characters // _CHARACTERS_PER_TOKEN + question.image_tokens
        total.output_tokens += output(question)
    return total


def _unanswered(questions: Iterable[Question], journal: Journal, total: Estimate) -> Generator[Question, None, None]:
    with Seen() as seen:
        for question in questions:
            total.questions += 1
            repeated = seen.first("question", digest(question.key), "") is not None
            if not repeated and journal.answer(question.key) is not None:
                total.answered += 1
            elif not repeated:
                yield question


def agreed(options: argparse.Namespace, cost: Estimate) -> bool:
    """Print the cost and find out whether to start.

    Raises:
        UsageError: there is nobody to ask and --yes was not given.
    """
    print(f"{options.endpoint}, model {options.model}: {cost}", file=sys.stderr)
    print(REMINDER, file=sys.stderr)
    if options.dry_run:
        return False
    if options.yes or not cost.requests:
        return True
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to agree to this; give --yes to start, or --dry-run to see the cost only")
    return input("Start? [y/N] ").strip().lower() in ("y", "yes")


def ask_all(
    questions: Iterable[Question],
    model: Judge,
    journal: Journal,
    problems: Problems,
    *,
    requests: int,
    temperature: float,
    max_tokens: int,
    concurrency: int,
) -> None:
    """Ask what the journal has no answer to, and keep what is usable in it; the rest becomes `problems`.

    An unusable answer is asked for again, up to three times in all, each time at a higher temperature.

    Raises:
        RefusedData: the server failed many times in a row, so that going on makes no sense.
    """
    waiting = _unanswered(questions, journal, Estimate())
    in_a_row = 0

    async def work(bar: tqdm[Any]) -> None:
        nonlocal in_a_row
        for question in waiting:
            if in_a_row > concurrency + 3:
                return
            try:
                await _ask(question, model, journal, temperature, max_tokens)
                in_a_row = 0
            except Unusable as error:
                in_a_row = 0
                problems.add("unusable answer", question.where, str(error))
            except JudgeFailure as error:
                in_a_row += 1
                problems.add("no answer", question.where, str(error))
            bar.update()

    async def work_together() -> None:
        with tqdm(total=requests, unit="answer", disable=not sys.stderr.isatty()) as bar:
            await asyncio.gather(*(work(bar) for _ in range(concurrency)))

    with contextlib.closing(waiting):
        try:
            asyncio.run(work_together())
        except (KeyboardInterrupt, SystemExit):
            print(f"\nanswers so far are in {journal.path}; the same command goes on from there", file=sys.stderr)
            raise
    if in_a_row > concurrency + 3:
        raise RefusedData(
            f"stopped after {in_a_row} failures in a row, the last: {problems.found[-1].detail}. Answers so far are in "
            f"{journal.path}; the same command goes on from there"
        )


async def _ask(question: Question, model: Judge, journal: Journal, temperature: float, max_tokens: int) -> None:
    message = question.message()
    for attempt in range(_ATTEMPTS):
        warmth = round(temperature + attempt * _WARMER, 2)
        answer = await model.chat(message, max_tokens=max_tokens, temperature=warmth)
        try:
            if not answer.complete:
                raise Unusable(f"cut off at --max-tokens {max_tokens}: {answer.text[-100:]!r}")
            usable = question.check(answer.text)
        except Unusable:
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        journal.add(question.key, usable, model=model.model, where=question.where)
        return
