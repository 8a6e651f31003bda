"""The spool: every row that was taken arrives, once the database takes it, whoever died in between."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import RowsRefused, StoreError
from serving.ledger_rows import Exposure, Outcome, Row, Status
from serving.spool import Spool
from serving.under_way import MOST_BYTES, UnderWay


def row(number: int) -> Outcome:
    return Outcome(request=str(number), time_s=float(number), name="success", value=1.0)


class Database:
    """Takes rows, or refuses them while it is away."""

    def __init__(self, *, away: bool = False) -> None:
        self.away, self.rows = away, list[Row]()

    def write(self, rows: Sequence[Row]) -> None:
        if self.away:
            raise StoreError("away", "wait")
        self.rows += rows

    @property
    def requests(self) -> list[str]:
        return [row.request for row in self.rows]


def test_rows_arrive_in_order_and_nothing_is_left_on_disk(tmp_path: Path) -> None:
    database = Database()
    spool = Spool(tmp_path, database.write)
    for number in range(50):
        spool.add(row(number), durable=number % 10 == 0)
    assert spool.flush()
    assert database.requests == [str(number) for number in range(50)]
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_is_never_taken_is_set_aside_and_stops_no_other(tmp_path: Path) -> None:
    database = Database()

    def write(rows: Sequence[Row]) -> None:
        if any(row.request == "1" for row in rows):
            raise RowsRefused("the database refused: too long", "mend it")
        database.write(rows)

    spool = Spool(tmp_path, write)
    for number in range(3):
        spool.add(row(number))
    assert spool.flush()
    spool.close()
    assert (database.requests, spool.num_refused) == (["0", "2"], 1)
    (aside,) = (tmp_path / "refused.jsonl").read_text().splitlines()
    assert json.loads(aside) == {"why": "the database refused: too long", "row": row(1).model_dump(mode="json")}


def test_rows_of_many_threads_all_arrive(tmp_path: Path) -> None:
    database = Database()
    spool = Spool(tmp_path, database.write)
    threads = [
        threading.Thread(target=lambda first=first: [spool.add(row(first + i)) for i in range(200)])
        for first in (0, 200, 400)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spool.close()
    assert sorted(map(int, database.requests)) == list(range(600))


def test_rows_wait_while_the_database_is_away(tmp_path: Path) -> None:
    database = Database(away=True)
    spool = Spool(tmp_path, database.write)
    spool.add(row(1))
    assert not spool.flush(0.5)
    assert spool.last_error == "away"
    spool.add(row(2))
    database.away = False
    assert spool.flush(10)
    assert (database.requests, spool.last_error) == (["1", "2"], "")
    spool.close()


def test_what_a_closed_spool_could_not_hand_over_its_successor_does(tmp_path: Path) -> None:
    first = Spool(tmp_path, Database(away=True).write)
    first.add(row(1))
    first.close()
    database = Database()
    second = Spool(tmp_path, database.write)
    assert second.flush()
    assert database.requests == ["1"]
    second.close()


KILLED = """
import os, sys
from pathlib import Path
from serving.ledger_rows import Outcome
from serving.spool import Spool
import serving.spool
serving.spool.EVERY_S = 60
spool = Spool(Path(sys.argv[1]), lambda rows: None)
for number in range(20):
    spool.add(Outcome(request=str(number), time_s=1.0, name="success", value=1.0))
os.kill(os.getpid(), 9)
"""


def test_rows_of_a_process_that_was_killed_are_taken_over(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -9
    database = Database()
    spool = Spool(tmp_path, database.write)
    assert spool.flush(10)
    spool.close()
    assert database.requests == [str(number) for number in range(20)]
    assert list(tmp_path.iterdir()) == []


def test_a_living_writers_file_is_not_taken_over(tmp_path: Path) -> None:
    slow, quick = Database(away=True), Database()
    living = Spool(tmp_path, slow.write)
    other = Spool(tmp_path, quick.write)
    opened = sorted(tmp_path.glob("*.open"))
    assert len(opened) == 2
    other.add(row(1))
    assert other.flush()
    assert set(opened) & set(tmp_path.glob("*.open")), "the living writer's file is still there"
    living.close()
    other.close()


def test_a_damaged_line_is_counted_and_the_others_arrive(tmp_path: Path) -> None:
    (tmp_path / "0-a.rows").write_bytes(row(1).model_dump_json().encode() + b'\n{"request": "2", "ti')
    database = Database()
    spool = Spool(tmp_path, database.write)
    assert spool.flush()
    assert (database.requests, spool.num_damaged) == (["1"], 1)
    spool.close()


FULL = """
import resource, sys
from pathlib import Path
from cluster.errors import RowsRefused, StoreError
from serving.ledger_rows import Outcome
import serving.spool
serving.spool.EVERY_S = 60
arrived = []
spool = serving.spool.Spool(Path(sys.argv[1]), arrived.extend)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
taken = 0
try:
    while taken < 100:
        spool.add(Outcome(request=str(taken), time_s=1.0, name="success", value=1.0))
        taken += 1
except StoreError as error:
    assert "took no row" in error.what
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    spool.add(Outcome(request="later", time_s=1.0, name="success", value=1.0))
spool.close()
assert [row.request for row in arrived] == [*map(str, range(taken)), "later"], arrived
assert 0 < taken < 100 and not spool.num_damaged
"""


def test_a_full_disk_is_an_error_and_leaves_no_half_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def exposure(request: str, status: Status = "ok") -> Exposure:
    return Exposure(
        request=request, endpoint="e", experiment=None, arm="a", unit="u", has_unit=True, probabilities={"a": 1.0},
        epoch=1, time_s=1.0, status=status,
    )  # fmt: skip


KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
from cluster.errors import StoreError
from serving.spool import Spool
from tests.unit.test_spool import exposure
def away(rows):
    raise StoreError("away", "wait")
spool = Spool(Path(sys.argv[1]), away)
for number in range(3):
    spool.begin(exposure(f"r{number}", "lost"))
spool.add(exposure("r0"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_request_under_way_in_a_process_that_is_killed_leaves_a_row_after_all_its_others(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED_IN_THE_MIDDLE, str(tmp_path)], check=False, timeout=60)
    database = Database(away=True)
    spool = Spool(tmp_path, database.write)
    time.sleep(0.5)
    assert database.rows == [], "while the others wait none is called lost"
    database.away = False
    assert spool.flush()
    deadline_s = time.monotonic() + 10
    while len(database.rows) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    spool.close()
    statuses: dict[str, str] = {}
    for found in database.rows:
        assert isinstance(found, Exposure)
        statuses.setdefault(found.request, found.status)  # as the ledger does: who comes first stays
    assert statuses == {"r0": "ok", "r1": "lost", "r2": "lost"}
    assert list(tmp_path.iterdir()) == []


def test_a_request_that_has_ended_is_not_under_way(tmp_path: Path) -> None:
    database = Database()
    spool = Spool(tmp_path, database.write)
    spool.begin(exposure("a", "lost"))
    spool.begin(exposure("b", "lost"))
    (begun,) = tmp_path.glob("*.begun")
    other = Spool(tmp_path, database.write)
    other.flush()
    time.sleep(0.5)
    assert database.rows == [], "a living process's are its own"
    spool.add(Outcome(request="b", time_s=1.0, name="n", value=1.0))
    spool.add(exposure("a"))
    assert begun.read_bytes().count(b"lost") == 2
    spool.add(exposure("b"))
    assert begun.read_bytes() == b""
    spool.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_requests_under_way_that_is_never_empty_does_not_grow(tmp_path: Path) -> None:
    under_way = UnderWay(tmp_path, "w")
    under_way.begin(exposure("stays", "lost"))
    for number in range(6000):
        under_way.begin(exposure(f"r{number}", "lost"))
        under_way.end(f"r{number}")
    under_way.end("nobody")
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < 1.2 * MOST_BYTES
    assert b"stays" in path.read_bytes()
    other = Spool(tmp_path, Database().write)
    other.flush()
    time.sleep(0.3)
    assert path.exists(), "it is locked under its name"
    other.close()
    under_way.close()
