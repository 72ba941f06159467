"""The mapping of penstock.yaml and the relations of a warehouse -> the catalog for the definitions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from compiler.catalog import (
    Catalog,
    ContactModel,
    DestinationInfo,
    EventModel,
    MergeModel,
    Relation,
    ScoreInfo,
    TemplateInfo,
)
from compiler.errors import DefinitionError, Problem, ProjectError, nearest
from compiler.yaml import YamlPath
from destinations import REGISTRY
from flows.settings import Merges, Settings

ProblemMaker = Callable[[str, str, YamlPath, str], Problem]
"""(code, message, path in penstock.yaml, hint) -> a problem at its place."""

_REFERENCE = re.compile(r"\b(?:ref|source)\(([^()]*)\)")
_CONTACT_COLUMNS = ("id", "email", "phone", "push_token", "timezone", "updated_at", "unsubscribed", "bounced",
                    "unsubscribed_groups", "tags")  # fmt: skip
_EVENT_COLUMNS = ("id", "contact", "name", "at", "loaded_at", "data")
_NEVER_LATE = "event_time"


def catalog_of(
    settings: Settings, relations: Mapping[str, Relation], *, problem: ProblemMaker, state_schema: str,
    workflows: Iterable[str], templates: Mapping[str, TemplateInfo], passed: Mapping[str, frozenset[str]],
) -> Catalog:  # fmt: skip
    """The catalog; `passed` is what `enroll` steps pass to a workflow (`compiler.entry.passed_names`).

    Raises:
        DefinitionError: E501, the mapping names a model, column or destination type that does not exist.
        ProjectError: E507, the columns of a mapped model are unknown.
    """
    return _CatalogMaker(settings, relations, problem).made(state_schema, workflows, templates, passed)


def relation_name(model: str) -> str:
    """The catalog's name of `ref('model')` or `source('source', 'table')`: `model`, `source.table`.

    Raises:
        ValueError: it is neither.
    """
    names = references(model)
    if len(names) != 1:
        raise ValueError(f"not a relation: {model}")
    return names[0]


def references(text: str) -> list[str]:
    """The catalog's names of all relations that a text refers to, in order."""
    return [
        ".".join(part.strip().strip("'\"\\") for part in match[1].split(",")) for match in _REFERENCE.finditer(text)
    ]


class _CatalogMaker:
    """Turns the mapping of penstock.yaml into a catalog; collects every problem before it refuses."""

    def __init__(self, settings: Settings, relations: Mapping[str, Relation], problem: ProblemMaker) -> None:
        self.settings, self.relations, self.problem = settings, relations, problem
        self.problems: list[Problem] = []

    def made(
        self, state_schema: str, workflows: Iterable[str], templates: Mapping[str, TemplateInfo],
        passed: Mapping[str, frozenset[str]],
    ) -> Catalog:  # fmt: skip
        contact, events = self._contact(), self._events()
        scores = dict(self._scores())
        destinations = dict(self._destinations())
        if self.problems or contact is None or events is None:
            raise DefinitionError(self.problems)
        return Catalog(
            contact, events, self.relations, destinations, templates, dict(self.settings.audiences), scores,
            frozenset(workflows), state_schema=state_schema,
            points={name: float(s.points) for name, s in self.settings.scores.items() if s.points is not None},
            passed=passed,
        )  # fmt: skip

    def _contact(self) -> ContactModel | None:
        given = self.settings.contact
        columns = {key: getattr(given, key) for key in _CONTACT_COLUMNS}
        relation = self._mapped(given.model, ("contact",), columns)
        merges = self._merges(given.merges) if given.merges is not None else None
        if relation is None:
            return None
        return ContactModel(relation, **columns, fields=dict(given.fields), merges=merges)

    def _merges(self, given: Merges) -> MergeModel | None:
        columns = {"from": given.from_, "into": given.into, "at": given.at}
        relation = self._mapped(given.model, ("contact", "merges"), columns)
        return None if relation is None else MergeModel(relation, given.from_, given.into, given.at)

    def _events(self) -> EventModel | None:
        given = self.settings.events
        columns = {key: getattr(given, key) for key in _EVENT_COLUMNS}
        relation = self._relation(given.model, ("events", "model"))
        if relation is None:
            return None
        if given.loaded_at == _NEVER_LATE and _NEVER_LATE not in relation.columns:
            columns["loaded_at"] = given.at
        self._check_columns(relation, ("events",), columns)
        return EventModel(
            relation, id=given.id, contact=given.contact, name=given.name, time=given.at,
            loaded_at=columns["loaded_at"], data=given.data, properties=given.properties,
            overlap_seconds=int(given.overlap.elapsed.total_seconds()),
        )  # fmt: skip

    def _scores(self) -> Iterator[tuple[str, ScoreInfo]]:
        for name, score in self.settings.scores.items():
            if score.model is None:
                continue
            written = {"contact": score.contact, "value": score.value}
            relation = self._mapped(score.model, ("scores", name), written)
            if relation is not None:
                dated = score.scored_at if score.scored_at in relation.columns else None
                yield name, ScoreInfo(name, relation, score.contact, score.value, dated)

    def _destinations(self) -> Iterator[tuple[str, DestinationInfo]]:
        for name, config in self.settings.destinations.items():
            path: YamlPath = ("destinations", name)
            kind = config.get("type")
            if not isinstance(kind, str) or kind not in REGISTRY:
                wrong = "has no type" if kind is None else f"has the unknown type '{kind}'"
                hint = nearest(str(kind or ""), REGISTRY)
                self.problems.append(self.problem("E501", f"destination {name} {wrong}", (*path, "type"), hint))
                continue
            targets = next((config[key] for key in ("targets", "notify_to") if isinstance(config.get(key), dict)), None)
            able = REGISTRY[kind].abilities(config)
            roles: Any = able.roles
            named = None if targets is None else frozenset(targets)
            yield name, DestinationInfo(name, roles, config.get("default") is True, named, able.objects)

    def _mapped(self, model: str, path: YamlPath, columns: Mapping[str, str | None]) -> Relation | None:
        relation = self._relation(model, (*path, "model"))
        if relation is not None:
            self._check_columns(relation, path, columns)
        return relation

    def _relation(self, model: str, path: YamlPath) -> Relation | None:
        name = relation_name(model)
        if (relation := self.relations.get(name)) is not None:
            return relation
        hint = nearest(name, self.relations) or "the dbt project has no models yet"
        self.problems.append(self.problem("E501", f"no model '{name}' in the dbt project", path, hint))
        return None

    def _check_columns(self, relation: Relation, path: YamlPath, columns: Mapping[str, str | None]) -> None:
        if not relation.columns:
            raise ProjectError(
                f"the columns of '{relation.name}' are unknown", code="E507",
                hint="`penstock dbt build` makes it; or declare its columns with data_type in the model's schema file",
            )  # fmt: skip
        known = {column.lower() for column in relation.columns}
        for key, column in columns.items():
            if column is not None and column.lower() not in known:
                message = f"{relation.name} has no column '{column}'"
                hint = f"{nearest(column, relation.columns)} (columns: {relation.source})"
                self.problems.append(self.problem("E501", message, (*path, key), hint))
