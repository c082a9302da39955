"""Geometry and densities of a frontal chest film, drawn with numpy.

A film is a sum of soft-edged density fields (body, lungs, ribs, heart, ...) in *canonical* coordinates: the midline is
x = 0.5, and the patient's left is at the right of the image. A pose maps pixels to them, so no film is resampled and a
finding's box is read off its own mask. All lengths are fractions of the image side, angles are in radians.
"""

from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Field = NDArray[np.floating]  # float32 throughout, which halves the time

SIZE = 256
_TEXTURE = 512
_RANGES = yaml.safe_load(Path(__file__).with_name("anatomy.yaml").read_text(encoding="utf-8"))
_LUNG_TOP = 0.13
_CENTERS: Field = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE - 0.5  # of the pixels


class _Drawn(SimpleNamespace):
    @classmethod
    def draw(cls, rng: np.random.Generator) -> Any:
        """A random instance within the ranges of anatomy.yaml, drawn in their order."""
        ranges = _RANGES[cls.__name__].items()
        return cls(**{name: int(rng.integers(r)) if isinstance(r, int) else rng.uniform(*r) for name, r in ranges})


class Anatomy(_Drawn):
    """A patient's build: the same on every film of that patient."""


class Exposure(_Drawn):
    """How one film was taken: pose of the patient, contrast, noise."""


def ramp(distance: Field, softness: float) -> Field:
    """Smooth step from 0 to 1 as a signed distance goes from -softness to +softness."""
    t = distance * np.float32(0.5 / softness)
    t += np.float32(0.5)
    np.clip(t, 0, 1, out=t)
    return (3 - 2 * t) * t * t


def radius(u: Field, v: Field) -> Field:
    """Length of (u, v), without np.hypot's slow care for overflow."""
    return np.sqrt(u * u + v * v)


@lru_cache(maxsize=1)
def texture() -> Field:
    """Cloudy noise, [512, 512], zero mean and unit variance: the same on every machine that runs the same numpy."""
    rng = np.random.default_rng(20512)
    total = np.zeros((_TEXTURE, _TEXTURE), np.float32)
    for cells, weight in ((16, 1.0), (32, 0.7), (64, 0.45)):
        coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
        total += weight * np.asarray(coarse.resize((_TEXTURE, _TEXTURE), Image.Resampling.BICUBIC))
    return cast(Field, (total - total.mean()) / total.std())


@lru_cache
def _vessel_map(variant: int) -> Field:
    """Branching lung vessels, [512, 512] in 0..1."""
    rng = np.random.default_rng([7, variant])
    canvas = Image.new("L", (_TEXTURE, _TEXTURE))
    pen = ImageDraw.Draw(canvas)

    def grow(x: float, y: float, heading: float, width: float, length: float) -> None:
        if width < 0.6:
            return
        for _ in range(3):
            heading += rng.normal(0, 0.13)
            nx, ny = x + length / 3 * np.cos(heading), y + length / 3 * np.sin(heading)
            pen.line((x, y, nx, ny), fill=int(min(255, 70 + 30 * width)), width=max(1, round(width)))
            x, y = nx, ny
        for turn in (-1, 1):
            grow(x, y, heading + turn * rng.uniform(0.2, 0.6), width * rng.uniform(0.6, 0.78), length * 0.8)

    for side in (-1, 1):
        for heading in np.linspace(-1.25, 1.35, 7) + rng.normal(0, 0.08, 7):
            angle = heading if side > 0 else np.pi - heading
            grow((0.5 + side * 0.065) * _TEXTURE, 0.47 * _TEXTURE, angle, rng.uniform(3.5, 5.5), 42)
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(1.6)), np.float32) / 255


def _bands(phase: Field, half: float) -> Field:
    """Periodic bands, one per unit of phase, with a brighter lower rim as cortical bone shows."""
    offset = phase - np.rint(phase)
    return 0.8 * ramp(half - np.abs(offset), 0.07) + 0.3 * ramp(0.05 - np.abs(offset - half * 0.8), 0.05)


class Chest:
    """The fields of one patient in one pose, each [SIZE, SIZE] float32, masks in 0..1; an enlarged heart is 1.3 up."""

    def __init__(self, anatomy: Anatomy, exposure: Exposure, heart_scale: float = 1.0) -> None:
        self.anatomy, self.exposure = anatomy, exposure
        cos, sin = np.float32(np.cos(exposure.angle)), np.float32(np.sin(exposure.angle))
        px = (_CENTERS[None, :] - np.float32(exposure.shift_x)) / exposure.scale
        py = (_CENTERS[:, None] - np.float32(exposure.shift_y)) / exposure.scale
        self.dx: Field = (cos * px + sin * py).astype(np.float32)
        self.y: Field = (cos * py - sin * px + 0.5).astype(np.float32)
        self.ax: Field = np.abs(self.dx)
        self.left: NDArray[np.bool_] = self.dx > 0
        a, scale = anatomy, anatomy.heart * heart_scale
        # Heart silhouette: an oblique ellipse with the apex down and to the patient's left.
        u = self.dx - np.float32(0.042 + 0.03 * (scale - 1))
        v = self.y - np.float32(a.right_dome - 0.078 - 0.02 * (scale - 1))
        along, across = 0.83 * u + 0.56 * v, -0.56 * u + 0.83 * v
        self.heart = ramp((1 - radius(along / (0.170 * scale), across / (0.128 * scale))) * (0.13 * scale), 0.012)
        # Lung borders: medial `inner`, lateral `outer` and lower `dome` edge, and the air-filled space between.
        t = np.clip((self.y - _LUNG_TOP) / 0.46, 0, 1)
        outer = 0.145 + (a.chest - 0.145) * np.sqrt(1 - (1 - t) ** 2)
        self.outer: Field = outer - 0.10 * np.clip(self.y - 0.72, 0, 1)
        t = np.clip((self.y - _LUNG_TOP) / 0.11, 0, 1)
        self.inner: Field = 0.145 - (0.145 - a.mediastinum) * np.sqrt(1 - (1 - t) ** 2)
        top = np.where(self.left, np.float32(a.right_dome + a.dome_step), np.float32(a.right_dome))
        bend = self.ax - 0.17
        self.dome: Field = top + np.where(bend > 0, np.float32(3.6), np.float32(1.6)) * bend * bend
        self.wall: Field = np.minimum(self.outer - self.ax, self.ax - self.inner)
        self.air: Field = ramp(self.wall, 0.010) * ramp(self.dome - self.y, 0.009) * (self.y > _LUNG_TOP)

    def ribs(self) -> Field:
        """Posterior ribs (arching from the spine) and fainter anterior ribs (running down toward the sternum)."""
        a, ax, y = self.anatomy, self.ax, self.y
        lift, drop = ax - 0.10, a.chest - ax
        posterior = (y - 1.9 * lift * lift - 0.125) / a.rib_pitch + a.rib_phase
        anterior = (y - 0.60 * drop - 0.9 * drop * drop - 0.28) / (1.25 * a.rib_pitch) + a.rib_phase
        total = _bands(posterior, 0.19) * ((posterior > 0.5) & (posterior < 9.6))
        total += 0.6 * _bands(anterior, 0.16) * ramp(ax - 0.14, 0.03) * ((anterior > 0.5) & (anterior < 5.6))
        return total * ramp(self.outer + 0.012 - ax, 0.008) * ramp(ax - 0.045, 0.03)

    def clavicles(self) -> Field:
        """Both collar bones, S-shaped, thicker at the sternal end."""
        ax = self.ax
        offset = np.abs(self.y - 0.212 + 0.31 * ax - 0.026 * np.sin(ax * 16))
        half = 0.0175 - 0.014 * np.abs(ax - 0.20)
        bone = 0.8 * ramp(half - offset, 0.005) + 0.25 * ramp(0.003 - np.abs(offset - half + 0.003), 0.004)
        return bone * ramp(ax - 0.03, 0.008) * ramp(0.40 - ax, 0.02)

    def density(self, air: Field) -> Field:
        """Sum of all tissue, from 0 to about 1; `air`, 0..1, is `self.air` minus what findings replace."""
        a, ax, y, dx = self.anatomy, self.ax, self.y, self.dx
        cage = ramp(self.outer - ax, 0.02)
        below = ramp(y - self.dome, 0.009) * cage
        knob = ramp(0.036 - radius(dx - 0.052, y - 0.335), 0.012)  # aortic, on the patient's left
        solid = np.maximum(self.heart, np.maximum(ramp(a.mediastinum - ax, 0.012), knob))
        lung = air * (1 - solid)
        rows = np.clip(y * _TEXTURE, 0, _TEXTURE - 1).astype(np.int32)
        columns = np.clip((dx + 0.5) * _TEXTURE, 0, _TEXTURE - 1).astype(np.int32)
        vessels = _vessel_map(a.vessels).ravel()[rows * _TEXTURE + columns]
        hilum = ramp(1 - radius((ax - 0.085) / 0.045, (y - 0.47) / 0.095), 0.9)
        total = 0.56 - 0.36 * ax * ax + 0.12 * below + 0.09 * solid * cage
        total += lung * (0.17 * hilum + 0.18 * vessels + 0.05 * ramp(y - 0.5, 0.3) - 0.37)
        total += (0.05 + 0.075 * lung) * self.ribs() + 0.12 * self.clavicles()
        vertebrae = ramp(0.040 - ax, 0.012) * (0.75 + 0.25 * np.cos(y * 84))
        split: Field = np.clip(y - 0.40, 0, 0.09) * 0.9
        airway = ramp(0.016 - np.abs(ax - split), 0.008) * ramp(0.485 - y, 0.01)  # dark inverted Y
        total += 0.075 * vertebrae - 0.11 * airway
        bubble = radius((dx - 0.175) / 0.066, (y - (a.right_dome + a.dome_step + 0.064)) / 0.038)
        total -= 0.26 * ramp(1 - bubble, 0.25) * below
        total += 0.13 * ramp(0.072 - radius(ax - 0.465, y - 0.215), 0.014)
        scapula = ramp(0.012 - np.abs(ax - 0.375 + 0.16 * (y - 0.35)), 0.012)
        total += 0.04 * scapula * ramp(0.13 - np.abs(y - 0.34), 0.03)
        shoulder = 0.105 + 0.40 * ramp(y - 0.105, 0.10) - 0.03 * np.clip(y - 0.3, 0, 1)
        return total * ramp(shoulder - ax, 0.022)

    def clouds(self) -> Field:
        """A crop of the cloudy texture, different for every film, [SIZE, SIZE] with unit variance."""
        e = self.exposure
        return texture()[e.texture_y : e.texture_y + SIZE, e.texture_x : e.texture_x + SIZE]

    def develop(self, density: Field) -> NDArray[np.uint8]:
        """Film gray values from density: contrast curve, shading, noise; [SIZE, SIZE] uint8."""
        e = self.exposure
        noise = np.random.default_rng(e.seed).standard_normal((SIZE, SIZE), np.float32)
        level = density + 0.012 * self.clouds() * (density > 0.05)
        level *= 1 + e.tilt * _CENTERS
        # Film saturates softly at both ends, so that bone over heart still shows.
        level = 1 / (1 + np.exp((0.47 - e.brightness - level) * (5.6 * e.contrast)))
        level = level ** np.float32(e.gamma) - 0.05 + e.noise * noise
        return cast(NDArray[np.uint8], (np.clip(level, 0, 1) * 255).astype(np.uint8))
