import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.cli import main
from data_prep.readers import images
from data_prep.readers.images import Unreadable, films
from reward_fns.errors import UsageError


@pytest.fixture
def deep(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray((np.arange(600, dtype=np.uint16) * 100).reshape(30, 20)).save(path)
    return path


@pytest.fixture
def calls(monkeypatch):
    """The films that are converted."""
    calls = []
    convert = images.film
    monkeypatch.setattr(images, "film", lambda path, store_pixels: calls.append(path) or convert(path, store_pixels))
    return calls


@pytest.mark.parametrize("workers", [1, 2])
def test_a_converted_film_is_a_file_that_the_next_run_finds(deep, tmp_path, workers, calls):
    (first,) = films([deep], workers, keep=tmp_path / "kept")
    assert isinstance(first, tuple) and first[1:] == (20, 30)
    assert [first[0]] == list((tmp_path / "kept").iterdir())
    with Image.open(first[0]) as image:
        assert image.mode == "L" and image.getextrema() == (0, 255)
    calls.clear()
    assert list(films([deep], keep=tmp_path / "kept")) == [first] and not calls


def test_another_bound_a_changed_film_or_a_new_conversion_is_converted_anew(deep, tmp_path, monkeypatch, calls):
    folder = tmp_path / "kept"
    list(films([deep], keep=folder))
    list(films([deep], store_pixels=100, keep=folder))
    os.utime(deep, ns=(1, 1))
    list(films([deep], keep=folder))
    monkeypatch.setattr(images, "_CONVERSION", 2)
    list(films([deep], keep=folder))
    assert len(calls) == 4 and len(list(folder.iterdir())) == 4


@pytest.mark.parametrize(
    "content", [lambda whole: b"", lambda whole: whole[:-20], lambda whole: whole[:60] + b"x" * 99]
)
def test_a_damaged_kept_film_is_converted_anew(deep, tmp_path, calls, content):
    (first,) = films([deep], keep=tmp_path / "kept")
    whole = first[0].read_bytes()
    first[0].write_bytes(content(whole))
    assert list(films([deep], keep=tmp_path / "kept")) == [first]
    assert first[0].read_bytes() == whole and len(calls) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_of_kept_films_is_told_with_its_name(deep, tmp_path, monkeypatch, capsys, workers):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match=r"--keep-films .*/kept: .*No space left"):
        list(films([deep], workers, keep=tmp_path / "kept"))
    boxes = {
        "images": [{"id": 1, "file_name": "deep.png", "width": 20, "height": 30}],
        "categories": [{"id": 1, "name": "Nodule"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 10]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    arguments = ["--root", tmp_path, "--annotations", tmp_path / "boxes.json", "--keep-films", tmp_path / "kept"]
    assert main(["coco", *map(str, [*arguments, "--out", tmp_path / "out", "--workers", workers])]) == 2
    assert f"--keep-films {tmp_path / 'kept'}" in capsys.readouterr().err


def test_a_film_that_is_a_picture_already_stays_where_it_is(tmp_path):
    Image.new("L", (20, 30)).save(tmp_path / "a.png")
    assert list(films([tmp_path / "a.png"], keep=tmp_path / "kept")) == [(tmp_path / "a.png", 20, 30)]
    assert not (tmp_path / "kept").exists()


def test_a_stopped_or_failed_write_leaves_no_half_film(deep, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        list(films([deep], keep=tmp_path / "kept"))
    assert list((tmp_path / "kept").iterdir()) == []


def test_what_cannot_be_read_is_told_as_without(tmp_path):
    (found,) = films([Path("nowhere.png")], keep=tmp_path / "kept")
    assert isinstance(found, Unreadable) and "nowhere.png" in str(found)
