"""Without this the manual would be a second list of options that nobody keeps: each page is made by the program that it is
about, from the table that it reads its settings by, and a formatter finds nothing wrong with it.

Drives: B6, E5"""
import re
import subprocess
import tarfile

import pytest

from deploy.lab.programs import Binaries, own_environment


def said(*argv):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=60, env=own_environment(), check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pages():
    """(words before --help, name of the page, its section) of each."""
    found = Binaries()
    yield (found.proxy,), "mortise-proxy", 8
    yield (found.control,), "mortise-control", 8
    yield (found.redirect,), "mortise-redirect", 8
    yield (found.cert,), "mortise-cert", 1
    yield (found.ctl,), "mortisectl", 1
    if found.ctl.exists():
        for name in said(found.ctl, "--help=names").splitlines():
            yield (found.ctl, *name.split()), f"mortisectl-{name.replace(' ', '-')}", 1


@pytest.mark.parametrize("argv, name, section", [pytest.param(*page, id=page[1]) for page in pages()])
def test_a_page_says_what_help_says_and_is_well_formed(binaries, tmp_path, argv, name, section):
    page, text = said(*argv, "--help=man"), said(*argv, "--help")
    file = tmp_path / f"{name}.{section}"
    file.write_text(page)
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", str(file)], capture_output=True, text=True, check=False)
    assert lint.stdout == "" and lint.returncode == 0, lint.stdout
    shown = subprocess.run(["mandoc", "-T", "utf8", str(file)], capture_output=True, text=True, check=True).stdout
    assert re.sub(r".\x08", "", shown).startswith(f"{name.upper()}({section})")
    plain = page.replace("\\-", "-").replace("\\e", "\\").replace("\\&", "").replace("\\(dq", '"')
    heads = re.findall(r'^\.TP\n\.B "(.*)"$', plain, re.M)
    if name == "mortisectl":
        names = said(argv[0], "--help=names").splitlines()
        assert len(heads) == len(names) and all(head.startswith(word) for head, word in zip(heads, names)), heads
    elif name != "mortise-cert":  # whose help is a text
        flags = re.findall(r"^  ((?:--|MORTISE_).*)", text, re.M)
        assert heads == flags
    words = plain + " Options Exit codes"
    for word in " ".join(line for line in text.splitlines()[4:] if "--help" not in line).split():
        assert word.rstrip(":") in words or word == "Example:", word  # headings end with a colon there


def test_a_second_word_is_no_page(binaries):
    done = subprocess.run([str(binaries.ctl), "nosuch", "--help=man"], capture_output=True, text=True, check=False,
                          env=own_environment(), timeout=60)
    assert done.returncode == 2 and "no command" in done.stderr


def test_the_build_makes_all_of_them(binaries):
    """bazel build //:man; what it made before is judged, where it is there."""
    made = binaries.folder / "man.tar"
    if not made.exists():
        pytest.skip("not built: bazel build //:man")
    with tarfile.open(made) as tar:
        names = {member.name.removeprefix("./") for member in tar if member.isfile()}
    assert names == {f"{name}.{section}" for _, name, section in pages()}
