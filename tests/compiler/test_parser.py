"""Places, canonical form and inline workflows."""

from __future__ import annotations

import random

import pytest

from compiler.errors import ConditionError, DefinitionError
from compiler.parser import canonical, content_hash, from_canonical, parse_value, parse_workflow
from compiler.yaml import MAX_DEPTH, read_yaml

HEAD = "version: 1\nworkflow: w\ntrigger: {event: signup}\n"

STYLES = {
    "plain": "if: contact.plan = 1 and wrong > 2",
    "plain over two lines": "if: contact.plan = 1\n    and wrong > 2",
    "single quotes": "if: 'contact.name = ''x'' and wrong > 2'",
    "double quotes": 'if: "contact.name = \\"x\\" \\u0061nd wrong > 2"',
    "double quotes with a broken line": 'if: "contact.name = 1 \\\n      and wrong > 2"',
    "folded": "if: >-\n    contact.plan = 1\n    and wrong > 2",
    "folded with deeper lines": "if: >\n    contact.plan = 1\n      and\n\n    wrong > 2\n",
    "literal": "if: |\n    contact.plan = 1\n    and wrong > 2",
    "literal with a comment": "if: | # why\n    contact.plan = 1\n    and wrong > 2",
    "umlauts before it": "if: contact.name = 'Grüße 😀' and wrong > 2",
}


@pytest.mark.parametrize("style", STYLES)
def test_condition_error_points_at_its_word_in_every_style(style: str) -> None:
    text = f"{HEAD}steps:\n- {STYLES[style]}\n  then: []\n"
    document = parse_workflow(text, "w.yaml")
    written = document.workflow.steps[0].if_  # type: ignore[union-attr]
    error = ConditionError("no", code="E203", offset=str(written).index("wrong"), length=5)
    problem = document.condition_problem(("steps", 0, "if"), error)
    assert text.split("\n")[problem.line - 1][problem.column - 1 :].startswith("wrong")


def test_random_texts_keep_their_places() -> None:
    seed = 20250303
    generator = random.Random(seed)
    for _ in range(300):
        words = [f"w{index}{generator.choice(['', chr(39), 'é'])}" for index in range(generator.randint(2, 12))]
        lines = "".join(word + generator.choice([" ", "\n    "]) for word in words).rstrip()
        text = f"a: {generator.choice(['>-', '|', '>'])}\n    {lines}\nb: 1\n"
        tree, _ = read_yaml(text, "f")
        value = tree.data["a"].data
        for word in words:
            _, line, column = tree.spot(("a",), value.index(word))
            assert text.split("\n")[line - 1][column - 1 :].startswith(word), (seed, text, word)


def test_place_gives_the_nearest_known_ancestor() -> None:
    document = parse_workflow(HEAD + "steps:\n- id: a\n  email: x\n", "w.yaml")
    assert document.place(("steps", 0, "email")) == (6, 10)
    assert document.place(("steps", 0, "with", "name")) == (5, 3)
    assert document.place(("goals", 3)) == (1, 1)


def test_only_null_true_false_and_numbers_are_typed() -> None:
    tree, _ = read_yaml("[08:00, 2025-03-03, on, no, y, ~, true, 1, 1.5, 0x10, 1_000, 12e03, .5, '1']", "f")
    assert tree.plain == [
        "08:00", "2025-03-03", "on", "no", "y", None, True, 1, 1.5, 16, "1_000", 12000.0, 0.5, "1",
    ]  # fmt: skip


def test_aliases_cannot_explode() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
    )
    with pytest.raises(DefinitionError, match="E100 more than"):
        read_yaml(bomb, "f")


def test_depth_is_bounded() -> None:
    with pytest.raises(DefinitionError, match=f"nested deeper than {MAX_DEPTH}"):
        read_yaml("[" * 5000, "f")


def test_canonical_form_reads_back_and_ignores_layout() -> None:
    one = parse_workflow(
        HEAD + "entry: {reentry: once, min_gap: 6h}\npolicy: {}\nsteps:\n- tag: x  # why\n", "w.yaml"
    ).workflow
    two = parse_workflow(
        "workflow: w\ntrigger:\n  event: signup\nversion: 1\nsteps: [{tag: x}]\nentry:\n  min_gap: 6h\n", "w.yaml"
    ).workflow
    assert canonical(one) == canonical(two)
    assert content_hash(one) == content_hash(two)
    assert from_canonical(canonical(one)) == one


def test_order_of_arms_and_explicit_nulls_of_policy_count() -> None:
    def hashed(rest: str) -> str:
        return content_hash(parse_workflow(HEAD + rest, "w.yaml").workflow)

    arms = "arms: {A: [], B: []}"
    assert hashed(f"steps: [{{split: {{A: 50, B: 50}}, {arms}}}]") != hashed(
        f"steps: [{{split: {{B: 50, A: 50}}, {arms}}}]"
    )
    assert hashed("policy: {quiet_hours: null}\nsteps: []") != hashed("steps: []")


def test_include_is_spliced_with_the_places_of_its_own_file() -> None:
    main = HEAD + "steps:\n- tag: before\n- include: steps/upsell.yaml\n- tag: after\n"
    document = parse_workflow(main, "w.yaml", includes={"steps/upsell.yaml": "- wait: 1d\n- id: offer\n  email: x\n"})
    assert [list(step.model_fields_set)[0] for step in document.workflow.steps] != []
    assert document.source.place(("steps", 2, "email")) == ("steps/upsell.yaml", 3, 10)
    assert document.source.place(("steps", 3, "tag")) == ("w.yaml", 7, 8)
    inline = parse_workflow(
        HEAD + "steps:\n- tag: before\n- wait: 1d\n- id: offer\n  email: x\n- tag: after\n", "w.yaml"
    )
    assert content_hash(document.workflow) == content_hash(inline.workflow)


def test_inline_workflow_has_the_places_of_the_file_around_it() -> None:
    text = "- id: S1\n  workflows:\n  - version: 1\n    workflow: w\n    activated: 2025-03-01T00:00Z\n" + (
        "    trigger: {event: signup}\n    steps:\n    - wait: 2h\n    - tagg: x\n"
    )
    tree, _ = read_yaml(text, "case.yaml")
    data = {key: value for key, value in tree.plain[0]["workflows"][0].items() if key != "activated"}
    with pytest.raises(DefinitionError) as caught:
        parse_value(data, "case.yaml", source=tree, path=(0, "workflows", 0))
    assert [(p.code, p.file, p.line, p.column) for p in caught.value.problems] == [("E104", "case.yaml", 9, 7)]
    with pytest.raises(DefinitionError, match="case.yaml  E104"):
        parse_value(data, "case.yaml")
