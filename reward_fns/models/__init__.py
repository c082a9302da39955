"""The models behind the neural rewards: readers of published weight files."""
