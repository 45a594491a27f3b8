"""Small networks behind factories, as users write them: commands name them `factories.py:NAME`."""

import torch
from torch import Tensor, nn


def plain(num_classes: int = 3) -> nn.Sequential:
    """Two convs and two dense layers, without any norm."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 8),
        nn.ReLU(inplace=True),
        nn.Linear(8, num_classes),
    )


def plain_bn(num_classes: int = 3) -> nn.Sequential:
    """`plain` with a BatchNorm after each conv: torchvision's vgg16_bn beside its vgg16."""
    convs = [
        module
        for layer in list(plain())[:4]
        for module in ((layer, nn.BatchNorm2d(layer.out_channels)) if isinstance(layer, nn.Conv2d) else (layer,))
    ]
    return nn.Sequential(*convs, *list(plain(num_classes))[4:])


def padded_otherwise() -> nn.Sequential:
    """`plain` with equal tensors, whose first conv pads by reflection."""
    model = plain()
    model[0] = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    return model


def bias_free(num_classes: int = 3) -> nn.Sequential:
    """A conv without bias and its BatchNorm, then layers without."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, num_classes),
    )


def half_bias_free(num_classes: int = 3) -> nn.Sequential:
    """A conv without bias, and one with."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)),
    )


def bias_behind(num_classes: int = 3) -> nn.Sequential:
    """A conv with bias, and behind its activation one without, which pads nothing."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)),
    )


def many_bias_free(num_classes: int = 3) -> nn.Sequential:
    """Ten convs without bias, and one with."""
    convs = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.ReLU()) for _ in range(10)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *convs, *head)


class InParts(nn.Module):
    """A body that gives maps, and a head."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(x).mean((2, 3)))
        return result


def in_parts(num_classes: int = 3) -> nn.Module:
    return InParts(num_classes)


def padded_twice(num_classes: int = 3) -> nn.Sequential:
    """Two convs that pad with zeros: a norm behind the first one's activation cannot be folded into the second."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)),
    )


def flat(num_classes: int = 3) -> nn.Sequential:
    """A network for images of 12 px alone, whose dense layer reads a flattened map."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(4 * 36, 8), nn.ReLU(), nn.Linear(8, num_classes)),
    )


class Block(nn.Module):
    """A conv and its norm, under the names that a retrofitted layer has."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, out, 3)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.layer(x)).relu()
        return result


def blocks() -> nn.Sequential:
    """Norms of its own, called `layer` and `norm`."""
    return nn.Sequential(Block(3, 4), Block(4, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


class Unfoldable(nn.Module):
    """A norm before a layer that pads with zeros, which cannot absorb it, and one that folds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.second(self.conv(self.first(x))).relu().mean((2, 3)))
        return result


def unfoldable() -> nn.Module:
    return Unfoldable()


class Centred(nn.Module):
    """Holds a tensor that is neither parameter nor buffer, as anchors and colour means often are."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
        self.net = plain()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x - self.mean)
        return result


def centred() -> nn.Module:
    return Centred()


class Tied(nn.Module):
    """Two dense layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu().mean((2, 3))
        result: Tensor = self.head(self.b(self.a(x).relu()).relu())
        return result


def tied() -> nn.Module:
    return Tied()


class Crosswise(nn.Module):
    """Layers that run in another order than the one in which they are defined; one twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.spare = nn.Linear(3, 3)
        self.body = nn.ModuleDict({"late": nn.Conv2d(3, 3, 3), "early": nn.Conv2d(3, 3, 3)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.body["late"](self.body["early"](self.body["early"](x).relu()).relu())
        result: Tensor = self.head(x.relu().mean((2, 3)))
        return result


def crosswise() -> nn.Module:
    return Crosswise()


def grey() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def talkative() -> nn.Sequential:
    print("loading the network")  # noqa: T201 - as users' factories do
    return plain()


def raising() -> nn.Module:
    raise RuntimeError("no such width\nand a second line")


def leaving() -> nn.Module:
    raise SystemExit(0)


def not_a_model() -> dict[str, int]:
    return {"width": 3}


def padding() -> nn.Sequential:
    """A conv that pads with zeros after another."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )


class Detector(nn.Module):
    """A backbone that can be captured, in a network that cannot: its forward asks for values."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.ReLU()
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone(x).mean((2, 3))
        result: Tensor = self.head(features) if features.sum() > 0 else features
        return result


def detector() -> nn.Module:
    return Detector()


SCRIPT = "<script>document['title'] = 'taken'</script>"


def hostile() -> nn.Module:
    """Layers whose names are markup, a reference of its own, and letters that a terminal obeys."""
    names = (SCRIPT, '"><img src=x onerror=alert(1)>', "&amp;\x1b[31m", "\N{RIGHT-TO-LEFT OVERRIDE}{{ 7 * 7 }}")
    model = nn.Sequential()
    for name in names:
        model.add_module(name, nn.Conv2d(3, 3, 1))
    return model


def deep(layers: int = 400) -> nn.Sequential:
    """Four hundred layers."""
    return nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(layers)))


class Idle(nn.Module):
    """`plain_bn`, and a layer that nothing runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.idle = plain_bn(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return result


def idle() -> Idle:
    """A layer without use."""
    return Idle()
