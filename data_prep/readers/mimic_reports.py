"""The reports of MIMIC-CXR from wherever the user has them, one at a time.

- `mimic-cxr-reports.zip` as it is downloaded, read without unpacking; packed anew, its names may begin otherwise than
  with `files/`, or have backslashes: a report is found by its last two parts, `p10000032/s50414267.txt`;
- the folder that it unpacks to, or the `files` in it (slower: 227,835 small files);
- `mimic_cxr_sectioned.csv` (`.gz`), which the official scripts make: study, impression, findings, last_paragraph,
  comparison. It leaves out the 54 studies of `sections.IRREGULAR`, so they are left out everywhere.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from data_prep.problems import Problems, RefusedData
from data_prep.readers import tables
from data_prep.readers.archives import FolderTexts, Unreadable, ZipTexts
from data_prep.readers.sections import IRREGULAR, Sections, line, parse
from reward_fns.errors import UsageError

_LARGEST = 1 << 20  # bytes; reports have about a thousand
_END = len("p10000032/s50414267.txt")
_COLUMNS = ("study", "findings", "impression", "last_paragraph")

Reports = Iterator[tuple[str, Sections, str]]


def is_table(source: Path) -> bool:
    """Whether the reports come from the section file: in its own order, and without indications."""
    return source.name.endswith((".csv", ".csv.gz"))


def reports(source: Path, wanted: Mapping[str, str], problems: Problems) -> Reports:
    """Study id, sections and whole text ("" in a CSV file) of each wanted study whose report can be read.

    They come in the order of `wanted`, which maps a study id to its subject id, or in that of a CSV file.

    Raises:
        UsageError: if the source is missing or of another kind.
        RefusedData: if it is damaged, or has not one of the wanted reports.
    """
    regular = {study: subject for study, subject in wanted.items() if study not in IRREGULAR}
    if len(regular) < len(wanted):
        note = "studies without regular sections, which the official rules leave out"
        problems.notes[note] += len(wanted) - len(regular)
    if source.is_dir():
        base = source if (source / "files").is_dir() else source.parent
        if source.name != "files" and base != source:
            raise UsageError(
                f"--reports {source} has no folder 'files' with p10 to p19 in it; give the folder that does"
            )
        problems.source(base / "files", "*/*/s*.txt")
        return _parsed(source, FolderTexts(base, _LARGEST).read, regular, problems)
    if not source.is_file():
        raise UsageError(f"--reports {source} is missing; give mimic-cxr-reports.zip, its folder or the sectioned csv")
    if source.suffix == ".zip":
        return _from_zip(source, regular, problems)
    if is_table(source):
        return _from_table(source, regular, problems)
    raise UsageError(f"--reports {source} is neither a folder nor a .zip, .csv or .csv.gz file")


def _from_zip(source: Path, wanted: Mapping[str, str], problems: Problems) -> Reports:
    with ZipTexts(source, problems, _LARGEST) as archive:
        names = {name[-_END:]: name for name in reversed(archive.names)}
        yield from _parsed(source, lambda name: archive.read(names.get(name[-_END:], name)), wanted, problems)


def _parsed(
    source: Path, read: Callable[[str], bytes | None], wanted: Mapping[str, str], problems: Problems
) -> Reports:
    missing = []
    for study, subject in wanted.items():
        name = f"files/p{subject[:2]}/p{subject}/s{study}.txt"
        try:
            content = read(name)
            if content is None:
                missing.append(name)
            else:
                text = content.decode("utf-8-sig").replace("\r\n", "\n")
                yield study, parse(text), text
        except (Unreadable, UnicodeDecodeError) as error:
            problems.add("unreadable_report", name, f"{error}; study not used")
    _list_missing(source, missing, len(wanted), problems)


def _from_table(source: Path, wanted: Mapping[str, str], problems: Problems) -> Reports:
    seen: set[str] = set()
    for name, findings, impression, last_paragraph in tables.rows(source, _COLUMNS, problems):
        study = name.removeprefix("s")
        if study not in wanted:
            continue
        if study in seen:
            problems.add("duplicate_id", f"{source.name}: {name}", "has a row already; this one is not used")
            continue
        seen.add(study)
        yield study, Sections(line(findings), line(impression), line(last_paragraph)), ""
    _list_missing(source, [f"s{study}" for study in sorted(wanted.keys() - seen)], len(wanted), problems)


def _list_missing(source: Path, missing: list[str], wanted: int, problems: Problems) -> None:
    if missing and len(missing) == wanted:
        raise RefusedData(
            f"--reports {source} has not one of the {wanted:,} reports, e.g. {missing[0]}; give MIMIC-CXR's"
        )
    for name in missing:
        problems.add("missing_report", name, f"not in {source}; study not used")
