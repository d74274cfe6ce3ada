"""
Folders that only this user can have written to. Emit runs files from them, and trusts the sockets
in them.

A folder is private if it belongs to this user alone, and if nobody else can replace it. So each
folder above it is checked, too, as ssh does. It has to belong to this user or to root. Others may
write to it only if it is sticky, as ``/tmp`` is. Links are followed, and have to belong to one of
these two users.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["private"]

#: Links on the way to a folder; the kernel follows as many.
_LINKS = 40


def private(folder: Path, *, make: bool = True, own: bool = False) -> Path:
    """
    Return the folder, if it is private and no other user may look into it.

    Args:
        folder: Its path.
        make: Make the folder and the missing folders above it, with mode 0700 for any umask.
        own: Only Emit uses the folder. If others could read it, they lose that permission, and
            the folder may be a link.

    Raises:
        OSError: The folder is not private, or can't be made. The text names the folder at fault,
            and its fault.
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
        PermissionError: Others can replace one of the folders.
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
    """Return who else can write to a folder, as text; "" if nobody can."""
    if found.st_mode & stat.S_IWOTH:
        return "anybody"
    if found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid):
        return f"its group, {found.st_gid}"
    return ""


def _is_own_group(gid: int) -> bool:
    """
    Return True for a group that has only this user in it. Many systems make such a group with each
    user, and let it write to the user's files. Root has none.
    """
    uid = os.geteuid()
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    alone = set(group.gr_mem) <= {user.pw_name}
    return uid != 0 and user.pw_gid == gid and group.gr_name == user.pw_name and alone
