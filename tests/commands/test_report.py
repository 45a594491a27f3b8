"""`bnretrofit report` and `plan --graph`: what they write, say and refuse."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
from torch import Tensor

from tests.commands.running import (
    DIGITS,
    MODEL,
    TRAIN,
    VAL,
    Place,
    draw_classes,
    factory,
    header_of,
    rewrite,
    run,
    tensors_of,
)

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def folded(retrofitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("folded") / "folded.safetensors"
    assert run("fold", retrofitted, "-o", output).code == 0
    return output


def report(target: Path, output: Path, *more: object) -> Any:
    done = run("report", target, "-o", output, "--json", *more)
    return done.document


def test_a_retrofitted_file_is_held_against_what_it_folds_to(retrofitted: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    told = report(retrofitted, page, "-d", VAL, "-n", 16)
    assert (told["status"], told["exit_code"]) == ("ok", 0)
    assert told["report"]["proved"]
    assert told["accuracy"][0] == told["accuracy"][1] > 0.9
    assert [layer["state"] for layer in told["layers"]] == ["inserted"] * 10 + ["skipped"]
    plan = header_of(retrofitted)["plan"]
    assert [layer["name"] for layer in told["layers"]][:10] == [site["name"] for site in plan["sites"]]
    for layer, site in zip(told["layers"], plan["sites"], strict=False):
        mean: Tensor = tensors_of(retrofitted)[f"{site['norm_name']}.running_mean"]
        assert layer["statistics"]["mean"]["largest"] == float(mean.max())
        assert layer["statistics"]["mean"]["least"] == float(mean.min())
        assert layer["statistics"]["scale"]["largest"] == pytest.approx(1, rel=1e-5)
    assert [each["batch_size"] for each in told["drift"]] == [2, 8]
    assert told["provenance"]["Made from"]["sha256"] == header_of(retrofitted)["source"]["sha256"]
    assert told["provenance"]["Calibrated on"]["images"] == "40"
    text = page.read_text()
    assert "Left alone: it makes the model&#39;s output (logits)" in text
    assert "proved equal for every finite input</dt><dd>yes" in text


def test_it_says_on_a_terminal_what_it_found(retrofitted: Path, tmp_path: Path) -> None:
    done = run("report", retrofitted, "-o", tmp_path / "page.html")
    assert done.code == 0
    assert done.out.startswith("A network into which norms were inserted: bnretrofit:digits_vgg11.")
    assert "beside what it folds to  proved equal" in done.out
    assert f"wrote {tmp_path / 'page.html'}: 11 layers" in done.out
    assert "takes images (-d)" in (tmp_path / "page.html").read_text()


def test_another_file_that_is_not_the_same_fails_and_the_page_says_where(
    retrofitted: Path, folded: Path, tmp_path: Path
) -> None:
    def off(tensors: dict[str, Tensor]) -> None:
        tensors["features.6.weight"] *= 1.01

    wrong = rewrite(folded, tmp_path / "wrong.safetensors", off)
    page = tmp_path / "page.html"
    done = run("report", retrofitted, "--against", wrong, "-d", VAL, "-n", 8, "-o", page, "--json")
    assert done.code == 3
    assert done.document["status"] == "failed"
    assert done.document["report"]["layer"] == "features.6.layer"
    assert "Failed" in page.read_text()
    assert "features.6" in page.read_text()


def test_a_folded_file_tells_what_was_folded(retrofitted: Path, folded: Path, tmp_path: Path) -> None:
    alone = report(folded, tmp_path / "alone.html")
    assert [layer["state"] for layer in alone["layers"]] == ["folded"] * 10 + [""]
    assert "the norm 'features.0.norm' was folded into it" in alone["layers"][0]["note"]
    assert alone["report"] is None
    assert "--against FILE" in (tmp_path / "alone.html").read_text()
    beside = report(folded, tmp_path / "beside.html", "--against", retrofitted, "-d", VAL, "-n", 8)
    assert beside["report"]["proved"]
    # Without a norm, means and variances are those of the images.
    assert beside["layers"][0]["statistics"]["scale"] is None
    assert beside["layers"][0]["statistics"]["variance"]["least"] > 0


def test_a_folded_file_that_does_not_say_what_was_folded_is_shown_as_it_is(folded: Path, tmp_path: Path) -> None:
    for folds in (None, 3, [{"layer": "elsewhere", "norm": "x"}]):
        other = rewrite(folded, tmp_path / "other.safetensors", folds=folds)
        told = report(other, tmp_path / "page.html", "--overwrite")
        assert [layer["state"] for layer in told["layers"]] == [""] * 11
        assert told["notes"]


def test_a_network_of_another_make_is_told_with_its_own_norms(place: Place) -> None:
    from tests.commands import factories
    from tests.commands.running import save_state

    path = save_state(place.out / "bn.pth", factories.plain_bn())
    told = report(path, place.out / "page.html", "-m", factory("plain_bn"), "--trust-code", "-d", place.images)
    assert told["report"]["passed"]
    assert [layer["norm"] for layer in told["layers"]][:1] == ["BatchNorm2d"]
    assert told["layers"][0]["statistics"]["scale"]["largest"] > 0


def test_a_run_is_told_with_its_curves_and_settings(place: Place, tmp_path: Path) -> None:
    folder, train, val = tmp_path / "run", draw_classes(tmp_path / "train"), draw_classes(tmp_path / "val")
    named = ("-m", factory("plain"), "--trust-code")
    given = ("-d", train, "--val", val, "-b", 8, "--epochs", 2, "--lr", 0.001, "--bn-stats", "batch", "--device", "cpu")
    assert run("run", place.plain, *named, *given, "-o", folder).code == 0
    told = report(folder, tmp_path / "page.html", "-n", 16, *named)
    assert told["title"] == "run"
    assert [epoch["epoch"] for epoch in told["history"]["epochs"]] == [0, 1, 2]
    assert told["provenance"]["The run"]["lr"] == "0.001"
    assert told["provenance"]["The file"]["name"] == "best.safetensors"
    # Its own validation images were found, and its own folded file was held against it.
    assert told["report"]["samples"] == 16
    assert told["report"]["passed"]
    text = (tmp_path / "page.html").read_text()
    assert "Compared: best.safetensors, and folded.safetensors." in text
    assert told["provenance"]["This page"]["images.folder"] == str(val)
    assert "Epochs; 0 is before the first step" in text
    inner = report(folder / "training", tmp_path / "inner.html", *named)
    assert inner["history"] == told["history"]


def test_the_epoch_that_is_told_is_that_of_the_weights_that_are_shown(place: Place, tmp_path: Path) -> None:
    images = draw_classes(tmp_path / "train")
    named = ("-m", factory("plain"), "--trust-code")
    assert run("retrofit", place.plain, *named, "-d", images, "-o", tmp_path / "bn.safetensors").code == 0
    folder = tmp_path / "run"
    data = ("-d", images, "--val", images, "-b", 8, "--bn-stats", "batch", "--device", "cpu")
    # Statistics that stay where they were hide how good the last epoch is.
    lagging = ("--epochs", 6, "--lr", 0.1, "--bn-momentum", 1e-9)
    assert run("finetune", tmp_path / "bn.safetensors", "--trust-code", *data, *lagging, "-o", folder).code == 0
    training = header_of(folder / "best.safetensors")["training"]
    told = report(folder, tmp_path / "page.html", *named)
    epochs = told["history"]["epochs"]
    chosen = max(epochs, key=lambda epoch: (epoch["val_top1"], -epoch["val_loss"]))
    assert (training["statistics"], training["epoch"]) == ("measured", 6)
    assert chosen["epoch"] < 6
    text = (tmp_path / "page.html").read_text()
    assert "top-1, epoch 6 of 6" in text
    assert f"{100 * epochs[0]['val_top1']:.2f} % → {100 * training['val_top1']:.2f} %" in text


def test_what_cannot_be_shown_is_refused(retrofitted: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert "name it page.html" in run("report", retrofitted, "-o", tmp_path / "page.pdf").error
    page.write_text("mine")
    assert run("report", retrofitted, "-o", page).code == 2
    assert page.read_text() == "mine"
    assert run("report", tmp_path / "missing.pth", "-o", tmp_path / "other.html").code == 4
    empty = tmp_path / "begun"
    empty.mkdir()
    (empty / "args.yaml").write_text("lr: 1\n")
    done = run("report", empty, "-o", tmp_path / "other.html")
    assert done.code == 2
    assert "nothing to show yet" in done.error
    (empty / "state.safetensors").write_bytes(b"no state")
    assert run("report", empty, "-o", tmp_path / "other.html").code == 2
    (empty / "best.safetensors").write_bytes(retrofitted.read_bytes())
    assert run("report", empty, "-o", tmp_path / "other.html").code == 4
    (empty / "state.safetensors").write_bytes(retrofitted.read_bytes())
    assert "this is no state of a run" in run("report", empty, "-o", tmp_path / "other.html").error
    assert not (tmp_path / "other.html").exists()


def test_another_tool_s_folder_is_no_run(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "args.yaml").write_text("model: digits\n")
    save_file(load_file(DIGITS), folder / "model.safetensors")
    assert report(folder, tmp_path / "page.html", "-m", MODEL)["history"] is None


def test_only_code_that_the_user_names_is_run(small: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\ndef net():\n    raise SystemExit\n")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "args.yaml").write_text("lr: 1\n")
    (folder / "best.safetensors").write_bytes(small.read_bytes())
    rewrite(small, folder / "folded.safetensors", stage="folded", model=f"{tmp_path / 'evil.py'}:net")
    run("report", folder, "-m", factory("plain"), "--trust-code", "-o", tmp_path / "page.html")
    assert not mark.exists()


def test_what_differs_outside_the_part_is_seen(tmp_path: Path) -> None:
    part = tmp_path / "part.safetensors"
    given = ("-m", MODEL, "--submodule", "features", "-d", TRAIN, "-n", 8)
    assert run("retrofit", DIGITS, *given, "-o", part).code == 0
    tensors = tensors_of(DIGITS)
    tensors["classifier.6.bias"] += 1
    torch.save(tensors, tmp_path / "other.pth")
    assert run("report", part, "--against", DIGITS, "-o", tmp_path / "same.html").code == 0
    done = run("report", part, "--against", tmp_path / "other.pth", "-o", tmp_path / "other.html", "--json")
    assert done.code == 3
    assert "outside 'features'" in done.document["report"]["reason"]


def test_a_plan_that_was_drawn_can_be_followed(tmp_path: Path) -> None:
    done = run("plan", MODEL, "--graph", tmp_path / "plan.svg", "--json")
    (tmp_path / "plan.json").write_text(done.out)
    given = ("--plan", tmp_path / "plan.json", "-d", TRAIN, "-n", 8)
    assert run("retrofit", DIGITS, *given, "-o", tmp_path / "bn.safetensors").code == 0


def test_a_fold_into_another_architecture_says_that_its_layers_are_not_known(tmp_path: Path) -> None:
    from tests.commands import factories
    from tests.commands.running import save_state

    bn = save_state(tmp_path / "bn.pth", factories.plain_bn())
    given = ("-m", factory("plain_bn"), "--trust-code", "--like", factory("plain"))
    assert run("fold", bn, *given, "-o", tmp_path / "folded.safetensors").code == 0
    told = report(tmp_path / "folded.safetensors", tmp_path / "page.html", "--trust-code", "-m", factory("plain"))
    assert {layer["state"] for layer in told["layers"]} == {""}
    assert any("does not say into which" in note for note in told["notes"])


def test_settings_of_a_run_that_are_no_settings_are_refused_by_name(retrofitted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "args.yaml").write_text("lr: [")
    (folder / "best.safetensors").write_bytes(retrofitted.read_bytes())
    done = run("report", folder, "-o", tmp_path / "page.html")
    assert done.code == 4
    assert "args.yaml: the run's settings cannot be read" in done.error


def test_a_plan_is_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"
    done = run("plan", MODEL, "--graph", picture)
    assert done.code == 0
    assert done.out.endswith(f"\nwrote {picture}\n")
    root = ET.fromstring(picture.read_text())  # noqa: S314 - our own
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts.count("BatchNorm2d") == 8
    titles = [element.text or "" for element in root.iter(f"{SVG}title")]
    assert any(title.startswith("classifier.6: Linear, 10 channels. Left alone: it makes") for title in titles)
    told = run("plan", MODEL, "--graph", tmp_path / "plan.html", "--json").document
    assert told["graph"] == str(tmp_path / "plan.html")
    assert "A plan: where norms would be inserted" in (tmp_path / "plan.html").read_text()


def test_a_plan_is_not_drawn_over_anything_nor_as_anything(tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"
    picture.write_text("mine")
    assert run("plan", MODEL, "--graph", picture).code == 2
    assert picture.read_text() == "mine"
    assert run("plan", MODEL, "--graph", picture, "--overwrite").code == 0
    assert picture.read_text().startswith("<svg")
    assert "a picture is .svg or .html" in run("plan", MODEL, "--graph", tmp_path / "plan.png").error


def test_pages_are_the_same_for_the_same(retrofitted: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    torch.manual_seed(1)
    assert run("report", retrofitted, "-o", first).code == 0
    torch.manual_seed(2)
    assert run("report", retrofitted, "-o", second).code == 0
    assert first.read_bytes() == second.read_bytes()
