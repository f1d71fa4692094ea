"""Without this the documentation would name files, options and commands that are no longer there, and show documents that
the programs refuse.

Drives: R80, D7, E5"""
import datetime
import re
import subprocess
from pathlib import Path

import pytest

from deploy.lab.programs import own_environment

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name(path):
    return str(path.relative_to(ROOT))


def text_of(page):
    """Without what stands between fences."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_a_page_refers_to_is_there(page):
    text = text_of(page)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert re.match(r"https?://", target) or (page.parent / target).exists(), target
    for path in re.findall(r"`((?:test|deploy|third_party|docs|proto|lib|certs|proxy|control)/[\w./-]*)`", text):
        assert (ROOT / path).exists() or list(ROOT.glob(f"{path}.*")), path


def test_the_security_policy_is_of_this_version():
    version = re.search(r'MORTISE_VERSION "(\d+\.\d+)', (ROOT / "lib/base/version.h").read_text())[1]
    assert f"| {version} (" in (ROOT / "SECURITY.md").read_text()


def commands(binaries):
    """{"rotate root": its help}."""
    names = subprocess.run([binaries.ctl, "--help=names"], capture_output=True, text=True, check=True,
                           env=own_environment()).stdout.splitlines()
    return {n: subprocess.run([str(binaries.ctl), *n.split(), "--help"], capture_output=True, text=True, check=True,
                              env=own_environment()).stdout for n in names}


def test_every_command_has_help_with_an_example(binaries):
    shown = {n: re.search(r"Example: .*?(?=\n\S[^\n]*:\n|$)", text, re.S) for n, text in commands(binaries).items()}
    assert not [n for n, found in shown.items() if found is None or f"mortisectl {n}" not in " ".join(found[0].split())]


def test_commands_and_flags_that_pages_show_are_there(binaries):
    helps = commands(binaries)
    faults = []
    for page in PAGES:
        for line in re.findall(r"mortisectl ([a-z][^\n`|&;)>]*)", page.read_text()):
            words = line.split()
            command = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in helps), None)
            if command is None:
                if any(known.split()[0] == words[0].strip(".,:") for known in helps):
                    continue
                faults.append(f"{name(page)}: mortisectl {line}")
                continue
            for flag in re.findall(r"(?<=\s)--([a-z][a-z0-9-]+)", " " + line):
                row = re.search(rf"--(\[no-\])?{flag.removeprefix('no-')}\b", helps[command])
                if row is None and flag not in ("help", "version"):
                    faults.append(f"{name(page)}: mortisectl {command} has no --{flag}")
    assert not faults, "\n".join(faults)


def test_settings_of_the_programs_that_pages_show_are_there(binaries):
    """A flag in backquotes or in a command line is one of some program's."""
    known = set()
    for program in (binaries.proxy, binaries.control, binaries.cert):
        said = subprocess.run([program, "--help"], capture_output=True, text=True, check=True, env=own_environment()).stdout
        known |= {flag.replace("[no-]", "") for flag in re.findall(r"--((?:\[no-\])?[a-z][a-z-]+)", said)}
    faults = []
    for page in PAGES:
        for line in re.findall(r"mortise-(?:proxy|control|cert)((?: --?[^\n`|&;]*))", page.read_text()):
            faults += [f"{name(page)}: --{flag}" for flag in re.findall(r"(?<=\s)--([a-z][a-z0-9-]+)", line)
                       if flag not in known and flag.removeprefix("no-") not in known]
    assert not faults, "\n".join(faults)


# Documents that pages show.

MESH = {"settings", "subsystems", "profiles", "links", "crls", "truststores", "keystores", "policies"}


def blocks():
    """(page, text) of each block of YAML that is a whole mesh document: one with … in it is an outline, one with names of
    files, or that says so, is of static mode, and a keystore that somebody has to import is nowhere yet."""
    found = []
    for page in PAGES:
        for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.S | re.M), 1):
            keys = set(re.findall(r"^(\w+):", text, re.M))
            if keys and keys <= MESH and not re.search(r"…|^# sidecar\.yaml|\b(ca|cert|key)_file:", text, re.M) and (
                    not re.search(r"\bkeystore:", text) or "keystores" in keys):
                found.append(pytest.param(page, text, id=f"{name(page)}-{number}"))
    return found


@pytest.mark.parametrize("page, text", blocks())
def test_mesh_documents_that_pages_show_are_valid(binaries, tmp_path, page, text):
    file = tmp_path / "mesh.yaml"
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=7)  # a page has a day of its own time
    file.write_text(re.sub(r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", soon.strftime("%Y-%m-%dT%H:%M:%SZ"), text))
    done = subprocess.run([binaries.ctl, "validate", "-f", file], capture_output=True, text=True, timeout=60,
                          env=own_environment(), check=False)
    assert done.returncode == 0 and done.stdout.endswith("valid\n"), (name(page), done.stderr)


def test_every_page_about_another_product_shows_one_and_a_table():
    shown = {param.values[0] for param in blocks()}
    pages = list((ROOT / "docs" / "migrate").glob("*.md"))
    assert {page.stem for page in pages} == {"ibm-api-connect", "axway", "wso2", "azure-api-management", "elastic-apm"}
    for page in pages:
        text = page.read_text()
        assert page in shown, page
        rows = [line for line in text.splitlines() if line.startswith("| ")]
        assert len(rows) >= 10 and all(len(re.split(r"(?<!\\)\|", row)) == 5 for row in rows), page
        assert f"migrate/{page.name}" in (ROOT / "docs" / "concepts.md").read_text()


def test_fields_that_pages_about_other_products_name_are_there():
    """What stands in backquotes in the second column, where it looks like a field, is one of a resource."""
    fields = set(re.findall(r"^\s+(?:repeated |optional )?[\w.]+ (\w+) = \d+", "".join(
        path.read_text() for path in (ROOT / "proto" / "mesh").glob("*.proto")), re.M))
    for page in (ROOT / "docs" / "migrate").glob("*.md"):
        for row in re.findall(r"^\| [^|]* \| ([^|]*) \|", page.read_text(), re.M):
            for word in re.findall(r"`([a-z]+(?:_[a-z]+)+)(?:: [^`]*)?`", row):
                assert word in fields, f"{name(page)}: {word}"


def test_the_picture_is_well_formed():
    from xml.etree import ElementTree
    assert ElementTree.parse(ROOT / "docs" / "concepts.svg").getroot().tag.endswith("svg")
