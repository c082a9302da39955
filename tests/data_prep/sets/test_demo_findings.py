import re
from collections import Counter

import numpy as np
import pytest

from data_prep.sets.demo.anatomy import SIZE, Anatomy, Exposure
from data_prep.sets.demo.findings import KINDS, SIDES, Film, draw_findings, phrase, render, report


def films(count, start=0):
    for number in range(start, start + count):
        rng = np.random.default_rng([11, number])
        yield Film(Anatomy.draw(rng), Exposure.draw(rng), draw_findings(rng))


def test_all_kinds_and_sides_occur_and_places_do_not_collide():
    kinds, sides = Counter(), Counter()
    for film in films(400):
        kinds.update(finding.kind for finding in film.findings)
        sides.update((finding.kind, finding.side) for finding in film.findings)
        lesions = [(finding.side, finding.zone) for finding in film.findings if finding.zone]
        assert len(lesions) == len(set(lesions))
        assert len({finding.kind for finding in film.findings}) <= 3
    assert set(kinds) == set(KINDS) and min(kinds.values()) >= 15
    for kind in ("opacity", "nodule", "pleural effusion", "pneumothorax", "pacemaker"):
        assert {side for found, side in sides if found == kind} == set(SIDES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_finding_changes_the_film_inside_its_box_and_fills_it(kind):
    """Draw a film with and without one finding: the difference and the box must agree."""
    seen = 0
    for film in films(150):
        for finding in film.findings:
            if finding.kind != kind:
                continue
            seen += 1
            alone = film._replace(findings=(finding,))
            drawn, boxed = render(alone)
            without, _ = render(film._replace(findings=()))
            change = np.abs(drawn.astype(float) - without)
            (_, box), = boxed  # fmt: skip
            x1, y1, x2, y2 = (round(value * SIZE) for value in (box.x1, box.y1, box.x2, box.y2))
            margin = 4
            inside = change[max(0, y1 - margin) : y2 + margin, max(0, x1 - margin) : x2 + margin]
            assert inside.sum() > 0.97 * change.sum()
            # Every side of the box is touched by a visible change; soft edges fade over a share of the lesion.
            slack = max(7, 0.25 * (x2 - x1), 0.25 * (y2 - y1))
            strong = change > 0.15 * change.max()
            rows, columns = np.flatnonzero(strong.any(1)), np.flatnonzero(strong.any(0))
            assert abs(columns[0] - x1) <= slack and abs(columns[-1] + 1 - x2) <= slack
            assert abs(rows[0] - y1) <= slack
            # The lower border of the heart and of fluid lies on the equally dense upper abdomen.
            assert rows[-1] + 1 - y2 <= slack
            assert change.max() > 40, "too faint to see"
    assert seen >= 5


def test_the_patients_left_is_at_the_right_of_the_image():
    for film in films(150):
        for finding, box in render(film)[1]:
            if finding.side and finding.kind != "pacemaker":
                assert ((box.x1 + box.x2) / 2 > 0.5) == (finding.side == "left")


def test_pixels_are_a_film_not_noise():
    for film in films(20):
        pixels, _ = render(film)
        assert pixels.shape == (SIZE, SIZE) and pixels.dtype == np.uint8
        assert 50 < pixels.mean() < 180 and pixels.std() > 35
        assert (pixels == 255).mean() < 0.05


def test_reports_say_what_is_there_and_where():
    for number, film in enumerate(films(200)):
        text = report(film.findings, np.random.default_rng(number))
        assert 2 <= text.count(".") <= 8
        for finding in film.findings:
            if finding.zone:
                place = f"{finding.side} {finding.zone}"
                told = (
                    f"{finding.kind} is seen in the {place} lung zone",
                    f"{finding.kind} in the {place} lung zone",
                    f"{place} zone {finding.kind}",
                )
                shown = rf"the {place} lung zone shows an? {finding.kind}"
                assert any(words in text.lower() for words in told) or re.search(shown, text.lower()), text
        present = {finding.kind for finding in film.findings}
        enlarged = ("is enlarged", "is increased", "Cardiomegaly.", "Large cardiac silhouette")
        assert any(words in text for words in enlarged) == ("enlarged heart" in present), text
        for kind in ("effusion", "pneumothorax"):
            positive = [
                s
                for s in text.split(". ")
                if kind in s.lower() and not s.startswith(("No ", "Neither", "There is no "))
            ]
            assert bool(positive) == any(kind in found for found in present), text


def test_phrases_say_where_to_look_unless_there_are_several_places():
    for film in films(200):
        for kind in {finding.kind for finding in film.findings}:
            findings = [finding for finding in film.findings if finding.kind == kind]
            asked = phrase(kind, findings)
            assert kind in asked
            sides = {finding.side for finding in findings}
            if kind in ("opacity", "nodule"):
                place = f" in the {findings[0].side} {findings[0].zone} lung zone" if len(findings) == 1 else ""
                assert asked == kind + place
            elif kind in ("pleural effusion", "pneumothorax", "pacemaker") and len(sides) == 1:
                assert asked == f"{sides.pop()} {kind}"
            else:
                assert asked == kind
