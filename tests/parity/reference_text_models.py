"""What f1chexbert, bert-score and rouge-score make of texts; see test_text_models.py."""

import json
import sys
import tarfile
from pathlib import Path

from reference_models import read_payload

payload = read_payload()  # before the packages are imported

import torch  # noqa: E402
from bert_score import BERTScorer  # noqa: E402
from f1chexbert import F1CheXbert  # noqa: E402
from radgraph import RadGraph  # noqa: E402
from rouge_score.rouge_scorer import RougeScorer  # noqa: E402
from sklearn.metrics import f1_score  # noqa: E402

from reward_fns.rewards.chexbert_cosine import chexbert_cosine  # noqa: E402
from reward_fns.rewards.chexbert_f1 import chexbert_f1  # noqa: E402

predictions, references = payload["predictions"], payload["references"]
result = {}

chexbert = F1CheXbert(device="cpu")
seen = []
chexbert.model.register_forward_hook(lambda model, inputs, output: seen.append([head[0].tolist() for head in output]))
states = []
chexbert.model.bert.register_forward_hook(lambda model, inputs, output: states.append(output[0][0, 0].tolist()))
with torch.no_grad():
    result["classes"] = [chexbert.get_label(text, mode="classification") for text in predictions]
    result["logits"], result["embeddings"] = seen[:], states[:]
    labels = [[chexbert.get_label(text) for text in side] for side in (predictions, references)]
    result["exact_top5"] = chexbert(predictions, references)[1].tolist()
    result["embeddings_of_references"] = states[-2 * len(references) : -len(references)]
result["micro_f1"] = [
    f1_score([true], [predicted], average="micro", zero_division=0) for predicted, true in zip(*labels, strict=True)
]

for name in ("distilbert-base-uncased", "distilroberta-base"):
    scorer = BERTScorer(name, num_layers=5, idf=False, lang="en", rescale_with_baseline=True, device="cpu")
    result[name] = torch.stack(scorer.score(predictions, references, batch_size=1), dim=1).tolist()

rouge = RougeScorer(["rougeL"])
pairs = list(zip(predictions, references, strict=True))
result["rouge_l"] = [rouge.score(reference, prediction)["rougeL"].fmeasure for prediction, reference in pairs]

# The package refuses white space.
texts = sorted({text for text in predictions + references if text.strip()})
with tarfile.open("RRG_scorers/radgraph-xl.tar.gz") as tar:
    tar.extractall("radgraph/radgraph-xl", filter="data")
read = RadGraph(model_type="radgraph-xl", model_cache_dir="radgraph")
result["radgraph"] = {text: read([text])["0"]["entities"] for text in texts}

own = chexbert_f1(predictions, references, both_empty=0.0, repo="RRG_scorers", backend="reference")
assert own == result["micro_f1"]
result["reference_backend"] = chexbert_cosine(predictions, references, repo="RRG_scorers", backend="reference")

Path(sys.argv[1]).write_text(json.dumps(result))
