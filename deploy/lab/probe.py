"""One TLS (or plain) connection with given credentials, told as a line of JSON: for what must be
refused. TLS 1.3 clients finish before the server has judged them, so it always tries to read.

    python3 -m deploy.lab.probe 10.77.0.11:15443 --roots roots.pem --cert c.pem --key k.pem

Result: {"connected": bool, "answer": "…", "error": "…"}; `connected` is true only when application
bytes came back or the connection stayed open until the deadline."""
import argparse
import json
import socket
import ssl
import sys
import time


def probe(target, plain=None, server_name=None, roots=None, cert=None, key=None, send=b"",
          timeout_s=5.0, max_version=None):
    host, port = target.rsplit(":", 1)
    result = {"connected": False, "answer": "", "error": ""}
    started = time.monotonic()
    sock = None
    try:
        sock = socket.create_connection((host.strip("[]"), int(port)), timeout_s)
        sock.settimeout(timeout_s)
        if plain is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_REQUIRED if roots else ssl.CERT_NONE
            if roots:
                context.load_verify_locations(roots)
            if cert:
                context.load_cert_chain(cert, key)
            if max_version:
                context.minimum_version = ssl.TLSVersion.TLSv1
                context.maximum_version = getattr(ssl.TLSVersion, max_version)
                context.set_ciphers("ALL:@SECLEVEL=0")
            sock = context.wrap_socket(sock, server_hostname=server_name)
            result["version"] = sock.version()
        sock.sendall(send if plain is None else plain)
        answer = sock.recv(4096)
        result["answer"] = answer.decode("latin-1")
        result["connected"] = bool(answer)
        if not answer:
            result["error"] = "closed"
    except TimeoutError:
        result["connected"] = plain is None
        result["error"] = "nothing came"
    except (ssl.SSLError, OSError) as err:
        result["error"] = getattr(err, "reason", None) or str(err)
    finally:
        if sock is not None:
            sock.close()
    result["seconds"] = round(time.monotonic() - started, 3)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--plain", help="send this text without TLS")
    parser.add_argument("--server-name")
    parser.add_argument("--roots")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--send", default="GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    parser.add_argument("--timeout", type=float, default=5.0)
    parser.add_argument("--max-version")
    args = parser.parse_args()
    plain = None if args.plain is None else args.plain.encode()
    print(json.dumps(probe(args.target, plain, args.server_name, args.roots, args.cert, args.key,
                           args.send.encode(), args.timeout, args.max_version)))


if __name__ == "__main__":
    sys.exit(main())
