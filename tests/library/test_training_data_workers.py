"""The processes that decode: what they give does not depend on them, and they end."""

import multiprocessing
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnretrofit.training_data import LabelledBatch, TrainingSource, open_training
from tests.library.class_folders import same, validated

# A machine with one core is told that it has one.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def disturb(number: int) -> None:
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - what timm draws from
    torch.manual_seed(number)


def states() -> tuple[Any, ...]:
    numpys: Any = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numpys[1].tolist(), numpys[2], torch.get_rng_state().tolist()


@pytest.mark.parametrize("aug", ["light", "timm"])
def test_batches_are_the_same_whatever_workers_and_generators(source: TrainingSource, aug: str) -> None:
    epochs = []
    for workers in (0, 1, 2):
        disturb(workers)
        opened = open_training(replace(source, aug=aug, workers=workers))
        # The second epoch comes from the same processes as the first.
        epochs.append([list(opened.train(epoch)) for epoch in (0, 1)])
        opened.close()
    for others in epochs[1:]:
        assert all(same(a, b) for a, b in zip(epochs[0], others, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_generators_are_left_as_they_were(source: TrainingSource, workers: int) -> None:
    opened = open_training(replace(source, aug="timm", workers=workers, val_split=0.2))
    before = states()
    assert len(list(opened.train(0))) == 4
    assert len(validated(opened)) > 0
    assert len(list(opened.calibration_batches(5))) == 2
    assert states() == before
    opened.close()


ORPHANED = """
import multiprocessing, os, signal, time
from bnretrofit.workers import begin_worker

def work():
    begin_worker(0)
    print("begun", flush=True)
    time.sleep(600)

multiprocessing.get_context("fork").Process(target=work).start()
time.sleep(1)
os.kill(os.getpid(), signal.SIGKILL)
"""
"""A process that is killed when its worker has begun, and nothing of torch's looks after that yet."""


def test_a_worker_ends_with_the_process_that_it_works_for() -> None:
    # Its output is whole once nobody is left who could write to it.
    done = subprocess.run([sys.executable, "-c", ORPHANED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "begun\n")


def workers_of(act: Callable[[], Any]) -> set[multiprocessing.process.BaseProcess]:
    before = set(multiprocessing.active_children())
    act()
    return set(multiprocessing.active_children()) - before


def test_workers_end_with_an_iterator_that_is_given_up(source: TrainingSource) -> None:
    opened = open_training(replace(source, workers=1))
    begun: list[Iterator[LabelledBatch]] = []

    def begin() -> None:
        begun.append(opened.train(0))
        next(begun[0])

    (worker,) = workers_of(begin)
    begun.pop().close()  # type: ignore[attr-defined]
    assert not worker.is_alive()
    # It can be begun again, and a pass to its end leaves its worker for the next until it is let go.
    (worker,) = workers_of(lambda: list(opened.train(0)))
    assert workers_of(lambda: list(opened.train(1))) == set()
    assert worker.is_alive()
    opened.close()
    assert not worker.is_alive()


def test_a_relabelled_set_has_the_same_workers_and_bad_images(source: TrainingSource, images: Path) -> None:
    (images / "dog" / "3.png").write_text("no image")
    opened = open_training(replace(source, workers=1, batch_size=7, max_bad_images=1))
    other = opened.relabelled([5, 6, 7])
    (worker,) = workers_of(lambda: list(other.train(0)))
    assert len(opened.bad) == 1
    opened.close()
    assert not worker.is_alive()


def test_two_passes_at_a_time_do_not_disturb_each_other(source: TrainingSource) -> None:
    opened = open_training(replace(source, workers=1))
    pairs = list(zip(opened.train(0), opened.train(1), strict=True))
    for epoch in (0, 1):
        assert same([pair[epoch] for pair in pairs], list(open_training(source).train(epoch)))
    opened.close()
