"""What the README shows is run here, or by .ci/run."""

import json
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


def test_results_that_are_told_are_those_that_are_kept():
    text = " ".join(README.read_text().split())
    digits, f2, f1 = (
        json.loads((README.parent / f"benchmarks/results/papers/{name}.json").read_text())
        for name in ("digits", "keskar-f2-mnist", "hoffer-f1-mnist-small")
    )
    assert digits["finding"] in text
    for name, one in digits["regimes"].items():
        accuracy, closed = one["test_accuracy"], one["gap_closed"]
        row = f"| {name} | {100 * accuracy['mean']:.2f} ± {100 * accuracy['std']:.2f} |"
        if closed["mean"] is not None:
            row += " {mean:.0f} [{low:.0f}, {high:.0f}] |".format(
                **{end: 100 * closed[end] for end in ("mean", "low", "high")}
            )
        assert row in text
    at_end = f2["landscape"]["ratios"]["keskar_0.001"]
    at_a_loss = f2["landscape"]["levels"][-1]
    told = [
        "{mean:.2f} [{low:.2f}, {high:.2f}] points worse".format(
            **{end: 100 * f2["gap"][end] for end in ("mean", "low", "high")}
        ),
        "{mean:.0f} [{low:.0f}, {high:.0f}] times as sharp".format(**at_end),
        f"first reach a training loss of {at_a_loss['loss']:g} still",
        "{mean:.0f} [{low:.0f}, {high:.0f}] times.".format(**at_a_loss["ratios"]["keskar_0.001"]),
        f"{f2['settings']['epochs']:g} epochs, {f2['settings']['seeds']} seeds",
    ]
    assert [one for one in told if one not in text] == []
    adapted, control = (
        next(
            one["difference"]
            for one in f1["comparisons"]
            if (one["regime"], one["baseline"]) == ("LB+LR+GBN+RA", baseline)
        )
        for baseline in ("SB", "SB+LONG")
    )
    up = [f"{100 * adapted[end]:.2f}" for end in ("mean", "low", "high")]
    down = [f"{-100 * control[end]:.2f}" for end in ("mean", "high", "low")]
    assert "ends {} [{}, {}] points above batch 32".format(*up) in text
    assert "{} [{}, {}] points below batch 32 that sees as many examples".format(*down) in text
    assert f"F1 on 4,096 of its images, {f1['settings']['seeds']} seeds" in text
    small, large = (f2["regimes"][name]["distance"]["mean"] for name in ("SB", "LB"))
    assert "a sixth of the way" in text and round(small / large) == 6


def test_commands_for_the_newcomer_are_marked():
    text = README.read_text()
    for name in ("study", "test"):
        assert re.search(rf"<!-- command: {name} -->\n```sh\n[^\n]+\n```\n<!-- end -->", text)
