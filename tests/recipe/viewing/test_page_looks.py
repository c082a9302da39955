import pytest

CONTRAST = """
    const channel = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) =>
      0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
    const behind = (element) => {
      const color = parts(getComputedStyle(element).backgroundColor);
      return color.length === 3 || color[3] > 0 ? color : behind(element.parentElement);
    };
    const texts = [...document.querySelectorAll("body *")].filter((element) =>
      !element.closest("svg, script, option, dialog") && element.checkVisibility() &&
      [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
    return texts.map((element) => {
      const [a, b] = [light(parts(getComputedStyle(element).color)), light(behind(element))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.textContent.slice(0, 40)];
    });
"""  # the contrast of each text with what is behind it, by WCAG 2.2


@pytest.fixture
def emulate(window):
    def change(command, **values):
        window.execute_cdp_cmd(f"Emulation.{command}", values)

    yield change
    change("setEmulatedMedia", features=[])
    change("clearDeviceMetricsOverride")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(viewer, emulate, scheme):
    emulate("setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    dark = viewer.settle()("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    for words in ("", "effusion"):  # boxes; a report, with flags
        found = viewer.put("#search", words)(CONTRAST)
        assert len(found) > 40
        assert [pair for pair in found if pair[0] < 4.5] == []


def test_a_narrow_window_needs_no_sideways_scrolling(viewer, emulate):
    emulate("setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=False)
    for words in ("", "is it clear"):
        width = viewer.put("#search", words)("return document.documentElement.scrollWidth")
        assert width <= 360
    lists = viewer("return ['#list', '#detail'].map((of) => document.querySelector(of).getBoundingClientRect())")
    assert lists[1]["top"] >= lists[0]["bottom"]  # below each other
    assert viewer("return document.getElementById('list').clientHeight") > 200


def test_every_control_has_a_name(viewer):
    nameless = viewer(
        """return [...document.querySelectorAll("input, select, button, summary, [role=img], [role=listbox], dialog")]
        .filter((element) => !(element.labels?.length || element.ariaLabel || element.getAttribute("aria-labelledby") ||
          element.textContent.trim() || element.closest("[aria-hidden]"))).map((element) => element.outerHTML)"""
    )
    assert nameless == []
    assert viewer(
        "return document.getElementById(document.getElementById('list').getAttribute('aria-activedescendant')) !== null"
    )
    assert viewer("return document.querySelector('.film[role=img]:not([aria-hidden])').ariaLabel").startswith(
        "Film of a: 0 hits"
    )
