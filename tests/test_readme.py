"""What the README shows is run here, or by .ci/run."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).parent.parent / "README.md"


def _blocks():
    return re.findall(r"<!-- test: (\w+) -->\n```python\n(.*?)```", README.read_text(), flags=re.S)


@pytest.mark.parametrize(("name", "code"), _blocks(), ids=[name for name, _ in _blocks()])
def test_snippet_runs(name, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"README: {name}", "exec"), {})


def test_bringing_your_own_takes_under_20_lines():
    (code,) = [code for name, code in _blocks() if name == "own"]
    assert len(code.splitlines()) < 20


def test_commands_for_the_newcomer_are_marked():
    text = README.read_text()
    for name in ("study", "test"):
        assert re.search(rf"<!-- command: {name} -->\n```sh\n[^\n]+\n```\n<!-- end -->", text)
