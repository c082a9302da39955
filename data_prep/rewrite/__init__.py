"""Rewriting prepared data with a language model: `filter` and `traces`."""
