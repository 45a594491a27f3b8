"""Commands that run out of memory or of disk."""

import errno
import runpy
import sys
from pathlib import Path

import pytest
import torch

from tests.commands.running import Place, draw_images, factory, run, run_as_process, save_state, tensors_of

# Runs a command that calibrates with little more memory than its process has by then.
CRAMPED = """
import os, resource, sys
import bnretrofit.workflows.retrofitting as workflow

measure = workflow.calibrate

def cramped(*arguments):
    size = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, before[1]))
    try:
        return measure(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

workflow.calibrate = cramped
from cli.main import main
main()
"""

WIDE = """
from torch import nn

def wide():
    return nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
"""


def test_memory_that_runs_out_ends_with_5_and_says_how_much_was_needed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1288490189 bytes.")

    monkeypatch.setattr("bnretrofit.workflows.retrofitting.insert_sharing", fail)
    done = place.retrofit(place.plain, "plain", "new.pth")
    assert (done.code, place.outputs()) == (5, [])
    assert done.error.startswith("memory ran out: it tried to allocate 1.2 GiB. Use a smaller --batch-size")
    monkeypatch.undo()
    # What verification makes of it is not taken for a batch that the model does not take.
    monkeypatch.setattr("torch.nn.Sequential.forward", fail)
    model = ("-m", factory("plain"), "--trust-code")
    done = run("verify", place.plain, place.plain, *model, "-d", place.images)
    assert (done.code, "1.2 GiB" in done.error) == (5, True)


def test_a_disk_that_is_full_asks_for_no_smaller_batch(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bnretrofit.serialising.save_file", fail)
    done = place.retrofit(place.plain, "plain", "new.safetensors")
    assert (done.code, place.outputs()) == (5, [])
    assert done.error.endswith("No space left on device. Free some disk, or write to another one")


@pytest.mark.skipif(sys.platform != "linux", reason="sets and reads what memory a process may have as Linux does")
def test_a_batch_that_does_not_fit_in_memory_is_run_in_parts(tmp_path: Path) -> None:
    (tmp_path / "wide.py").write_text(WIDE)
    images = draw_images(tmp_path / "images", count=48, size=128)
    save_state(tmp_path / "wide.pth", runpy.run_path(str(tmp_path / "wide.py"))["wide"]())
    model = ("wide.pth", "-m", "wide.py:wide", "--trust-code", "-d", images)
    # One image takes 4 MiB in the first layer, and as much in the next.
    program = CRAMPED.replace("ROOM", str(200 << 20))
    # Each thread of OpenMP would map memory of its own.
    whole, parts = (
        run_as_process(
            "retrofit", *model, "-b", size, "-o", f"{size}.pth", "--json",
            cwd=tmp_path, program=("-c", program), OMP_NUM_THREADS="1",
        )
        for size in (8, 48)
    )  # fmt: skip
    assert (whole.code, parts.code) == (0, 0), whole.err + parts.err
    assert [note for note in whole.notes if "did not fit" in note] == []
    (note,) = parts.notes
    assert note.startswith("a batch of 48 samples did not fit in memory, so batches were run in parts of at most ")
    assert parts.document["report"]["notes"] == [note]
    a, b = tensors_of(tmp_path / "8.pth"), tensors_of(tmp_path / "48.pth")
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-5, atol=1e-6)
