"""The functions of the workflow language (language §3), each lowered to frame columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlglot import exp

from compiler.allowlist import refuse
from compiler.columns import (
    arm_column,
    campaign_column,
    points_column,
    status_column,
    tag_column,
    visit_before,
    visit_column,
)
from compiler.errors import nearest
from compiler.identity import bucket_tree, identity_tree
from compiler.lookup import Fact, Lookup, LookupKind, count_since, event, first_between, frame, last_since, tick_at
from compiler.typed import Typed, boolean_operand, cast_to
from compiler.workflow import Duration

if TYPE_CHECKING:
    from compiler.condition import Condition, Scope

EVENT_FUNCTIONS = frozenset({"did", "event_count", "event_sum", "first_event", "last_event", "days_since", "rate"})
MESSAGE_EVENTS = {"opened": "email_opened", "clicked": "email_clicked", "replied": "email_replied",
                  "bounced": "email_bounced", "delivered": "email_delivered"}  # fmt: skip
"""Function about a step's message -> the event that says so."""
FUNCTIONS = EVENT_FUNCTIONS | frozenset(MESSAGE_EVENTS) | frozenset({
    "failed", "has_tag", "in_campaign", "in_workflow", "was_in_workflow", "in_audience", "position_in", "score",
    "local_hour", "local_dow", "local_date", "bucket", "now",
})  # fmt: skip
_FIRST_VISIT = "1"


@dataclass(frozen=True)
class _Options:
    names: tuple[str, ...]
    predicate: exp.Expr | None
    value: exp.Expr | None
    since: str | None
    within: float | None
    at_least: int


class Calls:
    """Lowers calls and collects what they need; one per condition."""

    def __init__(self, scope: Scope, lower: Callable[[exp.Expr], Typed], nested: Callable[[str], Condition]) -> None:
        self.scope = scope
        self._lower = lower
        self._nested = nested
        self.lookups: dict[str, Lookup] = {}
        self.facts: dict[str, Fact] = {}
        self.contact_columns: set[str] = set()
        self.properties: dict[str, str] = {}
        self.events: set[str] = set()
        self.since_steps: set[str] = set()
        self.arms: set[str] = set()
        self.visits: set[str] = set()
        self.fields: set[str] = set()
        self.tags: set[str] = set()
        self.kept: set[str] = set()
        self.clock = False
        self.state = False
        self.zone = False
        self._event_names: tuple[str, ...] = ()
        self.in_event = False
        self._depth = 0

    def call(self, node: exp.Anonymous) -> Typed:
        """Lower one call.

        Raises:
            ConditionError: E207 for wrong arguments, E203 for unknown names.
        """
        name = str(node.this).lower()
        if name == "now":
            self.clock = True
            return Typed(tick_at(), "timestamp")
        if self.in_event:
            raise refuse(node, f"{name}() cannot stand inside another function's predicate", code="E207")
        if name in EVENT_FUNCTIONS:
            return self._event_function(name, node)
        if name in MESSAGE_EVENTS:
            return self._message_event(name, node)
        match name:
            case "local_hour" | "local_dow" | "local_date":
                return self._local(name, node)
            case "in_audience":
                return self._audience(node)
            case "bucket":
                return Typed(bucket_tree(self._text(node), frame("contact_id")), "number")
            case "score":
                return self._score(node)
            case "failed":
                return self._delivery(self._step(node), "failed")
            case _:
                return self._state_fact(name, node)

    def times(self, node: exp.Anonymous) -> exp.Expr:
        """The times, an array of the frame, of the events a wait_for waits for, none before the entry.

        Raises:
            ConditionError: E209 when the call is no event, or has options that belong to the step.
        """
        name = str(node.this).lower()
        if name in MESSAGE_EVENTS:
            options = self._message_options(name, node)
        elif name == "did":
            if any(isinstance(argument, exp.Kwarg) for argument in node.expressions):
                raise refuse(node, "did() in a wait_for takes no options; since and within are keys of the step",
                             code="E209")  # fmt: skip
            options = self._options("did", node)
        else:
            raise refuse(node, f"wait_for cannot wait for {name}(); it waits for did(), opened(), …", code="E209")
        options = replace(options, since="entry")
        times = frame(self._lookup(f"{name}_{options.names[0]}", "times", options).column)
        return self._latest(self._step(node), times) if name in MESSAGE_EVENTS else times

    # ------------------------------------------------------------ events

    def _event_function(self, name: str, node: exp.Anonymous) -> Typed:
        if name == "rate":
            return self._rate(node)
        options = self._options(name, node)
        label = f"{name}_{options.names[0]}"
        if options.since not in (None, "entry"):
            return self._since_step(name, node, options, label)
        kinds: dict[str, LookupKind] = {"event_count": "count", "event_sum": "sum", "first_event": "first",
                                        "last_event": "last", "days_since": "last"}  # fmt: skip
        kind = kinds.get(name) or ("exists" if options.at_least == 1 else "count")
        lookup = self._lookup(label, kind, options)
        value = lookup.read()
        if name == "did" and kind == "count":
            return Typed(exp.paren(exp.GTE(this=value, expression=exp.Literal.number(options.at_least))), "boolean")
        return self._result(name, value)

    def _result(self, name: str, value: exp.Expr) -> Typed:
        match name:
            case "did":
                return Typed(exp.paren(value), "boolean")
            case "event_count":
                return Typed(value, "integer")
            case "event_sum":
                return Typed(value, "number")
            case "days_since":
                self.clock = True
                return Typed(days_before(value), "number")
            case _:
                return Typed(value, "timestamp")

    def _since_step(self, name: str, node: exp.Anonymous, options: _Options, label: str) -> Typed:
        step = str(options.since)
        if name == "event_sum":
            raise refuse(node, "event_sum() takes since => 'entry' or within, not a step", code="E207")
        times = frame(self._lookup(label, "times", options).column)
        self.since_steps.add(step)
        lower = exp.column(f"s_{step}", table="f", quoted=True)
        match name:
            case "did" | "event_count":
                count = count_since(times, lower)
                if name == "event_count":
                    return Typed(count, "integer")
                return Typed(exp.paren(exp.GTE(this=count, expression=exp.Literal.number(options.at_least))), "boolean")
            case "first_event":
                return Typed(first_between(times, lower, None), "timestamp")
            case _:
                return self._result(name, last_since(times, lower))

    def _rate(self, node: exp.Anonymous) -> Typed:
        positional, keywords = self._arguments(node, {"within", "since"})
        if len(positional) != 2:
            raise refuse(node, "rate() takes two events: rate('email_opened', 'email_sent', within => '90d')",
                         code="E207")  # fmt: skip
        parts = []
        for argument in positional:
            names = self._names(argument)
            parts.append(self._lookup(
                f"rate_{names[0]}", "count",
                _Options(names, None, None, self._since(node, keywords), self._within(keywords), 1),
            ).read())  # fmt: skip
        denominator = exp.Nullif(this=parts[1], expression=exp.Literal.number(0))
        ratio = exp.Div(this=exp.cast(parts[0], "double"), expression=denominator)
        return Typed(exp.paren(ratio), "number")

    def _lookup(self, label: str, kind: LookupKind, options: _Options) -> Lookup:
        lookup = Lookup(label, kind, options.names, options.predicate, options.within,
                        options.since is not None, options.value)  # fmt: skip
        self.lookups[lookup.column] = lookup
        self.events.update(options.names)
        if options.within is not None:
            self.clock = True
        return lookup

    def _options(self, name: str, node: exp.Anonymous) -> _Options:
        allowed = {"within", "since"} | ({"at_least"} if name == "did" else set())
        positional, keywords = self._arguments(node, allowed)
        if not positional:
            raise refuse(node, f"{name}() needs the name of an event", code="E207")
        names = self._names(positional[0])
        rest = positional[1:]
        value: exp.Expr | None = None
        if name == "event_sum":
            if not rest:
                raise refuse(node, "event_sum() needs what to add up: event_sum('purchase', event.amount)", code="E207")
            value = cast_to(self._in_names(names, rest[0]), "number").tree
            rest = rest[1:]
        if len(rest) > 1:
            raise refuse(rest[1], f"{name}() takes one predicate; join them with and", code="E207")
        predicate = boolean_operand(self._in_names(names, rest[0]), rest[0]).tree if rest else None
        at_least = keywords.get("at_least")
        if at_least is not None and not (isinstance(at_least, exp.Literal) and at_least.name.isdigit()):
            raise refuse(node, "at_least is a whole number", code="E207")
        return _Options(names, predicate, value, self._since(node, keywords), self._within(keywords),
                        int(at_least.name) if at_least is not None else 1)  # fmt: skip

    def _in_names(self, names: tuple[str, ...], node: exp.Expr) -> Typed:
        self._event_names, self.in_event = names, True
        try:
            return self._lower(node)
        finally:
            self._event_names, self.in_event = (), False

    def _arguments(self, node: exp.Anonymous, allowed: set[str]) -> tuple[list[exp.Expr], dict[str, exp.Expr]]:
        positional: list[exp.Expr] = []
        keywords: dict[str, exp.Expr] = {}
        for argument in node.expressions:
            if not isinstance(argument, exp.Kwarg):
                positional.append(argument)
                continue
            key = argument.this.name.lower()
            if key not in allowed:
                raise refuse(node, f"{str(node.this).lower()}() has no option '{key}'", code="E207",
                             hint=nearest(key, allowed))  # fmt: skip
            keywords[key] = argument.expression
        return positional, keywords

    def _names(self, node: exp.Expr) -> tuple[str, ...]:
        items = node.expressions if isinstance(node, exp.Array) else [node]
        if not items or not all(isinstance(item, exp.Literal) and item.is_string for item in items):
            raise refuse(node, "event names are quoted: did('purchase') or did(['a', 'b'])", code="E207")
        return tuple(item.name for item in items)

    def _within(self, keywords: dict[str, exp.Expr]) -> float | None:
        node = keywords.get("within")
        if node is None:
            return None
        try:
            return Duration.parse(
                node.name if isinstance(node, exp.Literal) and node.is_string else None
            ).elapsed.total_seconds()
        except ValueError as error:
            raise refuse(node, f"within: {error}", code="E207") from None

    def _since(self, node: exp.Anonymous, keywords: dict[str, exp.Expr]) -> str | None:
        value = keywords.get("since")
        if value is None:
            return None
        if not self.scope.enrollment:
            raise refuse(node, "since has a meaning only inside a workflow's steps and goals", code="E207")
        since = value.name if isinstance(value, exp.Literal) else ""
        if since != "entry" and since not in self.scope.steps:
            raise refuse(
                value, f"since: no step '{since}'", code="E208", hint=nearest(since, {"entry", *self.scope.steps})
            )
        return since

    def property(self, name: str) -> Typed:
        """The value of `event.<name>` inside a predicate."""
        events = self.scope.catalog.events
        mapped = {events.time: ("event_time", "timestamp"), events.loaded_at: ("loaded_at", "timestamp"),
                  events.name: ("name", "text"), events.id: ("event_id", "text"),
                  events.contact: ("contact_id", "text")}.get(name)  # fmt: skip
        if mapped:
            return Typed(event(mapped[0]), mapped[1])
        if name in events.relation.columns:
            kind = events.relation.type_of(name)
            if kind not in ("json", "array", "other"):
                self.properties[name] = kind
                return Typed(event(f"p_{name}"), kind)
        elif not (events.data or self.scope.catalog.open_names):
            raise refuse(exp.column(name), f"{events.relation.name} has no column '{name}'", code="E203",
                         hint=nearest(name, events.relation.columns))  # fmt: skip
        self.properties[name] = "other"
        dynamic = Typed(event(f"p_{name}"), "dynamic")
        declared = self.scope.catalog.property_type(self._event_names, name)
        return dynamic if declared in (None, "json", "array", "other") else cast_to(dynamic, str(declared))

    # ------------------------------------------------------------ messages and steps

    def _message_event(self, name: str, node: exp.Anonymous) -> Typed:
        lookup = self._lookup(f"{name}_{node.expressions[0].name}", "exists", self._message_options(name, node))
        return Typed(exp.paren(self._latest(self._step(node), lookup.read())), "boolean")

    def _latest(self, step: str, value: exp.Expr) -> exp.Expr:
        """What is known of a step's latest visit: nothing when it was met again in this very tick."""
        if step not in self.scope.repeated:
            return value
        same = exp.EQ(this=exp.column(visit_column(step), table="f", quoted=True), expression=visit_before(step))
        return exp.Case(ifs=[exp.If(this=same, true=value)])

    def _message_options(self, name: str, node: exp.Anonymous) -> _Options:
        action = exp.cast(self._action_id(self._step(node)), "text")
        self.properties["action_id"] = "text"
        predicate: exp.Expr = exp.EQ(this=event("p_action_id"), expression=action)
        if self.scope.catalog.open_names:
            predicate = exp.paren(exp.or_(predicate, self._named_message(self._step(node))))
        return _Options((MESSAGE_EVENTS[name],), predicate, None, None, None, 1)

    def _named_message(self, step: str) -> exp.Expr:
        """A simulation knows no ids of actions: there an event is about the template or step that it names, if any."""
        told: list[exp.Expr] = []
        for name, value in (("template", self.scope.templates.get(step)), ("step", step)):
            self.properties.setdefault(name, "other")
            named = event(f"p_{name}")
            same = exp.EQ(this=named.copy(), expression=exp.convert(value))
            told.append(exp.or_(exp.Is(this=named, expression=exp.Null()), same))
        unknown = exp.Is(this=event("p_action_id"), expression=exp.Null())
        return exp.and_(unknown, *told, exp.GTE(this=event("event_time"), expression=frame("entry_at")))

    def _step(self, node: exp.Anonymous) -> str:
        step = self._text(node)
        if not self.scope.enrollment:
            raise refuse(node, f"{str(node.this).lower()}() has a meaning only inside a workflow", code="E207")
        if step not in self.scope.steps:
            raise refuse(node, f"no step '{step}'", code="E208", hint=nearest(step, self.scope.steps))
        return step

    def _action_id(self, step: str) -> exp.Expr:
        """The id of the step's action; of a step that can be met again, of the visit that was the latest."""
        visit: exp.Expr | str = _FIRST_VISIT
        if step in self.scope.repeated:
            self.visits.add(step)
            visit = exp.cast(visit_before(step), "text")
        return identity_tree([exp.cast(frame("enrollment_id"), "text"), step, visit])

    def step_value(self, node: exp.Expr, step: str, name: str) -> Typed:
        """`steps.<id>.sent_at`, `status` and, of a split, `arm` in this enrollment; NULL before it was there."""
        if not self.scope.enrollment or step not in self.scope.steps:
            raise refuse(node, f"no step '{step}'", code="E208", hint=nearest(step, self.scope.steps))
        known = ["sent_at", "status", *(["arm"] if step in self.scope.splits else [])]
        if name not in known:
            raise refuse(node, f"steps.{step} has no '{name}'", code="E203", hint=nearest(name, known))
        if name == "arm":
            self.arms.add(step)
            self.state = True
            return Typed(exp.column(arm_column(step), table="f", quoted=True), "text")
        if name == "status":
            # what this tick decides about the step stands there too, so it is always that of the latest visit
            column = status_column(step)
            self.kept.add(column)
            return Typed(frame(self._fact(column, self._status(step), exact=True)), "text")
        sent = exp.EQ(this=exp.column("state", table="d"), expression=exp.Literal.string("sent"))
        query = exp.select(exp.Max(this=exp.column("updated_at", table="d")))
        query = query.from_(_state(self.scope, "deliveries", "d")).where(exp.and_(self._same_action(step), sent))
        sent_at = frame(self._fact(f"sent_at_{step}", exp.Subquery(this=query)))
        return Typed(self._latest(step, sent_at), "timestamp")

    def _status(self, step: str) -> exp.Expr:
        """The word of the log for an action: of its delivery, else of what the tick itself did or skipped."""
        state = exp.column("state", table="d")
        words = {"dead": "failed", "expired": "skipped", "cancelled": "skipped"}
        cases = [
            exp.If(this=exp.EQ(this=state.copy(), expression=exp.Literal.string(old)), true=exp.Literal.string(new))
            for old, new in words.items()
        ]
        delivered = exp.select(exp.Max(this=exp.Case(ifs=cases, default=state)))
        delivered = delivered.from_(_state(self.scope, "deliveries", "d")).where(self._same_action(step))
        outcome = exp.column("outcome", table="d")
        skipped = exp.StartsWith(this=outcome.copy(), expression=exp.Literal.string("skipped"))
        word = exp.Case(ifs=[exp.If(this=skipped, true=exp.Literal.string("skipped"))], default=outcome)
        action = exp.EQ(this=exp.column("kind", table="d"), expression=exp.Literal.string("action"))
        decided = exp.select(exp.Max(this=word)).from_(_state(self.scope, "journal", "d"))
        decided = decided.where(exp.and_(self._same_action(step), action))
        return exp.Coalesce(this=exp.Subquery(this=delivered), expressions=[exp.Subquery(this=decided)])

    def _same_action(self, step: str) -> exp.Expr:
        return exp.EQ(this=exp.column("action_id", table="d"), expression=self._action_id(step))

    def _delivery(self, step: str, name: str) -> Typed:
        states = exp.In(this=exp.column("state", table="d"),
                        expressions=[exp.Literal.string("failed"), exp.Literal.string("dead")])  # fmt: skip
        query = exp.select("1").from_(_state(self.scope, "deliveries", "d"))
        tree = exp.Exists(this=query.where(exp.and_(self._same_action(step), states)))
        failed = self._latest(step, frame(self._fact(f"{name}_{step}", tree)))
        return Typed(exp.Coalesce(this=failed, expressions=[exp.false()]), "boolean")

    def goal_met(self, node: exp.Expr) -> Typed:
        """`goal.met`: any goal of the workflow holds now."""
        if not self.scope.goals:
            raise refuse(node, "goal.met: the workflow has no goals", code="E203")
        trees = [self._inline(text, node) for text in self.scope.goals]
        return Typed(exp.paren(exp.or_(*trees)), "boolean")

    def _inline(self, text: str, node: exp.Expr) -> exp.Expr:
        self._depth += 1
        if self._depth > 20:
            raise refuse(node, "named audiences refer to each other in a circle", code="E207")
        inner = self._nested(text)
        self.lookups.update(inner.lookups)
        self.facts.update(inner.facts)
        self.contact_columns.update(inner.contact_columns)
        self.properties.update(inner.properties)
        self.events.update(inner.events)
        self.since_steps.update(inner.since_steps)
        self.arms.update(inner.arms)
        self.visits.update(inner.visits)
        self.fields.update(inner.fields)
        self.tags.update(inner.tags)
        self.kept.update(inner.kept)
        self.clock, self.state, self.zone = (
            self.clock or inner.clock, self.state or inner.state, self.zone or inner.zone
        )  # fmt: skip
        return exp.paren(exp.Coalesce(this=inner.tree, expressions=[exp.false()]))

    # ------------------------------------------------------------ contact facts

    def field(self, name: str) -> Typed:
        """A field Penstock owns: its last value, before the first `set` the model's column of that name."""
        contact = self.scope.catalog.contact
        kind = contact.fields[name]
        stored = _state(self.scope, "contact_fields", "v")
        same = exp.and_(
            _by_contact("v"), exp.EQ(this=exp.column("name", table="v"), expression=exp.Literal.string(name))
        )
        value: exp.Expr = exp.Subquery(this=exp.select(exp.column("value", table="v")).from_(stored).where(same))
        self.fields.add(name)
        self.state = True
        if name in contact.relation.columns:
            self.contact_columns.add(name)
            known = exp.Exists(this=exp.select("1").from_(stored.copy()).where(same.copy()))
            model = exp.cast(frame(f"c_{name}"), "text")
            value = exp.Case(ifs=[exp.If(this=known, true=value)], default=model)
        column = f"x_{name}"
        self.facts[column] = Fact(column, value)
        dynamic = Typed(frame(column), "dynamic")
        return dynamic if kind == "other" else cast_to(dynamic, kind)

    def _local(self, name: str, node: exp.Anonymous) -> Typed:
        if node.expressions:
            raise refuse(node, f"{name}() takes no argument", code="E207")
        self.clock = self.zone = True
        local = wall_clock(tick_at(), frame("tz"))
        match name:
            case "local_date":
                return Typed(exp.cast(local, "date"), "date")
            case "local_hour":
                return Typed(exp.Extract(this=exp.var("HOUR"), expression=local), "integer")
            case _:
                return Typed(exp.Extract(this=exp.var("ISODOW"), expression=local), "integer")

    def _audience(self, node: exp.Anonymous) -> Typed:
        name, audiences = self._text(node), self.scope.catalog.audiences
        if name not in audiences:
            raise refuse(node, f"no audience '{name}' in penstock.yaml", code="E205", hint=nearest(name, audiences))
        return Typed(self._inline(audiences[name], node), "boolean")

    def _score(self, node: exp.Anonymous) -> Typed:
        name, scores = self._text(node), self.scope.catalog.scores
        start = self.scope.catalog.points.get(name)
        if start is None and name not in scores:
            known = {*scores, *self.scope.catalog.points}
            raise refuse(node, f"no score '{name}' in penstock.yaml", code="E205", hint=nearest(name, known))
        if start is None:
            return self._model_score(name)
        points = self._points(name, start)
        if name not in scores:
            return points
        given = exp.Coalesce(this=self._model_score(name).tree, expressions=[exp.Literal.number(0)])
        return Typed(exp.paren(exp.Add(this=given, expression=points.tree)), "number")

    def _points(self, name: str, start: float) -> Typed:
        """Points that workflows added; before the first of them the declared start."""
        column = points_column(name)
        stored = exp.select(exp.column("value", table="v")).from_(_state(self.scope, "contact_points", "v"))
        stored = stored.where(_named("v", "name", name))
        first = exp.cast(exp.Literal.number(start), "double")
        self.kept.add(column)
        tree = exp.Coalesce(this=exp.Subquery(this=stored), expressions=[first])
        return Typed(frame(self._fact(column, tree, exact=True)), "number")

    def _model_score(self, name: str) -> Typed:
        from compiler.condition import relation_table

        scores = self.scope.catalog.scores

        score = scores[name]
        query = (
            exp.select(exp.column(score.value, table="v"))
            .from_(relation_table(score.relation, "v"))
            .where(exp.EQ(this=exp.cast(exp.column(score.contact, table="v"), "text"), expression=frame("contact_id")))
        )
        if score.scored_at:
            query = query.order_by(exp.Ordered(this=exp.column(score.scored_at, table="v"), desc=True)).limit(1)
        return Typed(frame(self._fact(f"score_{name}", exp.Subquery(this=query))), "number")

    def _state_fact(self, name: str, node: exp.Anonymous) -> Typed:
        word = self._text(node)
        if name == "has_tag":
            return self._has_tag(word)
        if name == "in_campaign":
            return self._in_campaign(word)
        if word not in self.scope.catalog.workflows and not self.scope.catalog.open_names:
            raise refuse(node, f"no workflow '{word}'", code="E205", hint=nearest(word, self.scope.catalog.workflows))
        enrollments = _state(self.scope, "enrollments", "n")
        same = exp.and_(
            _by_contact("n"), exp.EQ(this=exp.column("workflow", table="n"), expression=exp.Literal.string(word))
        )
        active = exp.Is(this=exp.column("exit", table="n"), expression=exp.Null())
        if name == "position_in":
            query = (
                exp.select(exp.column("position", table="n")).from_(enrollments).where(exp.and_(same, active))
                .order_by(exp.Ordered(this=exp.column("entry_at", table="n"), desc=True),
                          exp.Ordered(this=exp.column("enrollment_id", table="n"), desc=True)).limit(1)
            )  # fmt: skip
            return Typed(frame(self._fact(f"position_in_{word}", exp.Subquery(this=query))), "text")
        condition = exp.and_(same, active) if name == "in_workflow" else same
        tree = exp.Exists(this=exp.select("1").from_(enrollments).where(condition))
        return Typed(frame(self._fact(f"{name}_{word}", tree)), "boolean")

    def _has_tag(self, tag: str) -> Typed:
        self.tags.add(tag)
        stored = _state(self.scope, "contact_tags", "v")
        same = exp.and_(_by_contact("v"), exp.EQ(this=exp.column("tag", table="v"), expression=exp.Literal.string(tag)))
        tree: exp.Expr = exp.Exists(this=exp.select("1").from_(stored).where(same))
        column = self.scope.catalog.contact.tags
        if column:
            self.contact_columns.add(column)
            inside = exp.ArrayContains(this=frame(f"c_{column}"), expression=exp.Literal.string(tag))
            taken = exp.Exists(this=exp.select("1").from_(_state(self.scope, "contact_untags", "v")).where(same.copy()))
            given = exp.and_(exp.Coalesce(this=inside, expressions=[exp.false()]), exp.Not(this=taken))
            tree = exp.or_(tree, given)
        return Typed(frame(self._fact(tag_column(tag), tree, exact=True)), "boolean")

    def _in_campaign(self, campaign: str) -> Typed:
        column = campaign_column(campaign)
        members = _state(self.scope, "campaign_members", "v")
        tree = exp.Exists(this=exp.select("1").from_(members).where(_named("v", "campaign", campaign)))
        self.kept.add(column)
        return Typed(frame(self._fact(column, tree, exact=True)), "boolean")

    def _fact(self, label: str, tree: exp.Expr, *, exact: bool = False) -> str:
        column = label if exact else f"x_{label}"
        self.facts[column] = Fact(column, tree)
        self.state = True
        return column

    def _text(self, node: exp.Anonymous) -> str:
        if len(node.expressions) != 1 or not (
            isinstance(node.expressions[0], exp.Literal) and node.expressions[0].is_string
        ):
            raise refuse(node, f"{str(node.this).lower()}() takes one quoted name", code="E207")
        return str(node.expressions[0].name)


def wall_clock(moment: exp.Expr, zone: exp.Expr) -> exp.Expr:
    """A UTC timestamp on the wall clock of a (valid) zone."""
    utc = exp.AtTimeZone(this=moment.copy(), zone=exp.Literal.string("UTC"))
    return exp.AtTimeZone(this=utc, zone=zone.copy())


def days_before(moment: exp.Expr) -> exp.Expr:
    """How many days before the tick a moment was."""
    elapsed = exp.Sub(this=_epoch(tick_at()), expression=_epoch(moment))
    return exp.paren(exp.Div(this=exp.paren(elapsed), expression=exp.Literal.number("86400.0")))


def _epoch(moment: exp.Expr) -> exp.Expr:
    return exp.Extract(this=exp.var("EPOCH"), expression=moment.copy())


def _state(scope: Scope, table: str, alias: str) -> exp.Table:
    return exp.table_(table, db=scope.catalog.state_schema, alias=alias)


def _by_contact(alias: str) -> exp.Expr:
    return exp.EQ(this=exp.column("contact_id", table=alias), expression=frame("contact_id"))


def _named(alias: str, column: str, name: str) -> exp.Expr:
    return exp.and_(
        _by_contact(alias), exp.EQ(this=exp.column(column, table=alias), expression=exp.Literal.string(name))
    )
