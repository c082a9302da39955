import argparse

import pytest

from data_prep.options import positive, probability, shares


def test_good_values():
    assert positive("3") == 3 and probability("0.25") == 0.25 and shares("0.8,0.1,0.1") == (0.8, 0.1, 0.1)


@pytest.mark.parametrize(
    ("kind", "text"),
    [(positive, "0"), (probability, "nan"), (probability, "-0.1"), (shares, "0.5,0.5"), (shares, "0.5,0.5,0.5")],
)
def test_bad_values(kind, text):
    with pytest.raises(argparse.ArgumentTypeError):
        kind(text)
