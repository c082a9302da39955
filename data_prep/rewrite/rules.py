"""Remove by rules what a single film cannot show: comparisons with other films, marks of removed names.

Approximate: rules know phrases, not meaning. They lose a finding in the same clause as a comparison that they remove.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

_PHRASES: Mapping[str, Any] = yaml.safe_load((files(__package__) / "texts/phrases.yaml").read_text(encoding="utf-8"))
_WORDS: Mapping[str, str] = _PHRASES["words"]


def _pattern(text: str) -> re.Pattern[str]:
    for _ in range(2):  # a list of words may name another
        text = re.sub("<([A-Z]+)>", lambda match: _WORDS[match[1]].replace("\n", ""), text)
    return re.compile(text.replace("\n", ""), re.IGNORECASE)


def phrase(name: str) -> re.Pattern[str]:
    """An expression of `texts/phrases.yaml`."""
    return _pattern(_PHRASES[name])


# The mark of a removed name, date or place: ___ in MIMIC-CXR, XXXX in OpenI, [** **] in older MIMIC notes.
MARK = re.compile(r"_{2,}|\b(?:\w+-)?[Xx]{3,}(?:-[Xx]{2,})*\b|\[\*\*.{0,80}?\*\*\]")
COMPARISON, _BARE = phrase("comparison"), phrase("bare")
_DROPPED, _DELETED = ([_pattern(text) for text in _PHRASES[name]] for name in ("dropped", "deleted"))
_EARLIER = _pattern(r"\b<EARLIER>")
_SAME_AND = _pattern(r"\b(is|are|remains?|appears?) <SAME>,? (?:and|but)\b")
_ENDING_MARK = re.compile(
    r"(?:\s*\b(?:by|from|of|on|at|in|to|with|dated|the|and|a|an|is|per|since|Dr\.?|Mrs?\.?|Ms\.?)\b)*"
    rf"(?:\s*(?:{MARK.pattern}))+(?=\s*(?:[,.;:)]|$))"
)
# The gap of a removed mark that stood for a noun: the sentence has lost its subject or object.
_GAP = _pattern(
    r"^\W*(?:is|are|was|were|has|have|of|and)\b|"
    r"\b(?:the|an?|no|of|to|with|due)\s+(?:(?:is|are|was|were|has|have|of|and|or)\b|[,.;]|$)"
)
_SENTENCES = re.compile(r"(?<!\bDr\.)(?<!\bMr\.)(?<!\bMs\.)(?<=[.!?])\s+(?=[\[(A-Z0-9_])")


def visible_only(report: str) -> str:
    """The sentences of a report that one film can show, on one line; "" if none remains.

    >>> visible_only("Compared to the prior study, there is a new right effusion. Heart size is unchanged.")
    'There is a right effusion.'
    >>> visible_only("Left PICC is again seen with its tip in the SVC. Dr. ___ was informed. XXXX XXXX are clear.")
    'Left PICC is seen with its tip in the SVC.'
    """
    sentences = _SENTENCES.split(re.sub(r"(?:\s*\.){2,}", ".", " ".join(report.split())))
    return " ".join(filter(None, map(_visible, sentences)))


def _visible(sentence: str) -> str:
    if any(pattern.search(sentence) for pattern in _DROPPED):
        return ""
    text = _SAME_AND.sub(r"\1", sentence)
    for pattern in _DELETED:
        text = " ".join(pattern.sub("", text).split())  # long gaps would make the next patterns slow
    compared = text != sentence
    unmarked = MARK.sub("", _ENDING_MARK.sub("", text))
    if unmarked != text and _GAP.search(unmarked):
        return ""
    text = unmarked
    if _EARLIER.search(text):
        return ""
    changed = text != sentence
    text = _tidy(text) if changed else text
    bare = text.rstrip(".!? ")
    if (compared and _BARE.match(bare)) or (changed and len(bare.split()) < 2):
        return ""
    return text if re.search(r"[A-Za-z]{2}", text) else ""


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"(?:\s+(?:and|or|but|with))*\s+(?=[,.;:!?])|(?:\s+(?:and|or|but|with))+(?=[,.;:!?]|$)", "", text)
    text = re.sub(r"(?:[,;:]\s*)+(?=[,.;:!?])", "", text)
    text = re.sub(r"^(?:[,;:.\s]|(?:and|but|with)\s)+", "", text)
    text = re.sub(r"\b[Aa] (?=[aeio]\w)", lambda match: f"{match[0][0]}n ", text)
    text = re.sub(r"\b[Aa]n (?=[bcdfgjklmnpqrstvwyz]\w)", lambda match: f"{match[0][0]} ", text)
    return text[:1].upper() + text[1:]
