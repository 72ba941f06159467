"""The tick that a bench harness times, worked out again in plain Python for every contact."""

from __future__ import annotations

from pathlib import Path

import duckdb

from tests.load import peer

NOW = 1781524800
PEOPLE = """
    COPY (
        SELECT i AS contact_id, 'p' || i || '@example.test' AS email, ['free', 'pro', 'enterprise'][1 + i % 3] AS plan,
            ['US', 'DE'][1 + i % 2] AS country, (i * 37 % 100)::INT AS score, (i * 13 % 90)::DOUBLE AS mrr
        FROM range(3000) AS r(i)
    ) TO '{}' (FORMAT parquet)
"""


def _path(start: int, matched: bool, pro: bool, local: bool) -> list[int]:
    """The steps from a wait that is over to the next one, or to 50, the end."""
    path, step = [start], start
    while True:
        block, place = divmod(step, 10)
        arm = 7 if (pro if block % 2 == 0 else local) else 8
        following = {0: 1, 1: 2 if matched else 4, 2: 3, 3: 6, 4: 5, 5: 6, 6: arm, 7: 9, 8: 9, 9: 10}[place]
        step = block * 10 + following
        path.append(step)
        if step == 50 or step % 10 in (1, 3, 5, 9):
            return path


def test_the_digest_is_that_of_a_plain_walk(tmp_path: Path) -> None:
    people, file = tmp_path / "contacts.parquet", tmp_path / "penstock-w2.duckdb"
    with duckdb.connect() as connection:
        connection.execute(PEOPLE.format(people))
    peer.prepare(file, people)
    with duckdb.connect(str(file)) as connection:
        found = connection.execute("""
            SELECT c.contact_id, s.step, s.wait_s, s.due, s.entered, c.plan IN ('pro', 'enterprise') AND c.score >= 50,
                c.country = 'US' OR c.mrr >= 50, e.name, CAST(epoch(e.event_time + INTERVAL 1 MICROSECOND) AS BIGINT)
            FROM main.contacts AS c JOIN main.start AS s USING (contact_id)
            LEFT JOIN main.events AS e USING (contact_id)
        """).fetchall()
    moved = ended = positions = due_sum = transitions = history = 0
    waits = {1: 172800, 3: 86400, 5: 86400, 9: 259200}
    for contact, step, _, due, entered, pro, local, name, at in found:
        awaited = {1: "email_opened", 9: "link_clicked"}.get(step % 10)
        matched = awaited is not None and name == awaited and entered < at <= due
        if matched or due <= NOW:
            path = _path(step, matched, pro, local)
            moved, ended = moved + 1, ended + (path[-1] == 50)
            transitions += len(path) - 1
            history += sum((contact % 1009) * (a * 50 + b) for a, b in zip(path, path[1:], strict=False))
            step, due = path[-1], NOW + waits.get(path[-1] % 10, 0)
        positions += (contact % 1009) * step
        due_sum += due % 100003
    digest = peer.run(file)
    assert moved > 500 and ended > 10
    assert digest["state"][:-1] == [moved, transitions, ended, positions, due_sum, history]
