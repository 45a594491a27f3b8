"""Where a run runs: accelerate says which device, how many ranks, and in what precision."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bnretrofit.batches import checked_device
from bnretrofit.errors import UsageError

__all__ = ["accelerator_for", "gathered", "parallel", "process_kept", "process_rank", "share_buffers"]


def accelerator_for(device: str | None, amp: str) -> Any:
    """Accelerate's view of this process: started plainly, or by `accelerate launch` or `torchrun`.

    Args:
        device: "cpu", "cuda", or None for what there is.
        amp: Mixed precision: "no", "bf16", "fp16".

    Raises:
        UsageError: The device does not run in that precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # The state is the process's, and an earlier run in it may have had another precision.
    AcceleratorState._reset_state(reset_partial_state=process_rank()[1] == 1)  # noqa: SLF001
    if device not in (None, "cpu", "cuda"):
        remedy = "take cpu or cuda; which GPU, CUDA_VISIBLE_DEVICES says"
        raise UsageError(f"training does not run on '{device}'", remedy=remedy)
    if device is not None:
        checked_device(device)
    # Accelerate would take an Apple GPU, which has no float64, and others that nothing here was tried on.
    cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    try:
        made = Accelerator(cpu=cpu, mixed_precision=amp)
    except (ValueError, RuntimeError) as error:
        if amp == "no":
            remedy = "check how the processes were launched, and the variables of the environment"
            raise UsageError("accelerate cannot be started here", why=str(error), remedy=remedy) from error
        raise UsageError(f"--amp {amp} does not run here", why=str(error), remedy="take --amp no or bf16") from error
    if amp == "fp16" and made.device.type == "cpu":
        raise UsageError("--amp fp16 does not run on the CPU", remedy="take --amp no or bf16")
    # The environment may say otherwise, and gradients would be divided twice.
    made.gradient_accumulation_steps = 1
    # Also of the process: a loop of somebody's that was left in the midst of a step would have ours make none.
    made.gradient_state._set_sync_gradients(True)  # noqa: SLF001
    return made


@contextmanager
def process_kept() -> Iterator[None]:
    """Give the process back, in the end, what accelerate keeps of it: a caller may have an Accelerator, or make one."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    kinds: tuple[Any, ...] = (PartialState, AcceleratorState, GradientState)
    before = [dict(kind._shared_state) for kind in kinds]  # noqa: SLF001
    try:
        yield
    finally:
        for kind, state in zip(kinds, before, strict=True):
            # Ranks that have found each other stay together.
            if state or kind is not PartialState or process_rank()[1] == 1:
                kind._shared_state.clear()  # noqa: SLF001
                kind._shared_state.update(state)  # noqa: SLF001


def process_rank() -> tuple[int, int]:
    """This process's number and how many there are, as `accelerate launch` and `torchrun` tell it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def parallel(accelerator: Any, model: nn.Module, *, all_reached: bool) -> nn.Module:
    """The model as each rank is to call it: gradients are averaged over the ranks.

    Accelerate's own wrapper would put a forward into the model that a copy of it shares, and averages are copies.

    Args:
        accelerator: Accelerate's view of this process.
        model: The network.
        all_reached: Whether each step has a gradient of each parameter; otherwise ranks look for those that have none.
    """
    if accelerator.num_processes == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    devices = None if accelerator.device.type == "cpu" else [accelerator.device]
    # Buffers are the same on all ranks already: what moves them is pooled over the ranks.
    with warnings.catch_warnings():
        # Torch from 2.15 on has another name for the option, which torch 2.10 does not know.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            model,
            device_ids=devices,
            broadcast_buffers=False,
            # All ranks alike: one that does not look would wait for what another leaves out.
            find_unused_parameters=bool(
                max(gathered(accelerator, torch.tensor(not all_reached).to(accelerator.device)))
            ),
        )


def share_buffers(accelerator: Any, model: nn.Module) -> None:
    """Give all ranks the buffers of the first: what each has measured depends on the images that it was given."""
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast

        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer))


def gathered(accelerator: Any, mine: Tensor) -> list[Tensor]:
    """The tensors of all ranks, in their order; all of one shape."""
    return list(accelerator.gather(mine[None])) if accelerator.num_processes > 1 else [mine]
