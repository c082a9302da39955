import csv
import io
import json
import re

import numpy as np
import pytest
from made_results import corpus, grounding_rows, report_rows, write_results

from recipe.cxr_grpo import tables as command
from recipe.cxr_grpo.results import tables
from recipe.cxr_grpo.results.evaluations import read_evaluations

HOSTILE = "evil|<b>_$x$^~\\\n[l](http://x)`c` & 50% #{y}"
RESAMPLES = 200


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Reports of two data sets and boxes of two, three models, controls, seeds, and an answer that is missing."""
    root = tmp_path_factory.mktemp("results")
    for model, quality in (("RadVLM", 0.5), ("radvlm-rl", 0.7), (HOSTILE, 0.3)):
        for seed in (0, 1):
            write_results(root, model, "mimic_cxr", report_rows(60, quality, seed), seed)
            if model != HOSTILE:
                swapped = report_rows(60, quality / 2, seed, "swapped")[:50]
                write_results(root, model, "mimic_cxr", swapped, seed)
        other = report_rows(40, quality - 0.1 * (model == "radvlm-rl"), 3)
        if model == HOSTILE:
            other[0] |= {"status": "missing", "prediction": None}
            other[1]["status"] = "failed"
        write_results(root, model, "openi", other)
        for data_set in ("ms_cxr", "demo"):
            folder = write_results(root, model, data_set, grounding_rows(40, quality))
            facts = json.loads((folder / "results.json").read_text())
            facts["metrics"]["giou"] = 0.25  # in no row
            (folder / "results.json").write_text(json.dumps(facts))
    write_results(root, "RadVLM", "ms_cxr", grounding_rows(40, 0.2, films="blank"))
    return root


@pytest.fixture(scope="module")
def made(results):
    found = read_evaluations([results])
    return {table: tables.make(found, table, "RadVLM", RESAMPLES, "the command") for table in tables.PAPER["tables"]}


@pytest.fixture(scope="module")
def rows(made):
    """(table, data set, model, films, metric) -> row of the CSV."""
    keys = ("data_set", "model", "films", "metric")
    read = {table: csv.DictReader(io.StringIO(text["csv"])) for table, text in made.items()}
    return {(table, *(row[key] for key in keys)): row for table, found in read.items() for row in found}


def lines(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def test_a_value_is_the_mean_over_seeds_and_counts_of_the_paper_are_percent(rows):
    means = [corpus(report_rows(60, 0.7, seed)) for seed in (0, 1)]
    found = rows["reports", "mimic_cxr", "radvlm-rl", "own", "rouge_l"]
    assert float(found["value"]) == pytest.approx(50 * (means[0]["rouge_l"] + means[1]["rouge_l"]), rel=1e-4)
    assert (found["seeds"], found["samples"], found["answers"]) == ("2", "60", "120")
    one = rows["reports", "openi", "RadVLM", "own", "radcliq"]
    assert float(one["value"]) == pytest.approx(corpus(report_rows(40, 0.5, 3))["radcliq"], rel=1e-4)


def test_a_change_is_paired_with_the_baseline(rows):
    found = rows["reports", "openi", HOSTILE, "own", "green"]
    scores = [[row["metrics"]["green"] for row in report_rows(40, quality, 3)] for quality in (0.5, 0.3)]
    gaps = 100 * (np.array(scores[1]) - scores[0])
    assert float(found["change"]) == pytest.approx(gaps.mean(), rel=1e-4)
    assert found["against"] == "RadVLM"
    patients = [row["patient_id"] for row in report_rows(40, 0.5, 3)]
    sums = np.array([gaps[[name == patient for name in patients]].sum() for patient in sorted(set(patients))])
    error = np.sqrt(((sums - sums.mean()) ** 2).sum()) / 40  # of a mean over whole patients, about
    width = float(found["change_high"]) - float(found["change_low"])
    assert width == pytest.approx(2 * 1.96 * error, rel=0.25)
    assert float(found["change_low"]) < gaps.mean() < float(found["change_high"])
    assert "change" in found
    assert rows["reports", "openi", "RadVLM", "own", "green"]["change"] == ""


def test_all_comparisons_of_a_table_are_corrected_together(rows):
    tested = [row for key, row in rows.items() if key[0] == "reports" and row["p"]]
    assert {row["model"] for row in tested} == {"radvlm-rl", HOSTILE}
    assert {row["data_set"] for row in tested} == {"mimic_cxr", "openi"}
    least = min(tested, key=lambda row: float(row["p"]))
    assert float(least["p_holm"]) == pytest.approx(len(tested) * float(least["p"]), rel=1e-4)
    assert all(float(row["p_holm"]) >= float(row["p"]) for row in tested)


def test_the_papers_numbers_are_the_printed_ones(made, rows):
    found = rows["reports", "mimic_cxr", "radvlm-rl", "own", "bertscore"]
    assert float(found["paper"]) == 59.2
    assert float(found["from_paper"]) == pytest.approx(float(found["value"]) - 59.2, abs=1e-3)
    assert rows["reports", "openi", "radvlm-rl", "own", "bertscore"]["paper"] == ""  # the paper has another data set
    assert "| MAIRA-2 (the paper's) | 17.7 | 46.6 | 52.1 | 35.8 | 12.9 | 21.3 | 1.42 |" in made["reports"]["md"]
    assert (
        r"\makecell[tl]{MAIRA-2 (the paper's)} & \makecell[tr]{} & \makecell[tr]{80.1} \\" in made["grounding"]["tex"]
    )
    assert (
        "| RadVLM+RGF1-C (the paper's) | 22.8 | 48.8 | 34.1 | 18.4 | 20.1, its reward | 23.5 | 1.20 | 93 |"
        in (made["rewards"]["md"])
    )
    for table in tables.PAPER["tables"].values():
        assert {len(values) for values in table["rows"].values()} == {len(table["columns"])}


def test_the_papers_table_2_has_a_column_for_each_data_set(made):
    (headings,) = [line for line in lines(made["grounding"]["md"], "| model |") if "Phrase-MS" in line]
    assert headings == "| model | demo | Phrase-MS |"


def test_what_cannot_be_resampled_has_no_interval_and_the_table_says_so(made, rows):
    found = rows["grounding", "demo", "RadVLM", "own", "giou"]
    assert (found["value"], found["value_low"], found["p"]) == ("0.25", "", "")
    assert "- giou: as results.json says, without interval" in made["grounding"]["md"]


def test_cocos_map_has_an_interval_a_paired_change_and_a_control(made, rows):
    values = {quality: 100 * corpus(grounding_rows(40, quality))["map_coco"] for quality in (0.2, 0.5, 0.7)}
    found = rows["grounding", "demo", "radvlm-rl", "own", "map_coco"]
    assert float(found["value"]) == pytest.approx(values[0.7], rel=1e-4)
    assert float(found["value_low"]) < values[0.7] < float(found["value_high"])
    assert float(found["change"]) == pytest.approx(values[0.7] - values[0.5], rel=1e-4)
    assert float(found["change_low"]) < float(found["change"]) < float(found["change_high"])
    assert 0 < float(found["p"]) < 1
    blank = rows["grounding", "ms_cxr", "RadVLM", "blank", "map_coco"]
    assert float(blank["change"]) == pytest.approx(values[0.5] - values[0.2], rel=1e-4)
    assert float(blank["change_low"]) < float(blank["change"]) < float(blank["change_high"])
    assert blank["film_dependent"] == ""  # a whole set's
    assert "COCO mAP is of the whole set" in made["grounding"]["md"]
    assert "COCO mAP" not in made["reports"]["md"]


@pytest.mark.parametrize("own_data", [False, True])
def test_cocos_map_is_the_mean_over_seeds(tmp_path, own_data):
    means = []
    for seed in (0, 1):
        rows = grounding_rows(30 - 10 * own_data * seed, 0.6, seed)
        for row in rows if own_data else ():
            row["boxes"]["reference"].append([0.0, 0.9, 0.1 * (1 + seed), 1.0])  # other films under the same ids
        write_results(tmp_path, "m", "demo", rows, seed)
        swapped = [row | {"films": "swapped"} for row in rows[:20]]
        swapped[0]["boxes"] = swapped[0]["boxes"] | {"prediction": []}
        write_results(tmp_path, "m", "demo", swapped, seed)
        means.append([100 * corpus(of)["map_coco"] for of in (rows, rows[:20], swapped)])
    own, part, swapped = np.mean(means, axis=0)
    found = {row["films"]: row for row in tables.measure(read_evaluations([tmp_path]), "grounding", None, 50)
             if row["metric"] == "map_coco"}  # fmt: skip
    assert found["own"]["value"] == pytest.approx(own)
    assert found["swapped"]["value"] == pytest.approx(swapped)
    assert found["swapped"]["change"] == pytest.approx(part - swapped)
    assert found["swapped"]["change_draws"].min() >= 0


def test_missing_and_failed_answers_are_said(made):
    (row,) = [line for line in lines(made["reports"]["md"], "| evil") if "missing" in line and "RCQ" not in line][:1]
    assert "openi: 1 failed, 1 missing of 40" in row


def test_controls_are_paired_and_film_dependent_samples_counted(made, rows):
    found = rows["reports", "mimic_cxr", "radvlm-rl", "swapped", "rouge_l"]

    def of(quality, films):
        seeds = [[row["metrics"]["rouge_l"] for row in report_rows(60, quality, seed, films)[:50]] for seed in (0, 1)]
        return np.mean(seeds, axis=0)

    gaps = of(0.7, "own") - of(0.35, "swapped")
    assert float(found["change"]) == pytest.approx(100 * gaps.mean(), rel=1e-4)
    assert (found["film_dependent"], found["reverse"]) == (str((gaps > 0).sum()), str((gaps < 0).sum()))
    assert found["samples"] == "50"
    growth = gaps - (of(0.5, "own") - of(0.25, "swapped"))
    assert float(found["growth"]) == pytest.approx(100 * growth.mean(), rel=1e-3)
    assert float(found["growth_low"]) < 100 * growth.mean() < float(found["growth_high"])
    assert rows["reports", "mimic_cxr", "RadVLM", "swapped", "rouge_l"]["growth"] == ""
    lower = rows["reports", "mimic_cxr", "radvlm-rl", "swapped", "radcliq"]  # lower is better
    assert float(lower["change"]) < 0
    assert int(lower["film_dependent"]) > int(lower["reverse"])
    assert rows["reports", "mimic_cxr", "radvlm-rl", "swapped", "answer_chars"]["film_dependent"] == ""  # neither
    assert "| ANC |" in made["rewards"]["md"]
    boxes = rows["grounding", "ms_cxr", "RadVLM", "blank", "mean_iou"]
    own, blank = ([row["metrics"]["mean_iou"] >= 0.5 for row in grounding_rows(40, q)] for q in (0.5, 0.2))
    assert int(boxes["film_dependent"]) == sum(a and not b for a, b in zip(own, blank, strict=True))
    assert "ms\\_cxr, does it use the film?" in made["grounding"]["md"]
    assert f"{boxes['film_dependent']} : {boxes['reverse']} of 40" in made["grounding"]["md"]


def test_each_film_dependent_sample_is_marked(results, rows):
    marked = tables.film_dependent(read_evaluations([results]))
    assert {*marked["film_dependent"]} == {-1, 0, 1}
    for (data_set, model, films), of in marked.groupby(["data_set", "model", "films"]):
        table = "reports" if data_set == "mimic_cxr" else "grounding"
        counted = rows[table, data_set, model, films, of["metric"].iloc[0]]
        assert str((of["film_dependent"] > 0).sum()) == counted["film_dependent"]
        assert of["own"].mean() - of["control"].mean() == pytest.approx(float(counted["change"]) / 100, abs=1e-4)
    boxes = marked[marked["films"] == "blank"].set_index("id")
    assert [*boxes["film_dependent"]] == [*((boxes["own"] >= 0.5).astype(int) - (boxes["control"] >= 0.5))]


def test_a_model_that_does_not_look_depends_on_no_film(tmp_path):
    for films in ("own", "blank"):
        write_results(tmp_path, "constant", "mimic_cxr", [row | {"films": films} for row in report_rows(20, 0.4)])
    (_, found) = [row for row in tables.measure(read_evaluations([tmp_path]), "reports", None, 50) if "change" in row][
        :2
    ]
    assert (found["change"], found["film_dependent"], found["reverse"]) == (0, 0, 0)


def test_one_line_says_how_the_change_differs_elsewhere(made, rows):
    (line,) = [line for line in lines(made["reports"]["md"], "- radvlm-rl") if "differ" in line]
    home, away = (
        float(rows["reports", name, "radvlm-rl", "own", "radcliq"]["change"]) for name in ("mimic_cxr", "openi")
    )
    numbers = [float(number) for number in re.findall(r"[+-]\d+\.\d+", line.replace("\N{MINUS SIGN}", "-"))]
    assert numbers[0] == pytest.approx(home, abs=0.006)
    assert numbers[3] == pytest.approx(away, abs=0.006)
    assert numbers[6] == pytest.approx(away - home, abs=0.006)
    assert numbers[7] < numbers[6] < numbers[8]
    assert re.search(r"on mimic\\_cxr, .* on openi; the changes differ by", line)


def test_a_hostile_name_stays_a_name_in_markdown(made):
    for text in (of["md"] for of in made.values()):
        assert not any("<b>" in line for line in text.splitlines() if not line.startswith("    "))  # those are code
        block = []
        for line in [*text.splitlines(), ""]:
            if line.startswith("|"):
                block.append(len(re.findall(r"(?<!\\)\|", line)))
            else:
                assert len(set(block)) <= 1
                block = []
        assert r"evil\|\<b\>\_\$x\$^\~\\ \[l\](http://x)\`c\` \& 50% #{y}" in text


def test_latex_is_balanced_and_escaped(made):
    for text in (of["tex"] for of in made.values()):
        assert r"evil\textbar{}\textless{}b\textgreater{}\_\$x\$\textasciicircum{}\textasciitilde{}" in text
        body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        depth = 0
        for mark in re.findall(r"\\.|[{}]", body):
            depth += {"{": 1, "}": -1}.get(mark, 0)
            assert depth >= 0
        assert depth == 0
        assert re.findall(r"\\(begin|end)\{(\w+)\}", body).count(("begin", "tabular")) == body.count(r"\end{tabular}")
        assert not re.search(r"(?<!\\)[#%_~^<>|]", body.replace("\\usepackage", ""))
        assert len(re.findall(r"(?<!\\)\$", body)) % 2 == 0
        assert body.isascii()
        for table in body.split(r"\begin{tabular}")[1:]:
            columns = len(re.match(r"\{(l?r*)\}", table)[1])
            for line in [line for line in table.split(r"\end{tabular}")[0].splitlines() if line.endswith(r" \\")]:
                assert len(re.findall(r"(?<!\\)&", line)) == columns - 1


def test_the_same_command_writes_the_same_bytes(results, tmp_path):
    arguments = [
        str(results),
        "--out",
        str(tmp_path),
        "--baseline",
        "RadVLM",
        "--resamples",
        "50",
        "--table",
        "grounding",
    ]
    assert command.main(arguments) == 0
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert command.main(arguments) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert {"grounding.md", "grounding.tex", "grounding.csv", "iou.svg", "iou.png"} <= first.keys()
    assert "reports.md" not in first
    text = first["grounding.md"].decode()
    assert f"python -m recipe.cxr_grpo.tables {results}" in text
    for evaluation in read_evaluations([results]):
        assert (evaluation.digest in text) == (evaluation.facts["task"] == "grounding")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: write_results(root, "b", "mimic_cxr", report_rows(9, 0.4)),
            "b has other samples of mimic_cxr than a",
        ),
        (lambda root: write_results(root, "b", "mimic_cxr", report_rows(10, 0.4, films="blank")), "own films"),
        (lambda root: None, "--baseline nobody: the models of table reports are a"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, change, message, capsys):
    write_results(tmp_path, "a", "mimic_cxr", report_rows(10, 0.5))
    change(tmp_path)
    assert (
        command.main(
            [str(tmp_path), "--out", str(tmp_path / "out"), "--baseline", "nobody" if "nobody" in message else "a"]
        )
        == 2
    )
    assert message in capsys.readouterr().err


def test_only_the_chosen_table_needs_models_that_compare(tmp_path, capsys):
    write_results(tmp_path / "r", "a", "mimic_cxr", report_rows(10, 0.5))
    write_results(tmp_path / "r", "a", "demo", grounding_rows(10, 0.5))
    write_results(tmp_path / "r", "b", "demo", grounding_rows(9, 0.5))
    arguments = [str(tmp_path / "r"), "--out", str(tmp_path / "out"), "--resamples", "20"]
    assert command.main([*arguments, "--table", "reports"]) == 0
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"reports.md", "length.svg"} <= made
    assert not {"rewards.md", "grounding.md", "iou.svg"} & made
    assert command.main(arguments) == 2
    assert "b has other samples of demo than a" in capsys.readouterr().err


def test_without_a_folder_to_write_to_it_says_what_is_missing(tmp_path, capsys):
    assert command.main([str(tmp_path)]) == 2
    assert "--out" in capsys.readouterr().err
