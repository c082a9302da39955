"""The example of a data set in data_prep/README.md, run as it stands there."""

import re
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from data_prep import registry
from data_prep.cli import main

README = Path(__file__).parents[2] / "data_prep" / "README.md"


def test_the_data_set_of_the_readme_becomes_parquet(tmp_path, monkeypatch, capsys):
    code = next(block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "@data_set" in block)
    monkeypatch.setattr(registry, "_registered", registry.data_sets())
    exec(compile(code, str(README), "exec"), {})
    (tmp_path / "films").mkdir()
    Image.new("L", (60, 40)).save(tmp_path / "films" / "a.png")
    (tmp_path / "reports.csv").write_text("image,patient,report\na.png,p1,Clear lungs.\nb.png,p2,No effusion.\n")
    assert main(["my_hospital", "--root", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    rows = [row for path in (tmp_path / "out").glob("[tv]*.parquet") for row in pq.read_table(path).to_pylist()]
    assert [(row["extra_info"]["id"], row["data_source"]) for row in rows] == [("a", "my_hospital/report")]
    assert "b.png" in (tmp_path / "out" / "problems.jsonl").read_text()
