"""Asking a language model many questions over OpenAI's chat API: who may see the texts, the cost, resuming."""

import argparse
import asyncio
import contextlib
import hashlib
import json
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.options import add_options
from data_prep.problems import Problems, RefusedData
from data_prep.readers import jsons
from data_prep.writer.staging import write_problems
from reward_fns.errors import UsageError
from reward_fns.judge import client
from reward_fns.judge.client import Judge, JudgeFailure

KEY = "CXR_GRPO_LLM_KEY"  # the environment variable that a key comes from, and nothing else
_TEMPERATURE_STEPS = (0.0, 0.3, 0.6)  # added to the temperature, one attempt each
CHARACTERS_PER_TOKEN = 4  # of English, roughly, in the tokenizers of today's models
REMINDER = (
    "Texts and images of credentialed data sets (MIMIC-CXR and sets derived from it, CheXpert Plus, PadChest-GR, ...) "
    "may only go where their license allows: as a rule not to a public service."
)

Message = str | Sequence[Mapping[str, Any]]


class Unusable(Exception):
    """An answer that can't be used; the message says why, as in "is empty"."""


@dataclass(frozen=True)
class Question:
    """One question to a model, for the row at `where`; the tokens are estimates, for the cost."""

    key: str  # see `key_of`
    where: str
    input_tokens: int
    output_tokens: int
    message: Callable[[], Message]
    check: Callable[[str], str]  # gives the answer as it will be used, or raises `Unusable`


class Journal(AbstractContextManager["Journal"]):
    """A table of answers by key, for one process at a time: an SQLite file that only its owner can read, or in memory.

    UsageError: another process uses the file, or it is not a journal.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        self._database = sqlite3.connect(":memory:" if path is None else path, timeout=0, isolation_level=None)
        try:
            self._database.executescript(
                # Without fsync: an answer is safe from a kill of the process, not from a power cut.
                "PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; "
                "CREATE TABLE IF NOT EXISTS answers (key PRIMARY KEY, answer TEXT NOT NULL, source, model); COMMIT"
            )
        except sqlite3.DatabaseError as error:
            self._database.close()
            used = "another process uses this journal; wait for it" if "locked" in str(error) else ""
            reason = used or f"not a journal of python -m data_prep ({error})"
            raise UsageError(f"{path}: {reason}, or name another file with --journal") from error

    def __exit__(self, *exception: object) -> None:
        self._database.close()

    def answer(self, key: str) -> str | None:
        """The answer to a question, None if there is none yet."""
        row = self._database.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def add(self, key: str, answer: str, *, where: str, model: str) -> None:
        """Store an answer, with the row it is for and the model that gave it; from then on a kill does not lose it."""
        try:
            self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, answer, where, model))
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: {error}") from error


def add_arguments(parser: argparse.ArgumentParser, *, required: bool, max_tokens: int) -> None:
    """Add the options of commands that ask a model, which need a `temperature` besides."""
    changed: dict[str, dict[str, object]] = {name: {"required": required} for name in ("--endpoint", "--model")}
    changed |= {"--allow-remote": {"help": f"send to another machine. {REMINDER}"}}
    add_options(parser.add_argument_group("the model"), "the model", changed=changed)
    parser.set_defaults(max_tokens=max_tokens)


def server(options: argparse.Namespace) -> Judge:
    """The model that the options name; UsageError if the texts may not go there. Names of hosts are never looked up."""
    endpoint = options.endpoint
    host, own, encrypted, direct = client.server(endpoint, "--endpoint", KEY, options.private_host)
    if not own and not options.allow_remote:
        raise UsageError(
            f"--endpoint {endpoint}: {host} is not this machine. {REMINDER} If they may go there, give "
            f"--allow-remote; if the host is your own, such as a node of your cluster, give --private-host {host}"
        )
    if not own and not encrypted:
        raise UsageError(f"--endpoint {endpoint}: texts would cross the network unencrypted; use https")
    return Judge(endpoint, options.model, key_variable=KEY, direct=direct)


def template(name: str) -> str:
    """One of our prompts, `filter` or `trace`."""
    return (files(__package__) / "texts" / f"{name}.txt").read_text(encoding="utf-8")


def fill(text: str, **values: str) -> str:
    """A prompt with its placeholders filled; `{mark}` becomes a word that occurs in none of the values.

    >>> fill("{mark} {a}", a="{b} 1")
    '3011 {b} 1'
    """
    joined = "\n".join(values.values())
    mark = hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()
    length = next(size for size in range(4, len(mark)) if mark[:size] not in joined)
    words = {**values, "mark": mark[:length]}
    return re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], match[0]), text)


def key_of(model: Judge, *parts: str) -> str:
    """The journal's key of a question: a digest of the model's name, the prompt and all that goes into it."""
    return hashlib.sha256(json.dumps([model.model, *parts]).encode()).hexdigest()


def origin(model: Judge, prompt: str) -> dict[str, str]:
    """What a summary says about who wrote the texts."""
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    return {"model": model.model, "endpoint": model.base_url, "prompt_sha256": digest}


@contextlib.contextmanager
def answered(
    options: argparse.Namespace, model: Judge, questions: Callable[[], Iterable[Question]]
) -> Iterator[tuple[Journal, Problems] | None]:
    """Ask all questions that the journal has no answer to, and give it and what failed; None if the user declines.

    RefusedData: the server failed many times in a row, or a question failed under --on-failure stop.
    """
    path = options.journal or options.out / "journal.sqlite"
    with Journal(None if options.dry_run and not path.exists() else path) as journal:
        requests = _announce(options, questions(), journal)
        if not _confirmed(options, requests):
            yield None
            return
        try:
            problems = asyncio.run(_ask_all(options, model, questions(), requests, journal))
        except (KeyboardInterrupt, SystemExit):
            print(f"\nthe answers so far are in {journal.path}; the same command resumes", file=sys.stderr)
            raise
        write_problems(options.out, problems)
        if problems.found:
            print(problems.summary(), file=sys.stderr)
            if options.on_failure == "stop":
                raise RefusedData(
                    f"{len(problems.found)} rows without a usable answer, listed in {options.out / 'problems.jsonl'}; "
                    "no data were written. The same command asks for these again; another --on-failure goes on without"
                )
        yield journal, problems


def _announce(options: argparse.Namespace, questions: Iterable[Question], journal: Journal) -> int:
    """Print what asking would cost; returns the number of requests to make."""
    total = requests = tokens_in = tokens_out = 0
    seen: set[str] = set()
    for question in questions:
        total += 1
        if question.key not in seen and journal.answer(question.key) is None:
            requests += 1
            tokens_in += question.input_tokens
            tokens_out += question.output_tokens
        seen.add(question.key)
    answers = len(seen) - requests
    print(
        f"{options.endpoint}, model {options.model}: {total:,} questions, {answers:,} of them answered in the journal, "
        f"{total - answers - requests:,} repeated; {requests:,} requests to make, about {tokens_in:,} tokens in and "
        f"{tokens_out:,} out (estimated, without retries)\n{REMINDER}",
        file=sys.stderr,
    )
    return requests


def _confirmed(options: argparse.Namespace, requests: int) -> bool:
    if options.dry_run or options.yes or not requests:
        return not options.dry_run
    if not sys.stdin.isatty():
        raise UsageError("no terminal to confirm this; give --yes to start, or --dry-run to see only the cost")
    return input("Start? [y/N] ").strip().lower() in ("y", "yes")


async def _ask_all(
    options: argparse.Namespace, model: Judge, questions: Iterable[Question], requests: int, journal: Journal
) -> Problems:
    """Put the answers into the journal; returns what failed."""
    problems, failed_in_a_row, most = Problems(), 0, options.concurrency + 3
    asked: set[str] = set()
    bar = tqdm(total=requests, unit="answer", disable=not sys.stderr.isatty())
    pending = iter(questions)  # shared by all workers

    async def work() -> None:
        nonlocal failed_in_a_row
        for question in pending:
            if failed_in_a_row > most:
                return
            if question.key in asked or journal.answer(question.key) is not None:
                continue
            asked.add(question.key)
            try:
                await _ask(question, model, journal, options)
                failed_in_a_row = 0
            except (Unusable, JudgeFailure, RecursionError) as error:  # the last from JSON nested too deeply
                unusable = isinstance(error, Unusable)
                failed_in_a_row = 0 if unusable else failed_in_a_row + 1
                problems.add("unusable answer" if unusable else "no answer", question.where, str(error))
            bar.update()

    with bar:
        await asyncio.gather(*(work() for _ in range(options.concurrency)))
    if failed_in_a_row > most:
        raise RefusedData(
            f"stopped after {failed_in_a_row} failures in a row, the last: {problems.found[-1].detail}. The answers so "
            f"far are in {journal.path}; the same command resumes"
        )
    return problems


async def _ask(question: Question, model: Judge, journal: Journal, options: argparse.Namespace) -> None:
    """Ask a question, up to three times while its answer is unusable, each time at a higher temperature."""
    message = question.message()
    for step in _TEMPERATURE_STEPS:
        temperature = round(options.temperature + step, 2)
        answer = await model.chat(message, max_tokens=options.max_tokens, temperature=temperature)
        try:
            if not answer.complete:
                raise Unusable(f"was cut off at --max-tokens {options.max_tokens}: {answer.text[-100:]!r}")
            usable = question.check(answer.text)
            if wrong := jsons.defect(usable):
                raise Unusable(wrong)
            journal.add(question.key, usable, where=question.where, model=model.model)
            return
        except Unusable:
            if step == _TEMPERATURE_STEPS[-1]:
                raise


def check_targets(paths: Sequence[Path], out: Path) -> None:
    """Raise UsageError if a copy of these files in `out` would replace a file of the data or another copy."""
    if any(path.absolute().parent == out.absolute() for path in paths):
        raise UsageError(f"--out {out} holds the data, which stay as they are; choose another folder")
    if repeated := [name for name, count in Counter(path.name for path in paths).items() if count > 1]:
        raise UsageError(f"two of the files have the same name, {repeated[0]}; give each its own --out")
