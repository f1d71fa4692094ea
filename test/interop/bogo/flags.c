#include "test/interop/bogo/flags.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"

enum flag_kind { FLAG_BOOL, FLAG_NUMBER, FLAG_TEXT, FLAG_LIST, FLAG_RECORDS };

struct flag {
    const char *name;
    enum flag_kind kind;
    size_t at;
};

#define FLAG(name, kind, member)                          \
    {                                                     \
        name, FLAG_##kind, offsetof(struct flags, member) \
    }

static const struct flag flag_rows[] = {
    FLAG("-is-handshaker-supported", BOOL, is_handshaker_supported),
    FLAG("-port", NUMBER, port),
    FLAG("-shim-id", TEXT, shim_id),
    FLAG("-ipv6", BOOL, ipv6),
    FLAG("-server", BOOL, server),
    FLAG("-key-file", TEXT, key_file),
    FLAG("-cert-file", TEXT, cert_file),
    FLAG("-async", BOOL, async),
    FLAG("-records", RECORDS, records),
    FLAG("-min-version", NUMBER, min_version),
    FLAG("-max-version", NUMBER, max_version),
    FLAG("-no-tls1", BOOL, no_tls1),
    FLAG("-no-tls11", BOOL, no_tls11),
    FLAG("-no-tls12", BOOL, no_tls12),
    FLAG("-no-tls13", BOOL, no_tls13),
    FLAG("-cipher", TEXT, cipher),
    FLAG("-server-preference", BOOL, server_preference),
    FLAG("-curves", LIST, curves),
    FLAG("-verify-prefs", LIST, verify_prefs),
    FLAG("-signing-prefs", LIST, signing_prefs),
    FLAG("-host-name", TEXT, host_name),
    FLAG("-advertise-alpn", TEXT, advertise_alpn),
    FLAG("-select-alpn", TEXT, select_alpn),
    FLAG("-max-cert-list", NUMBER, max_cert_list),
    FLAG("-enable-grease", BOOL, enable_grease),
    FLAG("-permute-extensions", BOOL, permute_extensions),
    FLAG("-no-ticket", BOOL, no_ticket),
    FLAG("-use-custom-verify-callback", BOOL, use_custom_verify_callback),
    FLAG("-trust-cert", TEXT, trust_cert),
    FLAG("-verify-peer", BOOL, verify_peer),
    FLAG("-require-any-client-certificate", BOOL, require_any_client_certificate),
    FLAG("-verify-fail", BOOL, verify_fail),
    FLAG("-expect-version", NUMBER, expect_version),
    FLAG("-expect-curve-id", NUMBER, expect_curve_id),
    FLAG("-expect-peer-signature-algorithm", NUMBER, expect_peer_signature_algorithm),
    FLAG("-expect-alpn", TEXT, expect_alpn),
    FLAG("-expect-server-name", TEXT, expect_server_name),
    FLAG("-expect-hrr", BOOL, expect_hrr),
    FLAG("-expect-no-hrr", BOOL, expect_no_hrr),
    FLAG("-expect-msg-callback", TEXT, expect_msg_callback),
    FLAG("-shim-writes-first", BOOL, shim_writes_first),
    FLAG("-shim-shuts-down", BOOL, shim_shuts_down),
    FLAG("-check-close-notify", BOOL, check_close_notify),
    FLAG("-key-update", BOOL, key_update),
    FLAG("-write-different-record-sizes", BOOL, write_different_record_sizes),
};

static bool flags_number(const char *text, uint16_t *out)
{
    char *end;
    unsigned long number = strtoul(text, &end, 10);

    if (end == text || *end != '\0' || number > UINT16_MAX)
        return false;
    *out = (uint16_t)number;
    return true;
}

static bool flags_records(const char *text, enum tls_records *out)
{
    static const char *const names[] = {
        [TLS_RECORDS_AUTO] = "auto",
        [TLS_RECORDS_PORTABLE] = "portable",
        [TLS_RECORDS_LIBRARY] = "library",
    };

    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (enum tls_records)i;
            return true;
        }
    return false;
}

static bool flags_set(const struct flag *flag, const char *value, struct flags *out)
{
    void *at = (char *)out + flag->at;
    struct flags_list *list = at;

    switch (flag->kind) {
    case FLAG_BOOL:
        *(bool *)at = true;
        return true;
    case FLAG_NUMBER:
        return flags_number(value, at);
    case FLAG_TEXT:
        *(const char **)at = value;
        return true;
    case FLAG_LIST:
        return list->num < FLAGS_LIST_MAX && flags_number(value, &list->items[list->num++]);
    case FLAG_RECORDS:
        return flags_records(value, at);
    default:
        return false;
    }
}

static const struct flag *flags_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(flag_rows); i++)
        if (strcmp(flag_rows[i].name, name) == 0)
            return &flag_rows[i];
    return NULL;
}

const char *flags_parse(int num, char **args, struct flags *out)
{
    for (int i = 0; i < num; i++) {
        const char *name = args[i];
        const struct flag *flag = flags_find(name);
        const char *value = NULL;

        if (flag == NULL)
            return name;
        if (flag->kind != FLAG_BOOL) {
            if (++i == num)
                return name;
            value = args[i];
        }
        if (!flags_set(flag, value, out))
            return name;
    }
    return NULL;
}
