import json
import shutil
from collections import Counter

import pytest
from fixtures import mimic_cxr as fixture

from data_prep.cli import main

SOURCES = {
    "zip": lambda folder: fixture.write_zip(folder / "mimic-cxr-reports.zip"),
    "folder": lambda folder: fixture.write_folder(folder / "mimic-cxr"),
    "files in it": lambda folder: fixture.write_folder(folder / "mimic-cxr") / "files",
    "sectioned": lambda folder: fixture.write_sectioned(folder / "mimic_cxr_sectioned.csv"),
}


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command on the fixture; gives status, messages, rows by id and problems."""

    def convert(rows, *options, reports=None, root=None):
        root = root or fixture.write_tables(tmp_path / "jpg")
        reports = reports or fixture.write_zip(tmp_path / "mimic-cxr-reports.zip")
        arguments = ["mimic_cxr", "--root", str(root), "--reports", str(reports), "--out", str(tmp_path / "out")]
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        status = main([*arguments, *options])
        written = {
            row["extra_info"]["id"]: row
            for split in ("train", "val", "test")
            if (tmp_path / f"out/{split}.parquet").exists()
            for row in rows(tmp_path / f"out/{split}.parquet")
        }
        return status, capsys.readouterr().err, written

    return convert


def texts(written):
    return {name: json.loads(row["reward_model"]["ground_truth"])["report"] for name, row in written.items()}


def kinds(tmp_path):
    path = tmp_path / "out/problems.jsonl"
    return Counter(json.loads(line)["kind"] for line in path.read_text().splitlines()) if path.exists() else Counter()


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("gz", [False, True])
def test_findings_become_rows_from_every_source(run, rows, tmp_path, source, gz):
    root = fixture.write_tables(tmp_path / "jpg", gz=gz)
    status, told, written = run(rows, "--strict", reports=source(tmp_path), root=root)
    assert status == 0
    assert texts(written) == {
        "s50414267": "There is a small effusion on the right. No pneumothorax.",
        "s58913004": "The heart is large.",
    }
    assert (
        "without the section asked for (findings): 2" in told
        and "without regular sections, which the official rules leave out: 1" in told
    )
    assert "studies without a film of view PA or AP: 2" in told
    row = written["s50414267"]
    assert row["data_source"] == "mimic_cxr/report"
    assert row["images"][0]["image"] == f"file://{fixture.image_path(root, fixture.FILMS[0])}"  # PA before AP
    extra = row["extra_info"]
    assert (extra["width"], extra["height"]) == (2544, 3056)  # Columns x Rows
    assert extra["patient_id"] == "p10000032" and extra["split"] == "train"
    assert written["s58913004"]["extra_info"]["split"] == "test"


def test_sections(run, rows):
    _, _, written = run(rows, "--section", "impression")
    assert texts(written) == {"s50414267": "Small effusion.", "s50414268": "Clear lungs."}
    _, _, written = run(rows, "--section", "both")
    report = "Findings: There is a small effusion on the right. No pneumothorax. Impression: Small effusion."
    assert texts(written) == {"s50414267": report}
    _, _, written = run(rows, "--section", "fallback")
    assert set(texts(written)) == {"s50414267", "s50414268", "s57375967", "s58913004"}
    assert texts(written)["s57375967"] == "A line ends in the right atrium."


def test_validate_is_val(run, rows):
    _, _, written = run(rows, "--section", "fallback")
    assert written["s57375967"]["extra_info"]["split"] == "val"


def test_one_row_per_image(run, rows):
    _, _, written = run(rows, "--section", "impression", "--per", "image")
    first, second = fixture.dicom(3), fixture.dicom(4)
    assert {name for name in written if name.startswith("s50414268")} == {f"s50414268-{first}", f"s50414268-{second}"}
    assert len(written) == 4 and len(set(texts(written).values())) == 2
    assert written[f"s50414268-{first}"]["extra_info"]["height"] == 2001


def test_the_film_of_a_study_does_not_depend_on_the_order_of_the_table(run, rows, tmp_path):
    def images(films):
        root = fixture.write_tables(tmp_path / "jpg", films=films)
        _, _, written = run(rows, "--section", "fallback", root=root)
        return {name: row["images"] for name, row in written.items()}

    assert images(fixture.FILMS) == images(fixture.FILMS[::-1])
    assert fixture.dicom(3) in images(fixture.FILMS)["s50414268"][0]["image"]


def test_other_views_can_be_asked_for(run, rows):
    _, _, written = run(rows, "--views", "LL", "LATERAL")
    assert set(written) == {"s50414267", "s50000001"}
    assert fixture.dicom(2) in written["s50414267"]["images"][0]["image"]


def test_images_are_looked_for_only_when_asked(run, rows, tmp_path):
    root = fixture.write_tables(tmp_path / "jpg")
    shutil.rmtree(root / "files")
    fixture.write_image(root, fixture.FILMS[0])
    status, _, written = run(rows, "--check-images", root=root)
    assert status == 0 and set(written) == {"s50414267"} and kinds(tmp_path) == {"missing_image": 1}
    status, told, _ = run(rows, "--check-images", "--strict", root=root)
    assert status == 1 and "missing_image" in told


def test_published_counts_are_compared(run, rows):
    _, told, _ = run(rows)
    assert "227,835" in told and "377,110" in told


def test_a_blank_view_is_counted_and_can_be_asked_for(run, rows):
    _, told, _ = run(rows)
    assert "images with a blank ViewPosition, not used (--views PA AP UNKNOWN uses them): 1" in told
    assert "s50000002" in run(rows, "--views", "PA", "AP", "UNKNOWN")[2]


def asked(row):
    return row["prompt"][0]["content"]


def test_indication_and_lateral_view(run, rows):
    _, _, written = run(rows, "--context", "indication,lateral", "--section", "fallback")
    first, second = written["s50414267"], written["s57375967"]
    assert "Indication for this examination: ___F with cough\n" in asked(first)
    assert [image["image"].rpartition("/")[2] for image in first["images"]] == [
        f"{fixture.dicom(9)}.jpg", f"{fixture.dicom(2)}.jpg"
    ]  # fmt: skip
    # The history ends where the report begins.
    assert "Indication for this examination: Fever.\n" in asked(second) and "right atrium" not in asked(second)
    assert len(second["images"]) == 1 and "Indication" not in asked(run(rows)[2]["s50414267"])


@pytest.mark.parametrize(
    ("dates", "prior"),
    [
        # Without leading zeros, 9:30:14 comes before 21:30:14.
        ({50414267: (21800506, "93014.531"), 50414268: (21800506, "213014.531")}, "50414268"),
        ({50414267: (21800507, "213014.531"), 50414268: (21800506, "220000")}, "50414267"),
        ({50414267: (21800506, "213014.531"), 50414268: (21800506, "213014.531")}, None),
        ({50414267: ("", ""), 50414268: (21800506, "213014.531")}, None),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_previous_report_is_of_a_strictly_earlier_study_of_the_patient(run, rows, tmp_path, dates, prior, reverse):
    root = fixture.write_tables(tmp_path / "jpg", fixture.FILMS[::-1] if reverse else fixture.FILMS, dates=dates)
    _, _, written = run(rows, "--context", "prior", "--section", "fallback", root=root)
    texts = {
        "50414268": "Findings: There is a small effusion on the right. No pneumothorax. Impression: Small effusion.",
        "50414267": "Impression: Clear lungs.",
    }
    shown = {name[1:]: asked(row) for name, row in written.items() if "Report of the previous" in asked(row)}
    assert set(shown) == ({prior} if prior else set())
    if prior:
        assert f"Report of the previous examination: {texts[prior]}\n" in shown[prior]


def test_the_report_of_a_study_without_a_frontal_film_can_be_the_previous_one(run, rows, tmp_path):
    films = [*fixture.FILMS[3:5], *((s, t, d, "LATERAL", w, h) for s, t, d, _, w, h in fixture.FILMS[:3])]
    root = fixture.write_tables(tmp_path / "jpg", films, dates={50414268: (21800507, "1")})
    _, _, written = run(rows, "--context", "prior", "--section", "impression", root=root)
    assert list(written) == ["s50414268"] and "Small effusion" in asked(written["s50414268"])


def test_the_section_file_has_no_indications(run, rows, tmp_path):
    reports = SOURCES["sectioned"](tmp_path)
    status, told, _ = run(rows, "--context", "prior", reports=reports)
    assert status == 2 and "--reports mimic-cxr-reports.zip" in told
