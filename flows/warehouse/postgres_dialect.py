"""What PostgreSQL says differently: one rule per construct of the engine's trees, as a sqlglot dialect.

Statements are written in DuckDB's dialect. What sqlglot does not translate, or translates into something that means
another thing, is generated here; functions that PostgreSQL lacks are those of `FUNCTIONS`, which every connection makes
for itself in `pg_temp`. Text that travels through JSON is jsonb.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import ClassVar

from sqlglot import exp, generator, transforms
from sqlglot.dialects.postgres import Postgres
from sqlglot.generators.postgres import PostgresGenerator

FUNCTIONS: tuple[str, ...] = (
    # The wall clock with the offset of the day before, if that shows this time there; else what the zone itself says.
    # So a time that occurs twice is its first occurrence, and one that is skipped moves forward by the gap (RFC 5545).
    """
    CREATE FUNCTION pg_temp.utc_instant(wall timestamp, zone text) RETURNS timestamp LANGUAGE sql STABLE STRICT AS $$
        SELECT CASE
            WHEN (wall - ((day AT TIME ZONE 'UTC' AT TIME ZONE zone) - day)) AT TIME ZONE 'UTC' AT TIME ZONE zone = wall
            THEN wall - ((day AT TIME ZONE 'UTC' AT TIME ZONE zone) - day)
            ELSE wall AT TIME ZONE zone AT TIME ZONE 'UTC'
        END FROM (SELECT wall - INTERVAL '1 day' AS day) AS before
    $$
    """,
    # RFC 7396.
    """
    CREATE FUNCTION pg_temp.json_merge_patch(target jsonb, patch jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
    DECLARE
        merged jsonb := CASE WHEN jsonb_typeof(target) = 'object' THEN target ELSE '{}' END;
        pair record;
    BEGIN
        IF patch IS NULL OR target IS NULL THEN RETURN NULL; END IF;
        IF jsonb_typeof(patch) <> 'object' THEN RETURN patch; END IF;
        FOR pair IN SELECT key, value FROM jsonb_each(patch) LOOP
            IF pair.value = 'null' THEN
                merged := merged - pair.key;
            ELSE
                merged := merged || jsonb_build_object(
                    pair.key, pg_temp.json_merge_patch(COALESCE(merged -> pair.key, 'null'), pair.value));
            END IF;
        END LOOP;
        RETURN merged;
    END $$
    """,
    # A cast that fails is NULL. DuckDB reads a number with a fraction as the integer it rounds to.
    """
    CREATE FUNCTION pg_temp.try_double(value text) RETURNS double precision LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN RETURN value::double precision; EXCEPTION WHEN data_exception THEN RETURN NULL; END $$
    """,
    """
    CREATE FUNCTION pg_temp.try_decimal(value text) RETURNS numeric LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN RETURN value::numeric; EXCEPTION WHEN data_exception THEN RETURN NULL; END $$
    """,
    """
    CREATE FUNCTION pg_temp.try_bigint(value text) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN RETURN round(value::numeric)::bigint; EXCEPTION WHEN data_exception THEN RETURN NULL; END $$
    """,
    """
    CREATE FUNCTION pg_temp.try_boolean(value text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN RETURN value::boolean; EXCEPTION WHEN data_exception THEN RETURN NULL; END $$
    """,
    """
    CREATE FUNCTION pg_temp.try_timestamp(value text) RETURNS timestamp LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN RETURN value::timestamptz AT TIME ZONE 'UTC'; EXCEPTION WHEN data_exception THEN RETURN NULL; END $$
    """,
    """
    CREATE FUNCTION pg_temp.try_timestamptz(value text) RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
    BEGIN RETURN value::timestamptz; EXCEPTION WHEN data_exception THEN RETURN NULL; END $$
    """,
    """
    CREATE FUNCTION pg_temp.try_date(value text) RETURNS date LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN RETURN value::date; EXCEPTION WHEN data_exception THEN RETURN NULL; END $$
    """,
    """
    CREATE FUNCTION pg_temp.try_uuid(value text) RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN RETURN value::uuid; EXCEPTION WHEN data_exception THEN RETURN NULL; END $$
    """,
    """
    CREATE FUNCTION pg_temp.try_json(value text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN RETURN value::jsonb; EXCEPTION WHEN data_exception THEN RETURN NULL; END $$
    """,
)
"""Functions that each connection makes in `pg_temp`, where nobody else sees or changes them."""

_TRIED: dict[exp.DType, str] = {
    exp.DType.DOUBLE: "double", exp.DType.FLOAT: "double", exp.DType.DECIMAL: "decimal",
    exp.DType.BIGINT: "bigint", exp.DType.INT: "bigint", exp.DType.BOOLEAN: "boolean",
    exp.DType.TIMESTAMP: "timestamp", exp.DType.TIMESTAMPNTZ: "timestamp",
    exp.DType.TIMESTAMPTZ: "timestamptz", exp.DType.DATE: "date",
    exp.DType.UUID: "uuid", exp.DType.JSON: "json", exp.DType.JSONB: "json",
}  # fmt: skip
_Sql = generator.Generator


def _try_cast(sql: _Sql, node: exp.TryCast) -> str:
    kind = node.to.this
    if kind not in _TRIED:
        return str(sql.cast_sql(node))
    return f"pg_temp.try_{_TRIED[kind]}({sql.sql(exp.cast(node.this, 'text'))})"


def _placeholder(sql: _Sql, node: exp.Placeholder) -> str:
    return f"${node.name}"


def _json_object(sql: _Sql, node: exp.JSONObject) -> str:
    parts: list[exp.Expr] = []
    for pair in node.expressions:
        parts += [pair.this, pair.expression] if isinstance(pair, exp.JSONKeyValue) else [pair]
    return str(sql.func("JSONB_BUILD_OBJECT", *parts))


def _extract(arrow: str) -> Callable[[_Sql, exp.Expr], str]:
    """`->` and `->>` with a path: a chain of them. A path that is computed is a jsonpath."""

    def rule(sql: _Sql, node: exp.Expr) -> str:
        document, path = sql.sql(node, "this"), node.args["expression"]
        if not isinstance(node.this, exp.Column | exp.Paren | exp.Cast | exp.Anonymous | exp.Func):
            document = f"({document})"
        if isinstance(path, exp.JSONPath):
            steps = [part.this for part in path.expressions if not isinstance(part, exp.JSONPathRoot)]
            keys = [str(step) if isinstance(step, int) else sql.sql(exp.Literal.string(step)) for step in steps]
            chain = "".join(f" -> {key}" for key in keys[:-1])
            return f"({document}{chain} {arrow} {keys[-1]})"
        found = f"JSONB_PATH_QUERY_FIRST({document}, CAST({sql.sql(path)} AS JSONPATH))"
        return found if arrow == "->" else f"({found} #>> '{{}}')"

    return rule


def _typed_key(sql: _Sql, built: exp.Expr, key: exp.Expr) -> str:
    """`struct_extract(json_transform(j, '{"p": "TIMESTAMP"}'), 'p')`: the key of the JSON as its type."""
    if not (isinstance(built, exp.Anonymous) and built.name.lower() == "json_transform"):
        return str(sql.func("STRUCT_EXTRACT", built, key))
    document, shape = built.expressions
    name = key.name
    value = exp.JSONExtractScalar(this=document, expression=exp.JSONPath(expressions=[exp.JSONPathKey(this=name)]))
    return sql.sql(exp.TryCast(this=value, to=exp.DataType.build(json.loads(shape.name)[name])))


def _filter(sql: _Sql, node: exp.ArrayFilter) -> str:
    test = node.expression
    name = sql.sql(test.expressions[0])
    values = sql.sql(node, "this")
    kept = f"ARRAY(SELECT {name} FROM UNNEST({values}) AS _l({name}) WHERE {sql.sql(test, 'this')})"
    return f"CASE WHEN {values} IS NOT NULL THEN {kept} END"


def _of_elements(aggregate: str) -> Callable[[_Sql, exp.Expr], str]:
    def rule(sql: _Sql, node: exp.Expr) -> str:
        return f"(SELECT {aggregate}(_v) FROM UNNEST({sql.sql(node, 'this')}) AS _l(_v))"

    return rule


def _explode(sql: _Sql, node: exp.Explode) -> str:
    if isinstance(node.this, exp.JSONKeys):
        return str(sql.func("JSONB_OBJECT_KEYS", node.this.this))
    return str(sql.func("UNNEST", node.this))


def _create(sql: _Sql, node: exp.Create) -> str:
    """CREATE OR REPLACE TEMP TABLE: two statements."""
    properties = node.args.get("properties")
    temporary = properties is not None and properties.find(exp.TemporaryProperty) is not None
    if node.kind != "TABLE" or not node.args.get("replace"):
        return str(sql.create_sql(node))
    node.set("replace", False)
    target = node.this.this if isinstance(node.this, exp.Schema) else node.this
    place = exp.table_(target.name, db="pg_temp", quoted=True) if temporary and not target.db else target
    return f"DROP TABLE IF EXISTS {sql.sql(place)}; {sql.create_sql(node)}"


def _table(sql: _Sql, node: exp.Table) -> str:
    if node.db.lower() == "temp":
        node.set("db", exp.to_identifier("pg_temp"))
    return str(sql.table_sql(node))


def _cte(sql: _Sql, node: exp.CTE) -> str:
    """The layers of a stage are computed one by one: merged, their expressions double with each, and planning too."""
    if node.args.get("materialized") is False:
        node.set("materialized", True)
    return str(sql.cte_sql(node))


def _first_of_each(node: exp.Expr) -> exp.Expr:
    """QUALIFY row_number() OVER (PARTITION BY p ORDER BY o) = 1: DISTINCT ON (p) … ORDER BY p, o."""
    qualify = node.args.get("qualify")
    if not isinstance(node, exp.Select) or qualify is None or not isinstance(test := qualify.this, exp.EQ):
        return node
    window = test.this
    if not (isinstance(window, exp.Window) and isinstance(window.this, exp.RowNumber) and test.expression.name == "1"):
        return node
    parts = window.args.get("partition_by") or []
    order = window.args.get("order")
    inner = node.copy()
    inner.set("qualify", None)
    inner.set("distinct", exp.Distinct(on=exp.Tuple(expressions=[part.copy() for part in parts])))
    wanted = [item.copy() for item in order.expressions] if order is not None else []
    inner.set("order", exp.Order(expressions=[exp.Ordered(this=part.copy()) for part in parts] + wanted))
    carried = inner.args.get("with_")
    outer = exp.select("*").from_(inner.subquery("_first", copy=False))
    if own := node.args.get("order"):  # by columns of the result, as the order of a whole statement is
        outer.set("order", own.transform(lambda part: exp.column(part.name) if isinstance(part, exp.Column) else part))
    if limit := node.args.get("limit"):
        inner.set("limit", None)
        outer.set("limit", limit.copy())
    if carried is not None:
        inner.set("with_", None)
        outer.set("with_", carried)
    return outer


_select = transforms.preprocess(
    [_first_of_each, transforms.eliminate_semi_and_anti_joins, transforms.eliminate_qualify]
)


def _position(sql: _Sql, node: exp.StrPosition) -> str:
    """A position is multiplied to large numbers, so it is a bigint as in DuckDB."""
    return f"CAST({PostgresGenerator.TRANSFORMS[exp.StrPosition](sql, node)} AS BIGINT)"


def _round(sql: _Sql, node: exp.Round) -> str:
    """A half goes away from zero as in DuckDB; of a double PostgreSQL takes it to the even number."""
    return f"CAST({sql.func('ROUND', exp.cast(node.this, 'decimal'), node.args.get('decimals'))} AS DOUBLE PRECISION)"


def _time_to_text(sql: _Sql, node: exp.TimeToStr) -> str:
    """A format of strftime; text between the directives is quoted, else the T of `THH24` would be read with its H."""
    known = Postgres.INVERSE_TIME_MAPPING
    parts = [
        known.get(part, part) if part.startswith("%") else re.sub(r"([A-Za-z]+)", r'"\1"', part)
        for part in re.split(r"(%-?[A-Za-z])", node.args["format"].name)
    ]
    return str(sql.func("TO_CHAR", node.this, exp.Literal.string("".join(parts))))


def _anonymous(sql: _Sql, node: exp.Anonymous) -> str:
    name, arguments = node.name.lower(), node.expressions
    match name:
        case "json_object":
            return str(sql.func("JSONB_BUILD_OBJECT", *arguments))
        case "hash":
            row = sql.func("ROW", *arguments)  # of NULLs too it is a text
            return f"HASHTEXTEXTENDED(CAST({row} AS TEXT), 0)"
        case "struct_extract":
            return _typed_key(sql, *arguments)
        case "utc_instant" | "json_merge_patch":
            return f"pg_temp.{name}({', '.join(sql.sql(argument) for argument in arguments)})"
        case _:
            return str(sql.anonymous_sql(node))


class PenstockPostgres(Postgres):
    """PostgreSQL for trees that were written in DuckDB's dialect; `penstockpostgres` among sqlglot's dialects."""

    class Generator(PostgresGenerator):
        """The rules above, by the construct they are for."""

        TYPE_MAPPING: ClassVar = {**PostgresGenerator.TYPE_MAPPING, exp.DType.JSON: "JSONB"}
        TRANSFORMS: ClassVar = {
            **PostgresGenerator.TRANSFORMS,
            exp.Anonymous: _anonymous,
            exp.ArrayFilter: _filter,
            exp.ArrayMax: _of_elements("MAX"),
            exp.ArrayMin: _of_elements("MIN"),
            exp.ArraySize: lambda sql, node: f"CARDINALITY({sql.sql(node, 'this')})",
            exp.Create: _create,
            exp.CTE: _cte,
            exp.Explode: _explode,
            exp.JSONExtract: _extract("->"),
            exp.JSONExtractScalar: _extract("->>"),
            exp.JSONKeys: lambda sql, node: f"ARRAY(SELECT JSONB_OBJECT_KEYS({sql.sql(node, 'this')}))",
            exp.JSONObject: _json_object,
            exp.Placeholder: _placeholder,
            exp.Round: _round,
            exp.Select: _select,
            exp.StrPosition: _position,
            exp.StructExtract: lambda sql, node: _typed_key(sql, node.this, node.expression),
            exp.Table: _table,
            exp.TimeToStr: _time_to_text,
            exp.TryCast: _try_cast,
        }
