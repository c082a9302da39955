"""Reports for ReXrank's studies: adds `model_prediction` to each study of a JSON file.

Needs torch, transformers and pillow. `settings.json`, beside this file, names the model and says how it is asked.
"""

import argparse
import json
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


def resized(film, processor, settings):
    """The film as Qwen's models saw it in training; others resize it themselves."""
    if not hasattr(processor.image_processor, "merge_size"):
        return film
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    factor = processor.image_processor.patch_size * processor.image_processor.merge_size
    height, width = smart_resize(film.height, film.width, factor, settings["min_pixels"], settings["max_pixels"])
    return film.resize((width, height))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input_json_file", type=Path, required=True)
    parser.add_argument("--save_json_file", type=Path, required=True)
    parser.add_argument("--img_root_dir", type=Path, required=True)
    args = parser.parse_args()
    here = Path(__file__).resolve().parent
    settings = json.loads((here / "settings.json").read_text(encoding="utf-8"))
    weights = here / "model" if (here / "model").is_dir() else settings["model"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor = AutoProcessor.from_pretrained(weights)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForImageTextToText.from_pretrained(weights, dtype=dtype).eval()
    model.to(device)  # type: ignore[arg-type]
    heat = settings["temperature"]
    sampling = {"do_sample": True, "temperature": heat} if heat else {"do_sample": False}
    torch.manual_seed(0)
    studies = json.loads(args.input_json_file.read_text(encoding="utf-8-sig"))
    for study in studies.values():
        # Paths of MIMIC-CXR begin with a slash.
        film = Image.open(args.img_root_dir / study["key_image_path"].lstrip("/")).convert("RGB")
        image, question = {"type": "image", "image": resized(film, processor, settings)}, "\n" + settings["prompt"]
        messages = [{"role": "user", "content": [image, {"type": "text", "text": question}]}]
        template = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        inputs = processor.apply_chat_template(messages, **template).to(device)
        output = model.generate(**inputs, **sampling, max_new_tokens=settings["max_new_tokens"])
        text = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        _, ended, answer = text.rpartition("</think>")
        study["model_prediction"] = (answer if ended or not settings["thinking"] else "").strip()
    args.save_json_file.write_text(json.dumps(studies, indent=4), encoding="utf-8")


if __name__ == "__main__":
    main()
