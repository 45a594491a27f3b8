"""Decisions as data, to JSON and back: where norms go in and where not, which fold away and which stay, and why."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bnretrofit.errors import InputRejectedError
from bnretrofit.scales import Scales

__all__ = ["Fold", "FoldPlan", "Leave", "Plan", "Site", "Skip"]

PLAN_SCHEMA = 1

Decision = TypeVar("Decision", "Site", "Skip")


@dataclass(frozen=True, slots=True)
class Site:
    """A layer that gets a BatchNorm.

    Attributes:
        name: The layer's module name in the original model.
        kind: Its class: "Conv2d", "Linear" …
        channels: Its output channels.
        calls: How often the model calls it in one pass; all calls share one norm and pooled statistics.
        norm: The class of the norm: "BatchNorm2d", "ChannelsLastBatchNorm1d" …
        channel_dim: Where the channels stand in its output: 1 or -1.
        norm_name: The norm's module name in the resulting model.
        result_name: The layer's module name in the resulting model.
        activation: With placement "post": the module that the norm stands after; empty otherwise.
    """

    name: str
    kind: str
    channels: int
    calls: int
    norm: str
    channel_dim: int
    norm_name: str
    result_name: str
    activation: str = ""

    @property
    def position(self) -> str:
        """Name of the module that the norm stands after: the layer itself, or its activation."""
        return self.activation or self.name


@dataclass(frozen=True, slots=True)
class Skip:
    """A conv or dense layer that is left alone.

    Attributes:
        name: The layer's module name; for a functional call on a bare parameter, the parameter's name.
        kind: Its class, or "functional".
        reason: Why, as a sentence.
    """

    name: str
    kind: str
    reason: str


def _checked(decision: Decision) -> Decision:
    """Refuse a decision whose fields are not of their types: a document may say anything."""
    for item in dataclasses.fields(decision):
        value = getattr(decision, item.name)
        if not isinstance(value, item.type if isinstance(item.type, type) else str) or isinstance(value, bool):
            raise TypeError(f"{item.name} is {value!r}")
    return decision


@dataclass(frozen=True, slots=True)
class Plan:
    """All sites and skips of a model.

    Attributes:
        sites: Layers that get a norm, in the order in which the model runs them.
        skips: All other conv and dense layers, each with its reason.
        inputs: Shapes and dtypes of the example the model was captured with (see `batches.describe`).
        placement: "pre": between a layer and its activation; "post": after the activation.
        twin: With like=: the class of the other architecture.
        tensors: With like=: tensor names of the twin -> tensor names of the model.
        notes: What could not be checked, as sentences.
        like: With like=: the twin itself. Not part of the JSON, nor of equality.
    """

    sites: tuple[Site, ...]
    skips: tuple[Skip, ...]
    inputs: Any
    placement: str = "pre"
    twin: str | None = None
    tensors: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    like: Any = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON document, without the twin's modules."""
        document = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "like"}
        document["sites"] = [dataclasses.asdict(site) for site in self.sites]
        document["skips"] = [dataclasses.asdict(skip) for skip in self.skips]
        return {"schema_version": PLAN_SCHEMA, **document, "notes": list(self.notes)}

    @classmethod
    def from_json(cls, document: Any) -> "Plan":
        """A plan from `to_json`'s document.

        Raises:
            InputRejectedError: The document is no plan of this version.
        """
        try:
            if document["schema_version"] != PLAN_SCHEMA:
                raise InputRejectedError(
                    f"the plan has schema version {document['schema_version']}",
                    remedy=f"this version reads {PLAN_SCHEMA}",
                )
            return cls(
                sites=tuple(_checked(Site(**site)) for site in document["sites"]),
                skips=tuple(_checked(Skip(**skip)) for skip in document["skips"]),
                inputs=document["inputs"],
                placement=document["placement"],
                twin=document["twin"],
                tensors=dict(document["tensors"]),
                notes=tuple(document["notes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputRejectedError(
                "this is no plan", why=f"{type(error).__name__}: {error}", remedy="make one with bnretrofit plan --json"
            ) from error


@dataclass(frozen=True, slots=True)
class Fold:
    """A norm that is absorbed into a layer beside it.

    Attributes:
        norm: The norm's module name.
        layer: The name of the layer that takes it; of the module before the norm, where none has to.
        kind: The layer's class.
        channels: Channels of the norm.
        unchanged: Channels on which the running kernel treats the norm as the identity: their weights keep their bits.
        scale_max: Largest |weight| / sqrt(running_var + eps).
        new_bias: Whether the layer gains a bias, and so a key.
        direction: "backward": into the layer before it; "forward": into the layer after it; "none": it is the identity.
        new_layer: Whether the layer has to be replaced by one that pads with a value per channel.
    """

    norm: str
    layer: str
    kind: str
    channels: int
    unchanged: int
    scale_max: float
    new_bias: bool
    direction: str = "backward"
    new_layer: bool = False

    @property
    def reason(self) -> str:
        """Why it folds, as a sentence."""
        if self.direction == "none":
            return "it is the identity, and nothing else reads what it reads or changes it"
        where = "before" if self.direction == "backward" else "after"
        return f"it is absorbed into '{self.layer}' {where} it"


@dataclass(frozen=True, slots=True)
class Leave:
    """A norm that stays.

    Attributes:
        name: The norm's module name.
        kind: Its class.
        reason: Why, as a sentence.
    """

    name: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """All norms of a model: those that fold away and those that stay.

    Attributes:
        folds: Those that fold, each with its `reason`.
        leaves: Those that stay, each with its `reason`.
        scales: How strongly those that fold scale their channels; None if there are none.
    """

    folds: tuple[Fold, ...]
    leaves: tuple[Leave, ...]
    scales: Scales | None = None

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON document."""
        return {
            "folds": [{**dataclasses.asdict(fold), "reason": fold.reason} for fold in self.folds],
            "leaves": [dataclasses.asdict(leave) for leave in self.leaves],
            "scales": None if self.scales is None else dataclasses.asdict(self.scales),
        }
