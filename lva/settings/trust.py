"""Whether a file or directory is one that only its owner can change."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path


def untrusted(path: Path, status: os.stat_result | None = None) -> str | None:
    """Say why somebody else could change what is at `path`, and what to do; None if nobody can.

    Args:
        path: The file or directory.
        status: Its status, when it is already open; read from the path if left out.

    A file that a group may write is accepted when that group is the owner's private one, which is
    how many systems set new files up.

    Raises:
        OSError: The path cannot be examined.
    """
    status = status or path.stat()
    if status.st_uid not in {0, os.geteuid()}:
        return (
            f"belongs to {_user(status.st_uid)}, who could change it while {_user(os.geteuid())} runs"
            " it; change its owner (chown)"
        )
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_mode & stat.S_IWOTH and not sticky:
        return f"everybody may write it (mode {_mode(status)}); run: chmod go-w {path}"
    if status.st_mode & stat.S_IWGRP and not sticky and not _is_private_group(status):
        return f"its group may write it (mode {_mode(status)}); run: chmod g-w {path}"
    return None


def _is_private_group(status: os.stat_result) -> bool:
    try:
        owner = pwd.getpwuid(status.st_uid)
        members = grp.getgrgid(status.st_gid).gr_mem
    except KeyError:
        return False
    return owner.pw_gid == status.st_gid and set(members) <= {owner.pw_name}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"
