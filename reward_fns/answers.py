"""Read a model's output: where the answer is, and the boxes in it, as numbers of a `reward_fns.conventions` one."""

import json
import re
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

ThinkEnd = Literal["first", "last"]
_LAST = "</think>"
_FIRST = re.compile(_LAST, re.IGNORECASE)
Reader = Literal["tolerant", "released"]
"""Which forms of a box are read: all of `read_quads`, or only that of the code released with arXiv 2512.10691."""
Nothing = Literal["stated", "any"]
"""What an answer without a box must say to count as "there is nothing": so in words, or anything."""

Corners = tuple[float, ...]

# Every repetition is bounded or ends at a character that it cannot match, no two of them can share out the same
# characters between them, and a search stops only at characters that can begin a match: 100 kB take milliseconds.
_NUMBER = (
    r"[-+]?(?:(?:[0-9]{1,50}(?:\.[0-9]{0,50})?|\.[0-9]{1,50})(?:[eE][-+]?[0-9]{1,9})?|(?i:nan|inf(?:inity)?)(?![\w.]))"
)
_VALUE = rf"""["']?{_NUMBER}["']?"""
_GAP = r"\s{0,200}(?!\s)"
_COMMA = rf"(?:\s{{1,200}}(?!\s)(?:,{_GAP})?|,{_GAP})"
_CLOSE = rf"{_GAP}(?:,{_GAP})?\\?[\])]"
_PAIR = rf"{_GAP}{_VALUE}{_COMMA}{_VALUE}"
_TOKEN = re.compile(
    rf"""[\[("'xy{{}}](?:(?<=[\[(]){_PAIR}(?:(?P<quad>{_COMMA}{_VALUE}{_COMMA}{_VALUE}{_CLOSE})"""
    rf"|(?P<points>{_CLOSE}(?:{_GAP}(?:,{_GAP})?[\[(]{_PAIR}{_CLOSE})+))"
    r"""|(?<=["'])label["']\s{0,9}:\s{0,9}(?P<label>"[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*')"""
    rf"""|(?<=[xy])(?<!\w.)(?P<edge>[12]|_?m(?:in|ax))["']?\s{{0,9}}[:=]\s{{0,9}}["']?(?P<at>{_NUMBER})"""
    r"""|(?<=\{)(?P<open>(?=\s{0,200}(?:["'{}\[]|bbox_2d|label|[xy])))|(?<=\})(?P<close>))""",
    re.DOTALL,
)
_NUMBERS = re.compile(_NUMBER)
MAX_READ = 1000
"""Boxes of an answer that are read; ten times what can be valid, see `reward_fns.conventions.MAX_BOXES`."""
_MOST_TOKENS = 10 * MAX_READ  # a box has at most ten: braces, label, corners

# The form that the code released with arXiv 2512.10691 reads; digits of other scripts are numbers for it too.
_RELEASED_NUMBER = r"\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*"
_RELEASED = re.compile(r"\[" + ",".join([_RELEASED_NUMBER] * 4) + r"\]")

# Joins a box to the next one of the same name; and the name of a box: from the start of a line or part to a colon.
_SAME_NAME = re.compile(r"\s{0,9}(?:,|,?\s{0,9}\band\b)\s{0,9}")
_NAME = re.compile(r"\s{0,9}[.,]?\s{0,9}([^\s\[\]:;.,][^\[\]:;\n]{0,79}):\s{0,9}")
_NAME_WINDOW = 120  # characters; bounds the time that a hostile text can take


def _beginning_with(first: str, pattern: str) -> re.Pattern[str]:
    """A pattern whose matches begin with one of these characters, for `search` in a text in lower case."""
    return re.compile(rf"[{first}](?<=(?={pattern}).)", re.DOTALL)


# Numbers that are no attempt at a box: an empty list of boxes, dates and times.
_HARMLESS = re.compile(
    r"""[b0-9](?:(?<=b)box_2d["']?\s{0,9}[:=]\s{0,9}(?:\[\s{0,9}\]|null|None)"""
    r"|(?<=[0-9])(?<!\w.)(?:[0-9]{0,3}([/.-])[0-9]{1,2}\1[0-9]{1,4}|[0-9]?:[0-9]{2}(?::[0-9]{2})?)\b)"
)
_ATTEMPT = _beginning_with(
    r"bxywh\[<0-9.",
    r"bbox_2d|\[\s*(?:[-+]?\.?[0-9]|\Z)"
    r"""|[xy](?<!\w.)(?:[12]|_?m(?:in|ax))\b|[xywh](?<!\w.)["']?\s{0,9}[=:]\s{0,9}["']?[-+.]?[0-9]"""
    r"|<(?:loc|[xy]|patch_index)_?[0-9]|<\|?(?:box|quad|bbox|obj)"  # PaliGemma, MAIRA-2, Kosmos-2, Qwen
    r"|[0-9.](?<![0-9.].)[0-9.]{0,49}(?:[^0-9.a-z]{1,9}[0-9.]{1,50}){2}[^0-9.a-z]{1,9}[0-9.]",
)
_ABSENT = _beginning_with(
    r"nwacuhfr\[{",
    r"\b(?:no|none|nothing|null|nil|without|absen(?:t|ce)|negative|normal|clear|unremarkable|healthy|free of)\b"
    r"|(?:\b(?:can)?not|n['\u2019]t)\s(?:\w{1,30}\s){0,3}(?:any\b|an?\b|there\b|on\b|have\b|see|find|found|locat|locali"
    r"|present|visib|visual|eviden|identif|detect|observ|show|demonstrat|appar|appreciat|contain|exist)"
    r"|\bunable to\s(?:see|find|locat|locali|identif)|\bruled out\b|\[\s{0,9}\]|\{\s{0,9}\}",
)
_REFUSAL = _beginning_with(
    "sacunw",
    r"\bsorry\b(?![,.;!]?\s(?:but\s)?(?:there|no)\b)|\bas an ai\b"
    r"|(?:can(?:no|['\u2019])t|can not|unable to|not able to|won['\u2019]t)\s(?:\w{1,30}\s)?"
    r"(?:help|assist|provid|analy|interpret|diagnos|comply|answer|view|process|read|review)",
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


@dataclass(slots=True)
class _Object:
    parent: "_Object | None" = None
    label: str = ""
    edges: dict[str, float] = field(default_factory=dict)
    has_box: bool = False

    def nearest_label(self, nesting: int = 8) -> str:
        """Its label, or that of the nearest object around it, up to that nesting."""
        return self.label or (self.parent.nearest_label(nesting - 1) if self.parent and nesting else "")


def read_quads(text: str, reader: Reader = "tolerant", *, names: bool = False) -> list[tuple[Corners, str]]:
    """The boxes in any text, at most `MAX_READ`, each with four numbers as written and its label, in text order.

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
        matches = islice(_RELEASED.finditer(text), MAX_READ)
        return [(tuple(map(float, match.groups())), "") for match in matches]
    boxes: list[tuple[Corners, str | _Object]] = []
    owner, end, name = _Object(), 0, ""
    for match in islice(_TOKEN.finditer(text), _MOST_TOKENS):
        if len(boxes) == MAX_READ:
            break
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
            owner.edges[match[0][0] + ("1" if match["edge"].endswith(("1", "min")) else "2")] = float(match["at"])
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
    if _ATTEMPT.search(_HARMLESS.sub("[]", text).lower()):
        return True
    lowered = text.lower()
    return nothing == "stated" and (_ABSENT.search(lowered) is None or _REFUSAL.search(lowered) is not None)


def _name(text: str, end: int, start: int, name: str) -> str:
    """The name of the box that starts at `start`; `name` is that of the box before it, which ends at `end`."""
    begin = max(end, start - _NAME_WINDOW)
    if end and _SAME_NAME.fullmatch(text, begin, start):
        return name
    colon = text.rfind(":", begin, start)
    line = max(text.rfind(mark, begin, max(colon, begin)) for mark in ";\n") + 1
    if not line and begin > end:  # the name may begin before the window
        return ""
    match = _NAME.fullmatch(text, line or begin, start)
    return match[1].strip() if match else ""


def _unquoted(literal: str) -> str:
    if literal[0] == "'" or "\\" not in literal:
        return literal[1:-1]
    try:
        return str(json.loads(literal, strict=False))
    except json.JSONDecodeError:  # an escape that JSON does not know: the box still counts
        return ""
