#include "third_party/boringssl_secrets/boringssl_secrets.h"

bool boringssl_secrets(const SSL *ssl, const uint8_t **out_read, const uint8_t **out_write,
                       size_t *out_len)
{
    bssl::Span<const uint8_t> read, write;

    if (!bssl::SSL_get_traffic_secrets(ssl, &read, &write) || read.size() != write.size())
        return false;
    *out_read = read.data();
    *out_write = write.data();
    *out_len = read.size();
    return true;
}
