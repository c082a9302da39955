import gzip
import tracemalloc

import pytest

from data_prep.problems import Problems, RefusedData
from data_prep.readers import jsons, tables

BOMB = 64 << 20  # characters of one line


def read_table(path):
    return list(tables.rows(path, ("a", "b"), Problems()))


def test_line_ends_of_every_kind_inside_and_outside_of_quotes(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfa,b,c\r\n1,"x\r\ny\n\nz",3\n4,"\xe2\x80\xa8",6\r7,8,9')
    assert read_table(tmp_path / "a.csv") == [("1", "x\r\ny\n\nz"), ("4", "\u2028"), ("7", "8")]


@pytest.mark.parametrize("first", ["", "a,b\n1,2\n", 'a,b\n1,"'])
def test_a_line_that_would_fill_the_memory_is_refused_before_it_does(tmp_path, first):
    path = tmp_path / "a.csv.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(first)
        file.write("x" * BOMB)
    tracemalloc.start()
    try:
        with pytest.raises(RefusedData, match=rf"csv\.gz, line {1 + first.count(chr(10))}: has more than 16,777,216"):
            read_table(path)
        assert tracemalloc.get_traced_memory()[1] < BOMB
    finally:
        tracemalloc.stop()


def test_a_line_of_json_lines_too(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": "' + "x" * (17 << 20) + '"}\n')
    with pytest.raises(RefusedData, match=r"a\.jsonl, line 2: has more than"):
        list(jsons.objects(tmp_path / "a.jsonl", Problems()))
