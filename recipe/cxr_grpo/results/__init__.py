"""What a run has logged and dumped, its statistics, and its page."""
