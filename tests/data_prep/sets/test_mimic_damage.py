"""What is wrong with MIMIC-CXR's files is told with file and line, and never becomes a row."""

import gzip
import json
import re
import shutil
import warnings
import zipfile
from collections import Counter

import pytest
from fixtures import chest_imagenome, ms_cxr
from fixtures import mimic_cxr as fixture

from data_prep.cli import main

METADATA, SPLIT = "mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-split.csv"
FIRST = fixture.report_name(50414267)


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command on the folder and the reports as they are; gives status, messages and ids."""
    root = fixture.write_tables(tmp_path / "jpg")
    fixture.write_zip(tmp_path / "mimic-cxr-reports.zip")

    def convert(rows, *options, reports="mimic-cxr-reports.zip"):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        arguments = ["--root", str(root), "--reports", str(tmp_path / reports), "--out", str(out)]
        status = main(["mimic_cxr", *arguments, "--section", "fallback", *options])
        files = [out / f"{split}.parquet" for split in ("train", "val", "test")]
        written = {row["extra_info"]["id"] for file in files if file.exists() for row in rows(file)}
        return status, capsys.readouterr().err, written

    return convert


def kinds(tmp_path):
    path = tmp_path / "out/problems.jsonl"
    return Counter(json.loads(line)["kind"] for line in path.read_text().splitlines()) if path.exists() else Counter()


def replace(name, old, new):
    def damage(folder):
        path = folder / "jpg" / name
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return damage


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def cut_gzip(folder):
    path = folder / "jpg" / METADATA
    packed = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_name(f"{METADATA}.gz").write_bytes(packed[:-20])


def no_gzip(folder):
    path = folder / "jpg" / METADATA
    path.rename(path.with_name(f"{METADATA}.gz"))


def other_encoding(folder):
    path = folder / "jpg" / SPLIT
    path.write_text(path.read_text(), encoding="utf-16")


STOPS = {
    "no metadata": (lambda folder: (folder / "jpg" / METADATA).unlink(), 2, f"neither .*{METADATA} nor"),
    "no split file": (lambda folder: (folder / "jpg" / SPLIT).unlink(), 2, "--mimic-splits: neither"),
    "no reports": (lambda folder: (folder / "mimic-cxr-reports.zip").unlink(), 2, "--reports .* is missing"),
    "no column": (replace(METADATA, b"Columns", b"Width"), 2, "has no column Columns; it has dicom_id"),
    "empty table": (cut(f"jpg/{METADATA}", 0), 2, "has no column dicom_id"),
    "cut table": (cut(f"jpg/{METADATA}", 300), 1, "line 2: 6 fields where the header has 12"),
    "cut gzip": (cut_gzip, 1, f"{METADATA}.gz is damaged"),
    "no gzip": (no_gzip, 1, "is not a gzip file"),
    "other encoding": (other_encoding, 1, "not in UTF-8"),
    "Latin-1": (replace(METADATA, b"CHEST", b"CH\xc9ST"), 1, r"not in UTF-8 \(byte 0xc9\)"),
    "two splits": (replace(SPLIT, b"10000032,train", b"10000032,test"), 1, "subject 10000032 is in two splits"),
    "unknown split": (replace(SPLIT, b"validate", b"validation"), 1, "'validation' of subject 10000764 is none of"),
    "cut zip": (cut("mimic-cxr-reports.zip", 500), 1, "is not a zip archive, or cut short"),
}


@pytest.mark.parametrize(("damage", "status", "message"), STOPS.values(), ids=STOPS)
def test_a_damaged_file_stops_the_run(run, rows, tmp_path, damage, status, message):
    damage(tmp_path)
    stopped, told, written = run(rows)
    assert stopped == status and not written
    assert re.search(message, told), told
    assert list((tmp_path / "out").iterdir()) == []


def change_archive(change):
    """Writes the archive anew; `change` adds to it, in place of the first report if it says True."""

    def damage(folder):
        with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            skip = change(archive)
            for study, text in fixture.REPORTS.items():
                if not (skip and study == 50414267):
                    archive.writestr(fixture.report_name(study), text)

    return damage


def twice(archive):
    archive.writestr(FIRST, fixture.REPORTS[50414267])


def bomb(archive):
    archive.writestr(FIRST, b" " * (64 << 20))
    return True


def wrong_checksum(folder):
    path = folder / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(FIRST).header_offset
    content = bytearray(path.read_bytes())
    content[start + 30 + len(FIRST) + 20] ^= 0xFF
    path.write_bytes(content)


PROBLEMS = {
    "duplicate image": (
        lambda folder: (folder / "jpg" / METADATA).write_text(
            (folder / "jpg" / METADATA).read_text() + (folder / "jpg" / METADATA).read_text().splitlines()[1]
        ),
        "duplicate_id",
        4,
    ),
    "path in a csv": (replace(METADATA, b"10000764", b"../../etc"), "bad_id", 3),
    "study as a float": (replace(METADATA, b"57375967", b"57375967.0"), "bad_id", 3),
    "no size": (replace(METADATA, b"57375967,CHEST (PA AND LAT),AP,3056", b"57375967,C,AP,"), "bad_size", 3),
    "negative size": (replace(METADATA, b"57375967,CHEST (PA AND LAT),AP,3056", b"57375967,C,AP,-9"), "bad_size", 3),
    "study of two patients": (replace(METADATA, b"10000032,50414268", b"10000764,50414268"), "two_patients", 3),
    "no split": (replace(SPLIT, b"10000764,validate", b"10000765,validate"), "no_split", 3),
    "path traversal": (change_archive(lambda archive: archive.writestr("../../evil.txt", "x")), "unsafe_path", 4),
    "absolute path": (change_archive(lambda archive: archive.writestr("/etc/evil", "x")), "unsafe_path", 4),
    "zip bomb": (change_archive(bomb), "unreadable_report", 3),
    "no UTF-8": (change_archive(lambda archive: archive.writestr(FIRST, b"\xff\xfe") or True), "unreadable_report", 3),
    "wrong checksum": (wrong_checksum, "unreadable_report", 3),
    "missing report": (change_archive(lambda archive: True), "missing_report", 3),
}


@pytest.mark.parametrize(("damage", "kind", "left"), PROBLEMS.values(), ids=PROBLEMS)
def test_a_damaged_entry_is_counted_listed_and_refused_under_strict(run, rows, tmp_path, damage, kind, left):
    damage(tmp_path)
    status, told, written = run(rows, "--strict")
    assert status == 1 and kind in told and not written and list((tmp_path / "out").iterdir()) == []
    status, told, written = run(rows)
    assert status == 0 and kinds(tmp_path) == {kind: 1} and len(written) == left
    assert not list(tmp_path.parent.rglob("evil*"))


def test_a_report_twice_in_the_archive(run, rows, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        change_archive(twice)(tmp_path)
    status, _, written = run(rows)
    assert status == 0 and kinds(tmp_path) == {"duplicate_id": 1} and len(written) == 4


def test_the_same_defects_in_a_folder_of_reports(run, rows, tmp_path):
    folder = fixture.write_folder(tmp_path / "reports")
    (folder / FIRST).write_bytes(b"\xff\xfe")
    (folder / fixture.report_name(50414268)).unlink()
    (folder / fixture.report_name(58913004)).unlink()
    (folder / fixture.report_name(58913004)).mkdir()
    status, _, written = run(rows, reports="reports")
    assert status == 0 and kinds(tmp_path) == {"unreadable_report": 2, "missing_report": 1} and len(written) == 1


def test_the_same_defects_in_the_section_file(run, rows, tmp_path):
    fixture.write_sectioned(tmp_path / "a.csv", [*fixture.SECTIONED[1:], fixture.SECTIONED[1]])
    status, _, written = run(rows, reports="a.csv")
    assert status == 0 and kinds(tmp_path) == {"missing_report": 1, "duplicate_id": 1} and len(written) == 3


def test_a_byte_order_mark_is_no_part_of_a_name(run, rows, tmp_path):
    path = tmp_path / "jpg" / METADATA
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert run(rows)[0] == 0


@pytest.mark.parametrize("name", ["reports.tar", "empty"])
def test_reports_that_are_none_of_the_three(run, rows, tmp_path, name):
    (tmp_path / "reports.tar").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    status, told, _ = run(rows, reports=name)
    assert status == 2 and f"--reports {tmp_path / name}" in told


def test_another_split_file_can_be_named(run, rows, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text((tmp_path / "jpg" / SPLIT).read_text().replace("validate", "test"))
    _, _, _ = run(rows, "--mimic-splits", str(path))
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"train.parquet", "test.parquet"}
    assert not (tmp_path / "out/val.parquet").exists()


def repack(folder, rename, reports=fixture.REPORTS):
    with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w") as archive:
        for study, text in reports.items():
            archive.writestr(rename(fixture.report_name(study)), text)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"mimic-cxr-reports/{name}",
        lambda name: name.replace("/", "\\"),
        lambda name: name.removeprefix("files/"),
        lambda name: name,
    ],
    ids=["folder on top", "backslashes", "no files", "as published"],
)
def test_reports_packed_anew_are_found(run, rows, tmp_path, rename):
    repack(tmp_path, rename, {study: f"\ufeff{text}" for study, text in fixture.REPORTS.items()})
    status, told, written = run(rows, "--strict")
    assert status == 0 and len(written) == 4, told


@pytest.mark.parametrize("source", ["zip", "folder", "csv"])
def test_without_one_of_the_reports_there_is_one_message(run, rows, tmp_path, source):
    repack(tmp_path, lambda name: f"{name}.bak")
    (tmp_path / "folder/files").mkdir(parents=True)
    fixture.write_sectioned(tmp_path / "a.csv", [("s59999999", "a", "b", "", "")])
    names = {"zip": "mimic-cxr-reports.zip", "folder": "folder", "csv": "a.csv"}
    status, told, _ = run(rows, reports=names[source])
    assert status == 1 and "has none of the 4 reports" in told and told.count("s50414267") <= 1


def test_a_root_without_any_film_is_refused(run, rows, tmp_path):
    shutil.rmtree(tmp_path / "jpg/files")
    status, told, written = run(rows)
    assert status == 2 and f"--root {tmp_path / 'jpg'} holds no film" in told and not written


@pytest.mark.parametrize("name", ["mimic_cxr", "ms_cxr", "chest_imagenome"])
def test_a_root_with_another_patients_film_alone_is_refused(run, tmp_path, capsys, name):
    given = {
        "mimic_cxr": ["--reports", str(tmp_path / "mimic-cxr-reports.zip"), "--section", "fallback"],
        "ms_cxr": ["--annotations", str(ms_cxr.write_csv(tmp_path))],
        "chest_imagenome": ["--annotations", str(chest_imagenome.write_zip(tmp_path / "cig"))],
    }
    command = [name, "--root", str(tmp_path / "jpg"), "--out", str(tmp_path / "out"), *given[name]]
    assert main(command) == 0
    shutil.rmtree(tmp_path / "jpg/files")
    fixture.write_image(tmp_path / "jpg", (19999999, 59999999, fixture.dicom(99)))
    assert main(command) == 1
    told = capsys.readouterr().err
    assert "images that were looked for are not in" in told and "--check-images" in told


def test_one_missing_film_does_not_end_an_embedding_run(run, rows, tmp_path):
    fixture.image_path(tmp_path / "jpg", fixture.FILMS[0]).unlink()
    status, _, written = run(rows, "--embed")
    assert status == 0 and written == {"s50414268", "s57375967", "s58913004"}
    assert kinds(tmp_path) == {"missing_image": 1}


@pytest.mark.parametrize("text", ["None.", "nan", "..."])
def test_a_section_that_says_nothing_is_a_problem(run, rows, tmp_path, text):
    repack(tmp_path, lambda name: name, fixture.REPORTS | {58913004: f"FINAL REPORT\n FINDINGS:  {text}\n"})
    assert run(rows)[0] == 0 and kinds(tmp_path) == {"placeholder_report": 1}
