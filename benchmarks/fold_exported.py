"""Tools that fold norms in ONNX files: what they write is another graph, and no checkpoint of the network."""

import tempfile
from pathlib import Path

from torch import Tensor, nn

from benchmarks.onnx_graphs import OnnxGraph, export, session_options
from benchmarks.peers import peer

__all__ = ["fold_by_onnxruntime", "fold_by_onnxsim"]


def fold_by_onnxruntime(model: nn.Module, inputs: Tensor) -> OnnxGraph:
    """Onnxruntime's basic optimisations, which do not depend on a device, written out as a file."""
    onnx, runtime = peer("onnx"), peer("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = session_options()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        graph = export(model, inputs).SerializeToString()
        runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return OnnxGraph(onnx.load(path))


def fold_by_onnxsim(model: nn.Module, inputs: Tensor) -> OnnxGraph:
    """Onnxsim as it comes: its optimiser has a pass that fuses norms into convolutions."""
    onnxsim = peer("onnxsim")
    simplified, _ = onnxsim.simplify(export(model, inputs))
    return OnnxGraph(simplified)
