"""Annotations and F1 of the radgraph package; see test_radgraph.py for what goes in and out."""

import json
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

from radgraph import F1RadGraph, RadGraph
from radgraph.rewards import compute_reward

from reward_fns.rewards.radgraph_f1 import radgraph_f1

FEW = 5
job = json.load(sys.stdin)
cache = Path(job["archive"]).with_suffix(".unpacked")
with tarfile.open(job["archive"]) as tar:
    tar.extractall(cache / job["model"], filter="data")
annotations = {}
read = RadGraph(model_type=job["model"], model_cache_dir=str(cache))
for text in job["texts"]:
    try:
        annotations[text] = read([text])["0"]["entities"]
    except Exception as error:
        annotations[text] = repr(error)
good = [text for text in job["texts"] if not isinstance(annotations[text], str)]
documents = [{"entities": annotations[text]} for text in good]
# What F1RadGraph does with its annotations, and F1RadGraph itself on a few, for it annotates everything once more.
levels = list(zip(*(compute_reward(*pair, "all") for pair in pairwise([*documents, documents[0]])), strict=True))
score = F1RadGraph(reward_level="all", model_type=job["model"], model_cache_dir=str(cache))
few = score(hyps=good[:FEW], refs=good[1 : FEW + 1])[1]
assert list(few) == [list(values[:FEW]) for values in levels]
own = radgraph_f1(
    good[:FEW], good[1 : FEW + 1], level="partial", model=job["model"], lower_text=False, max_chars=0, min_chars=0,
    repo=str(Path(job["archive"]).parent), backend="reference",
)  # fmt: skip
result = {"annotations": annotations, "good": good, "f1": levels, "reference_backend": own}
Path(sys.argv[1]).write_text(json.dumps(result))
