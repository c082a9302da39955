"""Samples of the sets that don't say how large their images are: each image is read, and converted where need be."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep import images
from data_prep.problems import Problems
from data_prep.sample import Sample


def opened(
    planned: Iterable[tuple[Path, dict[str, Any]]], options: argparse.Namespace, problems: Problems
) -> Iterator[Sample]:
    """The samples, in their order, with image, width and height; an image that cannot be read is a problem.

    Args:
        planned: path of the image, and the sample's other fields.
        options: with those of `images.add_arguments`.
        problems: gets images that are missing or cannot be read.
    """
    waiting: deque[tuple[Path, dict[str, Any]]] = deque()

    def paths() -> Iterator[Path]:
        for plan in planned:
            waiting.append(plan)
            yield plan[0]

    for film in images.films(paths(), options.workers, options.store_pixels):
        path, fields = waiting.popleft()
        if isinstance(film, images.Unreadable):
            kind = "unreadable_image" if path.is_file() else "missing_image"
            problems.add(kind, str(path), f"{film}; {fields['id']} not used")
        else:
            image, width, height = film
            yield Sample(image=image, width=width, height=height, **fields)
