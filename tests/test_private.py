"""Files that Emit runs and trusts lie in folders that only its user can have written to."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from emit.host.system.private import private
from tests.hosts import ROOT

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> object:
    """Every file may be written to by anybody, unless somebody sees to that."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_it_is_made(tmp_path: Path, umask: object) -> None:
    """The folder and its missing parents are made for this user alone, whatever the umask."""
    folder = tmp_path / "a" / "b" / "c"
    assert private(folder) == private(folder) == folder
    assert {mode_of(path) for path in (folder, folder.parent, folder.parent.parent)} == {0o700}


def test_a_path_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leads to where it would for anybody, with dots as well."""
    monkeypatch.chdir(private(tmp_path / "a"))
    assert private(Path("b", "..", "c")) == Path("b", "..", "c")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b", "c"]


def test_it_is_not_made(tmp_path: Path) -> None:
    """A look-up creates nothing."""
    with pytest.raises(FileNotFoundError):
        private(tmp_path / "a", make=False)
    assert not (tmp_path / "a").exists()


def test_one_that_others_may_read(tmp_path: Path) -> None:
    """It is refused, or closed: nobody else can have written there."""
    tmp_path.chmod(0o755)
    with pytest.raises(PermissionError, match=rf"{tmp_path} must be for user \d+ alone"):
        private(tmp_path)
    assert private(tmp_path, own=True) == tmp_path
    assert mode_of(tmp_path) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_one_that_others_may_write_to(tmp_path: Path, mode: int) -> None:
    """It is refused, as what lies there may be theirs by now."""
    tmp_path.chmod(mode)
    with pytest.raises(PermissionError, match=f"{tmp_path} can be written to by anybody"):
        private(tmp_path, own=True)


@pytest.mark.parametrize("mode", [0o777, 0o772])
def test_one_below_a_folder_that_others_may_write_to(tmp_path: Path, mode: int) -> None:
    """They could put another one in its place; not if the one above is sticky, as /tmp is."""
    private(tmp_path / "a" / "b")
    (tmp_path / "a").chmod(mode)
    with pytest.raises(PermissionError, match=f"{tmp_path}/a, which it is in, .* by anybody"):
        private(tmp_path / "a" / "b")
    (tmp_path / "a").chmod(mode | stat.S_ISVTX)
    assert private(tmp_path / "a" / "b")


@as_root
def test_a_group_that_may_write(tmp_path: Path) -> None:
    """Another group is as anybody is."""
    private(tmp_path / "a" / "b")
    os.chown(tmp_path / "a", 0, 65534)
    (tmp_path / "a").chmod(0o770)
    with pytest.raises(PermissionError, match=r"can be written to by its group, 65534"):
        private(tmp_path / "a" / "b")


@as_root
def test_a_group_that_only_this_user_is_in(short_folder: Path) -> None:
    """It may write, as many systems make such a group for each user; another user's may not."""
    alone = {group.gr_name: group for group in grp.getgrall() if not group.gr_mem and group.gr_gid}
    users = [u for u in pwd.getpwall() if u.pw_uid and u.pw_name in alone]
    mine, other = [u for u in users if alone[u.pw_name].gr_gid == u.pw_gid][:2]
    short_folder.chmod(0o755)
    for name, group in (("mine", mine.pw_gid), ("theirs", other.pw_gid)):
        (short_folder / name).mkdir()
        os.chown(short_folder / name, mine.pw_uid, group)
        (short_folder / name).chmod(0o775)

    def look() -> int:
        os.setgroups([])
        os.setgid(mine.pw_gid)
        os.setuid(mine.pw_uid)
        private(short_folder / "mine" / "cache")
        private(short_folder / "mine", own=True)
        with pytest.raises(PermissionError, match=f"its group, {other.pw_gid}"):
            private(short_folder / "theirs" / "cache")
        return 0

    child = os.fork()
    if not child:
        code = 1
        try:
            code = look()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert mode_of(short_folder / "mine") == 0o700


@as_root
@pytest.mark.parametrize("whose", ["a/b", "a"])
def test_one_of_another_user(tmp_path: Path, whose: str) -> None:
    """The folder, and each above it."""
    private(tmp_path / "a" / "b")
    os.chown(tmp_path / whose, 65534, 65534)
    with pytest.raises(PermissionError, match=rf"{tmp_path}/{whose} belongs to user 65534"):
        private(tmp_path / "a" / "b")


def test_links(tmp_path: Path) -> None:
    """They are followed: what counts is where the folder really is, and the way there."""
    private(tmp_path / "real" / "cache")
    (tmp_path / "open").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert private(tmp_path / "link" / "cache") == tmp_path / "link" / "cache"
    with pytest.raises(PermissionError, match="link is a link"):
        private(tmp_path / "link")
    assert private(tmp_path / "link" / "new")
    assert (tmp_path / "real" / "new").is_dir()
    (tmp_path / "open" / "cache").symlink_to("../link/cache")
    assert private(tmp_path / "open" / "cache", own=True)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(PermissionError, match="open, which it is in"):
        private(tmp_path / "open" / "cache")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(PermissionError, match="a link in a circle"):
        private(tmp_path / "a" / "x")


@as_root
def test_a_link_of_another_user(tmp_path: Path) -> None:
    """A link in a sticky folder can still belong to anybody."""
    private(tmp_path / "mine")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    link = tmp_path / "tmp" / "emit"
    link.symlink_to(tmp_path / "mine")
    assert private(link, own=True)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    with pytest.raises(PermissionError, match=rf"{link} belongs to user 65534"):
        private(link)


def test_a_file_in_its_place(tmp_path: Path) -> None:
    """It is said which one, also above it."""
    (tmp_path / "file").touch()
    for path in ("file", "file/a/b"):
        with pytest.raises(NotADirectoryError, match=f"{tmp_path}/file is not a folder"):
            private(tmp_path / path)


def test_many_at_once(tmp_path: Path) -> None:
    """Processes that make it at the same time each have it."""
    code = (
        "import sys; from pathlib import Path; from emit.host.system.private import private\n"
        "sys.stdin.read(); private(Path(sys.argv[1], 'a', 'b', 'c'))\n"
    )
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, cwd=ROOT
        )
        for _ in range(4)
    ]
    for other in others:
        other.communicate(timeout=60)
    assert [other.returncode for other in others] == [0] * 4
