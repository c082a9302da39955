"""From samples to files: prompts, rows, parquet shards, staging, the data card."""
