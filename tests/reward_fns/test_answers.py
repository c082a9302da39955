import time

import pytest

from reward_fns.answers import extract_answer, is_unreadable
from reward_fns.boxes import Box
from reward_fns.conventions import CONVENTIONS, get_convention


@pytest.mark.parametrize(
    ("text", "thinking", "think_end", "answer"),
    [
        ("  No mass. \n", False, "last", "No mass."),
        ("", False, "last", None),
        (" \n\t ", False, "last", None),
        ("<think>a</think>b", False, "last", "<think>a</think>b"),
        ("<think>a</think> b", True, "last", "b"),
        ("a</think>b</think>c", True, "last", "c"),
        ("a</think>b</think>c", True, "first", "b</think>c"),
        ("<think>a", True, "last", None),
        ("<think>a", True, "first", None),
        ("<think>a</think> ", True, "last", None),
        ("a</think>b</think>", True, "last", None),
        ("a</think>b</think>", True, "first", "b</think>"),
    ],
)
def test_extract_answer(text, thinking, think_end, answer):
    assert extract_answer(text, thinking=thinking, think_end=think_end) == answer


BOX = Box(0.12, 0.3, 0.45, 0.8, "nodule")


def parse(text, name="radvlm", frame=None):
    convention = get_convention(name)
    return convention.parse(text, frame or convention.frame(640, 480))


X1 = '{"x1": 0.12, "y1": 0.3, "x2": 0.45, "y2": 0.8}'


@pytest.mark.parametrize(
    "text",
    [
        "(0.12, 0.3),(0.45, 0.8)",
        "<|box_start|>(0.12,0.3), (0.45,0.8)<|box_end|>",
        "(0.12, 0.3, 0.45, 0.8)",
        "[0.12 0.3 0.45 0.8]",
        r"\[0.12, 0.3, 0.45, 0.8\]",
        r"\(0.12, 0.3, 0.45, 0.8\)",
        "[[0.12, 0.3], [0.45, 0.8]]",
        '["0.12", "0.3", "0.45", "0.8"]',
        "['0.12', '0.3', '0.45', '0.8']",
        "[0.12, 0.3, 0.45, 0.8, ]",
        "[\n    0.12,\n    0.3,\n    0.45,\n    0.8\n]",
        f"[{X1}]",
        X1.replace("x1", "xmin").replace("y1", "y_min").replace("x2", "xmax").replace("y2", "y_max"),
        '{"y2": "0.8", "x2": "0.45", "y1": "0.3", "x1": "0.12"}',
        "{'x1': 0.12, 'y1': 0.3, 'x2': 0.45, 'y2': 0.8}",
    ],
)
@pytest.mark.parametrize("name", ["radvlm", "qwen3vl"])
def test_every_form_without_doubt_is_read(name, text):
    if name == "qwen3vl":
        for share, number in (("0.12", "120"), ("0.45", "450"), ("0.3", "300"), ("0.8", "800")):
            text = text.replace(share, number)
    parsed = parse(text, name)
    assert parsed.boxes == (Box(*BOX.quad),) and not parsed.invalid


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ('{"findings": [{"label": "nodule", "where": {"bbox_2d": [120, 300, 450, 800]}}]}', "nodule"),
        ('{"label": "nodule", "size": {"mm": "5"}, "bbox_2d": [120, 300, 450, 800]}', "nodule"),
        ('{"bbox_2d": {"x1": 120, "y1": 300, "x2": 450, "y2": 800}, "label": "nodule"}', "nodule"),
        ("{'label': 'nodule', 'bbox_2d': [120, 300, 450, 800]}", "nodule"),
        ('{"label": "all", "boxes": [{"bbox_2d": [120, 300, 450, 800], "label": "nodule"}]}', "nodule"),
        ('{"label": "all"}, {"bbox_2d": [120, 300, 450, 800]}', ""),
        ('"label": "all", [120, 300, 450, 800]', ""),
    ],
)
def test_labels_of_nested_json(text, label):
    assert parse(text, "qwen3vl").boxes == (Box(*BOX.quad, label),)


@pytest.mark.parametrize(
    "text",
    [
        "x1=0.1, y1=0.2, x2=0.3, y2=0.4",
        '{"x1": 0.1, "y1": 0.2, "x2": 0.3}',
        '{"x": 10, "y": 20, "width": 30, "height": 40}',
        "<loc0102><loc0204><loc0307><loc0409> nodule",
        "<box><x10><y20><x30><y40></box>",
        "<|box_start|>left<|box_end|>",
        "The nodule is located at [",
        "[10%, 20%, 30%, 40%]",
        "(0.1, 0.2), (0.3, 0.4), (0.5, 0.6)",
        "[[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]]",
        "No nodule. 0.1, 0.2, 0.3, 0.4",
        "No nodule: [x1, y1, x2, y2]",
    ],
)
def test_attempts_in_other_forms_are_unreadable(text):
    for name in ("radvlm", "qwen3vl"):
        parsed = parse(text, name)
        assert parsed.unreadable and not parsed.boxes and not parsed.invalid


NOTHING = ["No nodule, 01/02/2023 10:30.", "No finding (compared with 2023-01-02, 10:30:15).", '{"bbox_2d": []}',
           '[{"bbox_2d": null, "label": "nodule"}]', "```json\n[]\n```", "There is nothing to mark.", "none",
           "The lungs are clear.", "A nodule is not seen.", "I don't see any abnormality.", "I cannot see any nodule.",
           "Normal chest radiograph without focal lesions."]  # fmt: skip


@pytest.mark.parametrize("text", NOTHING)
@pytest.mark.parametrize("nothing", ["stated", "any"])
def test_a_statement_that_there_is_nothing(text, nothing):
    assert not get_convention("radvlm").parse(text, (1, 1), nothing=nothing).unreadable


@pytest.mark.parametrize(
    "text",
    ["I'm sorry, I can't help with that.", "As an AI, I cannot interpret medical images.",
     "I am unable to analyze this.", "The nodule is in the left upper lobe.", "asdf", "Cardiomegaly", "notable noise"],
)  # fmt: skip
def test_prose_that_does_not_say_that_there_is_nothing(text):
    radvlm = get_convention("radvlm")
    assert radvlm.parse(text, (1, 1), nothing="stated").unreadable
    assert not radvlm.parse(text, (1, 1), nothing="any").unreadable


@pytest.mark.parametrize("text", ["[nane1, 0, 1, 1]", "[infe5, 0, 1, 1]", "[Infinitye-999999999, 0, 1, 1]"])
def test_numbers_that_are_none_do_not_raise(text):
    assert parse(text).boxes == ()


@pytest.mark.parametrize(
    "text", ["There is no such finding.", "[]", "```json\n[]\n```", "", "1. Lungs: clear 2. Heart"]
)
def test_an_answer_in_words_is_readable(text):
    assert not parse(text).unreadable


@pytest.mark.parametrize("text", ["[0.1, 0.2, 0.3", "0.1 0.2 0.3 0.4", '{"bbox_2d": "left"}', "[0.1, 0.2, 0.3, left]"])
def test_a_failed_attempt_at_a_box_is_unreadable(text):
    parsed = parse(text)
    assert parsed.unreadable and not parsed.boxes and not parsed.invalid


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "{",
        "[1,",
        "[ ",
        "1",
        "[1",
        "1.",
        "[-",
        '"label":"',
        '{"label":"\\',
        "{[1,2,3,4]",
        "[nan,",
        "\ud800",
        "\u0661",
        "(1,2),",
        "(1 ",
        '{"x1":1,',
        '{"',
        '{"label":"a","b":{',
        "'label':'",
        "[[1,2],[",
        "1/2/3 10:30 ",
        "not a ",
        "can't x ",
        "(1,1,1,1" + " " * 200,
        "(1,1)" + " " * 200 + "(1,1" + " " * 200,
        "[1,1,1,1]" + "\n" * 110 + "a:",
    ],
)
def test_hostile_text_takes_linear_time(piece):
    text = (piece * 100_000)[:100_000]
    started = time.process_time()
    for name in CONVENTIONS:
        parse(text, name)
        parse("[{" + text + "}]", name)
    assert time.process_time() - started < 5  # milliseconds each; a quadratic pattern takes minutes


@pytest.mark.parametrize(
    "text",
    [
        "There is not a nodule.", "There isn't a nodule.", "The film doesn't have a nodule.", "Nodule: not there.",
        "The finding could not be located.", "Unable to locate the nodule.", "It is not on this image.",
        "Pneumothorax is ruled out.", "Sorry, there is no nodule.",
    ],
)  # fmt: skip
def test_plain_english_for_nothing_there(text):
    assert not is_unreadable(text, "stated")


@pytest.mark.parametrize("text", ["Sorry.", "I'm sorry, the image cannot be analyzed.", "I am unable to view images."])
def test_a_refusal_is_no_statement_that_there_is_nothing(text):
    assert is_unreadable(text, "stated")
