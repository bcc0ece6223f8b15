"""``mapdev registers``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mapdev.errors import UsageError

if TYPE_CHECKING:
    from mapdev.registers import Register, RegisterArray


@click.group()
def command() -> None:
    """The registers that a file describes (SystemRDL, CMSIS-SVD).

    \b
    Example:  mapdev registers show chip.rdl
              mapdev registers show chip.svd:TIMER0 --json
    """


@command.command()
@click.argument("target", metavar="FILE[:TOP]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(target: str, as_json: bool) -> None:
    """Show the registers of FILE: an addrmap of a .rdl file, a peripheral of an .svd file.

    \b
    Example:  mapdev registers show chip.rdl:timer
              mapdev registers show chip.svd
    """
    from mapdev.devices.described import load_block
    from mapdev.registers.svd import peripherals

    file, _, part = target.partition(":")
    if not file.endswith((".rdl", ".svd")):
        raise UsageError(f"{target}: name a SystemRDL file (.rdl) or a CMSIS-SVD file (.svd)")
    if file.endswith(".svd") and not part:
        found = peripherals(file)
        if len(found) > 1:
            listed: list[dict[str, Any]] = [
                {"peripheral": each.name, "address": f"{each.address:#010x}", "size": f"{each.size:#x}",
                 "registers": len(each.registers)}
                for each in found.values()
            ]  # fmt: skip
            _print(json.dumps(listed, indent=2) if as_json else None, Path(file).name, listed)
            return
    block = load_block(target)
    rows = [_row(register) for register in sorted(block.registers.values(), key=lambda each: each.offset)]
    if as_json:
        memories = {name: [where.start, len(where)] for name, where in block.memories.items()}
        whole = {"name": block.__name__, "address": block.address, "size": block.nbytes, "registers": rows,
                 "memories": memories, "left_out": dict(block.left_out)}  # fmt: skip
        click.echo(json.dumps(whole, indent=2))
        return
    lines: list[dict[str, Any]] = []
    for row in rows:
        lines.append({**_text(row), "field": "", "bits": ""})
        for field in row["fields"]:
            bits = f"{field['last']}:{field['first']}" if field["last"] != field["first"] else str(field["first"])
            lines.append({"offset": "", "name": "", "width": "", "reset": f"{field['reset']:#x}",
                          "access": field["access"], "field": field["name"], "bits": bits})  # fmt: skip
    for name, where in block.memories.items():
        lines.append({"offset": f"{where.start:#06x}", "name": f"{name} ({len(where):#x} bytes of memory)"})
    _print(None, f"{block.__name__}, {block.nbytes:#x} bytes at {block.address:#x}", lines)
    for name, why in block.left_out.items():
        click.echo(f"left out: {name}: {why}", err=True)


def _row(register: "Register | RegisterArray") -> dict[str, Any]:
    fields = [
        {"name": name, "first": field.low, "last": field.low + field.nbits - 1,
         "access": register.access_of(name), "reset": (register.reset & field.mask) >> field.low,
         "description": field.description}
        for name, field in register.fields.items()
    ]  # fmt: skip
    accesses = {field["access"] for field in fields} or {register.access}
    return {
        "offset": register.offset, "name": register.name, "count": register.count, "stride": register.stride,
        "width": register.width, "reset": register.reset, "byteorder": register.byteorder,
        "access": accesses.pop() if len(accesses) == 1 else "mixed", "description": register.description,
        "fields": fields,
    }  # fmt: skip


def _text(row: dict[str, Any]) -> dict[str, str]:
    array = f"[{row['count']}]" + (f" +{row['stride']:#x}" if row["stride"] != row["width"] // 8 else "")
    return {"offset": f"{row['offset']:#06x}", "name": row["name"] + (array if row["count"] > 1 else ""),
            "width": str(row["width"]), "reset": f"{row['reset']:#x}", "access": row["access"]}  # fmt: skip


def _print(text: str | None, title: str, rows: list[dict[str, Any]]) -> None:
    """A table on a terminal, columns apart by tabs anywhere else."""
    if text is not None:
        click.echo(text)
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(str(row.get(column, "")) for column in columns).rstrip())
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(escape(str(row.get(column, ""))) for column in columns))
    Console().print(table)
