"""What a node may count on."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gpufleet_agent"
OLDEST = (3, 9)


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("*.py")), ids=lambda file: file.name)
def test_its_syntax_is_the_oldest_pythons(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=OLDEST)
    lazily = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    assert lazily or file.name == "__init__.py", "annotations are evaluated, which Python 3.9 can't"


def test_it_brings_nothing_but_itself() -> None:
    code = "import sys, gpufleet_agent.main, gpufleet_agent.cli; print(*{name.split('.')[0] for name in sys.modules})"
    found = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert set(found.stdout.split()) - set(sys.stdlib_module_names) <= {"gpufleet_agent", "__main__"}
