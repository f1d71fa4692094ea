"""A sidecar made of Python's gRPC that takes what it is pushed and answers questions as a test wants."""
import queue
import sys
import threading
from pathlib import Path

import grpc

from deploy.lab.mesh import CONTROL_PORT
from deploy.lab.programs import Process, wait_for
from test.testlib.stubs import stubs

ROOT = Path(__file__).resolve().parents[2]


class OddSidecar:
    """`answer(question)` yields what it says: messages of DiscoveryRequest, or bytes as they are. `take(response)`: what
    it says to a configuration, as fields; else it takes it."""

    def __init__(self, mesh, subsystem, instance, answer, answers=True, clock_ms=None, take=None):
        self.mesh, self.answer, self.clock_ms, self.take = mesh, answer, clock_ms, take
        self.pb = stubs().discovery
        folder = mesh.folder / f"odd-{instance}"
        cert, key = mesh.certificate(subsystem, folder)
        socket = folder / "pipe.sock"
        self.pipe = Process(f"pipe-{instance}", [
            "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "test.testlib.mtls_pipe", socket, mesh.control_host.v4,
            CONTROL_PORT, cert, key], mesh.folder, mesh.network[subsystem])
        wait_for("the pipe listens", lambda: "listening" in self.pipe.tail())
        self.channel = grpc.insecure_channel(f"unix:{socket}")
        self.out = queue.Queue()
        self.heard = None
        self.ended = threading.Event()
        node = self.pb.Node(instance=instance, build="odd", answers=answers,
                            advertise=next(w["address"] for w in mesh.workloads() if w["subsystem"] == subsystem))
        self.say(node=node, status=self.pb.SidecarStatus(ready=True))
        self.call = self.channel.stream_stream(
            "/mortise.v1.DiscoveryService/Stream",
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=self.pb.DiscoveryResponse.FromString)(iter(self.out.get, None))
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        wait_for("it is connected", lambda: any(w["instance"] == instance for w in mesh.workloads()))

    def say(self, **fields):
        self.out.put(self.pb.DiscoveryRequest(**fields))

    def _clock(self):
        if self.clock_ms is None or self.heard is None:
            return {}
        now = self.clock_ms()
        return {"clock": self.pb.Clock(now_ms=now, heard_ms=self.heard, heard_at_ms=now)}

    def _read(self):
        try:
            for response in self.call:
                self.heard = response.clock.now_ms
                if response.nonce and self.take:
                    self.say(nonce=response.nonce, **self.take(response))
                elif response.nonce:
                    self.say(version=response.version, nonce=response.nonce, **self._clock())
                elif response.HasField("question"):
                    for message in self.answer(response.question):
                        self.out.put(message)
                else:
                    self.say(**self._clock())
        except grpc.RpcError:
            pass
        self.ended.set()

    def stop(self):
        self.call.cancel()
        self.out.put(None)
        self.channel.close()
        self.thread.join(10)
        self.pipe.stop()
