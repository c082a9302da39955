import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.readers import kept as kept_module
from data_prep.readers.images import Unreadable, films
from data_prep.readers.kept import kept


@pytest.fixture
def deep(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray((np.arange(600, dtype=np.uint16) * 100).reshape(30, 20)).save(path)
    return path


def counting(calls):
    def convert(path, store_pixels):
        calls.append(path)
        return b"not asked what it holds", 20, 30

    return convert


@pytest.mark.parametrize("workers", [1, 2])
def test_a_converted_film_is_a_file_that_the_next_run_finds(deep, tmp_path, workers):
    (first,) = films([deep], workers, keep=tmp_path / "kept")
    assert isinstance(first, tuple) and first[1:] == (20, 30)
    assert [first[0]] == list((tmp_path / "kept").iterdir())
    with Image.open(first[0]) as image:
        assert image.mode == "L" and image.getextrema() == (0, 255)
    calls = []
    assert kept(tmp_path / "kept", counting(calls), deep, None) == first and not calls


def test_another_bound_a_changed_film_or_a_new_conversion_is_converted_anew(deep, tmp_path, monkeypatch):
    folder, calls = tmp_path / "kept", []
    list(films([deep], keep=folder))
    kept(folder, counting(calls), deep, 100)
    os.utime(deep, ns=(1, 1))
    kept(folder, counting(calls), deep, None)
    monkeypatch.setattr(kept_module, "_CONVERSION", 2)
    kept(folder, counting(calls), deep, None)
    assert len(calls) == 3 and len(list(folder.iterdir())) == 4


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
