"""Without this nobody knows that the web works: curl and wrk talk HTTP/1.1 to nginx, h2load and nghttp talk HTTP/2 without
TLS to nghttpd, and a WebSocket client to its server, all unmodified, through a pair.

Drives: B5, F1, R73"""
import asyncio
import os
import re

import pytest
import websockets

from test.testlib.others import digest, program, run

BIG = 12 << 20
NGINX = """{user}daemon off; worker_processes 1; pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  server {{
    listen 127.0.0.1:{port}; client_max_body_size 1g;
    location / {{ root {folder}/web; }}
    location /up/ {{ alias {folder}/up/; dav_methods PUT DELETE; create_full_put_path on; }}
    location /words {{ return 200 "{words}"; }}
  }}
}}
"""


@pytest.fixture(scope="module")
def files(folder):
    """The bytes of web/big and web/small, served by every server here."""
    made = {"big": os.urandom(BIG), "small": os.urandom(700)}
    for name in ("web", "up", "body"):
        (folder / name).mkdir()
    for name, data in made.items():
        (folder / "web" / name).write_bytes(data)
    return made


class TestHttp1:
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def nginx(cls, folder, files, pairs, serve):
        config = folder / "nginx.conf"
        user = "user root; " if os.geteuid() == 0 else ""
        config.write_text(NGINX.format(user=user, folder=folder, port=pairs.port, words="x" * 200))
        server = serve("nginx", program("nginx"), "-p", folder, "-c", config)
        yield server
        server.stop()

    def test_download(self, port, files):
        assert digest(run("curl", "-sS", f"http://127.0.0.1:{port}/big")) == digest(files["big"])

    def test_answer_that_ends_with_the_connection(self, port, files):
        """HTTP/1.0: the length is where the server half-closes."""
        assert run("curl", "-sS", "--http1.0", f"http://127.0.0.1:{port}/small") == files["small"]

    @pytest.mark.parametrize("how", ["length", "chunked", "continue"])
    def test_upload(self, port, folder, files, how):
        header = {"length": "Expect:", "chunked": "Transfer-Encoding: chunked",
                  "continue": "Expect: 100-continue"}[how]
        name = f"up-{port}-{how}"
        run("curl", "-sS", "-f", "-H", header, "-T", folder / "web" / "big",
            f"http://127.0.0.1:{port}/up/{name}")
        assert digest((folder / "up" / name).read_bytes()) == digest(files["big"])

    def test_many_requests_on_one_connection(self, port, files, tmp_path):
        urls = [f"http://127.0.0.1:{port}/small?{number}" for number in range(200)]
        told = run("curl", "-sS", "-w", "%{num_connects}\\n", "-o", tmp_path / "#1",
                   f"http://127.0.0.1:{port}/small?[0-199]").split()
        assert sum(map(int, told)) == 1 and len(told) == len(urls)

    def test_wrk(self, port):
        told = run(program("wrk"), "-t1", "-c32", "-d1s", "--latency",
                   f"http://127.0.0.1:{port}/words").decode()
        assert "Socket errors" not in told and "Non-2xx" not in told, told
        assert int(re.search(r"(\d+) requests in", told)[1]) > 50, told
        print(told)


class TestHttp2:
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def nghttpd(cls, folder, files, pairs, serve):
        server = serve("nghttpd", program("nghttpd"), "--no-tls", "-d", folder / "web",
                       "--echo-upload", "-a", "127.0.0.1", str(pairs.port))
        yield server
        server.stop()

    def test_downloads_side_by_side(self, port, files):
        url = f"http://127.0.0.1:{port}"
        got = run(program("nghttp"), f"{url}/big")
        assert digest(got) == digest(files["big"])

    def test_curl_with_prior_knowledge(self, port, files):
        assert digest(run("curl", "-sS", "--http2-prior-knowledge", "--parallel",
                          f"http://127.0.0.1:{port}/big")) == digest(files["big"])

    def test_upload_is_echoed(self, port, folder, files):
        got = run(program("nghttp"), "-d", folder / "web" / "big", f"http://127.0.0.1:{port}/x")
        assert digest(got) == digest(files["big"])

    def test_h2load(self, port):
        told = run(program("h2load"), "-n", "3000", "-c", "8", "-m", "32",
                   f"http://127.0.0.1:{port}/small").decode()
        assert "3000 succeeded, 0 failed, 0 errored, 0 timeout" in told, told
        print(told)


class TestWebSocket:
    """Messages both ways over one connection: long ones, ones in parts, pings, and either side's farewell."""

    @staticmethod
    def talk(pairs, port, client, **options):
        async def server(ws):
            await ws.send("ready")  # the server speaks first
            async for message in ws:
                if message == "bye":
                    await ws.close(4001, "as you wish")
                    return
                await ws.send(message)

        async def both():
            async with websockets.serve(server, "127.0.0.1", pairs.port, max_size=None, **options):
                uri = f"ws://127.0.0.1:{port}/"
                async with asyncio.timeout(60), websockets.connect(uri, max_size=None, **options) as ws:
                    assert await ws.recv() == "ready"
                    return await client(ws)

        return asyncio.run(both())

    @pytest.mark.parametrize("compression", [None, "deflate"])
    def test_every_size_comes_back(self, pairs, port, compression):
        async def client(ws):
            for size in (0, 1, 125, 126, 65535, 65536, 8 << 20):
                sent = os.urandom(size)
                await ws.send(sent)
                assert digest(await ws.recv()) == digest(sent)
            for text in ("", "häuser", "x" * 100_000):
                await ws.send(text)
                assert await ws.recv() == text

        self.talk(pairs, port, client, compression=compression)

    def test_both_directions_at_once(self, pairs, port):
        sent = [os.urandom(1 + number * 37 % 9000) for number in range(1500)]

        async def client(ws):
            async def send():
                for message in sent:
                    await ws.send(message)

            task = asyncio.create_task(send())
            got = [await ws.recv() for _ in sent]
            await task
            assert got == sent

        self.talk(pairs, port, client, compression=None)

    def test_parts_pings_and_the_servers_farewell(self, pairs, port):
        async def client(ws):
            await ws.send([b"a" * 70000, b"b", b"", b"c" * 70000])
            assert await ws.recv() == b"a" * 70000 + b"b" + b"c" * 70000
            for _ in range(20):
                await (await ws.ping(os.urandom(20)))
            await ws.send("bye")
            with pytest.raises(websockets.ConnectionClosed):
                await ws.recv()
            assert (ws.close_code, ws.close_reason) == (4001, "as you wish")

        self.talk(pairs, port, client)
