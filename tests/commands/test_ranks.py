"""`torchrun … bnretrofit finetune`: two processes, and one that goes over the batches of both."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.commands import factories
from tests.commands.running import (
    EPOCHS,
    ROOT,
    draw_classes,
    environment,
    factory,
    header_of,
    run,
    save_state,
    tensors_of,
)

BOUND = 1e-6
"""Of losses and weights: gradients are float32, and added up in another order."""


@pytest.fixture(scope="module")
def two_ways(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of a run of one rank and of a run of two with the same global batches; beside them is `half`."""
    folder = tmp_path_factory.mktemp("ranks")
    draw_classes(folder / "train", each=16)
    draw_classes(folder / "val", each=5)
    torch.manual_seed(0)
    plain = save_state(folder / "plain.pth", factories.plain())
    bn = folder / "bn.safetensors"
    named = ("-m", factory("plain"), "--trust-code")
    assert run("retrofit", plain, *named, "-d", folder / "train", "-o", bn).code == 0
    given = ("finetune", bn, "--trust-code", "-d", folder / "train", "--val", folder / "val", *EPOCHS)
    one = run(*given, "-o", folder / "one", "--grad-accum-steps", 2)
    assert one.code == 0, one.err
    half = run(*given, "-o", folder / "half")
    assert half.code == 0, half.err
    two = on_two_ranks(*given, "-o", folder / "two")
    assert two.returncode == 0, two.stderr
    # What is said is said once.
    assert two.stdout.count("model ") == one.out.count("model ")
    return folder / "one", folder / "two"


def on_two_ranks(*arguments: object) -> subprocess.CompletedProcess[str]:
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "--module", "cli")
    return subprocess.run(
        [*map(str, (*launch, *arguments))],
        cwd=ROOT,
        env=environment() | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def losses(folder: Path) -> list[tuple[float, float]]:
    with (folder / "summary.csv").open() as file:
        return [(float(row["train_loss"] or 0), float(row["val_loss"])) for row in csv.DictReader(file)]


def test_two_ranks_lose_what_one_loses(two_ways: tuple[Path, Path]) -> None:
    one, two = map(losses, two_ways)
    assert len(one) == len(two) == 4
    assert one[-1][1] < one[0][1]
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=BOUND)


def test_a_rank_whose_gradients_were_lost_would_be_seen(two_ways: tuple[Path, Path]) -> None:
    one, half = losses(two_ways[0]), losses(two_ways[0].parent / "half")
    assert half[-1] != pytest.approx(one[-1], rel=100 * BOUND)
    last, other = (tensors_of(folder / "last.safetensors") for folder in (two_ways[0], two_ways[0].parent / "half"))
    assert any((last[name] - other[name]).abs().max() > 100 * BOUND for name in last if last[name].is_floating_point())


def test_two_ranks_end_with_the_same_network(two_ways: tuple[Path, Path]) -> None:
    one, two = (tensors_of(folder / "last.safetensors") for folder in two_ways)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=BOUND, atol=BOUND, msg=name)
    kinds = [header_of(folder / "last.safetensors")["stage"] for folder in two_ways]
    assert kinds == ["finetuned", "finetuned"]


def test_ranks_with_batches_of_several_sizes_and_a_layer_without_use_end_together(tmp_path: Path) -> None:
    draw_classes(tmp_path / "train", each=11)
    for number in range(2):
        (tmp_path / "train" / "class0" / f"{number}.png").unlink()
    checkpoint = save_state(tmp_path / "idle.pth", factories.idle())
    # 16 images for one and 15 for the other: by itself one would freeze its norms, and the other wait for it.
    given = ("finetune", checkpoint, "-m", factory("idle"), "--trust-code", "-d", tmp_path / "train", "-b", 16)
    done = on_two_ranks(*given, "--epochs", 2, "--device", "cpu", "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "norms use the statistics of each batch" in done.stderr
    assert "2 parameters learn nothing" in done.stderr


def test_all_ranks_refuse_to_go_on_with_what_is_not_there(tmp_path: Path) -> None:
    done = on_two_ranks("finetune", tmp_path / "bn.safetensors", "-d", tmp_path, "-o", tmp_path / "rum", "--resume")
    assert done.returncode != 0
    assert 1 <= done.stderr.count("there is no run to go on with") <= 2
    assert not (tmp_path / "rum").exists()
