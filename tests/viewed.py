"""Runs and results folders to look at, in the formats of verl's dumps and of evaluate, and a Chromium to look with."""

import contextlib
import json
import os
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

TRUE_BOX = [0.1, 0.2, 0.5, 0.6]
MEASURE = """
    const [step, frames, done] = arguments;
    const list = document.getElementById("list");
    const times = [];
    let before = null;
    requestAnimationFrame(function frame(now) {
      if (before !== null) times.push(now - before);
      before = now;
      list.scrollTop += step;
      if (times.length < frames) requestAnimationFrame(frame);
      else done(times);
    });
"""  # scrolls the list, and gives the milliseconds of each frame


def dumped(sample, task, output, score, *, uid="", question="What does it show?", patient="p", films=None, **values):
    """A row of a dump; labels, boxes and report go into the ground truth, other values are components."""
    truth = {"id": sample, "patient_id": patient, "task": task, "box_format": "radvlm"}
    truth |= {"films": films} if films else {}
    if task == "report":
        truth["report"] = values.pop("report", "The lungs are clear.")
    else:
        truth |= {"boxes": values.pop("boxes", [TRUE_BOX]), "labels": values.pop("labels", ["opacity"])}
    row = {"input": f"user\n\n{question}\nassistant\n", "output": output, "gts": json.dumps(truth), "score": score}
    return row | {"uid": uid, "model_failed": 0.0} | values


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_films(folder, names, side=64):
    """A film for each name, each with another size; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names]
    for number, path in enumerate(paths):
        Image.linear_gradient("L").resize((side + 4 * (number % 50), side)).save(path, "PNG")
    return paths


def write_data(path, films):
    """A parquet file for RL with the columns that the viewer reads; films maps (sample, arm) to a path or bytes."""
    rows = []
    for (sample, arm), film in films.items():
        truth = {"id": sample} | ({"films": arm} if arm != "own" else {})
        image = {"bytes": film} if isinstance(film, bytes) else {"image": f"file://{film}"}
        rows.append({"images": [image], "reward_model": {"ground_truth": json.dumps(truth)}})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_results(folder, rows, higher_is_better=None):
    """A results folder of evaluate; each row is completed to the fields that evaluate writes."""
    common = {"patient_id": "p", "task": "report", "films": "own", "labels": [], "question": "Write the report."}
    common |= {"prediction": "", "answer": "", "thinking": "", "reference": None, "image": None, "status": "ok"}
    write_lines(folder / "scores.jsonl", [common | row for row in rows])
    (folder / "results.json").write_text(json.dumps({"higher_is_better": higher_is_better or {}}))
    return folder


def large_run(out, answers, seed=0):
    """A run with so many answers, each to a question of its own, about a tenth as many films."""
    rng = random.Random(seed)
    films = make_films(out / "films", [f"{number}.png" for number in range(answers // 10)], side=480)
    of_sample, rows = {}, []
    for number in range(answers):
        of_sample[f"s{number:05}", "own"] = films[number % len(films)]
        corners = [round(rng.random() / 2, 2), round(rng.random() / 2, 2)]
        output = f"<think>{'A shadow in the lung. ' * 20}</think>{[*corners, corners[0] + 0.3, corners[1] + 0.3]}"
        rows.append(dumped(f"s{number:05}", "grounding", output, rng.random(), box_iou=rng.random()))
    write_lines(out / "validation" / "1.jsonl", rows)
    write_data(out / "data" / "val.parquet", of_sample)
    return out


@contextlib.contextmanager
def chromium(width=1280, height=900):
    """A headless Chromium, driven through its DevTools protocol; it can reach no host. Skips the test without one."""
    webdriver = pytest.importorskip("selenium.webdriver")
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    words = ["--headless=new", f"--window-size={width},{height}", "--disable-gpu", "--disable-dev-shm-usage"]
    words += ["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    for word in [*words, *["--no-sandbox"] * (os.geteuid() == 0)]:
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    window = webdriver.Chrome(options, webdriver.ChromeService(driver))
    window.set_script_timeout(120)
    try:
        yield window
    finally:
        window.quit()
