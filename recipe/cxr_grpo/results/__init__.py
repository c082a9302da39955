"""What a run leaves: dumps, statistics, and the page."""
