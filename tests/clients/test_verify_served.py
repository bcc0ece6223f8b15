"""`mapdev verify` on served devices: a mapping of them behaves as memory should."""

import json

import pytest

from tests.conftest import Serve
from tests.people import Person

NO_OTHER_PAGE = "offset of the second page"
NOT_SHARED = "store seen through another process's open"
NO_WRITE = "write seen by mappings"
PHYSICAL = "two mappings share a physical page"

NOT_APPLICABLE = {
    "lkmc_mmap": {NO_OTHER_PAGE, NOT_SHARED},
    "ram:1M": set(),
    "array": {NO_WRITE},
    "vmalloc": {NO_WRITE},
    "contiguous": {NO_WRITE},
}
"""What a device lacks by its nature."""


@pytest.mark.parametrize("memory", ["shared", "on-demand"])
@pytest.mark.parametrize("target", NOT_APPLICABLE)
def test_no_check_fails(person: Person, serve: Serve, target: str, memory: str) -> None:
    path = serve(person, f"device={target}", "--memory", memory).path("device")
    done = person.mapdev("verify", "--json", path, timeout=60)
    results = json.loads(done.stdout)["results"]
    verdicts = {each["name"]: each["verdict"] for each in results}
    assert [each for each in results if each["verdict"] == "fail"] == []
    hidden = set() if person.is_root else {PHYSICAL}
    assert {name for name, verdict in verdicts.items() if verdict != "pass"} == NOT_APPLICABLE[target] | hidden
    assert done.returncode == 0
