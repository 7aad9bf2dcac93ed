import hypothesis
import hypothesis.strategies as st
import numpy as np

from data import files
from gapjax.data._crc32c import crc32c


def test_published_values():
    # RFC 3720, B.4, and the check value of the catalogue of CRCs
    messages = [bytes(32), b"\xff" * 32, bytes(range(32)), bytes(range(31, -1, -1)), b"123456789"]
    wanted = [0x8A9136AA, 0x62A8AB43, 0x46DD794E, 0x113FDB5C, 0xE3069283]
    assert crc32c(messages).tolist() == wanted


@hypothesis.given(st.lists(st.binary(max_size=1100), max_size=6))
@hypothesis.settings(max_examples=60, deadline=None)
def test_messages_of_any_length_side_by_side(messages):
    assert crc32c(messages).tolist() == [files.crc32c(message) for message in messages]


def test_many_segments():
    rng = np.random.default_rng(0)
    messages = [rng.bytes(n) for n in (255, 256, 257, 70_000, 0, 3, 131_072)]
    assert crc32c(messages).tolist() == [files.crc32c(message) for message in messages]
