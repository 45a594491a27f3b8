"""model with norms + labelled images -> the same with better weights."""

from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.errors import UsageError
from bnretrofit.norms import running_norms
from bnretrofit.scales import scales_of
from bnretrofit.training.best_weights import best_weights
from bnretrofit.training.budget import check_step
from bnretrofit.training.config import TrainingConfig
from bnretrofit.training.devices import accelerator_for, share_buffers
from bnretrofit.training.evaluation import Evaluation, evaluate
from bnretrofit.training.history import History
from bnretrofit.training.loop import Loop
from bnretrofit.training.measuring import measured, training_images
from bnretrofit.training.memory_keeper import MemoryKeeper
from bnretrofit.training.preparation import Tell, prepared
from bnretrofit.training.protocols import Keeper, TrainingSet
from bnretrofit.training.results import Result, Results

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
        InputRejectedError: The model is no classifier of these images, or a batch has one image.
        TrainingDivergedError: The loss is not finite any more; the model has the weights that were kept last.
    """
    _check_precision(model)
    kept: Keeper = MemoryKeeper() if keeper is None else keeper
    accelerator = accelerator_for(device, config.amp)
    tell = _silent if tell is None or not accelerator.is_main_process else tell
    home, random = next(model.parameters()).device, torch.get_rng_state()
    modes = {module: module.training for module in model.modules()}
    try:
        model.to(accelerator.device)
        if config.channels_last:
            model.to(memory_format=torch.channels_last)
        model.eval()
        return _trained(model, data, config, accelerator, kept, tell)
    finally:
        model.to(home)
        torch.set_rng_state(random)
        for module, training in modes.items():
            module.training = training


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


def _silent(_text: str) -> None:
    """Tell nobody."""


def _trained(
    model: nn.Module, data: TrainingSet, config: TrainingConfig, accelerator: Any, keeper: Keeper, tell: Tell
) -> Results:
    check_step(config, data, accelerator.num_processes)
    with prepared(model, data, config, accelerator, tell) as ready:
        loop = Loop(model, data, config, ready, accelerator, keeper)
        try:
            history = loop.run()
        except BaseException:
            _put_back(model, keeper)
            raise
        last = {name: tensor.clone() for name, tensor in loop.judged.state_dict().items()}
    return _finished(model, last, data, history, accelerator, keeper, batch_statistics=ready.batch_statistics)


def _put_back(model: nn.Module, keeper: Keeper) -> None:
    """Give the model the weights that were kept last, instead of those of a run that broke off."""
    found = keeper.load()
    if found is not None:
        tensors = {name.removeprefix("model."): each for name, each in found.tensors.items() if name[:6] == "model."}
        model.load_state_dict(tensors)


def _finished(
    model: nn.Module,
    last: dict[str, Tensor],
    data: TrainingSet,
    history: History,
    accelerator: Any,
    keeper: Keeper,
    *,
    batch_statistics: bool,
) -> Results:
    """Measure the statistics again with the weights of the last and of the best epoch, and judge both."""
    results: dict[str, Result] = {}
    images: list[Tensor] = []
    accelerator.wait_for_everyone()
    of = {"last": history.epochs[-1], "best": history.best or history.epochs[-1]}
    kept = None if of["best"] == of["last"] else best_weights(keeper, history)
    # All have read the best weights before anybody writes them anew.
    accelerator.wait_for_everyone()
    best = last if kept is None else kept.tensors
    for name, tensors in (("last", last), ("best", best)):
        if name == "best" and kept is None:
            # The same weights, which are measured and judged already.
            results[name] = results["last"]
            keeper.keep(name, model.state_dict(), of[name], measured=True)
            break
        model.load_state_dict(tensors)
        already = name == "best" and kept is not None and kept.measured
        ratios: tuple[float, float] | None = None
        # Epoch 0 is the model as it came, and nothing of it lags behind.
        if batch_statistics and running_norms(model) and not already and of[name].step:
            images = images or training_images(data)
            found = measured(model, images, quiet=not accelerator.is_main_process)
            model.load_state_dict(found.model.state_dict())
            share_buffers(accelerator, model)
            ratios = found.ratios
        norms = running_norms(model)
        judged = _judged(model, data, accelerator)
        results[name] = Result(of[name], judged, scales_of(norms) if norms else None, ratios)
        keeper.keep(name, model.state_dict(), of[name], measured=True)
    return Results(history, results["best"], results["last"])


def _judged(model: nn.Module, data: TrainingSet, accelerator: Any) -> Evaluation | None:
    batches = data.validation(accelerator.process_index, accelerator.num_processes)
    if batches is None:
        return None
    quiet = not accelerator.is_main_process
    return evaluate(model, batches, lambda sums: accelerator.reduce(sums, reduction="sum"), quiet=quiet)
