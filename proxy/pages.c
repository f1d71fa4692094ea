#include "proxy/pages.h"

#include <inttypes.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/x509.h>

#include "certs/cert.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/base/version.h"
#include "lib/rpc/json_pb.h"
#include "proxy/capture.h"
#include "proxy/conn.h"
#include "proxy/sidecar.h"

#define PAGES_CONNECTIONS_MAX 10000 /* shown; the others are counted */

void pages_ready(void *arg, struct faults *reasons)
{
    sidecar_why_not_ready(arg, reasons);
}

/* ---- writing JSON ---- */

/* Everything here goes into a response body, whose maximum is far above what a page can have. */
static void pages_add(struct buf *out, const char *text)
{
    CHECK(err_is_ok(buf_add_str(out, text)));
}

static void pages_add_str(struct buf *out, const char *text)
{
    size_t size = strlen(text) * 6 + 1, len = 0;
    char *escaped = mem_alloc(size);

    CHECK(str_escape(escaped, size, &len, bytes_of_str(text), true));
    CHECK(err_is_ok(buf_printf(out, "\"%s\"", escaped)));
    mem_free(escaped);
}

static void pages_field_str(struct buf *out, const char *key, const char *value)
{
    CHECK(err_is_ok(buf_printf(out, "\"%s\":", key)));
    if (value == NULL)
        pages_add(out, "null");
    else
        pages_add_str(out, value);
}

static void pages_field_time(struct buf *out, const char *key, int64_t unix_s)
{
    char text[21];

    clock_format_utc(unix_s, text);
    pages_field_str(out, key, text);
}

/* ---- /config ---- */

static void pages_add_identity(struct buf *out, const struct svid *svid)
{
    pages_add(out, ",\"identity\":{");
    pages_field_str(out, "spiffe_id", svid->spiffe_id);
    pages_add(out, ",");
    pages_field_str(out, "serial", svid->serial);
    pages_add(out, ",");
    pages_field_time(out, "not_before", svid->not_before);
    pages_add(out, ",");
    pages_field_time(out, "not_after", svid->not_after);
    pages_add(out, "}");
}

static void pages_add_listener(struct buf *out, const char *what, const char *link,
                               const struct addr *addr, bool first)
{
    char text[ADDR_TEXT_MAX];

    addr_format(addr, text);
    pages_add(out, first ? "{" : ",{");
    pages_field_str(out, "address", text);
    pages_add(out, ",");
    pages_field_str(out, what, link);
    pages_add(out, "}");
}

static void pages_add_listeners(struct buf *out, const struct snapshot *snapshot)
{
    bool first = true;

    pages_add(out, ",\"listeners\":[");
    for (size_t i = 0; i < snapshot->num_outbound; i++) {
        const struct link *link = &snapshot->outbound[i];

        if (link->listen.len == 0)
            continue;
        pages_add_listener(out, "outbound", link->name, &link->listen, first);
        first = false;
    }
    if (snapshot->inbound_listen.len != 0)
        pages_add_listener(out, "inbound", "mTLS", &snapshot->inbound_listen, first);
    pages_add(out, "]");
}

static void pages_add_ca(struct buf *out, X509 *cert, bool first)
{
    BIO *bio = BIO_new(BIO_s_mem());
    const uint8_t *text = NULL;
    size_t len = 0;
    char *name;

    CHECK(bio != NULL &&
          X509_NAME_print_ex(bio, X509_get_subject_name(cert), 0, XN_FLAG_RFC2253) >= 0 &&
          BIO_mem_contents(bio, &text, &len));
    name = mem_strndup((const char *)text, len);
    pages_add(out, first ? "" : ",");
    pages_add_str(out, name);
    mem_free(name);
    BIO_free(bio);
}

static void pages_add_crls(struct buf *out, const struct crl_set *crls)
{
    pages_add(out, ",\"crls\":[");
    for (size_t i = 0; crls != NULL && i < crls->num; i++) {
        const struct crl *crl = crls->lists[i];

        pages_add(out, i == 0 ? "{" : ",{");
        pages_field_str(out, "issuer", crl->issuer);
        pages_add(out, ",");
        pages_field_str(out, "number", crl->number[0] != '\0' ? crl->number : NULL);
        pages_add(out, ",");
        pages_field_time(out, "this_update", crl->this_update);
        pages_add(out, ",");
        pages_field_time(out, "next_update", crl->next_update);
        CHECK(err_is_ok(buf_printf(out, ",\"entries\":%zu}", crl->num)));
    }
    pages_add(out, "]");
}

static void pages_add_trust(struct buf *out, const struct snapshot *snapshot)
{
    char hash[2 * sizeof(snapshot->trust->bundle->hash) + 1];

    pages_add(out, ",\"truststores\":[");
    for (size_t i = 0; i < snapshot->num_trust; i++) {
        const struct bundle *bundle = snapshot->trust[i].bundle;

        pages_add(out, i == 0 ? "{" : ",{");
        pages_field_str(out, "name", snapshot->trust[i].name);
        pages_add(out, ",");
        bytes_to_hex(bytes_of(bundle->hash, sizeof(bundle->hash)), hash);
        pages_field_str(out, "hash", hash);
        pages_add(out, ",");
        pages_field_time(out, "not_after", bundle->not_after);
        pages_add_crls(out, snapshot->trust[i].crls);
        pages_add(out, ",\"subjects\":[");
        for (size_t j = 0; j < bundle->num; j++)
            pages_add_ca(out, bundle->certs[j], j == 0);
        pages_add(out, "]}");
    }
    pages_add(out, "]");
}

static void pages_add_control(struct buf *out, const struct control_mode *control)
{
    struct control_mode_facts facts = control_mode_facts(control);

    CHECK(err_is_ok(buf_printf(out,
                               ",\"control\":{\"connected\":%s,\"certificate_epoch\":%" PRIu64 ",",
                               facts.connected ? "true" : "false", facts.certificate_epoch)));
    pages_field_str(out, "renewal_error",
                    facts.renewal_error[0] != '\0' ? facts.renewal_error : NULL);
    if (facts.cached_at != 0) {
        pages_add(out, ",");
        pages_field_time(out, "from_cache_of", facts.cached_at);
    }
    if (facts.skew.known) /* ours ahead is theirs behind */
        CHECK(
            err_is_ok(buf_printf(out, ",\"clock_ahead_ms\":%" PRId64 ",\"clock_error_ms\":%" PRId64,
                                 -facts.skew.ahead_ms, facts.skew.error_ms)));
    pages_add(out, "}");
}

static void pages_config(void *arg, const struct http1_request *request,
                         struct http1_response *response)
{
    const struct sidecar *sidecar = arg;
    const struct snapshot *snapshot = sidecar_snapshot(sidecar);
    CLEANUP(faults_fini) struct faults reasons = {.num = 0};
    struct buf *out = &response->body;

    (void)request;
    response->content_type = "application/json";
    sidecar_why_not_ready(sidecar, &reasons);
    pages_add(out, "{");
    pages_field_str(out, "build", MORTISE_VERSION);
    pages_add(out, ",");
    pages_field_str(out, "mode", sidecar_control(sidecar) != NULL ? "control" : "static");
    CHECK(err_is_ok(buf_printf(
        out, ",\"ready\":%s,\"generation\":%" PRIu64 ",\"version\":%" PRIu64 ",",
        reasons.total == 0 ? "true" : "false", snapshot != NULL ? snapshot->generation : 0,
        snapshot != NULL ? snapshot->version : 0)));
    pages_field_str(out, "rejected", sidecar_rejected(sidecar));
    pages_add(out, ",");
    pages_field_str(out, "capture", capture_name(sidecar_capture(sidecar)));
    if (sidecar_control(sidecar) != NULL)
        pages_add_control(out, sidecar_control(sidecar));
    if (snapshot != NULL) {
        pages_add(out, ",");
        pages_field_time(out, "since", snapshot->since);
        pages_add_identity(out, snapshot->svid);
        pages_add_listeners(out, snapshot);
        pages_add_trust(out, snapshot);
        pages_add(out, ",\"config\":");
        CHECK(err_is_ok(json_pb_write(JSON_PB_JSON, &snapshot->config->base, out)));
    }
    pages_add(out, "}\n");
}

/* ---- /connections ---- */

struct pages_connections {
    struct buf *out;
    bool list;
    size_t total;
    size_t by_state[CONN_NUM_STATES];
    size_t shown;
    size_t timers;
};

static void pages_add_addr(struct buf *out, const char *key, const union conn_addr *from)
{
    struct addr addr = conn_addr_get(from);
    char text[ADDR_TEXT_MAX];

    pages_add(out, ",");
    if (addr.len != 0)
        addr_format(&addr, text);
    pages_field_str(out, key, addr.len != 0 ? text : NULL);
}

static void pages_add_connection(struct pages_connections *page, const struct conn *conn,
                                 uint64_t now_ms)
{
    struct buf *out = page->out;

    pages_add(out, page->shown++ > 0 ? ",\n{" : "\n{");
    pages_field_str(out, "direction", direction_name((enum direction)conn->direction));
    pages_add(out, ",");
    pages_field_str(out, "link", conn->link != NULL ? conn->link->name : NULL);
    pages_add(out, ",");
    pages_field_str(out, "state", conn_state_name((enum conn_state)conn->state));
    pages_add_addr(out, "source", &conn->source);
    pages_add_addr(out, "destination", &conn->destination);
    pages_add(out, ",");
    pages_field_str(out, "peer_id", conn->peer != NULL ? conn->peer->spiffe_id : NULL);
    pages_add(out, ",");
    pages_field_str(out, "peer_serial", conn->peer != NULL ? conn->peer->serial : NULL);
    pages_add(out, ",");
    pages_field_str(out, "tls_version", conn->tls.version);
    pages_add(out, ",");
    pages_field_str(out, "cipher", conn->tls.cipher);
    pages_add(out, ",");
    pages_field_str(out, "group", conn->tls.group);
    CHECK(err_is_ok(buf_printf(out,
                               ",\"bytes_to_mesh\":%" PRIu64 ",\"bytes_to_app\":%" PRIu64
                               ",\"age_ms\":%" PRIu64 ",\"generation\":%" PRIu64 "}",
                               relay_bytes(&conn->relay, RELAY_APP),
                               relay_bytes(&conn->relay, RELAY_MESH), now_ms - conn->began_ms,
                               conn->snapshot->generation)));
}

/* On the worker's thread; the main thread waits, so the page may be written to. */
static void pages_collect(struct worker *worker, void *arg)
{
    struct pages_connections *page = arg;
    struct list *pos, *tmp;

    page->timers += worker_num_timers(worker);
    LIST_EACH (pos, tmp, &worker->live) {
        const struct conn *conn = LIST_ITEM(pos, struct conn, live);

        page->total++;
        page->by_state[conn->state]++;
        if (page->list && page->shown < PAGES_CONNECTIONS_MAX)
            pages_add_connection(page, conn, loop_now_ms(worker->loop));
    }
}

static void pages_connections(void *arg, const struct http1_request *request,
                              struct http1_response *response)
{
    const struct worker_shared *workers = sidecar_workers(arg);
    struct pages_connections page = {
        .out = &response->body,
        .list = strcmp(request->query, "list") == 0,
    };

    response->content_type = "application/json";
    pages_add(page.out, "{\"connections\":[");
    for (size_t i = 0; i < workers->num_workers; i++)
        worker_call(workers->workers[i], pages_collect, &page);
    CHECK(err_is_ok(buf_printf(page.out, "],\"total\":%zu", page.total)));
    for (unsigned i = 0; i < CONN_CLOSED; i++)
        CHECK(err_is_ok(buf_printf(page.out, ",\"%s\":%zu", conn_state_name((enum conn_state)i),
                                   page.by_state[i])));
    /* Each connection has its deadline, an attempt to connect one more; at rest there is none. */
    CHECK(err_is_ok(buf_printf(page.out, ",\"timers\":%zu}\n", page.timers)));
}

/* ---- metrics that come and go with certificates ---- */

#define PAGES_CHAIN_BEFORE "mortise_chain_not_before_timestamp_seconds"
#define PAGES_CHAIN_AFTER "mortise_chain_not_after_timestamp_seconds"
#define PAGES_ROOTS_MAX 256 /* listed */

static err_t pages_add_cert_series(struct buf *before, struct buf *after, const char *role,
                                   const char *truststore, const X509 *cert)
{
    CLEANUP(mem_freep) char *serial = NULL;
    int64_t from, until;

    if (!err_is_ok(cert_serial(cert, &serial)))
        serial = mem_strdup(""); /* an old root's may be anything */
    TRY(cert_times(cert, &from, &until));

    const char *const labels[] = {"role", role, "serial", serial, "truststore", truststore, NULL};

    TRY(metrics_write_value(before, PAGES_CHAIN_BEFORE, labels, (double)from));
    return metrics_write_value(after, PAGES_CHAIN_AFTER, labels, (double)until);
}

static err_t pages_add_chain_series(const struct svid *svid, const char *role, struct buf *before,
                                    struct buf *after)
{
    for (size_t i = 0; i < svid->num_chain; i++) {
        X509 *cert = NULL;
        err_t err = cert_parse(svid->chain[i], &cert);

        if (err_is_ok(err))
            err = pages_add_cert_series(before, after, i == 0 ? role : "intermediate", "", cert);
        X509_free(cert);
        TRY(err);
    }
    return OK;
}

static err_t pages_add_snapshot_series(const struct snapshot *snapshot, struct buf *before,
                                       struct buf *after)
{
    size_t num = 0;

    TRY(pages_add_chain_series(snapshot->svid, "leaf", before, after));
    for (size_t i = 0; i < snapshot->num_keystores; i++)
        TRY(pages_add_chain_series(snapshot->keystores[i], "keystore", before, after));
    for (size_t i = 0; i < snapshot->num_trust; i++) {
        const struct bundle *bundle = snapshot->trust[i].bundle;

        for (size_t j = 0; j < bundle->num && num < PAGES_ROOTS_MAX; j++, num++)
            TRY(pages_add_cert_series(before, after, "root", snapshot->trust[i].name,
                                      bundle->certs[j]));
    }
    return OK;
}

err_t pages_series(void *arg, struct buf *out)
{
    const struct snapshot *snapshot = sidecar_snapshot(arg);
    struct buf after = {.data = NULL};
    err_t err = OK;

    TRY(metrics_write_gauge(out, PAGES_CHAIN_BEFORE,
                            "When a certificate that this sidecar shows (leaf, keystore, "
                            "intermediate) or trusts (root) begins to be valid."));
    if (snapshot != NULL)
        err = pages_add_snapshot_series(snapshot, out, &after);
    if (err_is_ok(err))
        err = metrics_write_gauge(out, PAGES_CHAIN_AFTER, "When it expires.");
    if (err_is_ok(err) && buf_size(&after) > 0)
        err = buf_add(out, buf_view(&after).ptr, buf_size(&after));
    buf_fini(&after);
    return err;
}

const struct admin_page pages[] = {
    {.path = "/config",
     .handle = pages_config,
     .help = "what is in force: identity, listeners, links, profiles (JSON)"},
    {.path = "/connections",
     .handle = pages_connections,
     .help = "how many connections, by state, and timers; ?list shows each connection (JSON)"},
    {.path = NULL},
};
