"""Read a model's output: where the answer is, and the boxes in it, as numbers of a `reward_fns.conventions` one."""

import json
import re
from dataclasses import dataclass, field
from typing import Literal

ThinkEnd = Literal["first", "last"]
_LAST = "</think>"
_FIRST = re.compile(_LAST, re.IGNORECASE)
Reader = Literal["tolerant", "released"]
"""Which forms of a box are read: all of `read_quads`, or only that of the code released with arXiv 2512.10691."""
Nothing = Literal["stated", "any"]
"""What an answer without a box must say to count as "there is nothing": so in words, or anything."""

Corners = tuple[float, ...]

# Every repetition is bounded or ends at a character it cannot match, so 100 kB of hostile text takes linear time.
_NUMBER = (
    r"[-+]?(?:(?:[0-9]{1,50}(?:\.[0-9]{0,50})?|\.[0-9]{1,50})(?:[eE][-+]?[0-9]{1,9})?|(?i:nan|inf(?:inity)?)(?![\w.]))"
)
_VALUE = rf"""["']?{_NUMBER}["']?"""
_GAP = r"\s{0,200}"
_COMMA = rf"(?:{_GAP},{_GAP}|\s{{1,200}})"
_OPEN, _CLOSE = rf"[\[(]{_GAP}", rf"{_GAP},?{_GAP}\\?[\])]"
_POINT = _OPEN + _COMMA.join([_VALUE] * 2) + _CLOSE
_TOKEN = re.compile(
    rf"(?P<quad>{_OPEN}{_COMMA.join([_VALUE] * 4)}{_CLOSE})"
    rf"|(?P<points>{_POINT}(?:{_GAP},?{_GAP}{_POINT})+)"
    r"""|["']label["']\s{0,9}:\s{0,9}(?P<label>"(?:[^"\\]|\\.)*"|'[^'\\]*')"""
    rf"""|(?P<edge>\b[xy](?:[12]|_?m(?:in|ax)))["']?\s{{0,9}}[:=]\s{{0,9}}["']?(?P<at>{_NUMBER})"""
    r"""|(?P<open>\{(?=\s{0,200}(?:["'{}\[]|bbox_2d|label|[xy])))|(?P<close>\})""",
    re.DOTALL,
)
_NUMBERS = re.compile(_NUMBER)

# The form that the code released with arXiv 2512.10691 reads; digits of other scripts are numbers for it too.
_RELEASED_NUMBER = r"\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*"
_RELEASED = re.compile(r"\[" + ",".join([_RELEASED_NUMBER] * 4) + r"\]")

# Joins a box to the next one of the same name; and the name of a box: from the start of a line or part to a colon.
_SAME_NAME = re.compile(r"\s{0,9}(?:,|,?\s{0,9}\band\b)\s{0,9}")
_NAME = re.compile(r"[;\n]\s{0,9}[.,]?\s{0,9}([^\s\[\]:;.,][^\[\]:;\n]{0,79}):\s{0,9}\Z")
_NAME_WINDOW = 120  # characters; bounds the time that a hostile text can take

# Numbers that are no attempt at a box: an empty list of boxes, dates and times.
_HARMLESS = re.compile(
    r"""["']?bbox_2d["']?\s{0,9}[:=]\s{0,9}(?:\[\s{0,9}\]|null|None)"""
    r"|\b[0-9]{1,4}([/.-])[0-9]{1,2}\1[0-9]{1,4}\b|\b[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?\b"
)
_ATTEMPT = re.compile(
    r"bbox_2d|\[\s*(?:[-+]?\.?[0-9]|\Z)"
    r"""|\b[xy](?:[12]|_?m(?:in|ax))\b|\b[xywh]["']?\s{0,9}[=:]\s{0,9}["']?[-+.]?[0-9]"""
    r"|<(?:loc|[xy]|patch_index)_?[0-9]|<\|?(?:box|quad|bbox|obj)"  # PaliGemma, MAIRA-2, Kosmos-2, Qwen
    r"|(?:(?<![0-9.])[0-9.]{1,50}[^0-9.A-Za-z]{1,9}){3}[0-9.]",
    re.IGNORECASE,
)
_ABSENT = re.compile(
    r"\b(?:no|none|nothing|null|nil|without|absen(?:t|ce)|negative|normal|clear|unremarkable|healthy|free of)\b"
    r"|(?:\b(?:can)?not|n['\u2019]t)\s(?:\w{1,30}\s){0,3}(?:any\b|see|find|found|present|visib|visual|eviden|identif|detect"
    r"|observ|show|demonstrat|appar|appreciat|contain|exist)|\[\s{0,9}\]|\{\s{0,9}\}",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\bsorry\b|\bas an ai\b|(?:can(?:no|['\u2019])t|can not|unable to|not able to|won['\u2019]t)\s(?:\w{1,30}\s)?"
    r"(?:help|assist|provid|analy|interpret|diagnos|comply|answer|view|process|read|review)",
    re.IGNORECASE,
)


def extract_answer(text: str, *, thinking: bool, think_end: ThinkEnd = "last") -> str | None:
    """The answer in a model's output without surrounding white space, or None, a failure of the model, if it is empty.

    Args:
        text: the output.
        thinking: whether the model was to think first; the answer is then what follows "</think>", and without that
            tag there is no answer. Otherwise all of the text is the answer.
        think_end: which "</think>" counts if there are several: the "last", as the released code of arXiv 2512.10691
            does for reports, or the "first", as it does for boxes, where upper case ("</THINK>") counts too.

    >>> extract_answer("<think>a mass?</think> No mass.", thinking=True)
    'No mass.'
    >>> extract_answer("<think>a mass?", thinking=True) is None
    True
    """
    if thinking and think_end == "first":
        tag = _FIRST.search(text)
        text = text[tag.end() :] if tag else ""
    elif thinking:
        _, tag_found, after = text.rpartition(_LAST)
        text = after if tag_found else ""
    return text.strip() or None


@dataclass
class _Object:
    parent: "_Object | None" = None
    label: str = ""
    edges: dict[str, float] = field(default_factory=dict)
    has_box: bool = False

    def nearest_label(self, nesting: int = 8) -> str:
        """Its label, or that of the nearest object around it, up to that nesting."""
        return self.label or (self.parent.nearest_label(nesting - 1) if self.parent and nesting else "")


def read_quads(text: str, reader: Reader = "tolerant", *, names: bool = False) -> list[tuple[Corners, str]]:
    """The boxes in any text, each with four numbers as written and its label, in text order; in linear time.

    Read are `[a, b, c, d]` and `(a, b, c, d)`, with or without commas, a trailing comma, quotes around the numbers or
    a backslash before the brackets; two points, `(a, b), (c, d)` or `[[a, b], [c, d]]`, but not more in a row; and
    objects with x1, y1, x2 and y2 (or xmin, x_min, ...). Numbers may have a sign, decimals and an exponent, or be nan
    or inf. What surrounds a box doesn't matter, nor does JSON that breaks off.

    Args:
        reader: "released" reads `[a, b, c, d]` with plain numbers only, and no labels.
        names: outside JSON, take as label what stands before a colon before the box, from the last semicolon or the
            line's beginning on; it holds for the boxes that "," or "and" joins to it. Inside JSON it is the "label" of
            the object that the box is in, or of one around that.

    >>> read_quads('{"label": "mass", "at": {"x1": 1, "y1": 2, "x2": 3, "y2": 4}} and (5, 6), (7, 8)')
    [((1.0, 2.0, 3.0, 4.0), 'mass'), ((5.0, 6.0, 7.0, 8.0), '')]
    """
    if reader == "released":
        return [(tuple(map(float, match.groups())), "") for match in _RELEASED.finditer(text)]
    boxes: list[tuple[Corners, str | _Object]] = []
    owner, end, name = _Object(), 0, ""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind in ("quad", "points"):
            corners = tuple(map(float, _NUMBERS.findall(match[0])))
            if len(corners) != 4:
                continue
            owner.has_box = True
            if outside := names and owner.parent is None:
                name, end = _name(text, end, match.start(), name), match.end()
            boxes.append((corners, name if outside else owner))
        elif kind == "label" and owner.parent is not None:
            owner.label = owner.label or _unquoted(match["label"])
        elif kind == "at":
            owner.edges[match["edge"][0] + ("1" if match["edge"].endswith(("1", "min")) else "2")] = float(match["at"])
        elif kind == "open":
            owner = _Object(owner)
        elif kind == "close" and owner.parent is not None:
            if len(owner.edges) == 4 and not owner.has_box:
                boxes.append((tuple(owner.edges[edge] for edge in ("x1", "y1", "x2", "y2")), owner))
            owner = owner.parent
    return [(corners, label if isinstance(label, str) else label.nearest_label()) for corners, label in boxes]


def is_unreadable(text: str, nothing: Nothing = "any") -> bool:
    """Whether a text without a box that can be read fails as an answer.

    It does if it tries to give a box: a bracket with a number or nothing behind it, four numbers in a row that are no
    dates or times, coordinates by name, location tokens of other models. With nothing="stated" it also does unless it
    says in English that there is nothing ("no", "without", "normal", "not seen", an empty list ...): neither a refusal
    nor talk about something else counts as that.

    >>> is_unreadable("located at ["), is_unreadable("No nodule, 01/02/2023 10:30.", "stated")
    (True, False)
    >>> is_unreadable("I cannot help with that.", "stated"), is_unreadable("I cannot help with that.")
    (True, False)
    """
    if not text.strip():
        return False
    if _ATTEMPT.search(_HARMLESS.sub("[]", text)):
        return True
    return nothing == "stated" and (_ABSENT.search(text) is None or _REFUSAL.search(text) is not None)


def _name(text: str, end: int, start: int, name: str) -> str:
    """The name of the box that starts at `start`; `name` is that of the box before it, which ends at `end`."""
    if end and _SAME_NAME.fullmatch(text, max(end, start - _NAME_WINDOW), start):
        return name
    between = text[start - _NAME_WINDOW : start] if start - end > _NAME_WINDOW else f";{text[end:start]}"
    match = _NAME.search(between)
    return match[1].strip() if match else ""


def _unquoted(literal: str) -> str:
    try:
        return literal[1:-1] if literal[0] == "'" else str(json.loads(literal, strict=False))
    except json.JSONDecodeError:  # an escape that JSON does not know: the box still counts
        return ""
