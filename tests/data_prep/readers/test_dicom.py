import io
import os
from pathlib import Path

import numpy as np
import pytest
from fixtures import films
from PIL import Image

from data_prep.readers.dicom import picture
from data_prep.readers.images import Unreadable, film, size

REAL = Path(os.environ.get("CXR_GRPO_REAL_DATA", Path(__file__).parents[4] / "shared/data/real"))


def shown(path):
    content, width, height = film(path)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG" and image.size == (width, height)
        return np.asarray(image)


def stretched(values):
    values = values.astype(np.float64)
    return np.floor((values - values.min()) * 255 / (values.max() - values.min()) + 0.5).astype(np.uint8)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_a_film_without_a_window_uses_its_own_range(tmp_path, bits):
    values = films.pixels(bits=bits) // 2 + 3
    path = films.dicom(tmp_path / "a.dcm", values, BitsStored=bits, HighBit=bits - 1)
    assert size(path) == (48, 64)
    assert (shown(path) == stretched(values)).all()


def test_monochrome1_is_the_same_film_inverted(tmp_path):
    upright, inverted = films.dicom(tmp_path / "a.dcm"), tmp_path / "b.dcm"
    # INVERSE is how MONOCHROME1 is presented, not a second inversion.
    films.dicom(inverted, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    assert (shown(inverted) == 255 - shown(upright)).all()


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real DICOM pair")
def test_the_real_pair_is_the_same_film_upright_and_inverted():
    upright, inverted = shown(REAL / "rsna_cxr.dcm"), shown(REAL / "Fake_MONOHR1.dcm")
    assert upright.shape == (1024, 1024) and len(np.unique(upright)) > 200
    assert (upright == 255 - inverted).all()


def test_signed_values(tmp_path):
    values = (films.pixels().astype(np.int32) - 2048).astype(np.int16)
    assert (shown(films.dicom(tmp_path / "a.dcm", values)) == stretched(values)).all()


def test_bits_beyond_those_stored_are_not_part_of_the_film(tmp_path):
    values = films.pixels()
    overlaid = values | np.uint16(0x8000)
    overlaid[::2] = values[::2]
    assert (shown(films.dicom(tmp_path / "a.dcm", overlaid)) == stretched(values)).all()


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT"])
def test_a_window_clips_and_the_first_of_several_counts(tmp_path, function):
    values = films.pixels()
    path = films.dicom(
        tmp_path / "a.dcm", values, WindowCenter=[2000, 5], WindowWidth=[1000, 5], VOILUTFunction=function
    )
    picture = shown(path)
    assert (picture[values < 1499] == 0).all() and (picture[values > 2500] == 255).all()
    assert picture[(values > 1900) & (values < 2100)].astype(float).mean() == pytest.approx(127, abs=8)


def test_a_sigmoid_window_keeps_the_order_of_values(tmp_path):
    values = films.pixels()
    path = films.dicom(tmp_path / "a.dcm", values, WindowCenter=2000, WindowWidth=1000, VOILUTFunction="SIGMOID")
    ordered = shown(path).ravel()[np.argsort(values, axis=None)].astype(int)
    assert (np.diff(ordered) >= 0).all() and ordered[0] == 0 and ordered[-1] == 255
    assert len(np.unique(ordered)) > 200


def test_the_window_is_in_rescaled_values(tmp_path):
    values = films.pixels()
    window = {"WindowCenter": 3000, "WindowWidth": 2000, "RescaleSlope": 2, "RescaleIntercept": -1000}
    picture = shown(films.dicom(tmp_path / "a.dcm", values, **window))
    assert (picture[values < 1499] == 0).all() and (picture[values > 2501] == 255).all()


def test_a_negative_slope_turns_dark_to_bright(tmp_path):
    values = films.pixels()
    path = films.dicom(tmp_path / "a.dcm", values, RescaleSlope=-1, RescaleIntercept=4095)
    assert (shown(path) == stretched(4095 - values.astype(int))).all()


@pytest.mark.parametrize("kind", ["ModalityLUTSequence", "VOILUTSequence"])
def test_lookup_tables_come_before_the_window_and_need_not_fill_their_range(tmp_path, kind):
    values = films.pixels()
    table = [0] * 1000 + list(range(0, 2000, 2)) + [2000] * 2096
    path = films.dicom(tmp_path / "a.dcm", values, **{kind: films.lut(table)})
    assert (shown(path) == stretched(np.array(table)[values])).all()


@pytest.mark.parametrize(
    "useless",
    [
        {"WindowCenter": 2000, "WindowWidth": 0},
        {"WindowCenter": -5000, "WindowWidth": 10},
        {"WindowCenter": None, "WindowWidth": 10},
        {"WindowCenter": 2000, "WindowWidth": 100, "VOILUTFunction": "STEEP"},
        {"RescaleSlope": 0, "RescaleIntercept": 0},
        {"VOILUTSequence": films.lut([1, 2, 3], bits=7)},
    ],
    ids=str,
)
def test_a_display_instruction_that_leaves_nothing_to_see_is_passed_over(tmp_path, useless):
    useless = {name: value for name, value in useless.items() if value is not None}
    assert (shown(films.dicom(tmp_path / "a.dcm", **useless)) == stretched(films.pixels())).all()


def test_padding_around_the_film_does_not_count_for_its_range(tmp_path):
    values = films.pixels() // 4 + 2000
    values[:, :5] = 0
    picture = shown(films.dicom(tmp_path / "a.dcm", values, PixelPaddingValue=0))
    assert (picture[:, 5:] == stretched(values[:, 5:])).all() and (picture[:, :5] == 0).all()


@pytest.mark.parametrize("compression", films.COMPRESSIONS)
def test_lossless_compressions_give_the_uncompressed_picture(tmp_path, compression):
    path = films.dicom(tmp_path / "a.dcm", compression=compression)
    assert size(path) == (48, 64)
    assert (shown(path) == stretched(films.pixels())).all()


def test_jpeg_baseline(tmp_path):
    smooth = np.linspace(0, 255, 48 * 64).reshape(64, 48).astype(np.uint8)
    picture = shown(films.dicom(tmp_path / "a.dcm", smooth, compression="JPEG"))
    assert np.abs(picture.astype(int) - smooth).max() < 16


def test_color_of_8_bits_stays_as_it_is(tmp_path):
    values = np.stack([films.pixels(bits=8, seed=seed) for seed in range(3)], axis=-1)
    assert (shown(films.dicom(tmp_path / "a.dcm", values)) == values).all()


def cut(share):
    def damage(path):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return damage


def cut_stream(path):
    """The picture ends early, while the file around it is whole."""
    from pydicom import dcmread
    from pydicom.encaps import encapsulate, get_frame

    dataset = dcmread(path)
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([stream[: len(stream) // 2]])
    dataset.save_as(path)


def replace(old, new):
    return lambda path: path.write_bytes(path.read_bytes().replace(old, new))


UNREADABLE = {
    "cut in the header": ({}, cut(0.05), "cut off"),
    "cut in the pixels": ({}, cut(0.7), "bytes of pixel data is less than expected"),
    "cut JPEG 2000": ({"compression": "JPEG2000"}, cut(0.7), "cut off"),
    "cut JPEG": ({"values": films.pixels(bits=8), "compression": "JPEG"}, cut_stream, "cut off"),
    "cut JPEG lossless": ({"compression": "JPEGLosslessProcess14_1"}, cut_stream, "cut off"),
    "cut RLE": ({"compression": "RLE"}, cut_stream, "cannot be decoded"),
    "no pixel data": ({"PixelData": None}, None, "no pixel data"),
    "no size": ({"Rows": None}, None, "no Rows and Columns"),
    "no picture": ({"Rows": None, "Columns": None, "PixelData": None}, None, "it is not a picture"),
    "several frames": ({"NumberOfFrames": 2}, None, "2 frames"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, None, "PALETTE COLOR"),
    "32 bits": ({"BitsAllocated": 32}, None, "32 bits"),
    "larger than any film": ({"Rows": 60000, "Columns": 60000}, None, "60000 x 60000"),
    "another size in the stream": ({"compression": "JPEG2000"}, replace(b"\0\0\0\x30", b"\0\0\xea\x60"), "60000 x 64"),
    "one value": ({"values": np.full((64, 48), 7, np.uint16)}, None, "every pixel has the value 7"),
    "garbage for a stream": ({"compression": "JPEG2000"}, replace(b"\xff\x4f\xff\x51", b"what"), "not JPEG 2000"),
}


@pytest.mark.parametrize(("made", "damage", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_named_with_the_reason(tmp_path, made, damage, message):
    path = films.dicom(tmp_path / "the film.dcm", **made)
    if damage:
        damage(path)
    with pytest.raises(Unreadable, match=message) as caught:
        film(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert (tmp_path / "the film.dcm").exists()


@pytest.mark.parametrize(
    ("syntax", "message"),
    [
        ("1.2.840.10008.1.2.4.100", "MPEG2"),
        ("1.2.840.10008.1.2.1.99", "deflated"),
        ("1.2.3.4.5", "not a transfer syntax"),
    ],
)
def test_transfer_syntaxes_that_are_not_read(tmp_path, syntax, message):
    from pydicom import dcmread

    path = films.dicom(tmp_path / "a.dcm", compression="JPEG2000")
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)
    with pytest.raises(Unreadable, match=message):
        film(path)


def test_a_header_is_enough_for_the_size(tmp_path):
    path = films.dicom(tmp_path / "a.dcm")
    cut(0.5)(path)
    assert size(path) == (48, 64)
    with pytest.raises(Unreadable):
        size(films.dicom(tmp_path / "b.dcm", Rows=None))


def test_many_values_of_a_film_become_gray_through_one_table(tmp_path):
    values = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    path = films.dicom(tmp_path / "a.dcm", values, BitsStored=16, HighBit=15)
    assert (picture(path) == stretched(values)).all()
