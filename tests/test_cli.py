"""The command: what it prints, where it writes, and one line with exit code 2 for what is wrong."""

import re
import signal
import subprocess
import sys
import time

import pytest

from gapjax import cli, training


def run(capsys, *arguments):
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_study_prints_the_table_and_writes_the_report(capsys, tmp_path):
    out = tmp_path / "run"
    arguments = ["study", "--seeds", "2", "--epochs", "1", "--evaluations", "2", "--no-controls"]
    code, output, errors = run(capsys, *arguments, "--regimes", "SB", "LB", "--out", str(out))
    assert code == 0
    assert "At the learning rate of the rule" in output
    assert "held fixed" in output and f"Report: {out}/report.html" in output
    assert "train SB: 80 updates" in errors
    page = (out / "report.html").read_text()
    assert "gapjax study digits --seeds 2 --epochs 1" in page
    (out / "report.html").unlink()
    code, output, _ = run(capsys, "report", str(out))
    assert code == 0 and (out / "report.html").read_text() == page
    (out / "report.html").unlink()
    (out / "report.html").mkdir()
    code, _, errors = run(capsys, "report", str(out))
    assert code == 2 and errors == f"gapjax: {out}/report.html: Is a directory.\n"
    (out / "regimes" / "LB.json").write_text("{}")
    code, _, errors = run(capsys, "report", str(out))
    assert code == 2 and "LB.json: it is not what a study writes" in errors


@pytest.mark.slow
def test_a_tuned_study_prints_both_tables(capsys, tmp_path):
    arguments = ["study", "--seeds", "2", "--epochs", "1", "--evaluations", "2", "--tune", "2"]
    code, output, _ = run(
        capsys, *arguments, "--regimes", "SB", "LB", "--out", str(tmp_path / "run")
    )
    assert code == 0
    assert "At the learning rate tuned on the validation split" in output
    assert "Beside it, at the learning rate of the rule" in output


def test_help_shows_every_field_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["study", "--help"])
    assert not stop.value.code
    text = " ".join(re.sub("[│|]", " ", capsys.readouterr().out).split())  # it wraps in a box
    from gapjax.study import Study

    for field in vars(Study()):
        option = field.replace("_", "-")
        assert f"--{option}" in text or f"--no-{option}" in text
    assert "(default: 0.05)" in text


def test_presets_and_version(capsys):
    code, output, _ = run(capsys, "presets")
    assert code == 0 and output.startswith("digits")
    code, some, _ = run(capsys, "presets", "keskar-f2-mnist", "digits")
    assert code == 0 and [line for line in some.split("\n") if line.strip() and line[0] != " "] == [
        "keskar-f2-mnist",
        "digits",
    ]
    assert all(line in output for line in some.splitlines())
    code, output, _ = run(capsys, "remedies")
    assert code == 0 and all(name in output for name in ("GROW", "GBN", "SAM", "arXiv"))
    assert run(capsys, "--version")[1].strip()
    assert "gapjax study [PRESET]" in run(capsys)[1]


@pytest.mark.parametrize("line", ["report --help", "presets -h", "remedies --help"])
def test_small_commands_have_help_too(line, capsys):
    code, output, errors = run(capsys, *line.split())
    assert code == 0 and output.startswith(f"gapjax {line.split()[0]}") and not errors


@pytest.mark.parametrize("line", ["data import --help", "data import text --help"])
def test_import_has_help_without_a_name(line, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(line.split())
    assert not stop.value.code and "--data-dir" in capsys.readouterr().out


def test_text_is_imported_and_what_is_left_out_is_said(capsys, tmp_path):
    (tmp_path / "texts").mkdir()
    for part in "abcdefghijklmnopqrst":
        (tmp_path / "texts" / f"{part}.txt").write_text(part * 300)
    (tmp_path / "texts" / ".hidden").write_text("no")
    line = f"data import text letters --from {tmp_path}/texts --data-dir {tmp_path}/tfds"
    code, output, _ = run(capsys, *line.split(), "--sequence-length", "16")
    assert code == 0 and output.startswith(f"{tmp_path}/tfds/letters")
    from gapjax import data

    dataset = data.load("letters", data_dir=tmp_path / "tfds")
    assert dataset.num_classes == 256 and dataset.train["tokens"].shape[1] == 17


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("studdy", "Did you mean 'study'?"),
        ("study digit", "Did you mean 'digits'"),
        ("study --dataset digitz", "Did you mean 'digits'"),
        (
            "study --seeds 0",
            "seeds must be a whole number of at least 1 and at most 100000, not 0.",
        ),
        ("study --seeds x", "--seeds takes a whole number, not 'x'. See gapjax study --help."),
        ("study --epochs x", "--epochs takes a number, not 'x'"),
        ("study --decay-at x", "--decay-at takes numbers, not 'x'"),
        ("study --first-seed 4294967290", "first_seed must be at most 4294967288 for 8 seeds"),
        ("study --seed 3", "Did you mean --first-seed?"),
        ("study --epochs", "Missing value for argument '"),
        ("study --learning-rate -1", "learning_rate must be a finite number of at least 1e-30"),
        ("study --large-batch 2000", "a batch of 2000 is larger than the 1280 training examples"),
        ("study --tune 2 --validation 0.999", "validation=0.999 of the training set"),
        ("study --ghost-size 7", "use 4 or 5 or 8"),
        ("study --ghost-size 1", "Use a ghost_size of at least 2"),
        ("study --batch-devices 0", "batch_devices must be a whole number of at least 1, not 0"),
        ("study --batch-devices 3", "a batch of 16 does not split evenly over batch_devices=3"),
        ("study --batch-devices 16", "more than the 8 there are: use at most 8"),
        ("study --regimes LBB", "Did you mean 'LB'"),
        ("study --regimes SB LB+SAMM", "Did you mean 'SAM'"),
        ("study --regimes SB lb", "Did you mean 'LB'"),
        ("study --regimes SB LB+LR+LINEAR", "LINEAR"),
        ("study --regimes SB LB 1290", "1290"),
        ("study --baseline SB SB", "baseline must be the names of two regimes"),
        ("study --task regresion", "Did you mean 'regression'"),
        ("study --model nowhere.net:Net", "nowhere"),
        ("study --optimizer adamm", "Did you mean 'adam'"),
        ("study --optimizer adam --weight-decay 0.1", "Use adamw"),
        ("study --schedule cosin", "Did you mean 'cosine'"),
        ("study --augment flipp", "Did you mean 'flip'"),
        ("study --augment flip:2", "only pad-crop takes a number"),
        ("study --out=", "--out must name a folder"),
        ("study --out /proc/nowhere", "cannot write to /proc/nowhere"),
        ("report", "takes the folder of a study"),
        ("report /nowhere", "is /nowhere the folder of a study?"),
        ("report /dev/null", "is /dev/null the folder of a study?"),
        ("figures", "gapjax figures takes the folder of a study"),
        ("figures /nowhere", "is /nowhere the folder of a study?"),
        ("table --format latex", "gapjax table takes the folder of a study"),
        ("table /nowhere --format latex", "is /nowhere the folder of a study?"),
        ("cite", "gapjax cite takes the folder of a study"),
        ("cite /dev/null", "is /dev/null the folder of a study?"),
        ("presets now", "preset must be one of"),
        ("presets digits now", "not 'now'"),
        ("presets --json", "takes names of presets and no option, not '--json'"),
        ("remedies now", "takes no arguments"),
        ("data", "has one command, import"),
        ("data import", "has one command, import"),
        ("data import mnist", "--from"),
        ("data import mnist --from /nowhere", "/nowhere"),
        ("data import mnist --frm x", "Unrecognized options: --frm x"),
        ("data import text", "takes a name of your own"),
        ("data import text x --from /nowhere", "nothing at /nowhere"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(line, message, capsys):
    code, output, errors = run(capsys, *line.split())
    assert code == 2
    assert output == ""
    assert errors.count("\n") == 1 and errors.startswith("gapjax: ")
    assert message in errors


@pytest.mark.parametrize("line", ["study --help", "presets"])
def test_a_reader_that_has_had_enough_is_no_mistake(line):
    command = [sys.executable, "-m", "gapjax.cli", *line.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert errors == b"" and process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_swallowed_comes_again(number):
    class Collected:
        """What it raises when it is deleted Python swallows, as in callbacks of its collector."""

        def __del__(self):
            signal.raise_signal(number)

    def leave():
        raise SystemExit

    def work():
        thing = Collected()
        del thing
        time.sleep(30)

    # Python takes SIGINT for ignored where a shell started it in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        raised = pytest.raises((KeyboardInterrupt, SystemExit))
        with training.on_sigterm(leave), training.resending_signals(), raised:
            work()
    finally:
        signal.signal(signal.SIGINT, before)
