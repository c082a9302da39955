import pytest
import viewed
from viewed import dumped, make_films, write_data, write_lines

from recipe.cxr_grpo.viewing import page


class Shown:
    """A page in the browser."""

    def __init__(self, window):
        self.window = window

    def __call__(self, script, *arguments):
        """Run a script in the page."""
        return self.window.execute_script(script, *arguments)

    def open(self, path):
        self.window.get(path.as_uri())
        return self.settle()

    def restart(self, path):
        """The page as it is after loading, without loading it again if it is the one in the window."""
        if self.window.current_url != path.as_uri():
            return self.open(path)
        self("at('help').close(); document.activeElement.blur(); at('reset').click()")
        self("Object.assign(state, { chosen: null, thinking: false, boxes: true }); refresh()")
        return self.settle()

    def settle(self):
        """Wait until the page has drawn what it was asked for."""
        self.window.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        )
        return self

    def put(self, selector, value):
        """Type or choose a value, or tick a box, as a user's input."""
        self(
            """const [input, value] = [document.querySelector(arguments[0]), arguments[1]];
            if (input.type === "checkbox") input.checked = value; else input.value = value;
            input.dispatchEvent(new Event("input", { bubbles: true }));""",
            selector,
            value,
        )
        return self.settle()

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.window, duration=0).send_keys(*keys).perform()
        return self.settle()

    def texts(self, selector):
        return self("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def text(self, selector):
        return " ".join(self.texts(selector))

    def count(self, selector):
        return self("return document.querySelectorAll(arguments[0]).length", selector)

    def listed(self):
        """The ids of the questions that pass the filters, in the order of the list."""
        return self("return state.shown.map((question) => question.id)")

    def chosen(self):
        return self("return state.chosen && [state.chosen.id, state.chosen.step]")


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The page of a run: three validations of four samples, and one step with two groups of rollouts."""
    out = tmp_path_factory.mktemp("run")
    films = make_films(out / "films", ["a.png", "b.png", "other.png"])
    for step, score in ((0, 0.2), (10, 0.4), (20, 0.9)):
        rows = [
            dumped("a", "grounding", "[0.1, 0.2, 0.5, 0.6]", score, gleu=None),
            dumped("a", "grounding", "[0.6, 0.6, 0.9, 0.9]", 0.0, films="swapped", gleu=None),
            dumped("b", "grounding", "[0.1, 0.2, 0.4, 0.6] and [0.7, 0.7, 0.9, 0.9]", 0.5, labels=["nodule"]),
            dumped("r", "report", "<think>Is it Clear?</think> Lungs are fine.", 0.7, gleu=0.7),
            dumped("x", "report", "", 0.1, gleu=None, model_failed=1.0, report="There is an Effusion."),
        ]
        write_lines(out / "validation" / f"{step}.jsonl", rows)
    groups = [dumped("g", "grounding", f"[0.{x}, 0.2, 0.5, 0.6]", score, uid=f"u_{x}_0")
              for x, score in ((1, 0.1), (2, 0.2), (4, 0.3))]  # fmt: skip
    groups += [dumped("z", "grounding", "nothing", 0.25, uid=f"v_{i}_0") for i in (1, 2)]
    write_lines(out / "rollouts" / "1.jsonl", groups)
    of = dict.fromkeys([("a", "own"), ("r", "own"), ("g", "own")], films[0]) | {("b", "own"): films[1].read_bytes()}
    write_data(out / "data" / "val.parquet", of | {("a", "swapped"): films[2]})
    page.write_page(out / "viewer.html", [out], [out / "data"])
    return out / "viewer.html"


@pytest.fixture(scope="session")
def window():
    with viewed.chromium() as opened:
        yield opened


@pytest.fixture
def shown(window):
    return Shown(window)


@pytest.fixture
def viewer(shown, run):
    return shown.restart(run)
