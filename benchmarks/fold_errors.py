"""What folding costs in exactness: outputs and weights of a folded VGG against float64, beside torch's own fuses."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, fx, nn

from benchmarks.fold_fuses import fuse_pairs, fuse_traced
from benchmarks.fold_networks import network_with_norms

__all__ = ["folding_errors"]


def folding_errors(name: str, count: int) -> dict[str, dict[str, float]]:
    """Errors against float64: of the outputs of the unfolded network and the folded ones, and of their weights."""
    from torchvision import models

    import bnretrofit

    model = network_with_norms(name)
    inputs = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    twin = models.get_model(name.removesuffix("_bn"))
    folded: dict[str, nn.Module] = {
        "unfolded, float32": model,
        "bnretrofit.fold": bnretrofit.fold(model, inputs[:1], like=twin),
        "torch.nn.utils.fusion": fuse_pairs(copy.deepcopy(model)),
    }
    try:
        folded["torch.fx fuse"] = fuse_traced(model)
    except ImportError:
        print("torch.fx.experimental.optimization is not there, so it is left out")
    exact = exact_weights(model)
    with torch.inference_mode():
        reference = copy.deepcopy(model).double()(inputs.double())
        return {name: errors_of(found, inputs, reference, exact) for name, found in folded.items()}


def exact_weights(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution with the norm after it absorbed, in float64."""
    modules = list(model.modules())
    results = []
    for layer, norm in pairwise(modules):
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert layer.bias is not None
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            bias = (layer.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
            results.append(((layer.weight.double() * scale[:, None, None, None]).detach(), bias.detach()))
    return results


def errors_of(
    model: nn.Module, inputs: Tensor, reference: Tensor, exact: list[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Of outputs: over the largest output. Of weights: over the element itself. Of biases: over the layer's largest."""
    error = (model(inputs).double() - reference).abs() / reference.abs().max()
    found = {"output_max": error.max(), "output_mean": error.mean()}
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.bias is not None]
    if isinstance(model, fx.GraphModule) or not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        weights = [
            ((layer.weight - weight) / weight).abs().max() for layer, (weight, _) in zip(layers, exact, strict=True)
        ]
        biases = [
            (layer.bias - bias).abs().max() / bias.abs().max()
            for layer, (_, bias) in zip(layers, exact, strict=True)
            if layer.bias is not None
        ]
        found |= {"weight_max": torch.stack(weights).max(), "bias_max": torch.stack(biases).max()}
    return {name: float(f"{float(value):.3g}") for name, value in found.items()}
