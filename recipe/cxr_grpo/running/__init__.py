"""Checks before a run, and the processes of one."""
