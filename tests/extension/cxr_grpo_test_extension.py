"""One reward, found by its entry point."""

from reward_fns import reward


@reward("extension_same_length", task="report", range=(0.0, 1.0))
def extension_same_length(prediction: str, reference: str) -> float:
    """1 if both texts have the same number of words."""
    return float(len(prediction.split()) == len(reference.split()))
