"""What `bnretrofit run` could not bring to its end it refuses before it begins, and leaves its folder as it was."""

import shlex
from pathlib import Path

import pytest
import torch

from bnretrofit.errors import UsageError
from tests.commands import factories
from tests.commands.running import EPOCHS, Outcome, draw_classes, equal, factory, header_of, run, save_state, tensors_of

SHORT = (*EPOCHS[2:], "--epochs", 1)


def begun(name: str, labelled: Path, folder: Path, *more: object) -> Outcome:
    """Begin a run of a factory's network."""
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    plain = folder / f"{name}.pth"
    if not plain.is_file():
        save_state(plain, getattr(factories, name)())
    data = ("-d", labelled / "train", "--val", labelled / "val", "-o", folder / "run")
    return run("run", plain, "-m", factory(name), "--trust-code", *data, *SHORT, *more)


def is_empty(folder: Path) -> bool:
    return not (folder / "run").exists()


def test_a_layer_without_bias_is_refused_before_training_and_can_be_left_out(labelled: Path, tmp_path: Path) -> None:
    refused = begun("bias_free", labelled, tmp_path)
    assert refused.code == 2, refused.err
    assert "'3' has no bias" in refused.err
    assert "--exclude '3'" in refused.err
    assert "epoch" not in refused.err
    assert is_empty(tmp_path)
    other = begun("half_bias_free", labelled, tmp_path)
    assert (other.code, "--exclude '0'" in other.err, "--exclude '2'" in other.err) == (2, True, False), other.err
    done = begun("half_bias_free", labelled, tmp_path, "--exclude", "0")
    assert done.code == 0, done.err
    factories.half_bias_free().load_state_dict(tensors_of(tmp_path / "run" / "folded.safetensors"), strict=True)


def test_norms_that_stay_the_identity_are_folded_whatever_layer_they_stand_behind(
    labelled: Path, tmp_path: Path
) -> None:
    done = begun("bias_free", labelled, tmp_path, "--train", "head", "--bn-stats", "auto")
    assert done.code == 0, done.err
    other = begun("half_bias_free", labelled, tmp_path / "other", "--epochs", 0)
    assert other.code == 0, other.err


def test_what_refuses_is_the_layer_that_would_change_and_the_remedy_works(labelled: Path, tmp_path: Path) -> None:
    # Behind its activation, the norm of layer 0 goes forward into layer 2.
    refused = begun("bias_behind", labelled, tmp_path, "--placement", "post")
    assert "0: the norm" in refused.err
    assert "'2' has no bias" in refused.err
    assert "--placement pre" not in refused.err
    assert begun("bias_behind", labelled, tmp_path, "--placement", "post", "--exclude", "0").code == 0


def test_every_layer_to_leave_out_is_named(labelled: Path, tmp_path: Path) -> None:
    refused = begun("many_bias_free", labelled, tmp_path)
    assert refused.code == 2, refused.err
    options = shlex.split(refused.err.partition("Pass ")[2].partition(", or use")[0])
    assert len(options) == 2 * 10
    assert begun("many_bias_free", labelled, tmp_path, *options).code == 0


def test_patience_without_validation_is_refused_before_the_first_step(labelled: Path, tmp_path: Path) -> None:
    plain = save_state(tmp_path / "plain.pth", factories.plain())
    data = ("-d", labelled / "train", "-o", tmp_path / "run", *SHORT, "--patience", 2)
    refused = run("run", plain, "-m", factory("plain"), "--trust-code", *data)
    assert (refused.code, "patience" in refused.err, "step 1" in refused.err) == (2, True, False), refused.err
    assert is_empty(tmp_path)


def test_before_training_has_begun_its_options_may_be_others(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UsageError("as if no rate were found")

    with monkeypatch.context() as patched:
        patched.setattr("bnretrofit.workflows.running.finetune_checkpoint", refuse)
        assert begun("plain", labelled, tmp_path, "--lr", "auto").code == 2
    assert (tmp_path / "run" / "retrofitted.safetensors").is_file()
    other = begun("plain", labelled, tmp_path, "--resume", "--exclude", "0")
    assert (other.code, "exclude was" in other.err) == (2, True), other.err
    done = begun("plain", labelled, tmp_path, "--resume", "--momentum", 0.5)
    assert done.code == 0, done.err
    changed = begun("plain", labelled, tmp_path, "--resume", "--momentum", 0.8)
    assert (changed.code, "momentum was 0.5 and is 0.8" in changed.err) == (2, True), changed.err


def test_a_part_of_a_network_with_norms_goes_through_all_of_it(labelled: Path, tmp_path: Path) -> None:
    done = begun("in_parts", labelled, tmp_path, "--submodule", "body")
    assert done.code == 0, done.err
    assert "folded" in done.out
    sites = header_of(tmp_path / "run" / "retrofitted.safetensors")["plan"]["sites"]
    assert [site["name"] for site in sites] == ["0"]
    factories.in_parts().load_state_dict(tensors_of(tmp_path / "run" / "folded.safetensors"), strict=True)


def test_norms_that_would_stay_are_refused_before_training(labelled: Path, tmp_path: Path) -> None:
    refused = begun("padded_twice", labelled, tmp_path, "--placement", "post")
    assert refused.code == 2, refused.err
    assert "could not be folded back" in refused.err
    assert "--placement pre" in refused.err
    assert is_empty(tmp_path)
    assert begun("padded_twice", labelled, tmp_path).code == 0


MISTAKES = [
    (("--opt", "bogus"), 2, "no optimiser 'bogus'"),
    (("--dropout", 0.5), 2, "no dropout"),
    (("--warmup-steps", 1000), 2, "warmup"),
    (("--grad-accum-steps", 1000), 2, "--grad-accum-steps"),
    (("-b", 1, "--bn-stats", "frozen", "--mixup", 0.2), 4, "cannot be mixed"),
]


@pytest.mark.parametrize(("options", "code", "said"), MISTAKES)
def test_a_mistake_of_the_second_step_is_refused_before_the_first(
    options: tuple[object, ...], code: int, said: str, labelled: Path, tmp_path: Path
) -> None:
    refused = begun("plain", labelled, tmp_path, *options)
    assert (refused.code, said in refused.err) == (code, True), refused.err
    assert "step 1" not in refused.err
    assert is_empty(tmp_path)
    assert begun("plain", labelled, tmp_path).code == 0


def test_classes_that_do_not_fit_are_refused_before_the_first_step(tmp_path: Path) -> None:
    for split in ("train", "val"):
        draw_classes(tmp_path / "four" / split, classes=4)
    refused = begun("plain", tmp_path / "four", tmp_path)
    assert (refused.code, "--num-classes 4" in refused.err, "step 1" in refused.err) == (4, True, False), refused.err
    assert is_empty(tmp_path)
    assert begun("plain", tmp_path / "four", tmp_path, "--num-classes", 4).code == 0


def test_a_network_of_one_size_of_images_goes_through_all_of_it(labelled: Path, tmp_path: Path) -> None:
    done = begun("flat", labelled, tmp_path)
    assert done.code == 0, done.err
    # Nobody says the size but the files themselves.
    for name in ("retrofitted", "folded"):
        file = tmp_path / "run" / f"{name}.safetensors"
        again = run("fold", file, "--trust-code", "-o", tmp_path / f"again-{name}.safetensors")
        assert again.code == 0, again.err
        checked = run("verify", file, file, "--trust-code")
        assert checked.code == 0, checked.err


def test_a_run_goes_on_from_another_folder(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    (tmp_path / "nets.py").write_text(Path(factories.__file__).read_text())
    plain = save_state(tmp_path / "plain.pth", factories.plain())
    (tmp_path / "elsewhere").mkdir()
    whole = ("run", plain, "--trust-code", "-d", labelled / "train", "-o", tmp_path / "run", *SHORT)
    monkeypatch.chdir(tmp_path)
    assert run(*whole, "-m", "nets.py:plain").code == 0
    folded = tmp_path / "run" / "folded.safetensors"
    best = tmp_path / "run" / "training" / "best.safetensors"
    first, bits = tensors_of(folded), best.read_bytes()
    folded.unlink()
    (tmp_path / "run" / "training" / "last.safetensors").unlink()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = run(*whole, "-m", "../nets.py:plain", "--resume")
    assert again.code == 0, again.err
    assert (best.read_bytes() == bits, equal(tensors_of(folded), first)) == (True, True)
    # Also where the file has been moved.
    (tmp_path / "nets.py").rename("nets.py")
    folded.unlink()
    moved = run(*whole, "-m", "nets.py:plain", "--resume")
    assert moved.code == 0, moved.err
    assert (best.read_bytes() == bits, equal(tensors_of(folded), first)) == (True, True)
    Path("nets.py").rename(tmp_path / "moved.py")
    lost = run("fold", tmp_path / "run" / "retrofitted.safetensors", "--trust-code", "-o", "f.safetensors")
    assert (lost.code, "-m FOLDER/nets.py:plain" in lost.err) == (2, True), lost.err


def test_finetune_takes_no_part_of_a_network(bn: Path, labelled: Path, tmp_path: Path) -> None:
    plain = save_state(tmp_path / "plain.pth", factories.plain())
    data = ("-d", labelled / "train", "-o", tmp_path / "run", *SHORT)
    done = run("finetune", plain, "-m", factory("plain"), "--trust-code", "--submodule", "0", *data)
    assert (done.code, "takes no --submodule" in done.err) == (2, True), done.err
    assert not (tmp_path / "run").exists()
    other = run("finetune", bn, "--trust-code", "--submodule", "0", *data)
    assert (other.code, "takes no --submodule" in other.err) == (2, True), other.err


def test_it_is_told_how_many_norms_went_in_and_where_none_did_why(labelled: Path, tmp_path: Path) -> None:
    some = begun("plain", labelled, tmp_path / "some")
    assert some.code == 0, some.err
    assert any(text.startswith("inserted ") for text in some.notes)
    none = begun("plain", labelled, tmp_path / "none", "--exclude", "*")
    assert none.code == 0, none.err
    (note,) = (text for text in none.notes if text.startswith("no BatchNorm was inserted"))
    assert "it matches" in note or "exclude" in note
