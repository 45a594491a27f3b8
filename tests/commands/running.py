"""Running a command in this process or in another, and the files and images that commands are run on."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.commands import factories

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "checkpoints" / "digits_vgg11.safetensors"
TRAIN, VAL = (ROOT / "checkpoints" / "digits" / split for split in ("train", "val"))
MODEL = "bnretrofit:digits_vgg11"
NORM_TENSORS = ("running_mean", "running_var", "weight", "bias")
EPOCHS = ("--epochs", 3, "--lr", 0.05, "-b", 8, "--bn-stats", "batch", "--device", "cpu")


def factory(name: str) -> str:
    """A network of factories.py as commands name it."""
    return f"{factories.__file__}:{name}"


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document that is all of stdout."""
        return json.loads(self.out)

    @property
    def notes(self) -> list[str]:
        """What the user was told on stderr, besides progress."""
        return [line.removeprefix("note: ") for line in self._said if line.startswith("note: ")]

    @property
    def error(self) -> str:
        """The one line of an error, on stderr, with nothing on stdout."""
        assert self.out == ""
        (line,) = [line for line in self._said if not line.startswith("note: ")]
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    @property
    def _said(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.strip() and "batch/s]" not in line and "%|" not in line]


def run(*arguments: object) -> Outcome:
    """Run a command in this process."""
    from cli.main import main

    handler = signal.getsignal(signal.SIGTERM)
    out, err, code = io.StringIO(), io.StringIO(), None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


def run_as_process(*arguments: object, cwd: Path, program: tuple[str, ...] = ("-m", "cli"), **env: str) -> Outcome:
    """Run a command as a shell would, in a folder that is not the checkout."""
    command = [sys.executable, *program, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=300, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with the checkout to import from."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


@dataclass(frozen=True)
class Place:
    """A folder to work in: `plain.pth` of the factory `plain`, images of noise, and a folder for outputs."""

    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def plain(self) -> Path:
        return self.folder / "plain.pth"

    def retrofit(self, checkpoint: Path | None, name: str, output: str, *more: object) -> Outcome:
        """Retrofit a checkpoint of a factory."""
        files = () if checkpoint is None else (checkpoint,)
        images = ("-d", self.images, "-o", self.out / output)
        return run("retrofit", *files, "-m", factory(name), "--trust-code", *images, *more)

    def outputs(self) -> list[str]:
        """What lies in the folder for outputs, hidden files too."""
        return sorted(path.name for path in self.out.iterdir())


def save_state(path: Path, model: nn.Module) -> Path:
    """Save a network's tensors, its norms as training might have left them."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.load_state_dict({name: torch.rand_like(norm.bias) + 0.5 for name in NORM_TENSORS}, strict=False)
    torch.save(model.state_dict(), path)
    return path


def tensors_of(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors, read without the code under test."""
    if path.suffix == ".pth":
        loaded: dict[str, Tensor] = torch.load(path, weights_only=True)
        return loaded
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def header_of(path: Path) -> Any:
    """What a .safetensors file says of itself."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["bnretrofit"])


def rewrite(source: Path, target: Path, change: Callable[[dict[str, Tensor]], object] = dict, **header: object) -> Path:
    """Copy a .safetensors file with its tensors or entries of its header changed."""
    tensors = {name: tensor.clone() for name, tensor in tensors_of(source).items()}
    change(tensors)
    save_file(tensors, target, metadata={"format": "pt", "bnretrofit": json.dumps({**header_of(source), **header})})
    return target


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """The same keys and the same tensors, bit for bit."""
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def draw_images(folder: Path, count: int = 4, size: int = 8, mode: str = "RGB") -> Path:
    """Write square images of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(count)
    for index in range(count):
        noise = torch.randint(0, 256, (size, size, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(noise.numpy()).convert(mode).save(folder / f"{index}.png")
    return folder


def draw_classes(folder: Path, classes: int = 3, each: int = 8) -> Path:
    """Images whose class is which colour is the brightest."""
    draw = torch.Generator().manual_seed(len(folder.name))
    for label in range(classes):
        place = folder / f"class{label}"
        place.mkdir(parents=True)
        for number in range(each):
            pixels = torch.randint(0, 128, (12, 12, 3), generator=draw, dtype=torch.uint8)
            pixels[..., label % 3] += 100
            Image.fromarray(pixels.numpy()).save(place / f"{number}.png")
    return folder
