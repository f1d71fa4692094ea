"""What to compile of an upstream BoringSSL checkout (2024 or later): C++ beside gen/sources.bzl."""

load(
    ":gen/sources.bzl",
    "bcm_internal_headers",
    "bcm_sources",
    "bcm_sources_asm",
    "bssl_internal_headers",
    "bssl_sources",
    "crypto_headers",
    "crypto_internal_headers",
    "crypto_sources",
    "crypto_sources_asm",
    "ssl_headers",
    "ssl_internal_headers",
    "ssl_sources",
)

# Each assembly file is empty on the systems that it is not for; those that can never be ours are
# left out to save the time.
def _ours(path):
    return not (path.endswith("-apple.S") or path.endswith("-win.S"))

INCLUDE = "include"

# The few C files of early 2024 take the compiler's default, which is C17.
CRYPTO_COPTS = []

# libssl and the tool include libcrypto's internal headers too.
CRYPTO_HDRS = crypto_headers + crypto_internal_headers + bcm_internal_headers
CRYPTO_SRCS = [path for path in bcm_sources + crypto_sources + bcm_sources_asm + crypto_sources_asm if _ours(path)]
SSL_HDRS = ssl_headers + ssl_internal_headers
SSL_SRCS = ssl_sources
SSL_TEST = "ssl/test"
TOOL_SRCS = bssl_sources + bssl_internal_headers
