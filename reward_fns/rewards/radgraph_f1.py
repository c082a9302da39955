"""RadGraph F1: do two reports name the same findings, in the same places?"""

from collections.abc import Iterator, Mapping
from typing import Any

from reward_fns.models.radgraph import MAX_CHARS, REPO, Backend, ModelName, annotate, sources
from reward_fns.models.radgraph_facts import CaseMode, Level, annotation_f1
from reward_fns.models.texts import MaxChars, MinChars, score_long_pairs, shortened
from reward_fns.models.weights import HubFile, HubFolder
from reward_fns.registry import reward


def _needs(options: Mapping[str, Any]) -> Iterator[HubFile | HubFolder]:
    return sources(*(options[name] for name in ("model", "revision", "repo", "encoder")))


@reward("radgraph_f1", task="report", range=(0.0, 1.0), batched=True, needs=_needs)
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

    2 |P & R| / (|P| + |R|) over the sets of facts of prediction and reference; 0 if either has none. A fact is, by
    level: "simple": words and label of an entity; "partial": and whether it relates to another; "complete": of an
    entity without relations, its words and label, of one with, instead one fact for each relation: words and label,
    type of the relation, words of the other entity.

    Args:
        predictions: generated reports.
        references: true reports.
        level: see above; RG_E, RG_ER and RG_ER with a bar in papers.
        model: the weights; values of different models can't be compared.
        case_mode: whether Edema and edema differ. "pypi": yes, but not in relations, as in radgraph 0.1.18 on PyPI;
            "git": no, as in its repository since 5 May 2026.
        lower_text: read the texts in lower case, which changes what the model finds: the paper trains so and
            evaluates on texts as they are.
        max_chars: texts are cut there first; 0 for no limit, which lets a rambling answer take minutes.
        min_chars: a pair with a shorter text gets 0; the paper refuses 5 characters and less.
        revision, repo, encoder: where the weights are, see `reward_fns.models.radgraph.annotate`.
        backend: "reference" has the radgraph package do it, one report at a time, in an environment where it runs.

    Returns:
        0 to 1 each. Cost: a pass of a BERT-base per distinct text, in batches, plus work that grows with the square of
        its words. Gaming: it counts what RadGraph finds, not what is true: short reports of the commonest findings
        pay (in table 3 of the paper, reports trained on this reward alone shrink to 93 characters), wording in which
        RadGraph sees no entity costs nothing, and a wrong side or size costs one fact however grave it is.

    Raises:
        UsageError: weights can't be had or a package is missing.

    Source: arXiv 2106.14463 (RadGraph), 2210.12186 (the reward and its levels); defaults as the ablation "RadGraph" of
    arXiv 2512.10691, table 3, and its released code. For the tables of that paper set lower_text false, max_chars 0
    and min_chars 0.

    Too short for any weights to be asked, by the rule of the paper:

    >>> radgraph_f1(["None."], ["No pneumothorax."])
    [0.0]
    """

    def score(ours: list[str], theirs: list[str]) -> list[float]:
        texts = shortened([*ours, *theirs], lower_text, max_chars)
        graphs = annotate(
            texts, model=model, revision=revision, max_chars=0, repo=repo, encoder=encoder, backend=backend
        )
        pairs = zip(graphs[: len(ours)], graphs[len(ours) :], strict=True)
        return [annotation_f1(predicted, true, level, case_mode) for predicted, true in pairs]

    return score_long_pairs(score, predictions, references, max(min_chars, 1), floor=0.0)
