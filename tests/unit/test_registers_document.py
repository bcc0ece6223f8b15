"""What docs/registers.md says, done."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

from mapdev.registers import Access

TEXT = (Path(__file__).parent.parent.parent / "docs" / "registers.md").read_text()


def test_its_files_run(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["chip.py", "test_chip.py", "own.py"]
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    (tmp_path / "test_own.py").write_text(
        "from own import Own\nfrom mapdev.testing import MemoryHost\n\n"
        "def test_own():\n"
        "    with MemoryHost(Own()) as host, host.open() as file:\n"
        "        area = file.mmap(4096)\n"
        "        area[0x24:0x28] = b'\\xff' * 4\n"
        "        assert area[0x24:0x28] == b'\\xfc\\xff\\xff\\xff'\n"
    )
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=tmp_path, timeout=100,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert "3 passed" in done.stdout, done.stdout


def test_its_table_has_every_access_type_once() -> None:
    table = TEXT.partition("| | a store | a load |")[2].partition("\n\n")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(first))) == sorted(get_args(Access))
