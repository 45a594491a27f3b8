"""Networks as ONNX graphs, for tools that know no others: exported, and run without being changed."""

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers import peer
from bnretrofit.errors import RetrofitError
from bnretrofit.exporting.onnx_files import onnx_program

__all__ = ["OnnxGraph", "export", "session_options"]


class OnnxGraph(nn.Module):
    """An ONNX graph, run by onnxruntime as it stands.

    All of onnxruntime's optimisations are off: they would fold norms, and what is asked for is what the norms do.

    Args:
        proto: The graph, an onnx.ModelProto.
    """

    def __init__(self, proto: Any) -> None:
        super().__init__()
        self.proto = proto
        self.eval()

    @cached_property
    def session(self) -> Any:
        """Made when it is first needed: whoever makes a graph is not to be charged with running it."""
        runtime = peer("onnxruntime")
        options = session_options()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return runtime.InferenceSession(self.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])

    @property
    def norms(self) -> int:
        return sum(node.op_type == "BatchNormalization" for node in self.proto.graph.node)

    def forward(self, images: Tensor) -> Tensor:
        (output,) = self.session.run(None, {"input": images.numpy()})
        return torch.from_numpy(output)


def session_options() -> Any:
    options = peer("onnxruntime").SessionOptions()
    options.log_severity_level = 3
    # As many as torch has.
    options.intra_op_num_threads = torch.get_num_threads()
    return options


def export(model: nn.Module, example: Tensor) -> Any:
    """A model as `bnretrofit export` writes it: norms stay norms.

    Returns:
        An onnx.ModelProto, with an input "input" of any batch size.

    Raises:
        RuntimeError: It cannot be exported.
    """
    onnx = peer("onnx")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            onnx_program(model, example, None)(path)
        except RetrofitError as error:
            # What stands behind the exporter never saw the model: no tool has refused it.
            raise RuntimeError(f"not exported: {error}") from error
        return onnx.load(path)
