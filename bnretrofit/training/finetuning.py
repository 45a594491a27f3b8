"""model with norms + labelled images -> the same with better weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bnretrofit.errors import InputRejectedError, UsageError
from bnretrofit.norms import running_norms
from bnretrofit.training.averaging import share_of_the_start
from bnretrofit.training.budget import check_budget
from bnretrofit.training.config import TrainingConfig
from bnretrofit.training.devices import accelerator_for, gathered
from bnretrofit.training.finishing import finished
from bnretrofit.training.loop import Loop
from bnretrofit.training.memory_keeper import MemoryKeeper
from bnretrofit.training.preparation import Tell, prepared, silent
from bnretrofit.training.protocols import Keeper, TrainingSet
from bnretrofit.training.results import Results

__all__ = ["finetune_on"]


def finetune_on(
    model: nn.Module,
    data: TrainingSet,
    config: TrainingConfig,
    *,
    device: str | None = None,
    keeper: Keeper | None = None,
    tell: Tell | None = None,
) -> Results:
    """Fine-tune a classifier; this is the one verb that changes its argument.

    Args:
        model: A network, with norms or without; it ends with the weights of its best epoch, in the mode it came in.
        data: What it learns from.
        config: How.
        device: "cpu", or None for what there is; under `accelerate launch` or `torchrun`, each rank's own.
        keeper: Where the run is kept and from where it goes on; None for memory.
        tell: Called with each sentence that the user should read before training begins.

    Returns:
        What was achieved, epoch by epoch and in the end.

    Raises:
        UsageError: The settings do not fit the model or the machine, or its weights are in half precision.
        InputRejectedError: The model is no classifier of these images, or not finite, or a batch has one image.
        TrainingDivergedError: The loss is not finite any more; the model has the weights that were kept last.
    """
    _check_precision(model)
    _check_finite(model)
    kept: Keeper = MemoryKeeper() if keeper is None else keeper
    accelerator = accelerator_for(device, config.amp)
    tell = silent if tell is None or not accelerator.is_main_process else tell
    home = next(model.parameters()).device
    # To ask a GPU that nobody uses would begin to use it.
    gpus = range(torch.cuda.device_count()) if accelerator.device.type == "cuda" else ()
    modes = {module: module.training for module in model.modules()}
    with torch.random.fork_rng(gpus), _layout_kept(model):
        try:
            model.to(accelerator.device)
            if config.channels_last:
                model.to(memory_format=torch.channels_last)
            model.eval()
            return _trained(model, data, config, accelerator, kept, tell)
        finally:
            model.to(home)
            for module, training in modes.items():
                module.training = training


@contextmanager
def _layout_kept(model: nn.Module) -> Iterator[None]:
    """Give tensors the layout in memory that they had."""
    before = {name: tensor.is_contiguous() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    try:
        yield
    finally:
        # Whatever moves a model puts other buffers in the place of its own.
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if before.get(name):
                tensor.data = tensor.data.contiguous()


def _check_precision(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            kind = str(parameter.dtype).removeprefix("torch.")
            raise UsageError(
                "a model in half precision is not fine-tuned",
                where=name,
                why=f"it is {kind}, in which small steps are lost",
                remedy="call model.float(), and take amp for mixed precision",
            )


def _check_finite(model: nn.Module) -> None:
    """Before the learning rate is blamed."""
    statistics = {
        f"{name}.{each}": tensor for name, norm in running_norms(model).items() for each, tensor in norm.named_buffers()
    }
    for name, tensor in {**dict(model.named_parameters()), **statistics}.items():
        if not bool(tensor.detach().isfinite().all()):
            remedy = "take weights of before it diverged"
            raise InputRejectedError("the network holds NaN or infinity", where=name, remedy=remedy)


def _check_alike(per_epoch: int | None, accelerator: Any) -> None:
    """Refuse processes that would wait for one another for ever."""
    mine = torch.tensor(-1 if per_epoch is None else per_epoch, device=accelerator.device)
    counts = [int(count) for count in gathered(accelerator, mine)]
    if len(set(counts)) > 1:
        raise UsageError(
            "the processes do not have as many steps in an epoch",
            why=", ".join("unknown" if count < 0 else str(count) for count in counts),
            remedy="give each as many batches, as a DistributedSampler does",
        )


def _trained(
    model: nn.Module, data: TrainingSet, config: TrainingConfig, accelerator: Any, keeper: Keeper, tell: Tell
) -> Results:
    ranks = accelerator.num_processes
    # Each process by itself refuses what all of them refuse.
    _check_alike(data.batches_per_epoch(ranks, config.grad_accum_steps), accelerator)
    check_budget(config, data, accelerator.process_index, ranks)
    with prepared(model, data, config, accelerator, tell) as ready:
        loop = Loop(model, data, config, ready, accelerator, keeper)
        average = share_of_the_start(config.ema_decay, loop.steps, warmup=config.ema_warmup)
        if average is not None:
            tell(average)
        try:
            history = loop.run()
        except BaseException:
            _put_back(model, keeper)
            raise
        last = {name: tensor.clone() for name, tensor in loop.judged.state_dict().items()}
    return finished(model, last, data, history, accelerator, keeper, batch_statistics=ready.batch_statistics)


def _put_back(model: nn.Module, keeper: Keeper) -> None:
    """Give the model the weights that were kept last, instead of those of a run that broke off."""
    found = keeper.load()
    if found is not None:
        tensors = {name.removeprefix("model."): each for name, each in found.tensors.items() if name[:6] == "model."}
        model.load_state_dict(tensors)
