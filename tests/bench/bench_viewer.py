"""How smoothly the viewer's page scrolls, in a headless Chromium.

`python tests/bench/bench_viewer.py` writes a page of 5,000 answers and loads it, scrolls its list fast (300 pixels a
frame), then from end to end within 300 frames, and goes through questions with the key j. It prints seconds and
megabytes of the page, and the milliseconds of frames. Exit status 1 if a frame of the first takes 100 ms or more.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import viewed

from recipe.cxr_grpo.viewing import page

LIMIT = 100  # milliseconds
KEYS = """
    const done = arguments[0];
    const times = [];
    let before = null;
    requestAnimationFrame(function frame(now) {
      if (before !== null) times.push(now - before);
      before = now;
      document.dispatchEvent(new KeyboardEvent("keydown", { key: "j" }));
      if (times.length < 200) requestAnimationFrame(frame);
      else done(times);
    });
"""


def described(times):
    ordered = sorted(times)
    p95 = ordered[int(0.95 * len(ordered))]
    return f"median {statistics.median(times):.1f} ms, 95 % {p95:.1f} ms, longest {ordered[-1]:.1f} ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=5000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, viewed.chromium() as window:
        run = viewed.large_run(Path(folder) / "run", args.answers)
        start = time.perf_counter()
        shown = page.write_page(run / "viewer.html", [run], [run / "data"], most=args.answers)
        megabytes = (run / "viewer.html").stat().st_size / 1e6
        print(f"{shown}; written in {time.perf_counter() - start:.1f} s, {megabytes:.1f} MB")
        start = time.perf_counter()
        window.get((run / "viewer.html").as_uri())
        print(f"loaded in {time.perf_counter() - start:.1f} s")
        height = window.execute_script("return document.getElementById('list').scrollHeight")
        times = window.execute_async_script(viewed.MEASURE, 300, 300)
        print(f"300 pixels a frame: {described(times)}")
        window.execute_script("document.getElementById('list').scrollTop = 0")
        whole = window.execute_async_script(viewed.MEASURE, height / 300, 300)
        print(f"{height / 300:.0f} pixels a frame: {described(whole)}")
        print(f"the key j in each frame: {described(window.execute_async_script(KEYS))}")
    return int(max(times) >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
