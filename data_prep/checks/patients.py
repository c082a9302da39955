"""No patient in two splits, over all files of all sets that are used together."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.checks.seen import Seen, digest
from data_prep.problems import RefusedData

_COLUMNS = ["data_source", "extra_info.patient_id", "extra_info.split"]


def check_disjoint(parquet_files: Iterable[Path]) -> list[str]:
    """One sentence for each patient in more than one split.

    Patients are distinguished by `patient_id` alone, also between data sets, because sets share patients: MS-CXR and
    Chest ImaGenome are made from MIMIC-CXR. Memory does not grow with the rows.

    Args:
        parquet_files: RL files as `DatasetWriter` makes them; SFT files have no patients.

    Raises:
        RefusedData: a file can't be read or has no `extra_info` with `patient_id` and `split`.
    """
    leaks = []
    with Seen() as seen:
        for path in parquet_files:
            try:
                file = pq.ParquetFile(path)
                for batch in file.iter_batches(8192, columns=_COLUMNS):
                    columns = batch.to_pydict()
                    pairs = zip(columns["data_source"], columns["extra_info"], strict=True)
                    for data_source, patient, split in dict.fromkeys(
                        (source, info["patient_id"], info["split"]) for source, info in pairs
                    ):
                        leaks += _leaks(seen, str(data_source).partition("/")[0], str(patient), str(split), path)
            except (OSError, pa.ArrowException, KeyError, TypeError, UnicodeDecodeError) as error:
                raise RefusedData(
                    f"{path}: cannot read patients and splits ({type(error).__name__}: {error}); it needs data_source "
                    "and extra_info with patient_id and split, as python -m data_prep writes them"
                ) from error
    return leaks


def _leaks(seen: Seen, data_set: str, patient: str, split: str, path: Path) -> list[str]:
    here = f"{split} ({data_set}, {path})"
    before = seen.first("patient", digest(patient), f"{split}\n{here}")
    if before is None or before.partition("\n")[0] == split:
        return []
    if seen.first("leak", digest(patient, split), "") is not None:
        return []
    other = before.partition("\n")[2]
    hint = "" if f"({data_set}," in other else "; if these are two people, give the ids of one set a prefix"
    return [f"patient {patient} is in {other} and in {here}{hint}"]
