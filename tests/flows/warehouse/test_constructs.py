"""Constructs of the engine's SQL, written in DuckDB's dialect, give on PostgreSQL what they give on DuckDB."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlglot

from flows.warehouse.base import Warehouse
from flows.warehouse.duckdb import DuckDBWarehouse
from flows.warehouse.postgres import PostgresWarehouse
from tests.flows.warehouse.postgres_server import Server

CONSTRUCTS = """
SELECT CAST(v.j AS JSON) ->> '$.a.b' AS x
    FROM (VALUES ('{"a": {"b": "c"}}'), ('{"a": {}}'), ('{}'), (NULL)) AS v(j);
SELECT CAST('{"a": {"b": [1, 2]}}' AS JSON) -> '$.a' AS x;
SELECT CAST('{"a": null, "b": true, "c": 1.5, "d": "t"}' AS JSON) ->> v.k AS x
    FROM (VALUES ('$.a'), ('$.b'), ('$.c'), ('$.d'), ('$.e')) AS v(k);
SELECT json_extract_string(v.j, '$."' || v.k || '"') AS x
    FROM (SELECT CAST('{"odd name": "y"}' AS JSON) AS j, 'odd name' AS k) AS v;
SELECT json_object('a', 1, 'b', 'x', 'c', NULL, 'd', true) AS x;
SELECT json_object() AS x;
SELECT json_merge_patch(CAST(v.a AS JSON), CAST(v.b AS JSON)) AS x
    FROM (VALUES ('{"a": 1, "b": {"c": 2, "d": 3}}', '{"a": null, "b": {"c": 4, "e": 5}, "f": [1]}'),
        ('{}', '{"a": {"b": null}}'),
        ('{"a": [1]}', '{"a": {"b": 1}}')) AS v(a, b);
SELECT unnest(json_keys(CAST('{"a": 1, "b": 2}' AS JSON))) AS x ORDER BY x;
SELECT struct_extract(json_transform(CAST('{"p": "2026-01-05T10:00:00"}' AS JSON), '{"p": "TIMESTAMP"}'), 'p') AS x;
SELECT struct_extract(json_transform(CAST('{}' AS JSON), '{"p": "TIMESTAMP"}'), 'p') AS x;
SELECT list_contains(v.l, v.i) AS x FROM (VALUES (['a', 'b'], 'a'), (['a'], 'c'), (['a'], NULL)) AS v(l, i);
SELECT list_contains($names, v.n) AS x FROM (VALUES ('a'), ('z')) AS v(n);
SELECT list_contains($none, v.n) AS x FROM (VALUES ('a')) AS v(n);
SELECT list_min(list_filter(v.l, lambda e: e >= 2)) AS x, array_length(list_filter(v.l, lambda e: e >= 2)) AS n
    FROM (VALUES ([1, 2, 3]), ([1]), (NULL)) AS v(l);
SELECT list_max(v.l) AS x FROM (VALUES ([1, 3, 2]), (NULL)) AS v(l);
SELECT list_concat(coalesce(NULL, CAST([] AS TEXT[])), ['a']) AS x;
SELECT v.g, v.n
    FROM (VALUES ('a', 1), ('a', 2), ('b', NULL), ('b', 3)) AS v(g, n)
    QUALIFY row_number() OVER (PARTITION BY v.g ORDER BY v.n DESC) = 1 ORDER BY 1;
SELECT v.g, v.n
    FROM (VALUES ('a', 5), ('a', 2), ('b', 3)) AS v(g, n)
    QUALIFY row_number() OVER (PARTITION BY v.g ORDER BY v.n DESC) = 1 ORDER BY v.n LIMIT 1;
SELECT count(*) AS x
    FROM (SELECT *
    FROM (VALUES ('a', 1), ('a', 2), ('b', 3)) AS v(g, n)
    QUALIFY row_number() OVER (PARTITION BY v.g ORDER BY v.n) = 1) AS q;
WITH l AS NOT MATERIALIZED (SELECT 1 AS x) SELECT x FROM l;
SELECT CAST(md5('x') AS UUID) AS x;
SELECT try_cast(v.t AS DOUBLE) AS x FROM (VALUES ('1.5'), ('x'), (''), (NULL), ('1e3')) AS v(t);
SELECT try_cast(v.t AS BIGINT) AS x FROM (VALUES ('12'), ('x'), (NULL), ('99999999999999999999')) AS v(t);
SELECT try_cast(v.t AS BOOLEAN) AS x FROM (VALUES ('true'), ('f'), ('maybe'), (NULL)) AS v(t);
SELECT try_cast(v.t AS TIMESTAMP) AS x
    FROM (VALUES ('2026-01-05T10:00:00'), ('2026-01-05'), ('2026-01-05 10:00:00.25'), ('never')) AS v(t);
SELECT try_cast(v.t AS TIMESTAMPTZ) AT TIME ZONE 'UTC' AS x FROM (VALUES ('2026-01-05 10:00:00+02'), ('x')) AS v(t);
SELECT try_cast(v.t AS DATE) AS x FROM (VALUES ('2026-01-05'), ('2026-13-05')) AS v(t);
SELECT TIMESTAMP '2026-01-31 10:00:00' + INTERVAL 1 MONTH AS x,
    TIMESTAMP '2026-01-31 10:00:00' - INTERVAL '90 minutes' AS y;
SELECT CAST(TIMESTAMP '2026-03-29 00:30:00' AT TIME ZONE 'UTC' AT TIME ZONE 'Europe/Berlin' AS DATE) AS x;
SELECT extract(isodow FROM DATE '2026-01-04') AS x, extract(epoch FROM TIMESTAMP '2026-01-01 00:00:01') AS y;
SELECT strpos('0123456789abcdef', substring(md5('x'), 8, 1)) * 268435456 AS x;
SELECT bool_or(v.b) AS x FROM (VALUES (true), (NULL)) AS v(b);
SELECT string_agg(v.t, ';' ORDER BY v.t DESC) AS x FROM (VALUES ('a'), ('b')) AS v(t);
SELECT 7 / 2 AS x, 7 % 4 AS y;
SELECT 1 / nullif(0, 0) AS x;
SELECT 'a' IS DISTINCT FROM NULL AS x, NULL IS NOT DISTINCT FROM NULL AS y;
SELECT starts_with('skipped(x)', 'skipped') AS x, concat_ws('|', 'a', NULL, 1) AS y;
SELECT v.n AS x FROM (VALUES (2), (NULL), (1)) AS v(n) ORDER BY v.n;
SELECT v.n AS x FROM (VALUES (2), (NULL), (1)) AS v(n) ORDER BY v.n DESC;
SELECT length('äöü') AS x, trim('  a ') AS y, lower('ÄB') AS z;
SELECT strftime(TIMESTAMP '2026-01-05 10:00:00.000001', '%Y-%m-%dT%H:%M:%S.%f') AS x
""".strip().split(";\n")
PARAMETERS = {"names": ["a", "b"], "none": []}


@pytest.fixture(scope="module")
def both(postgres_server: Server) -> Iterator[tuple[Warehouse, Warehouse]]:
    with DuckDBWarehouse(None) as first, PostgresWarehouse(postgres_server.database()) as second:
        yield first, second


@pytest.mark.parametrize("text", CONSTRUCTS)
def test_a_construct_gives_the_same_on_both(both: tuple[Warehouse, Warehouse], text: str) -> None:
    tree = sqlglot.parse_one(text, dialect="duckdb")
    first, second = ([{k: _value(v) for k, v in row.items()} for row in one.rows(tree, PARAMETERS)] for one in both)
    assert first == second, both[1].sql(tree)


def _value(value: Any) -> Any:
    match value:
        case str() if value[:1] in ("{", "["):
            return json.loads(value)
        case Decimal():
            return float(value)
        case timedelta():
            return value.total_seconds()
        case _:
            return value
