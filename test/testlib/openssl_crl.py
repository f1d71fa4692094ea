"""Revocation lists of a test CA, made by OpenSSL's own `ca -gencrl`: none of our code, none of `cryptography`."""
import datetime
import subprocess
from pathlib import Path

from test.testlib.pki import pem_of_key

CONFIG = """[ca]
default_ca = it
[it]
database = {folder}/index.txt
crlnumber = {folder}/crlnumber
default_md = sha256
crl_extensions = crl_ext
[crl_ext]
authorityKeyIdentifier = keyid:always
{more}
"""


def utc(seconds):
    """So many seconds from now, as a UTCTime."""
    when = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return when.strftime("%y%m%d%H%M%SZ")


class OpensslCrl:
    """What the CA has taken back so far, and lists of it. `name` is a folder of its own below `folder`."""

    def __init__(self, folder, name, ca):
        self.folder = Path(folder) / name
        self.folder.mkdir()
        self.revoked, self.ca = [], ca
        (self.folder / "crlnumber").write_text("1000\n")
        (self.folder / "ca.pem").write_bytes(ca.root_pem())
        (self.folder / "ca.key").touch(mode=0o600)
        (self.folder / "ca.key").write_bytes(pem_of_key(ca.key))

    def revoke(self, serial):
        """`serial`: hex."""
        self.revoked.append(serial.upper())
        return self

    def make(self, begins_s=-60, ends_s=3600, der=False, more=""):
        """The list as bytes; `more` are lines of its extensions' section."""
        index = "".join(f"R\t{utc(864000)}\t{utc(-120)}\t{serial}\tunknown\t/CN=x\n" for serial in self.revoked)
        (self.folder / "index.txt").write_text(index)
        (self.folder / "ca.cnf").write_text(CONFIG.format(folder=self.folder, more=more))
        subprocess.run(["openssl", "ca", "-gencrl", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key",
                        "-crl_lastupdate", utc(begins_s), "-crl_nextupdate", utc(ends_s), "-out", "list.pem"],
                       cwd=self.folder, check=True, capture_output=True, timeout=60)
        if der:
            subprocess.run(["openssl", "crl", "-in", "list.pem", "-outform", "DER", "-out", "list.der"],
                           cwd=self.folder, check=True, capture_output=True, timeout=60)
        return (self.folder / ("list.der" if der else "list.pem")).read_bytes()


def put(path, data):
    """By rename, so that no half file is ever read."""
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_bytes(data)
    fresh.rename(path)
