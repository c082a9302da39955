import re
from pathlib import Path

import pytest
from PIL import Image

from recipe.cxr_grpo.results import validation
from recipe.cxr_grpo.viewing import report

pytest.importorskip("matplotlib")


@pytest.fixture
def page(tmp_path):
    Image.new("L", (8, 8), 128).save(tmp_path / "film.png")

    def row(sample_id, task, answer, score):
        truth = {"boxes": [[0.1, 0.2, 0.3, 0.4]], "labels": [""], "frame": [8, 8], "report": "Lungs <b>clear</b>."}
        return validation.Row(sample_id, "p", task, "radvlm", "user\nLocate <x>.\nassistant", answer, truth, score)

    before = {"a": row("a", "grounding", "no box", 0.0), "r": row("r", "report", "<script>alert(1)</script>", 0.5)}
    after = {"a": row("a", "grounding", "[0.5, 0.5, 0.75, 1.0]", 0.7), "r": row("r", "report", "Clear.", 0.6)}
    gap = {"own": 0.7, "swapped": 0.25, "difference": {"mean": 0.45, "n": 1, "ci95": (0.4, 0.5)}}
    found = {"before": {"grounding": gap}, "after": {"grounding": gap}}
    found |= {"change": {"grounding": {"mean": 0.125, "n": 1, "ci95": (0.1, 0.15)}}}
    summary = validation.compare(before, after) | {
        "settings": {},
        "seconds": {},
        "scoring": {},
        "versions": {},
        "decoding": "a < b",
    }
    summary["films"] = found
    images = dict.fromkeys(before, tmp_path / "film.png")
    report.write_page(
        tmp_path / "report.html",
        summary,
        {"gleu": {3: validation.Estimate(0.1, 9, (0, 0.2)), 8: validation.Estimate(0.3, 9, (0.2, 0.4))}},
        {"gleu": {0: 0.1}},
        before,
        after,
        images,
    )
    return Path(tmp_path / "report.html").read_text()


def test_what_a_model_wrote_is_escaped(page):
    assert page.count("<script>") == 1  # the page's own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "Lungs &lt;b&gt;clear&lt;/b&gt;." in page
    assert "Locate &lt;x&gt;." in page
    assert "Answers: a &lt; b." in page


def test_nothing_is_fetched(page):
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert addresses
    assert all(address.startswith(("data:", "#")) or address == "viewer.html" for address in addresses)


def test_boxes_are_drawn_where_they_are(page, tmp_path, shown):
    viewer = shown.open(tmp_path / "report.html")
    drawn = viewer(
        """return [...document.querySelectorAll("figure .film rect")].map((rect) =>
          [rect.parentNode.getAttribute("class"), ...["x", "y", "width", "height"].map((of) => rect[of].baseVal.value)]
        )"""
    )
    assert [kind for kind, *_ in drawn] == ["reference", "after"]  # before has none
    assert drawn[0][1:] == pytest.approx([10, 20, 20, 20])
    assert drawn[1][1:] == pytest.approx([50, 50, 25, 50])
    assert viewer.count("figure .film image") == 2
    assert not [entry for entry in viewer.window.get_log("browser") if entry["level"] == "SEVERE"]


def test_film_dependence_is_said_in_a_sentence(page):
    words = re.sub(r"<[^>]*>|\s+", " ", page)
    assert re.search(
        r"earn 0\.700 on the patient's own film and 0\.250 on another patient's, so 0\.450", " ".join(words.split())
    )
    assert "the change is +0.125 (+0.100 to +0.150)" in " ".join(words.split())


def test_samples_are_chosen_by_rule():
    gains = {f"{i:02}": (i * 3 + 9) % 10 / 10 for i in range(10)}  # 00: 0.9, 01: 0.2, ...
    picked = report.chosen(gains, 2)
    assert [i for rule, i in picked if rule == "first"] == ["00", "01"]
    assert [gains[i] for rule, i in picked if rule == "worst gain"] == [0.0, 0.1]
    assert sorted(gains[i] for rule, i in picked if rule == "median gain") == [0.4, 0.5]
    assert report.chosen({}, 2) == []


def test_numbers_are_those_of_the_summary(page):
    assert re.search(r"grounding</td><td>0\.000</td><td>0\.700</td><td>\+0\.700", page)
