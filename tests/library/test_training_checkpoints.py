"""What trainers save: which of it is taken, what its keys are stripped of, and in how many files it comes."""

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bnretrofit import checkpoints
from bnretrofit.errors import InputRejectedError, UsageError

State = dict[str, Tensor]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def weights() -> State:
    return dict(network().state_dict())


@pytest.fixture
def averaged() -> State:
    return dict(network().state_dict())


def test_a_checkpoint_of_a_whole_training_is_read(tmp_path: Path, weights: State, averaged: State) -> None:
    # As timm's CheckpointSaver lays it out, with the optimizer, the options and more beside the weights.
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 7,
        "arch": "small",
        "state_dict": weights,
        "optimizer": optimizer.state_dict(),
        "version": 2,
        "args": argparse.Namespace(lr=0.1, data="images", sizes=[1, 2]),
        "amp_scaler": {"scale": 65536.0},
        "state_dict_ema": averaged,
        "metric": 71.5,
        "rng": torch.get_rng_state(),
    }
    torch.save(content, tmp_path / "last.pth.tar")
    found = checkpoints.read(tmp_path / "last.pth.tar")
    assert same(found.tensors, averaged)
    assert found.notes == ("took the tensors under 'state_dict_ema' of last.pth.tar; also there: 'state_dict'",)
    plain = checkpoints.read(tmp_path / "last.pth.tar", use_ema=False)
    assert same(plain.tensors, weights)
    assert "also there: 'state_dict_ema'" in plain.notes[0]


def test_torchvision_s_averaged_model_loses_its_prefix_and_its_counter(tmp_path: Path) -> None:
    model = network()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(network())
    content = {"model": model.state_dict(), "model_ema": average.state_dict(), "args": argparse.Namespace()}
    torch.save(content, tmp_path / "model_9.pth")
    found = checkpoints.read(tmp_path / "model_9.pth")
    assert same(found.tensors, dict(average.module.state_dict()))
    assert "stripped 'module.' from its keys" in found.notes
    assert any("n_averaged" in note for note in found.notes)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_prefixes_of_wrappers_are_stripped(tmp_path: Path, weights: State, prefix: str, wrapped: bool) -> None:
    state = {prefix + key: value for key, value in weights.items()}
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "old.pth")
    save_file(state, tmp_path / "old.safetensors")
    for name in ("old.pth", "old.safetensors"):
        found = checkpoints.read(tmp_path / name)
        assert same(found.tensors, weights)
        assert any("stripped" in note for note in found.notes)


def test_keys_that_fall_together_without_their_prefix_are_refused(tmp_path: Path, weights: State) -> None:
    torch.save({**weights, "module.0.weight": weights["0.weight"]}, tmp_path / "two.pth")
    with pytest.raises(InputRejectedError, match="the same but for a prefix"):
        checkpoints.read(tmp_path / "two.pth")


def test_weights_are_found_where_they_are_wrapped_twice_or_where_the_user_says(
    tmp_path: Path, weights: State, averaged: State
) -> None:
    content = {"checkpoint": {"model": weights, "teacher.net": averaged}, "note": "x"}
    torch.save(content, tmp_path / "deep.pth")
    assert same(checkpoints.read(tmp_path / "deep.pth").tensors, weights)
    for key, wanted in (("checkpoint.model", weights), ("checkpoint.teacher.net", averaged)):
        found = checkpoints.read(tmp_path / "deep.pth", state_dict_key=key)
        assert same(found.tensors, wanted)
        assert f"took the tensors under '{key}'" in found.notes[0]
    for key in ("checkpoint.student", "note", "model", "checkpoint.model.0"):
        with pytest.raises(UsageError, match="no state_dict under"):
            checkpoints.read(tmp_path / "deep.pth", state_dict_key=key)
    with pytest.raises(UsageError, match="checkpoint"):
        checkpoints.read(tmp_path / "deep.pth", state_dict_key="chekpoint")


@pytest.mark.parametrize("legacy", [True, False])
def test_all_of_it_is_read_from_files_of_old_torch_too(tmp_path: Path, weights: State, legacy: bool) -> None:
    content = {"state_dict": weights, "args": argparse.Namespace(lr=0.1), "epoch": 3, "best": torch.tensor(0.5)}
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=not legacy)
    assert same(checkpoints.read(tmp_path / "old.pth").tensors, weights)


def sharded(folder: Path, weights: State, save: Callable[[State, Path], None], name: str) -> Path:
    """Save two shards and their index."""
    keys = list(weights)
    stem, suffix = name.removesuffix(".index.json").split(".")
    parts = {f"{stem}-0000{n + 1}-of-00002.{suffix}": keys[n::2] for n in range(2)}
    for part, held in parts.items():
        save({key: weights[key] for key in held}, folder / part)
    index = folder / name
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": {k: part for part, held in parts.items() for k in held}})
    )
    return index


@pytest.mark.parametrize(
    ("save", "name"),
    [(save_file, "model.safetensors.index.json"), (torch.save, "pytorch_model.bin.index.json")],
)
def test_shards_are_joined_by_their_index(tmp_path: Path, weights: State, save: Any, name: str) -> None:
    index = sharded(tmp_path, weights, save, name)
    for path in (index, tmp_path):
        found = checkpoints.read(path)
        assert same(found.tensors, weights)
        assert found.path == index
        assert any("2 shards" in note for note in found.notes)
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(tmp_path.iterdir())]
    ordered = sorted(lines, key=lambda line: not line.endswith("json\n"))
    assert found.digest.result() == hashlib.sha256("".join(ordered).encode()).hexdigest()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: d["weight_map"].update({"0.weight": "../secret.safetensors"}), "no file beside it"),
        (lambda d: d["weight_map"].update({"0.weight": "/etc/passwd"}), "no file beside it"),
        (lambda d: d["weight_map"].update({"0.weight": 3}), "no file beside it"),
        (lambda d: d["weight_map"].update({"0.weight": "gone.safetensors"}), "no such file"),
        (
            lambda d: d["weight_map"].update({"more": "model-00001-of-00002.safetensors"}),
            "other tensors than its index",
        ),
        (lambda d: d["weight_map"].clear(), "names 0 files"),
        (lambda d: d.clear(), "cannot be read"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, weights: State, damage: Any, words: str) -> None:
    index = sharded(tmp_path, weights, save_file, "model.safetensors.index.json")
    document = json.loads(index.read_text())
    damage(document)
    index.write_text(json.dumps(document))
    with pytest.raises(InputRejectedError, match=words):
        checkpoints.read(index)


@pytest.mark.parametrize("names", [["best.safetensors", "last.safetensors"], ["last.safetensors"], ["any.safetensors"]])
def test_a_folder_is_read_by_what_it_holds(tmp_path: Path, weights: State, averaged: State, names: list[str]) -> None:
    for name, state in zip(names, (weights, averaged), strict=False):
        save_file(state, tmp_path / name)
    found = checkpoints.read(tmp_path)
    assert same(found.tensors, weights)
    assert found.path == tmp_path / names[0]
    assert f"took {names[0]}" in found.notes[0]


@pytest.mark.parametrize("names", [[], ["a.safetensors", "b.safetensors"]])
def test_a_folder_that_leaves_a_doubt_is_refused(tmp_path: Path, weights: State, names: list[str]) -> None:
    for name in names:
        save_file(weights, tmp_path / name)
    with pytest.raises(InputRejectedError, match="it is a folder, and it holds"):
        checkpoints.read(tmp_path)
