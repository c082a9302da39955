"""Everything around vLLM: what is asked again, journals, shards."""

import json
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("verl")

from data_prep.sample import Sample
from data_prep.writer.dataset import DatasetWriter
from recipe.cxr_grpo.demo import pretraining
from recipe.cxr_grpo.evaluation import generation
from recipe.cxr_grpo.evaluation.generation import Question, answer, prepare, read_questions, read_rows, run_shard
from recipe.cxr_grpo.evaluation.models import Model, models
from reward_fns.boxes import Box
from reward_fns.errors import UsageError

MODEL = Model(title="test")
GREEDY = {"temperature": 0.0, "max_tokens": None, "seed": 0}


class Scripted:
    """Ends the answers under way, newest first, with what `reply` gives for a prompt and its number of tries."""

    def __init__(self, reply):
        self.reply, self.asked, self.under_way, self.tries = reply, [], [], Counter()

    def ask(self, name, prompt, **sampling):
        if prompt == "too long":
            raise ValueError("the prompt is too long")
        self.asked.append((prompt, sampling))
        self.under_way.append((name, prompt))

    def step(self):
        name, prompt = self.under_way.pop()
        self.tries[prompt] += 1
        return [(name, *self.reply(prompt, self.tries[prompt]))]


def questions(*texts, thinking=False):
    return [Question(("own", text), thinking, lambda text=text: text) for text in texts]


def answers(engine, asked, model=MODEL, **sampling):
    rows = []
    answer(asked, engine, model, GREEDY | sampling, rows.append)
    return {row["id"]: row for row in rows}


def test_all_are_answered_however_many_fail_or_are_under_way(monkeypatch):
    monkeypatch.setattr(generation, "_IN_FLIGHT", 2)
    engine = Scripted(lambda prompt, _: (prompt.upper(), "length" if prompt == "c" else "stop"))
    missing = Question(("own", "x"), False, lambda: Path("no/such/film").read_bytes())
    rows = answers(engine, [missing, missing._replace(key=("own", "y")), *questions("a", "too long", "c", "d", "e")])
    assert {key: row["prediction"] for key, row in rows.items() if "error" not in row} == {
        key: key.upper() for key in "acde"
    }
    assert rows["c"]["finish_reason"] == "length" and rows["c"]["tries"] == 1
    failed = {key: (row["status"], row["prediction"]) for key, row in rows.items() if "error" in row}
    assert failed == dict.fromkeys(("x", "y", "too long"), ("failed", ""))
    assert "FileNotFoundError" in rows["x"]["error"] and "too long" in rows["too long"]["error"]


def test_reasoning_that_does_not_end_is_tried_again_with_other_seeds():
    def reply(prompt, tries):
        if prompt == "never":
            return f"<think>{tries}", "stop"
        return ("<think>a</think> b", "stop") if tries == 3 else ("<think>a</think> b" * tries, "length")

    engine = Scripted(reply)
    rows = answers(engine, questions("third", "never", thinking=True), temperature=1.0)
    assert (rows["third"]["tries"], rows["third"]["finish_reason"]) == (3, "stop")
    assert rows["never"]["tries"] == generation.TRIES == 64
    seeds = [sampling["seed"] for _, sampling in engine.asked]
    assert len(set(seeds)) == len(seeds)
    again = Scripted(reply)
    answers(again, questions("never", "third", thinking=True), temperature=1.0)
    assert dict(Counter(map(str, engine.asked))) == dict(Counter(map(str, again.asked)))


def test_a_greedy_answer_is_tried_again_only_while_it_changes():
    engine = Scripted(lambda prompt, tries: (f"<think>{min(tries, int(prompt))}", "length"))
    rows = answers(engine, questions("1", "5", thinking=True))
    assert {key: row["tries"] for key, row in rows.items()} == {"1": 2, "5": 6}
    assert answers(Scripted(lambda *_: ("cut", "length")), questions("a"))["a"]["tries"] == 1


def test_answers_are_as_long_as_the_papers():
    engine = Scripted(lambda *_: ("a</think>b", "stop"))
    answers(engine, [*questions("short"), *questions("long", thinking=True)])
    answers(engine, questions("given", thinking=True), max_tokens=7)
    assert {prompt: sampling["max_tokens"] for prompt, sampling in engine.asked} == {
        "short": 1024, "long": 4096, "given": 7,
    }  # fmt: skip


def test_what_vllm_aborts_has_failed():
    row = answers(Scripted(lambda *_: ("half", "abort")), questions("a"))["a"]
    assert (row["status"], row["prediction"]) == ("failed", "") and "abort" in row["error"]


def upper(todo, write):
    answer(todo, Scripted(lambda prompt, _: (prompt.upper(), "stop")), MODEL, GREEDY, write)


def test_a_killed_run_goes_on_behind_its_last_whole_row(tmp_path):
    asked = questions(*"abcdef")

    def killed(todo, write):
        upper(todo[:3], write)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_shard(tmp_path, asked, (0, 1), killed)
    journal = tmp_path / "journal-0-of-1.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    seen = []
    rows = run_shard(tmp_path, asked, (0, 1), lambda todo, write: seen.extend(todo) or upper(todo, write))
    assert len(seen) == 4
    assert [row["prediction"] for row in rows] == [*"ABCDEF"]
    assert read_rows((tmp_path / "predictions.jsonl").read_bytes()) == rows
    assert run_shard(tmp_path, asked, (0, 1), None) == rows


def test_shards_share_the_questions_and_the_last_one_writes_all(tmp_path):
    asked = questions(*"abcde")
    assert run_shard(tmp_path, asked, (1, 2), upper) is None
    assert not (tmp_path / "predictions.jsonl").exists()
    with (tmp_path / "journal-1-of-2.jsonl").open("a") as file:
        file.write('{"id": "a", "fil')  # as another process sees a row that is being written
    rows = run_shard(tmp_path, asked, (0, 2), upper)
    assert [row["id"] for row in rows] == [*"abcde"]
    assert len((tmp_path / "journal-0-of-2.jsonl").read_text().splitlines()) == 3


def test_two_processes_do_not_write_one_journal(tmp_path):
    def second(todo, write):
        with pytest.raises(UsageError, match="another process writes"):
            run_shard(tmp_path, questions("a"), (0, 1), upper)
        upper(todo, write)

    assert len(run_shard(tmp_path, questions("a"), (0, 1), second)) == 1


def test_what_failed_is_asked_again(tmp_path):
    asked = questions("a", "too long")
    assert ["error" in row for row in run_shard(tmp_path, asked, (0, 1), upper)] == [False, True]
    mended = [asked[0], asked[1]._replace(prompt=lambda: "short")]
    seen = []
    rows = run_shard(tmp_path, mended, (0, 1), lambda todo, write: seen.extend(todo) or upper(todo, write))
    assert [row["prediction"] for row in rows] == ["A", "SHORT"] and len(seen) == 1


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two patients with a report and a nodule each, on films beyond the greatest size; and the same without films."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("data")
    with DatasetWriter(folder, max_pixels=16384) as writer:
        for number in range(2):
            path = folder / f"{number}.png"
            Image.radial_gradient("L").resize((200 + 60 * number, 300)).save(path)
            film = path, 200 + 60 * number, 300
            writer.add(Sample(f"r{number}", f"p{number}", "val", "mine", "report", *film, report="Clear lungs."))
            box = Box(0.1, 0.2, 0.3, 0.4, "nodule")
            sample = Sample(
                f"n{number}", f"p{number}", "val", "mine", "grounding", *film, phrase="nodule", boxes=(box,)
            )
            writer.add(sample)
    return folder / "val.parquet"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Hugging Face's cache of data sets goes with the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_a_prompt_is_that_of_a_rollout(data):
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset
    from verl.utils.tokenizer import build_multimodal_processor_inputs
    from verl.workers.rollout.utils import qwen2_5_vl_dedup_image_tokens

    from recipe.cxr_grpo.running.prompts import load_model, prompt_of

    weights = str(pretraining.MODEL)
    tokenizer, processor = load_model(weights)
    rows = RLHFDataset([str(data)], tokenizer, OmegaConf.create({"filter_overlong_prompts": False}), processor)
    found = read_questions(MODEL, weights, {"own": [data]})
    assert [question.key for question in found] == [("own", name) for name in ("r0", "n0", "r1", "n1")]
    for number, question in enumerate(found):
        text, images, _ = prompt_of(rows, rows[number]["raw_prompt"], processor)
        expanded = build_multimodal_processor_inputs(processor, text=[text], images=images)["input_ids"][0].tolist()
        prompt = question.prompt()
        assert prompt["prompt_token_ids"] == qwen2_5_vl_dedup_image_tokens(expanded, processor)
        assert prompt["prompt_token_ids"] != expanded
        (image,) = prompt["multi_modal_data"]["image"]
        assert image.tobytes() == images[0].tobytes() and image.width * image.height <= 16384 < 200 * 300


def test_a_models_own_wording_is_at_the_end_of_the_question(data):
    from recipe.cxr_grpo.running.prompts import load_model

    weights = str(pretraining.MODEL)
    tokenizer, _ = load_model(weights)
    row = models()["qwen3_vl"]
    plain, worded = (read_questions(model, weights, {"own": [data]})[0].prompt() for model in (MODEL, row))
    texts = [tokenizer.decode(prompt["prompt_token_ids"]) for prompt in (plain, worded)]
    end = texts[0][texts[0].rindex("<|im_end|>") :]
    assert len(texts[1]) > len(texts[0]) and texts[1].startswith(texts[0].removesuffix(end)) and texts[1].endswith(end)


def test_a_model_without_chat_template_gets_its_whole_prompt(data, monkeypatch):
    from recipe.cxr_grpo.running.prompts import load_model

    tokenizer, processor = load_model(str(pretraining.MODEL))
    monkeypatch.setattr(processor, "chat_template", None)
    monkeypatch.setattr(tokenizer, "chat_template", None)
    monkeypatch.setattr(generation, "load_model", lambda _: (tokenizer, processor))
    prompt = read_questions(MODEL.model_copy(update={"prompt": "findings:"}), "", {"own": [data]})[0].prompt()
    assert prompt["prompt_token_ids"] == tokenizer("findings:")["input_ids"] and prompt["multi_modal_data"]["image"]
    with pytest.raises(ValueError, match="chat"):
        read_questions(MODEL, "", {"own": [data]})[0].prompt()


def test_equal_ids_are_refused(data):
    with pytest.raises(UsageError, match="'r0' was there before"):
        read_questions(MODEL, str(pretraining.MODEL), {"own": [data, data]})


def test_controls_and_settings_are_written_once(data, tmp_path):
    arms = prepare(tmp_path, [data], ("swapped", "own"), {"seed": 0, "weights": "a"})
    assert arms["own"] == [data] and [path.name for path in arms["swapped"]] == ["val-swapped.parquet"]
    written = arms["swapped"][0].stat().st_mtime_ns
    assert prepare(tmp_path, [data], ("swapped", "own"), {"seed": 0, "weights": "a"}) == arms
    assert arms["swapped"][0].stat().st_mtime_ns == written
    with pytest.raises(UsageError, match="weights"):
        prepare(tmp_path, [data], ("swapped", "own"), {"seed": 0, "weights": "b"})
    with pytest.raises(UsageError, match="films"):
        prepare(tmp_path, [data], ("own",), {"seed": 0, "weights": "a"})
    assert json.loads((tmp_path / "generation.json").read_text())["weights"] == "a"
