"""Weights where kernels find them alike: a tensor read from a file lies wherever the file has it.

With a batch of one a dense layer is a matrix-vector product, whose kernel sums in another order where the weight does
not begin at a multiple of 16 bytes. So the same tensors, read from two files, give results that differ in their last
bit, which is no difference of the models.
"""

from collections.abc import Iterable

from torch import Tensor, nn

__all__ = ["ALIGNMENT", "align"]

ALIGNMENT = 64
"""Bytes: what torch's own allocator keeps to, and a cache line."""


def align(models: Iterable[nn.Module]) -> None:
    """Give models, in place, a copy of each parameter that is not aligned; what they share they share from then on."""
    copies: dict[int, nn.Parameter] = {}
    for model in models:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and _is_astray(parameter):
                    if id(parameter) not in copies:
                        copies[id(parameter)] = _copied(parameter)
                    module._parameters[name] = copies[id(parameter)]


def _is_astray(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.numel() > 0 and tensor.data_ptr() % ALIGNMENT != 0


def _copied(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
