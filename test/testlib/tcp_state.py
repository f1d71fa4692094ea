"""What the kernel knows of a TCP connection, to act when the other side has read, and not some time later."""
import socket
import struct

from deploy.lab.programs import wait_for

SOCK_DIAG_BY_FAMILY, NLMSG_ERROR = 20, 2


def unread(local_port, remote_port):
    """Bytes received but not yet read at the end on loopback that has `local_port`; 0 when there is no
    such socket. Source: sock_diag(7)."""
    loopback = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
    wanted = (struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0xFFFFFFFF) +
              struct.pack("!HH", local_port, remote_port) + loopback + loopback +
              struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF))  # any interface, any cookie
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as netlink:  # NETLINK_SOCK_DIAG
        netlink.send(struct.pack("=IHHII", 16 + len(wanted), SOCK_DIAG_BY_FAMILY, 1, 1, 0) + wanted)
        answer = netlink.recv(65536)
    if struct.unpack("=H", answer[4:6])[0] == NLMSG_ERROR:
        return 0
    # nlmsghdr, then inet_diag_msg: 4 bytes, the address (48), expires, rqueue
    return struct.unpack("=I", answer[16 + 4 + 48 + 4:][:4])[0]


def wait_read(sock):
    """Until the other side of a loopback connection has read all that was sent to it, or has closed."""
    local, remote = sock.getsockname()[1], sock.getpeername()[1]
    wait_for("it was read", lambda: not unread(remote, local), 10, every_s=0.0002)
