"""A disk that fails, or a program that is killed, at a chosen call to the file system (disk_faults.c is preloaded into the
program)."""
import mmap
import os
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
WRITE, SYNC, TRUNCATE, RENAME, UNLINK, CREATE, CHMOD, READ = (1 << bit for bit in range(8))
CHANGES = WRITE | SYNC | TRUNCATE | RENAME | UNLINK | CREATE | CHMOD
KILL, TORN, POWER = -1, -2, -3  # before the call; in the midst of a write; with what was not synced lost
FOREVER = 1 << 62

_KINDS, _COUNT, _AT, _NUM, _ACTION, _FAILED = range(0, 48, 8)


def library(folder):
    """The library, made once in a folder."""
    path = Path(folder) / "disk_faults.so"
    if not path.exists():
        subprocess.run([os.environ.get("CC", "cc"), "-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Werror", "-O2", "-fPIC",
                        "-shared", "-o", str(path), str(SOURCE)], check=True)
    return path


class DiskFaults:
    """What happens to the files under `watched`; as long as nothing is armed, nothing."""

    def __init__(self, folder, watched):
        self.library, self.watched = library(folder), Path(watched)
        self.path = Path(folder) / "disk_faults"
        self.path.write_bytes(bytes(48))
        with open(self.path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 48)

    @property
    def env(self):
        """For the program whose disk this is."""
        return {"LD_PRELOAD": str(self.library), "DISK_FAULTS_FILE": str(self.path),
                "DISK_FAULTS_FOLDER": str(self.watched)}

    def _get(self, at):
        return struct.unpack_from("=q", self.memory, at)[0]

    def _set(self, at, value):
        struct.pack_into("=q", self.memory, at, value)

    def arm(self, action, at=1, kinds=CHANGES, num=FOREVER):
        """From the `at`-th such call on, counted from now, `action`: an errno for `num` calls, or KILL, TORN, POWER."""
        self.disarm()
        for field, value in ((_ACTION, action), (_KINDS, kinds), (_NUM, num), (_AT, at)):
            self._set(field, value)

    def disarm(self):
        """All is well from now on; what was noted is forgotten."""
        for field in (_AT, _KINDS, _COUNT, _FAILED, _ACTION):
            self._set(field, 0)

    @property
    def count(self):
        return self._get(_COUNT)

    @property
    def failed(self):
        return self._get(_FAILED)
