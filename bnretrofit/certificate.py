"""What was proved of two models, norm by norm and channel by channel, as a document that can be checked again.

A norm's channel is the identity if the running kernel's factor is 1 and its summand 0 (see `identity`). With all norms
dropped that are so on every channel, two graphs with the same operators that read equal tensors are the same function.
So the document has the factors and summands, the tensors' digests, and whether they are equal; it is checked by making
it again from the two models, which takes no image.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.batches import Batch, describe, device_of, dtype_of
from bnretrofit.capture import Graph
from bnretrofit.errors import InputRejectedError
from bnretrofit.identity import effective, kernel_is_exact
from bnretrofit.norm_calls import plain_norms
from bnretrofit.proof import tensor_pairs
from bnretrofit.trials.graphs import GraphsCompared
from bnretrofit.weights import Weight, weight_error

__all__ = ["CERTIFICATE_SCHEMA", "certify", "discrepancies"]

CERTIFICATE_SCHEMA = 1


def certify(a: nn.Module, b: nn.Module, example: Batch) -> dict[str, Any]:
    """Prove what can be proved of two models.

    Args:
        a: The reference.
        b: The model to judge.
        example: A batch, as both take it; only its shapes and dtypes matter.

    Returns:
        A JSON document: `proved`, `difference`, the `norms` of both and the `tensors` that they read.

    Raises:
        InputRejectedError: A model cannot be captured.
    """
    compared = GraphsCompared.of(a, b, example, None)
    if compared.graphs is None:
        raise InputRejectedError("nothing can be certified of the models", why=compared.notes[0])
    pairs = tensor_pairs(*compared.graphs)
    return {
        "schema_version": CERTIFICATE_SCHEMA,
        "proved": compared.proof.same_tensors,
        "difference": compared.proof.difference,
        "inputs": describe(example),
        "kernel": kernel_of(a),
        "norms": [entry for side, graph in zip("ab", compared.graphs, strict=True) for entry in _norms(side, graph)],
        "tensors": None if pairs is None else [_tensor(mine, other) for mine, other, _ in pairs],
    }


def discrepancies(said: Any, found: dict[str, Any]) -> list[str]:
    """Where a certificate does not say what is found, as sentences; none where it holds.

    Args:
        said: The certificate, as it was read.
        found: What `certify` makes of the models now.
    """
    if not isinstance(said, dict) or not found.keys() <= said.keys():
        return ["the document is no certificate, or lacks a part of one"]
    problems = [
        f"it says that {key} is {said[key]!r}, and it is {found[key]!r}"
        for key in ("schema_version", "proved", "difference", "inputs", "kernel")
        if said[key] != found[key]
    ]
    for key, what in (("norms", "norm"), ("tensors", "tensor")):
        problems += _differing(what, said[key] or [], found[key] or [])
    return problems


def _differing(what: str, said: Any, found: list[dict[str, Any]]) -> list[str]:
    if not isinstance(said, list) or len(said) != len(found):
        return [f"it lists other {what}s than the {len(found)} that are there"]
    return [
        f"what it says of the {what} '{now.get('name', now.get('b'))}' is not what is there"
        for before, now in zip(said, found, strict=True)
        if before != now
    ]


def kernel_of(model: nn.Module) -> dict[str, str]:
    """What the factors and summands depend on, besides the norms."""
    device = device_of(model)
    capability = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else torch.cuda.get_device_name(device)
    return {
        "torch": str(torch.__version__),
        "device": device.type,
        "capability": capability,
        "dtype": str(dtype_of(model)).removeprefix("torch."),
    }


def _norms(side: str, graph: Graph) -> list[dict[str, Any]]:
    names = dict.fromkeys(graph.owners[call] for call in plain_norms(graph))
    return [{"model": side, "name": name, **_channels(graph.model.get_submodule(name))} for name in names]


def _channels(norm: nn.Module) -> dict[str, Any]:
    factor, summand = (tensor.double() for tensor in effective(norm))
    exact = kernel_is_exact(norm)
    return {
        "channels": len(factor),
        "identity_channels": int(((factor == 1) & (summand == 0)).sum()) if exact else 0,
        "factors": _shortened(factor),
        "summands": _shortened(summand),
        "sha256": _digest(*norm.state_dict().values()),
    }


def _shortened(values: Tensor) -> float | list[float]:
    """One number where all are that, else one per channel."""
    found: list[float] = values.tolist()
    return found[0] if found and all(value == found[0] for value in found) else found


def _tensor(mine: Weight, other: Weight) -> dict[str, Any]:
    error = weight_error(mine, other, exact=True)
    return {
        "a": mine.name,
        "b": other.name,
        "equal": error == 0,
        "a_sha256": _digest(mine.tensor),
        "b_sha256": _digest(other.tensor),
    }


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
