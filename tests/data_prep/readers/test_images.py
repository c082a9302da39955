import io
import multiprocessing

import numpy as np
import pytest
from fixtures import films as fixture
from PIL import Image

from data_prep.readers import images
from data_prep.readers.images import Unreadable, film, films, size


def opened(content):
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_an_8_bit_png_stays_the_file_it_is(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.fromarray(fixture.pixels(bits=8)).convert(mode).save(path)
    assert film(path) == (path, 48, 64) and size(path) == (48, 64)


def test_a_jpeg_stays_the_file_it_is_whatever_its_name(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(fixture.pixels(bits=8)).save(path, "JPEG")
    assert film(path) == (path, 48, 64) and size(path) == (48, 64)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_a_16_bit_png_becomes_8_bits_by_its_own_range(tmp_path, bits):
    values = fixture.pixels(bits=bits)
    content, width, height = film(fixture.png(tmp_path / "a.png", values))
    picture = opened(content)
    assert picture.mode == "L" and picture.size == (width, height) == (48, 64)
    expected = np.floor(values * (255 / ((1 << bits) - 1)) + 0.5)
    assert np.abs(np.asarray(picture) - expected).max() <= 1
    assert np.asarray(picture).min() == 0 and np.asarray(picture).max() == 255


@pytest.mark.parametrize(
    ("bound", "expected"), [(3072, (48, 64)), (3071, (47, 63)), (768, (24, 32)), (1, (1, 1)), (10**9, (48, 64))]
)
def test_stored_films_are_scaled_down_to_the_bound_with_their_aspect_kept(tmp_path, bound, expected):
    for path in (fixture.dicom(tmp_path / "a.dcm"), fixture.png(tmp_path / "b.png", fixture.pixels(bits=16))):
        content, *sides = film(path, bound)
        assert opened(content).size == tuple(sides) == expected


@pytest.mark.parametrize(("mode", "stored"), [("L", "L"), ("RGBA", "RGB"), ("P", "RGB"), ("1", "L")])
def test_a_bound_scales_8_bit_pictures_too(tmp_path, mode, stored):
    path = tmp_path / "a.png"
    Image.fromarray(fixture.pixels(bits=8)).convert(mode).save(path)
    content, *sides = film(path, 768)
    assert opened(content).mode == stored and sides == [24, 32]
    assert film(path, 3072) == (path, 48, 64)


def not_a_film(path):
    path.write_text("<html>404</html>")


def cut_short(path):
    fixture.png(path)
    path.write_bytes(path.read_bytes()[:-1500])


def gif(path):
    Image.fromarray(fixture.pixels(bits=8)).save(path, "GIF")


def bomb_in_text(path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("comment", "x" * (1 << 26), zip=True)
    Image.fromarray(fixture.pixels(bits=8)).save(path, "PNG", pnginfo=info)


def truncated_jpeg(path):
    Image.fromarray(fixture.pixels(bits=8)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:1500])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b""), "neither a DICOM nor a PNG nor a JPEG"),
        (not_a_film, "neither a DICOM nor a PNG nor a JPEG"),
        (gif, "neither a DICOM nor a PNG nor a JPEG"),
        (cut_short, "truncated"),
        (truncated_jpeg, "truncated"),
        (fixture.bomb, "bomb|60000 x 60000"),
        (lambda path: fixture.bomb(path, 9000, 9000), "9000 x 9000"),
        (bomb_in_text, "too large"),
        (lambda path: fixture.png(path, np.full((9, 9), 700, np.uint16)), "every pixel has the value 700"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_reason(tmp_path, make, message):
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(Unreadable, match=message) as caught:
        film(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_size_of_what_is_no_film(tmp_path):
    for make in (not_a_film, fixture.bomb):
        make(tmp_path / "a.png")
        with pytest.raises(Unreadable, match=r"a\.png"):
            size(tmp_path / "a.png")


@pytest.fixture
def mixed(tmp_path):
    """Films of several kinds, with two unreadable ones among them."""
    paths = [fixture.dicom(tmp_path / f"{n}.dcm", fixture.pixels(seed=n)) for n in range(6)]
    paths.insert(2, tmp_path / "missing.png")
    not_a_film(paths[2])
    paths.append(fixture.png(tmp_path / "last.png"))
    paths.append(tmp_path / "nowhere.png")
    return paths


def test_films_keep_their_order_over_several_processes(mixed):
    alone, together = list(films(mixed, 1, 700)), list(films(iter(mixed), 2, 700))
    assert [str(one) for one in alone] == [str(one) for one in together]
    assert [isinstance(one, Unreadable) for one in alone] == [n in (2, 8) for n in range(9)]


def test_films_are_not_converted_far_ahead(mixed):
    taken = []
    source = (taken.append(path) or path for path in mixed * 10)
    stream = films(source, 2)
    next(stream)
    assert len(taken) <= 4
    stream.close()


def test_processes_end_with_the_films_that_they_were_started_for(mixed):
    others = set(multiprocessing.active_children())
    stream = films(mixed, 2)
    next(stream)
    started = set(multiprocessing.active_children()) - others
    stream.close()
    for process in started:
        process.join(30)
    assert started and [process.exitcode for process in started] == [0] * len(started)


def test_a_decoder_that_crashes_costs_one_film(mixed, monkeypatch):
    monkeypatch.setattr(images, "_convert", fixture.film_or_crash)
    results = list(films(mixed[:5], 2))
    assert [isinstance(one, Unreadable) for one in results] == [False, False, True, True, False]
    assert "Aborted" in str(results[3]) and str(mixed[3]) in str(results[3])


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"\xff\xc4", b"\xff\0"), (b"\xff\xc3\0\x0b\x10", b"\xff\xc3\0\x0b\x11")],
    ids=["no Huffman table", "17 bits"],
)
def test_streams_on_which_gdcm_ends_the_process_are_unreadable(tmp_path, old, new):
    path = fixture.dicom(tmp_path / "a.dcm", compression="JPEGLosslessProcess14_1")
    path.write_bytes(path.read_bytes().replace(old, new))
    # What GDCM does differs by its version: that the run goes on must not.
    with pytest.raises(Unreadable, match=r"a\.dcm( ended the process that decodes it|: has pixel data)"):
        film(path)
    assert film(fixture.dicom(path, compression="JPEGLosslessProcess14_1"))[1:] == (48, 64)
