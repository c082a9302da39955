"""Seconds and memory from a made-up MIMIC-CXR to parquet: `python tests/bench/bench_mimic.py --studies 227835`.

Writes tables, reports and a few empty images in the published layout, then runs the command line on them in a process
of its own and prints the time, the rows and the peak of its memory. 227,835 studies are as many as the published set
has. Arguments that are not its own go to that command line.
"""

import argparse
import csv
import gzip
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from data_prep.sample import stable_hash

_METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
_SENTENCES = (
    "Low volumes crowd the vessels at the bases, and there is no edema.",
    "The heart is of normal size, the mediastinal contour is unremarkable.",
    "A small left effusion blunts the angle; adjacent opacity may be atelectasis.",
    "No pneumothorax. The bones are intact as far as they can be judged.",
    "Compared with ___, the line from the right ends in the lower superior vena cava.",
)


def _report(rng: random.Random) -> str:
    """A report in the published form, of about 900 characters; two in three have findings."""
    text = f"{'':33}FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n INDICATION:  ___ with cough\n \n"
    if rng.random() < 0.66:
        lines = [_SENTENCES[rng.randrange(5)].replace(" and ", "\n and ") for _ in range(rng.randint(4, 10))]
        text += " FINDINGS: \n \n " + "\n ".join(lines) + "\n \n"
    if rng.random() < 0.83:
        text += f" IMPRESSION: \n \n {_SENTENCES[rng.randrange(5)]}\n"
    return text


def _films(rng: random.Random, studies: int) -> Iterator[tuple[int, int, str, str]]:
    """Subject, study, dicom id and view of every image: 3.5 studies a patient, 1.65 images a study."""
    subject, left = 10_000_000, 0
    for study in range(50_000_000, 50_000_000 + studies):
        if not left:
            subject, left = subject + 7, rng.randint(1, 6)
        left -= 1
        for view in rng.choice((["AP"], ["PA", "LATERAL"], ["AP", "AP"], ["PA", "LL"], ["AP"], ["LATERAL"])):
            digits = f"{rng.getrandbits(160):040x}"
            yield subject, study, "-".join(digits[place : place + 8] for place in range(0, 40, 8)), view


def simulate(folder: Path, studies: int) -> int:
    """Write tables and reports, always the same for the same number of studies; returns how many images there are."""
    rng = random.Random(0)
    images = 0
    done = set()
    with (
        gzip.open(folder / "mimic-cxr-2.0.0-metadata.csv.gz", "wt", newline="", compresslevel=1) as metadata_file,
        gzip.open(folder / "mimic-cxr-2.0.0-split.csv.gz", "wt", newline="", compresslevel=1) as split_file,
        zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        metadata, split = csv.writer(metadata_file), csv.writer(split_file)
        metadata.writerow(_METADATA.split(","))
        split.writerow(["dicom_id", "study_id", "subject_id", "split"])
        for subject, study, dicom, view in _films(rng, studies):
            images += 1
            if images <= 1000 or stable_hash(dicom) % 1000 == 0:  # those that a run looks for, and a few more
                film = folder / f"files/p{subject // 10**6}/p{subject}/s{study}/{dicom}.jpg"
                film.parent.mkdir(parents=True, exist_ok=True)
                film.touch()
            metadata.writerow(
                [dicom, subject, study, "CHEST", view, 3056, 2544, 21800506, 213014.531, "CHEST", "", "Erect"]
            )
            share = subject // 7 % 200
            split.writerow([dicom, study, subject, "validate" if share == 0 else "test" if share == 1 else "train"])
            if study not in done:
                done.add(study)
                archive.writestr(f"files/p{subject // 10**6}/p{subject}/s{study}.txt", _report(rng))
    return images


def main() -> None:
    """Print one line per size; linear time shows in the last column, CPU time for each study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, nargs="+", default=[20_000, 60_000], help="sizes (%(default)s)")
    parser.add_argument("--section", default="fallback", help="as for python -m data_prep mimic_cxr (%(default)s)")
    parser.add_argument("--keep", type=Path, help="write the simulation and the parquet files here and keep them")
    options, further = parser.parse_known_args()
    print(f"{'studies':>9} {'images':>9} {'rows':>9} {'seconds':>9} {'CPU s':>7} {'MiB':>7} {'ms a study':>11}")
    for studies in options.studies:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (options.keep or Path(temporary)) / str(studies)
            folder.mkdir(parents=True, exist_ok=True)
            images = simulate(folder, studies)
            arguments = ["--root", folder, "--reports", folder / "mimic-cxr-reports.zip", "--out", folder / "out"]
            command = [sys.executable, "-m", "data_prep", "mimic_cxr", *map(str, arguments)]
            start, used_before = time.perf_counter(), _cpu()
            run = subprocess.run(
                [*command, "--section", options.section, *further], capture_output=True, text=True, env=_environment()
            )
            if run.returncode:
                sys.exit(run.stderr)
            seconds = time.perf_counter() - start
            rows = sum(pq.read_metadata(folder / f"out/{split}.parquet").num_rows for split in ("train", "val", "test"))
            cpu = _cpu() - used_before
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(
                f"{studies:9,} {images:9,} {rows:9,} {seconds:9.1f} {cpu:7.1f} {peak:7.0f} {cpu / studies * 1000:11.3f}"
            )


def _cpu() -> float:
    """Seconds that all ended child processes spent computing."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _environment() -> dict[str, str]:
    """With this repository first, so that the bench measures the code beside it."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


if __name__ == "__main__":
    main()
