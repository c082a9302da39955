"""Seconds from results folders to tables: `python tests/bench/bench_tables.py --reports 4000 --models 12`.

Writes made-up results of a set of reports (of boxes with `--table grounding`) for several models, with two controls of
the first two, then makes the table against the first model in a process of its own, and prints the time and the peak of
its memory.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
from made_results import grounding_rows, report_rows, write_results  # noqa: E402


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=4000, help="samples (%(default)s)")
    parser.add_argument("--table", choices=("reports", "grounding"), default="reports", help="(%(default)s)")
    parser.add_argument("--models", type=int, default=12, help="rows of the table (%(default)s)")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap draws (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number in range(options.models):
            for films in ("own", "swapped", "blank")[: 3 if number < 2 else 1]:
                quality = 0.3 + 0.5 * number / options.models - 0.2 * (films != "own")
                make = report_rows if options.table == "reports" else grounding_rows
                rows = make(options.reports, quality, films=films)
                write_results(folder / "results", f"model {number}", "mimic_cxr", rows)
        command = [sys.executable, "-m", "recipe.cxr_grpo.tables", folder / "results", "--out", folder / "out"]
        command += ["--table", options.table, "--baseline", "model 0", "--resamples", str(options.resamples)]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
        seconds, usage = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    print(f"{options.table}, {options.reports} samples, {options.models} models, {options.resamples} draws: "
          f"{seconds:.1f} s, {cpu:.1f} s of CPU time, {memory:.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()
