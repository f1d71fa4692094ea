"""Without this the bill of materials would be a list that somebody wrote once: it is made from the commands that link the
programs, and held against the format's schema and against what the programs say of themselves.

Drives: R78, B7"""
import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = os.environ.get("MORTISE_CONFIG", "opt")
BAZEL = os.environ.get("MORTISE_BAZEL", "bazel").split()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    if CONFIG != "opt":
        pytest.skip("of the programs that are installed somewhere")
    out = tmp_path_factory.mktemp("sbom")
    texts = []
    for name in ("first", "second"):
        done = subprocess.run([ROOT / "third_party" / "sbom", "-o", out / name], cwd="/", capture_output=True, text=True,
                              timeout=900, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        texts.append((out / name).read_bytes())
    assert texts[0] == texts[1], "the same build gives the same bytes"
    return json.loads(texts[0])


def test_it_is_what_the_format_says(made):
    import cyclonedx.schema
    from jsonschema import Draft7Validator
    from referencing import Registry, Resource
    folder = Path(cyclonedx.schema.__file__).parent / "_res"
    schemas = {name: json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text()) for name in ("bom-1.5", "spdx", "jsf-0.82")}
    registry = Registry().with_resources(
        (base + f"{name}.SNAPSHOT.schema.json", Resource.from_contents(schema))
        for name, schema in schemas.items() for base in ("", "http://cyclonedx.org/schema/"))
    validator = Draft7Validator(schemas["bom-1.5"], registry=registry)
    assert not list(validator.iter_errors(made))
    broken = {**made, "components": [{**made["components"][0], "type": "lib"}]}
    assert list(validator.iter_errors(broken)), "the schema is one"


def test_what_the_programs_link_is_in_it(made):
    """By their own words where they have some, and by what they want at run time."""
    info = subprocess.run([*BAZEL, "info", "--noshow_progress", "bazel-bin"], cwd=ROOT, capture_output=True, text=True, check=True)
    folder = Path(info.stdout.strip())
    components = {item["name"]: item for item in made["components"]}
    by_library = {prop["value"]: item for item in made["components"] for prop in item["properties"]
                  if prop["name"] == "mortise:library"}
    programs = {item["name"]: item for item in made["metadata"]["component"]["components"]}
    dependencies = {item["ref"]: set(item.get("dependsOn", ())) for item in made["dependencies"]}
    places = {"mortise-cert": "certs", "mortise-control": "control", "mortisectl": "control", "mortise-proxy": "proxy",
              "mortise-redirect": "proxy/redirect"}
    assert set(programs) == set(places)
    for name, place in places.items():
        file = folder / place / name
        assert programs[name]["hashes"][0]["content"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert (components["boringssl"]["bom-ref"] in dependencies[f"mortise/{name}"]) == (name != "mortise-redirect")
        assert by_library["libc"]["bom-ref"] in dependencies[f"mortise/{name}"]
    said = subprocess.run([folder / "proxy" / "mortise-proxy", "--version"], capture_output=True, text=True, check=True).stdout
    for library, word in (("uv", "libuv"), ("nghttp2", "nghttp2"), ("protobuf_c", "protobuf-c"), ("jansson", "jansson"),
                          ("yaml", "libyaml")):
        version = re.search(rf"{word} ([\d.]+)", said)[1]
        assert by_library[library]["version"].startswith(version), (library, version)
        assert by_library[library]["bom-ref"] in dependencies["mortise/mortise-proxy"]
    assert by_library["sqlite3"]["bom-ref"] in dependencies["mortise/mortise-control"] - dependencies["mortise/mortise-proxy"]
    pin = re.search(r'sha256 = "([0-9a-f]{64})"', (ROOT / "WORKSPACE").read_text())[1]
    assert components["boringssl"]["hashes"][0]["content"] == pin
    assert all(item["licenses"] and item["version"] for item in made["components"])
    assert not {"cmocka", "libcmocka-dev"} & set(components), "tests are not shipped"
