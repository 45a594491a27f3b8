"""Requests that are wrong: one clear line, the right exit code, and nothing written."""

import urllib.error
from pathlib import Path

import pytest

from tests.commands.running import MODEL, Place, factory, run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--mean", "bright"), "'bright' is no number"),
        (("--mean", "0.5 0.5"), "--mean takes 1 or 3 values"),
        (("--mean", ""), "--mean"),
        (("--mean", "nan"), "--mean"),
        (("--std", "0"), "--std must be positive"),
        (("--std", "nan"), "--std"),
        (("--crop-pct", "1.5"), "--crop-pct must be"),
        (("--crop-pct", "0.9"), "--crop-pct needs --img-size"),
        (("--interpolation", "box"), "--interpolation needs --img-size"),
        (("--img-size", "0"), "--img-size"),
        (("--interpolation", "guessing"), "--interpolation"),
        (("--layers", "foo"), "unknown layer family 'foo'. Choose from conv, dense"),
        (("--layers", ""), "no layer family"),
        (("--include", "convolution"), "the pattern 'convolution' matches no"),
        (("--num-images", "0"), "--num-images"),
        (("--device", "gpu"), "gpu"),
        (("--weights", "DEFAULT"), "exclude each other"),
        (("--lr", "0.1"), "No such option"),
    ],
)
def test_a_wrong_option_is_a_usage_error(place: Place, options: tuple[str, str], words: str) -> None:
    done = place.retrofit(place.plain, "plain", "new.safetensors", *options)
    assert (done.code, place.outputs()) == (2, [])
    assert words in done.error


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("torchvision:vgg61", 2, "Did you mean vgg19, vgg16"),
        ("timm:vgg61", 2, "vgg16"),
        ("resnett18", 2, "resnet18"),
        ("torchvison:vgg16", 2, "unknown kind of model 'torchvison:'"),
        ("bnretrofit:digits", 2, "digits_vgg11"),
        ("local-dir:nowhere", 2, "does not exist"),
        ("nowhere.py:plain", 2, "does not exist"),
        (factory("plane"), 2, "Did you mean plain"),
        (factory("raising"), 4, "no such width"),
        (factory("not_a_model"), 4, "returned a dict"),
        (factory("leaving"), 4, "leaving"),
    ],
)
def test_a_model_that_cannot_be_had(place: Place, model: str, code: int, words: str) -> None:
    command = ("retrofit", place.plain, "-m", model, "--trust-code", "-d", place.images)
    done = run(*command, "-o", place.out / "new.safetensors")
    assert (done.code, place.outputs()) == (code, [])
    assert words in done.error


def test_a_python_file_is_not_run_without_trust(place: Place) -> None:
    file = place.folder / "net.py"
    file.write_text(f"open({str(place.folder / 'trap')!r}, 'w')\n")
    for command in (
        ("plan", f"{file}:net"),
        ("plan", MODEL, "--like", f"{file}:net"),
        ("fold", place.plain, "-m", f"{file}:net", "-o", place.out / "new.pth"),
        ("verify", place.plain, place.plain, "-m", f"{file}:net"),
    ):
        done = run(*command)
        assert done.code == 2
        assert "pass --trust-code" in done.error
    assert not (place.folder / "trap").exists()


def test_an_output_that_exists_is_kept(place: Place) -> None:
    (place.out / "new.pth").write_bytes(b"mine")
    done = place.retrofit(place.plain, "plain", "new.pth")
    assert (done.code, (place.out / "new.pth").read_bytes()) == (2, b"mine")
    assert "--overwrite" in done.error
    done = run("fold", place.plain, "-m", factory("plain"), "--trust-code", "-o", place.out / "new.pth")
    assert (done.code, (place.out / "new.pth").read_bytes()) == (2, b"mine")


@pytest.mark.parametrize("name", ["nowhere/new.pth", "new.onnx", "new", "."])
def test_an_output_that_cannot_be_is_refused_first(place: Place, name: str) -> None:
    done = place.retrofit(place.folder / "missing.pth", "plain", name)
    assert (done.code, place.outputs()) == (2, [])
    assert "output" in done.error


def test_neither_checkpoint_nor_weights(place: Place) -> None:
    done = place.retrofit(None, "plain", "new.pth")
    assert done.code == 2
    assert "--weights DEFAULT" in done.error


def test_weights_without_a_network_fail_with_one_error(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("temporary failure in name resolution")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    command = ("retrofit", "-m", "torchvision:alexnet", "--weights", "DEFAULT", "-d", place.images)
    done = run(*command, "-o", place.out / "new.pth")
    assert (done.code, place.outputs()) == (4, [])
    assert "name resolution" in done.err
    assert sum(line.startswith("error: ") for line in done.err.splitlines()) == 1
    # torch.hub announces its download on stdout, which is for the result alone.
    assert done.out == ""


def test_weights_that_the_library_does_not_have(place: Place) -> None:
    command = ("retrofit", "-m", "torchvision:alexnet", "--weights", "IMAGENET1K_V9", "-d", place.images)
    done = run(*command, "-o", place.out / "new.pth")
    assert (done.code, place.outputs()) == (2, [])
    assert "IMAGENET1K_V1" in done.error


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    done = run("retrofitt")
    assert done.code == 2
    assert "Did you mean 'retrofit'?" in done.error


def test_no_command_at_all_shows_the_help() -> None:
    done = run()
    assert "error:" not in done.err
    assert "Commands:" in done.out + done.err


def test_a_failure_asked_for_as_json_is_one_document(place: Place) -> None:
    for command, code in (
        (("plan", "torchvision:vgg61"), 2),
        (("retrofit", place.plain, "-d", place.images, "-o", place.out / "new.onnx"), 2),
        (("fold", place.folder / "missing.pth", "-o", place.out / "new.pth"), 4),
        (("verify", place.plain, place.images), 4),
        (("demo", "--no-such-option"), 2),
    ):
        done = run(*command, "--json")
        said = done.document
        assert (done.code, said["exit_code"]) == (code, code), done
        assert (said["schema_version"], said["command"], said["status"]) == (1, command[0], "error")
        assert said["error"].keys() == {"kind", "message"}
        # Of one name, whether the command line or the library has found it.
        assert said["error"]["kind"] == {2: "UsageError", 4: "InputRejectedError"}[code]
