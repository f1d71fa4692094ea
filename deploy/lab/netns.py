"""Network namespaces joined by a bridge, as a small network of hosts.

The bridge lies in a namespace of its own, `<prefix>wire`, so the machine's own network is left
as it is, and a capture there sees everything that crosses between hosts."""
import os
import shutil
import subprocess


class NetnsError(RuntimeError):
    pass


def ip(*args, check=True):
    done = subprocess.run(["ip", *args], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise NetnsError(f"ip {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


def enter_user_namespace():
    """Without root: goes on as root of a user namespace of our own (the process is replaced)."""
    if os.geteuid() == 0:
        if os.environ.get("MORTISE_LAB_USERNS") == "1":
            os.makedirs("/run/netns", exist_ok=True)
        return
    unshare = shutil.which("unshare")
    if unshare is None:
        raise NetnsError("not root, and no unshare(1) here: run as root, or install util-linux")
    os.environ["MORTISE_LAB_USERNS"] = "1"
    import sys

    script = 'mount -t tmpfs tmpfs /run && mkdir /run/netns && exec "$@"'
    os.execv(unshare, [unshare, "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork",
                       "--mount-proc", "--kill-child", "sh", "-c", script, "sh",
                       sys.executable, *sys.orig_argv[1:]])


class Host:
    def __init__(self, netns, v4, v6):
        self.netns = netns
        self.v4 = v4
        self.v6 = v6

    def command(self, *args):
        """The command line that runs `args` on this host."""
        return ["ip", "netns", "exec", self.netns, *args]

    def run(self, *args, **kwargs):
        return subprocess.run(self.command(*args), **kwargs)


class Network:
    """Hosts by name, each with 10.77.0.N and fd77::N; remove() is safe at any time."""

    def __init__(self, prefix, names):
        self.prefix = prefix
        self.wire = prefix + "wire"
        self.hosts = {name: Host(prefix + name, f"10.77.0.{i}", f"fd77::{i}")
                      for i, name in enumerate(names, start=10)}

    def __getitem__(self, name):
        return self.hosts[name]

    def create(self):
        self.remove()
        ip("netns", "add", self.wire)
        wire = ("-n", self.wire)
        ip(*wire, "link", "add", "br0", "type", "bridge")
        ip(*wire, "link", "set", "br0", "up")
        for index, host in enumerate(self.hosts.values()):
            port = f"port{index}"
            ip("netns", "add", host.netns)
            ip(*wire, "link", "add", port, "type", "veth", "peer", "name", "eth0",
               "netns", host.netns)
            ip(*wire, "link", "set", port, "master", "br0", "up")
            inside = ("-n", host.netns)
            ip(*inside, "link", "set", "lo", "up")
            ip(*inside, "addr", "add", f"{host.v4}/24", "dev", "eth0")
            ip(*inside, "addr", "add", f"{host.v6}/64", "dev", "eth0", "nodad")
            ip(*inside, "link", "set", "eth0", "up")
        return self

    def remove(self):
        """Ends every process in our namespaces and deletes them."""
        present = {line.split()[0] for line in ip("netns", "list", check=False).splitlines() if line}
        for name in [self.wire, *(host.netns for host in self.hosts.values())]:
            if name not in present:
                continue
            for pid in ip("netns", "pids", name, check=False).split():
                try:
                    os.kill(int(pid), 9)
                except (ProcessLookupError, PermissionError):
                    pass
            ip("netns", "delete", name, check=False)

    def __enter__(self):
        return self.create()

    def __exit__(self, *exc):
        self.remove()
