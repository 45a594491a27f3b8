"""`--config`: what a file may say, what it may not, and what wins over it."""

from pathlib import Path

import pytest
import yaml

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
