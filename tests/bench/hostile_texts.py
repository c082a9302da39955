"""Answers that a model might write to break whatever reads them: always the same for the same seed."""

import json
import random
from collections.abc import Iterator
from typing import NamedTuple

from reward_fns.boxes import Box
from reward_fns.conventions import CONVENTIONS
from reward_fns.rollout import Rollout

LONGEST = 100_000  # characters
PIECES = [
    "", " ", "\n", "\t", "\x00", "\x07", "\x1b[31m", "\u202e", "\u200b", "\u2028", "\ufeff", "\u0661",
    "\u0645\u0631\u062d", "\ud800", "\udfff", "\U0001f600", "e\u0301", "\u0301\u0323", "\ufdfa", "\u00bd", "\ufffd",
    "[", "]", "{", "}", '"', "\\", ",", ".", "%s", "{0}", "$x", "&amp;", "<skipped>", "-\n", "=" * 64,
    "<think>", "</think>", "<think", "</THINK>", "</s>", "<|assistant|>", "<|im_end|>",
    "[Matched Findings]: 9. ", "[Clinically Significant Errors]:\nNo errors.\n\n", "(a) x: 0.",
    "```json", '"bbox_2d":', '"label":', '{"bbox_2d": [1, 2, 3, 4], "label": "\\',
    "nan", "inf", "-", "1e308", "-1e308", "1e-320", "1e999", "0.5", "1", "1000", "9" * 400,
    "[0.1, 0.2, 0.3, 0.4]", "[0, 0, 1000, 1000]", "[0.1,0.2,", "[nan, 0, 1, 1]", "[0.9, 0.9, 0.1, 0.1]",
    "[-1e308, -1e308, 1e308, 1e308]", "[0,0,5e-324,1]", "zero point one", "(0.1,0.2),(0.3,0.4)",
    "No", "no ", "None", "The lungs are clear. ", "effusion", "a" * 600,
    "[nane1, 0, 1, 1]", "infe5", "Infinitye-999999999", "(1, 2), ", "[[1, 2], ", "\\]", "\\(", "'", "'label': 'x",
    "x1=", '{"x1": 1, "y1": 2,', '"x2": nan, "y2": 1e999}', "<loc0001>", "<box>", "01/02/2023 10:30 ", "\u0661.\u0665",
    "can't ", "not ", "sorry",
    "(1,1,1,1" + " " * 200, "(1,1)" + " " * 200 + "(1,1" + " " * 200, "; a" + "\n" * 60 + ":",
]  # fmt: skip
REPORTS = ["The lungs are clear.", "Small left effusion. No pneumothorax.", "x", "\u202e \ud800", "word " * 300]
TRUTHS: dict[str, list[dict[str, object]]] = {
    "report": [{"report": text} for text in REPORTS],
    # The frame is the size of the resized image, which box format qwen25vl needs.
    "grounding": [
        {"frame": [644, 476], "boxes": []},
        {"frame": [644, 476], "boxes": [[0.1, 0.2, 0.5, 0.6]], "labels": ["nodule"]},
        {"frame": [644, 476], "boxes": [[0, 0, 1, 1], [0.2, 0.2, 0.3, 0.3], [0.2, 0.2, 0.3, 0.3]]},
    ],
}


class Hostile(NamedTuple):
    """An answer in its row, and the kind of text that it is."""

    kind: str
    rollout: Rollout


def answers(count: int, seed: int, *, task: str, long_every: int = 1000) -> Iterator[Hostile]:
    """So many answers to rows of a task; every so many-th is long, up to `LONGEST` characters."""
    rng = random.Random(f"{task} {seed}")
    makers = (_pieces, _mutated_boxes, _json, _unicode, _bytes)
    for number in range(count):
        make = rng.choice(makers)
        text, kind = make(rng), make.__name__.strip("_")
        if number % long_every == 0:
            text, kind = (text or "[")[: rng.choice([1, 2, 9, 99, 9999])], f"long {kind}"
            text *= rng.choice([1000, 10_000, LONGEST, LONGEST, LONGEST]) // len(text) + 1
        info = {"thinking": rng.random() < 0.3, "box_format": rng.choice([*CONVENTIONS]), "width": 640, "height": 480}
        if info["thinking"] and rng.random() < 0.8:
            text = f"<think>a</think>{text}"
        yield Hostile(kind, Rollout(f"hostile/{task}", text[:LONGEST], rng.choice(TRUTHS[task]), info))


def _pieces(rng: random.Random) -> str:
    return "".join(rng.choices(PIECES, k=rng.randrange(12)))


def _mutated_boxes(rng: random.Random) -> str:
    """Boxes as a convention writes them, in which some characters are repeated, replaced or missing."""
    boxes = [Box(rng.random() / 2, rng.random() / 2, 0.6, 0.9, rng.choice(PIECES)) for _ in range(rng.randrange(5))]
    convention = rng.choice([*CONVENTIONS.values()])
    text = convention.render(boxes, (640, 480), named=rng.random() < 0.5)
    for _ in range(rng.randrange(6)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randrange(9))
        text = text[:start] + rng.choice([*PIECES, text[start:end] * 3]) + text[end:]
    return text


def _json(rng: random.Random, depth: int = 0) -> str:
    """JSON, sound but for where it ends."""
    key = rng.choice(["bbox_2d", "label", "x1", "y1", "x2", "y2", "xmin", "boxes", ""])
    inner: object = rng.choice([1e308, -0.0, 10**400, None, True, [1, 2, 3, 4], [], {}, rng.choice(PIECES)])
    text = json.dumps({key: inner}, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 2]))
    while depth < 60 and rng.random() < 0.7:
        depth += 1
        text = rng.choice(["[%s, %s]", '{"label": "a", "b": %s, "c": %s}', "{%s, %s}"]) % (text[-300:], text[:300])
    return text[: rng.randrange(1, len(text) + 1)]


def _unicode(rng: random.Random) -> str:
    highest = rng.choice([0x20, 0x7F, 0x300, 0xD900, 0x3000, 0x110000])
    return "".join(chr(rng.randrange(highest)) for _ in range(rng.randrange(80)))


def _bytes(rng: random.Random) -> str:
    encoding, errors = rng.choice([("latin-1", "strict"), ("utf-8", "replace"), ("utf-8", "surrogateescape")])
    return rng.randbytes(rng.randrange(200)).decode(encoding, errors)
