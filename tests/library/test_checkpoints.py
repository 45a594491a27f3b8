"""Checkpoint files: read without running anything from them, written whole or not at all."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bnretrofit import checkpoints, publishing
from bnretrofit.errors import InputRejectedError, ResourceError, UsageError


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {"b": torch.randn(3, 2), "a": torch.arange(4), "half": torch.randn(5).half(), "scalar": torch.tensor(2)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ["new.safetensors", "new.pth", "new.pt"])
def test_what_is_written_is_read_again(tmp_path: Path, tensors: dict[str, Tensor], name: str) -> None:
    publishing.write(tmp_path / name, tensors, {"stage": "folded"})
    found = checkpoints.read(tmp_path / name)
    assert same(found.tensors, tensors)
    assert found.header == ({"stage": "folded"} if name.endswith(".safetensors") else None)
    assert found.digest.result() == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert checkpoints.read_header(tmp_path / name) == found.header
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_other_tools_read_what_is_written(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    publishing.write(tmp_path / "new.safetensors", tensors, None)
    publishing.write(tmp_path / "new.pth", tensors, None)
    assert same(load_file(tmp_path / "new.safetensors"), tensors)
    assert same(torch.load(tmp_path / "new.pth", weights_only=True), tensors)


def test_the_kind_of_a_file_is_told_by_its_content(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "misnamed.pth")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert same(checkpoints.read(tmp_path / "misnamed.pth").tensors, tensors)
    assert same(checkpoints.read(tmp_path / "pytorch_model.bin").tensors, tensors)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 0x4B50])
def test_a_header_as_long_as_the_first_bytes_of_a_pickle_is_read(
    tmp_path: Path, tensors: dict[str, Tensor], length: int
) -> None:
    path, header = tmp_path / "new.safetensors", {"note": ""}
    publishing.write(path, tensors, header)
    header["note"] = "x" * (length - int.from_bytes(path.read_bytes()[:8], "little"))
    publishing.write(path, tensors, header, overwrite=True)
    assert int.from_bytes(path.read_bytes()[:8], "little") == length
    assert checkpoints.read_header(path) == checkpoints.read(path).header == header


def test_a_file_from_elsewhere_has_no_header(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "other.safetensors", metadata={"format": "pt"})
    assert checkpoints.read(tmp_path / "other.safetensors").header is None
    assert checkpoints.read_header(tmp_path / "other.safetensors") is None


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_tensors_are_found_in_what_trainers_save(tmp_path: Path, tensors: dict[str, Tensor], wrapper: str) -> None:
    torch.save({"epoch": 3, wrapper: tensors, "optimizer": {"lr": 0.1}}, tmp_path / "last.pth")
    found = checkpoints.read(tmp_path / "last.pth")
    assert same(found.tensors, tensors)
    assert found.notes == (f"took the tensors under '{wrapper}' of last.pth",)


def test_a_state_dict_of_parameters_is_read(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    torch.save(dict(model.named_parameters()), tmp_path / "parameters.pth")
    assert same(checkpoints.read(tmp_path / "parameters.pth").tensors, dict(model.state_dict()))


def test_a_file_in_the_format_of_old_torch_is_read(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    # As torchvision's own vgg16-397923af.pth and most files before torch 1.6 are.
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(checkpoints.read(tmp_path / "old.pth").tensors, tensors)


@pytest.mark.parametrize("name", ["tied.safetensors", "tied.pth"])
def test_tied_tensors_stand_under_each_of_their_names(tmp_path: Path, name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    publishing.write(tmp_path / name, model.state_dict(), None)
    found = checkpoints.read(tmp_path / name).tensors
    assert same(found, dict(model.state_dict()))
    model.load_state_dict(found, strict=True)


def test_views_and_other_memory_layouts_are_written_as_their_values(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    views = {
        "row": base[1],
        "transposed": base.t(),
        "whole": base,
        "last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    for name in ("new.safetensors", "new.pth"):
        publishing.write(tmp_path / name, views, None)
        assert same(checkpoints.read(tmp_path / name).tensors, views)
    assert (tmp_path / "new.pth").stat().st_size < 6000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_rejected(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    tensor = torch.ones(2, 3)
    tensor[1, 2] = value
    save_file({"good": torch.ones(2), "bad": tensor.to(dtype)}, tmp_path / "bad.safetensors")
    with pytest.raises(InputRejectedError, match="'bad' holds NaN or infinity"):
        checkpoints.read(tmp_path / "bad.safetensors")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.ones(2, dtype=torch.complex64), "complex64"),
        (torch.ones(2, dtype=torch.bool), "bool"),
        (torch.ones(2).to(torch.float8_e5m2), "float8_e5m2"),
        (torch.ones(2, device="meta"), "on the meta device"),
        (torch.ones(1).expand(100), "expanded from fewer values"),
    ],
)
def test_tensors_of_other_kinds_are_rejected(tmp_path: Path, tensor: Tensor, words: str) -> None:
    torch.save({"good": torch.ones(2), "odd": tensor}, tmp_path / "odd.pth")
    with pytest.raises(InputRejectedError, match=f"'odd' is .*{words}"):
        checkpoints.read(tmp_path / "odd.pth")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantised_tensor_is_rejected(tmp_path: Path) -> None:
    torch.save({"odd": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)}, tmp_path / "odd.pth")
    with pytest.raises(InputRejectedError, match="a tensor that is quantised"):
        checkpoints.read(tmp_path / "odd.pth")


@pytest.mark.parametrize("dtype", [torch.bool, torch.float8_e5m2, torch.complex64])
def test_dtypes_in_which_no_network_computes_are_rejected_in_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"odd": torch.ones(2).to(dtype)}, tmp_path / "odd.safetensors")
    with pytest.raises(InputRejectedError, match="'odd' is of the dtype"):
        checkpoints.read(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("name", ["wide.safetensors", "wide.pth"])
def test_doubles_beyond_float32_are_rejected(tmp_path: Path, name: str) -> None:
    publishing.write(tmp_path / name, {"wide": torch.tensor([1.0, -1e39], dtype=torch.float64)}, None)
    with pytest.raises(InputRejectedError, match="'wide' holds values beyond float32"):
        checkpoints.read(tmp_path / name)


def test_an_empty_tensor_is_no_fault(tmp_path: Path) -> None:
    save_file({"empty": torch.zeros(0, 3)}, tmp_path / "empty.safetensors")
    assert checkpoints.read(tmp_path / "empty.safetensors").tensors["empty"].shape == (0, 3)


@pytest.mark.parametrize(("content", "words"), [([1], "holds a list"), ({"lr": 1.0}, "'lr' is no tensor but a float")])
def test_what_is_no_state_dict_is_rejected(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(InputRejectedError, match=words):
        checkpoints.read(tmp_path / "other.pth")


def test_a_header_is_read_without_the_tensors(tmp_path: Path) -> None:
    save_file({"bad": torch.full((2,), float("nan"))}, tmp_path / "bad.safetensors", metadata={"bnretrofit": "{}"})
    assert checkpoints.read_header(tmp_path / "bad.safetensors") == {}


@pytest.mark.parametrize(
    ("name", "words"), [("new.onnx", "format"), ("none/new.pth", "folder"), ("old.pth", "exists"), (".", "format")]
)
def test_an_output_that_cannot_be_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "old.pth").write_bytes(b"old")
    with pytest.raises(UsageError, match=words):
        publishing.check_output(tmp_path / name, overwrite=False)
    publishing.check_output(tmp_path / "old.pth", overwrite=True)


def test_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(UsageError, match="exists"):
        publishing.write(tmp_path / "folder.pth", {}, None, overwrite=True)


@pytest.mark.parametrize("name", ["new.safetensors", "new.pth"])
def test_the_same_content_gives_the_same_bytes(tmp_path: Path, tensors: dict[str, Tensor], name: str) -> None:
    written = set()
    for _ in range(12):
        publishing.write(tmp_path / name, tensors, {"stage": "folded", "model": "a"}, overwrite=True)
        written.add((tmp_path / name).read_bytes())
    assert len(written) == 1


def test_a_folder_that_cannot_be_written_to_is_a_lack_of_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ResourceError, match="Permission denied"):
        publishing.write(tmp_path / "new.pth", {}, None)


def test_a_file_that_may_not_be_read_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "old.pth").write_bytes(b"PK")
    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(InputRejectedError, match="Permission denied"):
        checkpoints.read(tmp_path / "old.pth")
