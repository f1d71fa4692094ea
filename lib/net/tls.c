#include "lib/net/tls.h"

#include <string.h>

#include <openssl/err.h>

#include "lib/base/mem.h"
#include "lib/net/tls_boring.h"

#define TLS_MAGIC 0x3e5a91d7u

#define TO(state) (1u << TLS_STATE_##state)

enum tls_state {
    TLS_STATE_NEW, /* before tls_handshake */
    TLS_STATE_HANDSHAKE,
    TLS_STATE_OPEN,
    TLS_STATE_BROKEN, /* `broken` says why; only close is left */
    TLS_STATE_CLOSED,
    TLS_STATE_NUM,
};

/* tls_next[s] is the set of states that s may move to. No deadlines here: they are the owner's. */
static const unsigned tls_next[TLS_STATE_NUM] = {
    [TLS_STATE_NEW] = TO(HANDSHAKE) | TO(BROKEN) | TO(CLOSED),
    [TLS_STATE_HANDSHAKE] = TO(OPEN) | TO(BROKEN) | TO(CLOSED),
    [TLS_STATE_OPEN] = TO(BROKEN) | TO(CLOSED),
    [TLS_STATE_BROKEN] = TO(CLOSED),
    [TLS_STATE_CLOSED] = 0,
};

struct tls {
    struct stream base;
    unsigned magic;
    enum tls_state state;
    struct stream *lower;
    SSL *ssl;              /* NULL from when `record` has taken over */
    struct record *record; /* NULL: BoringSSL's record layer */
    struct tls_io io;
    struct tls_kept *kept; /* ciphertext not yet wanted */
    struct tls_kept *held; /* plaintext that waits for the end of a renegotiation */
    struct tls_info info;
    err_t broken;
    tls_handshake_cb cb; /* until called */
    void *cb_arg;
    uint64_t key_update_records;
    uint64_t key_updates_since_ms; /* of the peer: begin of the second being counted */
    unsigned num_key_updates;
    uint64_t renegotiations_since_ms; /* likewise */
    unsigned num_renegotiations;
    size_t num_ignored; /* bytes behind close_notify */
    uint8_t first[2];   /* the first bytes of the peer tell TLS from anything else */
    uint8_t num_first;
    enum tls_records records;
    bool server;
    bool tls13;
    bool reading;
    bool pump_due;    /* more is to be delivered without new input */
    bool got_eof;     /* close_notify was told */
    bool shut;        /* ours was sent */
    bool shut_due;    /* it is to be, when a renegotiation is over */
    bool told;        /* of `broken` */
    bool drained_due; /* the queue is to be told empty */
    bool scheduled;   /* tls_on_deferred will come */
};

static const struct stream_ops tls_ops;

static struct tls *tls_of(struct stream *stream)
{
    CHECK(stream->ops == &tls_ops);
    return CONTAINER_OF(stream, struct tls, base);
}

static const struct tls *tls_of_const(const struct stream *stream)
{
    CHECK(stream->ops == &tls_ops);
    return (const struct tls *)(const void *)stream; /* base is its first member */
}

static struct tls *tls_of_arg(void *arg)
{
    struct tls *tls = arg;

    CHECK(tls->magic == TLS_MAGIC);
    return tls;
}

static void tls_set_state(struct tls *tls, enum tls_state state)
{
    CHECK((tls_next[tls->state] & 1u << state) != 0);
    tls->state = state;
}

/* Output. The loop's tx buffer is empty whenever control is outside this file and the lower write.
 */

static void tls_set_queued(struct tls *tls)
{
    /* An end that waits counts, too. */
    tls->base.queued =
        tls->lower->queued + (tls->held != NULL ? tls->held->len : 0) + (tls->shut_due ? 1 : 0);
}

static err_t tls_flush(struct tls *tls)
{
    struct loop_bufs *bufs = loop_bufs(tls->base.loop);
    size_t len = bufs->tx_len;
    err_t err;

    if (len == 0)
        return OK;
    bufs->tx_len = 0;
    err = stream_write(tls->lower, bytes_of(bufs->tx, len));
    tls_set_queued(tls);
    if (bufs->tx_cap > LOOP_TX_SIZE) {
        bufs->tx = mem_realloc(bufs->tx, LOOP_TX_SIZE);
        bufs->tx_cap = LOOP_TX_SIZE;
    }
    return err;
}

static void tls_on_deferred(void *arg);

static void tls_schedule(struct tls *tls)
{
    if (tls->scheduled)
        return;
    tls->scheduled = true;
    loop_defer(tls->base.loop, tls_on_deferred, tls);
}

/* The handshake's last flight waits for the end of the batch: the first data often come along. */
static err_t tls_cork(struct tls *tls)
{
    struct loop_bufs *bufs = loop_bufs(tls->base.loop);

    if (bufs->tx_len == 0)
        return OK;
    tls->io.cork = tls_keep(bufs->tx, bufs->tx_len);
    if (tls->io.cork == NULL)
        return tls_flush(tls);
    bufs->tx_len = 0;
    tls_schedule(tls);
    return OK;
}

static err_t tls_uncork(struct tls *tls)
{
    struct tls_kept *cork = tls->io.cork;
    err_t err = OK;

    tls->io.cork = NULL;
    if (cork != NULL) {
        err = stream_write(tls->lower, bytes_of(cork->data, cork->len));
        tls_set_queued(tls);
        mem_free(cork);
    }
    return err;
}

/* Breaking. */

static void tls_tell(struct tls *tls)
{
    tls_handshake_cb cb = tls->cb;

    if (tls->told)
        return;
    if (cb != NULL) {
        tls->told = true;
        tls->cb = NULL;
        cb(tls->cb_arg, tls->broken);
    } else if (tls->base.events != NULL) {
        tls->told = true;
        tls->base.events->on_error(tls->base.arg, tls->broken);
    }
}

static void tls_break_quietly(struct tls *tls, err_t err)
{
    tls_set_state(tls, TLS_STATE_BROKEN);
    tls->broken = err;
    tls->reading = false;
    tls->pump_due = false;
    tls->io.in.len = 0;
    mem_free(tls->kept);
    mem_free(tls->held);
    tls->kept = tls->held = NULL;
    stream_read_stop(tls->lower);
}

static void tls_break(struct tls *tls, err_t err)
{
    if (tls->state == TLS_STATE_BROKEN || tls->state == TLS_STATE_CLOSED)
        return;
    tls_break_quietly(tls, err);
    tls_tell(tls);
}

static void tls_tell_drained(struct tls *tls)
{
    tls->drained_due = false;
    if (tls->state == TLS_STATE_OPEN && tls->base.events != NULL &&
        tls->base.events->on_drained != NULL)
        tls->base.events->on_drained(tls->base.arg);
}

/* Input. */

static void tls_got_close_notify(struct tls *tls)
{
    tls->got_eof = true;
    tls->reading = false;
    tls->pump_due = false;
    stream_read_start(tls->lower); /* see tls_ignore */
    tls->base.events->on_eof(tls->base.arg);
}

/* What a peer sends behind its close_notify means nothing, but its end and its reset do. */
static void tls_ignore(struct tls *tls, size_t len)
{
    tls->num_ignored += len;
    if (tls->num_ignored > TLS_IGNORED_MAX)
        tls_break(tls, FAIL(TLS_PROTOCOL, SSL_R_APPLICATION_DATA_ON_SHUTDOWN));
}

static bool tls_too_many_key_updates(const struct tls *tls)
{
    return tls->num_key_updates > TLS_KEY_UPDATES_PER_S;
}

static void tls_send_alert(struct tls *tls, uint8_t description)
{
    if (tls->record != NULL) {
        record_seal_alert(tls->record, description, tls_io_reserve(&tls->io, RECORD_ALERT_SIZE));
        tls_io_commit(&tls->io, RECORD_ALERT_SIZE);
        return;
    }
    if (description == SSL_AD_CLOSE_NOTIFY)
        (void)SSL_shutdown(tls->ssl); /* writes into memory: nothing to wait for */
    else
        (void)SSL_send_fatal_alert(tls->ssl, description);
    ERR_clear_error();
}

static bool tls_too_many_renegotiations(const struct tls *tls)
{
    return tls->num_renegotiations > TLS_RENEGOTIATIONS_PER_MIN;
}

static err_t tls_decrypt_library(struct tls *tls, uint8_t *px, size_t *out_num)
{
    err_t err = OK;

    while (err_is_ok(err) && *out_num < LOOP_PX_SIZE && !tls_too_many_key_updates(tls) &&
           !tls_too_many_renegotiations(tls)) {
        int got = SSL_read(tls->ssl, px + *out_num, (int)(LOOP_PX_SIZE - *out_num));

        if (got > 0)
            *out_num += (size_t)got;
        else
            err = tls_err(tls->ssl, got);
    }
    if (tls_too_many_key_updates(tls) && (err_is_ok(err) || err_is(err, E_AGAIN))) {
        tls_send_alert(tls, SSL_AD_UNEXPECTED_MESSAGE);
        err = FAIL(TLS_KEY_UPDATES, tls->num_key_updates);
    }
    if (tls_too_many_renegotiations(tls) && (err_is_ok(err) || err_is(err, E_AGAIN))) {
        tls_send_alert(tls, SSL_AD_NO_RENEGOTIATION);
        err = FAIL(TLS_PROTOCOL, SSL_R_NO_RENEGOTIATION);
    }
    return err;
}

/* Decrypts into the loop's px buffer. AGAIN: all input is used up; OK: the buffer is full. What
 * BoringSSL has to answer lies in the tx buffer; `*out_alert`, if any, goes behind the data. */
static err_t tls_decrypt(struct tls *tls, size_t *out_num, uint8_t *out_alert)
{
    uint8_t *px = loop_bufs(tls->base.loop)->px;

    *out_num = 0;
    *out_alert = 0;
    if (tls->record == NULL)
        return tls_decrypt_library(tls, px, out_num);
    return record_open(tls->record, loop_now_ms(tls->base.loop), &tls->io.in, px, LOOP_PX_SIZE,
                       out_num, out_alert);
}

static err_t tls_write_parts(struct tls *tls, struct bytes data);
static err_t tls_end(struct tls *tls);

static bool tls_is_renegotiating(const struct tls *tls)
{
    return tls->record == NULL && SSL_renegotiate_pending(tls->ssl) == 1;
}

/* A renegotiation may be over: then what waited for that goes on. */
static err_t tls_renegotiated(struct tls *tls)
{
    struct tls_kept *held = tls->held;
    err_t err = OK;

    if ((held == NULL && !tls->shut_due) || tls_is_renegotiating(tls))
        return OK;
    tls->held = NULL;
    if (held != NULL)
        err = tls_write_parts(tls, bytes_of(held->data, held->len));
    mem_free(held);
    TRY(err);
    if (tls->shut_due) {
        tls->shut_due = false;
        TRY(tls_end(tls));
    }
    tls_set_queued(tls);
    tls->drained_due = tls->base.queued == 0; /* else the lower stream tells */
    if (tls->drained_due)
        tls_schedule(tls);
    return OK;
}

static void tls_pump(struct tls *tls)
{
    while (tls->state == TLS_STATE_OPEN && tls->reading) {
        uint8_t alert;
        size_t num;
        err_t err = tls_decrypt(tls, &num, &alert);
        err_t sent = tls_flush(tls);

        if (!err_is_ok(sent) && (err_is_ok(err) || err_is(err, E_AGAIN)))
            err = sent;
        if (err_is_ok(err) || err_is(err, E_AGAIN)) {
            sent = tls_renegotiated(tls);
            if (!err_is_ok(sent))
                err = sent;
        }
        tls->pump_due = !err_is(err, E_AGAIN);
        if (num > 0) {
            tls->base.bytes_read += num;
            tls->base.events->on_read(tls->base.arg, bytes_of(loop_bufs(tls->base.loop)->px, num));
            if (tls->state != TLS_STATE_OPEN)
                return;
            tls->lower->read_max = tls->base.read_max;
        }
        if (alert != 0 && !tls->shut) { /* nothing may come behind it, or it behind close_notify */
            tls_send_alert(tls, alert);
            (void)tls_flush(tls);
        }
        if (err_is(err, E_AGAIN))
            return;
        if (err_is(err, E_CLOSED)) {
            if (tls->reading)
                tls_got_close_notify(tls);
            return;
        }
        if (!err_is_ok(err)) {
            tls_break(tls, err);
            return;
        }
    }
}

/* Tells TLS from other protocols by its first two bytes, before BoringSSL waits for three more that
 * may never come. A first byte of 0x80 and up is left to BoringSSL: it may be an SSLv2-style hello.
 */
static bool tls_looks_like_tls(struct tls *tls)
{
    const uint8_t *first = tls->first;

    for (size_t i = 0; tls->num_first < sizeof(tls->first) && i < tls->io.in.len; i++)
        tls->first[tls->num_first++] = tls->io.in.ptr[i];
    if (tls->num_first > 0 && first[0] != SSL3_RT_HANDSHAKE && first[0] != SSL3_RT_ALERT &&
        !(tls->server && first[0] >= 0x80))
        return false;
    return tls->num_first < 2 || first[0] >= 0x80 || first[1] == SSL3_VERSION_MAJOR;
}

static void tls_handshake_failed(struct tls *tls, err_t err)
{
    /* BoringSSL says nothing to the peer when our own settings are at fault. */
    if (err_is(err, E_TLS_CONFIG))
        tls_send_alert(tls, SSL_AD_INTERNAL_ERROR);
    /* The alert leaves before anybody hears of it and closes. */
    (void)tls_flush(tls);
    tls_break(tls, err);
}

static struct tls_info tls_info_of(const SSL *ssl)
{
    const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
    const char *group;

#ifdef SSL_GROUP_X25519
    group = SSL_get_group_name(SSL_get_group_id(ssl));
#else
    group = SSL_get_curve_name(SSL_get_curve_id(ssl));
#endif
    return (struct tls_info){
        .version = SSL_get_version(ssl),
        .cipher = cipher != NULL ? SSL_CIPHER_standard_name(cipher) : "",
        .group = group != NULL ? group : "",
    };
}

static void tls_handshake_done(struct tls *tls)
{
    tls_handshake_cb cb = tls->cb;
    err_t err = tls_cork(tls);

    if (!err_is_ok(err)) {
        tls_break(tls, err);
        return;
    }
    tls_set_state(tls, TLS_STATE_OPEN);
    tls->tls13 = SSL_version(tls->ssl) >= TLS1_3_VERSION;
    tls->info = tls_info_of(tls->ssl);
    if (tls->records != TLS_RECORDS_LIBRARY)
        tls->record = tls_record_of(tls->ssl, tls->records == TLS_RECORDS_AUTO,
                                    tls->key_update_records, TLS_KEY_UPDATES_PER_S);
    tls->cb = NULL;
    cb(tls->cb_arg, OK); /* looks at the SSL for the last time */
    if (tls->record != NULL) {
        SSL_free(tls->ssl);
        tls->ssl = NULL;
    }
    if (tls->state == TLS_STATE_OPEN && !tls->reading)
        stream_read_stop(tls->lower);
}

static void tls_handshake_step(struct tls *tls)
{
    err_t err;
    int ret;

    if (!tls_looks_like_tls(tls)) {
        tls_handshake_failed(tls, FAIL(TLS_NOT_TLS, tls->first[0]));
        return;
    }
    ret = SSL_do_handshake(tls->ssl);
    if (ret == 1) {
        tls_handshake_done(tls);
        return;
    }
    err = tls_err(tls->ssl, ret);
    if (!err_is(err, E_AGAIN)) {
        tls_handshake_failed(tls, err);
        return;
    }
    err = tls_flush(tls);
    if (!err_is_ok(err))
        tls_break(tls, err);
}

/* Works on `data`; keeps what is not wanted now. */
static void tls_feed(struct tls *tls, struct bytes data)
{
    if (tls->got_eof) {
        tls_ignore(tls, data.len);
        return;
    }
    tls->io.in = data;
    if (tls->state == TLS_STATE_HANDSHAKE)
        tls_handshake_step(tls);
    if (tls->state == TLS_STATE_OPEN)
        tls_pump(tls);
    if (tls->io.in.len > 0 && !tls->got_eof &&
        (tls->state == TLS_STATE_OPEN || tls->state == TLS_STATE_NEW)) {
        CHECK(tls->kept == NULL);
        tls->kept = tls_keep(tls->io.in.ptr, tls->io.in.len);
        stream_read_stop(tls->lower);
        if (tls->kept == NULL)
            tls_break(tls, FAIL(NO_MEMORY, 0));
    }
    if (tls->got_eof)
        tls_ignore(tls, tls->io.in.len);
    tls->io.in.len = 0;
}

static void tls_on_lower_read(void *arg, struct bytes data)
{
    tls_feed(tls_of_arg(arg), data);
}

static void tls_on_lower_eof(void *arg)
{
    struct tls *tls = tls_of_arg(arg);

    if (tls->got_eof)
        return;
    if (tls->state == TLS_STATE_OPEN)
        tls_break(tls, FAIL(TLS_TRUNCATED, 0));
    else
        tls_break(tls, FAIL(CLOSED, 0));
}

static void tls_on_lower_drained(void *arg)
{
    struct tls *tls = tls_of_arg(arg);

    tls_set_queued(tls);
    if (tls->base.queued == 0)
        tls_tell_drained(tls);
}

static void tls_on_lower_error(void *arg, err_t err)
{
    tls_break(tls_of_arg(arg), err);
}

static const struct stream_events tls_lower_events = {
    .on_read = tls_on_lower_read,
    .on_eof = tls_on_lower_eof,
    .on_drained = tls_on_lower_drained,
    .on_error = tls_on_lower_error,
};

/* At the end of a batch: what must not be done inside the user's call. */
static void tls_on_deferred(void *arg)
{
    struct tls *tls = tls_of_arg(arg);
    struct tls_kept *kept;
    err_t err;

    tls->scheduled = false;
    if (tls->state == TLS_STATE_CLOSED)
        return;
    err = tls_uncork(tls);
    if (!err_is_ok(err))
        tls_break(tls, err);
    if (tls->state == TLS_STATE_BROKEN) {
        tls_tell(tls);
        return;
    }
    if (tls->drained_due && tls->base.queued == 0)
        tls_tell_drained(tls);
    if (tls->state == TLS_STATE_CLOSED || (tls->state == TLS_STATE_OPEN && !tls->reading))
        return; /* behind close_notify the lower stream is read already */
    kept = tls->kept;
    tls->kept = NULL;
    if (kept != NULL)
        tls_feed(tls, bytes_of(kept->data, kept->len));
    else if (tls->pump_due)
        tls_feed(tls, bytes_of(NULL, 0));
    mem_free(kept);
    if (tls->kept == NULL && !tls->got_eof &&
        (tls->state == TLS_STATE_HANDSHAKE || (tls->state == TLS_STATE_OPEN && tls->reading)))
        stream_read_start(tls->lower);
}

/* The stream's operations. */

static void tls_op_read_start(struct stream *stream)
{
    struct tls *tls = tls_of(stream);

    CHECK(tls->base.events != NULL && tls->state != TLS_STATE_CLOSED);
    if (tls->state == TLS_STATE_BROKEN && !tls->told)
        tls_schedule(tls);
    if (tls->state != TLS_STATE_OPEN || tls->got_eof || tls->reading)
        return;
    tls->reading = true;
    if (tls->kept != NULL || tls->pump_due)
        tls_schedule(tls);
    else
        stream_read_start(tls->lower);
}

static void tls_op_read_stop(struct stream *stream)
{
    struct tls *tls = tls_of(stream);

    tls->reading = false;
    if (tls->state == TLS_STATE_OPEN && !tls->got_eof)
        stream_read_stop(tls->lower);
}

static err_t tls_encrypt(struct tls *tls, struct bytes data)
{
    int ret;

    if (tls->record != NULL) {
        uint8_t *out = tls_io_reserve(&tls->io, record_seal_max(data.len));
        size_t num;

        TRY(record_seal(tls->record, data, out, &num));
        tls_io_commit(&tls->io, num);
        return tls_flush(tls);
    }
    /* BoringSSL counts records but never changes the key by itself. */
    if (tls->tls13 && SSL_get_write_sequence(tls->ssl) >= tls->key_update_records &&
        SSL_key_update(tls->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1)
        return tls_err(tls->ssl, -1);
    ret = SSL_write(tls->ssl, data.ptr, (int)data.len);
    if (ret <= 0)
        return tls_err(tls->ssl, ret);
    CHECK((size_t)ret == data.len); /* no partial writes: our BIO takes all */
    return tls_flush(tls);
}

static err_t tls_write_parts(struct tls *tls, struct bytes data)
{
    while (data.len > 0) {
        size_t num = data.len < LOOP_TX_PART ? data.len : LOOP_TX_PART;

        TRY(tls_encrypt(tls, bytes_of(data.ptr, num)));
        data.ptr += num;
        data.len -= num;
    }
    return OK;
}

/* What is written in a renegotiation; the writer keeps it small, as it is queued. */
static err_t tls_hold(struct tls *tls, struct bytes data)
{
    size_t len = tls->held != NULL ? tls->held->len : 0;
    struct tls_kept *more = mem_try_alloc(sizeof(*more) + len + data.len);

    if (more == NULL)
        return FAIL(NO_MEMORY, 0);
    if (len > 0)
        memcpy(more->data, tls->held->data, len);
    memcpy(more->data + len, data.ptr, data.len);
    more->len = len + data.len;
    mem_free(tls->held);
    tls->held = more;
    tls_set_queued(tls);
    return OK;
}

static err_t tls_op_write(struct stream *stream, struct bytes data)
{
    struct tls *tls = tls_of(stream);
    err_t err;

    if (tls->state == TLS_STATE_BROKEN) {
        tls->told = true;
        return tls->broken;
    }
    if (tls->state != TLS_STATE_OPEN || tls->shut || tls->shut_due)
        return FAIL(BUG, tls->state);
    tls->base.bytes_written += data.len;
    err = tls_is_renegotiating(tls) ? tls_hold(tls, data) : tls_write_parts(tls, data);
    if (!err_is_ok(err)) {
        loop_bufs(tls->base.loop)->tx_len = 0;
        tls_break_quietly(tls, err);
        tls->told = true;
    }
    return err;
}

static err_t tls_send_close_notify(struct tls *tls)
{
    tls->shut = true;
    tls_send_alert(tls, SSL_AD_CLOSE_NOTIFY);
    return tls_flush(tls);
}

static err_t tls_end(struct tls *tls)
{
    TRY(tls_send_close_notify(tls));
    return stream_shutdown(tls->lower);
}

static err_t tls_op_shutdown(struct stream *stream)
{
    struct tls *tls = tls_of(stream);

    if (tls->state == TLS_STATE_BROKEN) {
        tls->told = true;
        return tls->broken;
    }
    if (tls->state != TLS_STATE_OPEN)
        return FAIL(BUG, tls->state);
    if (tls->shut || tls->shut_due)
        return OK;
    if (tls_is_renegotiating(tls)) {
        tls->shut_due = true;
        tls_set_queued(tls);
        return OK;
    }
    return tls_end(tls);
}

static size_t tls_op_room(const struct stream *stream)
{
    return stream_room(tls_of_const(stream)->lower);
}

static struct stream_sent tls_op_sent(const struct stream *stream)
{
    return stream_sent(tls_of_const(stream)->lower);
}

static void tls_op_retry(struct stream *stream)
{
    stream_retry(tls_of(stream)->lower);
}

static void tls_free(void *arg)
{
    struct tls *tls = tls_of_arg(arg);

    tls->magic = 0;
    mem_free(tls);
}

static void tls_op_close(struct stream *stream, bool reset)
{
    struct tls *tls = tls_of(stream);

    /* Only behind all data: a close_notify would tell the peer that nothing is missing. */
    if (!reset && tls->state == TLS_STATE_OPEN && !tls->shut && tls->lower->queued == 0 &&
        tls->held == NULL)
        (void)tls_send_close_notify(tls);
    tls_set_state(tls, TLS_STATE_CLOSED);
    tls->reading = false;
    tls->io.in.len = 0;
    if (reset)
        stream_reset(tls->lower);
    else
        stream_close(tls->lower);
    SSL_free(tls->ssl);
    tls->ssl = NULL;
    record_free(tls->record);
    tls->record = NULL;
    mem_free(tls->kept);
    mem_free(tls->held);
    mem_free(tls->io.cork);
    tls->kept = tls->held = tls->io.cork = NULL;
    loop_defer(tls->base.loop, tls_free, tls);
}

void tls_abort(struct stream *stream, uint8_t alert)
{
    struct tls *tls = tls_of(stream);
    /* Nothing may come behind a close_notify, nor between the parts of a record. */
    bool can = tls->state == TLS_STATE_OPEN && !tls->shut && tls->lower->queued == 0;

    if (can) {
        tls->shut = true;
        tls_send_alert(tls, alert);
        (void)tls_flush(tls);
    }
    tls_op_close(stream, !can);
}

static const struct stream_ops tls_ops = {
    .read_start = tls_op_read_start,
    .read_stop = tls_op_read_stop,
    .write = tls_op_write,
    .shutdown = tls_op_shutdown,
    .close = tls_op_close,
    .room = tls_op_room,
    .sent = tls_op_sent,
    .retry = tls_op_retry,
};

/* Making one. */

/* One more in the time being counted. */
static void tls_count(const struct tls *tls, uint64_t window_ms, uint64_t *since_ms, unsigned *num)
{
    uint64_t now_ms = loop_now_ms(tls->base.loop);

    if (now_ms - *since_ms >= window_ms) {
        *since_ms = now_ms;
        *num = 0;
    }
    ++*num;
}

static void tls_on_message(int is_write, int version, int type, const void *message, size_t len,
                           SSL *ssl, void *arg)
{
    struct tls *tls = tls_of_arg(arg);

    (void)version;
    (void)ssl;
    if (is_write || type != SSL3_RT_HANDSHAKE || tls->state != TLS_STATE_OPEN || len == 0)
        return;
    /* BoringSSL limits those without data between them; each costs us a key schedule, data or not.
     */
    if (*(const uint8_t *)message == SSL3_MT_KEY_UPDATE)
        tls_count(tls, TLS_SECOND_MS, &tls->key_updates_since_ms, &tls->num_key_updates);
    if (*(const uint8_t *)message == SSL3_MT_HELLO_REQUEST && !tls->tls13)
        tls_count(tls, TLS_MINUTE_MS, &tls->renegotiations_since_ms, &tls->num_renegotiations);
}

static err_t tls_configure(struct tls *tls, const struct tls_params *params)
{
    BIO *bio = tls_bio_new(&tls->io);

    if (bio == NULL)
        return FAIL(NO_MEMORY, 0);
    SSL_set_bio(tls->ssl, bio, bio); /* takes one reference for both */
    if (params->role == TLS_SERVER)
        SSL_set_accept_state(tls->ssl);
    else
        SSL_set_connect_state(tls->ssl);
    SSL_set_shed_handshake_config(tls->ssl, 1);
    if (params->role == TLS_CLIENT && params->server_name != NULL &&
        SSL_set_tlsext_host_name(tls->ssl, params->server_name) != 1) {
        err_t err = tls_err(tls->ssl, -1);

        return err_is(err, E_NO_MEMORY) ? err : FAIL(TLS_CONFIG, 0);
    }
    if (params->configure != NULL)
        params->configure(params->arg, tls->ssl);
    SSL_set_msg_callback(tls->ssl, tls_on_message);
    SSL_set_msg_callback_arg(tls->ssl, tls);
    return OK;
}

err_t tls_new(struct stream *lower, const struct tls_params *params, struct stream **out)
{
    struct tls *tls;
    err_t err;

    if (lower->ops == &tls_ops)
        return FAIL(TLS_CONFIG, 0);
    tls = mem_try(sizeof(*tls));
    if (tls == NULL)
        return FAIL(NO_MEMORY, 0);
    tls->ssl = SSL_new(params->ctx);
    if (tls->ssl == NULL) {
        ERR_clear_error();
        mem_free(tls);
        return FAIL(NO_MEMORY, 0);
    }
    tls->magic = TLS_MAGIC;
    tls->base.ops = &tls_ops;
    tls->base.loop = lower->loop;
    tls->base.read_max = lower->read_max;
    tls->io.loop = lower->loop;
    tls->lower = lower;
    tls->records = params->records;
    tls->server = params->role == TLS_SERVER;
    tls->key_update_records =
        params->key_update_records != 0 ? params->key_update_records : TLS_KEY_UPDATE_RECORDS;
    err = tls_configure(tls, params);
    if (!err_is_ok(err)) {
        SSL_free(tls->ssl);
        mem_free(tls);
        return err;
    }
    stream_set_events(lower, &tls_lower_events, tls);
    *out = &tls->base;
    return OK;
}

void tls_handshake(struct stream *stream, tls_handshake_cb cb, void *arg)
{
    struct tls *tls = tls_of(stream);

    tls->cb = cb;
    tls->cb_arg = arg;
    if (tls->state == TLS_STATE_BROKEN) { /* the lower stream ended before we began */
        tls_schedule(tls);
        return;
    }
    tls_set_state(tls, TLS_STATE_HANDSHAKE);
    if (!tls->server) {
        int ret = SSL_do_handshake(tls->ssl);
        err_t err = tls_err(tls->ssl, ret);

        if (err_is(err, E_AGAIN))
            err = tls_flush(tls);
        if (!err_is_ok(err)) {
            tls_break_quietly(tls, err);
            tls_schedule(tls);
            return;
        }
    }
    if (tls->kept != NULL)
        tls_schedule(tls);
    else
        stream_read_start(tls->lower);
}

const char *tls_records_engine(enum tls_records records)
{
    if (records == TLS_RECORDS_LIBRARY)
        return "library";
    return records == TLS_RECORDS_AUTO ? record_aead_fast(RECORD_AES_128_GCM)->engine
                                       : record_aead_portable(RECORD_AES_128_GCM)->engine;
}

bool tls_is_open(const struct stream *stream)
{
    return tls_of_const(stream)->state == TLS_STATE_OPEN;
}

SSL *tls_ssl(const struct stream *stream)
{
    return tls_of_const(stream)->ssl;
}

struct stream *tls_lower(const struct stream *stream)
{
    return tls_of_const(stream)->lower;
}

struct tls_info tls_info(const struct stream *stream)
{
    const struct tls *tls = tls_of_const(stream);

    return tls->ssl != NULL ? tls_info_of(tls->ssl) : tls->info;
}
