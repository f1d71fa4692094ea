"""Servers that are no sidecar, or not the right one, each on a port: python3 -m test.testlib.odd_server PORT:KIND[:CERT:KEY] …

silent takes connections and says nothing; deaf ends them when it has heard something; http answers in HTTP; quiet speaks TLS without end; old, suites
and groups allow only what a mesh does not; counts echoes, and prints a line for each connection that it takes."""
import socket
import ssl
import sys
import threading


def tls(kind, cert, key):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(cert, key)
    if kind in ("old", "suites"):
        made.maximum_version = ssl.TLSVersion.TLSv1_2
    if kind == "suites":
        made.set_ciphers("ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0")
    if kind == "groups":
        made.set_ecdh_curve("secp521r1")
    return made


def serve(kind, context, sock):
    try:
        if kind == "silent":
            while sock.recv(4096):
                pass
        elif kind == "http":
            sock.recv(4096)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            sock.recv(4096)
        elif kind == "counts":
            print("connection", flush=True)
            while data := sock.recv(4096):
                sock.sendall(data)
        elif kind == "deaf":
            sock.recv(1 << 16)
        else:
            with context.wrap_socket(sock, server_side=True) as session:
                while session.recv(4096):
                    pass
    except (OSError, ssl.SSLError):
        pass
    finally:
        sock.close()


def accept(kind, context, listener):
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(kind, context, sock), daemon=True).start()


def main():
    for spec in sys.argv[1:]:
        port, kind, *files = spec.split(":")
        context = tls(kind, *files) if files else None
        host = "127.0.0.1" if kind == "counts" else ""
        listener = socket.create_server((host, int(port)), backlog=256)
        threading.Thread(target=accept, args=(kind, context, listener), daemon=True).start()
    print("listening", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
