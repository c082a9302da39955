"""What tables hold, of whole lists of reports, as the reference packages compute it; see test_corpus.py."""

import json
import sys
import tarfile
from pathlib import Path

from reference_models import read_payload

payload = read_payload()  # before the packages are imported

import torch  # noqa: E402
from bert_score import BERTScorer  # noqa: E402
from f1chexbert import F1CheXbert  # noqa: E402
from radgraph import F1RadGraph  # noqa: E402
from rouge_score.rouge_scorer import RougeScorer  # noqa: E402

predictions, references = payload["predictions"], payload["references"]
result = {}
with torch.no_grad():
    *_, of_14, of_5 = F1CheXbert(device="cpu")(predictions, references)
for number, report in (("14", of_14), ("5", of_5)):
    for average in ("micro", "macro"):
        result[f"chexbert_{average}_{number}"] = report[f"{average} avg"]["f1-score"]

scorer = BERTScorer(
    "distilbert-base-uncased", num_layers=5, idf=False, lang="en", rescale_with_baseline=True, device="cpu"
)
result["bertscore"] = scorer.score(predictions, references, batch_size=1)[2].mean().item()

rouge = RougeScorer(["rougeL"])
pairs = list(zip(predictions, references, strict=True))
result["rouge_l"] = sum(rouge.score(true, text)["rougeL"].fmeasure for text, true in pairs) / len(pairs)

with tarfile.open("RRG_scorers/radgraph-xl.tar.gz") as tar:
    tar.extractall("radgraph/radgraph-xl", filter="data")
radgraph = F1RadGraph(reward_level="all", model_type="radgraph-xl", model_cache_dir="radgraph")
levels = radgraph(hyps=predictions, refs=references)[0]
result |= {f"radgraph_{level}": mean for level, mean in zip(("simple", "partial", "complete"), levels, strict=True)}

Path(sys.argv[1]).write_text(json.dumps(result))
