"""One data set per file; `data_prep.registry` looks here and nowhere else. Shared code lives in `readers`."""
