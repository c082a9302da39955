"""What a run has logged and dumped, and its statistics."""
