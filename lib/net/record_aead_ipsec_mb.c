#include "lib/net/record_aead.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <intel-ipsec-mb.h>
#include <pthread.h>

#include <openssl/mem.h>

/* The library's manager would link 12 MB and touch 3 MB in its self-test. So the functions are
 * called by name; they are in the static library and not in its header: its version is pinned by
 * Debian 12 (third_party/README.md), and record_test compares every one with BoringSSL's. */
typedef const struct gcm_key_data *imb_key;
typedef struct gcm_context_data *imb_ctx;

#define IMB_DECLARE(bits)                                                                         \
    void aes_keyexp_##bits##_enc_avx512(const void *key, void *out_expanded);                     \
    void aes_gcm_precomp_##bits##_vaes_avx512(struct gcm_key_data *key);                          \
    void aes_gcm_init_##bits##_vaes_avx512(imb_key key, imb_ctx ctx, const uint8_t *nonce,        \
                                           const uint8_t *aad, uint64_t aad_len);                 \
    void aes_gcm_enc_##bits##_update_vaes_avx512(imb_key key, imb_ctx ctx, uint8_t *out,          \
                                                 const uint8_t *in, uint64_t len);                \
    void aes_gcm_enc_##bits##_finalize_vaes_avx512(imb_key key, imb_ctx ctx, uint8_t *tag,        \
                                                   uint64_t tag_len);                             \
    void aes_gcm_dec_##bits##_vaes_avx512(imb_key key, imb_ctx ctx, uint8_t *out,                 \
                                          const uint8_t *in, uint64_t len, const uint8_t *nonce,  \
                                          const uint8_t *aad, uint64_t aad_len, uint8_t *out_tag, \
                                          uint64_t tag_len)
IMB_DECLARE(128);
IMB_DECLARE(256);

_Static_assert(IMB_VERSION_NUM == IMB_VERSION(1, 3, 0), "the functions above are this version's");
_Static_assert(sizeof(struct gcm_key_data) <= sizeof(struct record_slot), "a key fits its slot");
_Static_assert(_Alignof(struct gcm_key_data) <= _Alignof(struct record_slot), "and its alignment");

static imb_key imb_key_of(const struct record_slot *slot)
{
    return (imb_key)(const void *)slot->bytes;
}

/* The library does not compare tags: it says which one is right. Until then the output is not to be
 * looked at. */
static bool imb_is_authentic(uint8_t *tag, struct bytes sealed, uint8_t *out)
{
    size_t len = sealed.len - RECORD_TAG;

    if (CRYPTO_memcmp(tag, sealed.ptr + len, RECORD_TAG) == 0)
        return true;
    OPENSSL_cleanse(out, len);
    OPENSSL_cleanse(tag, RECORD_TAG); /* what would have been right */
    return false;
}

#define IMB_DEFINE(bits)                                                                        \
    static void imb_expand_##bits(struct record_slot *slot, const uint8_t *key)                 \
    {                                                                                           \
        struct gcm_key_data *data = (struct gcm_key_data *)(void *)slot->bytes;                 \
                                                                                                \
        aes_keyexp_##bits##_enc_avx512(key, data);                                              \
        aes_gcm_precomp_##bits##_vaes_avx512(data);                                             \
    }                                                                                           \
                                                                                                \
    static void imb_seal_##bits(const struct record_slot *slot, const uint8_t *nonce,           \
                                const uint8_t *header, struct bytes plain, uint8_t type,        \
                                uint8_t *out)                                                   \
    {                                                                                           \
        imb_key key = imb_key_of(slot);                                                         \
        struct gcm_context_data ctx;                                                            \
                                                                                                \
        aes_gcm_init_##bits##_vaes_avx512(key, &ctx, nonce, header, RECORD_HEADER);             \
        if (plain.len > 0)                                                                      \
            aes_gcm_enc_##bits##_update_vaes_avx512(key, &ctx, out, plain.ptr, plain.len);      \
        aes_gcm_enc_##bits##_update_vaes_avx512(key, &ctx, out + plain.len, &type, 1);          \
        aes_gcm_enc_##bits##_finalize_vaes_avx512(key, &ctx, out + plain.len + 1, RECORD_TAG);  \
        OPENSSL_cleanse(&ctx, sizeof(ctx)); /* a block of key stream */                         \
    }                                                                                           \
                                                                                                \
    static bool imb_open_##bits(const struct record_slot *slot, const uint8_t *nonce,           \
                                const uint8_t *header, struct bytes sealed, uint8_t *out)       \
    {                                                                                           \
        struct gcm_context_data ctx;                                                            \
        uint8_t tag[RECORD_TAG];                                                                \
                                                                                                \
        aes_gcm_dec_##bits##_vaes_avx512(imb_key_of(slot), &ctx, out, sealed.ptr,               \
                                         sealed.len - RECORD_TAG, nonce, header, RECORD_HEADER, \
                                         tag, RECORD_TAG);                                      \
        OPENSSL_cleanse(&ctx, sizeof(ctx));                                                     \
        return imb_is_authentic(tag, sealed, out);                                              \
    }
IMB_DEFINE(128)
IMB_DEFINE(256)

/* VAES, VPCLMULQDQ and the AVX-512 of servers since 2019, with an operating system that saves their
 * registers (Intel SDM volume 1, section 15.2). */
static bool imb_cpu_has_vaes(void)
{
    const unsigned ebx_need = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    const unsigned ecx_need = bit_VAES | bit_VPCLMULQDQ;
    const unsigned xcr0_need = 0xe6; /* SSE, AVX, opmask, both halves of ZMM */
    unsigned eax, ebx, ecx, edx, xcr0, high;

    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_OSXSAVE) == 0)
        return false;
    __asm__("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    if ((xcr0 & xcr0_need) != xcr0_need || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0)
        return false;
    return (ebx & ebx_need) == ebx_need && (ecx & ecx_need) == ecx_need;
}

static bool imb_usable;

static void imb_look_at_cpu(void)
{
    imb_usable = imb_cpu_has_vaes();
}

const struct record_aead *record_aead_ipsec_mb(enum record_cipher cipher)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT; /* CPUID is slow in a virtual machine */
    static const struct record_aead aes_128 = {"ipsec-mb", 16, imb_expand_128, imb_seal_128,
                                               imb_open_128};
    static const struct record_aead aes_256 = {"ipsec-mb", 32, imb_expand_256, imb_seal_256,
                                               imb_open_256};

    (void)pthread_once(&once, imb_look_at_cpu);
    if (cipher == RECORD_CHACHA20_POLY1305 || !imb_usable)
        return NULL;
    return cipher == RECORD_AES_128_GCM ? &aes_128 : &aes_256;
}

#else

const struct record_aead *record_aead_ipsec_mb(enum record_cipher cipher)
{
    (void)cipher;
    return NULL;
}

#endif
