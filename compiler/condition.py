"""SQL conditions: text -> checked, typed sqlglot tree over one frame row (alias `f`).

The text is parsed in the project's dialect, checked against the allow-list and the catalog, typed, and rebuilt; it is
never spliced. What a condition needs from outside its row comes back as lookups and facts (see `lookup.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from compiler import allowlist
from compiler.allowlist import Trust, refuse
from compiler.catalog import Catalog, Relation
from compiler.errors import ConditionError, nearest
from compiler.functions import FUNCTIONS, Calls
from compiler.lookup import Fact, Lookup, frame, tick_at
from compiler.typed import Typed, boolean_operand, cast_to, common_type, literal_type, meeting_type, result_type

__all__ = [
    "Condition",
    "EntryShape",
    "Scope",
    "compile_condition",
    "compile_value",
    "compile_wait_for",
    "relation_table",
]


@dataclass(frozen=True)
class EntryShape:
    """What `entry.*` is in a place: known names with their types; `open`: other names exist too, with no type.

    `relation`: the entry is a row of this model, its columns stand in the frame as `r_<name>`, and bare names mean
    them first; otherwise the entry is the frame's JSON column `entry`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    open: bool = False
    relation: Relation | None = None


@dataclass(frozen=True)
class Scope:
    """Where a condition stands, and so what it may name.

    Attributes:
        catalog: tables, columns, events, scores.
        entry: shape of `entry.*`, None where there is no entry.
        steps: ids of steps that may be named.
        splits: those of them that are splits and have an arm.
        repeated: those of them that can be met again after a jump back.
        templates: of those of them that are messages, their templates.
        enrollment: whether the frame row is an enrollment (`since`, `opened()`, `steps.*` have a meaning).
        goals: texts of the workflow's goals, for `goal.met`.
        trust: allow-list level.
        workflow: name of the workflow the condition stands in.
        workspace: part of the action ids that `opened('step')` looks for.
    """

    catalog: Catalog
    entry: EntryShape | None = None
    steps: frozenset[str] = frozenset()
    splits: frozenset[str] = frozenset()
    repeated: frozenset[str] = frozenset()
    templates: Mapping[str, str] = field(default_factory=dict)
    enrollment: bool = False
    goals: tuple[str, ...] = ()
    trust: Trust = "sql"
    workflow: str = ""


@dataclass(frozen=True)
class Condition:
    """A compiled expression.

    Attributes:
        text: the source.
        tree: expression over the frame `f`.
        type: its data type; boolean for conditions.
        lookups: event aggregates, by column name.
        facts: state columns, by column name.
        contact_columns: columns of the contact model that the frame must carry as `c_<name>`.
        properties: event properties read, name -> type (`other` = text without a declared type).
        events: event names looked at.
        since_steps: steps whose logical time is needed as frame column `s_<id>`.
        arms: splits whose arm is needed as frame column `arm_<id>`.
        visits: steps whose count of visits is needed as frame columns `n_<id>` and `w_<id>`.
        fields: contact fields that Penstock owns and the condition reads.
        tags: tags the condition reads.
        kept: frame columns it reads of points, campaigns and the status of steps, which steps write.
        clock: whether the value can change by time alone.
        state: whether it can change without an event arriving (contact columns, tags, sub-selects, scores …).
        relations: models read by sub-selects.
        subquery: whether the tree holds a sub-select.
    """

    text: str
    tree: exp.Expr
    type: str
    lookups: Mapping[str, Lookup] = field(default_factory=dict)
    facts: Mapping[str, Fact] = field(default_factory=dict)
    contact_columns: frozenset[str] = frozenset()
    properties: Mapping[str, str] = field(default_factory=dict)
    events: frozenset[str] = frozenset()
    since_steps: frozenset[str] = frozenset()
    arms: frozenset[str] = frozenset()
    visits: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    clock: bool = False
    state: bool = False
    relations: frozenset[str] = frozenset()
    subquery: bool = False
    zone: bool = False

    @property
    def written(self) -> bool:
        """Whether it reads what steps write: tags, fields, points, campaigns, arms, the status of steps."""
        return bool(self.tags or self.fields or self.kept or self.arms)


def compile_condition(text: str, scope: Scope) -> Condition:
    """Compile a boolean condition.

    Raises:
        ConditionError: E201 refused construct, E202 syntax, E203 unknown name, E204 unknown function, E205 unknown
            relation, E206 type error, E207 wrong arguments; with the offset in the text.
    """
    compiled = compile_value(text, scope)
    if compiled.type not in ("boolean", "dynamic", "null", "any"):
        raise ConditionError(f"a condition is true or false, this is {compiled.type}", code="E206", length=len(text))
    if compiled.type == "boolean":
        return compiled
    tree = cast_to(Typed(compiled.tree, compiled.type), "boolean").tree
    return Condition(**{**compiled.__dict__, "tree": tree, "type": "boolean"})


def compile_value(text: str, scope: Scope) -> Condition:
    """Compile any expression of the language; see `compile_condition`."""
    tree = allowlist.parse(text, scope.catalog.dialect)
    allowlist.check(tree, scope.trust, FUNCTIONS)
    lowering = _Lowering(scope)
    typed = lowering.lower(tree)
    return lowering.result(text, typed)


def compile_moment(text: str, scope: Scope) -> Condition:
    """Compile an expression that gives a time.

    Raises:
        ConditionError: as `compile_condition`; E206 also when it gives something else.
    """
    compiled = compile_value(text, scope)
    if compiled.type not in ("timestamp", "date", "text", "dynamic", "null", "any"):
        raise ConditionError(f"wait_until waits for a time, this is {compiled.type}", code="E206", length=len(text))
    kind = "dynamic" if compiled.type == "text" else compiled.type
    tree = cast_to(Typed(compiled.tree, kind), "timestamp").tree
    if kind not in ("timestamp", "dynamic"):
        tree = exp.TryCast(this=tree, to=exp.DataType.build("timestamp"))
    return Condition(**{**compiled.__dict__, "tree": tree, "type": "timestamp"})


def compile_wait_for(text: str, scope: Scope) -> tuple[Condition, tuple[exp.Expr, ...]]:
    """Compile what a wait_for waits for: one event function, or several joined by `or`.

    Returns:
        The condition (its tree has no meaning of its own) and the matching events' times, arrays of the frame.

    Raises:
        ConditionError: as `compile_condition`; E209 when it is no event.
    """
    tree = allowlist.parse(text, scope.catalog.dialect)
    allowlist.check(tree, scope.trust, FUNCTIONS)
    lowering = _Lowering(scope)
    columns = tuple(lowering.calls.times(call) for call in _alternatives(tree))
    return lowering.result(text, Typed(exp.true(), "boolean")), columns


def _alternatives(node: exp.Expr) -> list[exp.Anonymous]:
    match node:
        case exp.Paren():
            return _alternatives(node.this)
        case exp.Or():
            return _alternatives(node.this) + _alternatives(node.expression)
        case exp.Anonymous():
            return [node]
        case _:
            raise refuse(node, "wait_for waits for an event: did('…'), opened('…'), or several joined by or",
                         code="E209")  # fmt: skip


class _Lowering:
    """One walk over the checked tree; names become frame columns, types are checked on the way up."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.calls = Calls(scope, self.lower, self._nested)
        self.relations: set[str] = set()
        self.subquery = False
        self._scopes: list[dict[str, Relation | dict[str, str]]] = []

    def lower(self, node: exp.Expr) -> Typed:
        match node:
            case exp.Paren():
                inner = self.lower(node.this)
                return Typed(exp.paren(inner.tree), inner.type)
            case exp.Literal() | exp.Boolean() | exp.Null():
                return Typed(node.copy(), literal_type(node))
            case exp.Column():
                return self._column(node)
            case exp.And() | exp.Or() | exp.Not():
                return self._logic(node)
            case exp.Case():
                return self._case(node)
            case exp.If():  # `if(test, value, other)` is a short `case`
                arm = exp.If(this=node.this.copy(), true=node.args["true"].copy())
                return self._case(exp.Case(ifs=[arm], default=node.args.get("false")))
            case exp.Exists() | exp.Subquery() | exp.Select() | exp.Union():
                return self._select(node)
            case exp.CurrentTimestamp() | exp.CurrentDate():
                return self._clock(node)
            case exp.Anonymous():
                return self.calls.call(node)
            case (
                exp.In()
                | exp.EQ()
                | exp.NEQ()
                | exp.GT()
                | exp.GTE()
                | exp.LT()
                | exp.LTE()
                | exp.Between()
                | (exp.NullSafeEQ() | exp.NullSafeNEQ())
            ):
                return self._comparison(node)
            case exp.Coalesce() | exp.Greatest() | exp.Least() | exp.Nullif():
                return self._one_of(node)
            case exp.Cast() | exp.TryCast():
                return self._cast(node)
            case exp.Interval() | exp.Var() | exp.DataType() | exp.Star():
                return Typed(node.copy(), "interval" if isinstance(node, exp.Interval) else "any")
            case _:
                return self._general(node)

    def result(self, text: str, typed: Typed) -> Condition:
        """The finished value with everything that was collected on the way."""
        calls = self.calls
        return Condition(
            text=text, tree=typed.tree, type=typed.type, lookups=dict(calls.lookups), facts=dict(calls.facts),
            contact_columns=frozenset(calls.contact_columns), properties=dict(calls.properties),
            events=frozenset(calls.events), since_steps=frozenset(calls.since_steps), fields=frozenset(calls.fields),
            arms=frozenset(calls.arms), visits=frozenset(calls.visits),
            tags=frozenset(calls.tags), kept=frozenset(calls.kept), clock=calls.clock,
            state=calls.state or self.subquery, relations=frozenset(self.relations), subquery=self.subquery,
            zone=calls.zone,
        )  # fmt: skip

    def _nested(self, text: str) -> Condition:
        return compile_condition(text, self.scope)

    def _clock(self, node: exp.Expr) -> Typed:
        self.calls.clock = True
        if isinstance(node, exp.CurrentDate):
            return Typed(exp.cast(tick_at(), "date"), "date")
        return Typed(tick_at(), "timestamp")

    def _cast(self, node: exp.Cast | exp.TryCast) -> Typed:
        inner, target = self.lower(node.this), node.args["to"]
        tree: exp.Expr = exp.TryCast(this=inner.tree, to=target.copy())
        if target.is_type("timestamptz"):  # inside Penstock every time is naive UTC
            tree = exp.paren(exp.AtTimeZone(this=tree, zone=exp.Literal.string("UTC")))
        return Typed(tree, result_type(node, [inner]))

    def _logic(self, node: exp.Expr) -> Typed:
        rebuilt = node.copy()
        for key in ("this", "expression"):
            operand = node.args.get(key)
            if operand is not None:
                rebuilt.set(key, boolean_operand(self.lower(operand), operand).tree)
        return Typed(rebuilt, "boolean")

    def _case(self, node: exp.Case) -> Typed:
        subject = self.lower(node.this) if node.this is not None else None
        whens: list[tuple[Typed, Typed]] = []
        for branch in node.args["ifs"]:
            test = self.lower(branch.this)
            if subject is None:
                test = boolean_operand(test, branch.this)
            whens.append((test, self.lower(branch.args["true"])))
        default = self.lower(node.args["default"]) if node.args.get("default") is not None else None
        results = [result for _, result in whens] + ([default] if default else [])
        kind = meeting_type(results, node)
        tests = [test for test, _ in whens]
        if subject is not None:
            shared = common_type([subject, *tests], node)
            subject, tests = cast_to(subject, shared), [cast_to(test, shared) for test in tests]
        tree = exp.Case(
            this=subject.tree if subject else None,
            ifs=[
                exp.If(this=test.tree, true=cast_to(result, kind).tree)
                for test, (_, result) in zip(tests, whens, strict=True)
            ],
            default=cast_to(default, kind).tree if default else None,
        )
        return Typed(tree, kind)

    def _comparison(self, node: exp.Expr) -> Typed:
        rebuilt = node.copy()
        if isinstance(node, exp.In) and node.args.get("query") is not None:
            left, query = self.lower(node.this), self._select(node.args["query"])
            kind = common_type([left, query], node)
            rebuilt.set("this", cast_to(left, kind).tree)
            rebuilt.set("query", query.tree)
            return Typed(rebuilt, "boolean")
        keys: tuple[str, ...] = ("this", "expression")
        if isinstance(node, exp.In | exp.Between):
            keys = ("this", "expressions") if isinstance(node, exp.In) else ("this", "low", "high")
        operands = {key: self._operands(node.args[key]) for key in keys}
        kind = common_type([typed for group in operands.values() for typed in group], node)
        for key, group in operands.items():
            trees = [_closed(cast_to(typed, kind).tree) for typed in group]
            rebuilt.set(key, trees if isinstance(node.args[key], list) else trees[0])
        return Typed(rebuilt, "boolean")

    def _operands(self, value: exp.Expr | list[exp.Expr]) -> list[Typed]:
        return [self.lower(item) for item in value] if isinstance(value, list) else [self.lower(value)]

    def _one_of(self, node: exp.Expr) -> Typed:
        """A function whose value is one of its operands, which meet in one type."""
        rebuilt = node.copy()
        keys = [key for key in ("this", "expression", "expressions") if node.args.get(key)]
        operands = {key: self._operands(node.args[key]) for key in keys}
        kind = meeting_type([typed for group in operands.values() for typed in group], node)
        for key, group in operands.items():
            trees = [cast_to(typed, kind).tree for typed in group]
            rebuilt.set(key, trees if isinstance(node.args[key], list) else trees[0])
        return Typed(rebuilt, kind)

    def _general(self, node: exp.Expr) -> Typed:
        rebuilt = node.copy()
        operands: list[Typed] = []
        for key, value in node.args.items():
            if isinstance(value, exp.Expr) and not isinstance(value, (exp.Identifier, exp.DataType, exp.Var)):
                typed = self.lower(value)
                operands.append(typed)
                rebuilt.set(key, self._operand_tree(node, typed, self._moves_time(node, key)))
            elif isinstance(value, list) and value and all(isinstance(item, exp.Expr) for item in value):
                group = [self.lower(item) for item in value]
                operands.extend(group)
                rebuilt.set(key, [self._operand_tree(node, typed) for typed in group])
        return Typed(rebuilt, result_type(node, operands))

    @staticmethod
    def _moves_time(node: exp.Expr, key: str) -> bool:
        """Whether an operand meets an interval, as `entry.renewal_at` in `entry.renewal_at - interval '3 days'`."""
        other = node.args.get("expression" if key == "this" else "this")
        return isinstance(node, exp.Add | exp.Sub) and isinstance(other, exp.Interval)

    def _operand_tree(self, node: exp.Expr, typed: Typed, moment: bool = False) -> exp.Expr:
        timed = exp.Extract | exp.DateDiff | exp.DateTrunc | exp.TimestampTrunc | exp.DateAdd | exp.DateSub
        if typed.type == "dynamic" and (moment or isinstance(node, timed)):
            return cast_to(typed, "timestamp").tree
        if typed.type == "dynamic" and isinstance(
            node,
            exp.Add
            | exp.Sub
            | exp.Mul
            | exp.Div
            | exp.Mod
            | exp.Neg
            | exp.Abs
            | exp.Round
            | exp.Floor
            | exp.Ceil
            | exp.Sum
            | exp.Avg,
        ):
            return cast_to(typed, "number").tree
        return _closed(typed.tree) if isinstance(node, exp.Is | exp.Like | exp.ILike) else typed.tree

    # ------------------------------------------------------------ names

    def _column(self, node: exp.Column) -> Typed:
        table, name = node.table.lower(), node.name
        if node.args.get("db") is not None:
            if node.text("db").lower() == "steps":
                return self.calls.step_value(node, node.table, name)
            raise refuse(node, f"nested name {node.sql()} is not allowed")
        for relations in reversed(self._scopes):
            if table in relations:
                return self._inner_column(node, relations[table], name, table)
            if not table:
                for alias, relation in relations.items():
                    columns = relation.columns if isinstance(relation, Relation) else relation
                    if name in columns:
                        return self._inner_column(node, relation, name, alias)
        match table:
            case "" if self.scope.entry and self.scope.entry.relation and name in self.scope.entry.relation.columns:
                return self._entry(node, name)
            case "" | "contact":
                return self._contact(node, name)
            case "entry":
                return self._entry(node, name)
            case "event":
                if not self.calls.in_event:
                    raise refuse(node, f"event.{name} has a meaning only inside did(), event_count(), …", code="E203")
                return self.calls.property(name)
            case "goal" if name == "met":
                return self.calls.goal_met(node)
            case _:
                raise refuse(node, f"unknown name {node.sql()}", code="E203",
                             hint=nearest(table, ["contact", "entry", "event", "steps", "goal"]))  # fmt: skip

    def _inner_column(self, node: exp.Column, relation: Relation | dict[str, str], name: str, alias: str) -> Typed:
        if not isinstance(relation, Relation):
            if name not in relation:
                raise refuse(node, f"the sub-select has no column '{name}'", code="E203", hint=nearest(name, relation))
            return Typed(exp.column(name, table=_inner(alias)), relation[name])
        if name not in relation.columns:
            raise refuse(node, f"{relation.name} has no column '{name}'", code="E203",
                         hint=nearest(name, relation.columns))  # fmt: skip
        tree: exp.Expr = exp.column(exp.to_identifier(name, quoted=True), table=_inner(alias))
        if relation.zoned(name):
            tree = exp.AtTimeZone(this=tree, zone=exp.Literal.string("UTC"))
        kind = relation.type_of(name)
        return Typed(tree, "any" if kind == "other" else kind)

    def _contact(self, node: exp.Expr, name: str) -> Typed:
        contact = self.scope.catalog.contact
        if name in contact.fields:
            return self.calls.field(name)
        if name not in contact.relation.columns:
            inside = [column for scope in self._scopes for each in scope.values()
                      for column in (each.columns if isinstance(each, Relation) else each)]  # fmt: skip
            raise refuse(node, f"{contact.relation.name} has no column '{name}'", code="E203",
                         hint=nearest(name, [*contact.relation.columns, *contact.fields, *inside]))  # fmt: skip
        self.calls.contact_columns.add(name)
        self.calls.state = True
        kind = contact.relation.type_of(name)
        return Typed(frame(f"c_{name}"), "any" if kind == "other" else kind)

    def _entry(self, node: exp.Expr, name: str) -> Typed:
        shape = self.scope.entry
        if shape is None:
            raise refuse(node, "there is no entry here: entry.* belongs to triggers by event or model", code="E203")
        if shape.relation is not None and name in shape.relation.columns:
            kind = shape.relation.type_of(name)
            return Typed(frame(f"r_{name}"), "any" if kind == "other" else kind)
        if name == "at":
            return Typed(frame("entry_at"), "timestamp")
        if name not in shape.columns and not shape.open:
            raise refuse(node, f"the entry has no '{name}'", code="E203", hint=nearest(name, shape.columns))
        path = exp.JSONPath(expressions=[exp.JSONPathRoot(), exp.JSONPathKey(this=name)])
        text = exp.Paren(this=exp.JSONExtractScalar(this=frame("entry"), expression=path))
        declared = shape.columns.get(name, "other")
        dynamic = Typed(text, "dynamic")
        return dynamic if declared in ("other", "json", "array") else cast_to(dynamic, declared)

    # ------------------------------------------------------------ sub-selects

    def _select(self, node: exp.Expr) -> Typed:
        self.subquery = True
        match node:
            case exp.Exists():
                return Typed(exp.Exists(this=self._select(node.this).tree), "boolean")
            case exp.Subquery():
                inner = self._select(node.this)
                return Typed(exp.Subquery(this=inner.tree), inner.type)
            case exp.Union():
                left, right = self._select(node.this), self._select(node.expression)
                rebuilt = node.copy()
                rebuilt.set("this", left.tree)
                rebuilt.set("expression", right.tree)
                return Typed(rebuilt, left.type)
            case exp.Select():
                return self._one_select(node)
            case _:
                raise refuse(node, "this sub-select is not allowed")

    def _one_select(self, node: exp.Select) -> Typed:
        relations: dict[str, Relation | dict[str, str]] = {}
        rebuilt = node.copy()
        self._scopes.append(relations)
        try:
            origin = node.args.get("from_")
            if origin is not None:
                rebuilt.set("from_", exp.From(this=self._relation(origin.this, relations)))
            joins = []
            for join in node.args.get("joins") or []:
                joined = join.copy()
                joined.set("this", self._relation(join.this, relations))
                if join.args.get("on") is not None:
                    joined.set("on", boolean_operand(self.lower(join.args["on"]), join).tree)
                joins.append(joined)
            rebuilt.set("joins", joins)
            outputs = [self._output(item) for item in node.expressions]
            rebuilt.set("expressions", [output.tree for output in outputs])
            for key in ("where", "having"):
                clause = node.args.get(key)
                if clause is not None:
                    rebuilt.set(key, type(clause)(this=boolean_operand(self.lower(clause.this), clause).tree))
            self._rebuild_lists(node, rebuilt)
        finally:
            self._scopes.pop()
        return Typed(rebuilt, outputs[0].type if outputs else "any")

    def _rebuild_lists(self, node: exp.Select, rebuilt: exp.Select) -> None:
        group = node.args.get("group")
        if group is not None:
            rebuilt.set("group", exp.Group(expressions=[self.lower(item).tree for item in group.expressions]))
        order = node.args.get("order")
        if order is not None:
            ordered = []
            for item in order.expressions:
                fresh = item.copy()
                fresh.set("this", self.lower(item.this).tree)
                ordered.append(fresh)
            rebuilt.set("order", exp.Order(expressions=ordered))

    def _output(self, item: exp.Expr) -> Typed:
        if isinstance(item, exp.Alias):
            inner = self.lower(item.this)
            return Typed(exp.alias_(inner.tree, item.alias), inner.type)
        return self.lower(item)

    def _relation(self, node: exp.Expr, relations: dict[str, Relation | dict[str, str]]) -> exp.Expr:
        if isinstance(node, exp.Subquery):
            inner = self._select(node.this)
            names = {
                output.alias_or_name: "any" for output in getattr(inner.tree, "expressions", []) if output.alias_or_name
            }
            alias = node.alias.lower() or "sub"
            relations[alias] = names
            return exp.Subquery(this=inner.tree, alias=exp.TableAlias(this=exp.to_identifier(_inner(alias))))
        call = node.this
        if not isinstance(node, exp.Table) or not isinstance(call, exp.Anonymous):
            raise refuse(node, f"relation {node.sql()} is not allowed", code="E205")
        name = ".".join(argument.name for argument in call.expressions)
        relation = self.scope.catalog.relations.get(name)
        if relation is None:
            raise refuse(node, f"no model '{name}'", code="E205", hint=nearest(name, self.scope.catalog.relations))
        self.relations.add(name)
        alias = (node.alias or call.expressions[-1].name).lower()
        relations[alias] = relation
        return relation_table(relation, _inner(alias))


def _closed(tree: exp.Expr) -> exp.Expr:
    """An operand in parentheses where it compares something itself: engines disagree about `a = b = c`."""
    return exp.paren(tree) if isinstance(tree, exp.Predicate | exp.Not) else tree


def _inner(alias: str) -> str:
    # an alias of a sub-select must never capture the frame's own aliases f and e
    return f"q_{alias}"


def relation_table(relation: Relation, alias: str) -> exp.Table:
    """A relation of the catalog as a table with an alias."""
    parts = [exp.to_identifier(part, quoted=True) for part in relation.place]
    named = dict(zip(("this", "db", "catalog"), reversed(parts), strict=False))
    return exp.Table(**named, alias=exp.TableAlias(this=exp.to_identifier(alias)))
