"""Read prepared data as verl does: through its own data set classes, with a model's own tokenizer and processor.

``python -m data_prep validate`` checks what needs no verl, and counts prompts without decoding images. Here every row
of an RL file goes through verl's RLHFDataset, chat template, image reader and processor as in a rollout, every row of
an SFT file through MultiTurnSFTDataset. Each row that raises an exception or is too long is listed. Exit status 0: verl
reads every row, 1: it does not, 2: wrong use.
"""

import argparse
import contextlib
import io
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.checks import row as checks
from data_prep.checks.validate import parquet_files
from data_prep.options import positive
from data_prep.writer.staging import read_schema
from recipe.cxr_grpo.running.prompts import load_model, prompt_of
from recipe.cxr_grpo.running.training import exit_status

SHOWN = 20


@dataclass
class Lengths:
    """The length in tokens of every row of one file, and the file's defects."""

    path: Path
    kind: str
    limit: int
    tokens: list[int] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        span = f", {min(self.tokens)} to {max(self.tokens)} tokens (limit {self.limit})" if self.tokens else ""
        head = f"{self.path}: {self.kind}, {len(self.tokens)} rows read{span}, {len(self.defects)} defects"
        more = [f"... and {len(self.defects) - SHOWN} more"] if len(self.defects) > SHOWN else []
        return "\n  ".join([head, *self.defects[:SHOWN], *more])


def read_lengths(path: Path, tokenizer: Any, processor: Any, *, sft: bool, limit: int, first: int | None) -> Lengths:
    """Lengths of a file's conversations in the SFT trainer, or its prompts in a rollout; of all rows or ``first``."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    rl_config = {"filter_overlong_prompts": False, "max_prompt_length": limit}
    sft_config = {"pad_mode": "no_padding", "truncation": "left", "max_length": sys.maxsize}
    config = OmegaConf.create(sft_config if sft else rl_config)
    lengths = Lengths(path, "SFT" if sft else "RL", limit)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            data: Any = (MultiTurnSFTDataset if sft else RLHFDataset)([str(path)], tokenizer, config, processor)
    except Exception as error:  # whatever verl raises is the finding
        lengths.defects.append(f"verl cannot open it: {type(error).__name__}: {error}")
        return lengths

    def input_ids(row: Any) -> Any:
        if sft:
            return row["input_ids"]
        collate_fn([row])
        text, images, videos = prompt_of(data, row["raw_prompt"], processor)
        return build_multimodal_processor_inputs(processor, text=[text], images=images, videos=videos)["input_ids"][0]

    rows, stored = len(data), pq.read_metadata(path).num_rows
    if rows != stored:
        lengths.defects.append(f"verl sees {rows} rows, the file has {stored}")
    numbers = range(min(rows, first or rows))
    for number in tqdm(numbers, desc=path.name, unit="row", disable=not sys.stderr.isatty()):
        try:
            lengths.tokens.append(tokens := len(input_ids(data[number])))
            if tokens > limit:
                lengths.defects.append(f"row {number}: {tokens} tokens, over the limit of {limit}")
        except Exception as error:  # verl catches any exception here and drops the row
            lengths.defects.append(f"row {number}: {type(error).__name__}: {error}")
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
    return exit_status("read_check", lambda: check(parser.parse_args(argv)))


def check(args: argparse.Namespace) -> int:
    """Read all files and print their lengths and defects; returns the exit status."""
    sft = {path: checks.is_sft(read_schema(path)) for given in args.data for path in parquet_files(given)}
    model, failed = load_model(args.model), False
    for path, is_sft in sft.items():
        limit = args.max_length if is_sft else args.max_prompt_length
        lengths = read_lengths(path, *model, sft=is_sft, limit=limit, first=args.first)
        print(lengths, flush=True)
        failed |= bool(lengths.defects)
    print("FAILED" if failed else "passed: verl reads every row")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
