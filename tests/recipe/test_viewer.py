import pytest
from viewed import dumped, make_films, write_data, write_lines

from recipe.cxr_grpo import viewer


@pytest.fixture
def run(tmp_path):
    write_lines(tmp_path / "run" / "rollouts" / "1.jsonl", [dumped(str(i), "report", "Clear.", 0.5) for i in range(6)])
    return tmp_path / "run"


def test_a_page_is_written_with_films_from_elsewhere(run, tmp_path, capsys):
    (film,) = make_films(tmp_path / "films", ["a.png"])
    data = write_data(tmp_path / "data" / "train.parquet", {(str(i), "own"): film for i in range(6)})
    assert viewer.main([str(run), "--out", str(tmp_path / "page.html"), "--data", str(data), "--samples", "4"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'page.html'}: 4 of 6 answers, drawn by sample with seed 0; 1 films")
    assert "without their film" not in said
    assert (tmp_path / "page.html").stat().st_mode & 0o077 == 0  # it has text of reports


def test_the_terminal_shows_answers(run, capsys):
    assert viewer.main([str(run), "--terminal"]) == 0
    assert "Clear." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN/none", "--out", "PAGE"], "nothing to look at"),
        (["RUN", "--out", "PAGE", "--data", "RUN/none.parquet"], "no such file"),
    ],
)
def test_wrong_use_is_named(run, tmp_path, capsys, words, message):
    page = str(tmp_path / "page.html")
    assert viewer.main([word.replace("RUN", str(run)).replace("PAGE", page) for word in words]) == 2
    assert message in capsys.readouterr().err


def test_a_page_or_the_terminal_must_be_chosen(run, capsys):
    with pytest.raises(SystemExit, match="2"):
        viewer.main([str(run)])
    assert "--out --terminal" in capsys.readouterr().err
