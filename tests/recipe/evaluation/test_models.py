import ast
import importlib.util
from pathlib import Path

import pytest

from recipe.cxr_grpo.evaluation.models import Model, choose, models
from reward_fns.conventions import get_convention
from reward_fns.errors import UsageError


def registered():
    """Architectures in the registry of the installed vLLM, read without importing it."""
    if (spec := importlib.util.find_spec("vllm")) is None:
        pytest.skip("vLLM is not installed")
    path = Path(spec.origin).parent / "model_executor" / "models" / "registry.py"
    tables = [
        node.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    ]
    return {key.value for table in tables for key in table.keys if isinstance(key, ast.Constant)}


def test_vllm_serves_the_models_that_the_table_says_it_serves():
    architectures = registered()
    assert {row.architecture for row in models().values() if row.served} <= architectures
    assert not {row.architecture for row in models().values() if not row.served} & architectures


def test_box_conventions_exist_and_titles_differ():
    for row in models().values():
        if row.boxes:
            get_convention(row.boxes)
    assert len({row.title for row in models().values()}) == len(models())


def test_a_model_is_named_by_row_by_other_weights_or_by_weights_alone(tmp_path):
    model, weights = choose("qwen3_vl_thinking")
    assert (weights, model.temperature, model.thinking) == ("Qwen/Qwen3-VL-8B-Thinking", 1.0, True)
    assert choose(f"radvlm_rl={tmp_path}") == (models()["radvlm_rl"], str(tmp_path))
    assert choose(str(tmp_path))[0].thinking is choose("somebody/something")[0].thinking is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("qwen3vl", "did you mean 'qwen3_vl'"),
        ("qwen3vl=folder", "did you mean 'qwen3_vl'"),
        ("maira_2", "evaluate"),
        ("radvlm", "radvlm=FOLDER"),
        ("/no/such/folder", "nor is it a folder"),
    ],
)
def test_what_cannot_be_answered_with_is_refused(given, said):
    with pytest.raises(UsageError, match=said):
        choose(given)


def test_a_question_gets_the_suffix_once():
    info = {"task": "grounding", "box_format": "radvlm"}
    model = models()["qwen3_vl"]
    hint = get_convention("radvlm").hint
    assert model.question_end(info, "Where is the nodule?") == f" {hint}"
    assert model.question_end(info, f"Where is the nodule? {hint}") == ""
    assert models()["radvlm"].question_end(info, "Where is the nodule?") == ""


@pytest.mark.parametrize(
    ("name", "info", "said"),
    [
        ("radvlm", {"thinking": True}, "without --thinking"),
        ("radvlm_thinking_rl", {}, "with --thinking"),
        ("qwen3_vl", {"box_format": "qwen3vl"}, "--box-format radvlm"),
        ("medgemma_27b_it", {}, "reports only"),
    ],
)
def test_data_that_asks_for_something_else_is_refused(name, info, said):
    row = {"id": "a", "task": "grounding", "thinking": False, "box_format": "radvlm"} | info
    with pytest.raises(UsageError, match=said):
        models()[name].check(row)
    Model(title="any").check(row)
    models()["radvlm"].check(row | {"thinking": False, "box_format": "radvlm"})


def test_only_a_wrapped_answer_is_unwrapped():
    model = models()["deepmedix_r1"]
    assert (
        model.tidy("<think>[1, 2, 3, 4]</think>. \\boxed {Clear\nlungs.}") == "<think>[1, 2, 3, 4]</think>Clear\nlungs."
    )
    assert model.tidy("<think>\\boxed{no}</think> Clear.") == "<think>\\boxed{no}</think> Clear."
    assert models()["radvlm"].tidy("\\boxed{Clear.}") == "\\boxed{Clear.}"
