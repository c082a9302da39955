"""Predictions of any model, their scores, and folders of results."""
