"""What to compile of Debian's BoringSSL (android-platform-external-boringssl): C in src/."""

load(
    ":BUILD.generated.bzl",
    "crypto_headers",
    "crypto_internal_headers",
    "crypto_sources",
    "crypto_sources_linux_aarch64",
    "crypto_sources_linux_x86_64",
    "fips_fragments",
    "ssl_headers",
    "ssl_internal_headers",
    "ssl_sources",
    "tool_headers",
    "tool_sources",
)

INCLUDE = "src/include"
CRYPTO_COPTS = ["-std=c11"]
CRYPTO_HDRS = crypto_headers + fips_fragments
CRYPTO_SRCS = crypto_sources + crypto_internal_headers + select({
    "@platforms//cpu:aarch64": crypto_sources_linux_aarch64,
    "//conditions:default": crypto_sources_linux_x86_64,
})
SSL_HDRS = ssl_headers
SSL_SRCS = ssl_sources + ssl_internal_headers
SSL_TEST = "src/ssl/test"
TOOL_SRCS = tool_sources + tool_headers
