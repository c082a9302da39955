import textwrap

import pytest

from reward_fns.commands.cli import main
from reward_fns.registry import load_file, names

pytestmark = pytest.mark.usefixtures("scratch_registry")
HEAD = "import asyncio, itertools, math, random, time\nfrom reward_fns import UsageError, reward\n"


@pytest.fixture
def check(tmp_path, capsys):
    """Write a file, check it; give exit status, {(reward, what): (status, detail)} and what went to stderr."""

    def run(source, *arguments):
        load_file.cache_clear()
        path = tmp_path / "mine.py"
        path.write_text(HEAD + textwrap.dedent(source))
        status = main(["check", str(path), *arguments])
        out, err = capsys.readouterr()
        found, name = {}, ""
        for line in out.splitlines():
            if line.startswith("    "):
                found[name, line[10:30].strip()] = line[4:8], line[31:]
            else:
                name = line.partition(":")[0]
        return status, found, err

    return run


def define(body, signature="prediction, reference", **arguments):
    arguments = {"task": "report", "range": (0.0, 1.0)} | arguments
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"@reward('toy', {given})\ndef toy({signature}):\n    '''A toy.'''\n    {body}\n"


def statuses(found):
    return {what: status for (_, what), (status, _) in found.items()}


LOWER = {"higher_is_better": False}
ALL = ["signature", "answers", "keys", "odd texts", "gold against gold", "shuffled references", "alone as in a batch",
       "speed"]  # fmt: skip


def test_a_sound_reward(check):
    body, signature = "return float(prediction[:limit] == reference[:limit])", "prediction, reference, limit: int = 60"
    status, found, _ = check(define(body, signature))
    assert status == 0 and statuses(found) == dict.fromkeys(ALL, "pass")
    assert "mine.py:3; options limit" in found["toy", "signature"][1]
    assert "score, acc, toy, format_ok" in found["toy", "keys"][1]


@pytest.mark.parametrize(
    "source",
    [
        "async def toy(p, r):\n    'A toy.'\n    await asyncio.sleep(0)\n    return float(p == r)",
        "def toy(ps, rs):\n    'A toy.'\n    return [float(p == r) for p, r in zip(ps, rs)]",
        "async def toy(ps, rs):\n    'A toy.'\n    return [float(p == r) for p, r in zip(ps, rs)]",
    ],
)  # fmt: skip
def test_async_and_batched(check, source):
    batched = "[" in source
    status, found, _ = check(f"@reward('toy', task='report', range=(0, 1), batched={batched})\n{source}\n")
    assert status == 0 and set(statuses(found).values()) == {"pass"}


def test_grounding_and_any_task(check):
    source = define("return float(prediction == reference)", task="grounding")
    short = define("return float(len(output) < 1000)", "prediction, reference, output=''", task="any")
    source += short.replace("'toy'", "'short'")
    status, found, _ = check(source)
    assert status == 0 and "12 scored" in found["toy", "answers"][1] and "28 scored" in found["short", "answers"][1]
    assert found["short", "shuffled references"][0] == "warn"


@pytest.mark.parametrize(
    ("body", "failing", "detail"),
    [
        ("return len(prediction) / 1000", "odd texts", "outside its range 0.0 to 1.0, on '[0.1, "),
        ("return math.nan", "answers", "returned nan"),
        ("return prediction", "answers", "which is not a number"),
        ("return 1 / (len(prediction) - 1)", "odd texts", "ZeroDivisionError('division by zero'), on 'x'"),
        ("prediction.encode(); return 1.0", "odd texts", "UnicodeEncodeError"),
        ("raise OSError('no server')", "answers", "16 of 16 failed; the first: reward 'toy' failed on sample 'repo"),
    ],
)  # fmt: skip
def test_what_would_break_a_run_fails(check, body, failing, detail):
    status, found, _ = check(define(body))
    assert status == 1 and found["toy", failing][0] == "fail" and detail in found["toy", failing][1]


def test_a_value_that_depends_on_the_batch_fails(check):
    status, found, _ = check(define("return [1.0 / len(prediction)] * len(prediction)", batched=True))
    assert status == 1 and "values differ by up to" in found["toy", "alone as in a batch"][1]


def test_a_reward_that_fails_now_and_then_is_a_warning(check):
    source = "count = itertools.count()\n" + define("return 1 / min(1, abs(10 - next(count)))")
    status, found, _ = check(source)
    assert status == 0 and found["toy", "answers"] == ("warn", "16 scored, of which 1 failed at the first try")


def test_a_reward_that_fails_for_a_while_fails(check):
    source = "count = itertools.count()\n" + define("return math.nan if 67 <= next(count) < 99 else 1.0")
    status, found, _ = check(source)
    assert status == 1 and "sometimes" in found["toy", "alone as in a batch"][1]


@pytest.mark.parametrize("batched", [False, True])
def test_the_sample_that_is_to_blame_is_named(check, batched):
    one = "if '</think>' == {0}: raise ValueError('a tag')"
    if batched:
        body = f"for text in prediction:\n        {one.format('text')}\n    return [1.0] * len(prediction)"
    else:
        body = f"{one.format('prediction')}\n    return 1.0"
    status, found, _ = check(define(body, batched=batched))
    assert status == 1 and found["toy", "answers"][0] == "pass"
    assert "2 of 34 failed" in found["toy", "odd texts"][1] and found["toy", "odd texts"][1].endswith("on '</think>'")


def test_a_slow_async_reward_is_not_told_to_be_async(check):
    source = "@reward('toy', task='report', range=(0, 1))\nasync def toy(p, r):\n    'A toy.'\n    time.sleep(0.05)\n"
    source += "    return 1.0\n"
    _, found, _ = check(source)
    assert "async" not in found["toy", "speed"][1]


def test_a_file_that_imports_its_neighbor_and_takes_keywords(check, tmp_path, monkeypatch):
    (tmp_path / "neighbor_of_mine.py").write_text("SCALE = 1.0\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    body = "import neighbor_of_mine as late; return late.SCALE * (prediction == reference) * (not context['thinking'])"
    status, found, _ = check("from neighbor_of_mine import SCALE\n" + define(body, "prediction, reference, **context"))
    assert status == 0 and found["toy", "gold against gold"][0] == "pass"


@pytest.mark.parametrize(
    ("body", "arguments", "what", "detail"),
    [
        ("return 0.5 * (prediction == reference)", {}, "gold against gold", "earns 0.5, the best of"),
        ("return float(prediction == reference)", LOWER, "shuffled references", "is higher_is_better right?"),
        ("return float(prediction != reference)", {}, "gold against gold", "earns 0"),
        ("return 1.0 - random.random() / 10", {}, "alone as in a batch", "the same samples scored again differ"),
        ("time.sleep(0.03); return 1.0", {}, "speed", "make it async, or register it with"),
    ],
)  # fmt: skip
def test_what_might_be_meant_is_a_warning(check, body, arguments, what, detail):
    status, found, _ = check(define(body, **arguments))
    assert found["toy", what][0] == "warn" and detail in found["toy", what][1]
    assert status == 0


def test_a_missing_docstring_is_a_warning(check):
    status, found, _ = check(define("return 1.0").replace("'''A toy.'''", "pass"))
    assert status == 0 and found["toy", "signature"][0] == "warn"


def test_options(check):
    source = define("return float(prediction == reference) * scale", "prediction, reference, scale: float = 1.0")
    assert check(source, "--options", "scale=0.5")[1]["toy", "gold against gold"][0] == "warn"
    mistakes = {"scale=x": "must be a finite number", "scal=1": "did you mean 'scale'", "scale": "takes name=value"}
    for given, message in (mistakes | {"scale=[": "not a value in YAML"}).items():
        status, _, err = check(source, "--options", given)
        assert status == 2 and message in err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "registers no reward"),
        ("def broken(:", "can't be loaded"),
        (define("return 1.0", "prediction"), "must take a prediction and a reference"),
        (define("return 1.0", "prediction, reference, limit"), "option 'limit' needs a default"),
        (define("return 1.0", range=(1, 0)), "must be finite and in order"),
        (define("raise UsageError('no weights here')"), "no weights here"),
        (define("return [1.0]", batched=True), "returned 1 values for"),
    ],
)
def test_wrong_use(check, source, message):
    status, _, err = check(source)
    assert status == 2 and message in err and "Traceback" not in err


def test_a_name_without_a_file(capsys, tmp_path):
    assert main(["check", "--name", "box_f1@0.75"]) == 0
    assert capsys.readouterr().out.startswith("box_f1@0.75: grounding")
    mistakes = [([], "give a file"), (["--name", "glue"], "did you mean"), ([str(tmp_path)], "no reward file")]
    for arguments, message in mistakes:
        assert main(["check", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["gleu", "box_f1", "box_giou", "box_iou", "box_soft_f1", "think_format", "overlong", "length_window"]
)
def test_the_built_ins_that_need_nothing_pass(name, capsys):
    assert name in names() and main(["check", "--name", name]) == 0
    assert "    fail  " not in capsys.readouterr().out
