"""`bnretrofit finetune`: what it writes, how it goes on, and what it refuses."""

import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from bnretrofit import publishing
from bnretrofit.workflows import run_folder
from tests.commands import factories
from tests.commands.running import (
    EPOCHS,
    Outcome,
    draw_classes,
    environment,
    factory,
    header_of,
    run,
    save_state,
    tensors_of,
)


def finetune(bn: Path, labelled: Path, output: Path, *more: object) -> Outcome:
    data = ("-d", labelled / "train", "--val", labelled / "val", "-o", output)
    return run("finetune", bn, "--trust-code", *data, *EPOCHS, *more)


def test_a_run_s_folder_holds_what_people_expect(bn: Path, labelled: Path, tmp_path: Path) -> None:
    done = finetune(bn, labelled, tmp_path / "run")
    assert done.code == 0, done.err
    names = ["args.yaml", "best.safetensors", "last.safetensors", "plot.png", "state.safetensors", "summary.csv"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names
    with (tmp_path / "run" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert float(rows[-1]["val_loss"]) < float(rows[0]["val_loss"])
    header = header_of(tmp_path / "run" / "last.safetensors")
    assert (header["stage"], header["training"]["epoch"]) == ("finetuned", 3)
    assert header["training"]["statistics"] == "measured"
    with Image.open(tmp_path / "run" / "plot.png") as image:
        assert image.format == "PNG"
    assert done.out.splitlines()[0].startswith("model ")
    assert "Traceback" not in done.err


def test_the_best_weights_fold_into_the_stock_architecture(bn: Path, labelled: Path, tmp_path: Path) -> None:
    assert finetune(bn, labelled, tmp_path / "run").code == 0
    folded = tmp_path / "folded.safetensors"
    done = run("fold", tmp_path / "run", "--trust-code", "-d", labelled / "val", "-o", folded, "--json")
    assert done.code == 0, done.err
    model = factories.plain()
    model.load_state_dict(tensors_of(folded), strict=True)
    before, after = done.document["accuracy"]
    assert before == after


def killed(bn: Path, labelled: Path, output: Path, ready: int, *more: object) -> None:
    """A run that is ended by SIGKILL once so many epochs are in its table."""
    data = ("-d", labelled / "train", "--val", labelled / "val", "-o", output, "--save-steps", 1)
    command = [sys.executable, "-m", "cli", "finetune", bn, "--trust-code", *data, *EPOCHS, *more]
    with subprocess.Popen(
        list(map(str, command)), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        table = output / "summary.csv"
        while process.poll() is None:
            if table.is_file() and len(table.read_text().splitlines()) > ready:
                process.kill()
                break
            time.sleep(0.002)
    assert process.returncode == -signal.SIGKILL


def test_a_killed_run_that_is_resumed_writes_the_very_same_files(bn: Path, labelled: Path, tmp_path: Path) -> None:
    assert finetune(bn, labelled, tmp_path / "whole", "--save-steps", 1).code == 0
    killed(bn, labelled, tmp_path / "killed", 2)
    # Other workers decode: nothing depends on how many there are.
    again = finetune(bn, labelled, tmp_path / "killed", "--save-steps", 1, "--resume", "-j", 1)
    assert again.code == 0, again.err
    for name in ("best.safetensors", "last.safetensors", "summary.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_run_that_breaks_off_at_its_end_writes_the_very_same_files_afterwards(
    bn: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    break_at = 0

    def write(path: Path, *what: Any, **how: Any) -> None:
        written.append(path.name)
        if len(written) == break_at:
            raise KeyboardInterrupt
        publishing.write(path, *what, **how)

    monkeypatch.setattr(run_folder, "write", write)
    asked = ("--epochs", 2)
    assert finetune(bn, labelled, tmp_path / "whole", *asked).code == 0
    assert written[-3:] == ["state.safetensors", "last.safetensors", "best.safetensors"]
    whole = len(written)
    for write_number in range(whole - 2, whole + 1):
        break_at = write_number
        written.clear()
        broken = tmp_path / str(write_number)
        assert finetune(bn, labelled, broken, *asked).code == 130
        break_at = 0
        assert finetune(bn, labelled, broken, *asked, "--resume").code == 0
        for name in ("best.safetensors", "last.safetensors", "summary.csv"):
            assert (broken / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_resumed_run_may_be_done_already(bn: Path, labelled: Path, tmp_path: Path) -> None:
    assert finetune(bn, labelled, tmp_path / "run").code == 0
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    assert finetune(bn, labelled, tmp_path / "run", "--resume").code == 0
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before


def test_a_run_is_gone_on_with_the_same_settings_only(bn: Path, labelled: Path, tmp_path: Path) -> None:
    assert finetune(bn, labelled, tmp_path / "run").code == 0
    again = finetune(bn, labelled, tmp_path / "run")
    assert (again.code, "Pass --resume" in again.err) == (2, True)
    other = finetune(bn, labelled, tmp_path / "run", "--resume", "--lr", 0.1)
    assert (other.code, "config.lr was 0.05 and is 0.1" in other.err) == (2, True)


def test_what_is_not_there_is_not_gone_on_with(bn: Path, labelled: Path, tmp_path: Path) -> None:
    plain = save_state(tmp_path / "plain.pth", factories.plain())
    whole = ("run", plain, "-m", factory("plain"), "--trust-code", "-d", labelled / "train", "--epochs", 0)
    for done in (
        finetune(bn, labelled, tmp_path / "rum", "--resume"),
        run(*whole, "-o", tmp_path / "rum", "--resume"),
    ):
        assert (done.code, "leave out --resume" in done.error, str(tmp_path / "rum") in done.error) == (2, True, True)
        assert not (tmp_path / "rum").exists()
    # As a run leaves it that was killed before it had kept anything.
    (tmp_path / "begun").mkdir()
    assert finetune(bn, labelled, tmp_path / "begun", "--resume", "--epochs", 0).code == 0
    (tmp_path / "whole").mkdir()
    assert run(*whole, "-o", tmp_path / "whole", "--resume").code == 0


def test_a_run_s_state_is_no_checkpoint(bn: Path, labelled: Path, tmp_path: Path) -> None:
    assert finetune(bn, labelled, tmp_path / "run", "--epochs", 0).code == 0
    done = run("fold", tmp_path / "run" / "state.safetensors", "--trust-code", "-o", tmp_path / "new.safetensors")
    assert (done.code, "is the state of a run, not a checkpoint" in done.error) == (4, True)
    assert "best.safetensors" in done.error


def test_how_to_fold_it_is_told_as_a_shell_takes_it(bn: Path, labelled: Path, tmp_path: Path) -> None:
    done = finetune(bn, labelled, tmp_path / "my run", "--epochs", 0)
    (line,) = [line for line in done.out.splitlines() if line.startswith("to fold it")]
    _, *arguments = shlex.split(line.removeprefix("to fold it"))
    assert arguments == ["fold", str(tmp_path / "my run"), "--trust-code", "-o", "FOLDED.safetensors"]
    assert run(*arguments[:-1], tmp_path / "folded.safetensors").code == 0


def test_what_is_assumed_is_told_before_training(bn: Path, labelled: Path, tmp_path: Path) -> None:
    done = run("finetune", bn, "--trust-code", "-d", labelled / "train", "-o", tmp_path / "run", *EPOCHS, "--lr", 1e30)
    assert done.code == 6, done.err
    assert "there is nothing to validate with: the best weights are those of the last epoch" in done.notes


def test_what_is_told_while_it_goes_on_is_in_the_document_too(bn: Path, labelled: Path, tmp_path: Path) -> None:
    done = finetune(bn, labelled, tmp_path / "run", "-b", 7, "--json")
    assert done.code == 0, done.err
    assert done.document["notes"] == done.notes
    assert any("norms use the statistics of each batch" in text for text in done.notes)
    assert any("are left out" in text for text in done.notes)


def test_weights_of_a_run_that_has_not_ended_are_told(bn: Path, labelled: Path, tmp_path: Path) -> None:
    killed(bn, labelled, tmp_path / "run", 2)

    def told() -> list[str]:
        done = run("fold", tmp_path / "run", "--trust-code", "-o", tmp_path / "folded.safetensors", "--overwrite")
        assert done.code == 0, done.err
        return [text for text in done.notes if "had not ended" in text]

    assert len(told()) == 1
    assert finetune(bn, labelled, tmp_path / "run", "--save-steps", 1, "--resume").code == 0
    assert told() == []


def test_images_that_fill_no_step_are_told_once(bn: Path, labelled: Path, tmp_path: Path) -> None:
    def told(*more: object) -> list[str]:
        done = finetune(bn, labelled, tmp_path / str(len(more)), "--epochs", 2, *more)
        assert done.code == 0, done.err
        return [note for note in done.notes if "left out" in note]

    assert told() == []
    (note,) = told("-b", 7)
    assert note == "3 of the 24 images of each epoch, others each time, are left out: they do not fill a step of 7"
    (note,) = told("-b", 7, "--grad-accum-steps", 2)
    assert note == "10 of the 24 images of each epoch, others each time, are left out: they do not fill a step of 14"


def test_more_batches_to_a_step_than_images_are_enough_for_are_refused(
    bn: Path, labelled: Path, tmp_path: Path
) -> None:
    for more in (("--bn-stats", "batch"), ("--bn-stats", "frozen")):
        done = finetune(bn, labelled, tmp_path / "run", "--grad-accum-steps", 30, *more)
        assert done.code == 2
        assert "a step takes 30 batches of up to 8, and there are 24 images" in done.error
        assert "Lower --grad-accum-steps" in done.error


def test_ctrl_c_says_how_to_go_on(bn: Path, labelled: Path, tmp_path: Path) -> None:
    data = ("-d", labelled / "train", "--val", labelled / "val", "-o", tmp_path / "run")
    command = [sys.executable, "-m", "cli", "finetune", bn, "--trust-code", *data, *EPOCHS, "--epochs", 10000]
    with subprocess.Popen(
        list(map(str, command)), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (tmp_path / "run" / "summary.csv").is_file():
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.rstrip().endswith("--resume")
    assert "is whole; to go on: bnretrofit finetune" in err
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")) == []


def test_a_file_gives_options_and_flags_win(bn: Path, labelled: Path, tmp_path: Path) -> None:
    config = tmp_path / "options.yaml"
    config.write_text(yaml.safe_dump({"data": str(labelled / "train"), "epochs": 1, "lr": 0.5, "batch-size": 8}))
    done = run("finetune", bn, "--trust-code", "--config", config, "--lr", 0.05, "-o", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    assert len(done.document["history"]["epochs"]) == 2
    header = header_of(tmp_path / "run" / "last.safetensors")
    assert (header["training"]["config"]["lr"], header["training"]["config"]["epochs"]) == (0.05, 1)
    given = yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())
    assert (given["lr"], given["epochs"], given["batch-size"]) == (0.05, 1, 8)
    # What a run has written is such a file.
    assert "trust-code" not in given
    written = ("--config", tmp_path / "run" / "args.yaml")
    again = run("finetune", bn, "--trust-code", *written, "-o", tmp_path / "again", "--json")
    assert again.document["history"] == done.document["history"]
    config.write_text("no-such-option: 3\n")
    refused = run("finetune", bn, "-d", labelled / "train", "--config", config, "-o", tmp_path / "no")
    assert (refused.code, "no_such_option" in refused.err) == (2, True)


def test_a_new_head_for_other_classes_loads_into_the_stock_architecture(
    labelled: Path, tmp_path: Path, bn: Path
) -> None:
    draw_classes(tmp_path / "five", classes=5, each=4)
    refused = run("finetune", bn, "--trust-code", "-d", tmp_path / "five", "-o", tmp_path / "run", "--epochs", 1)
    assert (refused.code, "--num-classes 5" in refused.err) == (4, True)
    assert not (tmp_path / "run").exists()
    options = ("--num-classes", 5, "--epochs", 1, "-b", 4, "--val-split", 0.25, "--bn-stats", "frozen")
    done = run("finetune", bn, "--trust-code", "-d", tmp_path / "five", "-o", tmp_path / "run", *options)
    assert done.code == 0, done.err
    assert any("'8' is a new layer of 5 outputs" in text for text in done.notes)
    folded = tmp_path / "folded.safetensors"
    assert run("fold", tmp_path / "run", "--trust-code", "-o", folded).code == 0
    factories.plain(5).load_state_dict(tensors_of(folded), strict=True)


def test_what_is_refused_before_its_first_epoch_can_be_tried_again(bn: Path, labelled: Path, tmp_path: Path) -> None:
    refused = finetune(bn, labelled, tmp_path / "run", "--dropout", 0.1)
    assert (refused.code, "no dropout" in refused.err) == (2, True)
    assert not (tmp_path / "run").exists()
    plain = save_state(tmp_path / "plain.pth", factories.plain())
    named = ("run", plain, "-m", factory("plain"), "--trust-code", "-d", labelled / "train", "--epochs", 0)
    unknown = run(*named, "-o", tmp_path / "all", "--exclude", "nothing")
    assert unknown.code == 2
    assert not (tmp_path / "all").exists()
    # With other options, and without --resume.
    again = finetune(bn, labelled, tmp_path / "run", "--epochs", 1)
    assert again.code == 0, again.err
    assert run(*named, "-o", tmp_path / "all").code == 0


def test_a_folder_that_was_there_is_left_there(bn: Path, labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert finetune(bn, labelled, tmp_path / "run", "--dropout", 0.1).code == 2
    assert not any((tmp_path / "run").iterdir())


def test_a_run_that_diverges_ends_with_6_and_keeps_what_was_good(bn: Path, labelled: Path, tmp_path: Path) -> None:
    done = finetune(bn, labelled, tmp_path / "run", "--lr", 1e30, "--bn-stats", "frozen", "--warmup-steps", 0)
    assert done.code == 6, done.err
    assert "try another run with a lower --lr" in done.err.lower()
    assert (tmp_path / "run" / "args.yaml").is_file()
    tensors: dict[str, Tensor] = tensors_of(tmp_path / "run" / "best.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def test_a_run_s_folder_is_not_among_its_images(bn: Path, labelled: Path) -> None:
    done = finetune(bn, labelled, labelled / "train" / "run")
    assert (done.code, "among the images" in done.err) == (2, True)
    assert not (labelled / "train" / "run").exists()


def test_a_network_that_is_no_classifier_is_refused(labelled: Path, tmp_path: Path) -> None:
    save_state(tmp_path / "conv.pth", nn.Sequential(nn.Conv2d(3, 3, 3)))
    (tmp_path / "conv.py").write_text(
        "from torch import nn\ndef conv():\n    return nn.Sequential(nn.Conv2d(3, 3, 3))\n"
    )
    model = ("-m", f"{tmp_path / 'conv.py'}:conv", "--trust-code")
    done = run("finetune", tmp_path / "conv.pth", *model, "-d", labelled / "train", "-o", tmp_path / "run")
    assert (done.code, "does not give logits" in done.err) == (4, True)
    assert not (tmp_path / "run").exists()


def test_tensorboard_shows_each_epoch_once_also_of_a_run_gone_on_with(bn: Path, labelled: Path, tmp_path: Path) -> None:
    killed(bn, labelled, tmp_path / "run", 2, "--tensorboard")
    before = len(list((tmp_path / "run" / "tensorboard").iterdir()))
    refused = finetune(bn, labelled, tmp_path / "run", "--lr", 0.5, "--resume", "--tensorboard")
    # What is refused changes nothing of what was shown.
    assert (refused.code, len(list((tmp_path / "run" / "tensorboard").iterdir()))) == (2, before)
    again = finetune(bn, labelled, tmp_path / "run", "--save-steps", 1, "--resume", "--tensorboard")
    assert again.code == 0, again.err
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    with (tmp_path / "run" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    shown = [(event.step, event.value) for event in found.Scalars("val_loss")]
    assert shown == [(int(row["step"]), pytest.approx(float(row["val_loss"]))) for row in rows]
    assert "lr" in found.Tags()["scalars"]


def test_tensorboard_is_told_of_a_run_that_had_ended_without_it(bn: Path, labelled: Path, tmp_path: Path) -> None:
    assert finetune(bn, labelled, tmp_path / "run").code == 0
    assert finetune(bn, labelled, tmp_path / "run", "--resume", "--tensorboard").code == 0
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert len(found.Scalars("val_loss")) == 4


def test_a_rate_that_was_found_is_kept(bn: Path, labelled: Path, tmp_path: Path) -> None:
    begun = finetune(bn, labelled, tmp_path / "run", "--lr", "auto", "--epochs", 1)
    assert "found by a range test" in begun.out, begun.err
    rate = begun.out.split("learning rate")[1].split()[0].rstrip(",")
    again = finetune(bn, labelled, tmp_path / "run", "--lr", "auto", "--epochs", 1, "--resume")
    assert again.code == 0, again.err
    assert "range test" not in again.out
    assert f"the learning rate that it has found, {rate}" in again.err
    # A rate that was given is no rate that was found.
    other = finetune(bn, labelled, tmp_path / "run", "--lr", rate, "--epochs", 1, "--resume")
    assert other.code == 2
