"""DICOM films to 8-bit PNG: ours against what pydicom and Pillow alone reach, in one run and turn by turn.

`python tests/bench/bench_dicom.py` makes films, `python tests/bench/bench_dicom.py vindr/train/*.dicom` takes
those. Both sides compress at the same level. Seconds are of the CPU, which other programs disturb least; of the wall
where several processes are at work: with --workers, and for the compressions that we decode in a process apart.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from data_prep.readers.dicom import crashes_on_damage
from data_prep.readers.images import film, films


def plain(path: Path) -> bytes:
    """The film as one would write it down with pydicom and Pillow."""
    dataset = pydicom.dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(np.float64)
    shown -= shown.min()
    shown *= 255 / shown.max()
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 255 - shown
    buffer = io.BytesIO()
    Image.fromarray(np.round(shown).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def plain_over(workers: int, paths: list[Path]) -> Iterator[bytes]:
    """`plain` of each film over several processes."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(plain, paths)


def make(path: Path, seed: int, window: bool, jpeg2000: bool) -> Path:
    """A generated film of 2500 x 3000 with 12 bits in 16."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:3000, 0:2500]
    chest = 2000 + 1200 * np.sin(x / 700) * np.cos(y / 900) + rng.normal(0, 25, x.shape)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 3000, 2500, 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if seed % 2 else "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    if window:
        dataset.WindowCenter, dataset.WindowWidth = 2000, 2800
    dataset.PixelData = np.clip(chest, 0, 4095).astype(np.uint16).tobytes()
    dataset["PixelData"].VR = "OW"
    if jpeg2000:
        dataset.compress(JPEG2000Lossless)
    dataset.save_as(path, enforce_file_format=True)
    return path


def seconds(clock: Callable[[], float], run: Callable[[], Iterable[object]]) -> float:
    """Seconds of one run over all films."""
    start = clock()
    for _ in run():
        pass
    return clock() - start


def compare(name: str, paths: list[Path], rounds: int, workers: int) -> None:
    """Print films per second and core of both sides, medians over the rounds, and their ratio."""
    if workers == 1:
        seen = {"plain": lambda: map(plain, paths), "ours": lambda: map(film, paths)}
    else:
        paths = paths * 4  # both sides start their processes anew each time, which is to weigh little
        seen = {"plain": lambda: plain_over(workers, paths), "ours": partial(films, paths, workers)}
    alone = workers == 1 and not any(map(crashes_on_damage, paths))
    clock = time.process_time if alone else time.perf_counter
    times: dict[str, list[float]] = {side: [] for side in seen}
    for turn in range(rounds + 1):
        for side in sorted(seen, reverse=bool(turn % 2)):
            spent = seconds(clock, seen[side])
            if turn:  # the first round imports and warms the disk's cache
                times[side].append(spent)
    rates = {side: len(paths) / statistics.median(spent) / workers for side, spent in times.items()}
    ratio = statistics.median(one / other for one, other in zip(times["plain"], times["ours"], strict=True))
    print(f"{name:28} plain {rates['plain']:6.2f}  ours {rates['ours']:6.2f} films/s/core  ratio {ratio:.2f}")


def main() -> None:
    """Compare on the given films, or on generated ones with and without window and compression."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", nargs="*", type=Path, help="DICOM files; none: generated ones")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes of each side (%(default)s)")
    options = parser.parse_args()
    if options.films:
        compare("given films", options.films, options.rounds, options.workers)
        return
    with tempfile.TemporaryDirectory() as folder:
        for window in (True, False):
            for jpeg2000 in (False, True):
                name = f"{'window' if window else 'no window'}, {'JPEG 2000' if jpeg2000 else 'uncompressed'}"
                paths = [make(Path(folder) / f"{n}.dcm", n, window, jpeg2000) for n in range(2 * options.workers)]
                compare(name, paths, options.rounds, options.workers)


if __name__ == "__main__":
    main()
