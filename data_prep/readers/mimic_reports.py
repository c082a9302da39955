"""The reports of MIMIC-CXR from wherever the user has them, one at a time.

- `mimic-cxr-reports.zip` as it is downloaded, read without unpacking: `files/p10/p10000032/s50414267.txt`;
- the folder that it unpacks to, or the `files` in it (slower: 227,835 small files);
- `mimic_cxr_sectioned.csv` (`.gz`), which the official scripts make: study, impression, findings, last_paragraph,
  comparison. It leaves out the 54 studies of `sections.IRREGULAR`, so they are left out everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from data_prep.problems import Problems
from data_prep.readers import tables
from data_prep.readers.archives import FolderTexts, Unreadable, ZipTexts
from data_prep.readers.sections import IRREGULAR, Sections, line, parse
from reward_fns.errors import UsageError

_LARGEST = 1 << 20  # bytes; reports have about a thousand
_COLUMNS = ("study", "findings", "impression", "last_paragraph")
_IRREGULAR = "studies without regular sections, which the official rules leave out"

Found = Iterator[tuple[str, Sections]]


def reports(source: Path, wanted: Mapping[str, str], problems: Problems) -> Found:
    """Study id and sections of each wanted study whose report can be read, in the source's order for a CSV file.

    Args:
        source: archive, folder or CSV file, see above.
        wanted: study id -> subject id.
        problems: gets missing and unreadable reports.

    Raises:
        UsageError: if there is no such source, or it is none of the three.
        RefusedData: if it is damaged.
    """
    if source.is_dir():
        return _from_folder(source, wanted, problems)
    if not source.is_file():
        raise UsageError(
            f"--reports {source} is not there; give mimic-cxr-reports.zip, its folder or the sectioned csv"
        )
    if source.suffix == ".zip":
        return _from_zip(source, wanted, problems)
    if source.name.endswith((".csv", ".csv.gz")):
        return _from_table(source, wanted, problems)
    raise UsageError(f"--reports {source} is neither a folder nor a .zip, .csv or .csv.gz file")


def _from_folder(source: Path, wanted: Mapping[str, str], problems: Problems) -> Found:
    base = source if (source / "files").is_dir() else source.parent
    if source.name != "files" and base != source:
        raise UsageError(f"--reports {source} has no folder 'files' with p10 to p19 in it; give the folder that has it")
    problems.source(base / "files", "*/*/s*.txt")
    yield from _parsed(FolderTexts(base, _LARGEST), wanted, problems)


def _from_zip(source: Path, wanted: Mapping[str, str], problems: Problems) -> Found:
    with ZipTexts(source, problems, _LARGEST) as archive:
        yield from _parsed(archive, wanted, problems)


def _parsed(texts: FolderTexts | ZipTexts, wanted: Mapping[str, str], problems: Problems) -> Found:
    for study, subject in wanted.items():
        if study in IRREGULAR:
            problems.notes[_IRREGULAR] += 1
            continue
        name = f"files/p{subject[:2]}/p{subject}/s{study}.txt"
        try:
            content = texts.read(name)
            if content is None:
                problems.add("missing_report", name, "there is no such report; study not used")
            else:
                yield study, parse(content.decode().replace("\r\n", "\n"))
        except (Unreadable, UnicodeDecodeError) as error:
            problems.add("unreadable_report", name, f"{error}; study not used")


def _from_table(source: Path, wanted: Mapping[str, str], problems: Problems) -> Found:
    seen: set[str] = set()
    for named, findings, impression, last_paragraph in tables.rows(source, _COLUMNS, problems):
        study = named.removeprefix("s")
        if study not in wanted or study in IRREGULAR:
            continue
        if study in seen:
            problems.add("duplicate_id", f"{source.name}: {named}", "has a row already; this one is not used")
            continue
        seen.add(study)
        yield study, Sections(line(findings), line(impression), line(last_paragraph))
    if irregular := wanted.keys() & IRREGULAR:
        problems.notes[_IRREGULAR] += len(irregular)
    for study in sorted(wanted.keys() - seen - IRREGULAR):
        problems.add("missing_report", f"{source.name}: s{study}", "there is no such row; study not used")
