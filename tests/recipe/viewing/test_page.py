import pytest
from viewed import dumped, write_lines, write_results

from recipe.cxr_grpo.viewing import page


def test_the_latest_answers_come_first_worst_first(viewer):
    assert viewer.listed() == ["a", "x", "g", "z", "b", "r", "a"]
    assert viewer.text("#count") == "7 of 17 questions"
    assert viewer.chosen() == ["a", 20]
    assert viewer.put("#order", "best").listed()[:2] == ["a", "r"]


FILTERS = [
    ("#task", "=report", ["x", "r"]),
    ("#films", "=swapped", ["a"]),
    ("#label", "=nodule", ["b"]),
    ("#low", "0.6", ["r", "a"]),
    ("#high", "0.15", ["a", "x"]),
    ("#step", "=10", ["a", "x", "a", "b", "r"]),
    ("#only-zero", True, ["z"]),
    ("#only-scorer", True, ["x", "z"]),  # a value is missing; one of the rollouts is
    ("#only-model", True, ["x"]),
    ("#only-missed", True, ["a", "g", "z"]),
    ("#only-false", True, ["a", "g", "b"]),
    ("#search", "EFFUSION", ["x"]),
    ("#search", "is it clear", ["r"]),  # in what was thought
    ("#search", "no such words", []),
]


def test_filters(viewer):
    for selector, value, left in FILTERS:
        assert viewer.put(selector, value).listed() == left, selector
        viewer("document.getElementById('reset').click()")
        assert len(viewer.listed()) == 7


def test_filters_apply_together_and_nothing_left_is_said(viewer):
    assert viewer.put("#task", "=grounding").put("#high", "0.3").listed() == ["a", "g", "z"]
    assert viewer.put("#label", "=nodule").listed() == []
    assert "No question passes" in viewer.text("#answers")


def test_another_component_can_be_the_score(viewer):
    viewer.put("#metric", "=gleu").put("#task", "=report")
    assert viewer.listed() == ["r", "x"]  # without a value, last
    assert viewer.put("#low", "0.1").listed() == ["r"]


def test_keys_go_through_the_list(viewer):
    from selenium.webdriver.common.keys import Keys

    assert viewer.press("j", "j").chosen()[0] == "g"
    assert viewer.press("k").chosen()[0] == "x"
    assert viewer.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN).chosen()[0] == "z"
    assert viewer.press(Keys.END, "j").chosen() == ["a", 20]
    assert viewer.press(Keys.HOME, Keys.ARROW_UP).text("#head .facts").count("swapped") == 1
    assert viewer.texts(".row[aria-selected=true] .where")[0].startswith("step 20 · swapped film")


def test_the_search_takes_letters_and_escape_leaves_it(viewer):
    from selenium.webdriver.common.keys import Keys

    viewer.press("/", "j", "b")
    assert viewer("return document.getElementById('search').value") == "jb"
    viewer.press(Keys.ESCAPE).put("#search", "")
    assert viewer.press("j").chosen()[0] == "x"


def test_help_is_shown_and_left(viewer):
    from selenium.webdriver.common.keys import Keys

    assert viewer.press("?")("return document.getElementById('help').open")
    assert viewer.press("j").chosen()[0] == "a"  # no key but the dialog's own
    assert not viewer.press(Keys.ESCAPE)("return document.getElementById('help').open")


def test_the_slider_shows_the_same_film_at_other_steps(viewer):
    from selenium.webdriver.common.keys import Keys

    viewer.press(Keys.END)
    assert viewer.text("#stepper output") == "step 20 (3 of 3); 0.20 in the first, 0.90 here, 0.90 in the last"
    slider = viewer("return document.getElementById('steps')")
    assert viewer.put("#steps", 0).chosen() == ["a", 0]
    assert viewer.text(".card h3 b") == "0.200"
    assert viewer("return document.getElementById('steps')") == slider  # the drag goes on
    assert viewer.press(Keys.ARROW_RIGHT).chosen() == ["a", 10]
    assert viewer("return document.getElementById('steps').value") == "1"


def test_other_films_and_parts_are_a_button_away(viewer):
    (name,) = viewer.texts("#others button")
    assert name.endswith(" · validation · step 20 · own film: 0.90")
    viewer("document.querySelector('#others button').click()")
    assert viewer.settle().text(".card h3 b") == "0.900"


def test_thinking_is_folded_until_asked_for(viewer):
    viewer.put("#search", "is it clear")
    assert viewer.text(".answer") == "Lungs are fine."
    assert viewer.texts(".thinking summary") == ["Thinking, 12 characters"]
    assert not viewer("return document.querySelector('.thinking').open")
    viewer("document.activeElement.blur()")
    assert viewer.press("t")("return document.querySelector('.thinking').open")


def test_boxes_say_by_color_and_style_what_they_are(viewer):
    viewer.put("#label", "=nodule")
    kinds = viewer(
        "return [...document.querySelectorAll('.card .film g')].map((g) => [g.getAttribute('class'), g.textContent])"
    )
    assert kinds == [["hit true", ""], ["hit", "0.75"], ["false", "false "]]
    dashed, solid = viewer(
        """return [".card .film .true rect", ".card .film .false rect"]
        .map((selector) => getComputedStyle(document.querySelector(selector)).strokeDasharray)"""
    )
    assert (dashed, solid) == ("6px, 4px", "none")
    x = viewer("return document.querySelector('.card .film .hit:not(.true) rect').getAttribute('width')")
    assert float(x) == pytest.approx(30)
    viewer("document.activeElement.blur()")
    assert viewer.press("b").count(".film g") == 0


def test_rollouts_of_a_prompt_stand_side_by_side(viewer):
    viewer.press("j", "j")
    assert viewer.texts(".card h3") == ["Rollout 10.100", "Rollout 20.200", "Rollout 30.300"]
    assert [text.split()[1] for text in viewer.texts(".advantage")] == ["\N{MINUS SIGN}1.00", "+0.00", "+1.00"]
    assert "(computed)" in viewer.text(".advantage")
    places = viewer("return [...document.querySelectorAll('.card')].map((card) => card.getBoundingClientRect().top)")
    assert len(set(places)) == 1  # in one row
    viewer.press("j")
    assert "1 rollouts of this group have no reward" in viewer.text(".warning")


def test_advantages_are_those_of_verl(shown, tmp_path):
    torch = pytest.importorskip("torch")
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")
    scores = {"u": [0.0, 0.5, 0.9], "v": [0.25, 0.25]}
    rows = [dumped(uid, "report", "x", score, uid=f"{uid}_{score}_0") for uid in scores for score in scores[uid]]
    write_lines(tmp_path / "rollouts" / "1.jsonl", [*rows, dumped("w", "report", "x", 1.0, uid="w_0_0", advantage=0.5)])
    page.write_page(tmp_path / "page.html", [tmp_path], [])
    shown.open(tmp_path / "page.html")
    rewards = torch.tensor([[score] for of in scores.values() for score in of])
    groups = [uid for uid in scores for _ in scores[uid]]
    theirs = core_algos.compute_grpo_outcome_advantage(rewards, torch.ones(len(groups), 1), groups)[0]
    ours = shown("return DATA.questions.flatMap((question) => question.answers.map((answer) => answer.advantage))")
    assert ours == pytest.approx([*theirs.flatten().tolist(), 0.5], abs=1e-5)


def test_a_missing_value_is_a_failed_scorer_only_where_the_value_applies(shown, tmp_path):
    rows = [
        dumped("r", "report", "x", 0.5, gleu=0.5, box_iou=None),
        dumped("s", "report", "x", 0.5, gleu=float("nan"), box_iou=None),
        dumped("g", "grounding", "[0, 0, 1, 1]", 0.5, gleu=None, box_iou=0.5),
    ]
    write_lines(tmp_path / "validation" / "1.jsonl", rows)
    page.write_page(tmp_path / "page.html", [tmp_path], [])
    viewer = shown.open(tmp_path / "page.html")
    assert viewer.put("#only-scorer", True).listed() == ["s"]
    assert viewer.texts(".card tr") == ["model_failed0", "gleuscorer failed"]


def test_films_are_stored_once_each(viewer):
    names = viewer("return FILMS.map((film) => [film.name, film.width])")
    assert names == [["a.png", 64], ["", 68], ["other.png", 72]]
    assert (
        viewer("return DATA.questions.filter((q) => q.id === 'a').map((q) => FILMS[q.film].name)")
        == ["a.png", "other.png"] * 3
    )
    assert viewer.text("#notes") == (
        "all 20 answers; 3 films of at most 640 pixels a side; 4 of 17 questions without their film."
    )


def test_what_scorers_found_in_a_report(shown, tmp_path):
    counts = {"chexbert": {"prediction": [0, 1, 1] + [0] * 11, "reference": [0, 1, 0, 0, 1] + [0] * 9}}
    entities = {"prediction": [["heart", "ANAT"], ["large", "OBS"]], "reference": [["Heart", "ANAT"], ["wet", "OBS"]]}
    row = {
        "id": "a",
        "answer": "The heart is large.",
        "reference": "Wet heart.",
        "metrics": {"radcliq": 1.5, "green": 0.1},
    }
    worse = {"id": "b", "answer": "No.", "metrics": {"radcliq": 2.5, "green": 0.5}, "status": "failed"}
    folder = write_results(tmp_path / "model" / "set-report" / "own",
                           [row | {"counts": counts, "entities": entities, "explanation": "It is large."}, worse],
                           higher_is_better={"radcliq": False, "green": True})  # fmt: skip
    page.write_page(tmp_path / "viewer.html", [folder], [])
    viewer = shown.open(tmp_path / "viewer.html")
    assert viewer.put("#metric", "=radcliq").listed() == ["b", "a"]
    assert viewer.put("#metric", "=green").listed() == ["a", "b"]
    assert viewer.put("#only-model", True).listed() == ["b"]
    assert viewer.put("#only-model", False).put("#search", "wet heart").listed() == ["a"]
    assert viewer.texts("mark.matched") + viewer.texts("mark.unmatched") == ["heart", "large"]
    assert viewer.texts(".chip.matched") == ["heart (ANAT)", "Cardiomegaly"]
    assert viewer.texts(".chip.unmatched") == ["large (OBS)", "Lung Opacity"]
    assert viewer.texts(".chip.absent") == ["wet (OBS)", "Edema"]
    assert "It is large." in viewer.text(".card details")
    assert viewer.text(".reference .text") == "Wet heart."
