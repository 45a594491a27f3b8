"""What a file says of itself: damaged, out of date, or naming code that the user has not trusted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bnretrofit.workflows.header import versions
from tests.commands.running import MODEL, Place, factory, header_of, rewrite, run, tensors_of


def damaged_headers(small: Path) -> dict[str, dict[str, Any]]:
    header = header_of(small)
    site = header["plan"]["sites"][0]
    return {
        "no preprocessing": {"preprocessing": None},
        "no input size": {"preprocessing": {"input_size": None}},
        "no mean": {"preprocessing": {**header["preprocessing"], "mean": None}},
        "a plan that is a list": {"plan": []},
        "a site without fields": {"plan": {**header["plan"], "sites": [{}]}},
        "an unknown site": {"plan": {**header["plan"], "sites": [{**site, "name": "nowhere"}]}},
        "channels in words": {"plan": {**header["plan"], "sites": [{**site, "channels": "four"}]}},
        "folded norms that are none": {"folded": {"identities": ["nowhere"], "biases": []}},
        "folded as a list": {"folded": []},
        "another schema": {"schema_version": 99},
    }


def test_a_damaged_header_is_rejected(small: Path, place: Place) -> None:
    wrong = {}
    for what, change in damaged_headers(small).items():
        checkpoint = rewrite(small, place.folder / "header.safetensors", **change)
        done = run("fold", checkpoint, "--trust-code", "-o", place.out / "folded.safetensors", "--overwrite")
        if done.code != 4 or place.outputs():
            wrong[what] = (done.code, done.err)
    assert not wrong


def test_a_header_that_is_no_json_is_rejected(place: Place) -> None:
    checkpoint = place.folder / "header.safetensors"
    for text in ("{", "[]", "{}"):
        save_file(tensors_of(place.plain), checkpoint, metadata={"bnretrofit": text})
        done = run("retrofit", checkpoint, "-d", place.images, "-o", place.out / "new.pth")
        assert (done.code, place.outputs()) == (4, [])
        assert "header is damaged" in done.error


def test_a_factory_named_by_a_header_needs_trust_too(small: Path, place: Place) -> None:
    done = run("fold", small, "-o", place.out / "folded.pth")
    assert (done.code, place.outputs()) == (2, [])
    assert "--trust-code" in done.error


def test_a_factory_that_has_moved_can_be_given_anew(small: Path, place: Place) -> None:
    checkpoint = rewrite(small, place.folder / "moved.safetensors", model="old/factories.py:plain")
    command = ("fold", checkpoint, "--trust-code", "-o", place.out / "folded.pth")
    assert run(*command).code == 2
    assert run(*command, "-m", factory("plain")).code == 0


def test_code_is_trusted_only_where_the_user_named_it(small: Path, place: Place) -> None:
    trap, evil = place.folder / "trap", place.folder / "evil.py"
    evil.write_text(f"open({str(trap)!r}, 'w')\n")
    checkpoint = rewrite(small, place.folder / "evil.safetensors", model=f"{evil}:plain")
    run("fold", checkpoint, "-m", MODEL, "-o", place.out / "folded.pth")
    assert not trap.exists()


def test_a_package_whose_record_is_cut_short_has_an_unknown_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm.egg-info").mkdir()
    (tmp_path / "timm.egg-info" / "PKG-INFO").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert versions()["timm"] == "unknown"
    assert set(versions()) == {"python", "bnretrofit", "torch", "torchvision", "timm", "safetensors"}
    assert torch.__version__.startswith(versions()["torch"])
