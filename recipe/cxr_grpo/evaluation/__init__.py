"""Score saved predictions: what the command ``evaluate`` is made of."""
