import base64
import io

import pytest
from PIL import Image
from viewed import dumped, make_films, write_data, write_lines

from recipe.cxr_grpo.viewing import page, pictures
from recipe.cxr_grpo.viewing.samples import read_sources


def opened(stored):
    return Image.open(io.BytesIO(base64.b64decode(stored["data"])))


def test_a_film_is_stored_once_whatever_names_it(tmp_path):
    first, second = make_films(tmp_path, ["a.png", "b.png"])
    films = pictures.Pictures(5)
    content = second.read_bytes()
    places = [films.add(film) for film in (str(first), f"file://{first}", content, bytes(content), str(second))]
    assert places == [0, 0, 1, 1, 2]
    assert [film["name"] for film in films.stored] == ["a.png", "", "b.png"]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_films_become_gray_and_small_with_their_aspect(tmp_path, mode):
    Image.new(mode, (3000, 1500)).save(tmp_path / "film.png")
    films = pictures.Pictures(1)
    films.add(str(tmp_path / "film.png"))
    (stored,) = films.stored
    assert (stored["width"], stored["height"]) == opened(stored).size == (pictures.LARGEST, pictures.LARGEST // 2)
    assert opened(stored).mode == "L"


def test_more_films_are_smaller_ones():
    sides = [pictures.Pictures(films).side for films in (0, 1, 1500, 3000, 1_000_000)]
    assert sides == sorted(sides, reverse=True)
    assert (sides[0], sides[-1]) == (pictures.LARGEST, pictures.SMALLEST)
    assert 3000 * sides[3] ** 2 <= pictures.PIXELS


def test_films_that_do_not_fit_or_can_not_be_read_are_counted(tmp_path, monkeypatch):
    first, second = make_films(tmp_path, ["a.png", "b.png"])
    (tmp_path / "cut.png").write_bytes(first.read_bytes()[:50])
    films = pictures.Pictures(4)
    assert [films.add(str(tmp_path / name)) for name in ("cut.png", "none.png")] == [None, None]
    assert films.unreadable == 2
    monkeypatch.setattr(pictures, "BYTES", 10)
    assert [films.add(str(first)), films.add(str(second))] == [0, None]
    assert films.left_out == 1


def test_each_arm_gets_its_own_film(tmp_path):
    own, other = make_films(tmp_path / "films", ["own.png", "other.png"])
    rows = [dumped("a", "report", "x", 0.5), dumped("a", "report", "x", 0.5, films="swapped")]
    write_lines(tmp_path / "validation" / "0.jsonl", [*rows, dumped("b", "report", "x", 0.5)])
    data = write_data(tmp_path / "val.parquet", {("a", "swapped"): other, ("a", "own"): own, ("c", "own"): other})
    questions, _ = read_sources([tmp_path])
    films = pictures.add_films(questions, [data])
    names = [question.film if question.film is None else films.stored[question.film]["name"] for question in questions]
    assert names == ["own.png", "other.png", None]


def test_the_page_says_what_it_leaves_out(tmp_path):
    write_lines(tmp_path / "validation" / "0.jsonl", [dumped(str(i), "report", "x", 0.5) for i in range(9)])
    said = page.write_page(tmp_path / "page.html", [tmp_path], most=5, seed=3)
    assert "5 of 9 answers, drawn by sample with seed 3" in said
    assert "5 of 5 questions without their film" in said
    assert said.split("; ")[0] in (tmp_path / "page.html").read_text()
