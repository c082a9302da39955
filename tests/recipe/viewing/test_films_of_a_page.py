import base64
import io
import json

import pytest
from PIL import Image
from viewed import dumped, make_films, write_data, write_lines

from recipe.cxr_grpo.viewing import page


def opened(stored):
    return Image.open(io.BytesIO(base64.b64decode(stored["data"])))


def test_a_film_is_stored_once_whatever_names_it(tmp_path):
    first, second = make_films(tmp_path, ["a.png", "b.png"])
    films = page.Films(5)
    content = second.read_bytes()
    places = [films.add(film) for film in (str(first), f"file://{first}", content, bytes(content), str(second))]
    assert places == [0, 0, 1, 1, 2]
    assert [film["name"] for film in films.stored] == ["a.png", "", "b.png"]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_films_become_gray_and_small_with_their_aspect(tmp_path, mode):
    Image.new(mode, (3000, 1500)).save(tmp_path / "film.png")
    films = page.Films(1)
    films.add(str(tmp_path / "film.png"))
    (stored,) = films.stored
    assert (stored["width"], stored["height"]) == opened(stored).size == (page.LARGEST, page.LARGEST // 2)
    assert opened(stored).mode == "L"


def test_more_films_are_smaller_ones():
    sides = [page.Films(films).side for films in (0, 1, 1500, 3000)]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == page.LARGEST
    assert 2900 * sides[3] ** 2 < 3000 * sides[3] ** 2 <= page.PIXELS


def test_films_that_can_not_be_read_are_missing(tmp_path):
    (film,) = make_films(tmp_path, ["a.png"])
    (tmp_path / "cut.png").write_bytes(film.read_bytes()[:50])
    films = page.Films(4)
    assert [films.add(str(tmp_path / name)) for name in ("cut.png", "none.png", "a.png")] == [None, None, 0]


def test_the_page_says_what_it_leaves_out(tmp_path):
    write_lines(tmp_path / "validation" / "0.jsonl", [dumped(str(i), "report", "x", 0.5) for i in range(9)])
    said = page.write_page(tmp_path / "page.html", [tmp_path], [], most=5, seed=3)
    assert said.startswith("5 of 9 answers, drawn by sample with seed 3; 0 films")
    assert said.endswith("; 5 of 5 questions without their film")
    assert said in (tmp_path / "page.html").read_text()


def test_no_text_ends_the_element_that_data_stands_in():
    texts = ["</script>", "<!--", "\ud800\u2028"]
    embedded = page.embedded(texts)
    assert "<" not in embedded
    assert embedded.isascii()
    assert json.loads(embedded) == texts


def test_the_size_of_films_follows_from_how_many_there_are_not_from_how_often_they_are_asked_about(tmp_path):
    films = make_films(tmp_path, ["a.png", "b.png"], side=1500)
    ids = [str(number) for number in range(2000)]
    write_lines(tmp_path / "validation" / "0.jsonl", [dumped(i, "grounding", "x", 0.5) for i in ids])
    data = write_data(tmp_path / "val.parquet", {(i, "own"): films[int(i) % 2] for i in ids})
    said = page.write_page(tmp_path / "page.html", [tmp_path], [data])
    assert said == f"all 2,000 answers; 2 films of at most {page.LARGEST} pixels a side"
