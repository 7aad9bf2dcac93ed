"""``gapjax sweep`` and the ramps beside it: one line and exit code 2 for what cannot be."""

import pytest

from gapjax import cli, study


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--batch-sizes 16 32 16", "each size once; 16 repeats"),
        ("--batch-sizes 16 16 32 32", "each size once; 16, 32 repeats"),
        ("--batch-sizes 16 0", "whole number of at least 1, not 0"),
        ("--batch-sizes 16 2.5", "batch-sizes"),
        (
            "--batch-sizes 16 2048",
            "a batch of 2048 is larger than the 1024 training examples that validation=0.2",
        ),
        ("--batch-sizes 16 1100", "1100 is larger than the 1024 training examples"),
        ("--target 0", "above 0 and below 1, not 0.0. It is an error, 1 - accuracy"),
        ("--target 90", "0.1 for an accuracy of 90%"),
        ("--target nan", "must be a finite number"),
        ("--target low", "--target takes a number or None, not 'low'"),
        ("--remedies none GBM", "Did you mean 'GBN'"),
        ("--remedies none none", "each once"),
        ("--remedies LR+RA", "does not go with a sweep"),
        ("--remedies LATE", "LATE"),
        ("--remedies GBN --ghost-size 24", "is not a multiple of ghost_size=24"),
        ("--rates 0", "rates must be a whole number of at least 1"),
        ("--rate-factor 0.5", "rate_factor must be a finite number above 1"),
        ("--limit 0", "limit must be a finite number of at least 1"),
        ("--watch test", "watch must be one of"),
        ("--regimes SB", "--regimes"),
        ("--schedule cosine", "--schedule"),
        ("--out=", "--out must name a folder"),
        ("--target 0.1 --target-of x", "--target-of"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(line, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", *line.split()]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1, captured.err
    assert not captured.out and not list(tmp_path.glob("runs/*/sizes/*"))


def test_a_target_of_a_loss_has_no_default(capsys):
    assert cli.main(["sweep", "pydoc-lm-small"]) == 2
    assert "a sweep needs a target, which for this task is of the loss" in capsys.readouterr().err


@pytest.mark.parametrize("name", study.PRESETS)
def test_the_sizes_that_are_not_named_fit_the_data(name):
    sizes = study.sweep_options(name)["batch_sizes"][1]
    preset = study.PRESETS[name]
    assert len(sizes) >= 3 and sizes[0] == preset.study.small_batch
    assert sizes[-1] <= 0.8 * (preset.study.train_examples or preset.num_examples)


def test_an_unknown_preset_is_suggested(capsys):
    assert cli.main(["sweep", "digit"]) == 2
    assert "Did you mean 'digits'" in capsys.readouterr().err


def test_help_tells_what_the_target_is_of(capsys):
    with pytest.raises(SystemExit):
        cli.main(["sweep", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "1 - the headline metric" in text and "--batch-sizes" in text
    assert "--decay-at" not in text
