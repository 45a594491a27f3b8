"""A model as an ONNX file, and an ONNX file as a model that onnxruntime runs."""

from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from bnretrofit.errors import InputRejectedError
from bnretrofit.exporting.programs import captured
from bnretrofit.exporting.requirements import required

__all__ = ["OnnxModel", "onnx_program", "operators_in"]

ONE_FILE = 2**31 - 2**20
"""Bytes: protobuf's limit, less some for the graph."""


def onnx_program(model: nn.Module, example: Tensor, opset: int | None) -> Callable[[Path], None]:
    """Export a model with a batch of any size.

    Only constants are computed ahead: norms stay norms, so that what was folded is what `fold` folded.

    Args:
        model: In eval mode.
        example: An input of it.
        opset: Version of the operators; None for the exporter's own choice.

    Returns:
        What writes the file to a path.

    Raises:
        UsageError: A package of the extra [onnx] is not installed.
        InputRejectedError: The model cannot be exported, or is too large for one file.
    """
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if size > ONE_FILE:
        raise InputRejectedError(
            "the model is too large for one ONNX file", why=f"{size / 2**30:.1f} GiB of 2", remedy="export it as .pt2"
        )
    required("onnx", "onnx")
    optimizer = required("onnxscript.optimizer", "onnx")
    exported = captured(model, example)
    try:
        # The exporter prints its progress.
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), torch.no_grad():
            program = torch.onnx.export(
                exported,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset,
                input_names=["input"],
                output_names=["output"],
            )
            # Not all that the optimizer has: its rewriting would fuse norms into convolutions, in float32.
            optimizer.fold_constants_ir(program.model)  # type: ignore[union-attr]
            optimizer.remove_unused_nodes(program.model)  # type: ignore[union-attr]
    except Exception as error:
        raise InputRejectedError(
            "the model cannot be exported to ONNX",
            why=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}",
            remedy="export it as .pt2, or look whether another --opset has the operator",
        ) from error
    given = program.model.opset_imports.get("")  # type: ignore[union-attr]
    if opset is not None and given != opset:
        raise InputRejectedError(
            f"the model cannot be exported with opset {opset}", why=f"the exporter gave {given}", remedy="try another"
        )
    return lambda path: program.save(str(path), external_data=False)  # type: ignore[union-attr]


class OnnxModel(nn.Module):
    """An ONNX file, run by onnxruntime on the CPU.

    Args:
        path: The file.

    Raises:
        UsageError: onnxruntime is not installed.
        InputRejectedError: It is no ONNX file, or has an operator that onnxruntime does not know.
    """

    why_not_captured = "an ONNX file is run by onnxruntime, and is not captured"

    def __init__(self, path: Path) -> None:
        super().__init__()
        runtime = required("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        # As many as torch has, so that both are compared, and timed, alike.
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            why = str(error).strip().splitlines()[0]
            raise InputRejectedError("onnxruntime cannot load the file", where=str(path), why=why) from error
        self.eval()

    def __deepcopy__(self, _memo: dict[int, object]) -> Self:
        # A session holds no state between calls.
        return self

    def forward(self, *inputs: Tensor) -> Any:
        """The file's outputs for the inputs, in order: a tensor, or a tuple of them.

        Raises:
            RuntimeError: onnxruntime refuses the inputs.
        """
        names = [found.name for found in self.session.get_inputs()]
        arrays = [tensor.detach().cpu().numpy() for tensor in inputs]
        try:
            outputs = self.session.run(None, dict(zip(names, arrays, strict=True)))
        except Exception as error:
            # Its errors have a base of their own for each kind.
            raise RuntimeError(str(error)) from error
        tensors = tuple(torch.from_numpy(output) for output in outputs)
        return tensors[0] if len(tensors) == 1 else tensors


def operators_in(path: Path) -> Counter[str]:
    """How often an ONNX file has each operator."""
    onnx = required("onnx", "onnx")
    graph = onnx.load(str(path), load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)
