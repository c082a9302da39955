"""A language model that counts errors and matched findings: a judge after GREEN."""

import asyncio
import itertools
import logging
from pathlib import Path
from typing import Annotated, Literal

from reward_fns.errors import UsageError
from reward_fns.judge.client import FIRST, PUBLISHED, Answer, Judge, UnusableAnswer, Variables, locate
from reward_fns.judge.green import PROMPTS, SCHEMA, disarm, prompt, read_json, read_strict, read_upstream, template
from reward_fns.judge.record import keep
from reward_fns.registry import Between, reward

_END = "</s>"
_AGAIN = (0.3, 0.6)  # temperatures: at 0 an unusable answer would only be repeated
_floored = itertools.count(1)  # in this process, for the log
_log = logging.getLogger(__name__)


@reward("green", task="report", range=(0.0, 1.0))
async def green(
    prediction: str,
    reference: str,
    mode: Literal["green", "json"] = "green",
    parser: Literal["strict", "upstream"] = "strict",
    base_url: str = "",
    allow_http: bool = False,
    model: str = "",
    prompt_file: str = "",
    max_tokens: Annotated[int, Between(16, 100_000)] = 1024,
    both_empty: Annotated[float, Between(0, 1)] = 1.0,
    variables: Variables = FIRST,
    reward_router_address: str | None = None,
) -> float:
    """matched findings / (matched findings + clinically significant errors), as counted by a language model.

    0 if nothing matches. A judge that can't be reached is a failure of the scorer and never a score. A prediction about
    which the judge gives no usable answer in three attempts, while it does about the true report in its place, is the
    model's failure: it gets 0, and the log says so. Unusable is what can't be read, what was cut off, and a refusal of
    the question, as where it exceeds the judge's context.

    Args:
        prediction, reference: the reports, of which the judge sees 300 words or about 1,000 tokens, whichever ends
            first, without headings, markup and control characters (`reward_fns.judge.green.disarm`).
        mode: "green" sends a plain prompt to /completions in the layout of the published GREEN model; "json" sends a
            chat message to any instruct model and has the server enforce a JSON schema.
        parser: for mode green. "strict" refuses answers that are cut off, incomplete or ambiguous. "upstream" reads
            as the package green_score does, with its faults: for tables, not for training.
        base_url: of an OpenAI-compatible server, as http://host:8000/v1. Without it the judge that verl runs is asked,
            or the one in the environment variable CXR_GRPO_JUDGE_URL. A key comes from CXR_GRPO_JUDGE_KEY only. No
            redirect is followed; https to another machine goes through the proxy in CXR_GRPO_PROXY, if there is one.
        allow_http: send reports to another machine unencrypted, for networks of your own, as in a cluster. The judge
            that verl runs needs no permission.
        model: name that the server knows the model by; inside verl it is reward.reward_model.model_path. Without it:
            CXR_GRPO_JUDGE_MODEL, in mode green at last StanfordAIMI/GREEN-radllama2-7b.
        prompt_file: your own prompt, with {reference}, {candidate} and optionally {mark}, a word that the candidate
            can't contain. The published model's numbers need its authors' prompt; ours has the same structure.
        max_tokens: of the answer.
        both_empty: value if the strict parser finds neither match nor error, where the formula has no value: a normal
            pair, to a judge that counts only abnormal findings.
        variables: how the environment variables that name the judge begin; those of a second one are for evaluation.
        reward_router_address: filled in by verl.

    Returns:
        0 to 1. Cost: 2.2 s a sample unbatched (Hugging Face, A100; docs of RadEval); a vLLM server works on many at a
        time, `failures: {concurrency: 32}` bounds them per process. Gaming: longer reports with many safe normal
        findings pay; headings, role markers and JSON in a report are disarmed and our prompts warn the judge, but a
        judge can be persuaded: read answers with high scores. Text beyond the cut is free. Servers: examples/judge.

    Raises:
        UsageError: no judge is named, or options contradict each other.
        JudgeFailure: there is no usable answer, and the prediction is not the cause.

    Source: GREEN, arXiv 2405.03595, its code's formula; arXiv 2512.10691 reports it (table 1), without training on it.

    The numbers behind an answer:

    >>> from reward_fns.judge.green import read_strict
    >>> answer = '''[Explanation]: The effusion is on the other side.
    ... [Clinically Significant Errors]:
    ... (c) Wrong location or side of a finding: 1. Effusion
    ... [Clinically Insignificant Errors]: No errors.
    ... [Matched Findings]: 3. Normal heart; clear right lung; no pneumothorax'''
    >>> read_strict(answer), read_strict(answer).score(both_empty=1.0)
    (Verdict(matched=3, significant=1, insignificant=0), 0.75)
    """
    if mode == "json" and parser == "upstream":
        raise UsageError("green: parser=upstream reads answers of mode=green; leave it out with mode=json")
    default = PUBLISHED if mode == "green" else ""
    judge = locate(base_url, model, reward_router_address, default, variables, allow_http=allow_http)
    path = Path(prompt_file).expanduser() if prompt_file else PROMPTS / f"{mode}.txt"
    true, predicted = disarm(reference), disarm(prediction)
    if not predicted:  # nothing but control characters: not a report
        return 0.0

    async def judged(candidate: str, temperature: float = 0.0) -> tuple[float, str]:
        asked = prompt(template(path), true, candidate)
        answer = await _asked(judge, mode, asked, max_tokens, temperature)
        if parser == "upstream":
            return read_upstream(answer.text), answer.text
        if not answer.complete:
            raise UnusableAnswer(f"the judge's answer was cut off at max_tokens={max_tokens}: {answer.text[-300:]!r}")
        verdict = read_json(answer.text) if mode == "json" else read_strict(answer.text)
        return (0.0 if verdict is None else verdict.score(both_empty)), answer.text

    try:
        score, text = await judged(predicted)
    except UnusableAnswer as failure:
        # At the same time: a text that makes a judge ramble must not use up the time limit, which ends in no score.
        calls = (*(judged(predicted, temperature) for temperature in _AGAIN), judged(true))
        *again, control = await asyncio.gather(*calls, return_exceptions=True)
        usable = [outcome for outcome in again if isinstance(outcome, tuple)]
        if not usable:
            if not isinstance(control, tuple) or not all(isinstance(outcome, UnusableAnswer) for outcome in again):
                raise
            if (n := next(_floored)) & (n - 1) == 0:
                _log.warning("green: 0, the judge answers usably about the true report only; no. %d: %s", n, failure)
            usable = [(0.0, f"0, as no answer about this report was usable in three attempts; the first: {failure}")]
        score, text = usable[0]
    keep(prediction, reference, score, text)
    return score


async def _asked(judge: Judge, mode: str, message: str, max_tokens: int, temperature: float) -> Answer:
    if mode == "json":
        return await judge.chat(message, max_tokens=max_tokens, schema=SCHEMA, temperature=temperature)
    # The published model was trained with an empty turn of the assistant before its own.
    layout = f"<|user|>\n{message}{_END}\n<|assistant|>\n{_END}\n<|assistant|>\n"
    return await judge.complete(layout, max_tokens=max_tokens, stop=_END, temperature=temperature)
