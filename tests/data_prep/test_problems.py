import json

from data_prep.problems import Problems


def test_the_summary_counts_every_problem_and_shows_the_first_of_a_kind():
    problems = Problems()
    for number in range(30):
        problems.add("bad_box", f"annotation {number}", "no area")
    problems.add("missing_image", "a.png", "not there")
    problems.notes["images without boxes"] += 2
    summary = problems.summary().splitlines()
    assert "note: images without boxes: 2" in summary
    assert "bad_box: 30" in summary and "  ... and 10 more" in summary
    assert "missing_image: 1" in summary
    listed = [json.loads(line) for line in problems.json_lines().splitlines()]
    assert len(listed) == 31 and listed[-1] == {"kind": "missing_image", "where": "a.png", "detail": "not there"}


def test_without_problems_there_is_nothing_to_tell():
    assert Problems().summary() == "" and Problems().json_lines() == ""
