/* TLS 1.3's record layer without sockets: the vectors of RFC 8448, the engines against each other,
 * lives of two ends, and what a peer may not send. Drives: A2, R14 */
#include "lib/net/record.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/aead.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>

#include "lib/base/mem.h"

#define NUM_ENGINES 2

static void assert_ok(err_t err)
{
    assert_int_equal(err.code, E_OK);
}

static const struct record_aead *engine_of(unsigned engine, enum record_cipher cipher)
{
    return engine == 0 ? record_aead_portable(cipher) : record_aead_fast(cipher);
}

static size_t from_hex(const char *hex, uint8_t *out)
{
    size_t len = strlen(hex) / 2;

    for (size_t i = 0; i < len; i++) {
        unsigned value;

        assert_int_equal(sscanf(hex + 2 * i, "%2x", &value), 1);
        out[i] = (uint8_t)value;
    }
    return len;
}

/* ---- RFC 8448 section 3 ---- */

static void vector_key(struct record_key *key, unsigned engine, const char *secret, uint64_t seq)
{
    uint8_t bytes[RECORD_SECRET_MAX];
    size_t len = from_hex(secret, bytes);

    assert_ok(
        record_key_init(key, engine_of(engine, RECORD_AES_128_GCM), bytes_of(bytes, len), seq));
}

static void check_vector(unsigned engine, const char *secret, uint64_t seq, uint8_t type,
                         struct bytes plain, const char *record_hex)
{
    uint8_t want[128], got[128], opened[128];
    size_t len = from_hex(record_hex, want);
    struct record_key key;

    vector_key(&key, engine, secret, seq);
    record_key_seal(&key, type, plain, got);
    assert_int_equal(len, plain.len + RECORD_OVERHEAD);
    assert_memory_equal(got, want, len);
    record_key_fini(&key);

    vector_key(&key, engine, secret, seq);
    assert_true(record_key_open(&key, bytes_of(want, len), opened));
    assert_memory_equal(opened, plain.ptr, plain.len);
    assert_int_equal(opened[plain.len], type);
    assert_int_equal(key.seq, seq + 1);
    record_key_fini(&key);
}

static void test_vectors_of_rfc_8448(void **state)
{
    static const char *const client_secret =
        "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
    static const char *const server_secret =
        "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
    static const uint8_t close_notify[] = {1, 0};
    uint8_t data[50], key_bytes[16], iv[12];
    struct record_key key;

    (void)state;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)i;
    vector_key(&key, 0, server_secret, 0);
    (void)from_hex("9f02283b6c9c07efc26bb9f2ac92e356", key_bytes);
    (void)from_hex("cf782b88dd83549aadf1e984", iv);
    assert_memory_equal(key.key, key_bytes, sizeof(key_bytes));
    assert_memory_equal(key.iv, iv, sizeof(iv));
    record_key_fini(&key);

    for (unsigned engine = 0; engine < NUM_ENGINES; engine++) {
        check_vector(engine, client_secret, 0, RECORD_TYPE_DATA, bytes_of(data, sizeof(data)),
                     "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b4"
                     "6b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4");
        check_vector(engine, server_secret, 1, RECORD_TYPE_DATA, bytes_of(data, sizeof(data)),
                     "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90"
                     "e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d");
        check_vector(engine, client_secret, 1, RECORD_TYPE_ALERT,
                     bytes_of(close_notify, sizeof(close_notify)),
                     "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3");
        check_vector(engine, server_secret, 2, RECORD_TYPE_ALERT,
                     bytes_of(close_notify, sizeof(close_notify)),
                     "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9");
    }
}

/* ---- the engines against each other ---- */

static void check_engines(enum record_cipher cipher, size_t len)
{
    const struct record_aead *a = engine_of(0, cipher), *b = engine_of(1, cipher);
    struct record_slot slot_a, slot_b;
    uint8_t key[RECORD_KEY_MAX], nonce[RECORD_NONCE], header[RECORD_HEADER], type;
    size_t size = len + 1 + RECORD_TAG, at;
    uint8_t *plain = mem_alloc(len), *sealed_a = mem_alloc(size), *sealed_b = mem_alloc(size);
    uint8_t *opened = mem_alloc(len + 1);

    RAND_bytes(key, sizeof(key));
    RAND_bytes(nonce, sizeof(nonce));
    RAND_bytes(header, sizeof(header));
    RAND_bytes(plain, len);
    RAND_bytes(&type, 1);
    a->expand(&slot_a, key);
    b->expand(&slot_b, key);
    a->seal(&slot_a, nonce, header, bytes_of(plain, len), type, sealed_a);
    b->seal(&slot_b, nonce, header, bytes_of(plain, len), type, sealed_b);
    assert_memory_equal(sealed_a, sealed_b, size);
    assert_true(b->open(&slot_b, nonce, header, bytes_of(sealed_a, size), opened));
    assert_memory_equal(opened, plain, len);
    assert_int_equal(opened[len], type);

    /* One bit wrong anywhere: refused, and no plaintext is left lying about. */
    RAND_bytes((uint8_t *)&at, sizeof(at));
    at %= size;
    sealed_a[at] ^= (uint8_t)(1 << (at & 7));
    for (unsigned i = 0; i < NUM_ENGINES; i++) {
        memset(opened, 0xaa, len + 1);
        assert_false((i == 0 ? a : b)
                         ->open(i == 0 ? &slot_a : &slot_b, nonce, header, bytes_of(sealed_a, size),
                                opened));
        for (size_t j = 0; j < len + 1; j++)
            assert_int_equal(opened[j], 0);
    }
    sealed_a[at] ^= (uint8_t)(1 << (at & 7));
    header[at % RECORD_HEADER] ^= 1;
    assert_false(b->open(&slot_b, nonce, header, bytes_of(sealed_a, size), opened));
    mem_free(plain);
    mem_free(sealed_a);
    mem_free(sealed_b);
    mem_free(opened);
}

static void test_engines_agree_on_every_length(void **state)
{
    (void)state;
    print_message("engine for AES-128-GCM here: %s\n", engine_of(1, RECORD_AES_128_GCM)->engine);
    for (unsigned cipher = 0; cipher < RECORD_NUM_CIPHERS; cipher++) {
        for (size_t len = 0; len <= 1100; len++)
            check_engines((enum record_cipher)cipher, len);
        for (size_t len = RECORD_PLAIN_MAX - 40; len <= RECORD_PLAIN_MAX + 255; len++)
            check_engines((enum record_cipher)cipher, len);
    }
}

/* ---- two ends ---- */

/* `us` is under test; `peer` seals and opens by its keys, whatever they are told to. */
static struct {
    struct record *us;
    struct record_key peer_write, peer_read;
    uint8_t *in; /* what the peer has sent */
    size_t in_len, in_pos;
    uint8_t out[4 * RECORD_SEALED_MAX];
    size_t out_len;
    uint8_t alert;
    uint64_t now_ms;
} t;

#define IN_SIZE ((size_t)1 << 20)
#define UPDATES_PER_S 5

static void ends_of(unsigned engine, enum record_cipher cipher, bool server, uint64_t read_seq)
{
    uint8_t secrets[2][48];
    size_t len = cipher == RECORD_AES_256_GCM ? 48 : 32;
    struct record_params params = {
        .aead = engine_of(engine, cipher),
        .read_secret = bytes_of(secrets[0], len),
        .write_secret = bytes_of(secrets[1], len),
        .read_seq = read_seq,
        .server = server,
        .key_update_records = 1000,
        .key_updates_per_s = UPDATES_PER_S,
    };

    memset(&t, 0, sizeof(t));
    t.in = mem_alloc(IN_SIZE);
    t.now_ms = 5000;
    RAND_bytes(secrets[0], sizeof(secrets));
    assert_int_equal(record_new(&params, &t.us).code, E_OK);
    assert_ok(record_key_init(&t.peer_write, engine_of(0, cipher), params.read_secret, read_seq));
    assert_ok(record_key_init(&t.peer_read, engine_of(0, cipher), params.write_secret, 0));
}

static int ends_begin(void **state)
{
    (void)state;
    ends_of(1, RECORD_AES_128_GCM, false, 0);
    return 0;
}

static int ends_end(void **state)
{
    (void)state;
    record_free(t.us);
    assert_int_equal(ERR_peek_error(), 0);
    record_key_fini(&t.peer_read);
    record_key_fini(&t.peer_write);
    for (size_t i = 0; i < sizeof(t.peer_read); i++)
        assert_int_equal(((const uint8_t *)&t.peer_read)[i], 0);
    mem_free(t.in);
    return 0;
}

static void peer_raw(const void *data, size_t len)
{
    assert_true(t.in_len + len <= IN_SIZE);
    memmove(t.in + t.in_len, data, len); /* also of what it sent before */
    t.in_len += len;
}

/* The inner plaintext is `content`, the type, and zeros; of any length, lawful or not. */
static void peer_sends_padded(uint8_t type, const void *content, size_t len, size_t padding)
{
    size_t inner = len + 1 + padding, body = inner + RECORD_TAG;
    uint8_t *plain = mem_zalloc(inner), *at = t.in + t.in_len;
    uint8_t nonce[RECORD_NONCE];
    struct record_slot slot;

    if (len > 0)
        memcpy(plain, content, len);
    plain[len] = type;
    assert_true(t.in_len + RECORD_HEADER + body <= IN_SIZE);
    at[0] = RECORD_TYPE_DATA;
    at[1] = at[2] = 3;
    at[3] = (uint8_t)(body >> 8);
    at[4] = (uint8_t)body;
    memcpy(nonce, t.peer_write.iv, sizeof(nonce));
    for (unsigned i = 0; i < 8; i++)
        nonce[4 + i] ^= (uint8_t)(t.peer_write.seq >> (56 - 8 * i));
    t.peer_write.aead->expand(&slot, t.peer_write.key);
    t.peer_write.aead->seal(&slot, nonce, at, bytes_of(plain, inner - 1), plain[inner - 1],
                            at + RECORD_HEADER);
    t.peer_write.seq++;
    t.in_len += RECORD_HEADER + body;
    mem_free(plain);
}

static void peer_sends(uint8_t type, const void *content, size_t len)
{
    peer_sends_padded(type, content, len, 0);
}

static void peer_says(const char *text)
{
    peer_sends(RECORD_TYPE_DATA, text, strlen(text));
}

static void peer_sends_message(const char *hex)
{
    uint8_t bytes[64];

    peer_sends(RECORD_TYPE_HANDSHAKE, bytes, from_hex(hex, bytes));
}

static void peer_updates(bool requested)
{
    peer_sends_message(requested ? "1800000101" : "1800000100");
    assert_ok(record_key_update(&t.peer_write));
}

/* Opens what has come, at most `step` bytes of input at a time. */
static err_t open_by(size_t step)
{
    err_t err = AGAIN;

    while (t.in_pos < t.in_len && err_is(err, E_AGAIN)) {
        size_t num = t.in_len - t.in_pos < step ? t.in_len - t.in_pos : step, got;
        struct bytes in = bytes_of(t.in + t.in_pos, num);

        err = record_open(t.us, t.now_ms, &in, t.out + t.out_len, sizeof(t.out) - t.out_len, &got,
                          &t.alert);
        t.out_len += got;
        t.in_pos += num - in.len;
        if (err_is(err, E_AGAIN))
            assert_int_equal(in.len, 0);
    }
    return err;
}

static void expect_text(const char *text)
{
    assert_int_equal(t.out_len, strlen(text));
    assert_memory_equal(t.out, text, t.out_len);
    t.out_len = 0;
}

static void expect_error(enum err_code code, int sub, int alert)
{
    struct bytes more = bytes_of("x", 1);
    size_t got;
    err_t err = open_by(IN_SIZE);

    assert_int_equal(err.code, code);
    assert_int_equal(err.sub, sub);
    assert_int_equal(t.alert, alert);
    /* It stays so, and the alert is not sent twice. */
    err = record_open(t.us, t.now_ms, &more, t.out, sizeof(t.out), &got, &t.alert);
    assert_int_equal(err.code, code);
    assert_int_equal(t.alert, 0);
    assert_int_equal(got, 0);
}

/* A longer key before a shorter one in the same slot: nothing of it is left when both are gone. */
static void test_no_tail_of_a_longer_key_is_left(void **state)
{
    (void)state;
    for (unsigned engine = 0; engine < NUM_ENGINES; engine++) {
        struct record_key a, b;
        uint8_t secret[48] = {1}, sealed[RECORD_OVERHEAD + 1];
        struct record_slot fresh_slot;
        const struct record_slot *slot;

        assert_ok(
            record_key_init(&a, engine_of(engine, RECORD_AES_256_GCM), bytes_of(secret, 48), 0));
        assert_ok(
            record_key_init(&b, engine_of(engine, RECORD_AES_128_GCM), bytes_of(secret, 32), 0));
        memset(&fresh_slot, 0, sizeof(fresh_slot));
        b.aead->expand(&fresh_slot, b.key);
        record_key_seal(&a, RECORD_TYPE_DATA, bytes_of("x", 1), sealed);
        record_key_seal(&b, RECORD_TYPE_DATA, bytes_of("x", 1), sealed);
        slot = record_key_slot_of_sealing();
        assert_memory_equal(slot, &fresh_slot, sizeof(fresh_slot));
        record_key_fini(&a);
        record_key_fini(&b);
        for (size_t i = 0; i < sizeof(*slot); i++)
            assert_int_equal(slot->bytes[i], 0);
    }
}

struct successor {
    struct record_key *key;
    const uint8_t *secret;
    unsigned engine;
    bool ok;
};

/* Another thread ends the key; the next one comes to lie at the same place. */
static void *succeed(void *arg)
{
    struct successor *next = arg;

    record_key_fini(next->key);
    next->ok = err_is_ok(record_key_init(next->key, engine_of(next->engine, RECORD_AES_128_GCM),
                                         bytes_of(next->secret, 32), 0));
    return NULL;
}

static void test_a_key_that_another_thread_replaced(void **state)
{
    static const uint8_t first[32] = {1}, second[32] = {2};
    uint8_t sealed[100 + RECORD_OVERHEAD], opened[101], plain[100] = {7};

    (void)state;
    for (unsigned engine = 0; engine < NUM_ENGINES; engine++) {
        struct record_key key, peer;
        struct successor next = {&key, second, engine, false};
        pthread_t thread;

        assert_ok(record_key_init(&key, engine_of(engine, RECORD_AES_128_GCM),
                                  bytes_of(first, sizeof(first)), 0));
        record_key_seal(&key, RECORD_TYPE_DATA, bytes_of(plain, sizeof(plain)), sealed);
        assert_int_equal(pthread_create(&thread, NULL, succeed, &next), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_true(next.ok);
        record_key_seal(&key, RECORD_TYPE_DATA, bytes_of(plain, sizeof(plain)), sealed);
        assert_ok(record_key_init(&peer, engine_of(engine, RECORD_AES_128_GCM),
                                  bytes_of(second, sizeof(second)), 0));
        assert_true(record_key_open(&peer, bytes_of(sealed, sizeof(sealed)), opened));
        assert_memory_equal(opened, plain, sizeof(plain));
        record_key_fini(&key);
        record_key_fini(&peer);
    }
}

static void test_input_may_be_cut_anywhere(void **state)
{
    (void)state;
    for (unsigned cipher = 0; cipher < RECORD_NUM_CIPHERS; cipher++) {
        for (unsigned engine = 0; engine < NUM_ENGINES; engine++) {
            for (size_t step = 1; step < 80; step++) {
                (void)ends_end(state);
                ends_of(engine, (enum record_cipher)cipher, false, 0);
                peer_says("one");
                peer_updates(false);
                peer_sends_padded(RECORD_TYPE_DATA, "two", 3, 20);
                peer_says("three");
                assert_int_equal(open_by(step).code, E_AGAIN);
                expect_text("onetwothree");
            }
        }
    }
}

static bool no_memory;

void *__real_mem_try_alloc(size_t size);
void *__wrap_mem_try_alloc(size_t size);

void *__wrap_mem_try_alloc(size_t size)
{
    return no_memory ? NULL : __real_mem_try_alloc(size);
}

/* The rest of a record is to come, and there is no room for its beginning. */
static void test_no_memory_for_a_part_of_a_record(void **state)
{
    uint8_t out[RECORD_SEALED_MAX], alert;
    struct bytes in;
    size_t len;

    (void)state;
    peer_says("never seen");
    no_memory = true;
    in = bytes_of(t.in, 10);
    assert_int_equal(record_open(t.us, t.now_ms, &in, out, sizeof(out), &len, &alert).code,
                     E_NO_MEMORY);
    assert_int_equal(alert, SSL_AD_INTERNAL_ERROR);
    no_memory = false;
    in = bytes_of(t.in + 10, t.in_len - 10); /* it is over, whatever comes */
    assert_int_equal(record_open(t.us, t.now_ms, &in, out, sizeof(out), &len, &alert).code,
                     E_NO_MEMORY);
    assert_int_equal(len, 0);
    assert_int_equal(alert, 0);
}

static void test_what_we_seal_opens_at_the_peer(void **state)
{
    static const size_t lens[] = {1,     2,     15,    16,    17,    255,   1400,
                                  16383, 16384, 16385, 32768, 40000, 262144};

    (void)state;
    for (unsigned cipher = 0; cipher < RECORD_NUM_CIPHERS; cipher++) {
        (void)ends_end(state);
        ends_of(1, (enum record_cipher)cipher, false, 0);
        for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
            size_t size = record_seal_max(lens[i]), pos = 0, done = 0, sealed;
            uint8_t *data = mem_alloc(lens[i]), *out = mem_alloc(size);
            uint8_t opened[RECORD_SEALED_MAX];

            RAND_bytes(data, lens[i]);
            assert_ok(record_seal(t.us, bytes_of(data, lens[i]), out, &sealed));
            assert_true(sealed <= size);
            while (pos < sealed) {
                size_t len = (size_t)out[pos + 3] << 8 | out[pos + 4];
                size_t content = len - RECORD_TAG - 1;

                assert_true(record_key_open(&t.peer_read, bytes_of(out + pos, RECORD_HEADER + len),
                                            opened));
                assert_int_equal(opened[content], RECORD_TYPE_DATA);
                assert_memory_equal(opened, data + done, content);
                done += content;
                pos += RECORD_HEADER + len;
            }
            assert_int_equal(done, lens[i]);
            mem_free(data);
            mem_free(out);
        }
    }
}

static void test_padding_is_taken_off(void **state)
{
    static uint8_t most[RECORD_PLAIN_MAX];

    (void)state;
    peer_sends_padded(RECORD_TYPE_DATA, "a", 1, 1);
    peer_sends_padded(RECORD_TYPE_DATA, "b\0\0", 3, 100); /* zeros before the type are content */
    peer_sends_padded(RECORD_TYPE_DATA, "c", 1, RECORD_PLAIN_MAX - 1);
    assert_int_equal(open_by(IN_SIZE).code, E_AGAIN);
    assert_int_equal(t.out_len, 5);
    assert_memory_equal(t.out, "ab\0\0c", 5);
    /* The most there may be, and one more. */
    peer_sends(RECORD_TYPE_DATA, most, sizeof(most));
    assert_int_equal(open_by(IN_SIZE).code, E_AGAIN);
    assert_int_equal(t.out_len, 5 + sizeof(most));
    peer_sends_padded(RECORD_TYPE_DATA, "d", 1, RECORD_PLAIN_MAX);
    expect_error(E_TLS_PROTOCOL, SSL_R_DATA_LENGTH_TOO_LONG, SSL_AD_RECORD_OVERFLOW);
}

static void test_nothing_but_padding_is_refused(void **state)
{
    (void)state;
    peer_sends_padded(0, "", 0, 10);
    expect_error(E_TLS_PROTOCOL, SSL_R_UNEXPECTED_RECORD, SSL_AD_UNEXPECTED_MESSAGE);
}

/* An authentic record with nothing inside, not even a type: only the tag, which another
 * implementation of GCM makes for us. */
static void test_nothing_at_all_is_refused_if_authentic(void **state)
{
    for (unsigned cipher = 0; cipher < RECORD_NUM_CIPHERS; cipher++) {
        for (unsigned engine = 0; engine < NUM_ENGINES; engine++) {
            const EVP_AEAD *const aeads[] = {EVP_aead_aes_128_gcm(), EVP_aead_aes_256_gcm(),
                                             EVP_aead_chacha20_poly1305()};
            uint8_t record[RECORD_HEADER + RECORD_TAG] = {0x17, 3, 3, 0, RECORD_TAG};
            EVP_AEAD_CTX ctx;
            size_t len;

            for (unsigned damaged = 0; damaged < 2; damaged++) {
                (void)ends_end(state);
                ends_of(engine, (enum record_cipher)cipher, false, 0);
                assert_int_equal(EVP_AEAD_CTX_init(&ctx, aeads[cipher], t.peer_write.key,
                                                   EVP_AEAD_key_length(aeads[cipher]), RECORD_TAG,
                                                   NULL),
                                 1);
                assert_int_equal(EVP_AEAD_CTX_seal(&ctx, record + RECORD_HEADER, &len, RECORD_TAG,
                                                   t.peer_write.iv, RECORD_NONCE, NULL, 0, record,
                                                   RECORD_HEADER),
                                 1);
                EVP_AEAD_CTX_cleanup(&ctx);
                record[RECORD_HEADER] ^= (uint8_t)damaged;
                peer_raw(record, sizeof(record));
                if (damaged)
                    expect_error(E_TLS_PROTOCOL, SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC,
                                 SSL_AD_BAD_RECORD_MAC);
                else
                    expect_error(E_TLS_PROTOCOL, SSL_R_UNEXPECTED_RECORD,
                                 SSL_AD_UNEXPECTED_MESSAGE);
            }
        }
    }
}

static void test_full_output_stops_and_goes_on(void **state)
{
    static uint8_t data[RECORD_PLAIN_MAX];
    struct bytes in;
    uint8_t *small = mem_alloc(RECORD_SEALED_MAX), alert;
    size_t got, total = 0, num_full = 0;
    err_t err;

    (void)state;
    for (int i = 0; i < 10; i++)
        peer_sends(RECORD_TYPE_DATA, data, i % 2 == 0 ? sizeof(data) : 100);
    in = bytes_of(t.in, t.in_len);
    do {
        err = record_open(t.us, t.now_ms, &in, small, RECORD_SEALED_MAX, &got, &alert);
        total += got;
        num_full += err_is_ok(err);
        assert_true(got <= RECORD_SEALED_MAX);
    } while (err_is_ok(err));
    assert_int_equal(err.code, E_AGAIN);
    assert_int_equal(total, 5 * sizeof(data) + 500);
    assert_in_range(num_full, 4, 10);
    mem_free(small);
}

/* ---- headers ---- */

static void test_wrong_headers_are_refused_before_their_body(void **state)
{
    static const struct {
        const char *header;
        int reason, alert;
    } cases[] = {
        {"\x17\x03\x01\x00\x20", SSL_R_WRONG_VERSION_NUMBER, SSL_AD_PROTOCOL_VERSION},
        {"\x17\x03\x04\x00\x20", SSL_R_WRONG_VERSION_NUMBER, SSL_AD_PROTOCOL_VERSION},
        {"HTTP/", SSL_R_WRONG_VERSION_NUMBER, SSL_AD_PROTOCOL_VERSION},
        {"\x15\x03\x03\x00\x02", SSL_R_INVALID_OUTER_RECORD_TYPE, SSL_AD_UNEXPECTED_MESSAGE},
        {"\x14\x03\x03\x00\x01", SSL_R_INVALID_OUTER_RECORD_TYPE, SSL_AD_UNEXPECTED_MESSAGE},
        {"\x16\x03\x03\x00\x20", SSL_R_INVALID_OUTER_RECORD_TYPE, SSL_AD_UNEXPECTED_MESSAGE},
        {"\x17\x03\x03\x41\x01", SSL_R_ENCRYPTED_LENGTH_TOO_LONG, SSL_AD_RECORD_OVERFLOW},
        {"\x17\x03\x03\xff\xff", SSL_R_ENCRYPTED_LENGTH_TOO_LONG, SSL_AD_RECORD_OVERFLOW},
        {"\x17\x03\x03\x00\x0f", SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, SSL_AD_BAD_RECORD_MAC},
        {"\x17\x03\x03\x00\x00", SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, SSL_AD_BAD_RECORD_MAC},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        (void)ends_end(state);
        (void)ends_begin(state);
        peer_says("good");
        peer_raw(cases[i].header, 5);
        expect_error(E_TLS_PROTOCOL, cases[i].reason, cases[i].alert);
        expect_text("good");
        /* The same byte by byte. */
        (void)ends_end(state);
        (void)ends_begin(state);
        peer_raw(cases[i].header, 4);
        assert_int_equal(open_by(1).code, E_AGAIN);
        peer_raw(cases[i].header + 4, 1);
        expect_error(E_TLS_PROTOCOL, cases[i].reason, cases[i].alert);
    }
}

static void test_damage_is_refused(void **state)
{
    for (size_t at = RECORD_HEADER; at < RECORD_HEADER + 5 + 1 + RECORD_TAG; at++) {
        (void)ends_end(state);
        (void)ends_begin(state);
        peer_says("fine.");
        peer_says("wrong");
        t.in[RECORD_OVERHEAD + 5 + at] ^= 0x40;
        expect_error(E_TLS_PROTOCOL, SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC,
                     SSL_AD_BAD_RECORD_MAC);
        expect_text("fine.");
    }
    /* A record twice, and one left out. */
    (void)ends_end(state);
    (void)ends_begin(state);
    peer_says("once");
    peer_raw(t.in, t.in_len);
    expect_error(E_TLS_PROTOCOL, SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, SSL_AD_BAD_RECORD_MAC);
    (void)ends_end(state);
    (void)ends_begin(state);
    peer_says("lost");
    t.in_len = 0;
    peer_says("next");
    expect_error(E_TLS_PROTOCOL, SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, SSL_AD_BAD_RECORD_MAC);
}

static void test_record_numbers_do_not_wrap(void **state)
{
    (void)ends_end(state);
    ends_of(1, RECORD_AES_128_GCM, false, UINT64_MAX - 1);
    peer_says("last");
    assert_int_equal(open_by(IN_SIZE).code, E_AGAIN);
    expect_text("last");
    peer_raw("\x17\x03\x03\x00\x20", 5);
    peer_raw(t.in, 0x20);
    expect_error(E_TLS_PROTOCOL, ERR_R_OVERFLOW, SSL_AD_INTERNAL_ERROR);
}

/* ---- alerts ---- */

static void test_alerts(void **state)
{
    uint8_t alert[3] = {SSL3_AL_FATAL, 0, 0};

    peer_says("bye");
    peer_sends(RECORD_TYPE_ALERT, "\1\0", 2);
    peer_says("not looked at");
    expect_error(E_CLOSED, 0, 0);
    expect_text("bye");
    for (int code = 1; code < 256; code++) {
        (void)ends_end(state);
        (void)ends_begin(state);
        alert[0] = code % 2 != 0 || code == SSL_AD_USER_CANCELLED ? SSL3_AL_FATAL : SSL3_AL_WARNING;
        alert[1] = (uint8_t)code;
        peer_sends(RECORD_TYPE_ALERT, alert, 2);
        expect_error(E_TLS_ALERT, code, 0);
    }
    for (size_t len = 0; len <= 3; len += len == 1 ? 2 : 1) {
        (void)ends_end(state);
        (void)ends_begin(state);
        peer_sends(RECORD_TYPE_ALERT, alert, len);
        expect_error(E_TLS_PROTOCOL, SSL_R_BAD_ALERT,
                     len == 0 ? SSL_AD_UNEXPECTED_MESSAGE : SSL_AD_DECODE_ERROR);
    }
    (void)ends_end(state);
    (void)ends_begin(state);
    peer_sends(RECORD_TYPE_ALERT, "\1\x5a", 2); /* user_canceled */
    peer_says("still here");
    assert_int_equal(open_by(IN_SIZE).code, E_AGAIN);
    expect_text("still here");
}

static void test_our_alerts(void **state)
{
    uint8_t out[RECORD_ALERT_SIZE], opened[3];

    (void)state;
    record_seal_alert(t.us, SSL_AD_CLOSE_NOTIFY, out);
    assert_true(record_key_open(&t.peer_read, bytes_of(out, sizeof(out)), opened));
    assert_memory_equal(opened, "\1\0\x15", 3);
    record_seal_alert(t.us, SSL_AD_BAD_RECORD_MAC, out);
    assert_true(record_key_open(&t.peer_read, bytes_of(out, sizeof(out)), opened));
    assert_memory_equal(opened, "\2\x14\x15", 3);
}

/* ---- messages behind the handshake ---- */

static void test_tickets_are_passed_over(void **state)
{
    static const char ticket[] = "\4\0\0\6abcdef";

    (void)state;
    for (unsigned i = 0; i < 2; i++)
        peer_sends(RECORD_TYPE_HANDSHAKE, ticket, 10);
    for (unsigned i = 0; i < 10; i++) /* a byte a record */
        peer_sends(RECORD_TYPE_HANDSHAKE, ticket + i, 1);
    peer_sends(RECORD_TYPE_HANDSHAKE, "\4\0\0\1x\4\0\0\1y\4\0", 12); /* two and a half in one */
    peer_sends(RECORD_TYPE_HANDSHAKE, "\0\1z", 3);
    peer_says("data");
    assert_int_equal(open_by(IN_SIZE).code, E_AGAIN);
    expect_text("data");
}

static void test_a_server_takes_no_tickets(void **state)
{
    (void)ends_end(state);
    ends_of(1, RECORD_AES_128_GCM, true, 0);
    peer_sends_message("04000001aa");
    expect_error(E_TLS_PROTOCOL, SSL_R_UNEXPECTED_MESSAGE, SSL_AD_UNEXPECTED_MESSAGE);
}

static void test_wrong_messages_are_refused(void **state)
{
    static const struct {
        const char *message;
        int reason, alert;
    } cases[] = {
        {"0d00000100", SSL_R_UNEXPECTED_MESSAGE,
         SSL_AD_UNEXPECTED_MESSAGE}, /* CertificateRequest */
        {"0100000100", SSL_R_UNEXPECTED_MESSAGE, SSL_AD_UNEXPECTED_MESSAGE}, /* ClientHello */
        {"1400000100", SSL_R_UNEXPECTED_MESSAGE, SSL_AD_UNEXPECTED_MESSAGE}, /* Finished */
        {"0400000000", SSL_R_DECODE_ERROR, SSL_AD_DECODE_ERROR},             /* empty ticket */
        {"04004001", SSL_R_EXCESSIVE_MESSAGE_SIZE, SSL_AD_ILLEGAL_PARAMETER},
        {"04ffffff", SSL_R_EXCESSIVE_MESSAGE_SIZE, SSL_AD_ILLEGAL_PARAMETER},
        {"18000000", SSL_R_DECODE_ERROR, SSL_AD_DECODE_ERROR}, /* KeyUpdate of no byte */
        {"180000020000", SSL_R_DECODE_ERROR, SSL_AD_DECODE_ERROR},
        {"1800000102", SSL_R_DECODE_ERROR, SSL_AD_ILLEGAL_PARAMETER},
        {"18000001001800000100", SSL_R_EXCESS_HANDSHAKE_DATA, SSL_AD_UNEXPECTED_MESSAGE},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        (void)ends_end(state);
        (void)ends_begin(state);
        peer_sends_message(cases[i].message);
        expect_error(E_TLS_PROTOCOL, cases[i].reason, cases[i].alert);
    }
    /* No bytes at all. */
    (void)ends_end(state);
    (void)ends_begin(state);
    peer_sends(RECORD_TYPE_HANDSHAKE, "", 0);
    expect_error(E_TLS_PROTOCOL, SSL_R_UNEXPECTED_RECORD, SSL_AD_UNEXPECTED_MESSAGE);
    /* Data between the parts of a message. */
    (void)ends_end(state);
    (void)ends_begin(state);
    peer_sends(RECORD_TYPE_HANDSHAKE, "\4\0", 2);
    peer_says("between");
    expect_error(E_TLS_PROTOCOL, SSL_R_UNEXPECTED_RECORD, SSL_AD_UNEXPECTED_MESSAGE);
    /* And not even the end. */
    (void)ends_end(state);
    (void)ends_begin(state);
    peer_sends(RECORD_TYPE_HANDSHAKE, "\4\0", 2);
    peer_sends(RECORD_TYPE_ALERT, "\1\0", 2);
    expect_error(E_TLS_PROTOCOL, SSL_R_UNEXPECTED_RECORD, SSL_AD_UNEXPECTED_MESSAGE);
    /* Types that there are not. */
    for (int type = 1; type < 256; type++) {
        if (type >= RECORD_TYPE_ALERT && type <= RECORD_TYPE_DATA)
            continue;
        (void)ends_end(state);
        (void)ends_begin(state);
        peer_sends((uint8_t)type, "x", 1);
        expect_error(E_TLS_PROTOCOL, SSL_R_UNEXPECTED_RECORD, SSL_AD_UNEXPECTED_MESSAGE);
    }
}

static void test_records_without_data_are_limited(void **state)
{
    for (unsigned kind = 0; kind < 2; kind++) {
        (void)ends_end(state);
        (void)ends_begin(state);
        for (unsigned round = 0; round < 2; round++) {
            for (unsigned i = 0; i < RECORD_DATALESS_MAX; i++) {
                if (kind == 0)
                    peer_says("");
                else
                    peer_sends(RECORD_TYPE_ALERT, "\1\x5a", 2);
                peer_sends_message("04000001aa"); /* tickets are not counted */
            }
            assert_int_equal(open_by(IN_SIZE).code, E_AGAIN);
            if (round == 0)
                peer_says("data"); /* counts anew */
        }
        assert_int_equal(open_by(IN_SIZE).code, E_AGAIN);
        peer_says("");
        expect_error(E_TLS_PROTOCOL, SSL_R_TOO_MANY_EMPTY_FRAGMENTS, SSL_AD_UNEXPECTED_MESSAGE);
    }
}

/* ---- key updates ---- */

static void test_peer_updates_its_key_so_often_a_second(void **state)
{
    (void)state;
    for (unsigned second = 0; second < 3; second++) {
        for (unsigned i = 0; i < UPDATES_PER_S; i++) {
            peer_updates(false);
            peer_says(".");
        }
        assert_int_equal(open_by(IN_SIZE).code, E_AGAIN);
        expect_text(".....");
        t.now_ms += 1000;
    }
    for (unsigned i = 0; i < UPDATES_PER_S; i++)
        peer_updates(false);
    assert_int_equal(open_by(IN_SIZE).code, E_AGAIN);
    t.now_ms += 999;
    peer_updates(false);
    expect_error(E_TLS_KEY_UPDATES, UPDATES_PER_S + 1, SSL_AD_UNEXPECTED_MESSAGE);
}

static void test_key_updates_without_data_are_limited(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < RECORD_DATALESS_MAX; i++) {
            t.now_ms += 1000;
            peer_updates(false);
            assert_int_equal(open_by(IN_SIZE).code, E_AGAIN);
        }
        if (round == 0)
            peer_says("x");
    }
    t.now_ms += 1000;
    peer_updates(false);
    expect_error(E_TLS_KEY_UPDATES, 1, SSL_AD_UNEXPECTED_MESSAGE);
}

/* The type of the first record that we seal for one byte of data, and its length. */
static uint8_t first_type(size_t *out_pos)
{
    uint8_t out[200], opened[100];
    size_t sealed, pos = 0;
    uint8_t first = 0;

    assert_ok(record_seal(t.us, bytes_of("x", 1), out, &sealed));
    assert_true(sealed <= record_seal_max(1) && sealed <= sizeof(out));
    while (pos < sealed) {
        size_t len = (size_t)out[pos + 3] << 8 | out[pos + 4];

        assert_true(
            record_key_open(&t.peer_read, bytes_of(out + pos, RECORD_HEADER + len), opened));
        if (pos == 0)
            first = opened[len - RECORD_TAG - 1];
        if (opened[len - RECORD_TAG - 1] == RECORD_TYPE_HANDSHAKE) {
            assert_memory_equal(opened, "\x18\0\0\1\0", 5);
            assert_ok(record_key_update(&t.peer_read));
        }
        pos += RECORD_HEADER + len;
    }
    *out_pos = pos;
    return first;
}

static void test_requests_for_our_key_update_are_answered_once(void **state)
{
    size_t len;

    (void)state;
    assert_int_equal(first_type(&len), RECORD_TYPE_DATA);
    peer_updates(true);
    peer_updates(true);
    peer_says("a");
    assert_int_equal(open_by(IN_SIZE).code, E_AGAIN);
    assert_int_equal(first_type(&len), RECORD_TYPE_HANDSHAKE);
    assert_int_equal(first_type(&len), RECORD_TYPE_DATA);
    peer_updates(false);
    peer_says("b");
    assert_int_equal(open_by(IN_SIZE).code, E_AGAIN);
    assert_int_equal(first_type(&len), RECORD_TYPE_DATA);
    expect_text("ab");
}

static void test_our_key_changes_after_so_many_records(void **state)
{
    size_t len;

    (void)state;
    for (unsigned i = 0; i < 3003; i++)
        assert_int_equal(first_type(&len), i == 1000 || i == 2000 || i == 3000
                                               ? RECORD_TYPE_HANDSHAKE
                                               : RECORD_TYPE_DATA);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, ends_begin, ends_end)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors_of_rfc_8448),
        cmocka_unit_test(test_engines_agree_on_every_length),
        cmocka_unit_test(test_no_tail_of_a_longer_key_is_left),
        cmocka_unit_test(test_a_key_that_another_thread_replaced),
        TEST(test_input_may_be_cut_anywhere),
        TEST(test_no_memory_for_a_part_of_a_record),
        TEST(test_what_we_seal_opens_at_the_peer),
        TEST(test_padding_is_taken_off),
        TEST(test_nothing_but_padding_is_refused),
        TEST(test_nothing_at_all_is_refused_if_authentic),
        TEST(test_full_output_stops_and_goes_on),
        TEST(test_wrong_headers_are_refused_before_their_body),
        TEST(test_damage_is_refused),
        TEST(test_record_numbers_do_not_wrap),
        TEST(test_alerts),
        TEST(test_our_alerts),
        TEST(test_tickets_are_passed_over),
        TEST(test_a_server_takes_no_tickets),
        TEST(test_wrong_messages_are_refused),
        TEST(test_records_without_data_are_limited),
        TEST(test_peer_updates_its_key_so_often_a_second),
        TEST(test_key_updates_without_data_are_limited),
        TEST(test_requests_for_our_key_update_are_answered_once),
        TEST(test_our_key_changes_after_so_many_records),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
