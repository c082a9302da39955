import json
import os
import shutil
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fixtures import openi as fixture

from data_prep.cli import main
from data_prep.problems import Problems
from data_prep.readers import archives

REAL = Path(os.environ.get("CXR_GRPO_REAL_DATA", Path(__file__).parents[4] / "shared/data/real"))
SOURCES = {
    "archive": lambda folder: fixture.write_tgz(folder / "NLMCXR_reports.tgz"),
    "folder": lambda folder: fixture.write_folder(folder / "reports"),
    "kaggle": lambda folder: fixture.write_kaggle(folder / "kaggle"),
}


@pytest.fixture
def run(tmp_path, capsys, rows):
    """Runs the command on the fixture; gives status, messages, rows by id and problems by kind."""

    def convert(*options, reports=None, images=True):
        reports = reports or SOURCES["archive"](tmp_path)
        fixture.write_projections(tmp_path / "indiana_projections.csv")
        if images:
            folder = fixture.write_images(tmp_path / "films", kaggle=reports.suffix == ".csv")
            options = ("--images", str(folder), *options)
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        status = main(["openi", "--reports", str(reports), "--out", str(out), *options])
        files = [out / f"{split}.parquet" for split in ("train", "val", "test")]
        found = {row["extra_info"]["id"]: row for file in files if file.exists() for row in rows(file)}
        listed = (out / "problems.jsonl").read_text() if (out / "problems.jsonl").exists() else ""
        kinds = Counter(json.loads(line)["kind"] for line in listed.splitlines())
        if status:
            assert not out.exists() or list(out.iterdir()) == []
        return status, capsys.readouterr().err, found, kinds

    return convert


def report(row):
    return json.loads(row["reward_model"]["ground_truth"])["report"]


@pytest.mark.parametrize("source", SOURCES)
def test_both_editions_give_the_same_reports_of_frontal_films(run, tmp_path, source):
    status, told, found, kinds = run(reports=SOURCES[source](tmp_path))
    assert status == 0 and not kinds
    assert {name: report(row) for name, row in found.items()} == {
        "CXR1": "The heart is normal. No XXXX of effusion, XXXX.",
        "CXR4": "Small left effusion & 3 cm nodule.",
    }
    assert "with neither findings nor impression, not used: 1" in told
    assert "masked words (XXXX) in them: 2" in told and "section asked for (findings): 1" in told
    assert "studies without a frontal image: 1" in told
    assert ("studies without image: 1" in told) == (source != "kaggle")
    name = found["CXR1"]["images"][0]["image"].rpartition("/")[2]
    assert name == ("1_IM-0001-4001.dcm.png" if source == "kaggle" else "CXR1_1_IM-0001-4001.png")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--section", "impression"], {"CXR1", "CXR2"}),
        (["--section", "both"], {"CXR1"}),
        (["--section", "fallback"], {"CXR1", "CXR2", "CXR4"}),
        (["--views", "all"], {"CXR1", "CXR4", "CXR5"}),
        (["--per", "image"], {"CXR1-CXR1_1_IM-0001-4001", "CXR4-CXR4_IM-2050-1001", "CXR4-CXR4_IM-2050-1002"}),
    ],
)
def test_options(run, options, wanted):
    assert set(run(*options)[2]) == wanted


def test_without_images_there_are_text_rows_on_request(run):
    status, _, found, _ = run("--text-only", "--split", "train", images=False)
    assert status == 0 and set(found) == {"CXR1", "CXR4", "CXR5", "CXR6"}
    assert all(row["images"] == [] and "<image>" not in row["prompt"][0]["content"] for row in found.values())


def test_films_that_are_missing_or_damaged_are_listed(run, tmp_path):
    films = fixture.write_images(tmp_path / "some")
    (films / "CXR1_1_IM-0001-4001.png").unlink()
    whole = (films / "CXR4_IM-2050-1001.png").read_bytes()
    (films / "CXR4_IM-2050-1001.png").write_bytes(whole[:45])
    status, told, found, kinds = run("--images", str(films), images=False)
    assert status == 1 and not found and "1 of 4 reports find no image" in told and kinds == {}
    status, told, found, kinds = run("--images", str(films), "--views", "all", images=False)
    assert status == 0 and set(found) == {"CXR1", "CXR5"}  # of study 1 the lateral film is left
    assert kinds == {"unreadable_image": 1}
    assert "CXR4_IM-2050-1001.png" in told


def damaged(**changes):
    return {**fixture.files(), **{f"ecgen-radiology/{name}": content for name, content in changes.items()}}


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (damaged(**{"1.xml": fixture.xml(fixture.STUDIES[0]).encode()[:300]}), "bad_xml", "1.xml"),
        (damaged(**{"1.xml": b"\xff\xfe" + b"<eCitation/>"}), "bad_xml", "1.xml"),
        (damaged(**{"1.xml": fixture.xml(fixture.STUDIES[0]).replace("heart", "h\xe9art").encode("latin-1")}),
         "bad_xml", "1.xml"),
        (damaged(**{"1.xml": b'<!DOCTYPE a [<!ENTITY b "c">]><eCitation>&b;</eCitation>'}), "bad_xml", "1.xml"),
        (damaged(**{"1.xml": b"<eCitation/>"}), "missing_key", "no uId"),
        (damaged(**{"9.xml": fixture.xml(fixture.STUDIES[0]).encode()}), "duplicate_id", "CXR1 was used before"),
        (damaged(**{"../../9.xml": b"<eCitation/>"}), "unsafe_path", "leaves the archive's folder"),
        (damaged(**{"9.xml": bytes(2**20 + 1)}), "too_large", "1,048,576"),
    ],
)  # fmt: skip
def test_damage_within_the_archive_is_listed_and_the_rest_is_used(run, tmp_path, content, kind, told):
    archive = fixture.write_tgz(tmp_path / "damaged.tgz", content)
    status, messages, found, kinds = run(reports=archive)
    assert status == 0 and kinds[kind] == 1 and told in messages and "CXR4" in found
    assert run("--strict", reports=archive)[0] == 1


def test_links_in_the_archive_are_not_followed(run, tmp_path):
    status, told, _, kinds = run(reports=fixture.write_tgz(tmp_path / "a.tgz", links=("ecgen-radiology/7.xml",)))
    assert status == 0 and kinds["unsafe_path"] == 1 and "7.xml: leaves the archive's folder, or is a link" in told


@pytest.mark.parametrize("damage", ["cut short", "no archive", "flipped bits"])
def test_a_damaged_archive_is_refused(run, tmp_path, damage):
    whole = fixture.write_tgz(tmp_path / "a.tgz").read_bytes()
    middle = len(whole) // 2
    broken = {"cut short": whole[:middle], "no archive": b"<html>", "flipped bits": whole[:middle] + b"\0" * middle}
    (tmp_path / "a.tgz").write_bytes(broken[damage])
    status, told, _, _ = run(reports=tmp_path / "a.tgz")
    assert status == 1 and "a.tgz is not a tar archive, or damaged" in told


def test_an_archive_that_unpacks_without_end_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_LARGEST_ARCHIVE", 4 * 2**20)
    bomb = fixture.write_bomb(tmp_path / "bomb.tgz", 16 * 2**20)
    assert bomb.stat().st_size < 2**17
    status, told, _, _ = run(reports=bomb)
    assert status == 1 and "unpacks to more than 4,194,304 bytes" in told


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        (("uid,MeSH", "id,MeSH"), 2, "has no column uid"),
        (("5,normal", '5,"normal'), 1, "fields where the header has 8"),
        (("Small", "Sm\x00all"), 0, ""),
        (("5,normal", "4,normal"), 0, "duplicate_id: 1"),
        (("5,normal", " ,normal"), 0, "missing_key: 1"),
    ],
)
def test_damage_in_the_reports_of_the_csv_edition(run, tmp_path, change, status, told):
    path = SOURCES["kaggle"](tmp_path)
    path.write_text(path.read_text().replace(*change))
    got, messages, _, _ = run(reports=path)
    assert got == status and told in messages


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        (("projection\n", "view\n"), 2, "has no column projection"),
        (("4001.dcm.png,Frontal", "4001.dcm.png,frontal "), 0, ""),
        (("4001.dcm.png,Frontal", "4001.dcm.png,nan"), 0, "unknown_view: 1"),
        (("1,1_IM-0001-4001", "1,../../1_IM-0001-4001"), 0, "unknown_image: 1"),
        (("1,1_IM-0001-4001.dcm", "1,1_/../../1_IM-0001-4001"), 1, "unsafe_path: 1"),
        (("1,1_IM-0001-3001.dcm.png,Lateral", "1,1_IM-0001-4001.dcm.png,Frontal"), 0, "duplicate_id: 1"),
    ],
)
def test_damage_in_the_projections(run, tmp_path, change, status, told):
    reports = SOURCES["kaggle"](tmp_path)
    path = reports.with_name("indiana_projections.csv")
    path.write_text(path.read_text().replace(*change))
    got, messages, _, _ = run(reports=reports)
    assert got == status and told in messages


def test_a_csv_in_another_encoding_is_refused(run, tmp_path):
    path = SOURCES["kaggle"](tmp_path)
    path.write_bytes(path.read_bytes().replace(b"Small", b"Sm\xe4ll"))
    assert run(reports=path)[:2][0] == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "--text-only"),
        (["--images", ".", "--text-only"], "--text-only"),
        (["--images", "nowhere"], "--images nowhere is not a folder"),
        (["--images", ".", "--projections", "nowhere.csv"], "--views all"),
    ],
)
def test_wrong_use_says_what_to_do(run, options, told):
    status, messages, _, _ = run(*options, images=False)
    assert status == 2 and told in messages


def test_missing_files_are_named(run, tmp_path):
    assert "nowhere.tgz" in run(reports=tmp_path / "nowhere.tgz")[1]
    (tmp_path / "empty").mkdir()
    status, told, _, _ = run(reports=tmp_path / "empty")
    assert status == 2 and "holds no .xml file" in told


@pytest.mark.skipif(not (REAL / "NLMCXR_reports.tgz").exists(), reason="the real reports are not here")
def test_all_real_reports_are_read(run, tmp_path):
    options = ["--text-only", "--section", "fallback", "--card", "--strict"]
    status, told, found, kinds = run(*options, reports=REAL / "NLMCXR_reports.tgz", images=False)
    assert status == 0 and "not as published" not in told
    assert not kinds and "not used: 28" in told and len(found) == 3955 - 28
    card = (tmp_path / "out/README.md").read_text()
    assert "| reports (NLM) | 3955 |" in card and "| images (NLM) | 7470 |" in card


@pytest.mark.skipif(not (REAL / "NLMCXR_reports.tgz").exists(), reason="the real reports are not here")
def test_both_editions_meet_on_all_real_names(tmp_path, capsys, rows):
    """Kaggle's names of the films are the XML files' names without "CXR", and without study 1's second number."""
    studies = {}
    for _, content in archives.all_files(REAL / "NLMCXR_reports.tgz", ".xml", 2**20, Problems()):
        root = ElementTree.fromstring(content)
        text = "".join(
            "".join(part.itertext()) for part in root.iter("AbstractText") if part.get("Label") == "FINDINGS"
        )
        names = [image.get("id") for image in root.iter("parentImage")]
        studies[root.find("uId").get("id")] = bool(text.strip()), names
    films = tmp_path / "NLMCXR_png"
    films.mkdir()
    film = next(fixture.write_images(tmp_path / "some").iterdir())
    lines = ["uid,filename,projection"]
    for uid, (_, names) in studies.items():
        for place, name in enumerate(names):
            (films / f"{name}.png").hardlink_to(film)
            kaggle = name.removeprefix("CXR").replace("1_1_", "1_") if uid == "CXR1" else name.removeprefix("CXR")
            lines.append(f"{uid[3:]},{kaggle}.dcm.png,{'Lateral' if place % 2 else 'Frontal'}")
    assert len(lines) == 1 + 7470
    (tmp_path / "indiana_projections.csv").write_text("\n".join(lines))
    (tmp_path / "NLMCXR_reports.tgz").symlink_to(REAL / "NLMCXR_reports.tgz")
    arguments = ["openi", "--root", str(tmp_path), "--split", "train", "--out", str(tmp_path / "out"), "--strict"]
    assert main(arguments) == 0, capsys.readouterr().err
    written = {row["extra_info"]["id"] for row in rows(tmp_path / "out/train.parquet")}
    assert written == {uid for uid, (findings, names) in studies.items() if findings and names}
    assert len(written) == 3337


def test_most_reports_without_an_image_are_an_error(run, tmp_path):
    reports = SOURCES["archive"](tmp_path)
    other = tmp_path / "other.csv"
    other.write_text("uid,filename,projection\n9,9_IM-2407-1001.dcm.png,Frontal\n1,1_IM-0001-4001.dcm.png,Frontal\n")
    status, told, found, _ = run("--projections", str(other), reports=reports)
    assert status == 1 and not found and "2 of 4 reports find no image" in told and "CXR5" in told
    films = fixture.write_images(tmp_path / "few")
    (films / "CXR4_IM-2050-1001.png").unlink()
    (films / "CXR4_IM-2050-1002.png").unlink()
    (films / "CXR5_IM-2117-2001.png").unlink()
    status, told, _, _ = run("--images", str(films), "--views", "all", images=False)
    assert status == 1 and "2 of 4 reports find no image" in told


@pytest.mark.parametrize(("lost", "status"), [(0, 0), (2, 0), (3, 1)])
def test_lost_reports_are_on_the_card_and_more_than_a_tenth_are_refused(run, tmp_path, lost, status):
    studies = [fixture.Study(uid, "Clear.", None, (("IM-0001-1001", "Frontal"),)) for uid in range(10, 30)]
    studies.append(fixture.Study(30, "No film was taken.", None, ()))
    archive = fixture.write_tgz(tmp_path / "a.tgz", fixture.files(studies))
    (tmp_path / "films").mkdir()
    film = fixture.write_images(tmp_path / "some") / "CXR2_IM-0652-1001.png"
    lines = ["uid,filename,projection"]
    for study in studies[:-1]:
        (tmp_path / f"films/CXR{study.uid}_IM-0001-1001.png").hardlink_to(film)
        lines += [f"{study.uid},{study.uid}_IM-0001-1001.dcm.png,Frontal"][: study.uid >= 10 + lost]
    (tmp_path / "listed.csv").write_text("\n".join(lines))
    options = ("--images", str(tmp_path / "films"), "--projections", str(tmp_path / "listed.csv"))
    got, told, found, kinds = run(*options, "--strict", "--card", reports=archive, images=False)
    assert got == status and not kinds and len(found) == (0 if status else 20 - lost)
    if status:
        assert "3 of 21 reports find no image" in told
    else:
        counted = f"reports whose image is not found: {lost} here, 0 as published (+{lost})"
        assert (counted in told) == (counted in (tmp_path / "out/README.md").read_text()) == bool(lost)


def test_strict_passes_what_is_published(run):
    assert run("--strict")[0] == 0


@pytest.mark.parametrize("edition", ["archive", "kaggle"])
def test_a_root_holds_an_edition_under_its_published_names(convert, rows, tmp_path, edition):
    folder = "NLMCXR_png" if edition == "archive" else "images/images_normalized"
    reports = SOURCES[edition](tmp_path)
    (reports.parent / folder).parent.mkdir(exist_ok=True)
    fixture.write_images(reports.parent / folder, kaggle=edition == "kaggle")
    fixture.write_projections(reports.parent / "indiana_projections.csv")
    status, _, out = convert("openi", reports.parent, "--split", "val", "--strict")
    assert status == 0 and len(rows(out / "val.parquet")) == 2
    (tmp_path / "bare").mkdir()
    assert convert("openi", tmp_path / "bare", "--text-only")[0] == 2


def test_context(run):
    _, _, found, _ = run("--context", "indication,lateral")
    first = found["CXR1"]
    assert "Indication for this examination: Cough\n" in first["prompt"][0]["content"]
    assert [entry["image"].rpartition("_")[2] for entry in first["images"]] == ["IM-0001-4001.png", "IM-0001-3001.png"]
    assert len(found["CXR4"]["images"]) == 1
    _, _, plain, _ = run()
    assert "Indication" not in plain["CXR1"]["prompt"][0]["content"] and len(plain["CXR1"]["images"]) == 1


def test_a_lateral_view_that_cannot_be_read_costs_no_row(run, tmp_path):
    films = fixture.write_images(tmp_path / "some")
    (films / "CXR1_1_IM-0001-3001.png").write_bytes(b"")
    _, _, found, kinds = run("--images", str(films), "--context", "lateral", images=False)
    assert len(found["CXR1"]["images"]) == 1 and kinds == {"unreadable_image": 1}


@pytest.mark.parametrize("text", ["None", "nan", "...", "XXXX. XXXX"])
def test_a_report_that_says_nothing_is_a_problem(run, tmp_path, text):
    reports = SOURCES["kaggle"](tmp_path)
    reports.write_text(reports.read_text().replace("Small left effusion & 3 cm nodule.", text))
    _, _, found, kinds = run(reports=reports)
    assert set(found) == {"CXR1"} and kinds == {"placeholder_report": 1}
