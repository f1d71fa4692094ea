/* What a peer makes of TLS 1.3 records: lawful ones, unlawful ones under the right key, damaged
 * ones and plain garbage, in any cut. Two record layers, one with BoringSSL's ciphers and one with
 * the fastest of this processor, must say the same to it, and seal the same. Drives: A2, R14 */
#include "lib/net/record.h"

#include <string.h>

#include "lib/base/mem.h"

#define STREAM_MAX 70000

struct input {
    const uint8_t *ptr;
    size_t len;
};

static uint8_t take(struct input *in)
{
    if (in->len == 0)
        return 0;
    in->len--;
    return *in->ptr++;
}

static struct bytes take_some(struct input *in, size_t len)
{
    struct bytes out = bytes_of(in->ptr, len < in->len ? len : in->len);

    in->ptr += out.len;
    in->len -= out.len;
    return out;
}

struct stream_made {
    uint8_t bytes[STREAM_MAX];
    size_t len;
};

static void made_add(struct stream_made *made, struct bytes bytes)
{
    if (bytes.len > 0 && made->len + bytes.len <= STREAM_MAX) {
        memcpy(made->bytes + made->len, bytes.ptr, bytes.len);
        made->len += bytes.len;
    }
}

/* What the peer sends, from the fuzzer's bytes. */
static void make_stream(struct input *in, struct record_key *key, struct stream_made *made)
{
    static const uint8_t types[8] = {0, 0, 22, 23, 21, 20, 24, 23};

    while (in->len > 0) {
        uint8_t op = take(in);
        size_t len = (size_t)(take(in) & 0x3f) * ((op & 0x40) != 0 ? 256 : 1);
        size_t size = len + RECORD_OVERHEAD, from = made->len;
        uint8_t plain[64 * 256] = {0};
        struct bytes some;

        if (made->len + size > STREAM_MAX)
            return;
        switch (op & 7) {
        case 0:
            made_add(made, take_some(in, len));
            break;
        case 1: /* a KeyUpdate, and the next key */
            record_key_seal(key, RECORD_TYPE_HANDSHAKE,
                            bytes_of((op & 8) != 0 ? "\x18\0\0\1\1" : "\x18\0\0\1\0", 5),
                            made->bytes + made->len);
            made->len += RECORD_OVERHEAD + 5;
            CHECK(err_is_ok(record_key_update(key)));
            break;
        default: /* a record of some type, its end zeros when the input is short: padding */
            some = take_some(in, len < 48 ? len : 48);
            if (some.len > 0)
                memcpy(plain, some.ptr, some.len);
            record_key_seal(key, (op & 8) != 0 ? 0 : types[op & 7], bytes_of(plain, len),
                            made->bytes + made->len);
            made->len += size;
            if ((op & 0x30) == 0x30) /* damaged */
                made->bytes[from + take(in) % size] ^= (uint8_t)(1 << (take(in) & 7));
            break;
        }
    }
}

struct end {
    struct record *record;
    uint8_t out[2 * RECORD_SEALED_MAX];
    uint8_t sealed[4096];
    size_t out_len;
    uint8_t alert;
    err_t err;
};

static struct end *end_new(enum record_cipher cipher, const struct record_aead *aead, bool server)
{
    static const uint8_t secrets[2][48] = {{1, 2, 3}, {4, 5, 6}};
    size_t len = cipher == RECORD_AES_256_GCM ? 48 : 32;
    const struct record_params params = {
        .aead = aead,
        .read_secret = bytes_of(secrets[0], len),
        .write_secret = bytes_of(secrets[1], len),
        .server = server,
        .key_update_records = 3,
        .key_updates_per_s = 10,
    };
    struct end *end = mem_zalloc(sizeof(*end));

    CHECK(err_is_ok(record_new(&params, &end->record)));
    return end;
}

static void end_free(struct end *end)
{
    record_free(end->record);
    mem_free(end);
}

static void end_open(struct end *end, struct bytes *in)
{
    end->err =
        record_open(end->record, 1000, in, end->out, sizeof(end->out), &end->out_len, &end->alert);
    CHECK(end->out_len <= sizeof(end->out));
    CHECK(!err_is(end->err, E_AGAIN) || in->len == 0);
}

static size_t end_seal(struct end *end, struct bytes data)
{
    size_t len = 0;

    CHECK(record_seal_max(data.len) <= sizeof(end->sealed));
    CHECK(err_is_ok(record_seal(end->record, data, end->sealed, &len)));
    CHECK(len <= record_seal_max(data.len));
    return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t secret[48] = {1, 2, 3};
    struct input in = {data, size};
    uint8_t head = take(&in), cut = take(&in);
    enum record_cipher cipher = (enum record_cipher)(head % RECORD_NUM_CIPHERS);
    struct end *a = end_new(cipher, record_aead_portable(cipher), (head & 0x80) != 0);
    struct end *b = end_new(cipher, record_aead_fast(cipher), (head & 0x80) != 0);
    struct stream_made *made = mem_zalloc(sizeof(*made));
    struct record_key key;
    size_t pos = 0;

    CHECK(err_is_ok(record_key_init(&key, record_aead_portable(cipher),
                                    bytes_of(secret, cipher == RECORD_AES_256_GCM ? 48 : 32), 0)));
    make_stream(&in, &key, made);
    do {
        size_t step = cut == 0 ? made->len : (size_t)cut;
        struct bytes left =
            bytes_of(made->bytes + pos, made->len - pos < step ? made->len - pos : step);
        struct bytes for_a = left, for_b = left;
        size_t len;

        end_open(a, &for_a);
        end_open(b, &for_b);
        CHECK(a->err.code == b->err.code && a->err.sub == b->err.sub && a->alert == b->alert);
        CHECK(for_a.len == for_b.len && a->out_len == b->out_len);
        CHECK(a->out_len == 0 || memcmp(a->out, b->out, a->out_len) == 0);
        pos += left.len - for_a.len;
        len = end_seal(a, bytes_of(data, size < 100 ? size : 100));
        CHECK(end_seal(b, bytes_of(data, size < 100 ? size : 100)) == len);
        CHECK(memcmp(a->sealed, b->sealed, len) == 0);
    } while (pos < made->len && (err_is(a->err, E_AGAIN) || err_is_ok(a->err)));
    record_key_fini(&key);
    end_free(a);
    end_free(b);
    mem_free(made);
    return 0;
}
