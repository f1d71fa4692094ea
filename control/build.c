#include "control/build.h"

#include <nghttp2/nghttp2.h>
#include <openssl/crypto.h>
#include <protobuf-c/protobuf-c.h>
#include <uv.h>

void build_print(const char *program, FILE *out)
{
    fprintf(out, "%s " BUILD_VERSION "\n", program);
    fprintf(out, "BoringSSL (API %d)\n", BORINGSSL_API_VERSION);
    fprintf(out, "libuv %s\n", uv_version_string());
    fprintf(out, "nghttp2 %s\n", nghttp2_version(0)->version_str);
    fprintf(out, "protobuf-c %s\n", protobuf_c_version());
}
