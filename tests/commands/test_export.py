"""`bnretrofit export`: each format opens in its runtime and gives what the model gives."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from bnretrofit.errors import UsageError
from bnretrofit.exporting import onnx_files
from bnretrofit.exporting.onnx_files import OnnxModel
from bnretrofit.publishing import PendingFolder
from bnretrofit.workflows import exporting
from tests.commands import factories
from tests.commands.running import DIGITS, MODEL, VAL, Place, factory, rewrite, run, save_state, tensors_of

ODD = """
from torch import nn


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.layer(x).flatten(1) * (2 if len(x) > 3 else 1)


def odd():
    return Odd()
"""


def timm_model() -> nn.Module:
    import timm

    model: nn.Module = timm.create_model("test_convnext", num_classes=7)
    return model.eval()


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def loaded(path: Path) -> nn.Module:
    model = factories.plain()
    model.load_state_dict(tensors_of(path))
    return model.eval()


def plain_of(small: Path) -> Path:
    return small.parents[1] / "plain.pth"


def export(place: Place, source: Path, output: Path, *options: object) -> Any:
    command = ("export", source, "-m", factory("plain"), "--trust-code", "-d", place.images, "-o", output)
    return run(*command, *options, "--json")


def test_an_onnx_file_gives_what_the_model_gives_for_batches_of_any_size(place: Place) -> None:
    output = place.out / "plain.onnx"
    document = export(place, place.plain, output).document
    assert document["passed"]
    assert (document["format"], document["stage"], document["norms"]) == ("onnx", "original", 0)
    kinds = {tried["kind"]: tried for tried in document["tried"]}
    assert kinds.keys() == {"given", "random", "zeros", "ones", "huge", "denormal", "saturated"}
    assert all(0 <= tried["max_rel_error"] < 1e-5 for tried in kinds.values())
    model, exported = loaded(place.plain), OnnxModel(output)
    size = next(iter(onnx.load(str(output)).graph.input)).type.tensor_type.shape.dim[2].dim_value
    for samples in (1, 2, 7):
        x = torch.randn(samples, 3, size, size)
        with torch.no_grad():
            wanted = model(x)
            error = (exported(x) - wanted).abs().amax() / wanted.abs().amax()
            other = (exported(x) - factories.plain().eval()(x)).abs().amax() / wanted.abs().amax()
        assert exported(x).shape == wanted.shape
        assert error < 1e-5
        assert other > 1e-2, "another network is told apart"
    assert [path.name for path in place.out.iterdir()] == ["plain.onnx"]


def test_norms_stay_norms_and_a_folded_file_has_none(small: Path, place: Place) -> None:
    sites = sum(name.endswith("running_mean") for name in tensors_of(small))
    made = run("export", small, "--trust-code", "-o", place.out / "bn.onnx", "--json").document
    assert made["norms"] == operators(place.out / "bn.onnx")["BatchNormalization"] == sites > 0
    folded = place.out / "folded.safetensors"
    assert run("fold", small, "--trust-code", "-o", folded).code == 0
    made = run("export", folded, "--trust-code", "-o", place.out / "folded.onnx", "--json").document
    assert made["norms"] == operators(place.out / "folded.onnx")["BatchNormalization"] == 0
    assert made["stage"] == "folded"


def test_a_program_is_the_model_bit_for_bit(place: Place) -> None:
    output = place.out / "plain.pt2"
    document = export(place, place.plain, output, "--check-compile").document
    assert document["passed"]
    assert all(tried["bit_identical"] for tried in document["tried"])
    assert all(tried["max_rel_error"] < 1e-5 for tried in document["compiled"])
    x = torch.randn(5, *document["shape"][1:])
    with torch.no_grad():
        assert torch.equal(torch.export.load(output).module()(x), loaded(place.plain)(x))


@pytest.mark.parametrize("name", ["part.pth", "part.onnx"])
def test_a_part_is_run_as_a_part(place: Place, name: str) -> None:
    part = next(key for key, _ in factories.plain().named_children())
    command = ("export", place.plain, "-m", factory("plain"), "--trust-code", "-d", place.images)
    done = run(*command, "--submodule", part, "-o", place.out / name, "--json")
    assert done.code == 0, done.out


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_has_the_same_tensors(place: Place, suffix: str) -> None:
    output = place.out / f"copy{suffix}"
    assert export(place, place.plain, output).document["passed"]
    before, after = tensors_of(place.plain), tensors_of(output)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_folder_opens_in_timm(place: Place, tmp_path: Path) -> None:
    import timm

    model = timm_model()
    save_state(tmp_path / "weights.pth", model)
    folder = place.out / "network"
    command = ("export", tmp_path / "weights.pth", "-m", "timm:test_convnext", "-o", folder, "--json")
    document = run(*command).document
    assert (document["passed"], document["format"]) == (True, "local-dir")
    made = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(made(x), model(x))
    assert json.loads((folder / "config.json").read_text())["num_classes"] == 7
    assert run(*command).document["error"]["kind"] == "UsageError"
    assert run(*command, "--overwrite").document["passed"]
    assert [path.name for path in place.out.iterdir()] == ["network"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    readable = folder.stat().st_mode & 0o444
    assert folder.stat().st_mode & 0o111 == readable >> 2
    assert all(path.stat().st_mode & 0o444 == readable for path in folder.iterdir())


@pytest.mark.parametrize("name", ["weights.pth", "mine.txt"])
def test_a_folder_with_anything_else_in_it_is_left_alone(place: Place, name: str) -> None:
    folder = place.out / "network"
    folder.mkdir()
    save_state(folder / name, timm_model())
    weights = place.folder / "weights.pth" if name == "mine.txt" else folder / name
    save_state(weights, timm_model())
    done = run("export", weights, "-m", "timm:test_convnext", "-o", folder, "--overwrite", "--json")
    assert (done.code, done.document["error"]["kind"]) == (2, "UsageError")
    assert [path.name for path in folder.iterdir()] == [name]


def test_what_comes_to_be_there_meanwhile_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "network"
    with PendingFolder(folder, lambda made: made.mkdir(), overwrite=False) as pending:
        pending.made()
        folder.mkdir()
        (folder / "precious").write_text("mine")
        with pytest.raises(UsageError, match="exists"):
            pending.publish()
    assert [path.name for path in folder.iterdir()] == ["precious"]
    assert [path.name for path in tmp_path.iterdir()] == ["network"]


def test_only_timm_s_own_architectures_become_its_folders(place: Place) -> None:
    done = export(place, place.plain, place.out / "network")
    assert (done.code, done.document["error"]["kind"]) == (2, "UsageError")
    assert "timm's layout is for timm's models" in done.document["error"]["message"]
    assert not list(place.out.iterdir())


def test_what_is_not_the_same_function_is_not_left_there(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    true = onnx_files.onnx_program

    def wrong(model: nn.Module, example: Tensor, opset: int | None) -> Any:
        with torch.no_grad():
            weight = next(model.parameters())
            before = weight.clone()
            weight.mul_(1.01)
            try:
                return true(model, example, opset)
            finally:
                weight.copy_(before)

    monkeypatch.setattr(exporting, "onnx_program", wrong)
    output = place.out / "plain.onnx"
    done = export(place, place.plain, output)
    assert (done.code, done.document["error"]["kind"]) == (3, "VerificationError")
    assert "not the same function" in done.document["error"]["message"]
    assert not list(place.out.iterdir())
    done = export(place, place.plain, output, "--force")
    assert (done.code, done.document["passed"]) == (3, False)
    assert output.is_file()


@pytest.mark.parametrize(
    ("output", "options", "said"),
    [
        ("plain.tflite", (), "the format is not known"),
        ("plain.onnx", ("--check-compile",), "not for ONNX files"),
        ("no-such-folder/plain.onnx", (), "does not exist"),
        ("plain.onnx", ("--opset", "3"), "opset"),
    ],
)
def test_what_cannot_be_had_is_refused(place: Place, output: str, options: tuple[str, ...], said: str) -> None:
    done = export(place, place.plain, place.out / output, *options)
    assert done.code == 2
    assert said in done.document["error"]["message"]
    assert not list(place.out.iterdir())


def test_an_opset_that_the_exporter_does_not_give_is_refused(place: Place) -> None:
    done = export(place, place.plain, place.out / "plain.onnx", "--opset", 99)
    assert done.code == 4
    assert "opset 99" in done.document["error"]["message"]
    assert not list(place.out.iterdir())


def test_an_output_that_exists_is_kept(place: Place) -> None:
    output = place.out / "plain.onnx"
    output.write_text("mine")
    assert export(place, place.plain, output).code == 2
    assert output.read_text() == "mine"


def test_a_model_too_large_for_one_file_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "ONE_FILE", 1000)
    done = export(place, place.plain, place.out / "plain.onnx")
    assert done.code == 4
    assert "too large for one ONNX file" in done.document["error"]["message"]


def test_a_model_that_branches_on_its_batch_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    torch.save({"layer.weight": torch.randn(4, 3, 3, 3), "layer.bias": torch.randn(4)}, tmp_path / "odd.pth")
    command = ("export", tmp_path / "odd.pth", "-m", f"{tmp_path / 'odd.py'}:odd", "--trust-code", "--img-size", 32)
    done = run(*command, "-o", place.out / "odd.onnx", "--json")
    assert done.code == 4
    assert "batches of any size" in done.document["error"]["message"]


def test_an_onnx_file_is_verified_against_a_checkpoint_either_way_round(place: Place, small: Path) -> None:
    output = place.out / "plain.onnx"
    assert export(place, place.plain, output).code == 0
    said = ("-m", factory("plain"), "--trust-code", "-d", place.images)
    for pair in ((place.plain, output), (output, place.plain)):
        done = run("verify", *pair, *said)
        assert done.code == 0, done.out
        assert "run by onnxruntime, and is not captured" in done.out

    def change(tensors: dict[str, Tensor]) -> None:
        next(iter(tensors.values())).mul_(1.05)

    other = rewrite(small, place.folder / "other.safetensors", change)
    assert run("verify", other, output, "--trust-code", "-d", place.images).code == 3
    assert run("verify", output, output, *said).code == 2
    (place.out / "broken.onnx").write_bytes(b"no such thing")
    assert run("verify", place.plain, place.out / "broken.onnx", *said).code == 4


def test_the_text_tells_each_kind_of_input(place: Place) -> None:
    done = run("export", DIGITS, "-m", MODEL, "-d", VAL, "-n", 16, "-o", place.out / "digits.onnx")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == f"model     {MODEL}, original"
    assert any(line.startswith("run       given: ") and "on 16 samples; rounding alone" in line for line in lines)
    assert lines[-2:] == ["PASSED", f"wrote     {place.out / 'digits.onnx'}"]
