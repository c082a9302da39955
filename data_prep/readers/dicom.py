"""DICOM films as 8-bit pictures, the way the file asks to be displayed.

pydicom applies the file's modality transform (rescale or table) and first VOI transform (table or window) to the stored
values; then the darkest value becomes 0 and the brightest 255. A transform that fails or leaves nothing to see is
skipped. MONOCHROME1 is inverted last. Presentation LUT Shape is ignored: its INVERSE repeats MONOCHROME1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

MAX_PIXELS = 80_000_000
"""Larger pictures are refused before they are decoded; the largest detectors have about 20 million pixels."""
_MAX_ASPECT = 200
# One decoder for each compression: the next one that pydicom would try may fill in missing data, or crash.
_PLUGINS = {
    "pillow": (50, 51),  # JPEG baseline, JPEG extended
    "gdcm": (57, 70, 80, 81),  # JPEG lossless, the same with first-order prediction; JPEG-LS lossless, near-lossless
    "pylibjpeg": (90, 91, 201, 202, 203),  # JPEG 2000 lossless, lossy; HTJ2K lossless, the same progressive, lossy
}
_DECODERS = {f"1.2.840.10008.1.2.4.{last}": plugin for plugin, endings in _PLUGINS.items() for last in endings}
_DECODERS["1.2.840.10008.1.2.5"] = "pylibjpeg"  # RLE
# Start-of-frame markers of JPEG (others in their range define tables) and of JPEG-LS.
_JPEG_FRAME = (frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}


def is_dicom(path: Path) -> bool:
    """Whether the file has the mark of the DICOM format."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def size(path: Path) -> tuple[int, int]:
    """Width and height from the header; `ValueError` if it is not that of one film of a plausible size."""
    return _checked_size(_read(path, header_only=True))


def check_sides(width: int, height: int) -> None:
    """Raise a `ValueError`, before decoding, for a picture too large for a film or too long for a model's processor."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"claims {width} x {height} pixels, more than any film ({MAX_PIXELS:,}); not decoded")
    if max(width, height) > _MAX_ASPECT * min(width, height):
        raise ValueError(f"is {width} x {height}: one side is over {_MAX_ASPECT} times the other, which models refuse")


def picture(path: Path) -> NDArray[np.uint8]:
    """The film, (height, width), or (height, width, 3) in color; `ValueError`, or a decoder's error, if it has none."""
    dataset = _read(path, header_only=False)
    width, height = _checked_size(dataset)
    if "PixelData" not in dataset:
        raise ValueError("holds no pixel data; the file may be cut off, fetch it again")
    _check_stream(dataset, width, height)
    if decoder := _DECODERS.get(dataset.file_meta.TransferSyntaxUID):
        dataset.pixel_array_options(decoding_plugin=decoder)
    with _decoding():
        stored = dataset.pixel_array
    if stored.shape[:2] != (height, width):
        raise ValueError(f"has {stored.shape[1]} x {stored.shape[0]} pixels, its header says {width} x {height}")
    return stored if stored.ndim == 3 else _to_grayscale(stored, dataset)


def crashes_on_damage(path: Path) -> bool:
    """Whether the file's decoder is GDCM, which may end the process on a damaged stream: decode it in one apart."""
    from pydicom.filereader import read_file_meta_info

    return _DECODERS.get(read_file_meta_info(path).get("TransferSyntaxUID")) == "gdcm"


def _read(path: Path, header_only: bool) -> FileDataset:
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    # pydicom inflates all of such a file, however large, before any of it can be checked.
    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ValueError("is deflated as a whole; rewrite it uncompressed, e.g. with dcmconv +te")
    return dcmread(path, stop_before_pixels=header_only)


def _checked_size(dataset: FileDataset) -> tuple[int, int]:
    """Width and height, if the header describes one film that can be shown."""
    width, height = dataset.get("Columns") or 0, dataset.get("Rows") or 0
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples, depth = dataset.get("SamplesPerPixel", 1), dataset.get("BitsAllocated")
    photometric = dataset.get("PhotometricInterpretation")
    if width < 1 or height < 1:
        raise ValueError("has no Rows and Columns: it is not a picture, or the file is cut off")
    if frames != 1:
        raise ValueError(f"has {frames} frames, a film has one; extract that one")
    check_sides(width, height)
    grayscale = samples == 1 and photometric in ("MONOCHROME1", "MONOCHROME2")
    if not grayscale and not (samples == 3 and depth == 8):
        raise ValueError(f"is {photometric} with {samples} samples a pixel; films are grayscale or 8-bit RGB")
    if depth not in (8, 16):
        raise ValueError(f"has {depth} bits a pixel allocated; films have 8 or 16")
    return width, height


def _check_stream(dataset: FileDataset, width: int, height: int) -> None:
    """Refuse a compressed picture that is cut off, or of another size than the header's, before any decoder runs."""
    from pydicom.encaps import get_frame
    from pydicom.uid import RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    # Its segments are unpacked into a buffer of the header's size, and too few or too many bytes are an error.
    if not syntax.is_compressed or syntax == RLELossless:
        return
    if syntax not in _DECODERS:
        raise ValueError(f"is compressed as {syntax.name}, which is not read here; decompress it, e.g. with dcmdjpeg")
    with _decoding():
        stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    header = width, height, dataset.SamplesPerPixel
    claimed = _jpeg_size(stream) if stream.startswith(b"\xff\xd8") else _j2k_size(stream)
    if claimed is None:
        raise ValueError(f"has pixel data that are not {syntax.name}; the file is damaged, fetch it again")
    if claimed != header:
        sizes = "{} x {} x {} samples, its header says {} x {} x {}".format(*claimed, *header)
        raise ValueError(f"holds a picture of {sizes}; not decoded")
    if b"\xff\xd9" not in stream[-4:]:  # an odd length is padded
        raise ValueError("has pixel data without an end; the file is cut off, fetch it again")


def _jpeg_size(stream: bytes) -> tuple[int, int, int] | None:
    """Width, height and samples a pixel in the frame header of a JPEG, JPEG lossless or JPEG-LS stream."""
    start = 2
    while start + 10 <= len(stream) and stream[start] == 0xFF:
        marker = stream[start + 1]
        if marker in _JPEG_FRAME:
            height, width = (int.from_bytes(stream[at : at + 2], "big") for at in (start + 5, start + 7))
            return width, height, stream[start + 9]
        start += 1 if marker == 0xFF else 2 + int.from_bytes(stream[start + 2 : start + 4], "big")
    return None


def _j2k_size(stream: bytes) -> tuple[int, int, int] | None:
    """Width, height and samples a pixel in the SIZ segment of a JPEG 2000 stream, bare or within a JP2 file."""
    start = stream.find(b"\xff\x4f\xff\x51", 0, 4096) + 8
    if start < 8 or len(stream) < start + 34:
        return None
    right, bottom, left, top = (int.from_bytes(stream[at : at + 4], "big") for at in range(start, start + 16, 4))
    return right - left, bottom - top, int.from_bytes(stream[start + 32 : start + 34], "big")


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        # The RLE decoder is written in Rust: a stream that is too long ends in a panic, not in an Exception.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            advice = "fetch it again, or decompress it with another tool"
            raise ValueError(f"has pixel data that cannot be decoded; {advice} ({error})") from error
        raise


def _to_grayscale(stored: NDArray[Any], dataset: FileDataset) -> NDArray[np.uint8]:
    """Stored values as 8 bits, through one table: much less work than transforming every pixel."""
    first, last = int(stored.min()), int(stored.max())
    low, high = first, last
    padding = dataset.get("PixelPaddingValue")
    if padding in (first, last):
        film = stored[stored != padding]
        low, high = (int(film.min()), int(film.max())) if film.size else (first, last)
    values = np.arange(first, last + 1, dtype=stored.dtype)
    for shown in (_displayed(values, dataset), values.astype(np.float64)):
        present = shown[low - first : high - first + 1]
        table = spread(shown, present.min(), present.max())
        if table is not None:
            break
    else:
        raise ValueError(f"shows nothing: every pixel has the value {first}")
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        table = 255 - table
    gray_of = np.zeros(1 << (8 * stored.itemsize), np.uint8)
    bits = np.dtype(f"u{stored.itemsize}")
    gray_of[values.view(bits)] = table
    return gray_of[stored.view(bits)]


def _displayed(values: NDArray[Any], dataset: FileDataset) -> NDArray[np.float64]:
    """Values after the file's modality and VOI transforms; all zero if these cannot be applied."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    try:
        return apply_voi_lut(apply_modality_lut(values, dataset), dataset).astype(np.float64)
    except Exception:  # a table or window can be broken in more ways than pydicom has errors for
        return np.zeros(len(values))


def spread(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8] | None:
    """Values as 8 bits, `low` at 0 and `high` at 255; None unless `low` is below `high`.

    >>> spread(np.array([100, 150, 200, 300]), 100, 200).tolist()
    [0, 128, 255, 255]
    """
    if not low < high:
        return None
    scaled = (values.astype(np.float64) - low) * 255 / (high - low)
    return np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)
