"""dbt_project.yml and profiles.yml: the project's name, its folders, and the warehouse of a target."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from compiler.errors import ProjectError, nearest
from flows.warehouse.location import FileLocation, Location, ServerLocation

_ENV_VAR = re.compile(
    r"\{\{\s*env_var\(\s*(['\"])(?P<name>[A-Za-z_][A-Za-z0-9_]*)\1\s*(?:,\s*(['\"])(?P<default>[^'\"]*)\3\s*)?\)"
    r"\s*(?:\|\s*(?:int|string|as_number|as_text|as_native)\s*)?\}\}"
)
# What dbt's profile and libpq call differently, or dbt knows by two names.
_SERVER_KEYS: Mapping[str, str] = {
    "host": "host", "port": "port", "user": "user", "pass": "password", "password": "password", "dbname": "dbname",
    "database": "dbname", "connect_timeout": "connect_timeout", "keepalives_idle": "keepalives_idle",
    "sslmode": "sslmode", "sslcert": "sslcert", "sslkey": "sslkey", "sslrootcert": "sslrootcert",
}  # fmt: skip
_NEEDED = (("host",), ("user",), ("pass", "password"), ("dbname", "database"), ("schema",))
_DBT_TIMEOUT = 10


@dataclass(frozen=True)
class DbtProject:
    """What Penstock reads of dbt_project.yml; paths are folders of the project, `variables` its plain vars."""

    folder: Path
    name: str
    profile: str
    model_paths: tuple[str, ...]
    seed_paths: tuple[str, ...]
    snapshot_paths: tuple[str, ...]
    target_path: str
    variables: Mapping[str, Any]


@dataclass(frozen=True)
class WarehouseTarget:
    """A target of profiles.yml: where the warehouse is, and the schema that models are built into."""

    name: str
    location: Location
    schema: str

    @property
    def type(self) -> str:
        """The type of the target, as dbt calls it."""
        return self.location.type


def read_dbt_project(folder: Path) -> DbtProject:
    """Read dbt_project.yml.

    Raises:
        ProjectError: E502, it is missing, no YAML, or has no name or profile.
    """
    file = folder / "dbt_project.yml"
    values = _read(file, "E502", "penstock.yaml stands beside dbt_project.yml")
    for key in ("name", "profile"):
        if not isinstance(values.get(key), str):
            raise ProjectError(f"{file} has no text under '{key}'", code="E502", hint=f"add `{key}: …`")
    return DbtProject(
        folder, str(values["name"]), _rendered(str(values["profile"]), file),
        _folders(values, "model-paths", "models"), _folders(values, "seed-paths", "seeds"),
        _folders(values, "snapshot-paths", "snapshots"), str(values.get("target-path", "target")),
        {name: value for name, value in (values.get("vars") or {}).items() if not isinstance(value, dict)},
    )  # fmt: skip


def find_profiles(folder: Path, profiles_dir: Path | None) -> Path:
    """profiles.yml in `profiles_dir`, else in DBT_PROFILES_DIR, else in the project, else in ~/.dbt.

    Raises:
        ProjectError: E503, there is none.
    """
    if profiles_dir is not None:
        places = [profiles_dir]
    else:
        named = os.environ.get("DBT_PROFILES_DIR")
        places = [*([Path(named)] if named else []), folder, Path.home() / ".dbt"]
    for place in places:
        if (place / "profiles.yml").is_file():
            return place / "profiles.yml"
    looked = ", ".join(str(place) for place in places)
    raise ProjectError(
        f"no profiles.yml in {looked}", code="E503", hint="write one, or name its folder: --profiles-dir DIR"
    )


def read_target(project: DbtProject, target: str | None, profiles_dir: Path | None = None) -> WarehouseTarget:
    """The warehouse of a target, by default of the profile's own default target.

    Raises:
        ProjectError: E503 no such profile or target, a variable is not set; E505 a warehouse that is not supported.
    """
    file = find_profiles(project.folder, profiles_dir)
    profiles = _read(file, "E503", "")
    profile = profiles.get(project.profile)
    if not isinstance(profile, dict) or not isinstance(profile.get("outputs"), dict):
        raise ProjectError(
            f"{file} has no profile '{project.profile}' with outputs", code="E503",
            hint=nearest(project.profile, [name for name in profiles if name != "config"]),
        )  # fmt: skip
    outputs = profile["outputs"]
    name = target or _rendered(str(profile.get("target", "default")), file)
    if not isinstance(outputs.get(name), dict):
        raise ProjectError(
            f"profile '{project.profile}' of {file} has no target '{name}'", code="E503", hint=nearest(name, outputs)
        )
    output = outputs[name]
    kind = _rendered(str(output.get("type", "")), file)
    match kind:
        case "duckdb":
            location: Location = _file(project, name, output, file)
            schema = "main"
        case "postgres":
            location, schema = _server(name, output, file), "public"
        case _:
            raise ProjectError(
                f"target '{name}' of {file} is a {kind or 'nameless'} warehouse", code="E505",
                hint="supported: duckdb, postgres",
            )  # fmt: skip
    return WarehouseTarget(name, location, _rendered(str(output.get("schema", schema)), file))


def _file(project: DbtProject, name: str, output: Mapping[str, Any], file: Path) -> FileLocation:
    path = _rendered(str(output.get("path", ":memory:")), file)
    if path == ":memory:" or ":" in path.split("/")[0]:
        raise ProjectError(
            f"target '{name}' of {file} has no file: path is '{path}'", code="E505",
            hint="Penstock keeps its state in the warehouse: give a file, such as `path: warehouse.duckdb`",
        )  # fmt: skip
    return FileLocation((project.folder / Path(path).expanduser()).resolve())


def _server(name: str, output: Mapping[str, Any], file: Path) -> ServerLocation:
    """The server of a target, by the keys that dbt reads too; a value is never part of a message."""
    for names in _NEEDED:
        if not any(output.get(key) not in (None, "") for key in names):
            raise ProjectError(
                f"target '{name}' of {file} has no {names[0]}", code="E505",
                hint="a postgres target has type, host, port, user, pass, dbname and schema",
            )  # fmt: skip
    parameters: dict[str, str | int] = {"port": 5432, "connect_timeout": _DBT_TIMEOUT}
    for key, meant in _SERVER_KEYS.items():
        if output.get(key) not in (None, "", 0):
            parameters[meant] = _rendered(str(output[key]), file, key)
    if output.get("search_path"):
        path = _rendered(str(output["search_path"]), file, "search_path")
        parameters["options"] = "-c search_path=" + path.replace("\\", "\\\\").replace(" ", "\\ ")
    role = output.get("role")
    return ServerLocation(parameters, _rendered(str(role), file, "role") if role else None)


def read_dbt_yaml(file: Path) -> Any:
    """The content of one of dbt's YAML files, which may use what dbt allows and definitions do not, such as `<<:`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not YAML; the message names file and place.
    """
    try:
        return YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from error


def _read(file: Path, code: str, hint: str) -> dict[str, Any]:
    try:
        values = read_dbt_yaml(file)
    except (OSError, ValueError) as error:
        raise ProjectError(f"cannot read {file}: {error}", code=code, hint=hint or "mend the file") from error
    if not isinstance(values, dict):
        raise ProjectError(f"{file} is not a map", code=code, hint=hint)
    return values


def _folders(values: Mapping[str, Any], key: str, default: str) -> tuple[str, ...]:
    given = values.get(key, [default])
    return tuple(str(folder) for folder in given) if isinstance(given, list) else (str(given),)


def _rendered(text: str, file: Path, key: str | None = None) -> str:
    """The text with its `env_var` calls replaced; any other Jinja is refused, naming the key where text is secret."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"], match["default"])
        if found is None:
            raise ProjectError(
                f"{file} needs the environment variable {match['name']}", code="E503",
                hint=f"export {match['name']}=…, or give a default: env_var('{match['name']}', '…')",
            )  # fmt: skip
        return found

    rest = _ENV_VAR.sub("", text)
    if "{{" in rest or "{%" in rest:
        what = f"the value of '{key}'" if key else f"'{text}'"
        raise ProjectError(f"cannot read {what} in {file}", code="E503", hint="only {{ env_var('NAME', 'default') }}")
    return _ENV_VAR.sub(value, text)
