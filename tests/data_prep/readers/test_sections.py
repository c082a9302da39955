import pytest

from data_prep.readers.sections import IRREGULAR, Sections, choose, parse


def report(*sections):
    return f"{'':33}FINAL REPORT\n" + "".join(sections)


def test_wrapped_lines_and_paragraphs_are_joined_with_a_space():
    text = report(
        " FINDINGS: \n \n There is a small\n effusion.\n \n No nodule.\n \n", " IMPRESSION: \n \n Effusion.\n"
    )
    assert parse(text) == Sections("There is a small effusion. No nodule.", "Effusion.", "")


@pytest.mark.parametrize(
    "header",
    [
        *(
            "FINDINGS",
            "FINDING",
            "FINIDNGS",
            "FINDNGS",
            "REFERENCE FINDINGS",
            "  FINDINGS ",
            "CHEST",
            "CHEST, TWO VIEWS",
        ),
        *("PORTABLE AP CHEST", "PA AND LAT", "AP AND LATERAL", "BONE WINDOW", "LEFT RIBS"),
    ],
)
def test_headers_of_findings(header):
    assert parse(report(f" {header}:  Clear.\n")).findings == "Clear."


@pytest.mark.parametrize(
    "header",
    [
        "IMPRESSION",
        "CONCLUSION",
        "IMPRESSON",
        "MPRESSION",
        "NDICATION",
        "FINDINGS/IMPRESSION",
        "FINDINGS AND IMPRESSION",
    ],
)
def test_headers_of_the_impression(header):
    assert parse(report(f" {header}:  Clear.\n")) == Sections(impression="Clear.")


@pytest.mark.parametrize(
    "header", ["HISTORY", "CHEST HISTORY", "COMPARISON TO CHEST", "INDICATION", "TECHNIQUE", "PFI"]
)
def test_headers_of_other_things(header):
    assert parse(report(f" {header}:  Clear.\n")) == Sections()


@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS: Clear.\n",  # the first line is no header
        "x\nFINDINGS: Clear.\n",  # no space before it
        "x\n Findings: Clear.\n",  # not in capitals
        "x\n FINDINGS:Clear.\n",  # no white space after the colon
        "x\n FINDINGS 2: Clear.\n",
    ],
)
def test_what_is_no_header(text):
    assert parse(text).findings == ""


def test_of_several_sections_the_last_that_is_not_blank_counts():
    assert parse(report(" FINDINGS:  Old.\n", " FINDINGS:  New.\n", " FINDINGS:  \n")).findings == "New."
    # A title in the form of a header, then the section proper.
    text = report(" CHEST, PA AND LATERAL:\n \n", " INDICATION:  Cough.\n", " FINDINGS:  Clear.\n")
    assert parse(text) == Sections("Clear.")


def test_the_line_after_a_bare_header_is_its_text():
    assert parse(report(" COMPARISON:\n FINDINGS: none before.\n")) == Sections()


def test_without_the_two_sections_the_last_paragraph_is_what_follows_the_first():
    assert parse(report(" HISTORY:  Fever.\n \n One.\n \n Two\n lines.\n")) == Sections(
        last_paragraph="One. Two lines."
    )
    assert parse("No header.\n \n Clear.\n") == Sections(last_paragraph="Clear.")
    assert parse("No header and one paragraph.\n") == Sections()
    assert parse("") == Sections()


def test_choosing_never_mixes_sections():
    both, one, none = Sections("F.", "I."), Sections("", "I."), Sections(last_paragraph="L.")
    assert choose(both, "findings") == ("findings", "F.") and choose(both, "impression") == ("impression", "I.")
    assert choose(both, "both") == ("report", "Findings: F. Impression: I.")
    assert choose(one, "findings") is None and choose(one, "both") is None
    assert [choose(some, "fallback") for some in (both, one, none)] == [
        ("findings", "F."),
        ("impression", "I."),
        ("report", "L."),
    ]
    assert choose(none, "impression") is None and choose(Sections(), "fallback") is None


def test_irregular_studies():
    assert len(IRREGULAR) == 54 and all(len(study) == 8 and study.isdigit() for study in IRREGULAR)
