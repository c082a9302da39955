import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_fns.boxes import Box
from reward_fns.conventions import CONVENTIONS, MAX_BOXES, get_convention, smart_resize
from reward_fns.errors import UsageError

BOX = Box(0.12, 0.3, 0.45, 0.8, "nodule")
side = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda ends: ends[0] < ends[1])
boxes = st.builds(lambda x, y, label: Box(x[0], y[0], x[1], y[1], label), side, side, st.text())


def parse(text, name="radvlm", frame=None):
    convention = get_convention(name)
    return convention.parse(text, frame or convention.frame(640, 480))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("radvlm", "[0.12, 0.3, 0.45, 0.8]"),
        ("qwen3vl", '[{"bbox_2d": [120, 300, 450, 800], "label": "nodule"}]'),
        ("qwen25vl", '[{"bbox_2d": [77, 143, 290, 381], "label": "nodule"}]'),
        ("pixel", "[77, 144, 288, 384]"),
    ],
)
def test_each_convention_writes_its_own_way(name, text):
    convention = get_convention(name)
    assert convention.render([BOX], convention.frame(640, 480)) == text


def test_radvlm_joins_and_rounds_as_python_does():
    three = [Box(0.615, 0.0, 1.0, 0.5), Box(0.1, 0.1, 0.2, 0.2), Box(0.3, 0.3, 0.4, 0.4)]
    expected = "[0.61, 0.0, 1.0, 0.5], [0.1, 0.1, 0.2, 0.2] and [0.3, 0.3, 0.4, 0.4]"
    assert get_convention("radvlm").render(three, (1, 1)) == expected


def test_no_boxes_render_as_nothing_or_an_empty_list():
    assert get_convention("pixel").render([], (640, 480)) == ""
    assert get_convention("qwen3vl").render([], (1000, 1000)) == "[]"


@pytest.mark.parametrize("name", CONVENTIONS)
@given(found=st.lists(boxes, max_size=4), width=st.integers(28, 3000), height=st.integers(28, 3000))
def test_round_trip_within_rounding(name, found, width, height):
    convention = get_convention(name)
    frame = convention.frame(width, height)
    parsed = convention.parse(convention.render(found, frame), frame)
    assert not parsed.invalid and not parsed.unreadable and len(parsed.boxes) == len(found)
    step = 10.0**-convention.decimals
    scale = {"radvlm": (1, 1), "qwen3vl": (1000, 1000)}.get(name, frame)
    for before, after in zip(found, parsed.boxes, strict=True):
        for axis, size in enumerate((*scale, *scale)):
            # Half a step of rounding, or one and a half where the box had to be widened.
            assert abs(before.quad[axis] - after.quad[axis]) <= (1.5 * step + 1e-6) / size
        if convention.as_json and not set(before.label) & set("{}"):
            assert after.label == before.label


def test_labels_in_other_scripts_survive():
    text = get_convention("qwen3vl").render([Box(0.1, 0.1, 0.2, 0.2, 'Erguß "li" \\ 右')], (1000, 1000))
    assert parse(text, "qwen3vl").boxes[0].label == 'Erguß "li" \\ 右'


@pytest.mark.parametrize(
    "text",
    [
        '```json\n[{"bbox_2d": [120, 300, 450, 800], "label": "nodule"}]\n```',
        'Here: [{"label": "nodule", "bbox_2d": [120, 300, 450, 800]}, {"bbox_2d": [1, 2',
        '{"bbox_2d":[120.0,3e2,+450,8.0E2],"label":"nodule","score":0.3}',
    ],
)
def test_json_in_whatever_surroundings(text):
    assert parse(text, "qwen3vl").boxes == (BOX,)


def test_truncated_json_keeps_the_box_that_is_complete():
    assert parse('[{"bbox_2d": [120, 300, 450, 800], "label": "nod', "qwen3vl").boxes == (Box(*BOX.quad),)


def test_a_label_with_an_unknown_escape_does_not_lose_the_box():
    assert parse(r'{"bbox_2d": [120, 300, 450, 800], "label": "\q"}', "qwen3vl").boxes == (Box(*BOX.quad),)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("radvlm", "[.12,0.3 , 0.45,\n0.8]"),
        ("qwen3vl", "[120, 300, 450, 800]"),
        ("qwen25vl", "[77.28, 142.8, 289.8, 380.8]"),
        ("pixel", "[76.8, 144, 288, 384]"),
    ],
)
def test_plain_lists_are_read_in_every_convention(name, text):
    (box,) = parse(text, name).boxes
    assert box.quad == pytest.approx(BOX.quad)


@pytest.mark.parametrize(
    "quad",
    [
        "[0.5, 0.1, 0.5, 0.2]",
        "[0.5, 0.1, 0.4, 0.2]",
        "[-0.1, 0.1, 0.4, 0.2]",
        "[0.1, 0.1, 1.4, 0.2]",
        "[nan, 0.1, 0.4, 0.2]",
        "[0.1, 0.1, Infinity, 0.2]",
        "[0.1, 0.1, 1e999, 0.2]",
        "[12, 30, 45, 80]",
    ],
)
def test_invalid_boxes_are_kept_as_written(quad):
    parsed = parse(f"{quad} [0.1, 0.2, 0.3, 0.4]")
    assert len(parsed.boxes) == 1
    (written,) = parsed.invalid
    numbers = [float(number) for number in quad.strip("[]").split(",")]
    assert written == pytest.approx(numbers, nan_ok=True)


def test_float_noise_outside_the_image_is_cut_off():
    assert parse("[-0.0000001, 0.1, 1.0000001, 0.2]").boxes == (Box(0.0, 0.1, 1.0, 0.2),)


def test_boxes_beyond_the_cap_count_as_invalid():
    parsed = parse("[0.1, 0.2, 0.3, 0.4]" * (MAX_BOXES + 7))
    assert (len(parsed.boxes), len(parsed.invalid)) == (MAX_BOXES, 7)


def test_an_unknown_convention_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'qwen3vl'"):
        get_convention("qwen3-vl")


def test_hints_describe_their_own_format():
    for convention in CONVENTIONS.values():
        assert convention.hint.endswith(".") and "x1, y1, x2, y2" in convention.hint
        assert ("JSON" in convention.hint) == convention.as_json


def test_only_the_resized_frame_depends_on_the_bounds():
    frames = {name: c.frame(640, 480, min_pixels=3136, max_pixels=100_000) for name, c in CONVENTIONS.items()}
    assert frames == dict.fromkeys(CONVENTIONS, (640, 480)) | {"qwen25vl": (364, 252)}


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_smart_resize_keeps_its_promises(width, height):
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ValueError, match="aspect"):
            smart_resize(width, height)
        return
    new_width, new_height = smart_resize(width, height, max_pixels=451584)
    assert new_width % 28 == new_height % 28 == 0
    assert new_width * new_height >= 3136
    # Rounding up to one patch a side may exceed the bound only for extreme shapes.
    assert new_width * new_height <= 451584 or min(new_width, new_height) == 28
    if min(new_width, new_height) >= 280:
        assert math.isclose(new_width / new_height, width / height, rel_tol=0.15)


@pytest.mark.parametrize(
    ("size", "expected"),
    # Worked out by hand from the processor's rule, e.g. 2500 / sqrt(2500 * 3056 / 451584) / 28 = 21.7 -> 21 patches.
    [((28, 28), (56, 56)), ((640, 480), (644, 476)), ((1024, 1024), (1036, 1036)), ((42, 100), (56, 112))],
)
def test_smart_resize_by_hand(size, expected):
    assert smart_resize(*size) == expected


def test_rendered_json_is_json():
    text = get_convention("qwen3vl").render([BOX, Box(0.0, 0.0, 0.0001, 1.0)], (1000, 1000))
    assert [item["bbox_2d"] for item in json.loads(text)] == [[120, 300, 450, 800], [0, 0, 1, 1000]]


NAMED = (
    Box(0.1, 0.2, 0.3, 0.4, "Nodule/Mass"),
    Box(0.5, 0.5, 0.7, 0.9, "ILD"),
    Box(0.6, 0.1, 0.8, 0.2, "Nodule/Mass"),
    Box(0.0, 0.0, 0.2, 0.1),
)


@pytest.mark.parametrize("name", ["radvlm", "pixel", "qwen3vl", "qwen25vl"])
def test_named_boxes_are_read_back_with_their_names(name):
    convention = get_convention(name)
    frame = convention.frame(1000, 800)
    read = convention.parse(convention.render(NAMED, frame, named=True), frame)
    assert sorted((box.label, round(box.x1, 1)) for box in read.boxes) == sorted((box.label, box.x1) for box in NAMED)
    assert not read.invalid and not read.unreadable


def test_without_names_the_text_is_as_before():
    assert get_convention("radvlm").render(NAMED[:2], (1, 1)) == "[0.1, 0.2, 0.3, 0.4] and [0.5, 0.5, 0.7, 0.9]"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Seen at [0, 0, 1, 1].", [""]),
        ("Mass: [0, 0, 1, 1], [0, 0, 0.5, 1] and [0, 0, 1, 0.5]", ["Mass"] * 3),
        ("Mass: [0, 0, 1, 1]. Effusion: [0, 0, 1, 1]", ["Mass", "Effusion"]),
        ("Mass: [0, 0, 1, 1]\nLeft effusion: [0, 0, 1, 1]; [0, 0, 1, 1]", ["Mass", "Left effusion", ""]),
        ("Mass: [0, 0, 1, 1] or [0, 0, 1, 1]", ["Mass", ""]),
        (f"{'long ' * 40}: [0, 0, 1, 1]", [""]),
        (f"{'long ' * 40}; mass: [0, 0, 1, 1]", ["mass"]),
        ("mass\n[0, 0, 1, 1]", [""]),
    ],
)
def test_names_in_text(text, names):
    assert [box.label for box in get_convention("radvlm").parse(text, (1, 1)).boxes] == names


def test_a_name_cannot_break_the_text():
    box = Box(0.1, 0.2, 0.3, 0.4, "a [b]: c;\nd")
    text = get_convention("radvlm").render([box], (1, 1), named=True)
    assert text == "a b c d: [0.1, 0.2, 0.3, 0.4]"
    assert get_convention("radvlm").parse(text, (1, 1)).boxes[0].label == "a b c d"


def test_only_text_conventions_say_how_to_name():
    radvlm, qwen = get_convention("radvlm"), get_convention("qwen3vl")
    assert radvlm.describe(named=True).startswith(radvlm.hint) and "name" in radvlm.describe(named=True)
    assert radvlm.describe() == radvlm.hint and qwen.describe(named=True) == qwen.hint
