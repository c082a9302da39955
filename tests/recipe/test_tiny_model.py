import json

import pytest

pytest.importorskip("transformers")

from recipe.cxr_grpo import tiny_model
from recipe.cxr_grpo.cpu import shims
from recipe.cxr_grpo.demo import architecture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    shims.torchvision_operators()
    out = tmp_path_factory.mktemp("model") / "tiny"
    assert tiny_model.main(["--out", str(out), "--seed", "3"]) == 0
    return out


def test_has_the_files_of_a_published_checkpoint(folder):
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "processor_config.json",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3VLForConditionalGeneration"]
    assert config["model_type"] == "qwen3_vl"
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "Qwen2Tokenizer"


def test_a_box_is_four_tokens_and_any_text_survives(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("[0.12, 0.3, 0.45, 1.0]") == ["[0.12,", " 0.3,", " 0.45,", " 1.0]"]
    for text in ("[0.12, 0.3, 0.45, 0.8] and [0.0, 0.5, 0.99, 1.0]", "Größe 12 µm\nnaïve", "<think>why</think>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer.tokenize("The heart size is normal.")) == 6


def test_model_reads_an_image_and_has_the_promised_size(folder):
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    assert 1e6 <= sum(parameter.numel() for parameter in model.parameters()) <= 3e6
    processor = AutoProcessor.from_pretrained(folder)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Locate the opacity."}]}
    prompt = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[prompt], images=[Image.new("L", (256, 256)).convert("RGB")], return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 16  # 128 / 32 squared
    assert torch.isfinite(model(**inputs).logits).all()


def test_the_seed_decides_the_weights(folder, tmp_path):
    for seed, same in ((3, True), (4, False)):
        architecture.write_random(tmp_path / str(seed), seed)
        weights = (tmp_path / str(seed) / "model.safetensors").read_bytes()
        assert (weights == (folder / "model.safetensors").read_bytes()) is same


@pytest.mark.parametrize("arguments", [["--hidden-size", "100"], ["--image-side", "100"], []])
def test_wrong_use_has_status_2(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        tiny_model.main(arguments if not arguments else ["--out", str(tmp_path), *arguments])
    assert stop.value.code == 2
