import pytest

pytest.importorskip("transformers")

import numpy as np
from PIL import Image

from recipe.cxr_grpo.cpu import pictures, shims


@pytest.fixture(scope="module")
def processor():
    shims.torchvision_operators()
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    class Counting(Qwen2VLImageProcessor):
        calls = 0

        def preprocess(self, images, *args, **kwargs):
            Counting.calls += 1
            return super().preprocess(images, *args, **kwargs)

    Counting.preprocess = pictures.remembering(Counting.preprocess, most=2)
    return Counting(patch_size=16, temporal_patch_size=2, merge_size=2)


def picture(value, mode="RGB"):
    rng = np.random.default_rng(value)
    return Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).convert(mode)


def test_a_picture_is_prepared_once_and_as_without_memory(processor):
    before = processor.calls
    first = processor([picture(1)], return_tensors="pt")
    again = processor([picture(1)], return_tensors="pt")
    plain = type(processor).__mro__[1].preprocess(processor, [picture(1)], return_tensors="pt")
    assert processor.calls == before + 1
    assert (again["pixel_values"] == plain["pixel_values"]).all() and (
        again["image_grid_thw"] == plain["image_grid_thw"]
    ).all()
    del first["pixel_values"]
    assert "pixel_values" in processor([picture(1)], return_tensors="pt")


@pytest.mark.parametrize(
    ("images", "options"),
    [
        ([picture(2)], {}),
        ([picture(1, "L")], {}),
        ([picture(1).transpose(Image.Transpose.TRANSPOSE)], {}),
        ([picture(1), picture(1)], {}),
        ([picture(1)], {"do_normalize": False}),
    ],
)
def test_another_picture_or_other_options_are_another_thing(processor, images, options):
    kept = processor([picture(1)], return_tensors="pt")
    before = processor.calls
    other = processor(images, return_tensors="pt", **options)
    assert processor.calls == before + 1
    assert (
        other["pixel_values"].shape != kept["pixel_values"].shape
        or (other["pixel_values"] != kept["pixel_values"]).any()
    )


def test_memory_is_bounded_and_arrays_are_not_remembered(processor):
    for value in range(5):
        processor([picture(value)], return_tensors="pt")
    assert len(type(processor).preprocess.kept) == 2
    before = processor.calls
    for _ in range(2):
        processor([np.asarray(picture(7))], return_tensors="pt")
    assert processor.calls == before + 2 and len(type(processor).preprocess.kept) == 2
