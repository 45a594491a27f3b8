"""What a training step costs, as a part of docs/finetuning_figures.md: from results/step_cost.jsonl."""

import json
from typing import Any

from benchmarks.markdown import markdown
from benchmarks.measuring import RESULTS
from benchmarks.step_cost import BATCH, FROZEN, NAIVE, STOCK

__all__ = ["cost_parts"]

COLUMNS = {
    BATCH: "batch statistics",
    FROZEN: "frozen statistics",
    NAIVE: "norms in eval mode",
    STOCK: "torchvision's own with norms",
}

BEGINNING = """\
## What a training step costs

`python -m benchmarks.step_cost`: forward, loss, backward and optimiser, over the network without norms, in the same
rounds. Processor time, the median of {rounds} rounds and in brackets the least; then the peak memory of a process of
its own. The load of the {cores} cores before and after tells what ran beside it. *Norms in eval mode* is what frozen
statistics cost without this project's way of computing them."""


def cost_parts() -> list[str]:
    """The paragraphs; none where nothing was measured."""
    path = RESULTS / "step_cost.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    newest = {
        (step["model"], step["batch_size"]): (step["contenders"], line) for line in lines for step in line["steps"]
    }
    if not newest:
        return []
    last = lines[-1]
    rounds = " or ".join(map(str, sorted({line["rounds"] for _, line in newest.values()})))
    head = ["network", "images", *COLUMNS.values(), "batch statistics over torchvision's", "load"]
    rows = [[model, str(size), *cells(*found)] for (model, size), found in sorted(newest.items())]
    return [BEGINNING.format(rounds=rounds, cores=last["machine"]["cores"]), markdown(head, rows)]


def cells(contenders: dict[str, Any], line: dict[str, Any]) -> list[str]:
    costs = [cost(contenders[name]) if name in contenders else "" for name in COLUMNS]
    stock = contenders[BATCH]["cpu_over_stock"]
    return [*costs, ratio(stock) if stock else "", f"{line['load_before'][0]:.1f}, {line['load_after'][0]:.1f}"]


def cost(contender: dict[str, Any]) -> str:
    return f"{ratio(contender['cpu_over_plain'])}, memory {contender['peak_over_plain']:.2f}"


def ratio(found: dict[str, float]) -> str:
    return f"{found['median']:.2f} ({found['min']:.2f})"
