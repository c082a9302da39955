import json

import pytest

from recipe.cxr_grpo.results import validation


def dump_row(sample_id, task, answer, score, **truth):
    base = {"id": sample_id, "patient_id": sample_id[:2], "task": task, "box_format": "radvlm"}
    return {"input": "user\nQuestion?\nassistant\n", "output": answer, "gts": json.dumps(base | truth), "score": score}


GROUNDING = {"boxes": [[0.1, 0.1, 0.5, 0.5]], "labels": [""], "frame": [256, 256]}


@pytest.fixture
def dump(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_compare_reports_each_task(dump):
    before = dump("0.jsonl", [
        dump_row("p1-g", "grounding", "[0.1, 0.1, 0.5, 0.3]", 0.2, **GROUNDING),
        dump_row("p2-g", "grounding", "nothing", 0.0, **GROUNDING),
        dump_row("p1-r", "report", "Clear.", 0.4, report="The lungs are clear."),
    ])  # fmt: skip
    after = dump("9.jsonl", [
        dump_row("p2-g", "grounding", "[0.1, 0.1, 0.5, 0.5]", 1.0, **GROUNDING),
        dump_row("p1-g", "grounding", "[0.1, 0.1, 0.5, 0.5]", 1.0, **GROUNDING),
        dump_row("p1-r", "report", "Clear lungs.", 0.3, report="The lungs are clear."),
    ])  # fmt: skip
    result = validation.compare(*(validation.read_validation(path)[validation.OWN] for path in (before, after)))
    assert result["before"]["grounding"]["mean"] == pytest.approx(0.1)
    assert result["after"]["grounding"]["mean"] == 1.0
    assert result["difference"]["grounding"]["mean"] == pytest.approx(0.9)
    assert result["difference"]["grounding"]["n"] == 2
    assert result["difference"]["report"]["mean"] == pytest.approx(-0.1)
    json.dumps(result, allow_nan=False)


def test_a_sample_twice_is_refused(dump):
    path = dump("0.jsonl", [dump_row("p1-r", "report", "a", 0.1, report="b")] * 2)
    with pytest.raises(ValueError, match="sample p1-r occurs twice"):
        validation.read_validation(path)


@pytest.mark.parametrize("line", ["{", '{"input": "q"}', '{"input": "q", "output": "a", "score": 1, "gts": "[1]"}'])
def test_an_unreadable_row_is_named(tmp_path, line):
    path = tmp_path / "0.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"0\.jsonl, line 1"):
        validation.read_rows(path)


def test_an_answer_with_a_line_separator_is_one_row(tmp_path):
    row = dump_row("p1-r", "report", "Clear.\u2028Normal heart.\x85", 0.1, report="b")
    (tmp_path / "0.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n")  # as verl writes it
    assert [row.answer for row in validation.read_rows(tmp_path / "0.jsonl")] == ["Clear.\u2028Normal heart.\x85"]


def test_a_missing_dump_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"7\.jsonl: no such dump"):
        validation.read_rows(tmp_path / "7.jsonl")


def test_samples_that_one_evaluation_has_no_score_for_are_left_out_of_both(dump):
    def evaluation(name, *ids, swapped):
        rows = [dump_row(i, "report", "a", 0.5, report="b") for i in ids]
        rows += [dump_row(i, "report", "a", 0.25, report="b", films="swapped") for i in swapped]
        return validation.read_validation(dump(name, rows))

    before = evaluation("0.jsonl", "p1-r", "p2-r", "p3-r", swapped=["p1-r", "p2-r"])
    after = evaluation("9.jsonl", "p1-r", "p3-r", swapped=["p1-r", "p2-r"])
    *both, left_out = validation.scored_in_both(before, after)
    for rows in both:
        assert {films: sorted(found) for films, found in rows.items()} == {"own": ["p1-r", "p3-r"], "swapped": ["p1-r"]}
    assert left_out == 2  # p2 on its own film, and on the other one
    assert validation.compare(both[0]["own"], both[1]["own"])["difference"]["report"]["n"] == 2
