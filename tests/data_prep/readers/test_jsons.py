import json

import pytest

from data_prep.problems import Problems, RefusedData
from data_prep.readers.jsons import members, objects, read
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
