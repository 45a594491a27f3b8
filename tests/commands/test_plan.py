"""`bnretrofit plan`: every layer is a site or a skip, and the choices that move layers between the two."""

from pathlib import Path

import pytest

from bnretrofit.sites import Plan, Skip
from cli.tree import plan_text
from tests.commands.running import MODEL, Place, factory, run

CONVS = {f"features.{index}" for index in (0, 3, 6, 8, 11, 13, 16, 18)}
DENSE = {f"classifier.{index}" for index in (0, 3, 6)}


def rows(text: str) -> dict[str, list[str]]:
    """The rows of a plan's tree by full name, in their order: the words of each behind its name."""
    found: dict[str, list[str]] = {}
    path: list[str] = []
    for line in text.split("\n\n", maxsplit=1)[0].splitlines()[1:]:
        label, *cells = line.split()
        path[(len(line) - len(line.lstrip())) // 2 :] = [label]
        assert ".".join(path) not in found
        found[".".join(path)] = cells
    return found


def names(document: dict[str, list[dict[str, str]]], key: str) -> set[str]:
    return {entry["name"] for entry in document[key]}


def test_a_plan_names_every_layer_as_text() -> None:
    done = run("plan", MODEL)
    assert (done.code, done.err) == (0, "")
    shown = rows(done.out)
    assert {name for name, cells in shown.items() if cells} == CONVS | DENSE
    assert [name for name, cells in shown.items() if not cells] == ["features", "classifier"]
    assert shown["features.3"] == ["Conv2d", "32", "BatchNorm2d"]
    assert " ".join(shown["classifier.6"]).startswith("Linear nothing: it makes the model's output")
    assert done.out.endswith("\n\n10 layers get a BatchNorm (752 channels), 1 is left alone.\n")
    assert max(map(len, done.out.splitlines())) <= 120


def test_the_tree_has_siblings_in_the_order_in_which_the_model_runs_them() -> None:
    shown = rows(run("plan", factory("crosswise"), "--trust-code").out)
    assert list(shown) == ["body", "body.early", "body.late", "head", "spare"]
    assert shown["body.early"] == ["Conv2d", "3", "BatchNorm2d,", "called", "2", "x"]
    assert shown["body.late"] == ["Conv2d", "3", "BatchNorm2d"]
    assert "never calls it" in " ".join(shown["spare"])


def test_many_reasons_are_counted_whichever_layer_they_name() -> None:
    reasons = [
        "BatchNorm2d 'a.bn' is there",
        "it is the model's own",
        "BatchNorm2d 'b.bn' is there",
        "it's 'x' and 'y'",
    ]
    skips = tuple(Skip(f"{index}", "Conv2d", reason) for index, reason in enumerate(reasons))
    *_, total, counts = plan_text(Plan((), skips, inputs=None), ()).split("\n\n")
    assert total == "0 layers get a BatchNorm (0 channels), 4 are left alone."
    assert [line.split(maxsplit=1) for line in counts.splitlines()[1:]] == [
        ["2", "BatchNorm2d '…' is there"],
        ["1", "it is the model's own"],
        ["1", "it's '…' and '…'"],
    ]
    assert "because" not in plan_text(Plan((), skips[:3], inputs=None), ())


def test_a_layer_may_hold_layers_or_be_the_whole_model() -> None:
    inner = Skip("qkv.weight", "functional", "no layer")
    assert list(rows(plan_text(Plan((), (inner, Skip("qkv", "Linear", "used")), inputs=None), ()))) == [
        "qkv",
        "qkv.weight",
    ]
    text = plan_text(Plan((), (Skip("", "Linear", "it is all there is"),), inputs=None), ("",))
    assert text.splitlines()[1].startswith("(the model)  Linear")
    assert plan_text(Plan((), (), inputs=None), ()) == "0 layers get a BatchNorm (0 channels), 0 are left alone."


def test_a_plan_is_one_json_document_in_which_every_layer_is_a_site_or_a_skip() -> None:
    done = run("plan", MODEL, "--json")
    assert (done.code, done.err) == (0, "")
    said = done.document
    envelope = {"schema_version": 1, "command": "plan", "status": "ok", "exit_code": 0, "model": MODEL}
    assert said.items() >= envelope.items()
    assert names(said, "sites") == (CONVS | DENSE) - {"classifier.6"}
    assert names(said, "skips") == {"classifier.6"}
    assert said["sites"][0].items() >= {"name": "features.0", "kind": "Conv2d", "channels": 16, "calls": 1}.items()
    assert all(len(skip["reason"].split()) > 3 for skip in said["skips"])


def test_only_convs_are_taken_if_so_asked() -> None:
    said = run("plan", MODEL, "--layers", "conv", "--json").document
    assert names(said, "sites") == CONVS
    assert names(said, "skips") == DENSE
    assert names(run("plan", MODEL, "--layers", "dense", "--json").document, "sites") == DENSE - {"classifier.6"}


def test_include_and_exclude_take_globs_and_may_be_repeated() -> None:
    chosen = ("--include", "features.*", "--include", "classifier.0", "--exclude", "features.1?")
    said = run("plan", MODEL, *chosen, "--json").document
    assert names(said, "sites") == {"features.0", "features.3", "features.6", "features.8", "classifier.0"}
    reasons = {skip["name"]: skip["reason"] for skip in said["skips"]}
    assert "features.1?" in reasons["features.11"]
    assert "--include" in reasons["classifier.3"]
    assert names(said, "skips") == (CONVS | DENSE) - names(said, "sites")


@pytest.mark.parametrize("option", ["--include", "--exclude"])
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name(option: str) -> None:
    done = run("plan", MODEL, option, "classifer.3")
    assert done.code == 2
    assert "'classifer.3'" in done.error
    assert "classifier.3" in done.error


def test_a_plan_for_a_twin_leaves_out_what_the_twin_has_no_norm_for() -> None:
    done = run("plan", factory("plain"), "--trust-code", "--like", factory("plain_bn"), "--json")
    assert done.code == 0
    assert names(done.document, "sites") == {"0", "2"}
    assert names(done.document, "skips") == {"6", "8"}
    assert done.document["like"] == factory("plain_bn")


def test_a_checkpoint_is_planned_by_its_own_header(retrofitted: Path) -> None:
    folded = retrofitted.parent / "folded.safetensors"
    assert run("fold", retrofitted, "-o", folded, "--overwrite").code == 0
    done = run("plan", folded, "--json")
    assert (done.code, done.document["model"]) == (0, MODEL)
    assert len(done.document["sites"]) == 10


def test_a_checkpoint_without_header_is_planned_as_the_model_that_is_given(place: Place) -> None:
    assert run("plan", place.plain).code == 2
    done = run("plan", place.plain, "-m", factory("plain"), "--trust-code", "--json")
    assert names(done.document, "sites") == {"0", "2", "6"}


def test_a_plan_writes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.out)
    assert run("plan", MODEL, "--img-size", "48").code == 0
    assert place.outputs() == []


def test_a_bare_name_is_taken_with_a_note() -> None:
    done = run("plan", "alexnet", "--json")
    assert done.document["model"] == "torchvision:alexnet"
    assert done.notes == ["'alexnet' was taken as torchvision:alexnet"]


def test_a_file_that_is_not_there_is_said_to_be_missing() -> None:
    done = run("plan", "missing.safetensors")
    assert done.code in (2, 4)
    assert "no such file" in done.error
