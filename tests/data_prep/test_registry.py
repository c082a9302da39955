import pytest

from data_prep.registry import data_set, data_sets


def test_every_set_of_the_package_is_found():
    assert {"demo", "coco"} <= set(data_sets())
    assert all(known.summary and f"data_prep {name}" in known.example for name, known in data_sets().items())


def test_a_name_can_be_taken_once():
    with pytest.raises(ValueError, match="demo"):
        data_set("demo", summary="again", example="", arguments=lambda parser: None)(lambda options, problems: [])
