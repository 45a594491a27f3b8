"""Calibration against the plain forward pass and against others that measure statistics: time, memory, error.

    python -m benchmarks.calibration

Time: a torchvision VGG (seeded random weights), the same images for all, interleaved in one process.

Error: `update_bn` and `update_bn_stats` run vgg16_bn in training mode, in which each norm divides by its batch's own
statistics, so beyond the first layer they measure another function than vgg16. Each is therefore held against what it
does measure: float64 statistics, pooled over all images, of the very activations that its own network shows to each
norm. A second test has one layer only, where all measure the same thing. Variances are judged by their own convention:
unbiased, but fvcore's, which is the population's.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

import bnretrofit
from benchmarks.measuring import load, peak_memory, ratios, record, reset_peak, resident, rotated, table, timed

FORWARDS = ("forward NCHW", "forward channels_last")
CALIBRATE = "bnretrofit.calibrate"
UPDATE_BN = "swa_utils.update_bn"
UPDATE_BN_LAST = "update_bn channels_last"
FVCORE = "fvcore update_bn_stats"


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and variance per channel, float64."""

    mean: Tensor
    var: Tensor
    count: int = 0

    def population(self) -> "Statistics":
        """With the biased variance instead of the unbiased one."""
        return Statistics(self.mean, self.var * ((self.count - 1) / self.count), self.count)


class Pool:
    """Float64 mean and sum of squared deviations, joined by Chan's formula: the reference, with no bnretrofit in it."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.m2 = torch.zeros(())

    def add(self, activation: Tensor) -> None:
        for sample in activation.detach():
            rows = sample.double().flatten(1)
            mean = rows.mean(1)
            m2 = (rows - mean[:, None]).square().sum(1)
            if not self.count:
                self.count, self.mean, self.m2 = rows.shape[1], mean, m2
                continue
            total = self.count + rows.shape[1]
            delta = mean - self.mean
            self.mean = self.mean + delta * (rows.shape[1] / total)
            self.m2 = self.m2 + m2 + delta.square() * (self.count * rows.shape[1] / total)
            self.count = total

    def statistics(self) -> Statistics:
        return Statistics(self.mean, self.m2 / (self.count - 1), self.count)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vgg16", help="a torchvision VGG without norms (default: %(default)s)")
    parser.add_argument("--images", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--img-size", type=int, default=224, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    options = parser.parse_args(arguments)
    began = load()
    batches = images(options.images, options.img_size, options.batch_size)
    plain, normed = networks(options.model)
    plan = bnretrofit.make_plan(plain, batches[0][:1], layers=("conv",))
    norms = [module for module in normed.modules() if isinstance(module, nn.BatchNorm2d)]
    print(f"{options.model}: {len(plan.sites)} sites; {options.model}_bn: {len(norms)} norms; load average {began}")
    times, peaks = race(contenders(plain, normed, plan, batches), options.rounds)
    speed = speeds(times, peaks)
    network = network_errors(plain, normed, plan, batches)
    layer = layer_errors()
    show(speed, network, layer)
    chosen = {name: getattr(options, name) for name in ("model", "images", "batch_size", "img_size", "rounds")}
    record(
        "calibration",
        arguments,
        {
            **chosen,
            "load_before": began,
            "load_after": load(),
            "time": speed,
            "network_error": network,
            "layer_error": layer,
        },
    )


def images(count: int, size: int, batch_size: int) -> list[Tensor]:
    """Batches of pictures of nothing: colour fields, finer ones and grain upon them, normalised as ImageNet's are."""
    generator = torch.Generator().manual_seed(1)
    picture = torch.zeros(count, 3, size, size)
    for cell, weight in ((32, 0.5), (8, 0.3), (1, 0.2)):
        coarse = torch.rand(count, 3, -(-size // cell), -(-size // cell), generator=generator)
        picture += weight * functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return list(((picture - mean[:, None, None]) / std[:, None, None]).split(batch_size))


def networks(name: str) -> tuple[nn.Module, nn.Module]:
    """A VGG and its twin with norms, both with the same convolutions."""
    from torchvision import models

    torch.manual_seed(0)
    plain, normed = models.get_model(name).eval(), models.get_model(f"{name}_bn")
    for mine, theirs in zip(convolutions(plain), convolutions(normed), strict=True):
        theirs.load_state_dict(mine.state_dict())
    return plain, normed


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def contenders(
    plain: nn.Module, normed: nn.Module, plan: bnretrofit.Plan, batches: list[Tensor]
) -> dict[str, Callable[[], object]]:
    last = {"memory_format": torch.channels_last}
    batches_last = [batch.contiguous(**last) for batch in batches]
    found: dict[str, Callable[[], object]] = {
        FORWARDS[0]: partial(forward, plain, batches),
        FORWARDS[1]: partial(forward, copy.deepcopy(plain).to(**last), batches_last),
        CALIBRATE: partial(bnretrofit.calibrate, plain, plan, batches),
        UPDATE_BN: partial(update_bn, batches, normed),
        UPDATE_BN_LAST: partial(update_bn, batches_last, copy.deepcopy(normed).to(**last)),
    }
    try:
        from fvcore.nn.precise_bn import update_bn_stats
    except ImportError:
        print("fvcore is not installed, so it is left out: pip install 'bnretrofit[bench]'")
    else:
        found[FVCORE] = partial(update_bn_stats, copy.deepcopy(normed).train(), batches, len(batches))
    return found


def forward(model: nn.Module, batches: list[Tensor]) -> None:
    with torch.inference_mode():
        for batch in batches:
            model(batch)


def race(found: dict[str, Callable[[], object]], rounds: int) -> tuple[dict[str, list[float]], dict[str, int | None]]:
    """Seconds of each contender in each round, and the most memory it took above what was held when all began."""
    times: dict[str, list[float]] = {name: [] for name in found}
    peaks: dict[str, int | None] = dict.fromkeys(found)
    held = resident()
    for number in range(rounds):
        for name in rotated(list(found), number):
            reset_peak()
            times[name].append(timed(found[name]))
            peak = peak_memory()
            if peak is not None and held is not None:
                peaks[name] = max(peaks[name] or 0, peak - held)
        print(
            f"round {number + 1} of {rounds}:",
            {name: round(values[-1], 2) for name, values in times.items()},
            flush=True,
        )
    return times, peaks


def speeds(times: dict[str, list[float]], peaks: dict[str, int | None]) -> dict[str, Any]:
    fastest = min(FORWARDS, key=lambda name: min(times[name]))
    return {
        "fastest_forward": fastest,
        "contenders": {
            name: {
                "seconds": [round(value, 3) for value in values],
                "over_fastest_forward": ratios(values, times[fastest]),
                "calibrate_over_it": ratios(times[CALIBRATE], values),
                "peak_mib": None if (peak := peaks[name]) is None else round(peak / 2**20),
            }
            for name, values in times.items()
        },
    }


@contextmanager
def pooled(watched: list[nn.Module], *, inputs: bool) -> Iterator[list[Pool]]:
    """A float64 pool over what each module returns, or over what it is given."""
    pools = [Pool() for _ in watched]

    def watch(pool: Pool, module: nn.Module) -> Any:
        if inputs:
            return module.register_forward_pre_hook(lambda _, args: pool.add(args[0]))
        return module.register_forward_hook(lambda _, __, output: pool.add(output))

    handles = [watch(pool, module) for pool, module in zip(pools, watched, strict=True)]
    try:
        yield pools
    finally:
        for handle in handles:
            handle.remove()


def network_errors(plain: nn.Module, normed: nn.Module, plan: bnretrofit.Plan, batches: list[Tensor]) -> dict[str, Any]:
    """Each one's error, over all channels of all layers, against float64 statistics of what it measures."""
    layers: list[nn.Module] = [plain.get_submodule(site.name) for site in plan.sites]
    with pooled(layers, inputs=False) as pools:
        forward(plain, batches)
    reference = [pool.statistics() for pool in pools]
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    with pooled([last.get_submodule(site.name) for site in plan.sites], inputs=False) as pools:
        forward(last, batches)
    reference_last = [pool.statistics() for pool in pools]
    stats = bnretrofit.calibrate(plain, plan, batches)
    ours = [Statistics(stats[site.name].mean, stats[site.name].unbiased_var) for site in plan.sites]
    errors = {
        f"{CALIBRATE} / vgg, eval": error(ours, reference),
        f"{CALIBRATE} / the same in channels_last": error(ours, reference_last),
        "float64, channels_last / float64, NCHW": error(reference_last, reference),
    }
    norms: list[nn.Module] = [module for module in normed.modules() if isinstance(module, nn.BatchNorm2d)]
    with pooled(norms, inputs=True) as pools:
        update_bn(batches, normed)
    theirs = [pool.statistics() for pool in pools]
    measured = running(normed)
    errors[f"{UPDATE_BN} / vgg_bn, train"] = error(measured, theirs)
    errors[f"{UPDATE_BN} / vgg, eval"] = error(measured, reference)
    if (found := by_fvcore(normed, batches)) is not None:
        errors[f"{FVCORE} / vgg_bn, train"] = error(found, [each.population() for each in theirs])
        errors[f"{FVCORE} / vgg, eval"] = error(found, [each.population() for each in reference])
    return errors


def running(model: nn.Module) -> list[Statistics]:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    buffers = [(norm.running_mean, norm.running_var) for norm in norms]
    return [Statistics(mean.double(), var.double()) for mean, var in buffers if mean is not None and var is not None]


def by_fvcore(normed: nn.Module, batches: list[Tensor]) -> list[Statistics] | None:
    try:
        from fvcore.nn.precise_bn import update_bn_stats
    except ImportError:
        return None
    model = copy.deepcopy(normed).train()
    update_bn_stats(model, batches, len(batches))
    return running(model)


def error(found: list[Statistics], reference: list[Statistics]) -> dict[str, float]:
    """Error of the means in units of the channel's standard deviation, of the variances relative to them."""
    mean = torch.cat([(a.mean - b.mean).abs() / b.var.sqrt() for a, b in zip(found, reference, strict=True)])
    var = torch.cat([(a.var / b.var - 1).abs() for a, b in zip(found, reference, strict=True)])
    values = {"mean_median": mean.median(), "mean_max": mean.max(), "var_median": var.median(), "var_max": var.max()}
    values["var_least"] = torch.cat([each.var for each in found]).min()
    return {name: float(f"{float(value):.3g}") for name, value in values.items()}


def layer_errors() -> dict[str, Any]:
    """One layer that hands its input on exactly: 50 samples in batches of 16, 16, 16 and 2, of a known distribution."""
    results = {}
    for case, mean, std in (("N(0, 1)", 0.0, 1.0), ("N(1000, 0.01²)", 1000.0, 0.01)):
        samples = torch.randn(50, 64, 56, 56, generator=torch.Generator().manual_seed(2)) * std + mean
        batches = list(samples.split(16))
        layer = nn.Conv2d(64, 64, 1, groups=64, bias=False)
        nn.init.ones_(layer.weight)
        plain, normed = nn.Sequential(layer, nn.ReLU()).eval(), nn.Sequential(layer, nn.BatchNorm2d(64), nn.ReLU())
        pool = Pool()
        pool.add(samples)
        reference = [pool.statistics()]
        # By name, since by default nothing goes in after the layer that makes the model's output.
        plan = bnretrofit.make_plan(plain, samples[:1], include=["0"])
        stats = bnretrofit.calibrate(plain, plan, batches)["0"]
        results[f"{CALIBRATE}, {case}"] = error([Statistics(stats.mean, stats.unbiased_var)], reference)
        update_bn(batches, normed)
        results[f"{UPDATE_BN}, {case}"] = error(running(normed), reference)
        if (found := by_fvcore(normed, batches)) is not None:
            results[f"{FVCORE}, {case}"] = error(found, [each.population() for each in reference])
    return results


def show(speed: dict[str, Any], network: dict[str, Any], layer: dict[str, Any]) -> None:
    fastest = speed["fastest_forward"]
    rows = [
        (
            name,
            f"{min(row['seconds']):.2f}",
            *(
                f"{row[key][which]:.2f}"
                for key in ("over_fastest_forward", "calibrate_over_it")
                for which in ("min", "median")
            ),
            row["peak_mib"],
        )
        for name, row in speed["contenders"].items()
    ]
    head = ("time", "s", f"÷ {fastest}: min", "median", "calibrate ÷ it: min", "median", "peak MiB")
    print("", table(head, rows), sep="\n")
    keys = ("mean_median", "mean_max", "var_median", "var_max")
    for title, errors in (("error over all layers: of / against", network), ("error of one layer", layer)):
        body = [(name, *(f"{row[key]:.1e}" for key in keys)) for name, row in errors.items()]
        print("", table((title, "mean: median", "max", "var: median", "max"), body), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
