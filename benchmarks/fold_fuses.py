"""torch's two ways to fold norms and AIMET's, as their users apply them."""

import warnings
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from benchmarks.peers import peer

__all__ = ["fold_by_aimet", "fuse_pairs", "fuse_traced"]


def fuse_pairs(model: nn.Module) -> nn.Module:
    """Fuse each conv or dense layer with the norm that its parent registers next. Changes its argument.

    torch.nn.utils.fusion takes one layer and one norm. Which belong together is left to the caller, who goes by the
    order in a Sequential or by names (conv1, bn1), as mmcv's fuse_conv_bn does.

    Returns:
        The argument, with nn.Identity in the norms' places.
    """
    for parent in list(model.modules()):
        for first, second in pairwise(list(parent._modules)):
            layer, norm = parent._modules[first], parent._modules[second]
            if isinstance(norm, _BatchNorm) and isinstance(layer, (_ConvNd, nn.Linear)):
                parent._modules[first], parent._modules[second] = _fused(layer, norm), nn.Identity()
    return model


def _fused(layer: _ConvNd | nn.Linear, norm: _BatchNorm) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm)
    return fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, _ConvTransposeNd))


def fuse_traced(model: nn.Module) -> nn.Module:
    """torch.fx's fuse, which finds the pairs in a traced graph, and copies its argument.

    Raises:
        ImportError: This torch does not have it: it is experimental.
    """
    from torch.fx.experimental.optimization import fuse

    return fuse(model)


def fold_by_aimet(model: nn.Module, inputs: Tensor) -> nn.Module:
    """AIMET's fold_all_batch_norms, which finds the pairs in a graph that it traces. Changes its argument."""
    fold = peer("aimet_torch.batch_norm_fold").fold_all_batch_norms
    with warnings.catch_warnings():
        # It traces with torch.jit, which is deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        fold(model, tuple(inputs.shape), dummy_input=inputs)
    return model
