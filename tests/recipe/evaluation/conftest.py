import json
from types import SimpleNamespace

import pytest
from PIL import Image

from data_prep.sample import Sample
from data_prep.writer.dataset import DatasetWriter
from recipe.cxr_grpo import evaluate
from reward_fns.boxes import Box

REPORTS = [
    "The heart is enlarged. There is a small left pleural effusion.",
    "Lungs are clear. No acute cardiopulmonary process.",
    "Mild pulmonary edema with bilateral pleural effusions.",
    "Right lower lobe consolidation. No pneumothorax.",
]
NODULE, OPACITY = Box(0.1, 0.2, 0.3, 0.4, "nodule"), Box(0.5, 0.5, 0.9, 0.9, "opacity")


@pytest.fixture
def prepare(tmp_path):
    """Write data as data_prep does: per patient a report, a nodule and, for every second one, two opacities."""

    def write(name="mine", patients=4, box_format="radvlm", first=0, reports=REPORTS, **options):
        folder = tmp_path / f"data-{name}-{box_format}-{first}"
        with DatasetWriter(folder, box_format, **options) as writer:
            for number in range(first, first + patients):
                film = tmp_path / f"{number}.png"
                Image.new("L", (100, 140), number).save(film)
                of = f"p{number}", "val", name
                report = reports[number % len(reports)]
                writer.add(Sample(f"r{number}", *of, "report", film, 100, 140, report=report))
                writer.add(Sample(f"n{number}", *of, "grounding", film, 100, 140, phrase="nodule", boxes=(NODULE,)))
                boxes = (OPACITY, Box(0.1, 0.5, 0.4, 0.9, "opacity")) if number % 2 else ()
                writer.add(Sample(f"o{number}", *of, "grounding", film, 100, 140, phrase="opacity", boxes=boxes))
        return folder / "val.parquet"

    return write


@pytest.fixture
def jsonl(tmp_path):
    """Write rows as JSON lines; returns the path."""

    def write(rows, name="predictions.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command; returns its exit status, what it printed, and a function from a results folder to its files."""

    def call(*arguments, out="results", metrics="rouge_l,answer_chars"):
        command = [*map(str, arguments), "--out", str(tmp_path / out)]
        command += ["--metrics", metrics] if metrics else []
        status = evaluate.main(command)
        told = capsys.readouterr()

        def read(folder):
            place = tmp_path / out / folder
            scores = [json.loads(line) for line in (place / "scores.jsonl").read_text().splitlines()]
            return json.loads((place / "results.json").read_text()), {row["id"]: row for row in scores}

        return SimpleNamespace(status=status, out=told.out, err=told.err, read=read, folder=tmp_path / out)

    return call


@pytest.fixture
def perfect():
    """The predictions of a model that answers as the gold, in the convention radvlm."""

    def of(patients=range(4), **more):
        rows = []
        for number in patients:
            both = "[0.5, 0.5, 0.9, 0.9] and [0.1, 0.5, 0.4, 0.9]"
            answers = {"r": REPORTS[number % 4], "n": "[0.1, 0.2, 0.3, 0.4]", "o": both if number % 2 else "None."}
            rows += [{"id": f"{kind}{number}", "prediction": text, **more} for kind, text in answers.items()]
        return rows

    return of
