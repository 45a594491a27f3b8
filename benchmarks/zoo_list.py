"""The networks of the zoo: which they are, by group, name and key."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import RESULTS

__all__ = ["GROUPS", "Entry", "entries", "families"]

GROUPS = {
    "classification": "Classifiers of torchvision",
    "timm": "The smallest network of each family of timm",
    "segmentation": "Segmentation networks of torchvision",
    "video": "Video networks of torchvision",
    "detection": "Detectors of torchvision, through their backbone",
}

FAMILIES = RESULTS / "zoo_families.json"
# timm's own test_ networks are smaller than any, but nobody uses them.
TESTS = "test_*"


@dataclass(frozen=True, slots=True)
class Entry:
    """A network of the zoo.

    Attributes:
        group: One of `GROUPS`.
        name: Its name in its library.
        family: The module of timm it is from.
        part: The submodule that is retrofitted in its place; "" for the whole network.
        options: What its factory is given besides.
    """

    group: str
    name: str
    family: str = ""
    part: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What names it in records and on the command line."""
        return f"{self.group}:{self.name}"


def entries() -> list[Entry]:
    """All networks of the zoo, group by group."""
    from torchvision import models

    modules = {"classification": models, "segmentation": models.segmentation, "video": models.video}
    found = {group: [Entry(group, name) for name in models.list_models(module)] for group, module in modules.items()}
    found["timm"] = [Entry("timm", name, family) for family, name in families().items()]
    found["detection"] = [Entry("detection", "ssd300_vgg16", part="backbone")]
    return [entry for group in GROUPS for entry in found[group]]


def families(path: Path = FAMILIES) -> dict[str, str]:
    """The network with the fewest parameters of each of timm's families; kept, since counting takes five minutes."""
    import timm

    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("timm") != timm.__version__:
        print("counting the parameters of all of timm's networks: five minutes, once", flush=True)
        kept = {"timm": timm.__version__, "families": {family: _smallest(family) for family in timm.list_modules()}}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(kept, indent=1) + "\n")
    return dict(kept["families"])


def _smallest(family: str) -> str:
    import timm

    counts: dict[str, int] = {}
    for name in timm.list_models(module=family, exclude_filters=TESTS):
        with torch.device("meta"):
            counts[name] = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
    return min(counts, key=lambda name: (counts[name], name))
