"""The small finished study of the tests of studies, here too."""

from tests.study.conftest import finished, small

__all__ = ["finished", "small"]
