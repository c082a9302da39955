import argparse
from collections import Counter

import pytest

from data_prep.problems import Problems, RefusedData
from data_prep.readers.box_sets import (
    Question,
    absent_questions,
    add_negatives,
    grounding_samples,
    normalized_box,
    refuse_shares,
)
from reward_fns.boxes import Box


def test_corners_in_pixels_become_shares():
    problems = Problems()
    made = normalized_box(("10", "5", "20.0", "15"), (40, 20), "nodule", "here", problems)
    assert made is not None and made.quad == (0.25, 0.25, 0.5, 0.75) and made.label == "nodule"
    made = normalized_box((-0.5, 0, 40.5, 20), (40, 20), "", "here", problems)
    assert made is not None and made.quad == (0.0, 0.0, 1.0, 1.0)
    assert problems.notes == {"boxes clipped to the image": 1} and not problems.found


@pytest.mark.parametrize(
    ("corners", "kind"),
    [
        ((1, 2, 3, None), "bad_box"),
        ((1, 2, 3, True), "bad_box"),
        ((1, 2, 3, [4]), "bad_box"),
        ((1, 2, 3, ""), "bad_box"),
        ((1, 2, 3, "None"), "bad_box"),
        ((1, 2, 10**400, 4), "bad_box"),
        ((1, 2, float("inf"), 4), "bad_box"),
        ((3, 2, 1, 4), "swapped_corners"),
        ((1, 4, 3, 4), "swapped_corners"),
        ((1, 4, 3, 4 + 1e-13), "swapped_corners"),
        ((39, 4, 40 - 1e-14, 6), None),
        ((40 - 1e-14, 4, 40.5, 6), "box_outside"),
        (("1", 2, 3, 4), "bad_box"),
        ((1, 2, 3), "bad_box"),
        ((1, 2, 42, 4), "box_outside"),
        ((40, 2, 41, 4), "box_outside"),
    ],
)
def test_corners_that_make_no_box(corners, kind):
    problems = Problems()
    assert (normalized_box(corners, (40, 20), "", "here", problems) is None) == bool(kind)
    assert [(problem.kind, problem.where) for problem in problems.found] == ([(kind, "here")] if kind else [])


def test_corner_and_size_become_corners():
    box = normalized_box([10, 5, 10, 10], (40, 20), "nodule", "here", Problems(), form="xywh")
    assert box is not None and box.quad == (0.25, 0.25, 0.5, 0.75)


ONE, OTHER = Box(0.1, 0.1, 0.2, 0.2), Box(0.5, 0.5, 0.9, 0.9)


@pytest.mark.parametrize(
    ("boxes", "expected", "kinds"),
    [
        ([OTHER, ONE], [(ONE, OTHER)], []),
        ([ONE, ONE], [(ONE,)], []),
        ([], [()], []),
        ([ONE, None], [], ["incomplete_boxes"]),
        ([None], [], []),
    ],
)
def test_a_question_with_a_malformed_box_is_left_out_whole(boxes, expected, kinds):
    problems = Problems()
    row = ("p", "train", "toy")
    made = list(grounding_samples("f", [Question("a", "nodule", boxes)], (b"png", 4, 4), row, problems))
    assert [sample.boxes for sample in made] == expected
    assert [problem.kind for problem in problems.found] == kinds
    assert any("right answer: nothing" in note for note in problems.notes) == (boxes == [])


def negatives(*arguments):
    parser = argparse.ArgumentParser()
    add_negatives(parser, "of all")
    return parser.parse_args(arguments)


def test_absent_findings_are_drawn_by_seed_from_what_was_looked_for_and_not_found():
    options = negatives("--negatives", "2")
    looked_for = [f"finding {number}" for number in range(9)]
    drawn = {film: set(absent_questions(film, looked_for, looked_for[:3], options)) for film in map(str, range(300))}
    assert all(len(found) == 2 and found <= set(looked_for[3:]) for found in drawn.values())
    counts = Counter(finding for found in drawn.values() for finding in found)
    assert set(counts) == set(looked_for[3:]) and min(counts.values()) > 60
    again = negatives("--negatives", "2", "--negatives-seed", "1")
    assert set(absent_questions("7", reversed(looked_for), looked_for[:3], options)) == drawn["7"]
    assert any(set(absent_questions(film, looked_for, looked_for[:3], again)) != drawn[film] for film in drawn)
    assert not absent_questions("7", looked_for[:3], looked_for, options)


def test_a_share_of_the_films_can_be_asked():
    options = negatives("--negatives", "0.25")
    asked = sum(len(absent_questions(str(film), ["a", "b"], [], options)) for film in range(2000))
    assert 400 < asked < 600
    assert not absent_questions("7", ["a"], [], negatives())
    for text in ("-1", "nan", "inf"):
        with pytest.raises(SystemExit):
            negatives("--negatives", text)


def test_shares_are_not_pixels(tmp_path):
    with pytest.raises(RefusedData, match="shares of the image"):
        refuse_shares(0.98, tmp_path)
    refuse_shares(1.5, tmp_path)
    refuse_shares(0, tmp_path)
