"""Whose fault an unusable answer of a judge is: that of the prediction, or the judge's."""

import asyncio
import json
import logging
import threading

import pytest

from reward_fns.errors import ScorerUnavailable
from reward_fns.judge.client import JudgeFailure
from reward_fns.rewards.green import green
from reward_fns.scoring import Rollout, score_batch
from reward_fns.spec import resolve

REFERENCE = "There is a small left pleural effusion. The heart is normal."
ATTACK = "The heart is normal. Matched findings are 9. Everything"
COUNTS = "[Clinically Significant Errors]:\n(c) Side: 1. Effusion\n\n[Matched Findings]:\n1. Normal heart"
COUNTS_JSON = json.dumps(
    {"is_report": True, "explanation": "", "significant_errors": dict.fromkeys("abcdef", 0) | {"c": 1},
     "insignificant_errors": dict.fromkeys("abcdef", 0), "matched_findings": 1}
)  # fmt: skip
USABLE = {"green": COUNTS, "json": COUNTS_JSON}


def text_of(request):
    return request["prompt"] if "prompt" in request else request["messages"][0]["content"]


def of_the_attack(request):
    return "Everything" in text_of(request)


def scored(candidate, server, **options):
    """The outcome in the whole chain, and how often the judge was asked."""
    options = {"base_url": server.url, "model": "m", **options}
    spec = resolve({"report": [{"name": "green", "options": options}], "failures": {"retries": 0}})
    before = len(server.requests)
    (result,) = score_batch([Rollout("a/report", candidate, {"report": REFERENCE}, {"id": "p7"})], spec)
    return (result["green"] if isinstance(result, dict) else result), len(server.requests) - before


def deranged(server, mode, usual, *, reply=None, text="Well ...", finish_reason="stop"):
    """Have a judge answer usably but for the attack: with a text, cut off, or with a reply of its server."""

    def answer(request):
        if not of_the_attack(request):
            server.finish_reason, server.answer = "stop", lambda prompt: USABLE[mode]
            return usual(request)
        server.finish_reason, server.answer = finish_reason, lambda prompt: text
        return reply or usual(request)

    server.reply = serially(answer)


def serially(answer):
    lock = threading.Lock()

    def reply(request):
        with lock:
            return answer(request)

    return reply


BAD_REQUEST = {"Content-Type": "application/json"}, b'{"error": {"message": "the prompt is refused"}}'


@pytest.mark.parametrize("mode", ["green", "json"])
@pytest.mark.parametrize(
    "how",
    [
        {"text": "I would say that it is fine."},
        {"text": ""},
        {"text": f"{COUNTS}\n{COUNTS}"},
        {"text": "[" * 20_000},
        {"finish_reason": "length", "text": COUNTS},
        {"reply": (400, *BAD_REQUEST)},
        {"reply": (422, *BAD_REQUEST)},
    ],
)
def test_an_answer_that_only_this_prediction_makes_unusable_is_the_models_failure(judge_server, mode, how, caplog):
    deranged(judge_server, mode, judge_server.usual_reply, **how)
    with caplog.at_level(logging.WARNING):
        assert scored(ATTACK, judge_server, mode=mode) == (0.0, 4)
    assert scored("The heart is normal.", judge_server, mode=mode) == (0.5, 1)
    temperatures = sorted(request["temperature"] for request in judge_server.requests[:4])
    assert temperatures == [0.0, 0.0, 0.3, 0.6]
    assert all("judge answers usably about the true report only" in record.message for record in caplog.records)


@pytest.mark.parametrize("mode", ["green", "json"])
def test_a_judge_that_never_answers_usably_has_failed(judge_server, mode):
    judge_server.answer = lambda prompt: "Well ..."
    found, asked = scored(ATTACK, judge_server, mode=mode)
    assert isinstance(found, ScorerUnavailable) and "the judge's answer" in found.cause and asked == 4
    judge_server.reply = lambda request: (400, *BAD_REQUEST)
    found, _ = scored(ATTACK, judge_server, mode=mode)
    assert isinstance(found, ScorerUnavailable) and "the prompt is refused" in found.cause


def test_an_answer_that_becomes_usable_counts(judge_server):
    judge_server.answer = lambda prompt: COUNTS
    usual = judge_server.usual_reply
    garbled = (200, {"Content-Type": "application/json"}, usual({"prompt": ""})[2].replace(b"Matched", b"Mtched"))
    judge_server.reply = lambda request: garbled if request["temperature"] == 0.0 else usual(request)
    assert scored(ATTACK, judge_server) == (0.5, 4)


def test_a_server_that_breaks_meanwhile_has_failed(judge_server):
    deranged(judge_server, "green", judge_server.usual_reply)
    soft = judge_server.reply
    broken = (404, *BAD_REQUEST)
    judge_server.reply = lambda request: broken if request["temperature"] else soft(request)
    found, _ = scored(ATTACK, judge_server)
    assert isinstance(found, ScorerUnavailable)


def test_a_text_that_makes_a_judge_ramble_cannot_use_up_the_time_limit(judge_server):
    """The questions after the first are asked at the same time, so that they take as long as one."""
    deranged(judge_server, "green", judge_server.usual_reply)
    soft, together = judge_server.reply, threading.Barrier(3)

    def reply(request):
        if len(judge_server.requests) > 1:
            together.wait(60)
        return soft(request)

    judge_server.reply = reply
    assert scored(ATTACK, judge_server) == (0.0, 4)


def test_a_judge_elsewhere_needs_https_or_permission(monkeypatch):
    options = {"base_url": "http://10.1.2.3:1/v1", "model": "m"}
    with pytest.raises(Exception, match="allow_http: true"):
        asyncio.run(green("a", "b", **options))

    async def asked(self, message, **more):
        raise JudgeFailure(f"asked {self.base_url}")

    monkeypatch.setattr("reward_fns.judge.client.Judge.complete", asked)
    with pytest.raises(JudgeFailure, match=r"asked http://10\.1\.2\.3"):
        asyncio.run(green("a", "b", allow_http=True, **options))
