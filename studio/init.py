"""Makes a project: Penstock's files in an existing dbt project, or a new one from the shipped starter.

Nothing that exists is overwritten; what was there is left and said.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlglot import exp

from compiler.catalog import Relation
from compiler.errors import PenstockError, ProjectError, nearest
from flows.dbt_files import DbtProject, WarehouseTarget, find_profiles, read_dbt_project, read_target
from flows.project import PROJECT_FILE
from flows.relations import Snapshot, relations_of, take_snapshot, write_snapshot
from studio.guess import Guess, guess_contacts, guess_events
from studio.schemas import FOLDER as SCHEMAS
from studio.schemas import write_schemas

GALLERY = Path(__file__).resolve().parent / "gallery"
STARTER_CONTACTS = 1000
_FIRST_EVENT = "signed_up"
_IGNORED = ".penstock/"
_LEFT_OUT = (".penstock", "target", "logs", "dbt_packages", ".user.yml", "*.duckdb", "*.duckdb.*", "__pycache__")

Choose = Callable[[str, list[str]], str]
"""(question, choices with the likeliest first) -> the choice."""


@dataclass
class Initiated:
    """What `init` did: files written, files that were there before, and the models it settled on."""

    folder: Path
    new_project: bool = False
    contact: str = ""
    events: str = ""
    event: str = ""
    created: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def write(self, name: str, text: str) -> None:
        """Write a file unless there is one."""
        file = self.folder / name
        if file.exists():
            self.kept.append(name)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        self.created.append(name)


def templates() -> list[str]:
    """The names of the gallery."""
    return sorted(place.name for place in GALLERY.iterdir() if (place / "workflow.yaml").is_file())


def init(folder: Path, *, template: str, choose: Choose, target: str | None = None) -> Initiated:
    """Add Penstock's files to the dbt project in a folder, or make a new project there.

    Args:
        folder: the dbt project, or where the new one shall be.
        template: workflow of the gallery to begin with.
        choose: asked which model holds contacts, and which events.
        target: the dbt target, by default the profile's.

    Raises:
        ProjectError: E511, no model can be contacts or events, the folder holds something else, no such template.
    """
    if template not in templates():
        raise ProjectError(f"no template '{template}'", code="E511", hint=nearest(template, templates()))
    folder = folder.resolve()
    if not (folder / "dbt_project.yml").is_file():
        return _new_project(folder, target)
    done = Initiated(folder)
    if (folder / PROJECT_FILE).exists():
        raise ProjectError(f"{folder / PROJECT_FILE} exists already", code="E511", hint="`penstock validate` checks it")
    dbt = read_dbt_project(folder)
    warehouse = read_target(dbt, target)
    snapshot = _snapshot(warehouse)
    relations = relations_of(dbt, warehouse.schema, snapshot)
    contact, events = _models(relations, choose)
    done.contact, done.events = contact.relation.name, events.relation.name
    done.event = (_common_event(warehouse, events) if snapshot is not None else None) or _FIRST_EVENT
    done.write(PROJECT_FILE, _project_file(dbt, warehouse, contact, events))
    if snapshot is not None:
        write_snapshot(folder / ".penstock" / warehouse.name / "catalog.json", snapshot)
    _add_workflow(done, template, contact)
    _add_surroundings(done)
    return done


def _new_project(folder: Path, target: str | None) -> Initiated:
    from studio.demo.project import shipped_project
    from studio.demo.raw import demand_empty

    if folder.exists() and any(place.name not in (".git", ".gitignore", ".venv") for place in folder.iterdir()):
        raise ProjectError(
            f"{folder} is neither empty nor a dbt project", code="E511",
            hint="go to your dbt project, or name a new folder: penstock init my_project",
        )  # fmt: skip
    shipped = shipped_project()
    demand_empty(read_target(read_dbt_project(shipped), target, shipped).location)
    done = Initiated(folder, new_project=True)
    shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True)
    done.created = sorted(place.relative_to(folder).as_posix() for place in folder.rglob("*") if place.is_file())
    _load_starter_data(folder, target)
    done.contact, done.events = "dim_contacts", "fct_events"
    _add_surroundings(done)
    return done


def _load_starter_data(folder: Path, target: str | None) -> None:
    """Generate the raw tables of the starter's shop, so that its first `penstock dbt build` has something to build."""
    from studio.demo import shop
    from studio.demo.raw import open_raw

    with open_raw(read_target(read_dbt_project(folder), target).location) as raw:
        raw.load(shop.generate(contacts=STARTER_CONTACTS))


# ---------------------------------------------------------------- what the models are


def _snapshot(warehouse: WarehouseTarget) -> Snapshot | None:
    """The columns of what is built; None when nothing is."""
    if warehouse.location.missing():
        return None
    with warehouse.location.open("", read_only=True) as opened:
        return take_snapshot(opened, "")


def _models(relations: Mapping[str, Relation], choose: Choose) -> tuple[Guess, Guess]:
    contacts = guess_contacts(relations.values())
    if not contacts:
        raise _nothing("contacts", "an id and an e-mail address", relations)
    contact = _chosen("Which model holds the contacts?", contacts, choose)
    events = guess_events(relations.values(), contact)
    if not events:
        raise _nothing("events", f"an id, {contact.columns['id']}, the event's name and its time", relations)
    return contact, _chosen("Which model holds their events?", events, choose)


def _chosen(question: str, guesses: list[Guess], choose: Choose) -> Guess:
    name = choose(question, [guess.relation.name for guess in guesses])
    return next(guess for guess in guesses if guess.relation.name == name)


def _nothing(what: str, needed: str, relations: Mapping[str, Relation]) -> ProjectError:
    known = [relation.name for relation in relations.values() if relation.columns]
    if not known:
        return ProjectError(
            "no model of this dbt project has known columns yet", code="E511",
            hint="`dbt build` first, or declare columns with data_type in the schema files; then `penstock init` again",
        )  # fmt: skip
    return ProjectError(
        f"no model looks like {what}: it needs columns for {needed}",
        code="E511",
        hint=f"models with known columns: {', '.join(sorted(known)[:12])}; make one, then `penstock init` again",
    )


def _common_event(warehouse: WarehouseTarget, events: Guess) -> str | None:
    """The most frequent event that can stand in a file; None when the model is empty."""
    from flows.warehouse.base import table

    name = exp.column(events.columns["name"], quoted=True)
    query = (
        exp.select(exp.cast(name, "text").as_("name")).from_(table(events.relation.place))
        .group_by(name.copy()).order_by(exp.Ordered(this=exp.Count(this=exp.Star()), desc=True), name.copy()).limit(20)
    )  # fmt: skip
    try:
        with warehouse.location.open("", read_only=True) as opened:
            names = [row["name"] for row in opened.rows(query)]
    except PenstockError:
        return None  # the model is declared, but not built
    return next((found for found in names if found and re.fullmatch(r"[\w .:/-]{1,80}", found)), None)


# ---------------------------------------------------------------- the files


def _project_file(dbt: DbtProject, warehouse: WarehouseTarget, contact: Guess, events: Guess) -> str:
    lines = [
        f"# yaml-language-server: $schema={SCHEMAS}/project.json",
        "version: 1",
        "",
        "contact:",
        f"  model: {contact.reference}",
        *(f"  {key}: {column}" for key, column in contact.columns.items()),
        "",
        "events:",
        f"  model: {events.reference}",
        *(f"  {key}: {column}" for key, column in events.columns.items()),
        "",
        "policy:",
        "  default_timezone: UTC",
        "",
        "# Secrets stand in environment variables. A target with `deliver: outbox` needs none: it writes files.",
        "destinations:",
        "  email:",
        "    type: smtp",
        "    host: \"{{ env_var('PENSTOCK_SMTP_HOST', 'localhost') }}\"",
        "    username: \"{{ env_var('PENSTOCK_SMTP_USER') }}\"",
        "    password: \"{{ env_var('PENSTOCK_SMTP_PASSWORD') }}\"",
        "",
        "# Only a target with `deliver: live` reaches real people.",
        "targets:",
        *(f"  {name}: {{deliver: outbox}}" for name in _targets(dbt, warehouse)),
    ]
    return "\n".join(lines) + "\n"


def _targets(dbt: DbtProject, warehouse: WarehouseTarget) -> list[str]:
    from compiler.yaml import read_yaml

    file = find_profiles(dbt.folder, None)
    tree, _ = read_yaml(file.read_text(encoding="utf-8"), str(file))
    outputs = tree.plain[dbt.profile]["outputs"]
    return sorted({warehouse.name, *map(str, outputs)})


def _add_workflow(done: Initiated, template: str, contact: Guess) -> None:
    first_name = next(
        (name for name in contact.relation.columns if re.search(r"(first|given)_?name", name.lower())), None
    )
    greeting = f"Hello {{{{ contact.{first_name} | default: 'there' }}}}," if first_name else "Hello,"
    words = {"event": done.event, "owner": _owner(done.folder), "greeting": greeting}
    for source, place in (
        ("workflow.yaml", f"workflows/{template}.yaml"),
        ("message.mjml", f"templates/{template}.mjml"),
        ("test.yaml", f"workflow_tests/{template}.yaml"),
    ):
        text = (GALLERY / template / source).read_text(encoding="utf-8")
        done.write(place, re.sub(r"@(\w+)@", lambda match: words.get(match[1], match[0]), text))


def _add_surroundings(done: Initiated) -> None:
    schemas = {f"{SCHEMAS}/workflow.json": "workflows/*.yaml", f"{SCHEMAS}/project.json": PROJECT_FILE}
    done.write(".vscode/settings.json", json.dumps({"yaml.schemas": schemas}, indent=2) + "\n")
    done.write(".vscode/extensions.json", json.dumps({"recommendations": ["redhat.vscode-yaml"]}, indent=2) + "\n")
    _ignore(done)
    write_schemas(done.folder, None)


def _ignore(done: Initiated) -> None:
    file = done.folder / ".gitignore"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if _IGNORED in text.splitlines():
        done.kept.append(".gitignore")
        return
    # The one file that is added to: what Penstock keeps locally must not be committed by accident.
    file.write_text(text + ("\n" if text and not text.endswith("\n") else "") + _IGNORED + "\n", encoding="utf-8")
    done.created.append(".gitignore")


def _owner(folder: Path) -> str:
    """The e-mail address git knows, else `unknown`."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    asked = subprocess.run(
        [git, "config", "user.email"], cwd=folder, capture_output=True, text=True, check=False, timeout=10
    )
    return re.sub(r'["\\\s]', "", asked.stdout) or "unknown"
