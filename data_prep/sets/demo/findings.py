"""Findings of the demo films: what can be present, where it may lie, how it changes the film, and its report.

A box is the extent of its lesion's mask, so it is tight under any pose. No lesion of a film hides another.
"""

from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import yaml
from numpy.typing import NDArray

from data_prep.sets.demo.anatomy import SIZE, Chest, Field, radius, ramp
from reward_fns.boxes import Box

SIDES = ("right", "left")
ZONES = {"upper": (0.25, 0.36), "mid": (0.42, 0.52), "lower": (0.57, 0.66)}  # y of a lesion's center

_DRAWN = yaml.safe_load(Path(__file__).with_name("findings.yaml").read_text(encoding="utf-8"))
_WORDINGS = yaml.safe_load(Path(__file__).with_name("wordings.yaml").read_text(encoding="utf-8"))
OPACITY, NODULE, EFFUSION, HEART, PNEUMOTHORAX, PACEMAKER, LINE = KINDS = tuple(_DRAWN)
_IN_LUNG = (OPACITY, NODULE)
_NECK_TO_VEIN = [(-0.10, 0.03), (-0.085, 0.12), (-0.055, 0.22), (-0.045, 0.32)]
_VISIBLE = 0.4  # a pixel belongs to the box where the lesion's mask exceeds this


@dataclass(frozen=True)
class Finding:
    """One lesion or device: `side` as seen by the patient, `zone` for lung lesions, sizes as image fractions."""

    kind: str
    side: str = ""
    zone: str = ""
    across: float = 0.5  # position between the medial (0) and lateral (1) lung border
    y: float = 0.0
    size: float = 0.0
    turn: float = 0.0


Film = namedtuple("Film", "anatomy exposure findings")  # all that is needed to draw a film again


def draw_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """Zero to three finding kinds with places that do not collide; a kind may come as two lesions."""
    count = rng.choice(4, p=[0.18, 0.37, 0.30, 0.15])
    kinds = rng.choice(len(KINDS), size=count, replace=False, p=[_DRAWN[kind]["weight"] for kind in KINDS])
    chosen = [KINDS[k] for k in sorted(kinds)]
    # Behind an enlarged heart no lung lesion would show.
    hidden = {("left", "mid"), ("left", "lower")} if HEART in chosen else set()
    taken: set[tuple[str, str]] = set()
    findings: list[Finding] = []
    for kind in chosen:
        zones, sizes, paired = (_DRAWN[kind].get(key) for key in ("zones", "sizes", "paired"))
        for _ in range(2 if paired and rng.random() < paired else 1):
            blocked = taken | hidden if kind in _IN_LUNG else taken
            free = [(side, zone) for side in SIDES for zone in zones if (side, zone) not in blocked]
            if zones and not free:
                continue
            side, zone = free[rng.integers(len(free))] if zones else ("", "")
            taken.add((side, zone))
            # Behind the heart a lesion would be invisible: stay lateral in the lower lungs.
            across = rng.uniform(0.55 if zone == "lower" else 0.3, 0.75)
            y = rng.uniform(*ZONES[zone]) if zone else 0.0
            lung_zone = zone if kind in _IN_LUNG else ""
            findings.append(Finding(kind, side, lung_zone, across, y, rng.uniform(*sizes), rng.uniform(-0.6, 0.6)))
    return tuple(findings)


def render(film: Film) -> tuple[NDArray[np.uint8], tuple[tuple[Finding, Box], ...]]:
    """Gray values [256, 256] uint8, and each finding with its tight box, in the order of `film.findings`."""
    enlarged = [f.size for f in film.findings if f.kind == HEART]
    chest = Chest(film.anatomy, film.exposure, heart_scale=enlarged[0] if enlarged else 1.0)
    air, extra, metal = chest.air, np.zeros((SIZE, SIZE), np.float32), np.zeros((SIZE, SIZE), np.float32)
    masks = [(finding, _MASKS[finding.kind](chest, finding)) for finding in film.findings]
    for finding, mask in masks:
        if finding.kind == EFFUSION:
            fluid = _fluid(chest, finding)
            air = air * (1 - fluid)
            extra += 0.14 * fluid * ramp(chest.wall, 0.02) * ramp(chest.dome - chest.y, 0.009) * (1 - chest.heart)
        elif finding.kind == OPACITY:
            extra += 0.27 * mask * (1 + 0.12 * chest.clouds())
        elif finding.kind == NODULE:
            extra += 0.30 * mask
        elif finding.kind == PNEUMOTHORAX:
            extra += 0.24 * _pneumothorax(chest, finding, line=True) - 0.13 * mask
        elif finding.kind in (PACEMAKER, LINE):
            metal = np.maximum(metal, mask)
    density = chest.density(air) + extra
    pixels = chest.develop(density + metal * np.maximum(0, 1.25 - density))
    return pixels, tuple((finding, _extent(mask, finding.kind)) for finding, mask in masks)


def _extent(mask: Field, label: str) -> Box:
    seen = mask > _VISIBLE
    columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    x1, y1, x2, y2 = (float(edge) / SIZE for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return Box(x1, y1, x2, y2, label)


def _offset(chest: Chest, finding: Finding) -> tuple[Field, Field]:
    """Each pixel's distance from a lung lesion's center, which is placed between the lung borders at its height."""
    row = np.unravel_index(np.argmin(np.abs(chest.y - finding.y) + chest.ax), chest.y.shape)
    inner, outer = float(chest.inner[row]), float(chest.outer[row])
    center = inner + finding.across * (outer - inner)
    return chest.dx - np.float32(center if finding.side == "left" else -center), chest.y - np.float32(finding.y)


def _opacity(chest: Chest, finding: Finding) -> Field:
    """Consolidation: an ill-defined, cloudy ellipse within the lung."""
    u, v = _offset(chest, finding)
    cos, sin = np.float32(np.cos(finding.turn)), np.float32(np.sin(finding.turn))
    size = np.float32(finding.size)
    reach = radius((cos * u + sin * v) / size, (cos * v - sin * u) / (0.78 * size))
    return ramp(1.0 - reach + 0.13 * chest.clouds() * (reach < 1.6), 0.38) * chest.air


def _fluid(chest: Chest, finding: Finding) -> Field:
    """Everything below the fluid level of one side; the level rises to the chest wall (meniscus)."""
    across = np.clip((chest.ax - chest.inner) / np.maximum(chest.outer - chest.inner, 0.05), 0, 1)
    base = chest.anatomy.right_dome + (chest.anatomy.dome_step if finding.side == "left" else 0.0)
    rise = (0.02 + 0.35 * finding.size) * (across * across * across - 0.3)
    return ramp(chest.y - (base + 0.045 - finding.size) + rise, 0.010) * (chest.left == (finding.side == "left"))


def _pneumothorax(chest: Chest, finding: Finding, line: bool = False) -> Field:
    """Air at the apex outside the partly collapsed lung, a dark crescent without vessels; or the pleural line."""
    size, sign = np.float32(finding.size), np.float32(1 if finding.side == "left" else -1)
    # The lung's outline is the chest's, moved down and inwards.
    u = (chest.dx * sign - np.float32(0.13)) / (chest.anatomy.chest - 0.13 - 0.55 * size)
    v = (chest.y - np.float32(0.50)) / (0.37 - size)
    outside = (radius(u, v) - 1) * np.float32(0.25)
    shown = ramp(0.004 - np.abs(outside), 0.005) if line else ramp(outside, 0.006)
    return shown * chest.air * ramp(0.44 + finding.size - chest.y, 0.02) * (chest.left == (finding.side == "left"))


def _pacemaker(chest: Chest, finding: Finding) -> Field:
    """Generator below the collar bone with a lead through the great vein into the right ventricle."""
    sign = 1.0 if finding.side == "left" else -1.0
    u, v = np.abs(chest.dx - np.float32(sign * 0.27)), np.abs(chest.y - np.float32(0.265))
    size = np.float32(finding.size)
    corner = radius(np.maximum(u - 0.55 * size, 0), np.maximum(v - 0.35 * size, 0))
    generator = ramp(0.45 * size - corner, 0.006)
    lead = [(sign * 0.25, 0.24), (sign * 0.15, 0.195), (-0.02, 0.25), (-0.048, 0.36), (-0.055, 0.52), (0.06, 0.655)]
    return cast(Field, np.maximum(generator, 0.9 * _curve(chest, lead, 0.0042)))


def _curve(chest: Chest, points: list[tuple[float, float]], half: float) -> Field:
    """A smooth line of the given half width through control points in canonical (dx, y) coordinates."""
    distance = np.full((SIZE, SIZE), np.inf, np.float32)
    corners = np.array(points, np.float32)
    for _ in range(2):  # corner cutting (Chaikin), which keeps the end points
        cut = np.stack([0.75 * corners[:-1] + 0.25 * corners[1:], 0.25 * corners[:-1] + 0.75 * corners[1:]], 1)
        corners = np.vstack([corners[:1], cut.reshape(-1, 2), corners[-1:]])
    for (x0, y0), (x1, y1) in pairwise(corners):
        ex, ey = x1 - x0, y1 - y0
        along = np.clip(((chest.dx - x0) * ex + (chest.y - y0) * ey) / (ex * ex + ey * ey), 0, 1)
        distance = np.minimum(distance, (chest.dx - x0 - along * ex) ** 2 + (chest.y - y0 - along * ey) ** 2)
    return ramp(np.float32(half) - np.sqrt(distance), 0.004)


_MASKS = {
    OPACITY: _opacity,
    # A round, well-defined spot.
    NODULE: lambda chest, nodule: ramp(np.float32(nodule.size) - radius(*_offset(chest, nodule)), 0.008),
    # Free fluid where there was air: a filled lung base and a blunted costophrenic angle.
    EFFUSION: lambda chest, effusion: _fluid(chest, effusion) * chest.air * (1 - chest.heart),
    HEART: lambda chest, _: chest.heart,
    PNEUMOTHORAX: _pneumothorax,
    PACEMAKER: _pacemaker,
    # From the right side of the neck down to the great vein.
    LINE: lambda chest, line: 0.85 * _curve(chest, [*_NECK_TO_VEIN, (-0.045, 0.40 + line.size)], 0.0038),
}


def phrase(kind: str, findings: Sequence[Finding]) -> str:
    """What a grounding question asks for: "right pleural effusion"; both sides or several lesions have no place."""
    if len(findings) == 1 and findings[0].zone:
        return f"{kind} in the {findings[0].side} {findings[0].zone} lung zone"
    sides = {f.side for f in findings}
    return f"{sides.pop()} {kind}" if kind in (EFFUSION, PNEUMOTHORAX, PACEMAKER) and len(sides) == 1 else kind


def loosened(box: Box, share: float) -> Box:
    """The box with each side moved outward by this share of the box's width or height, within the image.

    >>> loosened(Box(0.2, 0.5, 0.4, 0.99, "nodule"), 0.5).quad
    (0.1, 0.255, 0.5, 1.0)
    """
    right, down = share * (box.x2 - box.x1), share * (box.y2 - box.y1)
    x1, y1, x2, y2 = box.x1 - right, box.y1 - down, box.x2 + right, box.y2 + down
    return Box(max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0), box.label)


def report(findings: Sequence[Finding], rng: np.random.Generator, house_style: float = 0.5) -> str:
    """Two to six short sentences: positives with their place, negatives for what is absent; `rng` chooses the words.

    Each report has one reader, who keeps to a wording: `house_style` is the share of reports in the house style, the
    first wording of each sentence.
    """
    reader = 0 if rng.random() < house_style else 1 + int(rng.integers(3))

    def pick(sentence: str, finding: Finding | None = None) -> str:
        wordings = _WORDINGS[sentence]
        said: str = wordings[min(reader, len(wordings) - 1)].format(f=finding)
        return said[0].upper() + said[1:]

    ordered = sorted(findings, key=lambda f: (f.side == "left", f.y))
    of = {kind: [f for f in ordered if f.kind == kind] for kind in KINDS}
    fluid, air = of[EFFUSION], of[PNEUMOTHORAX]
    # Sentences are drawn in this order, which need not be their order in the report.
    parts = [
        [pick(HEART if of[HEART] else "normal heart")],
        [pick(f.kind, f) for f in of[OPACITY] + of[NODULE]] or [pick("clear lungs")],
        [
            pick("two effusions" if len(fluid) == 2 else EFFUSION if fluid else "no effusion", *fluid[:1]),
            pick(PNEUMOTHORAX if air else "no pneumothorax", *air),
        ]
        if fluid or air
        else [pick("clear pleura")],
        [pick(f.kind, f) for f in of[PACEMAKER] + of[LINE]],
    ]
    if rng.random() >= 0.7:
        parts[:2] = parts[1::-1]
    return " ".join(sentence for part in parts for sentence in part)
