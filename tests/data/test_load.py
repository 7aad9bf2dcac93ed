import pytest

from gapjax.data import load


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"no data set named 'digit'.* Did you mean 'digits'\?"):
        load("digit")
