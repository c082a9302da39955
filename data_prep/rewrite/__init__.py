"""Prepared texts rewritten by a language model, or by rules."""
