"""One name for each patient, whichever set shows the film: two names would hide that two splits share the patient.

The authority is each set's own loader; sets that reuse its films ask here. Chest ImaGenome and MS-CXR name patients as
MIMIC-CXR, CheXpert Plus as CheXpert.
"""

import re
from pathlib import Path, PurePosixPath

from data_prep.problems import Problems
from data_prep.readers import tables

_FOLDER = re.compile(r"(?:^|/)(p\d{8}|patient\d{5,})(?=/)")


def mimic_patient(subject: str) -> str:
    """The name of the patient's folder in MIMIC-CXR, p10000032 of subject_id 10000032."""
    return f"p{subject}"


def openi_patient(uid: str) -> str:
    """CXR3030 of uid 3030: OpenI does not name patients, so each study counts as one."""
    return f"CXR{uid}"


def film_patient(image: str) -> str:
    """The film's name without suffix: in sets that do not name patients, such as VinDr-CXR, each film counts as one."""
    return PurePosixPath(image).stem


def patient_in_path(path: str) -> str | None:
    """The patient of a film of MIMIC-CXR or CheXpert, from the folders of its path; None for films of other sets.

    >>> patient_in_path("CheXpert/train/patient00007/study1/view1_frontal.jpg")
    'patient00007'
    """
    match = _FOLDER.search(path)
    return match[1] if match else None


def padchest_patients(master_table: Path, problems: Problems) -> dict[str, str]:
    """Film name, without its suffix -> PatientID, from PadChest-GR's master_table.csv; errors as `tables.rows`."""
    rows = tables.rows(master_table, ("ImageID", "PatientID"), problems)
    return {film_patient(image): patient for image, patient in rows if patient}
