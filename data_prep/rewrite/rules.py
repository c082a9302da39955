"""Remove by rules what a single film cannot show: comparisons with other films, marks of removed names.

Approximate, for texts that no language model may see: rules know phrases, not meaning. They lose a finding in the same
clause as a comparison that they remove, and miss wordings that they do not know. Read the counts that
`python -m data_prep filter --rules` prints, and some of the reports.
"""

import re


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


def _patterns(*texts: str) -> tuple[re.Pattern[str], ...]:
    return tuple(map(_pattern, texts))


# The mark of a removed name, date or place: ___ in MIMIC-CXR, XXXX in OpenI, [** **] in older MIMIC notes.
MARK = re.compile(r"_{2,}|\b(?:\w+-)?[Xx]{3,}(?:-[Xx]{2,})*\b|\[\*\*.{0,80}?\*\*\]")
_STUDY = r"(?:stud(?:y|ies)|exam(?:ination)?s?|radiographs?|films?|images?|imaging|x-?rays?|cts?|scans?|reports?|chest)"
_EARLIER = rf"(?:prior|previous|earlier|preceding|old|last|outside)\s+(?:[^\s.]+\s+){{0,3}}?{_STUDY}"
_TREND = r"(?:increased|decreased|improved|worsened|progressed|enlarged|diminished|changed)"
_SAME = r"(?:unchanged|stable|similar(?: in appearance)?|the same)"

COMPARISON = _pattern(
    rf"\b(?:(?:as |when )?compared (?:to|with)|in comparison|unchanged|stable|interval(?:ly)?|no longer|new(?:ly)?|"
    rf"again (?:seen|noted|demonstrated|identified)|previously|{_EARLIER}|"
    rf"(?:since|than|from) (?:the |a )?(?:prior|previous|last)|(?:has|have) {_TREND}|(?:re)?demonstrated again)\b"
)
"""Words about another time than that of the film."""

# A sentence with one of these is removed: without the comparison nothing that the film shows would remain of it.
_DROPPED = _patterns(
    r"^\W*(?:indication|(?:clinical )?(?:history|information)|comparisons?|technique|exam(?:ination)?|"
    r"reason for (?:the )?exam(?:ination)?)\s*:",
    rf"^\W*(?:no|there (?:is|are) no|none)\b.{{0,30}}\b(?:prior|previous|comparison|{_EARLIER})\b.{{0,60}}"
    r"(?:available|comparison|compare)",
    r"^\W*comparison (?:is|was) (?:made|with|to)\b",
    r"\b(?:no|little|minimal) (?:significant |definite |relevant |substantial |appreciable |major |short )*"
    r"(?:interval )?change",
    r"\bno (?:definite |evidence of (?:a )?)?new\b",
    r"\bno longer\b|\b(?:has|have) (?:since |now |largely |completely |nearly )*"
    r"(?:resolved|cleared|been (?:removed|withdrawn|extubated))\b",
    r"\binterval (?:\w+ )?\S*(?:resolution|removal|extubation|clearing|withdrawal)\b",
    r"\b(?:discussed|notified|informed|communicated|paged|telephoned|conveyed|relayed)\b|"
    r"\bresult notification\b|\btelephone\b|\bDr\b",
    r"\b(?:recommend(?:ed|ation)?s?|follow-?\s?up|is advised|clinical(?:ly)? correlat\w+|correlate)\b",
    r"^\W*(?:(?:pa|ap|frontal|lateral|portable|single|two|upright|supine|semi-?\w*|and|chest|,|view)\s*)+"
    r"(?:views?|radiographs?|films?|images?|x-?rays?)\b.{0,80}"
    r"\b(?:obtained|provided|submitted|performed|acquired|presented|reviewed|of the chest\W*$)",
)

# Phrases that are removed from a sentence that stays; the order matters.
_DELETED = _patterns(
    r"(?:,\s*)?\b(?:as |when )?(?:compared|in comparison|relative) (?:to|with)\b[^,.;]{0,200}?"
    r"(?=\s+there (?:is|are|has)\b|[,.;]|$)",
    r"(?:,\s*)?\b(?:since|from|than) (?:the |a |an )?(?:prior|previous|earlier|preceding|last)\b[^,.;]{0,200}",
    rf"(?:,\s*)?\b(?:as )?(?:seen |noted |described )?(?:on|in) (?:the )?{_EARLIER}[^,.;]{0, 200}",
    r"\binterval (?:\w+ )?(?:increase|decrease|worsening|improvement|enlargement|progression|development|"
    r"placement|insertion|appearance) (?:in|of)(?: the)?(?: (?:size|extent) of)?(?: the)?",
    rf"(?<!there)\s+(?:is|are|remains?|appears?|has remained|have remained) (?:(?:\w+ly|overall) )?{_SAME}"
    r"(?: in (?:size|appearance|position|extent|configuration))?\b",
    rf"\s+(?:has|have) (?:\w+ly )?{_TREND}(?: in (?:size|extent|severity))?\b",
    r"\b(?:the )?previously (?:seen|noted|described|identified|demonstrated|visualized)\b",
    r"\b(?:once )?again\b(?:\s*(?:,|is|are)\s*(?=(?:seen|noted)))?",
    r"(?:,\s*)?\bas before\b",
    r"(?:,\s*)?\b(?:(?:gross|essential|relative|large|slight|mild|overal)ly )?"
    r"(?:unchanged|stable|interval(?:ly)?|new(?:ly)?|persistent|persisting|"
    r"worsening|worsened|improving|improved|enlarging|resolving|evolving)\b",
)
_SAME_AND = _pattern(rf"\b(is|are|remains?|appears?) {_SAME},? (?:and|but)\b")
_ENDING_MARK = re.compile(
    r"(?:\s*\b(?:by|from|of|on|at|in|to|with|dated|the|and|a|an|is|per|since|Dr\.?|Mrs?\.?|Ms\.?)\b)*"
    rf"(?:\s*(?:{MARK.pattern}))+(?=\s*(?:[,.;:)]|$))"
)
# The gap of a removed mark that stood for a noun: the sentence has lost its subject or object.
_GAP = _pattern(
    r"^\W*(?:is|are|was|were|has|have|of|and)\b|"
    r"\b(?:the|an?|no|of|to|with|due)\s+(?:(?:is|are|was|were|has|have|of|and|or)\b|[,.;]|$)"
)
# A subject whose statement was removed.
_BARE = _pattern(
    r"^(?:the |this |overall )*(?:\w+[\s/-]+)*(?:size|silhouettes?|contours?|appearance|positions?|configuration|"
    r"examination|exam|study|chest|findings?|structures|volumes?|it|this|there)$"
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
    if re.search(rf"\b{_EARLIER}", text, re.IGNORECASE):
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
