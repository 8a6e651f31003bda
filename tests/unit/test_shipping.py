"""What of the project travels to a cluster, and what is too much."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import shipping
from cluster.errors import UsageError
from cluster.shipping import code_bytes, code_files, code_root, refuse_large, shipped_code


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_only_the_packages_travel(tmp_path: Path) -> None:
    make(tmp_path, "cluster/a.py", "serving/migrations/b.py", "trainers/__pycache__/c.pyc", "tuning/.cache/d")
    make(tmp_path, ".venv/e.py", ".hone/f", "tests/g.py", "job.yaml", "secrets.env")
    assert list(code_files(tmp_path)) == ["cluster/a.py", "serving/migrations/b.py"]
    with shipped_code(tmp_path) as place:
        found = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
        assert found == ["cluster/a.py", "serving/migrations/b.py"]
        assert (place / "cluster/a.py").read_text() == "cluster/a.py"
    assert not place.exists()


def test_a_link_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "cluster/a.py", "outside")
    (tmp_path / "cluster/b.py").symlink_to(tmp_path / "outside")
    with pytest.raises(UsageError, match=r"b\.py is a link"):
        code_files(tmp_path)


def test_too_much_is_refused_by_the_names_of_the_largest_files() -> None:
    sizes = {f"trainers/{name}.bin": size for name, size in zip("abcdefg", (1, 50, 3, 40, 5, 20, 7), strict=True)}
    refuse_large(sizes, 126)
    with pytest.raises(UsageError) as refused:
        refuse_large(sizes, 125)
    shown = str(refused.value)
    places = [shown.index(f"trainers/{name}.bin") for name in "bdfge"]
    assert places == sorted(places)
    assert "trainers/a.bin" not in shown
    assert "126" in shown
    assert "125" in shown


def test_this_installation_is_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 10**5 < code_bytes(code_root()) < 10**7
    assert {name.split("/")[0] for name in code_files(code_root())} == set(shipping.PACKAGES)
