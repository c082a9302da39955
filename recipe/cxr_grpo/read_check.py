"""Read prepared data as verl does: through its own data set classes, with a model's own tokenizer and processor.

``python -m data_prep validate`` checks everything about the data that needs no verl, and counts prompts without
decoding images. This command is its other half: every row of an RL file goes through verl's RLHFDataset, chat template,
image reader and processor as in a rollout, every row of an SFT file through MultiTurnSFTDataset. Each row that raises
an exception or is too long is listed. Exit status 0: verl reads every row, 1: it does not, 2: wrong use.
"""

import argparse
import asyncio
import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.checks import row as checks
from data_prep.checks.validate import parquet_files
from data_prep.options import positive
from data_prep.writer.staging import read_schema
from recipe.cxr_grpo.running.training import exit_status
from reward_fns.errors import UsageError

SHOWN = 20


@dataclass
class Lengths:
    """The length in tokens of every row of one file, and the file's defects."""

    path: Path
    kind: str
    limit: int
    tokens: list[int] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)

    def read(self, open_data: Callable[[], Any], row_length: Callable[[Any, int], int], first: int | None) -> None:
        """Read the rows of what ``open_data`` opens, or the ``first`` of them; ``row_length`` counts a row's tokens."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                data = open_data()
        except Exception as error:  # whatever verl raises is the finding
            self.defects.append(f"verl cannot open it: {type(error).__name__}: {error}")
            return
        rows, stored = len(data), pq.read_metadata(self.path).num_rows
        if rows != stored:
            self.defects.append(f"verl sees {rows} rows, the file has {stored}")
        numbers = range(rows if first is None else min(rows, first))
        for number in tqdm(numbers, desc=self.path.name, unit="row", disable=not sys.stderr.isatty()):
            try:
                self.tokens.append(row_length(data, number))
            except Exception as error:  # verl catches any exception here and drops the row
                self.defects.append(f"row {number}: {type(error).__name__}: {error}")
                continue
            if self.tokens[-1] > self.limit:
                self.defects.append(f"row {number}: {self.tokens[-1]} tokens, over the limit of {self.limit}")

    def __str__(self) -> str:
        span = f", {min(self.tokens)} to {max(self.tokens)} tokens (limit {self.limit})" if self.tokens else ""
        head = f"{self.path}: {self.kind}, {len(self.tokens)} rows read{span}, {len(self.defects)} defects"
        more = [f"... and {len(self.defects) - SHOWN} more"] if len(self.defects) > SHOWN else []
        return "\n  ".join([head, *self.defects[:SHOWN], *more])


def load_model(model: str) -> tuple[Any, Any]:
    """A model's tokenizer and processor, loaded by verl; UsageError where verl would go on without a processor."""
    from recipe.cxr_grpo.cpu import shims

    shims.torchvision_operators()
    from datasets import disable_progress_bars
    from verl.utils import hf_processor, hf_tokenizer

    disable_progress_bars()  # those of reading a file into the cache
    try:
        tokenizer, processor = hf_tokenizer(model), hf_processor(model)
    except (OSError, ValueError) as error:
        raise UsageError(f"--model {model}: {error}") from error
    if processor is None:
        raise UsageError(f"--model {model}: verl finds no image processor there, and would train it on text only")
    return tokenizer, processor


def read_rl(path: Path, tokenizer: Any, processor: Any, limit: int, first: int | None) -> Lengths:
    """Lengths of the prompts of an RL file in a rollout; ``limit`` is verl's ``data.max_prompt_length``."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    config = OmegaConf.create({"filter_overlong_prompts": False, "max_prompt_length": limit})

    def row_length(data: Any, number: int) -> int:
        row = data[number]
        collate_fn([row])
        messages = row["raw_prompt"]
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        images, videos, _ = asyncio.run(data.process_multi_modal_info(messages, data.image_patch_size, config))
        inputs = build_multimodal_processor_inputs(processor, text=[text], images=images, videos=videos)
        return len(inputs["input_ids"][0])

    lengths = Lengths(path, "RL", limit)
    lengths.read(lambda: RLHFDataset([str(path)], tokenizer, config, processor), row_length, first)
    return lengths


def read_sft(path: Path, tokenizer: Any, processor: Any, limit: int, first: int | None) -> Lengths:
    """Lengths of the conversations of an SFT file in its trainer; ``limit`` is verl's ``data.max_length``."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    config = OmegaConf.create({"pad_mode": "no_padding", "truncation": "left", "max_length": sys.maxsize})
    lengths = Lengths(path, "SFT", limit)

    def open_data() -> Any:
        return MultiTurnSFTDataset([str(path)], tokenizer, config, processor)

    lengths.read(open_data, lambda data, number: len(data[number]["input_ids"]), first)
    return lengths


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipe.cxr_grpo.read_check",
        description=__doc__.replace("``", ""),
        epilog="example: python -m recipe.cxr_grpo.read_check --data data/mine --model Qwen/Qwen3-VL-2B-Instruct",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="parquet files, or folders of them")
    parser.add_argument("--model", required=True, help="folder or hub id of the model")
    parser.add_argument("--max-prompt-length", type=positive, default=1024, help="data.max_prompt_length of the RL run")
    parser.add_argument("--max-length", type=positive, default=1024, help="data.max_length of the SFT run")
    parser.add_argument("--first", type=positive, metavar="N", help="read only the first N rows of each file")
    args = parser.parse_args(argv)
    return exit_status("read_check", lambda: check(args))


def check(args: argparse.Namespace) -> int:
    """Read all files and print their lengths and defects; returns the exit status."""
    sft = {path: checks.is_sft(read_schema(path)) for given in args.data for path in parquet_files(given)}
    tokenizer, processor = load_model(args.model)
    failed = False
    for path, is_sft in sft.items():
        read, limit = (read_sft, args.max_length) if is_sft else (read_rl, args.max_prompt_length)
        lengths = read(path, tokenizer, processor, limit, args.first)
        print(lengths, flush=True)
        failed = failed or bool(lengths.defects)
    print("FAILED" if failed else "passed: verl reads every row")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
