import stat
from pathlib import Path

import pytest

from dashboard.demo.keys import FILE, ClusterAccess, DemoKeys, read_keys, write_keys

KEYS = DemoKeys((ClusterAccess(1, "fra-1", "gfk_a"), ClusterAccess(2, "iad-2", "gfk_b")), "gfk_c")


def test_what_was_written_is_read_by_its_owner_alone(tmp_path: Path) -> None:
    write_keys(tmp_path / "new" / "folder", KEYS)
    assert read_keys(tmp_path / "new" / "folder") == KEYS
    assert stat.S_IMODE((tmp_path / "new" / "folder" / FILE).stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == [FILE]


def test_a_second_file_replaces_the_first(tmp_path: Path) -> None:
    write_keys(tmp_path, KEYS)
    write_keys(tmp_path, DemoKeys((), "gfk_d"))
    assert read_keys(tmp_path) == DemoKeys((), "gfk_d")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"clusters": [{"name": 1}], "jobs_key": "x"}', "7"])
def test_a_file_without_sense_is_no_file(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert read_keys(tmp_path) is None
    assert read_keys(tmp_path / "missing") is None
