"""sqlite3: a database on a device of fixed size, read through mappings and written with pwrite(2).

A device cannot be created, grown or shrunk, and no journal can lie beside it. So a database is made elsewhere, copied
onto the device, and opened with its journal in memory.
"""

import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.clients.programs import need
from tests.conftest import Serve
from tests.people import Person

Database = Callable[[Person], Path]

PRAGMAS = "pragma mmap_size=268435456; pragma journal_mode={journal};"

WORK = """
create table reading(id integer primary key, sensor text not null, value real, note text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
insert into reading select i, 'sensor' || (i % 97), i * 0.5, hex(zeroblob(100)) from n;
create index by_sensor on reading(sensor, value);
update reading set note = note || sensor, value = value + 1 where id % 3 = 0;
delete from reading where id % 7 = 0;
insert into reading(sensor, value, note) select sensor, -value, 'x' from reading where id % 5 = 0;
"""

LOOK = """
select count(*), sum(value), count(distinct sensor), sum(length(note)) from reading;
select count(*), min(value) from reading indexed by by_sensor where sensor = 'sensor5';
pragma integrity_check;
"""


@pytest.fixture(scope="module", autouse=True)
def _sqlite3() -> None:
    need("sqlite3", "sqlite3")


@pytest.fixture
def database(serve: Serve, tmp_path: Path) -> Database:
    """A function that serves 64 MiB of memory with an empty database on it."""

    def make(person: Person) -> Path:
        image = tmp_path / "image"
        with closing(sqlite3.connect(image)) as made:
            made.execute("vacuum")  # else there is no first page
        path = serve(person, "ram:64M").path("ram")
        with image.open("rb") as there:
            done = person.run("dd", f"of={path}", "conv=notrunc,fsync", "status=none", stdin=there)
        assert (done.returncode, done.stderr) == (0, "")
        return path

    return make


def sql(person: Person, path: Path | str, *statements: str, journal: str = "memory") -> str:
    """What the sqlite3 program prints for them, after the two lines of the pragmas."""
    script = PRAGMAS.format(journal=journal) + "".join(statements)
    done = person.run("sqlite3", "-batch", "-bail", path, input=script, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    mmap_size, mode, *lines = done.stdout.splitlines()
    assert (mmap_size, mode) == ("268435456", journal)
    return "\n".join(lines)


@pytest.mark.parametrize("journal", ["off", "memory"])
def test_a_database_on_the_device_holds_what_one_in_a_file_does(
    person: Person, database: Database, place: Callable[[Person], Path], journal: str
) -> None:
    path = database(person)
    expected = sql(person, place(person) / "file.db", WORK, LOOK, journal=journal)
    assert expected.endswith("\nok")
    assert sql(person, path, WORK, LOOK, journal=journal) == expected
    assert sql(person, path, LOOK, journal=journal) == expected  # by another process


def test_a_transaction_that_is_rolled_back_leaves_nothing(person: Person, database: Database) -> None:
    path = database(person)
    before = sql(person, path, WORK, LOOK)
    assert sql(person, path, "begin; update reading set value = 0; drop index by_sensor; rollback;", LOOK) == before


def test_two_processes_that_insert_at_once_lose_no_row(person: Person, database: Database) -> None:
    path = database(person)
    sql(person, path, "create table event(who text, n integer);")
    writers = []
    for who in ("a", "b"):
        insert = "".join(f"insert into event values('{who}', {n});" for n in range(200))
        script = "pragma mmap_size=268435456; pragma journal_mode=memory;" + insert
        command = ("sqlite3", "-batch", "-bail", "-cmd", ".timeout 30000", str(path), script)
        writers.append(person.popen(*command, stdout=subprocess.DEVNULL))
    assert [writer.wait(60) for writer in writers] == [0, 0]
    counted = sql(person, path, "select who, count(*), count(distinct n) from event group by who;")
    assert counted == "a|200|200\nb|200|200"
    assert sql(person, path, "pragma integrity_check;") == "ok"


def test_zeros_are_no_database(user: Person, serve: Serve) -> None:
    path = serve(user, "ram:64M").path("ram")
    done = user.run("sqlite3", "-batch", path, "create table t(a);")
    assert done.returncode != 0
    assert "file is not a database" in done.stderr


def test_what_needs_a_journal_beside_it_is_refused_and_the_database_stays_whole(
    person: Person, database: Database
) -> None:
    path = database(person)
    before = sql(person, path, WORK, LOOK)
    done = person.run("sqlite3", "-batch", "-bail", path, "pragma journal_mode=delete; delete from reading;")
    assert done.returncode != 0
    # creating a file gives root EPERM, others EACCES: sqlite words them differently
    assert ("unable to open database file" if person.is_root else "attempt to write a readonly") in done.stderr
    assert sql(person, path, LOOK) == before


def test_vacuum_cannot_shrink_the_device_and_the_database_stays_whole(person: Person, database: Database) -> None:
    path = database(person)
    before = sql(person, path, WORK, LOOK)
    done = person.run("sqlite3", "-batch", "-bail", path, PRAGMAS.format(journal="memory") + "vacuum;")
    assert done.returncode != 0
    assert "disk I/O error" in done.stderr  # ftruncate(2) gives EINVAL, as on any device
    assert sql(person, path, LOOK) == before
    assert person.run("stat", "-c", "%s", path).stdout == f"{64 << 20}\n"
