/* flags: those of bssl_shim's command line that our shim knows, by one table. */
#ifndef MORTISE_TEST_INTEROP_BOGO_FLAGS_H
#define MORTISE_TEST_INTEROP_BOGO_FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/net/tls.h"

#define FLAGS_LIST_MAX 32

struct flags_list {
    uint16_t items[FLAGS_LIST_MAX];
    size_t num;
};

struct flags {
    bool is_handshaker_supported; /* asked by the runner before anything else; the answer is no */
    uint16_t port;                /* of the runner, on the loopback */
    const char *shim_id;          /* newer runners: a number sent first, 8 bytes little-endian */
    bool ipv6;                    /* tried first in any case */
    bool server;
    const char *key_file, *cert_file;
    bool async;               /* input comes one byte at a time */
    enum tls_records records; /* -records auto, portable or library: the one flag of our own */
    /* What may be negotiated. */
    uint16_t min_version, max_version;
    bool no_tls1, no_tls11, no_tls12, no_tls13;
    const char *cipher;
    bool server_preference;
    struct flags_list curves, verify_prefs, signing_prefs;
    const char *host_name;
    const char *advertise_alpn, *select_alpn;
    uint16_t max_cert_list;
    bool enable_grease, permute_extensions;
    bool no_ticket;
    bool use_custom_verify_callback; /* as always */
    const char *trust_cert;          /* newer runners; every chain is taken but with -verify-fail */
    bool verify_peer, require_any_client_certificate, verify_fail;
    /* What must have been negotiated; 0 and NULL: anything. */
    uint16_t expect_version, expect_curve_id, expect_peer_signature_algorithm;
    const char *expect_alpn, *expect_server_name;
    bool expect_hrr, expect_no_hrr;
    const char *expect_msg_callback; /* not looked at: the callback is the stream's own */
    /* What is done then. The default is to send back each byte inverted until the peer's end. */
    bool shim_writes_first, shim_shuts_down, check_close_notify, key_update;
    bool write_different_record_sizes;
};

/* flags_parse reads a command line into zeroed `out`, which borrows it. Returns NULL, or the
 * argument that it does not know. */
const char *flags_parse(int num, char **args, struct flags *out);

#endif
