import json
import time

import pytest

from data_prep.problems import Problems, RefusedData
from data_prep.readers.jsons import Dialog, members, objects, read, task_content
from reward_fns.errors import UsageError


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b"[1] 2", b""])
def test_a_file_that_is_not_json_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RefusedData, match=r"a\.json is not valid JSON, or cut short: .*; mend it or get it again"):
        read(tmp_path / "a.json", Problems())


def test_a_file_that_is_missing_is_wrong_use(tmp_path):
    for content in (read, lambda *given: list(objects(*given)), lambda *given: list(members(*given))):
        with pytest.raises(UsageError, match="cannot read"):
            content(tmp_path / "a.json", Problems())


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("space", ["", " \n" * 99])
def test_a_list_and_lines_hold_the_same_objects(tmp_path, mark, space):
    items = [{"id": f"\u00e4{n}", "n": [n, {"m": "]},\u2028"}], "text": None} for n in range(5)]
    lines = [json.dumps(item, ensure_ascii=False) for item in items]
    written = {"list": f"[{', '.join(lines)}]", "indented list": json.dumps(items, indent=4), "lines": "\n".join(lines)}
    for name, text in written.items():
        (tmp_path / name).write_text(mark + space + text, encoding="utf-8")
        found = list(objects(tmp_path / name, problems := Problems()))
        assert [item for _, item in found] == items and not problems.found
        if not space:
            assert found[4][0] == ("line 5" if name == "lines" else "item 5")


def test_items_that_cannot_be_stored_are_problems(tmp_path):
    deep = "[" * 60 + "]" * 60
    (tmp_path / "a.json").write_text('[{"a": "\\ud800"}, 7, {"a": ' + deep + '}, {"a": NaN}]')
    problems = Problems()
    assert [place for place, _ in objects(tmp_path / "a.json", problems)] == ["item 4"]
    assert [problem.where for problem in problems.found] == ["item 1", "item 2", "item 3"]


def test_members_of_the_same_key_all_come(tmp_path):
    (tmp_path / "a.json").write_text('{"a": {"a": 1, "b": {}}, "b": 2, "a": NaN, "\\ud800": 3, "c": {"d": "\\ud800"}}')
    problems = Problems()
    found = list(members(tmp_path / "a.json", problems))
    assert found[:2] == [("a", {"a": 1, "b": {}}), ("b", 2)] and found[2][0] == "a" and len(found) == 3
    assert [problem.kind for problem in problems.found] == ["bad_json"] * 2
    (tmp_path / "a.json").write_text("{}")
    assert list(members(tmp_path / "a.json", problems)) == []


def content(answer, source_format="radvlm"):
    problems = Problems()
    made = task_content("grounding", Dialog("a", "a.png", (("Where?", answer),)), source_format, (100, 100), problems)
    return made and len(made["boxes"]), [problem.kind for problem in problems.found]


SOUND = "[0.1, 0.2, 0.3, 0.4]"


@pytest.mark.parametrize(
    "beside",
    [
        "[0.5, 0.6, 0.7",
        "[0.5, 0.6, 0.7]",
        "[0.5, 0.6, 0.7, 0.8, 0.9]",
        "[0.5, 0.6, 0.7, O.8]",
        "[0.5, 0.6]",
        "x1=0.5, y1=0.6, x2=0.7, y2=0.8",
    ],
)
def test_an_answer_with_a_malformed_box_beside_a_sound_one_is_not_used(beside):
    assert content(f"{SOUND} and {beside}") == content(f"{beside}. Also {SOUND}") == (None, ["bad_box"])
    assert content(f"{SOUND}, {beside}") == (None, ["bad_box"])
    broken = '[{"bbox_2d": [100, 200, 300, 400], "label": "a"}, {"bbox_2d": [5, 6, 7], "label": "b"}]'
    assert content(broken, "qwen3vl") == (None, ["bad_box"])


@pytest.mark.parametrize(
    ("answer", "count", "source_format"),
    [
        (f"On 01/02/2023 at 10:30, a nodule of 3 cm (see {SOUND}). 2 more: {SOUND}, {SOUND} and {SOUND}.", 4, "radvlm"),
        (f"1. mass: {SOUND}; 2. ILD: {SOUND}\n3. nodule: {SOUND}", 3, "radvlm"),
        (", ".join([SOUND] * 90), 90, "radvlm"),
        ("[[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.6, 0.7]]", 2, "radvlm"),
        ("(0.1, 0.2), (0.3, 0.4)", 1, "radvlm"),
        ('```json\n[\n {"bbox_2d": [\n  1,\n  2,\n  3,\n  4\n ], "label": "2 cm"}\n]\n```', 1, "qwen3vl"),
        ('{"x1": 1, "y1": 2, "x2": 3, "y2": 4, "label": "mass"}', 1, "qwen3vl"),
        ("<|object_ref_start|>mass<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>", 1, "qwen3vl"),
        ("No nodule.", 0, "radvlm"),
    ],
)
def test_sound_answers_in_every_form_are_used(answer, count, source_format):
    assert content(answer, source_format) == (count, [])


def test_an_answer_of_brackets_alone_takes_no_long_time():
    start = time.process_time()
    content(SOUND + "[" * 100_000 + "(1," * 10_000 + "{" * 50_000)
    assert time.process_time() - start < 10  # it takes 1; without a bound on a run of brackets, minutes
