import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data_prep.cli import main


@pytest.fixture
def run(tmp_path, capsys, rows):
    """Runs the command on the items, or on the text or bytes of a file; gives status, messages, rows, problems."""
    root = tmp_path / "films"
    (root / "p1").mkdir(parents=True)
    Image.fromarray(np.full((20, 40), 90, np.uint8)).save(root / "p1/a.png")

    def convert(content, *options):
        path, out = tmp_path / "train.json", tmp_path / "out"
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(content)
        status = main(["llava", "--root", str(root), "--annotations", str(path), "--out", str(out), *options])
        if status:
            assert not out.exists() or list(out.iterdir()) == []
        found = {name: rows(out / f"{name}.parquet") for name in ("train", "sft_train", "val")
                 if (out / f"{name}.parquet").exists()}  # fmt: skip
        listed = (out / "problems.jsonl").read_text() if (out / "problems.jsonl").exists() else ""
        kinds = Counter(json.loads(line)["kind"] for line in listed.splitlines())
        return status, capsys.readouterr().err, found, kinds

    return convert


def item(*texts, **changes):
    speakers = ("human", "gpt")
    turns = [{"from": speakers[place % 2], "value": text} for place, text in enumerate(texts)]
    return {"id": "a", "image": "p1/a.png", "conversations": turns, **changes}


def truth(row):
    return json.loads(row["reward_model"]["ground_truth"])


def test_conversations_become_rows_for_sft(run):
    status, _, found, _ = run([item("<image>\nWhat?", "A nodule.", "Where?", "Left.")])
    assert status == 0 and list(found) == ["sft_train"]
    contents = [message["content"] for message in found["sft_train"][0]["messages"]]
    assert contents == ["<image>\nWhat?", "A nodule.", "Where?", "Left."]


def test_reports_and_boxes_become_rows_for_rl(run):
    status, _, found, _ = run([item("Read it.\n<image>", "All clear.")], "--task", "report", "--kind", "impression")
    assert status == 0 and truth(found["train"][0])["report"] == "All clear."
    assert found["train"][0]["prompt"][0]["content"] == "<image>\nRead it."
    answer = 'Here: [{"bbox_2d": [100, 200, 300, 400], "label": "nodule"}]'
    options = ("--task", "grounding", "--source-format", "qwen3vl", "--patient-regex", "^(p[0-9])/")
    status, told, found, _ = run([item("<image>Where?", answer), item("<image>Where?", "No.", id="b")], *options)
    first, second = found["train"]
    assert truth(first)["boxes"] == [[0.1, 0.2, 0.3, 0.4]] and truth(first)["labels"] == ["nodule"]
    assert truth(second)["boxes"] == [] and "read as: nothing there: 1" in told
    assert first["extra_info"]["patient_id"] == "p1"
    assert found["sft_train"][0]["messages"][1]["content"] == "[0.1, 0.2, 0.3, 0.4]"


def test_json_lines_and_other_names_of_the_speakers_are_read_too(run):
    turns = [{"from": "user", "value": "What?"}, {"from": "assistant", "value": "Clear."}]
    lines = "\ufeff" + "\n\n".join(json.dumps(item(conversations=turns, id=name, image=["p1/a.png"])) for name in "ab")
    status, told, found, _ = run(lines)
    assert status == 0 and len(found["sft_train"]) == 2 and "questions without <image>: 2" in told


GOOD = item("<image>\nWhat?", "Clear.", id="good")


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (item("<image>\nWhat?", "Clear.", id="good"), "duplicate_id"),
        (item("<image>\nWhat?"), "bad_conversation"),
        (item("<image>\nWhat?", ""), "bad_conversation"),
        (item("<image>", "Clear."), "bad_conversation"),
        (item(conversations=None), "bad_conversation"),
        (item(conversations=[{"from": "gpt", "value": "Clear."}]), "bad_conversation"),
        (item(conversations=["What?", "Clear."]), "bad_conversation"),
        (item(conversations=[{"from": "human", "value": 3}, {"from": "gpt", "value": "Clear."}]), "bad_conversation"),
        (item("<image>\nWhat?", "This: <image>"), "image_tags"),
        (item("<image><image>\nWhat?", "Clear."), "image_tags"),
        (item("<image>\nWhat?", "Clear.", "And <video>?", "Too."), "image_tags"),
        (item("<image>\nWhat?", "Clear.", image=None), "no_image"),
        (item("<image>\nWhat?", "Clear.", image=["a.png", "b.png"]), "several_images"),
        (item("<image>\nWhat?", "Clear.", image="b.png"), "missing_image"),
        (item("<image>\nWhat?", "Clear.", image="../films/p1/a.png"), "unsafe_path"),
        (item("<image>\nWhat?", "Clear.", image="/etc/passwd"), "unsafe_path"),
        (item("<image>\nWhat?", "Clear.", image="p1/a\0.png"), "missing_image"),
        ("just a text", "bad_json"),
        (float("nan"), "bad_json"),
        (item("<image>\nWhat?", "half \udc00"), "bad_json"),
        (item("<image>\nWhat?", "Clear.", id="\udc00"), "bad_json"),
    ],
)
def test_what_cannot_be_used_is_listed(run, broken, kind):
    status, _, found, kinds = run([GOOD, broken])
    assert status == 0 and kinds == {kind: 1} and len(found["sft_train"]) == 1


@pytest.mark.parametrize("text", ["None", "nan", "..."])
def test_a_report_that_says_nothing_is_listed(run, text):
    status, _, found, kinds = run([GOOD, item("<image>\nWhat?", text)], "--task", "report")
    assert status == 0 and kinds == {"placeholder_report": 1} and len(found["train"]) == 1


def test_an_image_that_is_damaged_is_listed(run, tmp_path):
    (tmp_path / "films/b.png").write_bytes((tmp_path / "films/p1/a.png").read_bytes()[:45])
    status, told, _, kinds = run([GOOD, item("<image>\nWhat?", "Clear.", image="b.png")])
    assert status == 0 and kinds == {"unreadable_image": 1} and "b.png" in told


@pytest.mark.parametrize(
    "broken",
    [
        json.dumps([GOOD])[:-20],
        json.dumps([GOOD])[:-1],
        json.dumps([GOOD]) + "]",
        json.dumps([GOOD, GOOD]).replace("}, {", "} {"),
        json.dumps([GOOD])[:-1] + ",]",
        json.dumps([GOOD]).replace("Clear", "Cl\xe4r").encode("latin-1").replace(b"\\u00e4", b"\xe4"),
        "[" + "[" * 100_000,
    ],
)
def test_a_broken_list_is_refused(run, broken):
    status, told, _, _ = run(broken)
    assert status == 1 and "train.json is not valid JSON, or cut short" in told


def test_broken_lines_are_listed(run):
    good = json.dumps(GOOD).encode()
    status, told, _, kinds = run(good + b'\n{"id": "b", \n' + good.replace(b"Clear", b"Cl\xe4r"))
    assert status == 0 and kinds == {"bad_json": 1, "bad_encoding": 1} and "line 3: is not UTF-8 (byte 0xe4)" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--root", "nowhere"], "--root nowhere is not a folder"),
        (["--annotations", "nowhere.json"], "cannot read nowhere.json"),
        (["--task", "report", "--kind", "phrase"], "--kind phrase is not of --task report"),
    ],
)
def test_wrong_use_says_what_to_do(run, options, told):
    status, messages, _, _ = run([GOOD], *options)
    assert status == 2 and told in messages


def test_a_patient_that_is_not_found_is_listed(run):
    status, _, _, kinds = run(
        [GOOD, item("<image>Q", "A", id="b", image="./p1/a.png")], "--patient-regex", "^(p[0-9])/"
    )
    assert status == 0 and kinds == {"no_patient": 1}
