import hashlib
import json
from statistics import fmean

import pytest

pytest.importorskip("transformers")

from recipe.cxr_grpo import tiny_model
from recipe.cxr_grpo.cpu import shims
from recipe.cxr_grpo.demo import architecture, pretraining
from recipe.cxr_grpo.results.metrics import read_metrics


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


def test_the_demo_model_is_the_one_of_its_card():
    from safetensors import safe_open

    card = json.loads((pretraining.MODEL / "card.json").read_text())
    weights = pretraining.MODEL / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == card["sha256"]
    assert weights.stat().st_size <= 6 * 2**20
    with safe_open(weights, "pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}  # noqa: SIM118
    page = (pretraining.MODEL / "README.md").read_text()
    assert card["sha256"] in page
    for task in ("grounding", "report"):
        assert f"| {task} | {card['films'][task]['own']:.3f} |" in page


def test_the_curve_is_a_mean_over_steps(tmp_path):
    lines = [json.dumps({"step": step, "data": {"train/loss": float(step)}}) for step in range(1, 121)]
    (tmp_path / "sft.metrics.1.jsonl").write_text("\n".join(lines))
    assert pretraining.loss_curve(tmp_path) == {50: 25.5, 100: 75.5, 120: 110.5}


@pytest.mark.e2e
@pytest.mark.vllm
def test_pretraining_learns_and_writes_a_model_with_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "HELD_OUT", 40)
    command = ["--out", str(tmp_path / "model"), "--pretrain", "--steps", "30", "--patients", "100", "--seed", "5"]
    assert tiny_model.main(command) == 0
    losses = [row["train/loss"] for row in read_metrics(tmp_path / "model-training", "sft").values()]
    assert len(losses) == 30
    assert fmean(losses[-5:]) < fmean(losses[:5]) - 1
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["loss"] == {"30": pytest.approx(fmean(losses))}
    assert card["settings"] == {"seed": 5, "steps": 30, "patients": 100}
    assert set(card["films"]) == {"grounding", "report"}
    from transformers import AutoModelForImageTextToText

    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "model").dtype.itemsize == 2
