"""`bnretrofit plan --json`, edited or not, is what `bnretrofit retrofit --plan` follows, or refuses in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import factories
from tests.commands.running import (
    DIGITS,
    MODEL,
    TRAIN,
    Outcome,
    Place,
    equal,
    factory,
    header_of,
    run,
    save_state,
    tensors_of,
)

Edit = Callable[[dict[str, Any]], object]


def planned(place: Place, *choices: object, name: str = "plain", edit: Edit = dict) -> Path:
    """The plan of a factory as a file, edited."""
    document = run("plan", factory(name), "--trust-code", *choices, "--json").document
    edit(document)
    return written(place, document)


def written(place: Place, document: object) -> Path:
    path = place.folder / "plan.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def follow(place: Place, plan: Path, *more: object, output: str = "new.safetensors") -> Outcome:
    return place.retrofit(place.plain, "plain", output, "--plan", plan, *more)


def sites_of(path: Path) -> list[str]:
    return [site["name"] for site in header_of(path)["plan"]["sites"]]


def reasons_of(path: Path) -> dict[str, str]:
    return {skip["name"]: skip["reason"] for skip in header_of(path)["plan"]["skips"]}


def moved(name: str, source: str, target: str) -> Edit:
    """Move a layer from one list to the other, as it stands there."""

    def edit(document: dict[str, Any]) -> None:
        (entry,) = [entry for entry in document[source] if entry["name"] == name]
        document[source].remove(entry)
        document[target].append(entry)

    return edit


@pytest.mark.parametrize("choices", [(), ("--like", factory("plain_bn")), ("--include", "*", "--include", "8")])
def test_a_plan_as_it_was_printed_gives_the_same_bytes_as_none(place: Place, choices: tuple[str, ...]) -> None:
    assert place.retrofit(place.plain, "plain", "without.safetensors", *choices).code == 0
    done = follow(place, planned(place, *choices), output="with.safetensors")
    assert (done.code, done.notes) == (0, [])
    assert (place.out / "with.safetensors").read_bytes() == (place.out / "without.safetensors").read_bytes()


def test_the_plan_says_which_model_it_is_where_nothing_else_does(place: Place) -> None:
    plan = planned(place)
    command = ("retrofit", place.plain, "--trust-code", "-d", place.images)
    assert run(*command, "--plan", plan, "-o", place.out / "new.safetensors").code == 0
    assert header_of(place.out / "new.safetensors")["model"] == factory("plain")
    assert run(*command, "-o", place.out / "other.safetensors").code == 2


def test_weights_of_the_library_are_those_of_the_plans_model(place: Place) -> None:
    plan = written(place, {"model": MODEL, "sites": [{"name": "features.0"}]})
    output = place.out / "new.safetensors"
    assert run("retrofit", "--weights", "DEFAULT", "--plan", plan, "-d", TRAIN, "-n", 4, "-o", output).code == 0
    assert sites_of(output) == ["features.0"]


def test_a_site_that_was_taken_out_becomes_a_skip(place: Place) -> None:
    done = follow(place, planned(place, edit=lambda document: document["sites"].pop(0)))
    assert done.code == 0
    assert "inserted       2 BatchNorms; 2 layers left alone\n" in done.out
    output = place.out / "new.safetensors"
    assert sites_of(output) == ["2", "6"]
    assert reasons_of(output)["0"] == "the plan file leaves it out"
    assert "makes the model's output" in reasons_of(output)["8"]


def test_layers_may_be_moved_from_one_list_to_the_other(place: Place) -> None:
    def edit(document: dict[str, Any]) -> None:
        moved("2", "sites", "skips")(document)
        moved("8", "skips", "sites")(document)

    assert follow(place, planned(place, edit=edit)).code == 0
    output = place.out / "new.safetensors"
    assert sites_of(output) == ["0", "6", "8"]
    assert reasons_of(output) == {"2": "the plan file leaves it out"}


def test_a_plan_of_choices_is_followed_like_the_choices(place: Place) -> None:
    assert place.retrofit(place.plain, "plain", "without.safetensors", "--layers", "conv").code == 0
    assert follow(place, planned(place, "--layers", "conv"), output="with.safetensors").code == 0
    assert equal(tensors_of(place.out / "with.safetensors"), tensors_of(place.out / "without.safetensors"))


def test_names_alone_are_enough_in_any_order(place: Place) -> None:
    assert follow(place, written(place, {"sites": [{"name": "6"}, {"name": "2", "channels": 6}]})).code == 0
    assert sites_of(place.out / "new.safetensors") == ["2", "6"]


def test_a_plan_that_python_wrote_is_followed(place: Place) -> None:
    import torch

    from bnretrofit import make_plan

    plan = make_plan(factories.plain(), torch.zeros(1, 3, 8, 8), exclude=["6"])
    assert follow(place, written(place, plan.to_json())).code == 0
    assert sites_of(place.out / "new.safetensors") == ["0", "2"]


@pytest.mark.parametrize(
    "choice", [("--include", "0"), ("--exclude", "0"), ("--layers", "conv,dense"), ("--like", factory("plain_bn"))]
)
def test_a_plan_file_and_choices_exclude_each_other(place: Place, choice: tuple[str, str]) -> None:
    done = follow(place, place.folder / "plan.json", *choice)
    assert (done.code, place.outputs()) == (2, [])
    assert f"--plan and {choice[0]} exclude each other" in done.error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such file"),
        (b"", "no proper JSON"),
        (b"sites: [0]", "no proper JSON"),
        (b"\x80\x02\xff", "it is no text"),
        (b"[" * 100_000, "no proper JSON"),
        (b'{"sites": [], "sites": [{"name": "0"}]}', "has the entry 'sites' twice"),
        (b'[{"name": "0"}]', "it is a list, not an object"),
        (b"{}", "it has no list of sites"),
        (b'{"sites": "0"}', "it has no list of sites"),
        (b'{"sites": ["0"]}', "sites[0] is no object with a name"),
        (b'{"sites": [{"name": 0}]}', "sites[0] is no object with a name"),
        (b'{"sites": [{"name": "0", "eps": 1}]}', "'0', has a field 'eps'"),
        (b'{"sites": [{"name": "0"}], "skips": null}', "it has no list of skips"),
        (b'{"sites": [{"name": "0"}, {"name": "0"}]}', "the layer '0' is among the sites twice"),
        (b'{"sites": [{"name": "0"}], "skips": [{"name": "0"}]}', "'0' is among the sites and among the skips"),
        (b'{"sites": [{"name": "0"}], "exclude": ["2"]}', "a plan has no entry 'exclude'"),
        (b'{"sites": [{"name": "0"}], "model": 1}', "its entry 'model' is no text"),
        (b'{"sites": [{"name": "0"}], "tensors": 1}', "its entry 'tensors' is no object"),
        (b'{"sites": [{"name": "0"}], "schema_version": 2}', "its schema_version is 2, where this version reads 1"),
        (b'{"sites": [{"name": "0"}], "plan_schema_version": "1"}', "its plan_schema_version is '1'"),
        (b'{"sites": 3, "command": "retrofit", "status": "ok"}', "bnretrofit retrofit printed it"),
        (b'{"command": "plan", "status": "error"}', "with the status 'error'"),
    ],
)
def test_a_damaged_file_is_rejected(place: Place, content: bytes | None, words: str) -> None:
    plan = place.folder / "plan.json"
    if content is not None:
        plan.write_bytes(content)
    done = follow(place, plan)
    assert (done.code, place.outputs()) == (4, [])
    assert words in done.error
    assert str(plan) in done.error


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"sites": []}, "names no layer"),
        ({"sites": [{"name": "features.0"}]}, "the model has no conv or dense layer 'features.0'"),
        ({"sites": [{"name": "1"}]}, "the model has no conv or dense layer '1'"),
        ({"sites": [{"name": "0"}], "skips": [{"name": "0\n2"}]}, "no conv or dense layer '0\\n2'"),
        ({"sites": [{"name": "0"}], "placement": "beside"}, "placement 'beside'"),
        ({"sites": [{"name": "0"}], "twin": "Sequential"}, "does not say which model that is"),
        ({"sites": [{"name": "0"}], "model": "torchvision:vgg61"}, "torchvision has no model 'vgg61'"),
        ({"sites": [{"name": "0"}], "like": factory("plain_bn")}, "leaves out the layer '2'"),
        ({"sites": [{"name": name} for name in "026"], "like": factory("plain_bn")}, "'6' cannot get a norm: the twin"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(place: Place, document: dict[str, Any], words: str) -> None:
    done = follow(place, written(place, document))
    assert (done.code, place.outputs()) == (2, [])
    assert words in done.error


@pytest.mark.parametrize(
    ("key", "fields", "words"),
    [
        ("sites", {"kind": "Linear"}, 'of \'0\' it says that kind is "Linear", and it is "Conv2d"'),
        ("sites", {"channels": 5}, "that channels is 5, and it is 4"),
        ("sites", {"channels": 4.0}, "that channels is 4.0, and it is 4"),
        ("sites", {"calls": True}, "that calls is true, and it is 1"),
        ("sites", {"norm": "BatchNorm1d"}, "that norm is"),
        ("sites", {"norm_name": "0.bn"}, "that norm_name is"),
        ("skips", {"kind": "Conv2d"}, 'of \'8\' it says that kind is "Conv2d", and it is "Linear"'),
    ],
)
def test_a_field_that_is_not_what_is_found_is_rejected(
    place: Place, key: str, fields: dict[str, object], words: str
) -> None:
    done = follow(place, planned(place, edit=lambda document: document[key][0].update(fields)))
    assert (done.code, place.outputs()) == (4, [])
    assert words in done.error


@pytest.mark.parametrize("entry", [{"twin": "VGG"}, {"tensors": {"0.weight": "2.weight"}}])
def test_another_twin_than_the_one_that_is_found_is_rejected(place: Place, entry: dict[str, object]) -> None:
    done = follow(place, planned(place, "--like", factory("plain_bn"), edit=lambda document: document.update(entry)))
    assert (done.code, place.outputs()) == (4, [])
    assert "what it says of its twin is not what was found" in done.error


def test_a_skip_that_cannot_be_a_site_is_refused_with_its_reason(place: Place) -> None:
    checkpoint = save_state(place.folder / "tied.pth", factories.tied())
    plan = planned(place, name="tied", edit=moved("a", "skips", "sites"))
    done = place.retrofit(checkpoint, "tied", "new.safetensors", "--plan", plan)
    assert (done.code, place.outputs()) == (2, [])
    assert "the layer 'a' cannot get a norm: its weight is tied" in done.error


def test_a_plan_for_another_model_is_refused_with_both_names(place: Place) -> None:
    done = follow(place, written(place, {"model": MODEL, "sites": [{"name": "0"}]}))
    assert (done.code, place.outputs()) == (2, [])
    assert f"the plan file is for {MODEL}, and -m says {factory('plain')}" in done.error


def test_a_plan_for_another_model_than_the_header_says_is_refused(place: Place, retrofitted: Path) -> None:
    plan = written(place, {"model": "torchvision:vgg11", "sites": [{"name": "features.0"}]})
    done = run("retrofit", retrofitted, "--plan", plan, "-d", TRAIN, "-o", place.out / "new.safetensors")
    assert (done.code, place.outputs()) == (2, [])
    assert f"the plan file is for torchvision:vgg11, and the checkpoint says {MODEL}" in done.error


def test_a_python_file_may_be_named_from_another_folder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(factories.__file__).parent)
    assert follow(place, written(place, {"model": "factories.py:plain", "sites": [{"name": "0"}]})).code == 0


def test_a_python_file_that_the_plan_names_is_not_run_without_trust(place: Place) -> None:
    output = ("-o", place.out / "new.safetensors")
    for command, names in (
        (("retrofit", place.plain, "-d", place.images), {"model": factory("plain")}),
        (("retrofit", DIGITS, "-m", MODEL, "-d", TRAIN), {"like": factory("plain_bn")}),
    ):
        done = run(*command, *output, "--plan", written(place, {**names, "sites": [{"name": "features.0"}]}))
        assert (done.code, place.outputs()) == (2, [])
        assert "pass --trust-code" in done.error


def test_the_bundled_network_is_its_own_example(place: Place) -> None:
    plan = place.folder / "plan.json"
    plan.write_text(run("plan", MODEL, "--json").out, encoding="utf-8")
    command = ("retrofit", DIGITS, "-d", TRAIN, "-n", 8, "-o")
    assert run(*command, place.out / "with.safetensors", "--plan", plan).code == 0
    assert run(*command, place.out / "without.safetensors", "-m", MODEL).code == 0
    assert (place.out / "with.safetensors").read_bytes() == (place.out / "without.safetensors").read_bytes()
