"""What the processes of a run, and the next run, learn from its folder: heartbeat and sealed checkpoints."""
