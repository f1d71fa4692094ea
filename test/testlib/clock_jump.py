"""A program's own wall clock, to be moved while it runs (clock_jump.c is preloaded into it)."""
import os
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


class ClockJump:
    def __init__(self, folder):
        self.file, self.library = Path(folder) / "clock", Path(folder) / "clock_jump.so"
        self.set(0)
        subprocess.run([os.environ.get("CC", "cc"), "-std=gnu17", "-Wall", "-Werror", "-O2", "-fPIC",
                        "-shared", "-o", str(self.library), str(SOURCE)], check=True)

    @property
    def env(self):
        """For the program that is to have this clock."""
        return {"LD_PRELOAD": str(self.library), "CLOCK_JUMP_FILE": str(self.file)}

    def set(self, seconds):
        """From now on its clock is so many seconds ahead (or behind); in one store, as the program has it mapped."""
        with open(self.file, "r+b" if self.file.exists() else "wb") as out:
            out.write(struct.pack("=q", seconds))
