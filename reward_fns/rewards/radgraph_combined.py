"""RadGraph F1 as RadCliQ has it."""

from collections.abc import Sequence

from reward_fns.models import radgraph
from reward_fns.models.radgraph_facts import RadGraphModel, combined_f1
from reward_fns.models.texts import MaxChars, paired, shortened
from reward_fns.registry import reward


@reward("radgraph_combined", task="report", range=(0.0, 1.0), batched=True, needs=radgraph.needs)
def radgraph_combined(
    predictions: Sequence[str],
    references: Sequence[str],
    model: RadGraphModel = "radgraph",
    lower_text: bool = True,
    max_chars: MaxChars = 2048,
    repo: str = radgraph.REPO,
    revision: str = "main",
    encoder: str = "",
) -> list[float]:
    """Mean of RadGraph's F1 of entities and F1 of relations, the RadGraph part of RadCliQ; see `combined_f1`.

    Source: doi 10.1016/j.patter.2023.100802; in the reward of arXiv 2601.17151 (UniRG-CXR).

    Args:
        model: "radgraph", as RadCliQ's authors, or "radgraph-xl".
        lower_text, max_chars: cut both texts and lower-case them first; 0 for no limit.
        repo, revision, encoder: see `radgraph_f1`.

    Returns:
        0 to 1; only 0.5 for two equal reports without a relation of findings. Cost and gaming: as `radgraph_f1`.

    >>> heart = radgraph.Entity("heart", "ANAT-DP", 1, 1)
    >>> combined_f1((heart, radgraph.Entity("large", "OBS-DP", 3, 3)), (heart,))  # entities 2/3, relations 0
    0.3333333333333333
    """
    texts = shortened([*predictions, *references], lower_text, max_chars)
    graphs = radgraph.annotate(texts, model=model, revision=revision, max_chars=0, repo=repo, encoder=encoder)
    return [combined_f1(*pair) for pair in paired(graphs)]
