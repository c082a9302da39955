"""Checks of prepared data: `validate`, gold answers, the contact sheet."""
