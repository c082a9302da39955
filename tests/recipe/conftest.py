import os

from fake_openai import judge_server  # noqa: F401

# verl decides on its platform at its first import, in this process and in those that the tests start.
os.environ["VERL_PLATFORM"] = "cpu"
# Marks all that these tests start, see small_runs.left_over.
os.environ["CXR_GRPO_TESTED_BY"] = str(os.getpid())
