import pytest

from data_prep.sample import KINDS
from data_prep.writer.rows import _QUESTIONS, render, rl_row
from reward_fns.boxes import Box
from reward_fns.conventions import get_convention
from reward_fns.errors import UsageError

FORMATS = ("radvlm", "qwen3vl", "qwen25vl", "pixel")
BOXES = (Box(0.123, 0.2, 0.456, 0.8, "nodule"), Box(0.5, 0.31, 0.9, 0.77, "nodule"))


@pytest.mark.parametrize("box_format", FORMATS)
@pytest.mark.parametrize("boxes", [(), BOXES[:1], BOXES])
def test_an_answer_parses_back_to_its_boxes(make_sample, box_format, boxes):
    convention = get_convention(box_format)
    frame = convention.frame(640, 480)
    _, answer = render(make_sample(boxes=boxes, width=640, height=480), box_format, frame)
    parsed = convention.parse(answer, frame)
    assert len(parsed.boxes) == len(boxes)
    for got, wanted in zip(parsed.boxes, boxes, strict=True):
        assert (got.x1, got.y1, got.x2, got.y2) == pytest.approx(
            (wanted.x1, wanted.y1, wanted.x2, wanted.y2), abs=0.0051
        )


def test_the_wording_depends_on_the_id_only(make_sample):
    questions = {render(make_sample(id=f"s{i}"), "radvlm", (40, 30))[0] for i in range(60)}
    assert len(questions) >= 4 and all("nodule" in question for question in questions)
    same = [render(make_sample(phrase=phrase), "radvlm", (40, 30))[0] for phrase in ("nodule", "opacity")]
    assert same[0].replace("nodule", "opacity") == same[1]


def test_thinking_suffix_and_format_hint(make_sample):
    plain, _ = render(make_sample(), "qwen3vl", (40, 30))
    full, _ = render(make_sample(), "qwen3vl", (40, 30), format_hint=True)
    assert full == f"{plain} {get_convention('qwen3vl').hint}"
    (asked,) = rl_row(make_sample(), full, "qwen3vl", (40, 30), [], index=0, thinking=True)["prompt"]
    assert asked["content"] == f"{full} /think"
    row = rl_row(make_sample(), full, "qwen3vl", (40, 30), [], index=0, thinking=True, suffix="")
    assert row["prompt"][0]["content"] == full and row["extra_info"]["thinking"] is True


@pytest.mark.parametrize("kind", ["", "findings", "impression", "report"])
def test_a_report_answer_is_the_report_and_its_hint_is_not_about_boxes(make_sample, kind):
    sample = make_sample(task="report", kind=kind, report="The lungs are clear.", phrase=None, boxes=())
    question, answer = render(sample, "radvlm", (40, 30), format_hint=True)
    plain, _ = render(sample, "radvlm", (40, 30))
    assert answer == "The lungs are clear."
    assert question.startswith(f"{plain} Answer") and get_convention("radvlm").hint not in question


def test_an_unknown_convention_is_wrong_use(make_sample):
    with pytest.raises(UsageError, match="qwen3vl"):
        render(make_sample(), "qwen3v", (40, 30))


@pytest.mark.parametrize("box_format", FORMATS)
def test_a_detection_answer_gives_the_names_back(make_sample, box_format):
    convention = get_convention(box_format)
    boxes = (Box(0.1, 0.2, 0.3, 0.4, "Nodule/Mass"), Box(0.5, 0.5, 0.9, 0.9, "ILD"), Box(0.1, 0.6, 0.3, 0.7, "ILD"))
    sample = make_sample(kind="detection", boxes=boxes, phrase="abnormalities")
    question, answer = render(sample, box_format, (1000, 1000), format_hint=True)
    assert question.endswith(convention.describe(named=True))
    assert [box.label for box in convention.parse(answer, (1000, 1000)).boxes] == ["Nodule/Mass", "ILD", "ILD"]
    assert render(make_sample(kind="detection", boxes=()), box_format, (1, 1))[1] == "There is no abnormality."


def test_an_answer_of_its_own_is_kept_word_by_word(make_sample):
    assert render(make_sample(answer="At [0.1, 0.2, 0.5, 0.75]."), "radvlm", (1, 1))[1] == "At [0.1, 0.2, 0.5, 0.75]."


@pytest.mark.parametrize("kind", [kind for kinds in KINDS.values() for kind in kinds if kind in _QUESTIONS])
def test_wordings_differ_and_name_the_phrase_where_there_is_one(kind):
    wordings = _QUESTIONS[kind]
    assert len(set(wordings)) == len(wordings) >= 4
    assert all(("{phrase}" in wording) == (kind in KINDS["grounding"][:4]) for wording in wordings)


def test_context_comes_before_the_question_in_which_nothing_else_changes(make_sample):
    report = {"task": "report", "report": "Clear.", "boxes": ()}
    plain, _ = render(make_sample(**report), "radvlm", (40, 30))
    context = {"indication": "Cough,\n fever.", "prior": "No change.", "lateral": b"film"}
    question, answer = render(make_sample(**report, **context), "radvlm", (40, 30))
    assert answer == "Clear."
    assert question == (
        "The first image is the frontal view, the second the lateral view.\n"
        "Indication for this examination: Cough, fever.\n"
        "Report of the previous examination: No change.\n" + plain
    )
