"""Checkpoints that cannot be worked with: one clear line, exit code 4, and nothing written or run."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.commands import factories
from tests.commands.running import Place, run, save_state, tensors_of


def refusal(place: Place, checkpoint: Path, code: int = 4) -> str:
    """Retrofit a checkpoint that must be refused, and return what was said."""
    done = place.retrofit(checkpoint, "plain", "new.safetensors")
    assert (done.code, place.outputs()) == (code, [])
    assert str(checkpoint) in done.error
    return done.error


def test_a_file_that_is_not_there(place: Place) -> None:
    assert "there is no such file" in refusal(place, place.folder / "missing.pth")


def test_a_folder_in_place_of_a_file(place: Place) -> None:
    assert "it is a folder" in refusal(place, place.images)


def test_a_safetensors_file_cut_short(place: Place, small: Path) -> None:
    cut = place.folder / "cut.safetensors"
    cut.write_bytes(small.read_bytes()[:-100])
    assert "damaged" in refusal(place, cut)
    cut.write_bytes(small.read_bytes()[:100])
    assert "damaged" in refusal(place, cut)


def test_a_pth_cut_short(place: Place) -> None:
    cut = place.folder / "cut.pth"
    cut.write_bytes(place.plain.read_bytes()[:2000])
    assert "the checkpoint is damaged" in refusal(place, cut)


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"\x80\x02no pickle either"])
def test_a_file_of_another_kind(place: Place, content: bytes) -> None:
    other = place.folder / "other.pth"
    other.write_bytes(content)
    assert "checkpoint" in refusal(place, other)


class Payload:
    """A pickle of this would create a file when it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_not_run(place: Place, zipped: bool) -> None:
    trap, checkpoint = place.folder / "trap", place.folder / "evil.pth"
    content = {"0.weight": torch.ones(3), "payload": Payload(trap)}
    torch.save(content, checkpoint, _use_new_zipfile_serialization=zipped)
    said = refusal(place, checkpoint)
    assert not trap.exists()
    assert "can still be loaded" not in said


def test_a_whole_model_that_was_pickled_is_refused_without_advice_to_load_it(place: Place) -> None:
    checkpoint = place.folder / "whole.pth"
    torch.save(factories.plain(), checkpoint)
    assert "can still be loaded" not in refusal(place, checkpoint)


def test_nan_in_a_weight_is_named(place: Place) -> None:
    tensors = tensors_of(place.plain)
    tensors["2.weight"][1, 2] = float("nan")
    checkpoint = place.folder / "nan.safetensors"
    save_file(tensors, checkpoint)
    assert "'2.weight' holds NaN" in refusal(place, checkpoint)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"0.weight": torch.eye(3).to_sparse()}])
def test_what_is_no_state_dict_is_refused(place: Place, content: object) -> None:
    checkpoint = place.folder / "list.pth"
    torch.save(content, checkpoint)
    refusal(place, checkpoint)


def test_a_headerless_file_needs_a_model(place: Place) -> None:
    done = run("retrofit", place.plain, "-d", place.images, "-o", place.out / "new.pth")
    assert (done.code, place.outputs()) == (2, [])
    assert "-m MODEL" in done.error


def test_tensors_of_another_shape_are_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # The search takes half a minute where nothing is near; the next test has a real one.
    monkeypatch.setattr("bnretrofit.workflows.restoring.similar_models", lambda *_, **__: None)
    # A head of another size alone would be taken as it is.
    state = factories.plain(7).state_dict() | {"2.bias": torch.ones(5)}
    torch.save(state, place.folder / "seven.pth")
    assert "'2.bias' is (5,), not (6,)" in refusal(place, place.folder / "seven.pth")


def test_a_wrong_architecture_names_keys_and_the_nearest_one(place: Place) -> None:
    from torchvision.models import squeezenet1_1

    checkpoint = save_state(place.folder / "squeezenet1_1.pth", squeezenet1_1())
    output = place.out / "new.pth"
    done = run("retrofit", checkpoint, "-m", "torchvision:squeezenet1_0", "-d", place.images, "-o", output)
    assert (done.code, place.outputs()) == (4, [])
    for words in ("'features.5.squeeze.weight'", "'features.6.squeeze.weight'", "torchvision:squeezenet1_1"):
        assert words in done.error
