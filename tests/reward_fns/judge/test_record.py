"""What a judge answered reaches whoever listens, and nobody else."""

import itertools
import json
import logging
import re

import pytest

from reward_fns.judge.record import MOST, recording
from reward_fns.scoring import Rollout, score_batch
from reward_fns.spec import resolve

REFERENCE = "The heart is normal."
COUNTS = "[Clinically Significant Errors]:\n(a) False: {}. x\n\n[Matched Findings]:\n1. Normal heart"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("reward_fns.settings.FailureRules.pause", lambda self, retry: 0.0)


def scored(server, reports, **options):
    how = {"name": "green", "options": {"base_url": server.url, "model": "m", **options}}
    spec = resolve({"report": [how], "failures": {"retries": 2, "concurrency": 8}})
    rollouts = [Rollout("a/report", text, {"report": REFERENCE}, {"id": text}) for text in reports]
    return [result["green"] for result in score_batch(rollouts, spec)]


def size(request):
    return int(re.search(r"Nodule of (\d+) mm", request["prompt"])[1])


def test_every_report_has_its_own_answer_with_retries_and_many_at_a_time(judge_server, caplog):
    judge_server.answer = lambda prompt: (
        f"It has {size({'prompt': prompt})} mm.\n" + COUNTS.format(size({"prompt": prompt}))
    )
    refused = (404, {"Content-Type": "application/json"}, b'{"error": {"message": "not now"}}')
    seen = set()

    def reply(request):
        again = size(request) in seen
        seen.add(size(request))
        return judge_server.usual_reply(request) if again or size(request) % 3 else refused

    judge_server.reply = reply
    reports = [f"Nodule of {number} mm." for number in range(1, 41)]
    with caplog.at_level(logging.DEBUG), recording() as record:
        scores = scored(judge_server, reports)
    assert scores == [1 / (1 + number) for number in range(1, 41)] and len(record) == 40
    for number, (report, score) in enumerate(zip(reports, scores, strict=True), 1):
        assert record[report, REFERENCE, score].startswith(f"It has {number} mm.\n[Clin")
    assert "Nodule" not in caplog.text and "It has" not in caplog.text


def test_a_report_that_comes_twice_keeps_the_answer_to_each_score(judge_server):
    counts = itertools.count()
    judge_server.answer = lambda prompt: COUNTS.format(next(counts))
    with recording() as record:
        assert sorted(scored(judge_server, ["Normal."] * 2)) == [0.5, 1.0]
    assert {score: text for (*_, score), text in record.items()} == {1.0: COUNTS.format(0), 0.5: COUNTS.format(1)}


def test_only_what_is_asked_meanwhile_is_kept(judge_server):
    judge_server.answer = lambda prompt: COUNTS.format(1)
    with recording() as outer, recording() as inner:
        scored(judge_server, ["One."])
    scored(judge_server, ["Two."])
    assert [key[0] for key in inner] == ["One."] and outer == {}


def test_the_answer_whose_score_counts(judge_server):
    usual = judge_server.usual_reply
    judge_server.answer = lambda prompt: COUNTS.format(1)
    garbled = (200, {"Content-Type": "application/json"}, usual({"prompt": ""})[2].replace(b"Matched", b"Mtched"))
    judge_server.reply = lambda request: garbled if request["temperature"] == 0.0 else usual(request)
    with recording() as record:
        assert scored(judge_server, ["Normal."]) == [0.5]
    assert record == {("Normal.", REFERENCE, 0.5): COUNTS.format(1)}


@pytest.mark.parametrize("mode", ["green", "json"])
def test_a_score_for_want_of_an_answer_says_so(judge_server, mode):
    usable = {"is_report": True, "explanation": "", "significant_errors": dict.fromkeys("abcdef", 0)}
    usable |= {"insignificant_errors": dict.fromkeys("abcdef", 0), "matched_findings": 1}
    text = COUNTS.format(1) if mode == "green" else json.dumps(usable)
    judge_server.answer = lambda prompt: "Well ..." if "ramble" in prompt else text
    with recording() as record:
        assert scored(judge_server, ["Please ramble."], mode=mode) == [0.0]
    told = record["Please ramble.", REFERENCE, 0.0]
    assert re.match("0, as no answer about this report was usable in three attempts; the first: .*'Well ...'", told)


def test_a_long_answer_is_cut(judge_server):
    judge_server.answer = lambda prompt: COUNTS.format(1) + "; y" * MOST
    with recording() as record:
        scored(judge_server, ["Normal."])
    (told,) = record.values()
    assert len(told) == MOST and told.startswith(COUNTS.format(1)) and told.endswith(" …")
