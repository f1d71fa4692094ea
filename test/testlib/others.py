"""Programs of others as clients, and what they said."""
import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

from deploy.lab.programs import own_environment

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mortise")


def reachable(port):
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), 5)):
        return True


def program(name):
    """Path of an installed program, some of which are not on everybody's PATH."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert found, f"{name} is missing: test/install test"
    return found


def run(*argv, timeout_s=120, **kwargs):
    """A client that must succeed; what it wrote, as bytes."""
    done = subprocess.run([str(arg) for arg in argv], capture_output=True, timeout=timeout_s,
                          env={**own_environment(), **kwargs.pop("env", {})}, **kwargs)
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, f"{argv[0]}: exit {done.returncode}\n{said[-2000:]}{done.stdout[-2000:]}"
    return done.stdout


def digest(data):
    return hashlib.sha256(data).hexdigest()
