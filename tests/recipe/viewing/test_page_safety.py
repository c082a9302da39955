import json

from viewed import MEASURE, dumped, large_run, make_films, write_data, write_lines, write_results

from recipe.cxr_grpo.viewing import page

STRIKE = (
    "</script><script>window.hacked = 1; alert(1)</script><img src=x onerror='window.hacked=1; alert(1)'>{{7*7}}\u2028"
)
NAME = "<img src=x onerror=window.hacked=1;alert(1)>.png"  # a file's name has no slash
ELEMENTS = "return document.querySelectorAll('img, iframe, object, embed, a, base, link, script:not([id])').length"


def hostile(folder):
    (film,) = make_films(folder / NAME, [NAME])
    source = folder / "<script>alert(1)"
    row = dumped(STRIKE, "grounding", STRIKE + "[0.1, 0.2, 0.5, 0.6]", 0.5, uid="u_0_0", patient=STRIKE,
                 labels=[STRIKE], question=STRIKE.replace("\u2028", ""))  # fmt: skip
    report = dumped(
        "r", "report", f"<think>{STRIKE}</think>{STRIKE}", 0.1, report=STRIKE, question="q", **{STRIKE: 0.5}
    )
    write_lines(source / "rollouts" / "1.jsonl", [row, row | {"uid": "u_1_0"}, report])
    write_data(source / "data" / "train.parquet", {(STRIKE, "own"): film, ("r", "own"): film})
    found = {"prediction": [[STRIKE[:9], STRIKE]], "reference": [[STRIKE, STRIKE]]}
    scored = {"id": "s", "answer": STRIKE, "reference": STRIKE, "metrics": {STRIKE: 0.1}, "image": str(film)}
    scored |= {"entities": found, "explanation": f"{STRIKE} said the judge", "films": STRIKE}
    results = write_results(folder / f"{STRIKE[:9].replace('/', '')}" / "b" / "own", [scored])
    page.write_page(folder / "viewer.html", [source, results], [source / "data"])
    return folder / "viewer.html"


def test_no_text_becomes_markup(shown, tmp_path):
    viewer = shown.open(hostile(tmp_path))
    assert viewer.count("#films option") == 3
    for _ in range(3):
        assert viewer("return window.hacked") is None
        assert viewer(ELEMENTS) == 1  # the page's own script
        viewer.press("t", "j")
    viewer.put("#task", "=grounding")
    assert STRIKE in viewer.text(".answer")
    assert STRIKE in viewer.text("#head dd")
    assert NAME in viewer.text("#head dd")
    assert STRIKE in viewer.put("#task", "=report").put("#search", "{{7*7}}").text("#answers")
    assert viewer.put("#search", "said the judge").listed() == ["s"]
    assert f"{STRIKE} said the judge" in viewer.text(".card details")
    assert viewer("return window.hacked") is None


def test_markup_that_a_defect_would_let_in_could_do_nothing(shown, tmp_path):
    viewer = shown.open(hostile(tmp_path))
    viewer("document.getElementById('notes').innerHTML = arguments[0]", STRIKE)
    viewer("const made = document.createElement('script'); made.textContent = 'hacked = 2'; document.body.append(made)")
    assert viewer.settle()("return window.hacked") is None
    said = [entry["message"] for entry in viewer.window.get_log("browser")]
    assert any("Content Security Policy" in message for message in said)


def test_nothing_is_fetched(shown, tmp_path):
    path = hostile(tmp_path)
    shown.window.get_log("performance")
    viewer = shown.open(path)
    viewer.press("j", "j", "t")
    events = [json.loads(entry["message"])["message"] for entry in viewer.window.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked  # the page itself
    assert {url for url in asked if not url.startswith("data:")} == {path.as_uri()}


def test_five_thousand_answers_scroll_smoothly(shown, tmp_path):
    run = large_run(tmp_path / "run", 5000)
    page.write_page(run / "viewer.html", [run], [run / "data"])
    viewer = shown.open(run / "viewer.html")
    assert viewer("return state.shown.length") == 5000
    times = viewer.window.execute_async_script(MEASURE, 300, 60)
    # The median, because other work on the machine delays single frames; tests/bench/bench_viewer.py has the limit.
    assert sorted(times)[30] < 100
    assert viewer.count(".row") < 40
    last = viewer("return Math.max(...[...document.querySelectorAll('.row')].map((row) => row.ariaPosInSet))")
    assert last > 150
    bottom = viewer("const l = document.getElementById('list'); l.scrollTop = l.scrollHeight; return l.scrollTop")
    assert bottom > 400_000
    assert viewer.settle().count("#row-4999") == 1
