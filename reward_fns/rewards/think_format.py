"""Whether a thinking model followed the format."""

from reward_fns.registry import reward

_OPEN, _CLOSE = "<think>", "</think>"


@reward("think_format", task="any", range=(0.0, 1.0))
def think_format(
    prediction: str, reference: str, opened_by_prompt: bool = False, output: str = "", thinking: bool = True
) -> float:
    """1 if the output is exactly one <think>...</think> that isn't empty and an answer after it, else 0.

    Nothing but white space may stand before the opening tag. A sample that wasn't to think earns 1 without either tag.
    Source: arXiv 2501.12948, section 2.2.2; DeepMedix-R1 (arXiv 2509.03906) weighs it 0.1. arXiv 2512.10691 has none
    (section 3): there a missing </think> costs through the floor of the other rewards.

    Args:
        opened_by_prompt: the prompt ends with <think>, as Qwen3-VL-Thinking's does; the output only closes it.

    Returns:
        0 or 1, in microseconds. Gaming: a single word of thought is enough, so keep its weight small.

    >>> think_format("", "", output="<think>Wide heart.</think> Cardiomegaly.")
    1.0
    >>> think_format("", "", output="<think></think> Cardiomegaly."), think_format("", "", output="Cardiomegaly.")
    (0.0, 0.0)
    """
    if not thinking:
        return float(_OPEN not in output and _CLOSE not in output)
    text = (_OPEN if opened_by_prompt else "") + output.strip()
    thought, _, answer = text.removeprefix(_OPEN).partition(_CLOSE)
    once = text.startswith(_OPEN) and text.count(_OPEN) == text.count(_CLOSE) == 1
    return float(once and bool(thought.strip()) and bool(answer.strip()))
