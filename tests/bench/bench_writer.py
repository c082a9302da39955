"""Rows per second and memory of the parquet writer on made-up report samples: `python tests/bench/bench_writer.py`.

Each sample becomes a row for RL and, outside the test split, one for SFT. Memory is the peak of the whole process.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from data_prep.sample import Sample, split_of
from data_prep.writer.dataset import DatasetWriter

_SENTENCES = (
    "The heart is of normal size and the mediastinal contours are unremarkable.",
    "There is a small left pleural effusion with adjacent atelectasis at the base.",
    "No pneumothorax is seen, and the visible bones are intact.",
    "A right-sided central line ends in the lower superior vena cava.",
    "Patchy opacities in the right lower zone may stand for infection or aspiration.",
)


def samples(count: int) -> Iterator[Sample]:
    """Report samples of 60 to 130 words, four to a patient, as paths to images that need not exist."""
    for number in range(count):
        patient = f"p{number // 4:08d}"
        lines = [_SENTENCES[(number + place) % len(_SENTENCES)] for place in range(5 + number % 6)]
        yield Sample(
            id=f"{patient}-s{number:08d}",
            patient_id=patient,
            split=split_of(patient, (0.9, 0.05, 0.05)),
            dataset="bench",
            task="report",
            image=Path(f"/films/p{number % 10:02d}/{patient}/s{number:08d}.jpg"),
            width=2544,
            height=3056,
            report=" ".join(lines),
        )


def main() -> None:
    """Print one line per size; on a machine with other work, the seconds of one core are the ones to compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[50_000, 100_000, 200_000], help="(%(default)s)")
    options = parser.parse_args()
    for count in options.samples:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter(), time.process_time()
            with DatasetWriter(Path(folder)) as writer:
                for sample in samples(count):
                    writer.add(sample)
            seconds, busy = time.perf_counter() - start[0], time.process_time() - start[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rate = f"{count / seconds:9,.0f} samples/s {count / busy:9,.0f} a second of one core"
        print(f"{count:9,} samples {seconds:7.1f} s {rate} {peak:7.0f} MiB")


if __name__ == "__main__":
    main()
