"""Without this a refusal could lose the words that make it useful: the field, what is wrong, what would be right. Every text that
a profile, or what a link makes of its profiles, is refused with stands in test/golden/profile_refusals.txt, as `mortisectl validate`
writes it; a static file is refused with the same.

After a change that is meant, run with MORTISE_GOLDEN_WRITE=FOLDER and copy.

Drives: A1, A2, A3, A4, A5, A6, B1, B2, B3, E4, R10"""
import json
import os
import subprocess
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden" / "profile_refusals.txt"
CBC = "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"
GCM = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
OLD = {"allow_legacy": True, "cipher_suites": [CBC]}

# What a profile says that is refused by itself: (role, fields).
ALONE = [
    (None, {}),
    ("CLIENT", {"min_version": "TLS1_0"}),
    ("SERVER", {"min_version": "TLS1_1"}),
    ("CLIENT", {"max_version": "TLS1_1"}),
    ("CLIENT", {"min_version": "TLS1_3", "max_version": "TLS1_2"}),
    ("CLIENT", {"max_version": "TLS1_1", "allow_legacy": True}),
    ("CLIENT", {"min_version": "TLS1_0", "allow_legacy": True}),
    ("SERVER", {"min_version": "TLS1_1", "max_version": "TLS1_1", "allow_legacy": True, "cipher_suites": [GCM]}),
    ("CLIENT", {"min_version": "1.2"}),
    *(("CLIENT", {"cipher_suites": [suite]}) for suite in (
        "TLS_AES_128_GCM_SHA25", "ECDHE-ECDSA-AES256-GCM-SHA384", "HIGH:!aNULL", "", "TLS_RSA_WITH_RC4_128_SHA",
        "TLS_ECDHE_RSA_WITH_RC4_128_SHA", "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256")),
    ("CLIENT", {"cipher_suites": [GCM, GCM]}),
    ("CLIENT", {"cipher_suites": ["TLS_CHACHA20_POLY1305_SHA256"]}),
    ("SERVER", {"cipher_suites": ["TLS_AES_128_GCM_SHA256"], "max_version": "TLS1_2"}),
    ("CLIENT", {"cipher_suites": ["TLS_RSA_WITH_RC4_128_SHA"], "ignore_unavailable": True}),
    ("CLIENT", {"groups": ["P-225"]}),
    ("CLIENT", {"groups": ["P-256", "secp256r1"]}),
    ("CLIENT", {"signature_algorithms": ["rsa_pkcs1_sha1"]}),
    ("CLIENT", {"signature_algorithms": ["ed25519"]}),
    ("CLIENT", {"signature_algorithms": ["ecdsa_secp256r1_sha25"]}),
    ("CLIENT", {"signature_algorithms": ["rsa_pkcs1_sha256"], "min_version": "TLS1_3"}),
    ("CLIENT", {"max_age_s": 9}),
    ("CLIENT", {"handshake_timeout_ms": 99}),
    ("SERVER", {"handshake_timeout_ms": 300001}),
    ("SERVER", {"idle_timeout_s": 2592001}),
    ("CLIENT", {"client_auth": "NONE"}),
    ("SERVER", {"client_auth": "SOMETIMES"}),
    ("SERVER", {"renegotiation": "ONCE"}),
    ("CLIENT", {"renegotiation": "FREELY", "min_version": "TLS1_3"}),
    ("CLIENT", {"server_name": "10.0.0.7"}),
    ("CLIENT", {"server_name": "*.example.org"}),
    ("CLIENT", {"server_name": "db.example.org", "send_sni": "OMIT"}),
    ("SERVER", {"server_name": "db.example.org"}),
    ("SERVER", {"send_sni": "OMIT"}),
    ("CLIENT", {"insecure_skip_verify": True}),
    ("SERVER", {"insecure_skip_verify": True}),
]

TWELVE = {"max_version": "TLS1_2"}
THIRTEEN = {"min_version": "TLS1_3"}
# What two of them, or what a link says, make impossible: (client, server, link, more links).
TOGETHER = [
    (TWELVE, THIRTEEN, {}, []),
    ({**OLD, "min_version": "TLS1_0", "max_version": "TLS1_1"}, {}, {}, []),
    ({**OLD, "min_version": "TLS1_0", "max_version": "TLS1_1"}, {**OLD, "cipher_suites": [CBC.replace("128", "256")],
                                                                 "min_version": "TLS1_0"}, {}, []),
    ({**OLD, "min_version": "TLS1_0", "groups": ["X25519"]}, {**OLD, "min_version": "TLS1_1", "max_version": "TLS1_1"}, {}, []),
    ({"cipher_suites": ["TLS_AES_256_GCM_SHA384"], **THIRTEEN}, {"cipher_suites": ["TLS_AES_128_GCM_SHA256"], **THIRTEEN}, {}, []),
    ({**TWELVE, "cipher_suites": [GCM]}, {**TWELVE, "cipher_suites": [CBC]}, {}, []),
    ({**TWELVE, "cipher_suites": ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]}, {}, {}, []),
    ({}, {**TWELVE, "cipher_suites": ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]}, {}, []),
    ({"groups": ["X25519"]}, {"groups": ["P-384"]}, {}, []),
    ({**TWELVE, "groups": ["X25519"]}, {}, {}, []),
    ({"signature_algorithms": ["rsa_pss_rsae_sha256"]}, {}, {}, []),
    ({}, {}, {"allow_anonymous": True}, []),
    ({}, {"client_auth": "NONE"}, {}, []),
    ({"server_name": "db.example.org"}, {}, {}, [{"client": "c"}]),
    ({"send_sni": "OMIT"}, {}, {}, [{"client": "a", "client_port": 15111}]),
    ({"send_sni": "OMIT"}, {}, {}, [{"client": "c", "server_profile": "strict", "client_profile": "other"}]),
]


def alone(role, fields):
    return {"profiles": [{"name": "p", **({"role": role} if role else {}), **fields}]}


def together(client, server, link, more):
    base = {"client": "a", "server": "b", "client_port": 15110, "server_port": 8080, "client_profile": "cl",
            "server_profile": "sv"}
    return {"subsystems": [{"name": name} for name in "abc"],
            "profiles": [{"name": "cl", "role": "CLIENT", **client}, {"name": "sv", "role": "SERVER", **server},
                         {"name": "other", "role": "CLIENT"}, {"name": "strict", "role": "SERVER", **THIRTEEN}],
            "links": [{"name": f"link-{number}", **base, **one} for number, one in enumerate([link, *more])]}


def validate(binaries, doc):
    done = subprocess.run([binaries.ctl, "validate", "-f", "-"], input=json.dumps(doc), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, (doc, done.stdout)
    return done.stderr.replace("X25519MLKEM768, ", "")  # where the library has it


def test_every_refusal_is_as_it_was(binaries):
    text = ""
    for role, fields in ALONE:
        text += f"# {role} {json.dumps(fields)}\n{validate(binaries, alone(role, fields))}\n"
    for client, server, link, more in TOGETHER:
        told = ", ".join(json.dumps(part) for part in (client, server, link, *more))
        text += f"# {told}\n{validate(binaries, together(client, server, link, more))}\n"
    if os.environ.get("MORTISE_GOLDEN_WRITE"):
        (Path(os.environ["MORTISE_GOLDEN_WRITE"]) / GOLDEN.name).write_text(text)
    else:
        assert text == GOLDEN.read_text()


def test_what_would_be_right_is_taken(binaries):
    """The twins: each with what its refusal proposes."""
    for doc in (alone("CLIENT", {**OLD, "min_version": "TLS1_0"}), alone("SERVER", {**OLD, "min_version": "TLS1_1",
                                                                                    "max_version": "TLS1_1"}),
                {**alone("CLIENT", {"insecure_skip_verify": True}), "settings": {"allow_insecure": True}},
                alone("CLIENT", {"renegotiation": "FREELY"}), alone("SERVER", {"client_auth": "NONE"}),
                alone("CLIENT", {"send_sni": "OMIT"}), alone("CLIENT", {"server_name": "db.example.org"}),
                alone("CLIENT", {"handshake_timeout_ms": 100, "idle_timeout_s": 2592000}),
                together({}, {"client_auth": "OPTIONAL"}, {"allow_anonymous": True}, []),
                together({"send_sni": "OMIT"}, {}, {}, [{"client": "c"}]),
                together({**OLD, "min_version": "TLS1_0", "max_version": "TLS1_1"}, {**OLD, "min_version": "TLS1_1"}, {}, [])):
        done = subprocess.run([binaries.ctl, "validate", "-f", "-"], input=json.dumps(doc), capture_output=True, text=True,
                              timeout=60)
        assert done.returncode == 0, (doc, done.stderr)


def test_static_files_are_refused_with_the_same(binaries, folder):
    """Each profile in one file, told at its own place."""
    path = folder / "all.yaml"
    wanted = []
    for number, (role, fields) in enumerate(ALONE):
        if "SOMETIMES" in fields.values() or "1.2" in fields.values():
            continue  # the document itself is not read then
        path.write_text(json.dumps({"profiles": alone(role, fields)["profiles"]}))
        done = subprocess.run([binaries.proxy, "--config", path, "--check"], capture_output=True, text=True, timeout=60)
        assert done.returncode != 0, fields
        for line in validate(binaries, alone(role, fields)).splitlines():
            if "profiles[0]" in line and "settings" not in line:
                message = line.split("profiles[0].", 1)[1]
                if message not in done.stderr:
                    wanted.append((message, done.stderr))
    assert wanted == []
