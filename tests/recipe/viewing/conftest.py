import pytest
import viewed


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
def window():
    with viewed.chromium() as opened:
        yield opened


@pytest.fixture
def shown(window):
    return Shown(window)
