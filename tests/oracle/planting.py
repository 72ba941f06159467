"""Tools to plant a mistake in the compiler or the engine while it runs; its files stay as they are."""

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
from sqlglot import exp

from compiler.advance import Layers

Columns = dict[str, exp.Expr]
Tree = Callable[[Any], Any]


def everywhere(patch: pytest.MonkeyPatch, original: object, changed: object) -> None:
    """Puts another object in the place of a function, wherever a module of the project has it by name."""
    places = [
        (module, name)
        for title, module in list(sys.modules.items())
        if title.split(".")[0] in ("compiler", "flows")
        for name, value in list(vars(module).items())
        if value is original
    ]
    assert places, original
    for module, name in places:
        patch.setattr(module, name, changed)


def gives(original: Callable[..., Any], change: Tree) -> Callable[[pytest.MonkeyPatch], None]:
    """A function's value is changed, in all modules that call it."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        everywhere(patch, original, lambda *words, **options: change(original(*words, **options)))

    return plant


def method_gives(owner: type, name: str, change: Tree) -> Callable[[pytest.MonkeyPatch], None]:
    """A method's value is changed."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, name)
        patch.setattr(owner, name, lambda *words, **options: change(original(*words, **options)))

    return plant


def in_module(module: ModuleType, name: str, changed: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """A module calls something else by a name."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        assert hasattr(module, name)
        patch.setattr(module, name, changed)

    return plant


def says(module: ModuleType, old: str, new: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Statements of a module have other words."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        texts = {name: text for name, text in vars(module).items() if isinstance(text, str) and old in text}
        assert texts, old
        for name, text in texts.items():
            patch.setattr(module, name, text.replace(old, new))

    return plant


def both(*plants: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """One mistake in several places that stand for each other."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        for each in plants:
            each(patch)

    return plant


def layer(
    kind: type, change: Callable[[Columns, Any], Columns], part: str = ""
) -> Callable[[pytest.MonkeyPatch], None]:
    """A step's layer has other columns; `change` is given the columns and the step."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = Layers._add

        def add(self: Layers, node: Any, columns: Mapping[str, exp.Expr], *, part: str = "") -> None:
            mine = isinstance(node.step, kind) and part == wanted
            original(self, node, change(dict(columns), node.step) if mine else columns, part=part)

        wanted = part
        patch.setattr(Layers, "_add", add)

    return plant


def turned(old: type[exp.Expr], new: type[exp.Expr], only: Callable[[exp.Expr], bool] | None = None) -> Tree:
    """Comparisons of one kind become another."""

    def change(tree: exp.Expr) -> exp.Expr:
        hits = [node for node in tree.find_all(old) if type(node) is old and (only is None or only(node))]
        assert hits, f"nothing to change in {tree}"
        for node in hits:
            other = new(this=node.this.copy(), expression=node.expression.copy())
            if node is tree:
                return other
            node.replace(other)
        return tree

    return change


def columns_turned(old: type[exp.Expr], new: type[exp.Expr]) -> Callable[[Columns, Any], Columns]:
    """The same in all columns of a layer that have such a comparison."""

    def change(columns: Columns, _: Any) -> Columns:
        found = {name: tree.copy() for name, tree in columns.items()}
        return {name: turned(old, new)(tree) if tree.find(old) else tree for name, tree in found.items()}

    return change


def without(*names: str) -> Callable[[Columns, Any], Columns]:
    """A layer leaves columns as they were."""
    return lambda columns, _: {name: tree for name, tree in columns.items() if name not in names}
