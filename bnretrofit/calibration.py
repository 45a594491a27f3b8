"""model + plan + batches -> ChannelStats per site, in one pass.

Inserted norms start as identities, so the activations of the plain model are those of the retrofitted one: one pass
serves all sites. Each output is reduced as it appears, since an in-place activation overwrites it a moment later.
"""

from collections.abc import Iterable, Sized
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from bnretrofit.batches import Batch, as_call, device_of, map_tensors, taken
from bnretrofit.copies import share_copy
from bnretrofit.errors import InputRejectedError, ResourceError
from bnretrofit.memory import Parts, is_out_of_memory
from bnretrofit.moments import ChannelStats, PassMoments
from bnretrofit.ranks import measured_together
from bnretrofit.sites import Plan, Site
from bnretrofit.surgery import check_sites, place_norms

__all__ = ["calibrate"]


def calibrate(
    model: nn.Module, plan: Plan, batches: Iterable[Batch], *, across_ranks: bool = False
) -> dict[str, ChannelStats]:
    """Measure mean and variance of every site's output, over a calibration set.

    The model runs in eval mode under inference_mode on a copy that shares its tensors; it is left as it is, also after
    an exception. Convolutions on the CPU run in channels_last, which is the faster layout there. The result does not
    depend on how the samples are batched, but for what the network's own kernels round otherwise at another batch size
    (nor on the number of threads, but for the last bits of float64):
    a batch that does not fit in memory is run in parts, with a SplitBatchWarning.

    Args:
        model: The network the plan was made for.
        plan: Its sites.
        batches: The calibration set; a progress bar goes to stderr if it takes more than a second.
        across_ranks: Each rank of torch.distributed's default process group gives its own share of the batches, and all
            get the statistics of all of them: those that one rank would get. All ranks must call.

    Returns:
        Statistics by site name.

    Raises:
        InputRejectedError: The plan does not fit the model, there is no batch, the model does not take one, or an
            activation is not finite; or another rank has failed in a way that nobody foresaw.
        ResourceError: Not even one sample fits in memory.
        UsageError: There is no process group to measure across.
        RetrofitError: Another rank has failed; of the same kind as there.
    """
    measure = partial(_measured, model, plan, batches)
    stats = (measured_together(measure) if across_ranks else measure()).stats()
    return {site.name: _checked(site.name, stats.get(site.name)) for site in plan.sites}


def _measured(model: nn.Module, plan: Plan, batches: Iterable[Batch]) -> PassMoments:
    check_sites(model, plan)
    iterator = taken(batches, "calibrate")
    first = next(iterator)
    total = len(batches) if isinstance(batches, Sized) else None
    with torch.inference_mode(), tqdm(total=total, desc="calibrate", unit="batch", delay=1.0, leave=False) as progress:
        run = _first_run(model, plan, first)
        progress.update()
        for batch in iterator:
            run.add(batch)
            progress.update()
    run.parts.tell()
    return run.moments


class _Run:
    """A model that measures, what it has measured, and how its batches fit in memory."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.moments = PassMoments()
        self.parts = Parts()
        # Modules rather than hooks: torch's fast paths give way to hooks, and would come back once they are gone.
        collectors = {site.name: _Collector(self.moments, site) for site in plan.sites}
        self._forward = partial(_forward, place_norms(model, plan.sites, collectors).eval())

    def add(self, batch: Batch) -> None:
        self.parts.run(self._forward, batch, self.moments)


def _first_run(model: nn.Module, plan: Plan, batch: Batch) -> _Run:
    """Run the first batch, in the faster layout if the model allows it, and return what runs the others."""
    if _channels_last_is_faster(model, batch):
        run = _Run(_in_channels_last(share_copy(model, buffers=False)), plan)
        try:
            run.add(batch)
        except (InputRejectedError, ResourceError):
            # Some models call .view on an activation, which this layout does not allow, and it takes a copy of the
            # convolutions' weights. Any other fault shows again.
            pass
        else:
            return run
    run = _Run(share_copy(model, buffers=False), plan)
    run.add(batch)
    return run


class _Collector(nn.Module):
    """Stands where the norm will stand: reduces what passes through, and hands it on."""

    def __init__(self, moments: PassMoments, site: Site) -> None:
        super().__init__()
        self.moments = moments
        self.site = site

    def forward(self, output: Tensor) -> Tensor:
        """Reduce the output now: an in-place activation overwrites it a moment later."""
        flat = self.site.kind == "Linear" and self.site.channel_dim == 1
        if output.shape[self.site.channel_dim] != self.site.channels or (flat and output.dim() != 2):
            raise InputRejectedError(
                f"the layer's output has another shape than in the plan: {tuple(output.shape)}",
                where=self.site.name,
                remedy="make the plan from an example of the same rank",
            )
        self.moments.stage(self.site.name, output, self.site.channel_dim)
        return output


def _channels_last_is_faster(model: nn.Module, batch: Batch) -> bool:
    """On the CPU, for two-dimensional convolutions: VGG-16 takes 0.6 of the time, no family tried clearly more."""
    images = any(isinstance(leaf, Tensor) and leaf.dim() == 4 for leaf in tree_leaves(batch))
    return (
        images and device_of(model).type == "cpu" and any(isinstance(module, nn.Conv2d) for module in model.modules())
    )


def _in_channels_last(model: nn.Module) -> nn.Module:
    # Module.to(memory_format=...) would change the parameters that the copy shares with the caller's model.
    for module in model.modules():
        weight = module._parameters.get("weight")
        if isinstance(module, nn.Conv2d) and weight is not None:
            laid_out = weight.detach().contiguous(memory_format=torch.channels_last)
            module._parameters["weight"] = nn.Parameter(laid_out, requires_grad=False)
    return model


def _forward(model: nn.Module, batch: Batch) -> None:
    # A copy: a model may overwrite what it is given.
    args, kwargs = as_call(map_tensors(lambda tensor: tensor.to(device_of(model), copy=True), batch))
    try:
        model(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise InputRejectedError(
            f"the {type(model).__name__} does not take the batch",
            why=str(error).strip().splitlines()[0] if str(error).strip() else None,
            remedy="pass batches as the model takes them, without labels",
        ) from error


def _checked(name: str, stats: ChannelStats | None) -> ChannelStats:
    if stats is None:
        raise InputRejectedError(
            "the model goes around what is inserted after the layer",
            where=name,
            why="nothing passed through during calibration, though the captured graph calls it",
            remedy="exclude the layer",
        )
    if not bool(torch.isfinite(stats.mean).all() and torch.isfinite(stats.var).all()):
        raise InputRejectedError(
            "the layer's output is NaN or infinite on the calibration set",
            where=name,
            remedy="check the inputs' scale and the model's weights",
        )
    return stats
