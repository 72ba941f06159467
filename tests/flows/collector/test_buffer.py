"""The buffer: whole lines only, whatever happens to the process that writes them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flows.collector import buffer
from flows.collector.buffer import Buffer, Busy, chunk, files, remove
from tests.flows.collector.serving import NOW


def written(folder: Path, *lines: bytes, hour: int = 9) -> None:
    async def write() -> None:
        async with Buffer(folder, lambda: NOW.replace(hour=hour)) as opened:
            await asyncio.gather(*(opened.append(line) for line in lines))

    asyncio.run(write())


def test_lines_come_out_as_they_went_in_and_every_process_has_files_of_its_own(tmp_path: Path) -> None:
    written(tmp_path, b"1\n", b"2\n")
    written(tmp_path, b"3\n", hour=10)
    found = [chunk(path, 0) for path in files(tmp_path)]
    assert [(part.lines, part.last) for part in found if part] == [((b"1", b"2"), True), ((b"3",), True)]


def test_a_torn_last_line_is_no_line_and_the_file_is_finished(tmp_path: Path) -> None:
    written(tmp_path, b"1\n")
    [path] = files(tmp_path)
    with path.open("ab") as torn:
        torn.write(b'{"half')
    part = chunk(path, 0)
    assert part is not None
    assert (part.lines, part.end, part.last) == ((b"1",), 2, True)
    rest = chunk(path, part.end)
    assert rest is not None
    assert (rest.lines, rest.last) == ((), True)
    remove(path)
    assert files(tmp_path) == []


def test_a_file_that_is_being_written_is_read_as_far_as_it_goes_and_never_removed(tmp_path: Path) -> None:
    async def write() -> None:
        async with Buffer(tmp_path, lambda: NOW) as opened:
            await opened.append(b"1\n")
            [path] = files(tmp_path)
            part = chunk(path, 0)
            assert part is not None
            assert (part.lines, part.last) == ((b"1",), False)
            remove(path)
            assert chunk(path, part.end) is None
            await opened.append(b"2\n")
            assert files(tmp_path) == [path]

    asyncio.run(write())


def test_a_full_file_is_followed_by_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "FULL", 10)

    async def write() -> None:
        async with Buffer(tmp_path, lambda: NOW) as opened:
            for number in range(4):
                await opened.append(b"%d2345678\n" % number)

    asyncio.run(write())
    assert sorted(path.stat().st_size for path in files(tmp_path)) == [18, 18]


def test_more_than_may_wait_is_turned_away_and_what_waits_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer, "MOST_WAITING", 100)

    async def write() -> list[BaseException | None]:
        async with Buffer(tmp_path, lambda: NOW) as opened:
            return await asyncio.gather(*(opened.append(b"x" * 39 + b"\n") for _ in range(5)), return_exceptions=True)

    told = asyncio.run(write())
    assert [type(each) for each in told] == [type(None)] * 2 + [Busy] * 3
    assert sum(path.stat().st_size for path in files(tmp_path)) == 80
