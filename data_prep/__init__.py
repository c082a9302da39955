"""Data preparation: every data set becomes `Sample`s, and `Sample`s become the parquet files that verl reads."""
