import io
import os
import tarfile
from pathlib import Path

import pytest
from defusedxml import ElementTree

from data_prep.rewrite.rules import COMPARISON, MARK, visible_only

REAL = Path(os.environ.get("CXR_GRPO_REAL_DATA", Path(__file__).parents[4] / "shared" / "data" / "real"))


@pytest.mark.parametrize(
    ("report", "left"),
    [
        ("The lungs are clear.\nNo effusion.", "The lungs are clear. No effusion."),
        ("Right effusion, unchanged from the prior study. Heart is large.", "Right effusion. Heart is large."),
        ("In comparison with the study of ___, there is little change.", ""),
        ("As compared to the previous radiograph, the nodule is seen.", "The nodule is seen."),
        ("Compared to prior there is a new opacity.", "There is an opacity."),
        ("Left effusion has increased in size.", "Left effusion."),
        ("Opacities are unchanged and compatible with scars.", "Opacities are compatible with scars."),
        ("Cardiomediastinal silhouette is stable. Clear lungs.", "Clear lungs."),
        ("There is stable elevation of the right hemidiaphragm.", "There is elevation of the right hemidiaphragm."),
        ("Grossly unchanged appearance of the aorta.", "Appearance of the aorta."),
        ("Interval placement of a chest tube.", "A chest tube."),
        ("Interval removal of the ET tube. PICC is again seen.", "PICC is seen."),
        ("The left pneumothorax is no longer seen. Effusion has resolved.", ""),
        ("No new consolidation. No prior films available for comparison.", ""),
        ("Findings were discussed with Dr. ___ by phone at 9:00. Clear.", "Clear."),
        ("PA and lateral views of the chest were obtained. Follow-up is recommended. Clear lungs.", "Clear lungs."),
        ("Indication: cough. Comparison: ___. 1. Small nodule.", "Small nodule."),
        ("The XXXX are unremarkable. XXXX XXXX opacity on the left.", "Opacity on the left."),
        ("No acute disease since the XXXX. Seen on XXXX.", "No acute disease."),
        ("Otherwise normal chest x-XXXX.", "Otherwise normal chest."),
        ("Status post prior sternotomy.", "Status post prior sternotomy."),
        ("The nodule measures 1.5 cm.", "The nodule measures 1.5 cm."),
        ("", ""),
        ("___", ""),
    ],
)
def test_what_one_film_shows(report, left):
    assert visible_only(report) == left


def test_it_is_done_at_once():
    report = "The heart is unchanged. Small left effusion, new since ___."
    assert visible_only(visible_only(report)) == visible_only(report) == "The heart. Small left effusion."


def test_hostile_text_takes_linear_time():
    for text in ("interval " * 5_000, "_" * 50_000, "X " * 10_000, "prior " * 5_000, "compared to " * 3_000):
        visible_only(text)


def test_the_reports_of_openi():
    archive = REAL / "NLMCXR_reports.tgz"
    if not archive.exists():
        pytest.skip(f"no {archive}")
    compared_before = compared_after = 0
    with tarfile.open(archive) as files:
        for member in list(files)[:600]:
            if member.name.endswith(".xml"):
                root = ElementTree.parse(io.BytesIO(files.extractfile(member).read())).getroot()
                report = " ".join(part.text or "" for part in root.iter("AbstractText"))
                left = visible_only(report)
                assert not MARK.search(left)
                compared_before += bool(COMPARISON.search(report))
                compared_after += bool(COMPARISON.search(left))
    assert compared_before > 100
    assert compared_after <= 0.02 * compared_before
