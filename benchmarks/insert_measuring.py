"""One contender on one network, in a process of its own: what it inserts, what that changes, and what it costs."""

import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.insert_by_hand import NoPlaceError, hooked, insert_as_notebook, insert_by_hand, variance
from benchmarks.insert_by_update import insert_by_updating, update_by_fvcore, update_by_torch, updating
from benchmarks.insert_contenders import Inserted, calibration, insert_by_tinynn, insert_ours, run
from benchmarks.insert_errors import changed, statistics_error
from benchmarks.insert_networks import Images
from benchmarks.insert_onnxsim import exported, insert_identity, recover_default, recover_matched
from benchmarks.measuring import both_clocks, peak_memory, reset_peak, resident, rotated
from benchmarks.peers import NotInstalledError

__all__ = ["CONTENDERS", "OURS", "Contender", "measured"]


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to insert norms.

    Attributes:
        insert: Gives the network with norms, from the network and batches of images.
        prepare: Makes of the network what it takes, with an example; this is not timed.
        statistics: Gives the measuring of statistics as work of its own, from the same; None if that cannot be parted.
    """

    insert: Callable[[nn.Module, list[Tensor]], Inserted]
    prepare: Callable[[nn.Module, Tensor], nn.Module] = lambda network, _: network
    statistics: Callable[[nn.Module, list[Tensor]], Callable[[], object]] | None = None


OURS = "bnretrofit.retrofit"
CONTENDERS = {
    OURS: Contender(insert_ours, statistics=calibration),
    "by hand": Contender(insert_by_hand, statistics=hooked),
    "by hand, gamma = variance": Contender(lambda network, batches: insert_by_hand(network, batches, variance)),
    "fastai's notebook": Contender(insert_as_notebook),
    "torch update_bn": Contender(
        partial(insert_by_updating, update=update_by_torch), statistics=partial(updating, update=update_by_torch)
    ),
    "fvcore update_bn_stats": Contender(
        partial(insert_by_updating, update=update_by_fvcore), statistics=partial(updating, update=update_by_fvcore)
    ),
    "TinyNN": Contender(insert_by_tinynn),
    "onnxsim, default": Contender(recover_default, exported),
    "onnxsim, target_model": Contender(recover_matched, exported),
    "onnxsim, identity": Contender(insert_identity, exported),
}


def measured(name: str, network: nn.Module, images: Images, rounds: int) -> dict[str, Any]:
    """All figures of one contender, as JSON has them; or why there are none, under "said"."""
    contender = CONTENDERS[name]
    try:
        return figures(contender, network, images, rounds)
    except NotInstalledError as missing:
        return {"said": f"not installed ({missing})"}
    except NoPlaceError as reason:
        return {"said": str(reason)}
    except Exception as failure:  # noqa: BLE001 - whatever a peer raises is what is asked for
        return {"said": f"raised {type(failure).__name__}: {(str(failure).splitlines() or [''])[0]}"}


def figures(contender: Contender, network: nn.Module, images: Images, rounds: int) -> dict[str, Any]:
    warm_up(contender)
    before = contender.prepare(network, images.train[0][:1])
    gc.collect()
    held = resident()
    reset_peak()
    inserted = contender.insert(before, images.train)
    peak = peak_memory()
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    found = {
        "layers": len(layers),
        "normalised": len(inserted.statistics),
        **asdict(changed(before, inserted.network, images.held_out, images.labels)),
        "statistics": statistics_error(network, inserted, images.train) if inserted.statistics else None,
        "peak_mib": None if peak is None or held is None else round((peak - held) / 2**20),
    }
    works: dict[str, Callable[[], object]] = {
        "forward_seconds": lambda: run(network, images.train),
        "insertion_seconds": lambda: contender.insert(before, images.train),
    }
    if contender.statistics is not None:
        works["statistics_seconds"] = contender.statistics(network, images.train)
    times: dict[str, list[tuple[float, float]]] = {what: [] for what in works}
    for number in range(rounds):
        for what in rotated(list(works), number):
            times[what].append(both_clocks(works[what]))
    return {**found, **times}


def warm_up(contender: Contender) -> None:
    """Import what the contender imports, on a network of no size."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 8), nn.ReLU()
    )
    network.append(nn.Linear(8, 4)).eval()
    batches = [torch.randn(2, 3, 8, 8)]
    contender.insert(contender.prepare(network, batches[0]), batches)
