import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("transformers")
pytest.importorskip("verl")

import numpy as np
from PIL import Image

from recipe.cxr_grpo.cpu import shims, vision


@pytest.fixture(scope="module")
def processor():
    shims.torchvision_operators()
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    class Counting(Qwen2VLImageProcessor):
        calls = 0

        def preprocess(self, images, *args, **kwargs):
            Counting.calls += 1
            return super().preprocess(images, *args, **kwargs)

    Counting.preprocess = vision.memoized(Counting.preprocess, most=2)
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
    assert len(type(processor).preprocess.results) == 2
    before = processor.calls
    for _ in range(2):
        processor([np.asarray(picture(7))], return_tensors="pt")
    assert processor.calls == before + 2 and len(type(processor).preprocess.results) == 2


def test_a_file_is_read_once_until_it_changes(tmp_path):
    calls = []

    def fetch(element, size=0):
        calls.append(element)
        return Image.open(element["image"].removeprefix("file://")).convert("RGB")

    fetch = vision.memoized(fetch)
    path = tmp_path / "film.png"
    picture(1).save(path)
    element = {"type": "image", "image": f"file://{path}", "max_pixels": 4096}
    first = fetch(element)
    first.paste((0, 0, 0), (0, 0, 96, 64))  # what a caller does to its picture is its own affair
    assert fetch(dict(element)).tobytes() == picture(1).tobytes() and len(calls) == 1
    fetch(element | {"max_pixels": 1024}), fetch(element, size=2)
    assert len(calls) == 3
    picture(2).resize((32, 32)).save(path)
    assert fetch(element).size == (32, 32)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        fetch(element)


@pytest.mark.parametrize("fails", [False, True])
def test_threads_that_ask_for_the_same_at_once_wait_for_the_first(fails):
    calls, asked = [], threading.Barrier(6)
    others = threading.Event()

    def prepare(what):
        calls.append(what)
        others.wait(10)
        if fails and len(calls) == 1:
            raise ValueError("no picture")
        return [what]

    remembered = vision.memoized(prepare)

    def ask(_):
        if asked.wait(10) == 0:
            threading.Timer(0.3, others.set).start()  # all have asked by then
        try:
            return remembered("film")
        except ValueError:
            return "failed"

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, range(6)))
    assert calls == ["film"] and found == 6 * (["failed"] if fails else [["film"]])
    assert len({id(result) for result in found if result != "failed"}) == (0 if fails else 6)
    assert remembered("film") == ["film"] and len(calls) == 1 + fails  # a failure is not remembered


def test_a_processor_s_call_is_remembered_by_its_text_and_picture_and_its_model_sees_each_once(tmp_path):
    code = """
import sys, verl, torch, qwen_vl_utils
from pathlib import Path
from PIL import Image
from transformers import AutoProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor as Processor
from recipe.cxr_grpo.demo import architecture
architecture.write_random(Path(sys.argv[1]), hidden_size=64, layers=1)
processor = AutoProcessor.from_pretrained(sys.argv[1])
film = Image.new("RGB", (128, 128), (9, 99, 199))
ask = lambda text: processor(text=["<|vision_start|><|image_pad|><|vision_end|>" + text], images=[film], videos=None,
                             return_tensors="pt")
one, again, other = ask("Where?"), ask("Where?"), ask("What?")
plain = Processor.__call__.__wrapped__(processor, text=["<|vision_start|><|image_pad|><|vision_end|>Where?"],
                                       images=[film], return_tensors="pt")
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from qwen_vl_utils.vision_process import fetch_image
from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling
from recipe.cxr_grpo.cpu import vision
for model in (modeling.Qwen3VLVisionModel, modeling.Qwen3VLVisionPatchEmbed):
    assert model.forward.__code__.co_filename == vision.__file__
assert fetch_image is qwen_vl_utils.fetch_image and fetch_image.results == {}
assert Qwen2VLImageProcessor.preprocess.results
print(len(Processor.__call__.results), one.keys() == plain.keys() == again.keys(),
      all(torch.equal(again[key], plain[key]) for key in plain), torch.equal(one["input_ids"], other["input_ids"]))
"""
    env = os.environ | {"VERL_PLATFORM": "cpu"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-4:] == ["2", "True", "True", "False"]
