"""The entry point: finds the command without importing the others, so that --help needs no torch."""

import importlib

import click

from .door import Door

COMMANDS = {
    "plan": "planning",
    "retrofit": "retrofitting",
    "finetune": "finetuning",
    "fold": "folding",
    "run": "running",
    "verify": "verifying",
    "export": "exporting",
    "report": "reporting",
    "inspect": "inspecting",
    "study": "studying",
    "demo": "demonstrating",
    "env": "environment",
}


class Commands(Door):
    """A group whose commands live in files of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order in which one uses them."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's file and return the command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".commands.{COMMANDS[cmd_name]}", __package__)
        command = module.command
        if not isinstance(command, click.Command):
            raise TypeError(cmd_name)
        return command


@click.group(
    cls=Commands, name="bnretrofit", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(None, "-V", "--version", package_name="bnretrofit")
def main() -> None:
    """Give a trained network batch normalisation without changing its outputs, prove it, and fold it back.

    \b
    Example:
      bnretrofit plan torchvision:vgg16
      bnretrofit retrofit vgg16.pth -m torchvision:vgg16 -d images/train -o vgg16-bn.safetensors
      bnretrofit finetune vgg16-bn.safetensors -d images/train --val images/val -o run
      bnretrofit verify vgg16.pth vgg16-bn.safetensors -d images/val
      bnretrofit fold vgg16-bn.safetensors -o vgg16-folded.safetensors
      bnretrofit export vgg16-folded.safetensors -o vgg16.onnx

    Results go to stdout, progress and notes to stderr. Exit codes: 0 ok, 1 internal error, 2 usage,
    3 verification failed, 4 input rejected, 5 out of memory or disk, 6 training diverged, 130 interrupted.
    """


if __name__ == "__main__":
    main()
