"""Options in a YAML file: those that a run was given, and those that another one takes."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .options import FILE

__all__ = ["config_option", "given_options"]

NOT_OF_A_RUN = ("config", "output", "resume", "as_json")


def read_config(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    """Take a file's values as the options' defaults: what is given on the command line wins."""
    if path is None:
        return
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise click.UsageError(f"--config {path} cannot be read: {said}") from error
    if not isinstance(document, dict):
        raise click.UsageError(f"--config {path} holds no options: it is to be lines such as 'batch-size: 64'")
    known = {param.name for param in ctx.command.params} - set(NOT_OF_A_RUN)
    given = {str(key).replace("-", "_"): value for key, value in document.items()}
    given = {ALIASES.get(key, key): value for key, value in given.items()}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise click.UsageError(f"--config {path} names what is no option: {', '.join(unknown)}")
    params = {param.name: param for param in ctx.command.params}
    ctx.default_map = {key: _as_given(path, params[key], value) for key, value in given.items() if value is not None}


ALIASES = {"data": "root"}
PLACES = ("root", "val", "data_dir")

config_option = click.option(
    "--config",
    type=FILE,
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="YAML file of options, such as a run's args.yaml; what is given here wins.",
)


def _as_given(path: Path, param: click.Parameter, value: Any) -> Any:
    """A value as the command line would have it."""
    values = value if isinstance(value, list) else [value]
    if any(isinstance(each, (dict, list)) for each in values):
        raise click.UsageError(f"--config {path} gives more than a value to '{param.name}'")
    if param.multiple:
        return [str(each) for each in values]
    if isinstance(value, bool) and isinstance(param.type, click.Choice):
        # YAML takes a bare no for False.
        return "yes" if value else "no"
    return value if isinstance(value, bool) else " ".join(map(str, values))


def _found_anywhere(model: str) -> str:
    """A model's name, by which a factory's file is found from another folder too."""
    file, colon, factory = model.rpartition(":")
    return f"{Path(file).resolve()}{colon}{factory}" if file.endswith(".py") and Path(file).is_file() else model


def given_options(ctx: click.Context) -> dict[str, Any]:
    """The options that are not at their defaults, as `--config` takes them."""
    names = {name: alias for alias, name in ALIASES.items()}
    found: dict[str, Any] = {}
    for name, value in ctx.params.items():
        if name in NOT_OF_A_RUN or ctx.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        plain = list(value) if isinstance(value, tuple) else value
        if isinstance(value, Path) or (name in PLACES and Path(str(value)).exists()):
            # Another run may be begun from another folder.
            plain = str(Path(value).resolve())
        if name == "model":
            plain = _found_anywhere(str(value))
        found[names.get(name, name).replace("_", "-")] = plain
    return found
