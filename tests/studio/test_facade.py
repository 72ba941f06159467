"""The facade `penstock`: what it names, what it loads, and what notebooks get from it."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import penstock
from compiler.errors import DefinitionError, ProjectError
from studio.demo import shop
from studio.demo.run import Demo, Quiet, Scale


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> penstock.Project:
    folder = tmp_path_factory.mktemp("facade") / "demo"
    Demo(folder, Scale(contacts=600, days=4, every=timedelta(hours=12)), Quiet()).run()
    return penstock.demo(folder)


def test_the_facade_names_all_it_has() -> None:
    assert penstock.__all__ == [
        "Audience", "Backtest", "Project", "Workflow", "__version__", "backtest", "demo", "identity",
    ]  # fmt: skip
    assert dir(penstock) == sorted(penstock.__all__)
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Projekt'"):
        _ = penstock.Projekt


def test_importing_the_facade_loads_nothing_heavy() -> None:
    code = "import sys, penstock; print(penstock.__version__, {'polars', 'duckdb', 'sqlglot'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [penstock.__version__, "set()"]


def test_a_project_has_its_workflows(project: penstock.Project) -> None:
    assert len(project) == 6
    assert list(project)[0] == "abandoned_cart"
    assert "abandoned_cart" in repr(project)
    assert project.now == shop.START + timedelta(days=3, hours=12)
    cart = project["abandoned_cart"]
    assert cart.steps["step"].to_list()[:2] == ["d2h", "reminder"]
    assert "SELECT" in cart.sql and "tick_at" in cart.sql
    assert cart.plan["workflow"] == "abandoned_cart"
    assert cart.diagram.startswith("flowchart")
    assert "reminder (email)" in repr(cart)
    with pytest.raises(ProjectError) as caught:
        project["abandoned_card"]
    assert "abandoned_cart" in caught.value.hint


def test_an_audience_is_a_frame_with_its_sql(project: penstock.Project) -> None:
    audience = project.audience("lifecycle_stage = 'customer' and email_consent")
    frame = audience.frame
    assert audience.count() == len(audience) == frame.height > 10
    assert set(frame["lifecycle_stage"]) == {"customer"} and frame["email_consent"].all()
    assert frame["contact_id"].is_sorted()
    assert "lifecycle_stage" in audience.sql
    html = audience._repr_html_()
    assert "<table" in html and "SELECT" in html
    nobody = project["welcome_series"].audience("did('signup', within => '1h') and not did('signup')")
    assert nobody.frame.is_empty() and nobody.count() == 0
    assert project["re_engagement"].audience().count() > 0


def test_a_refused_condition_says_why(project: penstock.Project) -> None:
    with pytest.raises(DefinitionError, match="lifecycle_stag"):
        project.audience("lifecycle_stag = 'customer'")
    with pytest.raises(ProjectError, match="not triggered by an audience"):
        project["abandoned_cart"].audience()


def test_the_log_is_a_frame(project: penstock.Project) -> None:
    log = project.log()
    assert log.columns == ["executed_at", "due", "workflow", "contact", "step", "action", "outcome", "reason"]
    assert log["executed_at"].is_sorted() and log.height > 20
    assert {"enter", "sent"} <= set(log["outcome"])
    assert log.filter(pl.col("outcome") == "skipped")["reason"].null_count() == 0
    assert (
        log.filter(pl.col("outcome") == "enter")["action"].null_count()
        == log.filter(pl.col("outcome") == "enter").height
    )
    assert project.log("abandoned_cart").equals(log.filter(pl.col("workflow") == "abandoned_cart"))
    recent = project.log(since="1d")
    assert recent.equals(log.filter(pl.col("executed_at") >= project.now - timedelta(days=1)))
    assert project.log(since=datetime(2026, 3, 2)).height == project.log(since="2026-03-02").height
    assert project.log(limit=5).height == 5
    step = project.log(step="reminder")
    assert set(step["action"]) == {"email:cart_reminder"}


def test_the_funnel_is_a_frame(project: penstock.Project) -> None:
    funnel = project["abandoned_cart"].funnel()
    assert funnel["stage"].to_list() == ["entered", "reminder", "discount", "tell_sales", "purchased"]
    entered = project.log("abandoned_cart").filter(pl.col("outcome") == "enter").height
    assert funnel["done"][0] == entered
    assert funnel["share"].max() == 1.0
    assert funnel.filter(pl.col("kind") == "email")["opened"].null_count() == 0


def test_without_a_project_it_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"no penstock\.yaml"):
        penstock.Project(tmp_path)
