"""The bounds that a checkpoint must keep to be opened at all: each keeps memory near the file's own size."""

__all__ = [
    "HANDED_OVER",
    "HEADER_BYTES",
    "MEMBERS",
    "OPERATIONS",
    "PICKLE_BYTES",
    "SHARDS",
    "SHARING",
    "TENSORS",
]

HEADER_BYTES = 16 << 20
"""Of a safetensors header: parsed, it takes ten times its size. A network of 10,000 layers and its plan take 4 MB."""

TENSORS = 200_000
"""In a file: what Python notes of each takes about a kilobyte. The largest networks have some thousands."""

MEMBERS = 200_000
"""Of a zip archive, likewise: torch.save writes one for each tensor."""

PICKLE_BYTES = 32 << 20
"""Of the pickle beside the tensors: text in it may take four times its size. torch.save writes some 200 bytes for each
tensor."""

HANDED_OVER = 4_000_000
"""Elements and letters that the calls in that pickle are given together: one list may be given to each of many."""

OPERATIONS = 1_000_000
"""Of that pickle: each may make an empty container of some 90 bytes. torch.save writes some 25 for each tensor."""

SHARING = 16
"""How often a file's bytes may stand in its tensors, through tied weights: outputs hold each tied tensor by itself."""

SHARDS = 10_000
"""Files that an index may name."""
