"""Options in a YAML file: those that a run was given, and those that another one takes."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .options import FILE

__all__ = ["config_option", "given_options", "instead_of", "launched_with"]

# Who may run a stranger's code is said on the command line alone: a file may be a stranger's, too.
TRUST = "trust_code"
CONFIG = f"{__name__}.path"
"""Under this a command's context knows its file."""
NOT_OF_A_RUN = ("config", "output", "resume", "as_json", TRUST)


def read_config(ctx: click.Context, _param: click.Parameter, paths: tuple[Path, ...]) -> None:
    """Take a file's values as the options' defaults: what is given on the command line wins."""
    if not paths:
        return
    if len(paths) > 1:
        named = " and ".join(f"--config {path}" for path in paths)
        raise click.UsageError(f"{named} exclude each other: put the options into one file.")
    (path,) = paths
    ctx.meta[CONFIG] = path
    params = {param.name: param for param in ctx.command.params}
    given = _document(path)
    if given.pop(TRUST, None) not in (None, False):
        raise click.UsageError(
            f"--config {path} holds trust-code, which a file cannot grant: "
            "take the line out, and pass --trust-code yourself if you trust the code."
        )
    unknown = sorted(given.keys() - (params.keys() - set(NOT_OF_A_RUN)))
    if unknown:
        raise click.UsageError(f"--config {path} names what is no option: {', '.join(unknown)}")
    empty = sorted(_shown(key) for key, value in given.items() if value is None)
    if empty:
        raise click.UsageError(f"--config {path} gives no value to: {', '.join(empty)}")
    ctx.default_map = {key: _as_given(ctx, path, params[key], value) for key, value in given.items()}


def _document(path: Path) -> dict[str, Any]:
    """What a file says, by the options' names in Python."""
    import yaml

    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        document = None if node is None else yaml.SafeLoader("").construct_document(node)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise click.UsageError(f"--config {path} cannot be read: {said}") from error
    if not isinstance(node, yaml.MappingNode) or not isinstance(document, dict):
        raise click.UsageError(f"--config {path} holds no options: it is to be lines such as 'batch-size: 64'")
    # Of what stands there twice a document would hold the last.
    written = Counter(_name(str(key.value)) for key, _ in node.value)
    twice = sorted(name for name, count in written.items() if count > 1)
    if twice:
        raise click.UsageError(f"--config {path} says more than once: {', '.join(map(_shown, twice))}")
    return {_name(str(key)): value for key, value in document.items()}


def _name(key: str) -> str:
    """An option's name in Python."""
    name = key.replace("-", "_")
    return ALIASES.get(name, name)


ALIASES = {"data": "root"}
PLACES = ("root", "val", "data_dir")
OF_A_DATASET = ("root", "val")
"""Where the first is a data set by timm's name, that and a split's name are no places, whatever lies in this folder."""

config_option = click.option(
    "--config",
    type=FILE,
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="YAML file of options, such as a run's args.yaml; what is given here wins.",
)


def _as_given(ctx: click.Context, path: Path, param: click.Parameter, value: Any) -> Any:
    """A value as the command line would have it, if it is of the option's kind."""
    where = f"--config {path}, {_shown(str(param.name))}"
    values = value if isinstance(value, list) else [value]
    if any(isinstance(each, (dict, list)) for each in values):
        raise click.UsageError(f"{where}: it is more than a value")
    is_flag = isinstance(param, click.Option) and param.is_flag
    if any(isinstance(each, bool) for each in values) and not is_flag and not isinstance(param.type, click.Choice):
        # True would be taken for a 1.
        raise click.UsageError(f"{where}: it is a yes or no; what is meant as text stands in quotes")
    if param.multiple:
        found: Any = [str(each) for each in values]
    elif isinstance(value, bool) and isinstance(param.type, click.Choice):
        # YAML takes a bare no for False.
        found = "yes" if value else "no"
    else:
        found = value if isinstance(value, bool) else " ".join(map(str, values))
    try:
        param.type_cast_value(ctx, found)
    except click.BadParameter as error:
        raise click.UsageError(f"{where}: {error.message}") from error
    return found


def instead_of(other: str, default: object = None) -> Any:
    """Make the callback of an option that another one excludes; of the two, what the command line says wins.

    Options of the command line are looked at first, so that a file's can give way to them.

    Args:
        other: The other option's name in Python.
        default: What this option is where it gives way.
    """

    def settle(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        name = str(param.name)
        sources = [ctx.get_parameter_source(each) for each in (name, other)]
        if any(source in (None, ParameterSource.DEFAULT) for source in sources):
            return value
        if sources[0] is sources[1]:
            both = f"--{_shown(name)} and --{_shown(other)} exclude each other"
            if sources[0] is ParameterSource.DEFAULT_MAP:
                both = f"--config {ctx.meta[CONFIG]}: {_shown(name)} and {_shown(other)} exclude each other"
            raise click.UsageError(f"{both}: leave out one of them.")
        if sources[0] is ParameterSource.DEFAULT_MAP:
            ctx.set_parameter_source(name, ParameterSource.DEFAULT)
            return default
        return value

    return settle


def launched_with(variable: str) -> Any:
    """Make the callback of an option that `accelerate launch` has too: what is not given here is what was said there.

    Args:
        variable: Of the environment, through which accelerate tells.
    """

    def settle(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        name, said = str(param.name), os.environ.get(variable, "")
        if not said or ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            return value
        try:
            found = param.type_cast_value(ctx, said)
        except click.BadParameter as error:
            raise click.UsageError(f"{variable}, from accelerate launch: {error.message}") from error
        if found != value:
            ctx.set_parameter_source(name, ParameterSource.ENVIRONMENT)
        return found

    return settle


def _shown(name: str) -> str:
    """An option's name as users write it."""
    return {name: alias for alias, name in ALIASES.items()}.get(name, name).replace("_", "-")


def _found_anywhere(model: str) -> str:
    """A model's name, by which its file or folder is found from another folder too."""
    kind, _, folder = model.partition(":")
    if kind == "local-dir":
        return f"{kind}:{Path(folder).resolve()}"
    file, colon, factory = model.rpartition(":")
    return f"{Path(file).resolve()}{colon}{factory}" if file.endswith(".py") and Path(file).is_file() else model


def given_options(ctx: click.Context) -> dict[str, Any]:
    """The options that are not at their defaults, as `--config` takes them."""
    from bnretrofit.training_data.timm_datasets import parse_dataset

    found: dict[str, Any] = {}
    named = parse_dataset(str(ctx.params.get("root", ""))) is not None
    defaults = {param.name: param.default for param in ctx.command.params}
    for name, value in ctx.params.items():
        # What was said and is the default all the same is no other run.
        if (
            name in NOT_OF_A_RUN
            or ctx.get_parameter_source(name) is ParameterSource.DEFAULT
            or value == defaults.get(name)
        ):
            continue
        plain = list(value) if isinstance(value, tuple) else value
        place = name in PLACES and not (named and name in OF_A_DATASET) and Path(str(value)).exists()
        if isinstance(value, Path) or place:
            # Another run may be begun from another folder.
            plain = str(Path(value).resolve())
        if name == "model":
            plain = _found_anywhere(str(value))
        found[_shown(name)] = plain
    return found
