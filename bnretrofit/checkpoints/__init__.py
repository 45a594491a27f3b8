"""Checkpoint files in, through one door: admitted first, then read, without running anything from them."""

from bnretrofit.checkpoints.digests import BLANK, ROOM, own_digest, sealed, stamped
from bnretrofit.checkpoints.headers import DIGEST_KEY, HEADER_KEY, read_header, tensors_header
from bnretrofit.checkpoints.kinds import kind_of_file
from bnretrofit.checkpoints.places import place_of
from bnretrofit.checkpoints.reading import Checkpoint, read

__all__ = [
    "BLANK",
    "DIGEST_KEY",
    "HEADER_KEY",
    "ROOM",
    "Checkpoint",
    "kind_of_file",
    "own_digest",
    "place_of",
    "read",
    "read_header",
    "sealed",
    "stamped",
    "tensors_header",
]
