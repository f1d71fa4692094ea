"""Plaintext on a Unix socket, mutual TLS to a host and port: with it a gRPC library that wants a host name in every
certificate can be a sidecar; without CERT and KEY a stranger.
`python -m test.testlib.mtls_pipe SOCKET HOST PORT [CERT KEY]`"""
import socket
import ssl
import sys
import threading


def copy(read, write, end):
    try:
        while data := read(65536):
            write(data)
    except OSError:
        pass
    end()


def carry(client, address, context):
    try:
        server = context.wrap_socket(socket.create_connection(address, timeout=10))
    except OSError:
        client.close()
        return
    server.settimeout(None)

    def end():
        for sock in (client, server):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    threading.Thread(target=copy, args=(server.recv, client.sendall, end), daemon=True).start()
    copy(client.recv, server.sendall, end)


def main(path, host, port, cert=None, key=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # who is asked is not what is tried here
    context.set_alpn_protocols(["h2"])
    if cert is not None:
        context.load_cert_chain(cert, key)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("listening", flush=True)
    while True:
        threading.Thread(target=carry, args=(listener.accept()[0], (host, int(port)), context), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
