"""`--config`: what a file may say, what it may not, and what wins over it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bnretrofit.errors import UsageError
from bnretrofit.workflows.training_choices import RunChoice
from tests.commands.running import Outcome, header_of, run

SHORT = ("-b", 8, "--device", "cpu", "--bn-stats", "batch")


def finetune(bn: Path, labelled: Path, output: Path, *more: object) -> Outcome:
    return run("finetune", bn, "-d", labelled / "train", "-o", output, *SHORT, *more)


def written(folder: Path, text: str, name: str = "options.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("text", ["trust-code: true", "trust_code: yes", "trust-code: 'true'", "trust-code: 1"])
def test_a_file_cannot_permit_code_to_run(text: str, bn: Path, labelled: Path, tmp_path: Path) -> None:
    config = written(tmp_path, f"epochs: 0\n{text}\n")
    for more in ((), ("--trust-code",)):
        done = finetune(bn, labelled, tmp_path / "run", "--config", config, *more)
        assert (done.code, "pass --trust-code yourself" in done.error, str(config) in done.error) == (2, True, True)
    assert not (tmp_path / "run").exists()


def test_a_file_that_permits_nothing_is_harmless(bn: Path, labelled: Path, tmp_path: Path) -> None:
    config = written(tmp_path, "trust-code: false\nepochs: 0\n")
    done = finetune(bn, labelled, tmp_path / "run", "--config", config)
    assert (done.code, "pass --trust-code" in done.error) == (2, True)
    assert finetune(bn, labelled, tmp_path / "run", "--config", config, "--trust-code").code == 0
    assert "trust-code" not in yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())


def test_two_files_are_refused(bn: Path, labelled: Path, tmp_path: Path) -> None:
    first, second = written(tmp_path, "epochs: 0", "a.yaml"), written(tmp_path, "lr: 1", "b.yaml")
    done = finetune(bn, labelled, tmp_path / "run", "--trust-code", "--config", first, "--config", second)
    assert done.code == 2
    assert f"--config {first} and --config {second} exclude each other" in done.error


@pytest.mark.parametrize(
    "text",
    ["lr: fast", "epochs: 2.5", "epochs: yes", "mean: [a, b, c]", "train: on", "channels-last: 3", "lr: [1, 2]"],
)
def test_a_value_of_the_wrong_kind_is_told_with_its_file(text: str, bn: Path, labelled: Path, tmp_path: Path) -> None:
    config = written(tmp_path, text)
    done = finetune(bn, labelled, tmp_path / "run", "--trust-code", "--config", config)
    assert done.code == 2
    assert f"--config {config}, {text.partition(':')[0]}: " in done.error


@pytest.mark.parametrize(("in_file", "flag"), [({"epochs": 3}, ("--steps", 2)), ({"steps": 4}, ("--epochs", 1))])
def test_of_epochs_and_steps_a_flag_wins_over_a_file(
    in_file: dict[str, int], flag: tuple[str, int], bn: Path, labelled: Path, tmp_path: Path
) -> None:
    config = written(tmp_path, yaml.safe_dump(in_file))
    done = finetune(bn, labelled, tmp_path / "run", "--trust-code", "--config", config, *flag)
    assert done.code == 0, done.err
    found = header_of(tmp_path / "run" / "last.safetensors")["training"]
    # 24 images in batches of 8: three steps an epoch.
    assert (found["step"], found["config"]["steps"]) == ((2, 2) if flag[0] == "--steps" else (3, None))
    given = yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())
    assert {name: given[name] for name in ("epochs", "steps") if name in given} == {flag[0][2:]: flag[1]}
    args = ("--config", tmp_path / "run" / "args.yaml", "-o", tmp_path / "again", "--json")
    again = run("finetune", bn, "--trust-code", *args)
    assert again.document["history"]["epochs"][-1]["step"] == found["step"]


def test_epochs_and_steps_exclude_each_other(bn: Path, labelled: Path, tmp_path: Path) -> None:
    config = written(tmp_path, "epochs: 3\nsteps: 5\n")
    for both in (("--epochs", 3, "--steps", 5), ("--steps", 5, "--epochs", 3), ("--config", config)):
        done = finetune(bn, labelled, tmp_path / "run", "--trust-code", *both)
        assert (done.code, "epochs" in done.error, "steps" in done.error) == (2, True, True)
        # It is the file that is to be mended.
        assert done.error.startswith(f"--config {config}: ") is ("--config" in both)
    assert finetune(bn, labelled, tmp_path / "run", "--trust-code", "--config", config, "--steps", 1).code == 0


@pytest.mark.parametrize("rate", ["AUTO", "Auto"])
def test_a_rate_to_be_found_may_be_written_large(rate: str, bn: Path, labelled: Path, tmp_path: Path) -> None:
    done = finetune(bn, labelled, tmp_path / "run", "--trust-code", "--steps", 1, "--lr", rate)
    assert "found by a range test" in done.out, done.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: 3\nlr: 0.01\nepochs: 5\n", "says more than once: epochs"),
        ("batch-size: 8\nbatch_size: 12\n", "says more than once: batch-size"),
        ("data: a\nroot: b\n", "says more than once: data"),
        ("lr:\nepochs: 1\n", "gives no value to: lr"),
        ("a:\t- b\n\t: c", "cannot start any token"),
        ("- epochs\n", "holds no options"),
        ("", "holds no options"),
    ],
)
def test_what_a_file_cannot_mean_is_refused(text: str, said: str, bn: Path, labelled: Path, tmp_path: Path) -> None:
    config = written(tmp_path, text)
    done = finetune(bn, labelled, tmp_path / "run", "--trust-code", "--config", config)
    assert (done.code, said in done.error, str(config) in done.error) == (2, True, True), done.error


def options_of(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> dict[str, Any]:
    """What a run's args.yaml would hold."""
    found: list[RunChoice] = []

    def stop(*given: Any, **_: Any) -> None:
        found.append(given[4])
        raise UsageError("seen enough")

    monkeypatch.setattr("bnretrofit.workflows.finetuning.finetune_checkpoint", stop)
    assert run("finetune", *arguments).code == 2
    return dict(found[0].options or {})


def test_names_of_data_sets_and_splits_stay_names_whatever_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("test", "hfds/mnist", "files"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    named = options_of(monkeypatch, "-d", "hfds/mnist", "--val", "test", "--data-dir", "files", "-o", "run")
    assert named == {"data": "hfds/mnist", "val": "test", "data-dir": str(tmp_path / "files")}
    folders = options_of(monkeypatch, "-d", "./hfds/mnist", "--val", "test", "-o", "run")
    assert folders == {"data": str(tmp_path / "hfds" / "mnist"), "val": str(tmp_path / "test")}


def test_what_is_said_and_is_the_default_is_no_option_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("-d", str(tmp_path), "-o", "run", "--seed", 0, "--epochs", 10, "--momentum", 0.9, "--lr", 0.02)
    assert options_of(monkeypatch, *given) == {"data": str(tmp_path), "lr": 0.02}


def test_what_accelerate_launch_was_given_counts_where_nothing_else_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("-d", str(tmp_path), "-o", "run")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    launched = options_of(monkeypatch, *given)
    assert (launched["amp"], launched["grad-accum-steps"]) == ("bf16", 4)
    said = options_of(monkeypatch, *given, "--amp", "no", "--grad-accum-steps", 2)
    assert (said.get("amp", "no"), said["grad-accum-steps"]) == ("no", 2)
    config = written(tmp_path, "amp: fp16\n")
    assert options_of(monkeypatch, *given, "--config", config)["amp"] == "fp16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    refused = run("finetune", *given)
    assert (refused.code, "ACCELERATE_MIXED_PRECISION, from accelerate launch" in refused.error) == (2, True)
