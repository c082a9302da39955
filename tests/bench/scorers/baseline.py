"""RadCliQ as the packages radgraph, f1chexbert and bert-score compute it, one pair at a time; for bench_scorers.py.

It runs in an environment of the extra `reference`, with the folder of the weights as its working folder: JSON with
`pairs` and `threads` on standard input, JSON with `values` and `seconds` on standard output.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import time
from pathlib import Path

_LOGITS = 13 * 4 + 2  # of CheXbert's heads, before the [CLS] state


def main() -> None:
    """Load everything, then take the time of the pairs."""
    job = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr  # the packages print
    cache = Path("library").absolute()
    (cache / "chexbert").mkdir(parents=True, exist_ok=True)
    if not (cache / "chexbert/chexbert.pth").exists():
        (cache / "chexbert/chexbert.pth").symlink_to(Path("RRG_scorers/chexbert.pth").absolute())
    if not (cache / "radgraph-xl").exists():
        with tarfile.open("RRG_scorers/radgraph-xl.tar.gz") as tar:
            tar.extractall(cache / "radgraph-xl", filter="data")
    os.environ["XDG_CACHE_HOME"] = str(cache)

    import torch
    from bert_score import BERTScorer

    from reward_fns.models import reference
    from reward_fns.models.chexbert import cosine
    from reward_fns.rewards.radcliq import radcliq_v1
    from reward_fns.rewards.radgraph_combined import combined_f1

    torch.set_num_threads(job["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    annotate = reference.radgraph("radgraph-xl", cache)
    numbers_of = reference.f1chexbert(cache / "chexbert", device=device)
    bert = BERTScorer(
        "distilroberta-base", num_layers=5, idf=False, lang="en", rescale_with_baseline=True, device=device
    )

    def value(pair: list[str]) -> float:
        entities = combined_f1(*annotate(pair))
        states = [numbers_of(text)[_LOGITS:] for text in pair]
        f1 = bert.score([pair[0]], [pair[1]], batch_size=1)[2].item()
        return -radcliq_v1(entities, f1, cosine(*states))

    value(job["pairs"][0])
    start = time.perf_counter()
    values = [value(pair) for pair in job["pairs"]]
    json.dump({"values": values, "seconds": time.perf_counter() - start}, out)


if __name__ == "__main__":
    main()
