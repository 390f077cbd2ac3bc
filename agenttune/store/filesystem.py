"""Which kind of disk a folder is on."""

from __future__ import annotations

from pathlib import Path

from agenttune.errors import StoreFault

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "lustre", "gpfs", "beegfs"}
)


def refuse_network_file_system(folder: Path) -> None:
    """WAL needs shared memory, which network file systems do not give (https://www.sqlite.org/wal.html).

    Raises:
        StoreFault: `folder` is on one; says how to choose another.
    """
    kind = _file_system_of(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreFault(
            f"the runs folder {folder} is on a network file system ({kind}), where SQLite's WAL mode is unsafe; "
            "set store.runs_dir (or AGENTTUNE_RUNS_DIR) to a folder on a local disk"
        )


def _file_system_of(folder: Path) -> str:
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "unknown"
    target, best, kind = str(folder.resolve()), "", "unknown"
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split()
        mount = fields[1].replace("\\040", " ")
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, fields[2]
    return kind
