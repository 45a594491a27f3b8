"""Where a run runs: accelerate says which device, how many ranks, and in what precision."""

import os
import warnings
from typing import Any

from torch import Tensor, nn

from bnretrofit.errors import UsageError

__all__ = ["accelerator_for", "gathered", "parallel", "process_rank"]


def accelerator_for(device: str | None, amp: str) -> Any:
    """Accelerate's view of this process: started plainly, or by `accelerate launch` or `torchrun`.

    Args:
        device: "cpu", or None for what there is.
        amp: Mixed precision: "no", "bf16", "fp16".

    Raises:
        UsageError: The device does not run in that precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # The state is the process's, and an earlier run in it may have had another precision.
    AcceleratorState._reset_state()  # noqa: SLF001
    try:
        return Accelerator(cpu=device == "cpu", mixed_precision=amp)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"--amp {amp} does not run here", why=str(error), remedy="take --amp no or bf16") from error


def process_rank() -> tuple[int, int]:
    """This process's number and how many there are, as `accelerate launch` and `torchrun` tell it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def parallel(accelerator: Any, model: nn.Module) -> nn.Module:
    """The model as each rank is to call it: gradients are averaged over the ranks.

    Accelerate's own wrapper would put a forward into the model that a copy of it shares, and averages are copies.
    """
    if accelerator.num_processes == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    devices = None if accelerator.device.type == "cpu" else [accelerator.device]
    # Buffers are the same on all ranks already: what moves them is pooled over the ranks.
    with warnings.catch_warnings():
        # Torch from 2.15 on has another name for the option, which torch 2.10 does not know.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def gathered(accelerator: Any, mine: Tensor) -> list[Tensor]:
    """The tensors of all ranks, in their order; all of one shape."""
    return list(accelerator.gather(mine[None])) if accelerator.num_processes > 1 else [mine]
