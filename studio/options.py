"""The options every verb understands, before and after its name.

`penstock --target prod run` and `penstock run --target prod` mean the same. A flag on the command line wins over an
environment variable (`PENSTOCK_TARGET` for all verbs, `PENSTOCK_RUN_TARGET` for one), and the later place over the
earlier one.
"""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, Literal

import typer

Format = Literal["text", "json"]

PANEL = "Everywhere"

# How much a value weighs, by where it comes from (the names are those of click's ParameterSource).
WEIGHT = {"DEFAULT": 0, "DEFAULT_MAP": 0, "ENVIRONMENT": 1, "COMMANDLINE": 2, "PROMPT": 2}


@dataclass(frozen=True)
class Options:
    """What holds for every verb.

    Attributes:
        project_dir: folder with `penstock.yaml`, or None to look for it.
        target: the dbt target, or None for the default of the profile.
        output: `json` writes one JSON document to stdout, `text` is for people.
        quiet: no progress and no notes on stderr; results and errors stay.
        no_color: plain text even on a terminal (`NO_COLOR` does the same).
        debug: an unexpected error shows its traceback.
    """

    project_dir: Path | None = None
    target: str | None = None
    output: Format = "text"
    quiet: bool = False
    no_color: bool = False
    debug: bool = False

    @property
    def json(self) -> bool:
        """Whether the result goes out as JSON."""
        return self.output == "json"


@dataclass
class Given:
    """Collects the options of one command line; `options` is the outcome so far."""

    values: dict[str, tuple[int, Any]] = field(default_factory=dict)

    @property
    def options(self) -> Options:
        """The options given so far, and the defaults for the others."""
        plain = bool(os.environ.get("NO_COLOR"))
        values = {name: value for name, (_, value) in self.values.items()}
        return Options(**(values | {"no_color": plain or values.get("no_color", False)}))

    def take(self, context: typer.Context, name: str, value: Any) -> None:
        """Keeps a value unless a weightier one is there already."""
        source = context.get_parameter_source(name)
        weight = WEIGHT.get(source.name, 0) if source else 0
        if weight and weight >= self.values.get(name, (0, None))[0]:
            self.values[name] = (weight, value)


def _option(*names: str, help: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=PANEL, show_default=False, show_envvar=False)


def _declared(
    project_dir: Annotated[Path | None, _option("--project-dir", help="Folder with penstock.yaml.")] = None,
    target: Annotated[str | None, _option("--target", "-t", help="dbt target, such as dev or prod.")] = None,
    output: Annotated[Format, _option("--output", "-o", help="text for people, json for programs.")] = "text",
    quiet: Annotated[bool, _option("--quiet", "-q", help="No progress on stderr.")] = False,
    no_color: Annotated[bool, _option("--no-color", help="Plain text; NO_COLOR=1 does the same.")] = False,
    debug: Annotated[bool, _option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    """The declaration of the options; only its signature is used."""


DECLARED = inspect.signature(_declared).parameters


def global_options(function: Callable[Concatenate[Options, ...], None]) -> Callable[..., None]:
    """Adds the options of this module to a verb, which gets them as one `Options` value in first place.

    A verb that declares a parameter of the same name (an `output` with more formats) keeps its own.
    """
    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    names = {parameter.name for parameter in own}
    shared = [parameter for name, parameter in DECLARED.items() if name not in names]

    @wraps(function)
    def verb(context: typer.Context, **arguments: Any) -> None:
        given = context.ensure_object(Given)
        for parameter in shared:
            given.take(context, parameter.name, arguments.pop(parameter.name))
        function(given.options, **arguments)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [context, *(parameter.replace(kind=keyword) for parameter in [*own, *shared])]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return verb
