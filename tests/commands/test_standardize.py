"""`bnretrofit retrofit --init standardize`: what it writes and says, and what the other commands make of it."""

import dataclasses
from typing import Any

import pytest
import torch

from bnretrofit.unit_outputs import check_unit_outputs
from tests.commands.running import Place, factory, header_of, run, tensors_of

STANDARDIZE = ("--init", "standardize")


def test_the_file_says_that_it_was_standardised_and_so_does_inspect(place: Place) -> None:
    done = place.retrofit(place.plain, "plain", "new.safetensors", *STANDARDIZE)
    assert done.code == 0, done.err
    output = place.out / "new.safetensors"
    assert header_of(output)["calibration"].items() >= {"init": "standardize", "images": 4}.items()
    assert '"init": "standardize"' in run("inspect", output).out
    tensors = tensors_of(output)
    assert torch.equal(tensors["0.norm.weight"], torch.ones(4))
    assert not bool(tensors["0.norm.bias"].any())
    for words in ("PASSED: mean 0 and variance 1 out of 3 norms", "equality    not claimed", "wrote          "):
        assert words in done.out


def test_the_json_says_what_is_claimed(place: Place) -> None:
    said = place.retrofit(place.plain, "plain", "new.pth", "--json", *STANDARDIZE).document
    assert (said["init"], said["status"], said["exit_code"]) == ("standardize", "ok", 0)
    report = said["report"]
    assert report.items() >= {"passed": True, "equality_claimed": False, "norms": 3, "samples": 4}.items()
    assert max(report["mean_error"], report["variance_error"]) < 1e-4


def test_identity_is_what_is_done_without_it(place: Place) -> None:
    said = place.retrofit(place.plain, "plain", "a.safetensors", "--json").document
    assert (said["init"], said["report"]["proved"]) == ("identity", True)
    assert place.retrofit(place.plain, "plain", "b.safetensors", "--init", "identity").code == 0
    assert (place.out / "a.safetensors").read_bytes() == (place.out / "b.safetensors").read_bytes()
    assert "init" not in header_of(place.out / "a.safetensors")["calibration"]


def test_verify_tells_it_from_the_original_and_fold_keeps_its_function(place: Place) -> None:
    assert place.retrofit(place.plain, "plain", "new.safetensors", *STANDARDIZE).code == 0
    new, folded = place.out / "new.safetensors", place.out / "folded.safetensors"
    assert run("verify", place.plain, new, "--trust-code", "-d", place.images).code == 3
    assert run("fold", new, "-o", folded, "--trust-code", "-m", factory("plain"), "-d", place.images).code == 0
    assert tensors_of(folded).keys() == tensors_of(place.plain).keys()
    assert run("verify", new, folded, "--trust-code", "-m", factory("plain"), "-d", place.images).code == 0


def test_a_twin_gets_the_statistics_too(place: Place) -> None:
    done = place.retrofit(place.plain, "plain", "new.pth", *STANDARDIZE, "--like", factory("plain_bn"), "--json")
    assert done.document["report"]["passed"] is True
    assert torch.equal(tensors_of(place.out / "new.pth")["1.weight"], torch.ones(4))


def test_wrong_statistics_are_not_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: Any, names: list[str], batches: Any) -> Any:
        model.get_submodule(names[1]).running_mean += 1
        return check_unit_outputs(model, names, batches)

    monkeypatch.setattr("bnretrofit.workflows.retrofitting.check_unit_outputs", wrong)
    done = place.retrofit(place.plain, "plain", "new.safetensors", *STANDARDIZE)
    assert done.code == 3
    assert done.error.startswith("2.norm: the norms do not put out mean 0 and variance 1: a mean is off by ")
    assert place.outputs() == []
    failed = place.retrofit(place.plain, "plain", "other.safetensors", *STANDARDIZE, "--json")
    assert failed.document["report"]["equality_claimed"] is False
    forced = place.retrofit(place.plain, "plain", "new.safetensors", *STANDARDIZE, "--force")
    assert (forced.code, place.outputs()) == (3, ["new.safetensors"])
    assert "FAILED" in forced.out


def test_a_figure_that_is_not_finite_is_text_in_json(place: Place) -> None:
    said = place.retrofit(place.plain, "plain", "new.pth", *STANDARDIZE, "--json").document["report"]
    from bnretrofit.unit_outputs import UnitOutputs

    report = UnitOutputs(**{item.name: said[item.name] for item in dataclasses.fields(UnitOutputs)})
    assert dataclasses.replace(report, mean_error=float("nan")).to_json()["mean_error"] == "nan"
