"""The errors of scoring that are not the model's fault."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Wrong use: an unknown name, a bad option or file. The message says what and where; exit status 2."""


class DataError(Exception):
    """A row that cannot be scored as it is: bad ground truth or extra_info. The message names the row."""


class ScorerUnavailable(Exception):
    """A scorer failed, so the sample has no reward; no gradient may come from it.

    The cause is a string, so that the exception travels between processes.

    >>> print(ScorerUnavailable("gleu", "p7", "returned nan"))
    reward 'gleu' failed on sample 'p7': returned nan
    """

    def __init__(self, reward: str, sample_id: str, cause: str) -> None:
        super().__init__(reward, sample_id, cause)
        self.reward, self.sample_id, self.cause = reward, sample_id, cause

    def __str__(self) -> str:
        return f"reward {self.reward!r} failed on sample {self.sample_id!r}: {self.cause}"


def unknown(kind: str, name: object, valid: Iterable[str]) -> str:
    """Message for a name that is not among the valid ones, with the nearest of them.

    >>> unknown("reward", "box_sft_f1", ["box_soft_f1", "gleu"])
    "unknown reward 'box_sft_f1'; did you mean 'box_soft_f1'? (valid: box_soft_f1, gleu)"
    """
    valid = sorted(valid)
    if not valid:
        return f"unknown {kind} {name!r}; there are none"
    # Cutoff 0: however far off the name is, the nearest one is the better hint.
    nearest = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.0)[0]
    return f"unknown {kind} {name!r}; did you mean {nearest!r}? (valid: {', '.join(valid)})"
