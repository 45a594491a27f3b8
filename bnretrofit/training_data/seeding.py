"""Randomness as a function of names and numbers, whatever the process has drawn before."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import get_worker_info

__all__ = ["generator", "preserved", "seed", "seed_of"]


def generator(*key: int | str) -> torch.Generator:
    """A generator of its own for torch.

    Args:
        key: What it is for; another key gives other numbers.
    """
    made = torch.Generator()
    made.manual_seed(seed_of(*key))
    return made


def seed(*key: int | str) -> None:
    """Seed the generators that transforms draw from: of Python, NumPy and torch on the CPU.

    Args:
        key: What is drawn for; another key gives other numbers.
    """
    number = seed_of(*key)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002 - what timm's transforms draw from
    # The CPU's alone: torch.manual_seed would seed accelerators too, where dropout draws.
    torch.default_generator.manual_seed(number)


@contextmanager
def preserved() -> Iterator[None]:
    """Put those generators back as they were; but for a worker's, from which nothing else draws."""
    if get_worker_info() is not None:
        yield
        return
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.default_generator.set_state(states[2])


def seed_of(*key: int | str) -> int:
    """A seed of 56 bits: a function of all that is given, and unlike that of any other key."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:7], "big")
