import copy
import json
import shutil
from collections import Counter

import pytest
from fixtures import rexgradient as fixture

from data_prep.cli import main

TRAIN = "metadata/train_metadata_view_position.json"
FIRST = "pGRDNONE_aGRDNA1_s1"


@pytest.fixture
def run(tmp_path, capsys):
    def convert(rows, root, *options):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        status = main(["rexgradient", "--root", str(root), "--out", str(out), *options])
        files = [out / f"{split}.parquet" for split in ("train", "val", "test")]
        written = {row["extra_info"]["id"]: row for file in files if file.exists() for row in rows(file)}
        return status, capsys.readouterr().err, written

    return convert


def texts(written):
    return {name: json.loads(row["reward_model"]["ground_truth"])["report"] for name, row in written.items()}


def kinds(tmp_path):
    path = tmp_path / "out/problems.jsonl"
    return Counter(json.loads(line)["kind"] for line in path.read_text().splitlines()) if path.exists() else Counter()


@pytest.mark.parametrize("indent", [None, 4])
def test_findings_become_rows(run, rows, tmp_path, indent):
    root = fixture.write(tmp_path / "rex", indent=indent)
    status, told, written = run(rows, root, "--strict")
    assert status == 0
    assert texts(written) == {
        FIRST: "Clear lungs.",
        "pGRDNVAL_aGRDNA8_s8": "Large heart.",
        "pGRDNTEST_aGRDNA9_s9": "Small effusion.",
    }
    row = written[FIRST]
    # PA before AP, and without the way out of metadata/.
    assert row["images"][0]["image"] == f"file://{root}/{fixture.image('GRDNONE', 3).removeprefix('../')}"
    assert (row["extra_info"]["width"], row["extra_info"]["height"]) == fixture.SIZE
    assert row["extra_info"]["patient_id"] == "GRDNONE"
    assert written["pGRDNVAL_aGRDNA8_s8"]["extra_info"]["split"] == "val"
    assert (
        "reports without the section asked for (findings): 2" in told and "without a film of view PA or AP: 1" in told
    )
    assert "studies: 6 here, 160,000 as published" in told and "images: 9 here" in told


def test_sections_and_images(run, rows, tmp_path):
    root = fixture.write(tmp_path / "rex")
    assert len(run(rows, root, "--per", "image")[2]) == 4
    _, _, written = run(rows, root, "--section", "impression")
    assert set(texts(written).values()) == {"Normal.", "Large.", "Effusion."}
    _, _, written = run(rows, root, "--section", "both")
    assert texts(written)["pGRDNVAL_aGRDNA8_s8"] == "Findings: Large heart. Impression: Large."


def test_images_can_be_read_by_several_processes(run, rows, tmp_path):
    root = fixture.write(tmp_path / "rex")
    one, two = (run(rows, root, "--per", "image", "--workers", workers)[2] for workers in ("1", "2"))
    assert list(one) == list(two) and one == two


def change(**changes):
    return lambda studies: studies["train"][FIRST].update(changes)


DAMAGES = {
    "no patient": (change(PatientID="None"), "missing_key"),
    "no images": (change(ImagePath=None), "missing_key"),
    "views of other images": (change(ImageViewPosition=["PA"]), "missing_key"),
    "no object": (lambda studies: studies["train"].update({FIRST: 7}), "missing_key"),
    "path outside": (change(ImagePath=["../../etc/passwd"] * 3), "unsafe_path"),
    "path outside by detour": (change(ImagePath=["../deid_png/../../x.png"] * 3), "unsafe_path"),
    "missing image": (change(ImagePath=[fixture.image("GRDNONE", 99)] * 3), "missing_image"),
}


@pytest.mark.parametrize(("damage", "kind"), DAMAGES.values(), ids=DAMAGES)
def test_every_problem_is_counted_listed_and_refused_under_strict(run, rows, tmp_path, damage, kind):
    studies = copy.deepcopy(fixture.STUDIES)
    damage(studies)
    root = fixture.write(tmp_path / "rex", studies)
    status, told, written = run(rows, root, "--strict")
    assert status == 1 and kind in told and not written
    status, _, written = run(rows, root)
    assert status == 0 and len(written) == 2 and set(kinds(tmp_path)) == {kind}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "must hold one object, but holds []"),
        (b'{"a": {', "cut short"),
        (b'{"a": ?}', "is not valid JSON"),
        (b"{} {}", "is not valid JSON"),
        (b'{"\xff": 1}', "can't decode byte 0xff"),
    ],
)
def test_damaged_metadata_stop_the_run(run, rows, tmp_path, content, message):
    root = fixture.write(tmp_path / "rex")
    (root / TRAIN).write_bytes(content)
    status, told, written = run(rows, root)
    assert status == 1 and message in told and TRAIN in told and not written


def test_a_split_can_be_absent_but_not_all(run, rows, tmp_path):
    root = fixture.write(tmp_path / "rex")
    (root / TRAIN).unlink()
    _, told, written = run(rows, root)
    assert len(written) == 2 and "no metadata of the train split: 1" in told
    shutil.rmtree(root / "metadata")
    status, told, _ = run(rows, root)
    assert status == 2 and TRAIN in told


def test_context(run, rows, tmp_path):
    root = fixture.write(tmp_path / "rex")
    _, _, written = run(rows, root, "--context", "indication,lateral", "--section", "fallback")
    first = written[FIRST]
    assert "Indication for this examination: Cough\n" in first["prompt"][0]["content"]
    assert [image["image"].rpartition("/")[2] for image in first["images"]] == ["1.4.3.png", "1.4.1.png"]
    assert len(written["pGRDNVAL_aGRDNA8_s8"]["images"]) == 1


def test_half_a_surrogate_pair_is_listed(run, rows, tmp_path):
    studies = copy.deepcopy(fixture.STUDIES)
    change(Findings="half \ud83d")(studies)
    status, told, written = run(rows, fixture.write(tmp_path / "rex", studies))
    assert status == 0 and len(written) == 2 and set(kinds(tmp_path)) == {"bad_json"} and FIRST in told
