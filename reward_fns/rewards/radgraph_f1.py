"""RadGraph F1 of a report."""

from typing import Any

from reward_fns.models.radgraph import MAX_CHARS, REPO, Backend, ModelName, annotate, needs
from reward_fns.models.radgraph_facts import CaseMode, Level, annotation_f1
from reward_fns.models.texts import MaxChars, MinChars, paired, score_long_pairs, shortened
from reward_fns.registry import reward


@reward("radgraph_f1", task="report", range=(0.0, 1.0), batched=True, needs=needs)
def radgraph_f1(
    predictions: list[str],
    references: list[str],
    level: Level = "complete",
    model: ModelName = "radgraph-xl",
    case_mode: CaseMode = "pypi",
    lower_text: bool = True,
    max_chars: MaxChars = MAX_CHARS,
    min_chars: MinChars = 6,
    revision: str = "main",
    repo: str = REPO,
    encoder: str = "",
    backend: Backend = "builtin",
) -> list[float]:
    """F1 of the entities and relations that RadGraph finds in both reports.

    2 |P & R| / (|P| + |R|) over the sets of facts of the two reports; 0 if either has none. A fact is, by level:
    "simple": words and label of an entity; "partial": and whether it relates to another; "complete": the same as simple
    for an entity without relations, else for each relation: words, label, type of the relation, words of the other.

    Args:
        level: RG_E, RG_ER and RG_ER with a bar in papers.
        model: values of different models can't be compared.
        case_mode: whether Edema and edema differ. "pypi": yes, but not in relations, as in radgraph 0.1.18 on PyPI;
            "git": no, as in its repository since 5 May 2026.
        lower_text: read the texts in lower case, which changes what is found; the paper does so in training only.
        max_chars: texts are cut there first; 0 for no limit, which lets a rambling answer take minutes.
        min_chars: a pair with a shorter text gets 0; the paper refuses 5 characters and less.
        revision, repo, encoder: where the weights are, see `reward_fns.models.radgraph.annotate`.
        backend: "reference" has the radgraph package do it, one report at a time, in an environment where it runs.

    Returns:
        0 to 1. Cost: a pass of a BERT-base per distinct text, in batches, plus work that grows with the square of its
        words. Gaming: it counts what RadGraph finds, not what is true: short reports of the commonest findings pay
        (trained on it alone, reports shrink to 93 characters: table 3 of the paper), wording in which RadGraph sees no
        entity is free, and a wrong side or size costs one fact however grave it is.

    Source: arXiv 2106.14463 (RadGraph), 2210.12186 (the levels); defaults as the ablation "RadGraph" of arXiv
    2512.10691, table 3, and its released code. For its tables set lower_text false, max_chars 0 and min_chars 0.

    >>> radgraph_f1(["None."], ["No pneumothorax."])  # too short for any weights to be asked, by the paper's rule
    [0.0]
    """

    def score(ours: list[str], theirs: list[str]) -> list[float]:
        texts = shortened([*ours, *theirs], lower_text, max_chars)
        weights: Any = {"model": model, "revision": revision, "repo": repo, "encoder": encoder}
        graphs = annotate(texts, **weights, max_chars=0, backend=backend)
        return [annotation_f1(*pair, level, case_mode) for pair in paired(graphs)]

    return score_long_pairs(score, predictions, references, max(min_chars, 1), floor=0.0)
