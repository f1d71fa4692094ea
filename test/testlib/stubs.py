"""Python code made from the product's own .proto files."""
import importlib
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def stubs():
    """An object with a module for each schema: `discovery`, `discovery_grpc`, …"""
    out = tempfile.mkdtemp(prefix="mortise-stubs-")
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={out}",
                    f"--grpc_python_out={out}", *map(str, (ROOT / "proto/mesh").glob("*.proto"))],
                   check=True, cwd=ROOT)
    sys.path.insert(0, out)
    found = type("Stubs", (), {})()
    for name in ("permission", "resource", "sidecar", "identity", "discovery", "operator", "access", "access_log"):
        setattr(found, name, importlib.import_module(f"proto.mesh.{name}_pb2"))
        setattr(found, name + "_grpc", importlib.import_module(f"proto.mesh.{name}_pb2_grpc"))
    return found
