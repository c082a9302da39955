"""The demo data set: chest-film-like images with known findings, boxes and reports, made from a seed.

No real patient is behind it. It exists to run and test the whole pipeline in minutes: a film shows which findings
there are and where, so that a small model can learn both tasks from it.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image
from tqdm import tqdm

from data_prep.options import positive, probability, shares
from data_prep.problems import Problems
from data_prep.readers.images import png_bytes
from data_prep.registry import data_set
from data_prep.sample import Sample, split_of
from data_prep.sets.demo.anatomy import SIZE, Anatomy, Exposure
from data_prep.sets.demo.findings import KINDS, Film, draw_findings, loosened, phrase, render, report

_SECOND_FILM = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--patients", type=positive, default=1000, help="how many patients, with one or two films each")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other patients")
    parser.add_argument("--shares", type=shares, default="0.7,0.2,0.1", help="patients in train,val,test")
    parser.add_argument("--absent", type=probability, default=0.0, help="share of films asked for an absent finding")
    style = "share of the reports in the house style; each of the others is in the words of one of three readers"
    parser.add_argument("--house-style", type=probability, default=0.5, help=style)
    loose = "how far each side of a box lies too far outside, as a share of the box"
    parser.add_argument("--loose-boxes", type=probability, default=0.0, help=loose)


@data_set(
    "demo",
    summary="generated chest films with findings, boxes and reports",
    example="python -m data_prep demo --out data/demo --patients 1000 --seed 0",
    arguments=add_arguments,
)
def samples(options: argparse.Namespace, problems: Problems) -> Iterator[Sample]:
    """Yield one report sample per film, and one grounding sample per kind of finding on it."""
    for patient in tqdm(range(options.patients), unit="patient", disable=None):
        build = np.random.default_rng([options.seed, patient])
        anatomy = Anatomy.draw(build)
        patient_id = f"p{patient:05d}"
        split = split_of(patient_id, options.shares, salt=f"demo-{options.seed}")
        for number in range(2 if build.random() < _SECOND_FILM else 1):
            rng = np.random.default_rng([options.seed, patient, number])
            film = Film(anatomy, Exposure.draw(rng), draw_findings(rng))
            pixels, boxed = render(film)
            if options.loose_boxes:
                boxed = tuple((found, loosened(box, options.loose_boxes)) for found, box in boxed)
            identity, picture = f"{patient_id}-{number}", (png_bytes(Image.fromarray(pixels)), SIZE, SIZE)
            row = patient_id, split, "demo", "report"
            base = Sample(f"{identity}-report", *row, *picture, report=report(film.findings, rng, options.house_style))
            yield base
            by_kind = {kind: [(found, box) for found, box in boxed if found.kind == kind] for kind in KINDS}
            absent, asked = ([kind for kind in KINDS if bool(by_kind[kind]) is present] for present in (False, True))
            if rng.random() < options.absent:
                asked.append(absent[rng.integers(len(absent))])
            for kind in asked:
                findings, boxes = [found for found, _ in by_kind[kind]], [box for _, box in by_kind[kind]]
                wanted, ordered = phrase(kind, findings), tuple(sorted(boxes, key=lambda box: box.x1))
                name = f"{identity}-{kind.replace(' ', '-')}"
                yield replace(base, id=name, task="grounding", report=None, phrase=wanted, boxes=ordered)
