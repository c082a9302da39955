"""Read prepared data as verl does: through its own data set classes, with a model's own tokenizer and processor.

``python -m data_prep validate`` checks everything about the data that needs no verl, and counts prompts without
decoding images. This command is its other half: every row of an RL file goes through verl's RLHFDataset, chat template,
image reader and processor as in a rollout, every row of an SFT file through MultiTurnSFTDataset, and whatever raises an
exception or comes out too long is listed. Exit status 0: verl reads all of it, 1: not so, 2: wrong use.
"""

import argparse
import asyncio
import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.checks import row as checks
from data_prep.checks.validate import parquet_files
from data_prep.options import positive
from data_prep.problems import RefusedData
from data_prep.writer.staging import read_schema
from reward_fns.errors import UsageError

SHOWN = 20


@dataclass
class Lengths:
    """Tokens of the rows of one file, and what is wrong with them."""

    path: Path
    kind: str
    limit: int
    tokens: list[int] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)

    def read(self, rows: int, row_length: Callable[[int], int]) -> None:
        """Ask for the length of every row."""
        for number in tqdm(range(rows), desc=self.path.name, unit="row", disable=not sys.stderr.isatty()):
            try:
                self.tokens.append(row_length(number))
            # verl catches any exception here and goes on without the row.
            except Exception as error:
                self.defects.append(f"row {number}: {type(error).__name__}: {error}")
                continue
            if self.tokens[-1] > self.limit:
                self.defects.append(f"row {number}: {self.tokens[-1]} tokens, over the limit of {self.limit}")

    def __str__(self) -> str:
        span = f", {min(self.tokens)} to {max(self.tokens)} tokens (limit {self.limit})" if self.tokens else ""
        head = f"{self.path}: {self.kind}, {len(self.tokens)} rows read{span}, {len(self.defects)} defects"
        more = len(self.defects) - SHOWN
        return "\n  ".join([head, *self.defects[:SHOWN], *([f"... and {more} more"] if more > 0 else [])])


def load_model(model: str) -> tuple[Any, Any]:
    """A model's tokenizer and processor, loaded by verl.

    Raises:
        UsageError: they can't be loaded; verl itself would go on without a processor.
    """
    from recipe.cxr_grpo.cpu import shims

    shims.torchvision_operators()
    from datasets import disable_progress_bars
    from verl.utils import hf_processor, hf_tokenizer

    disable_progress_bars()  # of reading a file into the cache; ours are of its rows

    try:
        tokenizer, processor = hf_tokenizer(model), hf_processor(model)
    except (OSError, ValueError) as error:
        raise UsageError(f"--model {model}: {error}") from error
    if processor is None:
        raise UsageError(f"--model {model}: verl gets no image processor from it, and would train it on text only")
    return tokenizer, processor


def read_rl(path: Path, tokenizer: Any, processor: Any, limit: int, first: int | None) -> Lengths:
    """Prompts of an RL file, as a rollout gets them; ``limit`` is verl's ``data.max_prompt_length``."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    config = OmegaConf.create({"filter_overlong_prompts": False, "max_prompt_length": limit})
    found = Lengths(path, "RL", limit)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            data = RLHFDataset([str(path)], tokenizer, config, processor)
    except Exception as error:
        found.defects.append(f"RLHFDataset: {type(error).__name__}: {error}")
        return found

    def length(number: int) -> int:
        row = data[number]
        collate_fn([row])
        messages = row["raw_prompt"]
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        images, videos, _ = asyncio.run(data.process_multi_modal_info(messages, data.image_patch_size, config))
        inputs = build_multimodal_processor_inputs(processor, text=[text], images=images, videos=videos)
        return len(inputs["input_ids"][0])

    _read(found, len(data), length, first)
    return found


def read_sft(path: Path, tokenizer: Any, processor: Any, limit: int, first: int | None) -> Lengths:
    """Conversations of an SFT file, as its trainer gets them; ``limit`` is verl's ``data.max_length``."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    found = Lengths(path, "SFT", limit)
    config = OmegaConf.create({"pad_mode": "no_padding", "truncation": "left", "max_length": sys.maxsize})
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            data = MultiTurnSFTDataset([str(path)], tokenizer, config, processor)
    except Exception as error:
        found.defects.append(f"MultiTurnSFTDataset: {type(error).__name__}: {error}")
        return found
    _read(found, len(data), lambda number: len(data[number]["input_ids"]), first)
    return found


def _read(found: Lengths, rows: int, length: Callable[[int], int], first: int | None) -> None:
    stored = pq.read_metadata(found.path).num_rows
    if rows != stored:
        found.defects.append(f"verl sees {rows} rows, the file has {stored}")
    found.read(rows if first is None else min(rows, first), length)


def check(paths: Sequence[Path], model: str, *, max_prompt_length: int, max_length: int, first: int | None) -> int:
    """Read all files and print what came of it; returns the exit status."""
    sft = {path: checks.is_sft(read_schema(path)) for path in paths}
    tokenizer, processor = load_model(model)
    failed = False
    for path in paths:
        if sft[path]:
            found = read_sft(path, tokenizer, processor, max_length, first)
        else:
            found = read_rl(path, tokenizer, processor, max_prompt_length, first)
        print(found, flush=True)
        failed = failed or bool(found.defects)
    print("FAILED" if failed else "passed: verl reads all of it")
    return 1 if failed else 0


def main(argv: list[str] | None = None) -> int:
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
    parser.add_argument("--first", type=positive, metavar="N", help="read the first N rows of each file only")
    args = parser.parse_args(argv)
    try:
        paths = [path for given in args.data for path in parquet_files(given)]
        return check(
            paths,
            args.model,
            max_prompt_length=args.max_prompt_length,
            max_length=args.max_length,
            first=args.first,
        )
    except UsageError as error:
        print(f"read_check: {error}", file=sys.stderr)
        return 2
    except RefusedData as error:
        print(f"read_check: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
