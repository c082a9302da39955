"""Sections of MIMIC-CXR's free-text reports, by the rules of the project's own section file.

The rules are those that `mimic_cxr_sectioned.csv` is made with (github.com/MIT-LCP/mimic-cxr, txt/section_parser.py
and create_section_files.py), written anew here, so that report files and that CSV give the same text:

- A header is a line, not the first one, of a space, capitals and a colon followed by white space: ` FINDINGS: `. The
  rest of its line belongs to it, and where there is none, the next line does and is not a header.
- Headers are grouped: IMPRESSION, CONCLUSION and misspellings; FINDINGS, misspellings and headers that name the views
  (`CHEST, PA AND LATERAL:`). Of several sections of a group the last one that is not blank counts.
- Without findings and impression, what follows the first paragraph of the last section is the `last_paragraph`.
- Reports of a few studies are too irregular for this; they have no sections (`IRREGULAR`).

Wrapped lines are joined with a space.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import yaml

_HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s[^\n]*")
_PARAGRAPH = "\n \n"
_WORDS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
_IMPRESSION, _FINDINGS, _INDICATION, _VIEWS = (
    re.compile("|".join(_WORDS[name])) for name in ("impression", "findings", "indication", "views")
)
# Studies treated by hand, which the section file leaves out for it.
IRREGULAR = frozenset(_WORDS["irregular"].split())


class Sections(NamedTuple):
    """What a report says, each section as one line of text; "" for a missing section."""

    findings: str = ""
    impression: str = ""
    last_paragraph: str = ""


def parse(text: str) -> Sections:
    """The sections of a report as it stands in its file."""
    sections = {"findings": "", "impression": ""}
    last = text
    for name, body in _bodies(text):
        group = _group(name)
        if group is None:
            last = body
        elif body.strip():
            sections[group] = line(body)
    if any(sections.values()):
        return Sections(**sections)
    return Sections(last_paragraph=line(last.partition(_PARAGRAPH)[2]))


def indication(text: str) -> str:
    """Why the film was taken: the first paragraph of the first section that says so, "" without one."""
    bodies = (body for name, body in _bodies(text) if _INDICATION.search(name) and _group(name) is None)
    return next((line(body.strip().partition(_PARAGRAPH)[0]) for body in bodies if body.strip()), "")


def _bodies(text: str) -> Iterator[tuple[str, str]]:
    """Name and text of each section; first, without a name, what stands before the first header."""
    headers = list(_HEADER.finditer(text))
    if headers:
        yield "", text[: headers[0].start(1)]
    ends = [header.start() for header in headers[1:]] + [len(text)]
    for header, end in zip(headers, ends, strict=False):
        yield header[1].lower().strip(), text[header.end(1) + 2 : end]


@lru_cache(maxsize=1024)
def _group(name: str) -> str | None:
    if _IMPRESSION.fullmatch(name):
        return "impression"
    views = not any(other in name for other in ("history", "comparison", "addendum")) and _VIEWS.search(name)
    return "findings" if views or _FINDINGS.fullmatch(name) else None


def line(text: str) -> str:
    """The text with every run of white space made one space."""
    return " ".join(text.split())


def choose(sections: Sections, wanted: str) -> tuple[str, str] | None:
    """Kind of question and reference text, or None; "fallback": findings, else impression, else last paragraph."""
    findings, impression, last_paragraph = sections
    if wanted == "both":
        both = f"Findings: {findings} Impression: {impression}"
        return ("report", both) if findings and impression else None
    if findings and wanted != "impression":
        return "findings", findings
    if impression and wanted != "findings":
        return "impression", impression
    return ("report", last_paragraph) if last_paragraph and wanted == "fallback" else None


def whole(sections: Sections) -> str:
    """Findings and impression, or what there is of them, else the last paragraph: a report for a reader."""
    named = {"Findings": sections.findings, "Impression": sections.impression}
    return " ".join(f"{name}: {text}" for name, text in named.items() if text) or sections.last_paragraph
