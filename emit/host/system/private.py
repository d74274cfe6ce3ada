"""
Folders that nobody but this user can have written to: what Emit runs lies there, and the sockets
that it trusts.

A folder is private if it belongs to this user alone and if nobody else can put another one in its
place. So each folder above it is looked at, too, as ssh does: it has to belong to this user or to
root, and others may write to it only if it is sticky, as ``/tmp`` is. Links are followed, and have
to belong to one of the two.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["private"]

#: Links on the way to a folder, as many as the kernel follows.
_LINKS = 40


def private(folder: Path, *, make: bool = True, own: bool = False) -> Path:
    """
    Return the folder, if it is private and no other user may look into it.

    Args:
        folder: Its path.
        make: Make it, and what is missing above it, with mode 0700 whatever the umask.
        own: Emit alone uses the folder: one that others could only read is closed to them, and it
            may be a link.

    Raises:
        OSError: It is not private, or it can't be made. The text says which folder is wrong, and
            what is.
    """
    whole = folder if folder.is_absolute() else Path.cwd() / folder
    *_, (path, found) = _way(whole, make)
    user = os.geteuid()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{path} is not a folder")
    if found.st_uid != user:
        raise PermissionError(f"{path} belongs to user {found.st_uid}, not to {user}")
    if who := _writers(found):
        raise PermissionError(f"{path} can be written to by {who}, not by user {user} alone")
    if found.st_mode & 0o077 and own:
        os.chmod(path, 0o700)
    elif found.st_mode & 0o077:
        raise PermissionError(f"{path} must be for user {user} alone (chmod 700)")
    if not own and folder.is_symlink():
        raise PermissionError(f"{folder} is a link")
    return folder


def _way(folder: Path, make: bool) -> Iterator[tuple[str, os.stat_result]]:
    """
    Yield each folder from the root to *folder*, by its real path.

    Raises:
        PermissionError: Others can put another folder in the place of one of them.
    """
    rest, path, links = list(reversed(folder.parts[1:])), "/", 0
    found = os.stat(path)
    owners = {0, os.geteuid(), found.st_uid}  # in a user namespace root may have another number
    yield path, found
    while rest:
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(f"{path} is not a folder")
        if not found.st_mode & stat.S_ISVTX and (who := _writers(found)):
            raise PermissionError(f"{path}, which it is in, can be written to by {who}")
        name = rest.pop()
        below = os.path.normpath(os.path.join(path, name))
        found = _look(below, make)
        if found.st_uid not in owners:
            raise PermissionError(f"{below} belongs to user {found.st_uid}")
        if not stat.S_ISLNK(found.st_mode):
            path = below
            yield path, found
            continue
        links += 1
        if links > _LINKS:
            raise PermissionError(f"{below} is a link in a circle")
        target = Path(os.readlink(below))
        rest += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        path = "/" if target.is_absolute() else path
        found = os.stat(path)


def _look(path: str, make: bool) -> os.stat_result:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        if not make:
            raise
    try:
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)
    except FileExistsError:  # another process has made it just now
        pass
    return os.lstat(path)


def _writers(found: os.stat_result) -> str:
    """Return who else can write to a folder; "" if nobody can."""
    if found.st_mode & stat.S_IWOTH:
        return "anybody"
    if found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid):
        return f"its group, {found.st_gid}"
    return ""


def _is_own_group(gid: int) -> bool:
    """
    Return True for a group that only this user is in, which many systems make with each user:
    there, what a user makes can be written to by that group. Root has none.
    """
    uid = os.geteuid()
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    alone = set(group.gr_mem) <= {user.pw_name}
    return uid != 0 and user.pw_gid == gid and group.gr_name == user.pw_name and alone
