"""A run is known again: begun by an earlier version, and with models that are named from another folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from safetensors.torch import save_file

from bnretrofit.checkpoints import read
from bnretrofit.publishing import write
from bnretrofit.workflows.run_identity import known_again, model_known_as
from tests.commands.running import EPOCHS, run

SHORT = (*EPOCHS[2:], "--epochs", 1)


def aged(folder: Path, **config: Any) -> None:
    """Let a run's state be as a version wrote it that knew of no warm-up of averages and no stored size."""
    found = read(folder / "state.safetensors")
    header: dict[str, Any] = dict(found.header or {})
    settings = header["settings"]
    settings["config"].pop("ema_warmup", None)
    settings["preprocessing"].pop("stored_size", None)
    settings["config"] |= config
    settings["model"] = f"some/folder/{settings['model']}"
    write(folder / "state.safetensors", dict(found.tensors), header, overwrite=True)


def test_a_run_of_an_earlier_version_is_gone_on_with(bn: Path, labelled: Path, tmp_path: Path) -> None:
    whole = ("finetune", bn, "--trust-code", "-d", labelled / "train", "-o", tmp_path / "run", *SHORT)
    assert run(*whole).code == 0
    aged(tmp_path / "run")
    again = run(*whole, "--resume")
    assert again.code == 0, again.err
    # Its averages began with the warm-up.
    aged(tmp_path / "run", ema_decay=0.9)
    other = run(*whole, "--resume", "--model-ema-decay", 0.9)
    assert (other.code, "ema_warmup was True and is False" in other.err) == (2, True), other.err


def test_what_else_differs_is_still_told() -> None:
    settings = {"model": "a/nets.py:f", "config": {"lr": 0.1}, "preprocessing": {"mean": [0.5]}, "aug": "light"}
    assert known_again(settings) == known_again({**settings, "model": "nets.py:f"})
    for name, value in (("model", "nets.py:g"), ("config", {"lr": 0.2}), ("preprocessing", {"mean": [0.4]})):
        assert known_again(settings) != known_again({**settings, name: value})


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("torchvision:vgg16", "torchvision:vgg16"),
        ("hf-hub:org/name@rev", "hf-hub:org/name@rev"),
        ("../there/nets.py:plain", "nets.py:plain"),
        ("local-dir:some/folder/", "local-dir:folder"),
    ],
)
def test_a_model_is_known_without_its_folder(name: str, known: str) -> None:
    assert model_known_as(name) == known


def test_a_folder_of_timm_s_may_be_named_from_elsewhere(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = timm.create_model("test_vit", num_classes=3, img_size=32)
    (tmp_path / "model").mkdir()
    save_file(network.state_dict(), tmp_path / "model" / "model.safetensors")
    config = {"input_size": [3, 32, 32], "num_classes": 3, "fixed_input_size": True}
    described = {"architecture": "test_vit", "num_classes": 3, "model_args": {"img_size": 32}, "pretrained_cfg": config}
    (tmp_path / "model" / "config.json").write_text(json.dumps(described))
    monkeypatch.chdir(tmp_path)
    whole = ("run", "--weights", "DEFAULT", "-d", labelled / "train", "-o", tmp_path / "run", *SHORT)
    begun = run(*whole, "-m", "local-dir:model")
    assert begun.code == 0, begun.err
    kept = yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())
    assert kept["model"] == f"local-dir:{tmp_path / 'model'}"
    (tmp_path / "run" / "folded.safetensors").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = run(*whole, "-m", "local-dir:../model", "--resume")
    assert again.code == 0, again.err
