#include "lib/net/record.h"

#include <string.h>

#include <openssl/ssl.h>

#include "lib/base/mem.h"

#define RECORD_SECOND_MS 1000 /* what updates_per_s counts within */
#define MESSAGE_HEADER 4

struct record {
    struct record_key read, write;
    uint64_t key_update_records;
    uint64_t updates_since_ms; /* of the peer: begin of the second being counted */
    unsigned updates_per_s;
    unsigned num_updates;
    uint8_t *part; /* a record of which some is still to come; NULL: not even its header is whole */
    uint32_t part_len; /* of it, or of `header`, what has come */
    uint32_t part_size;
    uint32_t message_left; /* body of the message behind the handshake being read */
    uint8_t header[RECORD_HEADER];
    uint8_t message[MESSAGE_HEADER]; /* its header */
    uint8_t message_len;             /* of the header, what has come */
    uint8_t num_dataless, num_dataless_updates;
    bool server;
    bool update_owed; /* the peer asked for a KeyUpdate of ours */
    err_t ended;      /* not OK: nothing is opened any more */
};

err_t record_new(const struct record_params *params, struct record **out)
{
    struct record *record = mem_try(sizeof(*record));
    err_t err;

    if (record == NULL)
        return FAIL(NO_MEMORY, 0);
    err = record_key_init(&record->read, params->aead, params->read_secret, params->read_seq);
    if (err_is_ok(err))
        err =
            record_key_init(&record->write, params->aead, params->write_secret, params->write_seq);
    if (!err_is_ok(err)) {
        record_free(record);
        return err;
    }
    record->key_update_records = params->key_update_records;
    record->updates_per_s = params->key_updates_per_s;
    record->server = params->server;
    *out = record;
    return OK;
}

void record_free(struct record *record)
{
    if (record == NULL)
        return;
    record_key_fini(&record->read);
    record_key_fini(&record->write);
    mem_free(record->part);
    mem_free(record);
}

/* ---- sealing ---- */

#define KEY_UPDATE_SIZE (RECORD_OVERHEAD + MESSAGE_HEADER + 1)

size_t record_seal_max(size_t len)
{
    size_t num = len / RECORD_PLAIN_MAX + 1;

    return len + num * (RECORD_OVERHEAD + KEY_UPDATE_SIZE);
}

static err_t record_seal_key_update(struct record *record, uint8_t *out)
{
    static const uint8_t message[] = {SSL3_MT_KEY_UPDATE, 0, 0, 1, SSL_KEY_UPDATE_NOT_REQUESTED};

    record_key_seal(&record->write, RECORD_TYPE_HANDSHAKE, bytes_of(message, sizeof(message)), out);
    record->update_owed = false;
    return record_key_update(&record->write);
}

err_t record_seal(struct record *record, struct bytes data, uint8_t *out, size_t *out_len)
{
    size_t done = 0;

    while (data.len > 0) {
        size_t num = data.len < RECORD_PLAIN_MAX ? data.len : RECORD_PLAIN_MAX;

        if (record->update_owed || record->write.seq >= record->key_update_records) {
            TRY(record_seal_key_update(record, out + done));
            done += KEY_UPDATE_SIZE;
        }
        record_key_seal(&record->write, RECORD_TYPE_DATA, bytes_of(data.ptr, num), out + done);
        done += num + RECORD_OVERHEAD;
        data.ptr += num;
        data.len -= num;
    }
    *out_len = done;
    return OK;
}

void record_seal_alert(struct record *record, uint8_t description, uint8_t *out)
{
    uint8_t alert[2] = {description == SSL_AD_CLOSE_NOTIFY ? SSL3_AL_WARNING : SSL3_AL_FATAL,
                        description};

    record_key_seal(&record->write, RECORD_TYPE_ALERT, bytes_of(alert, sizeof(alert)), out);
}

/* ---- input: whole records out of slices ---- */

/* The length behind the header. */
static err_t record_check_header(const uint8_t *header, size_t *out_len, uint8_t *out_alert)
{
    size_t len = (size_t)header[3] << 8 | header[4];

    if ((header[1] << 8 | header[2]) != RECORD_VERSION) {
        *out_alert = SSL_AD_PROTOCOL_VERSION;
        return FAIL(TLS_PROTOCOL, SSL_R_WRONG_VERSION_NUMBER);
    }
    /* From now on everything is encrypted, alerts included. */
    if (header[0] != RECORD_TYPE_DATA) {
        *out_alert = SSL_AD_UNEXPECTED_MESSAGE;
        return FAIL(TLS_PROTOCOL, SSL_R_INVALID_OUTER_RECORD_TYPE);
    }
    if (len > RECORD_SEALED_MAX) {
        *out_alert = SSL_AD_RECORD_OVERFLOW;
        return FAIL(TLS_PROTOCOL, SSL_R_ENCRYPTED_LENGTH_TOO_LONG);
    }
    if (len < RECORD_TAG) {
        *out_alert = SSL_AD_BAD_RECORD_MAC;
        return FAIL(TLS_PROTOCOL, SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC);
    }
    *out_len = len;
    return OK;
}

/* Moves bytes of `*in` to `to` until it has `want`. */
static bool record_collect(struct record *record, uint8_t *to, size_t want, struct bytes *in)
{
    size_t num = want - record->part_len;

    if (num > in->len)
        num = in->len;
    if (num > 0)
        memcpy(to + record->part_len, in->ptr, num);
    record->part_len += (uint32_t)num;
    in->ptr += num;
    in->len -= num;
    return record->part_len == want;
}

/* The next whole record: in the slice itself where it is whole there, else in `part`, which the
 * caller frees. AGAIN: all of `*in` is kept. */
static err_t record_next(struct record *record, struct bytes *in, struct bytes *out,
                         uint8_t *out_alert)
{
    size_t len;

    if (record->part_len == 0 && in->len >= RECORD_HEADER) {
        TRY(record_check_header(in->ptr, &len, out_alert));
        if (in->len >= RECORD_HEADER + len) {
            *out = bytes_of(in->ptr, RECORD_HEADER + len);
            return OK;
        }
    }
    if (record->part == NULL) {
        if (!record_collect(record, record->header, RECORD_HEADER, in))
            return AGAIN;
        TRY(record_check_header(record->header, &len, out_alert));
        record->part_size = (uint32_t)(RECORD_HEADER + len);
        record->part = mem_try_alloc(record->part_size);
        if (record->part == NULL) {
            *out_alert = SSL_AD_INTERNAL_ERROR;
            return FAIL(NO_MEMORY, 0);
        }
        memcpy(record->part, record->header, RECORD_HEADER);
    }
    if (!record_collect(record, record->part, record->part_size, in))
        return AGAIN;
    *out = bytes_of(record->part, record->part_size);
    return OK;
}

/* `whole` has been worked off. */
static void record_consume(struct record *record, struct bytes *in, size_t len)
{
    if (record->part != NULL) {
        mem_free(record->part);
        record->part = NULL;
        record->part_len = 0;
        return;
    }
    in->ptr += len;
    in->len -= len;
}

/* ---- what is in a record ---- */

static err_t record_count_dataless(struct record *record, int reason, uint8_t *out_alert)
{
    if (record->num_dataless++ < RECORD_DATALESS_MAX)
        return OK;
    *out_alert = SSL_AD_UNEXPECTED_MESSAGE;
    return FAIL(TLS_PROTOCOL, reason);
}

static err_t record_got_alert(struct record *record, struct bytes content, uint8_t *out_alert)
{
    if (content.len != 2) { /* one of no bytes: section 5.4 */
        *out_alert = content.len == 0 ? SSL_AD_UNEXPECTED_MESSAGE : SSL_AD_DECODE_ERROR;
        return FAIL(TLS_PROTOCOL, SSL_R_BAD_ALERT);
    }
    if (content.ptr[1] == SSL_AD_CLOSE_NOTIFY)
        return FAIL(CLOSED, 0);
    if (content.ptr[1] == SSL_AD_USER_CANCELLED && content.ptr[0] == SSL3_AL_WARNING)
        return record_count_dataless(record, SSL_R_TOO_MANY_WARNING_ALERTS, out_alert);
    return FAIL(TLS_ALERT, content.ptr[1]); /* whatever its level: RFC 8446 section 6.2 */
}

static err_t record_got_key_update(struct record *record, uint64_t now_ms, uint8_t request,
                                   uint8_t *out_alert)
{
    if (request != SSL_KEY_UPDATE_REQUESTED && request != SSL_KEY_UPDATE_NOT_REQUESTED) {
        *out_alert = SSL_AD_ILLEGAL_PARAMETER;
        return FAIL(TLS_PROTOCOL, SSL_R_DECODE_ERROR);
    }
    if (now_ms - record->updates_since_ms >= RECORD_SECOND_MS) {
        record->updates_since_ms = now_ms;
        record->num_updates = 0;
    }
    if (record->num_updates++ >= record->updates_per_s ||
        record->num_dataless_updates++ >= RECORD_DATALESS_MAX) {
        *out_alert = SSL_AD_UNEXPECTED_MESSAGE;
        return FAIL(TLS_KEY_UPDATES, record->num_updates);
    }
    *out_alert = SSL_AD_INTERNAL_ERROR;
    TRY(record_key_update(&record->read));
    *out_alert = 0;
    /* Ours goes before the next data; several requests are answered by one (section 4.6.3). */
    if (request == SSL_KEY_UPDATE_REQUESTED)
        record->update_owed = true;
    return OK;
}

/* The header of a message is whole. */
static err_t record_got_message_header(struct record *record, uint8_t *out_alert)
{
    uint32_t len = get_be32(record->message) & 0xffffff;
    uint8_t type = record->message[0];

    /* Post-handshake authentication was not offered: a CertificateRequest is not expected. */
    if (type != SSL3_MT_KEY_UPDATE && (type != SSL3_MT_NEW_SESSION_TICKET || record->server)) {
        *out_alert = SSL_AD_UNEXPECTED_MESSAGE;
        return FAIL(TLS_PROTOCOL, SSL_R_UNEXPECTED_MESSAGE);
    }
    if ((type == SSL3_MT_KEY_UPDATE && len != 1) || len == 0) {
        *out_alert = SSL_AD_DECODE_ERROR;
        return FAIL(TLS_PROTOCOL, SSL_R_DECODE_ERROR);
    }
    if (len > RECORD_MESSAGE_MAX) {
        *out_alert = SSL_AD_ILLEGAL_PARAMETER;
        return FAIL(TLS_PROTOCOL, SSL_R_EXCESSIVE_MESSAGE_SIZE);
    }
    record->message_left = len;
    return OK;
}

/* Messages behind the handshake, in as many records as the peer likes. Tickets are not used: their
 * bytes are passed over. */
static err_t record_got_handshake(struct record *record, uint64_t now_ms, struct bytes content,
                                  uint8_t *out_alert)
{
    if (content.len == 0) { /* section 5.4 */
        *out_alert = SSL_AD_UNEXPECTED_MESSAGE;
        return FAIL(TLS_PROTOCOL, SSL_R_UNEXPECTED_RECORD);
    }
    while (content.len > 0) {
        size_t num;

        if (record->message_len < MESSAGE_HEADER) {
            record->message[record->message_len++] = *content.ptr++;
            content.len--;
            if (record->message_len == MESSAGE_HEADER)
                TRY(record_got_message_header(record, out_alert));
            continue;
        }
        num = content.len < record->message_left ? content.len : record->message_left;
        content.len -= num;
        record->message_left -= (uint32_t)num;
        if (record->message_left > 0)
            return OK;
        record->message_len = 0;
        if (record->message[0] == SSL3_MT_KEY_UPDATE) {
            if (content.len > 0) { /* what follows belongs under the next key */
                *out_alert = SSL_AD_UNEXPECTED_MESSAGE;
                return FAIL(TLS_PROTOCOL, SSL_R_EXCESS_HANDSHAKE_DATA);
            }
            return record_got_key_update(record, now_ms, *content.ptr, out_alert);
        }
        content.ptr += num;
    }
    return OK;
}

/* The inner plaintext is content, type, zeros (section 5.4); `*content` is cut to the content. */
static err_t record_take_type(struct bytes *content, uint8_t *out_type, uint8_t *out_alert)
{
    size_t len = content->len;

    if (len > RECORD_PLAIN_MAX + 1) {
        *out_alert = SSL_AD_RECORD_OVERFLOW;
        return FAIL(TLS_PROTOCOL, SSL_R_DATA_LENGTH_TOO_LONG);
    }
    while (len > 0 && content->ptr[len - 1] == 0)
        len--;
    if (len == 0) {
        *out_alert = SSL_AD_UNEXPECTED_MESSAGE;
        return FAIL(TLS_PROTOCOL, SSL_R_UNEXPECTED_RECORD);
    }
    *out_type = content->ptr[len - 1];
    content->len = len - 1;
    return OK;
}

/* `*out_len`: of the content, what is the application's. */
static err_t record_got_content(struct record *record, uint64_t now_ms, struct bytes content,
                                size_t *out_len, uint8_t *out_alert)
{
    uint8_t type;

    TRY(record_take_type(&content, &type, out_alert));
    /* A message's fragments follow each other directly (section 5.1). */
    if (type != RECORD_TYPE_HANDSHAKE && record->message_len > 0) {
        *out_alert = SSL_AD_UNEXPECTED_MESSAGE;
        return FAIL(TLS_PROTOCOL, SSL_R_UNEXPECTED_RECORD);
    }
    if (type == RECORD_TYPE_ALERT)
        return record_got_alert(record, content, out_alert);
    if (type == RECORD_TYPE_HANDSHAKE)
        return record_got_handshake(record, now_ms, content, out_alert);
    if (type != RECORD_TYPE_DATA) {
        *out_alert = SSL_AD_UNEXPECTED_MESSAGE;
        return FAIL(TLS_PROTOCOL, SSL_R_UNEXPECTED_RECORD);
    }
    if (content.len == 0)
        return record_count_dataless(record, SSL_R_TOO_MANY_EMPTY_FRAGMENTS, out_alert);
    record->num_dataless = record->num_dataless_updates = 0;
    *out_len = content.len;
    return OK;
}

static err_t record_open_some(struct record *record, uint64_t now_ms, struct bytes *in,
                              uint8_t *out, size_t cap, size_t *out_len, uint8_t *out_alert)
{
    while (true) {
        size_t room = cap - *out_len, inner, num = 0;
        struct bytes whole;
        bool authentic;

        TRY(record_next(record, in, &whole, out_alert));
        inner = whole.len - RECORD_HEADER - RECORD_TAG;
        if (inner > room)
            return OK;
        if (record->read.seq == UINT64_MAX) { /* section 5.5: no nonce is left */
            *out_alert = SSL_AD_INTERNAL_ERROR;
            return FAIL(TLS_PROTOCOL, ERR_R_OVERFLOW);
        }
        authentic = record_key_open(&record->read, whole, out + *out_len);
        record_consume(record, in, whole.len);
        if (!authentic) {
            *out_alert = SSL_AD_BAD_RECORD_MAC;
            return FAIL(TLS_PROTOCOL, SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC);
        }
        TRY(record_got_content(record, now_ms, bytes_of(out + *out_len, inner), &num, out_alert));
        *out_len += num;
    }
}

err_t record_open(struct record *record, uint64_t now_ms, struct bytes *in, uint8_t *out,
                  size_t cap, size_t *out_len, uint8_t *out_alert)
{
    err_t err = record->ended;

    *out_len = 0;
    *out_alert = 0;
    if (!err_is_ok(err))
        return err;
    err = record_open_some(record, now_ms, in, out, cap, out_len, out_alert);
    if (!err_is(err, E_AGAIN))
        record->ended = err;
    return err;
}
