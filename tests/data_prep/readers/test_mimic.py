"""Whether the images of MIMIC-CXR are there is judged by a sample, because there are 377,110."""

import argparse
from pathlib import Path

import pytest
from fixtures import mimic_cxr as fixture

from data_prep.problems import Problems, RefusedData
from data_prep.readers.mimic import Film, Mimic


@pytest.fixture
def mimic(tmp_path):
    root = fixture.write_tables(tmp_path / "jpg")
    options = argparse.Namespace(root=root, mimic_splits=None, check_images=False, embed=False)
    return Mimic(options, Problems())


def ask(mimic, count, there=lambda number: False):
    """Ask for the paths of images, some of which are there; the number of the last one."""
    for number in range(count):
        film = 10000032, 50414267, fixture.dicom(100 + number), "PA", 3056, 2544
        if there(number):
            fixture.write_image(mimic._root, film)
        mimic.path(Film(film[2], "10000032", "50414267", "PA", 2544, 3056))
    mimic.refuse_missing()


def test_a_run_without_images_ends_after_the_first_twenty(mimic):
    with pytest.raises(RefusedData, match=r"20 of 20 images that were looked for are not in .*--check-images"):
        ask(mimic, 1000)


@pytest.mark.parametrize("missing", [5, 6])
def test_half_may_be_missing(mimic, missing):
    if missing == 5:
        ask(mimic, 10, lambda number: number >= 5)
    else:
        with pytest.raises(RefusedData, match="6 of 10 images"):
            ask(mimic, 10, lambda number: number >= 6)


def test_the_first_and_one_in_a_thousand_are_looked_for(mimic, monkeypatch):
    looked: list[Path] = []
    monkeypatch.setattr(Path, "is_file", lambda path: not looked.append(path))
    ask(mimic, 20_000)
    assert 205 < len(looked) < 240
