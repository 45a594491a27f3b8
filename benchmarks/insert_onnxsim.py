"""onnxsim's recover_batch_norm in three ways, on the network as an ONNX graph."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.calibration import Statistics
from benchmarks.insert_contenders import Inserted
from benchmarks.onnx_graphs import OnnxGraph, export
from benchmarks.peers import peer

__all__ = ["NamedGraph", "exported", "insert_identity", "recover_default", "recover_matched"]


class NamedGraph(OnnxGraph):
    """A graph whose convolutions are known by the names that they had in the network.

    Args:
        proto: The graph.
        convolutions: Their names, in the order in which they are called.
    """

    def __init__(self, proto: Any, convolutions: Sequence[str]) -> None:
        super().__init__(proto)
        self.convolutions = convolutions


def exported(network: nn.Module, example: Tensor) -> NamedGraph:
    """The network as a graph.

    Its convolutions are taken to be called in the order in which the network registers them.
    """
    peer("onnxsim")
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return NamedGraph(export(network, example), names)


def insert_identity(graph: nn.Module, _batches: list[Tensor]) -> Inserted:
    """Mean 0, variance 1, weight 1 and bias 0: the norms know nothing of the network, and divide by sqrt(1 + eps)."""
    result, _ = peer("onnxsim").insert_identity_bn(named(graph).proto)
    return inserted(named(graph), result)


def recover_default(graph: nn.Module, batches: list[Tensor]) -> Inserted:
    """The images' statistics, with weight 1 and bias 0: each output is normalised. By default the images are random."""
    return inserted(
        named(graph), peer("onnxsim").recover_batch_norm(named(graph).proto, calibration_data=feeds(batches))
    )


def recover_matched(graph: nn.Module, batches: list[Tensor]) -> Inserted:
    """The same, with the graph itself as the one whose outputs the norms are to have: the nearest to an identity."""
    proto = named(graph).proto
    result = peer("onnxsim").recover_batch_norm(proto, calibration_data=feeds(batches), target_model=proto)
    return inserted(named(graph), result)


def named(graph: nn.Module) -> NamedGraph:
    assert isinstance(graph, NamedGraph)
    return graph


def feeds(batches: list[Tensor]) -> list[dict[str, Any]]:
    return [{"input": batch.numpy()} for batch in batches]


def inserted(graph: NamedGraph, proto: Any) -> Inserted:
    to_array = peer("onnx").numpy_helper.to_array
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}

    def float64(name: str) -> Tensor:
        return torch.from_numpy(to_array(tensors[name]).copy()).double()

    norms = peer("onnxsim").find_recovered_bn_nodes(proto)
    statistics = {
        name: Statistics(float64(norm.mean_name), float64(norm.var_name))
        for name, norm in zip(graph.convolutions, norms, strict=True)
    }
    return Inserted(OnnxGraph(proto), statistics, population=True)
