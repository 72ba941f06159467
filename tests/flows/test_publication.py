"""Publication: versions, retirement, going back, and what a worker reads without a checkout."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from compiler.errors import DefinitionError, StateError
from flows.engine.clock import VirtualClock
from flows.journal.ids import identity
from flows.journal.migrations import migrate
from flows.project import load_project
from flows.publication import load_published, publish
from flows.warehouse.duckdb import DuckDBWarehouse
from tests.flows.projects import TEMPLATE, WORKFLOW, build_models, write_project

START = datetime(2026, 3, 2, 9)


class Desk:
    """A project beside a warehouse in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = write_project(folder)
        self.clock = VirtualClock(START)
        self.warehouse = DuckDBWarehouse(None)
        build_models(self.warehouse)
        migrate(self.warehouse, "penstock_dev", START, "shop/dev")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def publish(self) -> list[str]:
        changes = publish(self.warehouse, "penstock_dev", load_project(self.folder, "dev"), self.clock)
        return [f"{c.kind} {c.name} {c.version or '-'} {c.action}" for c in changes]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.warehouse.close()


def test_the_first_publication_writes_everything_and_the_second_nothing(desk: Desk) -> None:
    assert desk.publish() == [
        "config penstock.yaml 1 published", "template hello - published", "workflow greet 1 published",
    ]  # fmt: skip
    assert desk.publish() == []
    desk.write("workflows/greet.yaml", "# a comment\n" + WORKFLOW.format(name="greet"))
    assert desk.publish() == []


def test_an_edit_is_a_new_version_that_keeps_the_activation(desk: Desk) -> None:
    desk.publish()
    desk.clock.advance_to(START + timedelta(days=1))
    edited = WORKFLOW.format(name="greet") + "  - wait: 1d\n"
    desk.write("workflows/greet.yaml", edited)
    assert desk.publish() == ["workflow greet 2 published"]
    (version,) = load_published(desk.warehouse, "penstock_dev").versions
    assert (version.version, version.current, version.activated_at) == (2, True, START)
    assert (version.published_at, version.source) == (START + timedelta(days=1), edited)
    desk.write("workflows/greet.yaml", WORKFLOW.format(name="greet"))
    assert desk.publish() == ["workflow greet 3 published"]


def test_a_version_with_contacts_in_flight_is_still_loaded(desk: Desk) -> None:
    desk.publish()
    row = {"enrollment_id": [identity("e")], "workflow": ["greet"], "version": [1], "contact_id": ["ann"],
           "entry_at": [START], "entered_tick": [1]}  # fmt: skip
    desk.warehouse.load(("penstock_dev", "enrollments"), pa.table(row))
    desk.write("workflows/greet.yaml", WORKFLOW.format(name="greet") + "  - wait: 1d\n")
    desk.publish()
    loaded = load_published(desk.warehouse, "penstock_dev").versions
    assert [(version.version, version.current) for version in loaded] == [(1, False), (2, True)]
    desk.warehouse.execute("update penstock_dev.enrollments set exit = 'completed'")
    assert [version.version for version in load_published(desk.warehouse, "penstock_dev").versions] == [2]


def test_a_workflow_without_a_file_is_retired_and_can_come_back(desk: Desk) -> None:
    desk.publish()
    (desk.folder / "workflows" / "greet.yaml").unlink()
    assert desk.publish() == ["workflow greet 1 retired"]
    assert desk.publish() == []
    assert [version.current for version in load_published(desk.warehouse, "penstock_dev").versions] == [False]
    desk.write("workflows/greet.yaml", WORKFLOW.format(name="greet"))
    assert desk.publish() == ["workflow greet 2 published"]
    assert [version.current for version in load_published(desk.warehouse, "penstock_dev").versions] == [True]


def test_the_newest_text_of_a_template_counts_even_when_it_is_an_old_one(desk: Desk) -> None:
    desk.publish()
    first = load_published(desk.warehouse, "penstock_dev").newest["hello"]
    for text in (TEMPLATE.replace("Hello {", "Hi {"), TEMPLATE):
        desk.write("templates/hello.txt", text)
        assert desk.publish() == ["template hello - published"]
    published = load_published(desk.warehouse, "penstock_dev")
    assert published.newest == {"hello": first}
    assert len(published.templates) == 2


def test_a_broken_file_publishes_nothing(desk: Desk) -> None:
    desk.write("templates/new.txt", "{{ nobody }}")
    with pytest.raises(DefinitionError):
        desk.publish()
    with pytest.raises(StateError, match="nothing was published") as caught:
        load_published(desk.warehouse, "penstock_dev")
    assert caught.value.code == "E626"


def test_a_worker_without_the_files_has_settings_and_catalog(desk: Desk) -> None:
    desk.publish()
    project = load_project(desk.folder, "dev")
    published = load_published(desk.warehouse, "penstock_dev")
    assert published.settings.effective_policy == project.settings.effective_policy
    assert (published.deliver, published.max_sends_per_day) == ("outbox", None)
    catalog = published.catalog(desk.warehouse)
    assert catalog.contact.relation.place == ("marts", "people")
    assert "plan" in catalog.contact.relation.columns
    assert catalog.events.relation.place == ("marts_facts", "happenings")
    assert catalog.templates == project.catalog().templates
    assert published.versions[0].definition == project.definitions.workflows["greet"].workflow


def test_a_mapped_column_that_is_gone_is_named(desk: Desk) -> None:
    desk.publish()
    desk.warehouse.execute("alter table marts.people drop column mail")
    with pytest.raises(DefinitionError, match="people has no column 'mail'"):
        load_published(desk.warehouse, "penstock_dev").catalog(desk.warehouse)


def test_a_changed_target_is_a_new_configuration(desk: Desk) -> None:
    desk.publish()
    text = (desk.folder / "penstock.yaml").read_text()
    desk.write("penstock.yaml", text.replace("prod: {", "other: {deliver: outbox}\n  prod: {"))
    assert desk.publish() == []
    desk.write("penstock.yaml", text.replace("Europe/Berlin", "Europe/Paris"))
    assert desk.publish() == ["config penstock.yaml 2 published"]
