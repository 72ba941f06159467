"""Guesses which models of a dbt project hold contacts and events, and what their columns mean, by names and types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from compiler.catalog import Relation

_PEOPLE = r"contact|customer|user|people|person|member|subscriber|client|profile|account|patient|student|guest|lead"
_EVENTS = r"event|activit|track|interaction|behaviou?r|action"
_CONTACT_IDS = ("contact_id", "customer_id", "user_id", "person_id", "member_id", "subscriber_id", "client_id", "id")
_MOMENTS = ("occurred_at", "happened_at", "event_time", "event_at", "event_timestamp", "timestamp", "ts", "sent_at",
            "created_at")  # fmt: skip
_LAYERS = (("dim_", 3), ("fct_", 3), ("mart_", 2), ("int_", -2), ("stg_", -3), ("raw_", -4), ("base_", -3))


@dataclass(frozen=True)
class Guess:
    """A model with the meaning of its columns: key of penstock.yaml -> column name."""

    relation: Relation
    columns: Mapping[str, str]

    @property
    def reference(self) -> str:
        """The model as penstock.yaml writes it."""
        source, dot, table = self.relation.name.partition(".")
        return f"source('{source}', '{table}')" if dot else f"ref('{source}')"


def guess_contacts(relations: Iterable[Relation]) -> list[Guess]:
    """Models that may hold contacts, the likeliest first; none without known columns, an id and a sign of a person."""
    found = [(score, guess) for relation in relations for score, guess in _contact(relation)]
    return [guess for _, guess in sorted(found, key=lambda item: (-item[0], item[1].relation.name))]


def guess_events(relations: Iterable[Relation], contact: Guess) -> list[Guess]:
    """Models that may hold events of these contacts, the likeliest first."""
    others = [relation for relation in relations if relation.name != contact.relation.name]
    found = [(score, guess) for relation in others for score, guess in _events(relation, contact)]
    return [guess for _, guess in sorted(found, key=lambda item: (-item[0], item[1].relation.name))]


def _contact(relation: Relation) -> list[tuple[int, Guess]]:
    columns = _Columns(relation)
    stem = _singular(_bare(relation.name))
    identity = columns.first((f"{stem}_id", *_CONTACT_IDS)) or columns.like(r"_id$")
    email = columns.first(("email", "email_address", "mail")) or columns.like(
        r"e_?mail(?!.*(consent|opt|count))", "text"
    )
    named = re.search(_PEOPLE, relation.name) is not None
    if identity is None or not (named or email):
        return []
    meanings = {
        "id": identity,
        "email": email,
        "phone": columns.like(r"phone|mobile|msisdn", "text"),
        "timezone": columns.like(r"^(time_?zone|tz|iana_?zone)$", "text"),
        "updated_at": columns.like(r"(updated|modified|changed)", "timestamp"),
        "unsubscribed": columns.like(r"unsub|opted_out|opt_out|suppress", "boolean"),
        "bounced": columns.like(r"bounce", "boolean"),
    }
    score = 4 * named + 4 * (email is not None) + _layer(relation.name) - 5 * ("." in relation.name)
    if re.search(_EVENTS, _bare(relation.name)):
        score -= 4
    return [(score, Guess(relation, {key: column for key, column in meanings.items() if column}))]


def _events(relation: Relation, contact: Guess) -> list[tuple[int, Guess]]:
    columns = _Columns(relation)
    stem = _singular(_bare(relation.name))
    who = columns.first((contact.columns["id"], *_CONTACT_IDS[:-1]))
    name = columns.first(("event_name", "event_type", "event", "activity", "activity_type", "action", "name", "type"),
                         "text") or columns.like(r"(event|activity|action).*(name|type)", "text")  # fmt: skip
    moment = columns.first(_MOMENTS, "timestamp") or columns.like(".", "timestamp")
    identity = columns.first((f"{stem}_id", "event_id", "id", "uuid")) or columns.like(
        rf"^(?!{re.escape(who or '')}$).*_id$"
    )
    if not (who and name and moment and identity) or identity == who:
        return []
    loaded = columns.like(r"(loaded|arrived|ingested|received|inserted|synced|_sdc_batched)", "timestamp")
    meanings = {"id": identity, "contact": who, "name": name, "at": moment, "loaded_at": loaded or "event_time",
                "data": columns.like(r"prop|data|payload|attribute|context|body", "json")}  # fmt: skip
    score = 6 * bool(re.search(_EVENTS, relation.name)) + 2 * bool(loaded) + _layer(relation.name)
    score += 2 * (who == contact.columns["id"]) - 5 * ("." in relation.name)
    return [(score, Guess(relation, {key: column for key, column in meanings.items() if column}))]


class _Columns:
    """The columns of a relation, found by name and type; an unknown type fits everything."""

    def __init__(self, relation: Relation) -> None:
        self._types = {name: relation.type_of(name) if kind else None for name, kind in relation.columns.items()}

    def first(self, names: Iterable[str], kind: str | None = None) -> str | None:
        """The first of some names that is there."""
        lower = {name.lower(): name for name in self._types}
        return next((lower[name] for name in names if name in lower and self._fits(lower[name], kind)), None)

    def like(self, pattern: str, kind: str | None = None) -> str | None:
        """The first column whose name matches."""
        return next((c for c in self._types if re.search(pattern, c.lower()) and self._fits(c, kind)), None)

    def _fits(self, column: str, kind: str | None) -> bool:
        known = self._types[column]
        return kind is None or known is None or known == kind


def _bare(name: str) -> str:
    """`crm.dim_contacts` -> `contacts`."""
    name = name.rpartition(".")[2]
    for prefix, _ in _LAYERS:
        name = name.removeprefix(prefix)
    return name


def _singular(name: str) -> str:
    irregular = {"people": "person", "activities": "activity", "activity": "activity"}
    return irregular.get(name, name[:-3] + "y" if name.endswith("ies") else name.removesuffix("s"))


def _layer(name: str) -> int:
    """Finished models before staged ones."""
    bare = name.rpartition(".")[2]
    return next((score for prefix, score in _LAYERS if bare.startswith(prefix)), 0)
