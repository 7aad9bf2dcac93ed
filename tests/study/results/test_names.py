import pathlib

from hypothesis import given
from hypothesis import strategies as st

from gapjax.study._results._names import file_name


@given(st.text(min_size=1, max_size=300))
def test_every_name_is_one_file_in_its_folder(name):
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    made = file_name(name)
    path = pathlib.PurePosixPath("folder") / f"{made}.json"
    assert path.parent == pathlib.PurePosixPath("folder") and path.suffix == ".json"
    assert len(path.name.encode()) < 200 and not made.startswith(".") and made.isascii()


@given(st.lists(st.text(min_size=1, max_size=150), unique=True, max_size=20))
def test_other_names_are_other_files(names):
    names = [n for n in names if n.isprintable()]
    assert len({file_name(name) for name in names}) == len(names)


def test_usual_names_stay_readable():
    assert file_name("LB+LR+GBN+RA") == "LB+LR+GBN+RA"
    assert file_name("SB") != file_name("SB.unfinished")
