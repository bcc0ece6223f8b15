"""The table of docs/fidelity.md, from results that are made up."""

import json

import pytest
from lab.fidelity import PAGE, Column, page, parse

from mapdev.errors import HostError


def test_a_difference_has_its_reason_and_what_is_alike_has_none() -> None:
    columns = [
        Column("tmpfs", {"mmap": ("pass", "works"), "fork": ("pass", "works"), "poll": ("pass", "POLLIN")}),
        Column("module", {"mmap": ("pass", "works"), "fork": ("fail", "another page"), "poll": ("not run", "no")}),
    ]
    text = page(columns, "About.")
    assert "| mmap | yes | yes |" in text
    assert "| fork | yes | **NO** (1) |" in text
    assert "| poll | yes | not run (2) |" in text
    assert "1. another page." in text
    assert "There is no difference." in page(columns[:1], "About.")


def test_results_are_those_of_verify() -> None:
    results = {"results": [{"name": "mmap", "verdict": "pass", "evidence": "at 1"}]}
    assert parse("x", json.dumps(results)) == Column("x", {"mmap": ("pass", "at 1")})
    for wrong in ("", "{}", "[]", '{"results": [1]}'):
        with pytest.raises(HostError, match="x: `mapdev verify --json`"):
            parse("x", wrong)


def test_the_page_is_the_script_s() -> None:
    if not PAGE.exists():
        pytest.skip("docs/fidelity.md is not there: python -m lab.fidelity")
    text = PAGE.read_text()
    assert text.startswith(page([Column("tmpfs", {})], "").splitlines()[0])
    assert "**NO**" not in text
