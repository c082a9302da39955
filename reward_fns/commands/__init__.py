"""What `python -m reward_fns` does: the command line, and the commands `check` and `score`."""
