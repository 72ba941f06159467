"""What a condition may not contain: every refused class, in both trust levels, named with its reason."""

from __future__ import annotations

import json
import random

import duckdb
import pytest

from compiler.allowlist import Trust
from compiler.catalog import Catalog, ContactModel, EventModel, Relation
from compiler.condition import Scope, compile_condition
from compiler.errors import ConditionError

PEOPLE = Relation("people", ("people",), {
    "id": "VARCHAR", "email": "VARCHAR", "plan": "VARCHAR", "visits": "BIGINT", "spent": "DOUBLE", "vip": "BOOLEAN",
    "created_at": "TIMESTAMP", "born_on": "DATE", "tags": "VARCHAR[]", "data": "JSON",
})  # fmt: skip
HAPPENED = Relation("happened", ("happened",), {
    "event_id": "VARCHAR", "person": "VARCHAR", "name": "VARCHAR", "at_time": "TIMESTAMP", "seen": "TIMESTAMP",
    "data": "JSON",
})  # fmt: skip
ORDERS = Relation("fct_orders", ("fct_orders",), {"person": "VARCHAR", "amount": "DOUBLE", "status": "VARCHAR"})
CATALOG = Catalog(
    ContactModel(PEOPLE, id="id", email="email", tags="tags"),
    EventModel(HAPPENED, "event_id", "person", "name", "at_time", "seen", "data"),
    relations={"fct_orders": ORDERS}, state_schema="penstock", open_names=True,
)  # fmt: skip
LEVELS: tuple[Trust, ...] = ("expression", "sql")


def compiled(text: str, trust: Trust = "sql") -> str:
    return compile_condition(text, Scope(CATALOG, trust=trust)).tree.sql(dialect="duckdb")


FUNCTIONS = """
query('select 1') query_table('people') json_execute_serialized_sql('x') read_csv('/etc/passwd')
read_csv_auto('/etc/passwd') read_json('x') read_json_auto('x') read_ndjson('x') read_ndjson_auto('x') read_parquet('x')
parquet_scan('x') parquet_metadata('x') read_text('/etc/passwd') read_blob('/etc/passwd') read_duckdb('x')
sniff_csv('x') glob('/*') arrow_scan(1,2,3) arrow_scan_dumb(1,2,3) pandas_scan(1) python_map_function(1)
seq_scan('people') getenv('HOME') getvariable('x') current_setting('memory_limit') duckdb_settings() duckdb_secrets()
duckdb_tables() pragma_version() pragma_table_info('people') which_secret('s3://x','s3') copy_database('x')
import_database('x') create_external_resource('x') register_external_resource('x') destroy_external_resource('x')
write_log('x') enable_logging('x') truncate_duckdb_logs() checkpoint('x') force_checkpoint('x') sleep_ms(1000)
error('x') nextval('s') setval('s', 1) setseed(0.5) random() uuid() gen_random_uuid() repeat('a', 1000000000)
lpad('a', 1000000000, 'b') rpad('a', 1000000000, 'b') range(1000000000) generate_series(1, 1000000000)
list_resize(tags, 1000000000) format('{:>1000000000}', 1) printf('%1000000000d', 1) stats(plan) current_query()
current_query_id() txid_current() pg_sleep(10) pg_sleep_for('1 hour') pg_read_file('/etc/passwd')
pg_read_binary_file('/etc/passwd') pg_ls_dir('/') pg_stat_file('x') lo_import('/etc/passwd') lo_export(1, 'x')
lo_get(1) dblink('x', 'y') dblink_exec('x') query_to_xml('select 1', true, true, '') table_to_xml('people')
database_to_xml(true) set_config('a', 'b', true) pg_terminate_backend(1) pg_advisory_lock(1) GET_DDL('table', 'x')
RESULT_SCAN('x') version() current_user session_user current_database() current_schema() current_catalog
list_transform(tags, 1) regexp_matches(plan, '(a+)+$') regexp_replace(plan, 'a', 'b') md5(plan) hash(plan) sha256(plan)
encode(plan) decode(plan) unnest(tags) json_extract(data, '$.a') json_serialize_sql('select 1') struct_pack(1) row(1, 2)
map([1], [2]) list_value(1, 2) array_agg(visits) count(*) sum(visits) max(visits) string_agg(plan) first(plan)
any_value(plan) approx_count_distinct(plan) row_number() lead(plan) getbit('1', 0) concat_ws('a', plan) typeof(plan)
enum_range(plan) nextafter(1, 2) today_secret() penstock_unknown()
""".replace("\n", " ")


def calls(text: str) -> list[str]:
    """The calls in a text separated by blanks, with blanks inside parentheses and quotes kept."""
    found, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == " " and depth == 0:
            found.append(text[start:index])
            start = index + 1
    return [call for call in found if call]


HOSTILE = [f"{call} is not null" for call in calls(FUNCTIONS)] + [
    # tokens
    "true; drop table people", "true;", "true -- x", "true /* x */", "visits > $1", "visits > $a", "visits > ?",
    "visits > :amount", "visits > @x", "plan = $$pro$$", "plan = $x$pro$x$", "plan = '{{ env_var(\"X\") }}' or {{ x }}",
    "{% if true %} true {% endif %}", "plan = E'\\x41'", "plan = e'pro'", "plan = U&'\\0041'", "plan = x'41'",
    "plan = X'41'", "plan = b'1'", "plan = N'pro'", "plan = '\\' or true", "visits # 1 > 0", "plan = 'a\x00b'",
    "plan = 'pro'​", "plan ‮= 'pro'", "data->'$.a' = 1", "data->>'$.a' = 'x'", "plan = 'a' \\ 'b'",
    # sub-selects and relations without ref()
    "exists (select 1 from people)", "visits = (select max(visits) from people)", "id in (select id from people)",
    "visits > all (select 1)", "visits > any (select 1)", "visits = some (select 1)", "(select true)",
    "exists (from people)", "id in (table people)", "id in (values ('a'))",
    "id in (with x as (select 1) select * from x)", "id in (select id from read_csv('/etc/passwd'))",
    "id in (select id from '/etc/passwd')", 'id in (select id from "file.parquet")',
    "id in (select name from duckdb_tables())", "id in (select id from people union select id from people)",
    "exists (select 1 from information_schema.tables)", "exists (select 1 from penstock.outbox)",
    "exists (select 1 from main.people)", "exists (select 1 from range(10))", "exists (select 1 from unnest([1]))",
    "exists (select 1 from pragma_version())", "exists (select 1 from (pivot people on plan using count(*)))",
    "exists (summarize people)", "exists (describe people)", "exists (show tables)",
    # statements and clauses
    "true) union select 1 from people where (true", "true) limit 1 --", "true) order by (1", "true) group by (plan",
    "true), (true", "true) or (1=1", "drop table people", "delete from people", "insert into people values (1)",
    "update people set plan = 'x'", "attach 'x.db'", "detach people", "copy people to 'x'", "install httpfs",
    "load httpfs", "pragma version", "set memory_limit = '1GB'", "call pragma_version()", "export database 'x'",
    "create table x as select 1", "alter table people rename to x", "begin transaction", "use memory", "vacuum",
    "prepare x as select 1", "execute x", "explain select 1", "kill 1", "truncate people",
    # constructs
    "(visits, 1) = (1, 2)", "(1, 2) is not null", "[1, 2] = tags", "tags[1] = 'a'", "tags[1:2] = tags",
    "plan[1] = 'p'", "{'a': 1} is not null", "map {'a': 1} is not null", "list_filter(tags, x -> x = 'a') = tags",
    "[x for x in tags] = tags", "plan collate nocase = 'PRO'", "created_at at time zone 'UTC' = now()",
    "plan ~ '(a+)+$'", "plan similar to '(a+)+'", "plan glob 'a*'", "plan ~* 'x'", "plan !~ 'x'",
    "row_number() over () = 1", "sum(visits) over () > 1", "visits > count(*)", "max(visits) > 1",
    "visits filter (where true) > 1", "* is not null", "people.* is not null", "columns('v.*') > 1",
    "columns(*) is not null", "t.visits > 1", "main.people.visits > 1", "contact.data.a = 'x'", "data.a.b.c = 'x'",
    "cast(plan as regclass) is not null", "'people'::regclass is not null", "plan::json is not null",
    "plan::text[] is not null", "plan::struct(a int) is not null", "plan::map(text, int) is not null",
    "plan::enum('a') is not null", "plan::blob is not null", "plan::bit is not null", "plan::pointer is not null",
    "plan::people is not null", "plan::interval is not null", "plan::union(a int) is not null",
    "created_at > now() - interval (visits) day", "created_at > now() - visits * interval '1 day'",
    "visits is 1", "plan is 'pro'", "plan is distinct from (select 1)", "visits = default", "plan in unnest(tags)",
    "plan in tags", "(visits := 3) = 3", "lambda x: x", "x -> x", "contact.\"pl;an\" = 'x'", '"pl\'an" = 1',
    "did('a', within => (select '1d'))", "did(plan)", "did((select 'a'))", "did('a', lambda x: true)",
    "has_tag(plan)", "bucket(plan) < 1", "ref('fct_orders') is not null", "source('a', 'b') is not null",
    "did(['a', plan])", "visits between symmetric 1 and 2", "extract(epoch_ns from created_at) > (select 1)",
    "try(visits / 0) = 1", "visits ^ 2 > (select 1)", "visits << 100 > 1", "visits & 1 = 1", "~visits = 1",
    "plan || repeat('a', 99) = 'x'", "case when exists (select 1) then true end", "x.y.z.w.v = 1",
    "position('a' in (select 'b')) = 1", "true for update", "true window w as ()", "true qualify true",
]  # fmt: skip


@pytest.mark.parametrize("text", sorted(set(HOSTILE)))
def test_hostile_conditions_are_refused_at_both_levels(text: str) -> None:
    for trust in LEVELS:
        with pytest.raises(ConditionError) as refused:
            compiled(text, trust)
        assert refused.value.code.startswith("E2")
        assert len(refused.value.message) > 15
        assert 0 <= refused.value.offset <= len(text)


def test_the_set_of_hostile_conditions_is_large() -> None:
    assert len(set(HOSTILE)) >= 185


@pytest.mark.parametrize(("text", "named"), [
    ("row_number() over () = 1", "window"),
    ("random() > 0.5", "rand()"),
    ("read_csv('x') is not null", "read"),
    ("query('x') is not null", "query()"),
    ("visits > count(*)", "count()"),
    ("plan collate nocase = 'a'", "collate"),
    ("cast(plan as regclass) is null", "cast"),
    ("true -- x", "comments"),
    ("true; select 1", "';'"),
    ("plan = e'x'", "plain 'strings'"),
    ("plan ~ 'x'", "regular expressions"),
    ("tags[1] = 'a'", "subscripts"),
    ("visits is 1", "IS takes"),
    ("exists (select 1 from people)", "not allowed"),
    ("plan = '\x07'", "U+0007"),
    ("(visits, 1) = (1, 2)", "row values"),
])  # fmt: skip
def test_a_refusal_names_the_construct(text: str, named: str) -> None:
    with pytest.raises(ConditionError) as refused:
        compiled(text, "expression")
    assert named in refused.value.message


SUBSELECTS = [
    "id in (select person from ref('fct_orders'))",
    "exists (select 1 from ref('fct_orders') o where o.person = contact.id and o.amount > 10)",
    "(select count(*) from ref('fct_orders') as o where o.person = contact.id) >= 3",
    "(select sum(o.amount) from ref('fct_orders') o where o.person = contact.id and o.status = 'paid') > 100",
]


@pytest.mark.parametrize("text", SUBSELECTS)
def test_subselects_over_models_belong_to_files(text: str) -> None:
    assert "SELECT" in compiled(text, "sql")
    with pytest.raises(ConditionError, match="trust level 'sql'"):
        compiled(text, "expression")


GOOD = [
    "plan = 'pro'", "contact.plan <> 'pro' and visits >= 3", "not vip", "vip is true", "vip is not true",
    "plan is null or plan in ('a', 'b')", "plan not in ('a')", "visits between 1 and 5", "plan like 'p%'",
    "plan ilike '%PRO%'", "plan not like 'x%'", "lower(plan) = 'pro'", "upper(trim(plan)) = 'PRO'",
    "length(plan) > 2", "substring(plan, 1, 2) = 'pr'", "starts_with(plan, 'p')", "contains(plan, 'r')",
    "coalesce(plan, 'none') = 'none'", "nullif(plan, '') is null", "abs(visits - 3) < 2", "round(spent, 2) = 1.25",
    "floor(spent) = 1 or ceil(spent) = 2", "greatest(visits, 3) = 3", "least(visits, 3) = 3",
    "case when vip then 1 else 2 end = 1", "case plan when 'pro' then true else false end", "if(vip, 1, 2) = 1",
    "cast(visits as double) / 2 > 1", "visits::text = '3'", "try_cast(plan as integer) = 3", "visits % 2 = 0",
    "extract(year from created_at) = 2025", "created_at > now() - interval '3 days'",
    "created_at >= timestamp '2025-01-01 00:00:00'", "born_on < date '2000-01-01'", "created_at < current_timestamp",
    "date_trunc('day', created_at) = date '2025-01-01'", "date_diff('day', created_at, now()) > 3",
    "plan || 'x' = 'prox'", "plan is distinct from 'pro'", "-visits < 0", "plan = 'it''s; -- {{ fine }} $1 ?'",
    "did('purchase')", "did(['a', 'b'], event.amount > 3, within => '30d', at_least => 2)",
    "event_count('a') > 1", "event_sum('a', event.amount, within => '7d') > 1", "days_since('a') > 3",
    "last_event('a') > now() - interval '1 day'", "rate('a', 'b', within => '90d') < 0.1", "has_tag('x')",
    "bucket('salt') < 0.5", "local_hour() between 9 and 17", "local_dow() in (6, 7)", "in_workflow('x')",
    "position_in('x') = 'step'", "created_at > '2025-01-01'",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_good_conditions_are_accepted_at_both_levels(text: str) -> None:
    for trust in LEVELS:
        assert compiled(text, trust)


WORDS = """
plan visits vip spent created_at born_on tags data contact . event entry id , ( ) ( ) [ ] = <> < > <= >= + - * / % || ::
'a' 'pro' '2025-01-01' '' 1 2.5 0 -1 1e5 true false null not and or in is like ilike between case when then else end
cast as try_cast int text timestamp date interval '1' day coalesce lower upper length trim did has_tag event_count now
within => '7d' at_least select from people ref 'fct_orders' where exists union distinct all any count sum over order by
limit -> ->> { } : ; -- /* ? $ @ # ~ ^ & | collate escape extract year epoch round abs unnest values array struct
random read_csv query range exists * columns lambda x if nullif greatest starts_with current_timestamp current_date
""".split()


def test_random_tokens_are_refused_or_harmless() -> None:
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    chance, accepted = random.Random(seed), 0
    shapes = [
        "visits > {}",
        "vip {}",
        "plan = {} {}",
        "( {} {} {} )",
        "not {}",
        "vip and {} {} {}",
        "{}",
        "visits {} {}",
    ]
    with duckdb.connect() as warehouse:
        for _ in range(6000):
            shape = chance.choice(shapes)
            text = shape.format(*(" ".join(chance.choices(WORDS, k=chance.randint(1, 2))) for _ in range(8)))
            try:
                made = compile_condition(text, Scope(CATALOG, trust="expression"))
            except ConditionError as error:
                assert error.code.startswith("E2") or error.code == "E900", (seed, text)
                continue
            accepted += 1
            query = f"SELECT 1 FROM frame AS f WHERE {made.tree.sql(dialect='duckdb')}"
            row = warehouse.execute(
                "SELECT json_serialize_sql(?)", [query.replace("$tick_at", "'2025-01-01'")]
            ).fetchone()
            tree = json.loads(row[0] if row else "{}")
            assert not tree.get("error"), (seed, text, query, tree.get("error_message"))
            assert len(tree["statements"]) == 1, (seed, text)
            inner = json.dumps(tree["statements"][0]["node"]["where_clause"])
            assert '"SUBQUERY"' not in inner and '"TABLE_FUNCTION"' not in inner and "WINDOW" not in inner, (seed, text)
    assert accepted > 20, seed
