"""Prepared data that pass, and a way to change them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.damage import film

from data_prep.writer.dataset import DatasetWriter


@pytest.fixture
def sound(tmp_path, make_sample):
    """A folder with three patients, two tasks and all files that a writer makes."""
    with DatasetWriter(tmp_path / "data") as writer:
        for i, split in enumerate(("train", "val", "test")):
            own = {"patient_id": f"p{i}", "split": split, "image": film(90 + i)}
            writer.add(make_sample(id=f"g{i}", **own))
            writer.add(make_sample(id=f"r{i}", **own, task="report", report=f"Film {i} is clear.", boxes=()))
            if split == "train":
                writer.add(make_sample(id="absent", **own, phrase="a mass", boxes=()))
    return tmp_path / "data"


@pytest.fixture
def rewrite():
    """Change the rows of a parquet file; `schema` replaces its own."""

    def write(path, change, schema=None):
        table = pq.read_table(path)
        rows = table.to_pylist()
        changed = change(rows) or rows
        pq.write_table(pa.Table.from_pylist(changed, schema=schema or table.schema), path)

    return write
