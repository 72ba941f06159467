"""A small dbt project with Penstock in it, written into a folder."""

from __future__ import annotations

from pathlib import Path

from flows.warehouse.base import Warehouse

PENSTOCK = """\
version: 1
contact: {model: ref('people'), id: person_id, email: mail, fields: {stage: text}}
events: {model: ref('happenings'), id: id, contact: person_id, name: name, at: happened_at, loaded_at: event_time}
scores:
  churn: {model: ref('churn'), contact: person_id, value: p}
  warmth: {model: ref('churn'), contact: person_id, value: p}
policy: {default_timezone: Europe/Berlin, require: {email: mail_ok}}
destinations:
  mail: {type: smtp, host: "{{ env_var('MAIL_HOST', 'localhost') }}", notify_to: {sales: sales@shop.example}}
targets:
  dev: {deliver: outbox}
  prod: {deliver: live, max_sends_per_day: 100, destinations: {mail: {host: mail.shop.example}}}
"""
DBT = "name: shop\nprofile: shop\nmodel-paths: [models]\nvars: {raw: landing}\n"
PROFILES = """\
shop:
  target: "{{ env_var('SHOP_TARGET', 'dev') }}"
  outputs:
    dev: &file {type: duckdb, path: "{{ env_var('SHOP_FILE', 'shop.duckdb') }}", schema: marts}
    prod: {<<: *file, path: prod.duckdb}
    cloud: {type: snowflake}
    memory: {type: duckdb, path: ":memory:"}
    secret: {type: duckdb, path: "{{ env_var('SHOP_MISSING') }}"}
    server: &server
      type: postgres
      host: db.example
      port: "{{ env_var('SHOP_PORT') | as_number }}"
      user: shop
      pass: "{{ env_var('SHOP_PASSWORD') }}"
      dbname: sales
      schema: marts
      search_path: marts, public
      sslmode: require
      role: writer
    bare: {type: postgres, port: 5432}
    jinja: {<<: *server, port: 5432, pass: "{{ target.name }}"}
"""
SCHEMA = """\
models:
  - name: people
    columns:
      - {name: person_id, data_type: varchar}
      - {name: mail, data_type: varchar}
      - {name: mail_ok, data_type: boolean}
  - name: happenings
    config: {schema: facts}
    columns: [{name: id}, {name: person_id}, {name: name}, {name: happened_at, data_type: timestamptz}]
  - name: churn
    columns: [{name: person_id, data_type: varchar}, {name: p, data_type: double}]
sources:
  - name: shop
    schema: "{{ var('raw') }}"
    tables: [{name: carts, identifier: raw_carts, columns: [{name: cart_id, data_type: varchar}]}]
"""
WORKFLOW = """\
version: 1
workflow: {name}
trigger: {{event: signed_up}}
steps:
  - id: hello
    email: hello
"""
TEMPLATE = "---\nsubject: Hello\n---\nHello {{ contact.person_id }}\n"


def write_project(folder: Path) -> Path:
    """The project's files; returns the folder."""
    files = {
        "penstock.yaml": PENSTOCK, "dbt_project.yml": DBT, "profiles.yml": PROFILES, "models/schema.yml": SCHEMA,
        "models/late.sql": "select 1 as one", "workflows/greet.yaml": WORKFLOW.format(name="greet"),
        "templates/hello.txt": TEMPLATE,
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def build_models(warehouse: Warehouse) -> None:
    """What `dbt build` would leave in the warehouse."""
    for statement in (
        "create schema marts", "create schema marts_facts", "create schema landing",
        "create table marts.people (person_id varchar, mail varchar, mail_ok boolean, plan varchar)",
        "create table marts_facts.happenings (id varchar, person_id varchar, name varchar, happened_at timestamptz)",
        "create table marts.churn (person_id varchar, p double)", "create table landing.raw_carts (cart_id bigint)",
    ):  # fmt: skip
        warehouse.execute(statement)
