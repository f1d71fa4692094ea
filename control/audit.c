#include "control/audit.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <openssl/bytestring.h>
#include <openssl/mem.h>

#include "certs/key.h"
#include "control/audit_counts.h"
#include "control/msg.h"
#include "lib/base/log.h"
#include "lib/base/str.h"
#include "lib/rpc/pb.h"

/* How far the log has come. */
struct audit_state {
    uint64_t seq;
    uint8_t sha256[AUDIT_HASH];
    uint64_t first_seq;
    uint8_t before_first[AUDIT_HASH]; /* when first_seq > 1 */
    uint64_t checkpoint_seq;
    int64_t checkpoint_at_ms;
    uint64_t shipped_seq;
};

/* What a transaction to come will carry. */
struct audit_expected {
    struct list link;
    char *path;
    const void *call;
    Mortise__V1__AuditRecord *record; /* owned */
    bool used;                        /* by the transaction that is under way */
};

struct audit {
    struct vault *vault;
    const struct clock *clock;
    uint64_t keep;
    int64_t keep_s;
    EVP_PKEY *key;
    uint8_t *public_key; /* DER */
    size_t public_key_len;
    struct audit_state state;
    uint64_t version;        /* of the head's record */
    struct audit_state next; /* with the transaction that is under way */
    bool under_way;
    struct list expected;
    const void *asking;                   /* the call that changes nothing; NULL: none does so */
    Mortise__V1__AuditRecord *const *own; /* to be written with the next transaction */
    size_t num_own;
    struct audit_counts counts;
    uint64_t unsigned_since_ms; /* mono; 0: all is vouched for */
    bool broken;
    bool ships;
    Mortise__V1__AuditHead head; /* as it is told */
    struct vault_journal journal;
    struct store_watch watch;
};

/* Whose change is always on record. A path that ends in '/' stands for all under it. Of a
 * transaction that nobody has announced the first of these counts; `each` has a record of its own
 * for each change that puts something new. */
static const struct audit_watched {
    const char *path;
    enum audit_action action;
    bool each;
} audit_watched[] = {
    {VAULT_CERTS, AUDIT_CERTIFICATE_ISSUE, true}, {VAULT_TOKENS, AUDIT_TOKEN_CREATE, true},
    {VAULT_ROOT, AUDIT_CA_CHANGE, false},         {VAULT_ISSUER, AUDIT_CA_CHANGE, false},
    {VAULT_OTHER_ROOT, AUDIT_CA_CHANGE, false},   {VAULT_OTHER_ISSUER, AUDIT_CA_CHANGE, false},
    {VAULT_MESH, AUDIT_MESH_CHANGE, false},       {VAULT_REVOCATIONS, AUDIT_REVOKE_CHANGE, false},
    {VAULT_ADMINS, AUDIT_ADMIN_ROTATE, false},    {VAULT_EPOCHS, AUDIT_ROTATE, false},
    {VAULT_HISTORY, AUDIT_CONTROL_START, false},  {VAULT_ACCESS, AUDIT_ACCESS_BIND, false},
};

static int64_t audit_now_ms(const struct audit *audit)
{
    return audit->clock == &clock_system ? clock_wall_us() / 1000
                                         : clock_wall_s(audit->clock) * 1000;
}

static void audit_path(uint64_t seq, char out[VAULT_PATH_MAX])
{
    char name[24];

    (void)snprintf(name, sizeof(name), "%020" PRIu64, seq);
    vault_path(VAULT_AUDIT, name, out);
}

static bool audit_is_under(const char *path, const char *place)
{
    size_t len = strlen(place);

    return len > 0 && place[len - 1] == '/' ? strncmp(path, place, len) == 0
                                            : strcmp(path, place) == 0;
}

/* ---- a record from an entry ---- */

/* Lends its texts, which are fit for a message and a screen. */
struct audit_draft {
    Mortise__V1__AuditRecord msg;
    char text[7][AUDIT_TEXT_MAX + 1];
    char *weaker[AUDIT_WEAKER_MAX];
};

static char *audit_text(const char *text, char out[AUDIT_TEXT_MAX + 1])
{
    size_t len = 0;

    out[0] = '\0';
    if (text != NULL && !str_escape(out, AUDIT_TEXT_MAX + 1, &len, bytes_of_str(text), false))
        return out; /* its end is cut off */
    return out;
}

static void audit_draft_fini(struct audit_draft *draft)
{
    for (size_t i = 0; i < draft->msg.n_weaker; i++)
        mem_free(draft->weaker[i]);
}

static void audit_draft(const struct audit_entry *entry, struct audit_draft *out)
{
    mortise__v1__audit_record__init(&out->msg);
    out->msg.action = msg_lend(audit_word(entry->action));
    out->msg.outcome = MORTISE__V1__AUDIT_RECORD__OUTCOME__OK;
    out->msg.who = audit_text(entry->who, out->text[0]);
    out->msg.role = audit_text(entry->role, out->text[1]);
    out->msg.source = audit_text(entry->source, out->text[2]);
    out->msg.object = audit_text(entry->object, out->text[3]);
    out->msg.message = audit_text(entry->message, out->text[4]);
    out->msg.serial = audit_text(entry->serial, out->text[5]);
    out->msg.version = entry->version;
    if (entry->before != NULL)
        out->msg.before_sha256 = msg_bytes(bytes_of(entry->before, AUDIT_HASH));
    if (entry->after != NULL)
        out->msg.after_sha256 = msg_bytes(bytes_of(entry->after, AUDIT_HASH));
    out->msg.weaker = out->weaker;
    for (size_t i = 0; i < entry->num_weaker && i < AUDIT_WEAKER_MAX; i++)
        out->weaker[out->msg.n_weaker++] = mem_strdup(audit_text(entry->weaker[i], out->text[6]));
}

/* ---- a transaction ---- */

/* What is written with one. */
struct audit_round {
    struct audit *audit;
    struct vault_batch *out;
    struct audit_state state;
    size_t num; /* records */
    err_t err;
    bool announced;                   /* one of them is of a change that was expected */
    const struct audit_watched *told; /* of one that was not, the first in the table */
    char path[VAULT_PATH_MAX];        /* it */
};

static bool audit_wants_signature(const Mortise__V1__AuditRecord *record)
{
    return strcmp(record->action, audit_word(AUDIT_CHECKPOINT)) == 0 ||
           strcmp(record->action, audit_word(AUDIT_AUDIT_EXPORT)) == 0 ||
           strcmp(record->action, audit_word(AUDIT_AUDIT_PURGE)) == 0;
}

static err_t audit_seal(struct vault *vault, struct vault_batch *batch, EVP_PKEY *key,
                        struct audit_state *state, const Mortise__V1__AuditRecord *draft,
                        int64_t now_ms)
{
    CLEANUP(buf_fini) struct buf signature = {0};
    Mortise__V1__AuditRecord record = *draft;
    uint8_t sha256[AUDIT_HASH];
    char path[VAULT_PATH_MAX];

    record.seq = state->seq + 1;
    if (record.at_ms == 0)
        record.at_ms = now_ms;
    if (state->seq > 0)
        record.previous_sha256 = msg_bytes(bytes_of(state->sha256, AUDIT_HASH));
    if (audit_wants_signature(&record))
        TRY(audit_sign(key, &record, &signature));
    TRY(audit_hash(&record, sha256));
    audit_path(record.seq, path);
    TRY(vault_batch_put(vault, batch, path, &record.base, STORE_ABSENT));
    memcpy(state->sha256, sha256, sizeof(sha256));
    state->seq = record.seq;
    if (record.signature.len != 0) {
        state->checkpoint_seq = record.seq;
        state->checkpoint_at_ms = record.at_ms;
    }
    if (record.purged_seq != 0) {
        state->first_seq = record.purged_seq + 1;
        memcpy(state->before_first, record.purged_sha256.data, AUDIT_HASH);
    }
    return OK;
}

static void audit_append(struct audit_round *round, const Mortise__V1__AuditRecord *record)
{
    struct audit *audit = round->audit;

    if (err_is_ok(round->err))
        round->err = audit_seal(audit->vault, round->out, audit->key, &round->state, record,
                                audit_now_ms(audit));
    round->num++;
}

/* The record of a change at `path`: of a certificate it has the serial number. */
static void audit_append_change(struct audit_round *round, const Mortise__V1__AuditRecord *record,
                                const char *path)
{
    Mortise__V1__AuditRecord whole = *record;

    if (whole.serial[0] == '\0' && audit_is_under(path, VAULT_CERTS))
        whole.serial = msg_lend(path + strlen(VAULT_CERTS));
    audit_append(round, &whole);
}

static struct audit_expected *audit_find(const struct audit *audit, const char *path)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &audit->expected) {
        struct audit_expected *expected = LIST_ITEM(pos, struct audit_expected, link);

        if (!expected->used && audit_is_under(path, expected->path))
            return expected;
    }
    return NULL;
}

/* A change that nobody has announced. */
static void audit_append_own(struct audit_round *round, enum audit_action action, const char *path)
{
    Mortise__V1__AuditRecord record = MORTISE__V1__AUDIT_RECORD__INIT;

    record.action = msg_lend(audit_word(action));
    record.outcome = MORTISE__V1__AUDIT_RECORD__OUTCOME__OK;
    record.who = msg_lend(AUDIT_OURSELVES);
    record.object = msg_lend(path);
    audit_append_change(round, &record, path);
}

static void audit_see(void *arg, const struct vault_batch_item *item)
{
    struct audit_round *round = arg;
    struct audit_expected *expected = audit_find(round->audit, item->path);

    if (item->same)
        return;
    if (expected != NULL) {
        expected->used = true;
        round->announced = true;
        audit_append_change(round, expected->record, item->path);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(audit_watched); i++) {
        const struct audit_watched *watched = &audit_watched[i];

        if (!audit_is_under(item->path, watched->path))
            continue;
        if (watched->each && item->fresh && !item->remove) {
            audit_append_own(round, watched->action, item->path);
        } else if (!watched->each && (round->told == NULL || watched < round->told)) {
            round->told = watched;
            (void)snprintf(round->path, sizeof(round->path), "%s", item->path);
        }
        return;
    }
}

static err_t audit_put_head(const struct audit *audit, struct vault_batch *out,
                            const struct audit_state *state)
{
    Mortise__V1__AuditHead head = MORTISE__V1__AUDIT_HEAD__INIT;

    head.seq = state->seq;
    head.sha256 = msg_bytes(bytes_of(state->sha256, AUDIT_HASH));
    head.first_seq = state->first_seq;
    if (state->first_seq > 1)
        head.before_first_sha256 = msg_bytes(bytes_of(state->before_first, AUDIT_HASH));
    head.checkpoint_seq = state->checkpoint_seq;
    head.checkpoint_at_ms = state->checkpoint_at_ms;
    head.shipped_seq = state->shipped_seq;
    return vault_batch_put(audit->vault, out, VAULT_AUDIT_HEAD, &head.base, audit->version);
}

static void audit_append_checkpoint(struct audit_round *round)
{
    Mortise__V1__AuditRecord record = MORTISE__V1__AUDIT_RECORD__INIT;

    record.action = msg_lend(audit_word(AUDIT_CHECKPOINT));
    record.outcome = MORTISE__V1__AUDIT_RECORD__OUTCOME__OK;
    record.who = msg_lend(AUDIT_OURSELVES);
    audit_append(round, &record);
}

static err_t audit_on_transaction(void *arg, const struct vault_batch *const *batches, size_t num,
                                  struct vault_batch *out)
{
    struct audit *audit = arg;
    struct audit_round round = {.audit = audit, .out = out, .state = audit->state, .err = OK};

    for (size_t i = 0; i < num; i++)
        vault_batch_each(batches[i], audit_see, &round);
    if (round.told != NULL && !round.announced)
        audit_append_own(&round, round.told->action, round.path);
    for (size_t i = 0; i < audit->num_own; i++)
        audit_append(&round, audit->own[i]);
    if (round.num == 0)
        return OK;
    if (round.state.seq - round.state.checkpoint_seq >= AUDIT_CHECKPOINT_RECORDS)
        audit_append_checkpoint(&round);
    TRY(round.err);
    TRY(audit_put_head(audit, out, &round.state));
    audit->next = round.state;
    audit->under_way = true;
    return OK;
}

static void audit_expected_free(struct audit_expected *expected)
{
    list_del(&expected->link);
    pb_free(&expected->record->base);
    mem_free(expected->path);
    mem_free(expected);
}

/* It is durable; nobody else knows yet. */
static void audit_on_stored(void *arg, const struct store_change *change, uint64_t revision)
{
    struct audit *audit = arg;
    struct list *pos, *tmp;

    (void)change;
    audit->version = revision;
    if (!audit->under_way)
        return;
    audit->under_way = false;
    audit->state = audit->next;
    LIST_EACH (pos, tmp, &audit->expected) {
        struct audit_expected *expected = LIST_ITEM(pos, struct audit_expected, link);

        if (expected->used)
            audit_expected_free(expected);
    }
    if (audit->state.checkpoint_seq == audit->state.seq)
        audit->unsigned_since_ms = 0;
    else if (audit->unsigned_since_ms == 0)
        audit->unsigned_since_ms = clock_mono_ms(audit->clock);
}

static void audit_on_done(void *arg, err_t err)
{
    struct audit *audit = arg;
    struct list *pos, *tmp;

    if (err_is_ok(err))
        return;
    audit->under_way = false;
    LIST_EACH (pos, tmp, &audit->expected)
        LIST_ITEM(pos, struct audit_expected, link)->used = false;
}

/* ---- what is expected ---- */

void audit_expect(struct audit *audit, const char *path, const struct audit_entry *entry)
{
    CLEANUP(audit_draft_fini) struct audit_draft draft;
    struct audit_expected *expected;

    mortise__v1__audit_record__init(&draft.msg);
    if (audit == NULL)
        return;
    audit_draft(entry, &draft);
    expected = mem_zalloc(sizeof(*expected));
    expected->path = mem_strdup(path);
    expected->call = entry->call;
    expected->record = MSG_AS(Mortise__V1__AuditRecord, mortise__v1__audit_record__descriptor,
                              pb_clone(&draft.msg.base));
    list_add_tail(&audit->expected, &expected->link);
}

void audit_forget(struct audit *audit, const void *call)
{
    struct list *pos, *tmp;

    if (audit == NULL)
        return;
    if (audit->asking == call)
        audit->asking = NULL;
    LIST_EACH (pos, tmp, &audit->expected) {
        struct audit_expected *expected = LIST_ITEM(pos, struct audit_expected, link);

        if (expected->call == call)
            audit_expected_free(expected);
    }
}

const Mortise__V1__AuditRecord *audit_expected(const struct audit *audit, const void *call)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &audit->expected) {
        const struct audit_expected *expected = LIST_ITEM(pos, struct audit_expected, link);

        if (expected->call == call)
            return expected->record;
    }
    return NULL;
}

void audit_only_asks(struct audit *audit, const void *call)
{
    if (audit != NULL)
        audit->asking = call;
}

bool audit_has_only_asked(const struct audit *audit, const void *call)
{
    return call != NULL && audit->asking == call;
}

/* ---- records of their own ---- */

/* Writes `records`, and what else `batch` has. */
static err_t audit_commit(struct audit *audit, const struct vault_batch *batch,
                          Mortise__V1__AuditRecord *const *records, size_t num)
{
    err_t err;

    audit->own = records;
    audit->num_own = num;
    err = vault_commit(audit->vault, batch, NULL);
    audit->own = NULL;
    audit->num_own = 0;
    return err;
}

err_t audit_put(struct audit *audit, const struct audit_entry *entry)
{
    CLEANUP(audit_draft_fini) struct audit_draft draft;
    const struct vault_batch none = {0};
    Mortise__V1__AuditRecord *record = &draft.msg;

    audit_draft(entry, &draft);
    return audit_commit(audit, &none, &record, 1);
}

static err_t audit_checkpoint(struct audit *audit)
{
    return audit_put(audit,
                     &(struct audit_entry){.action = AUDIT_CHECKPOINT, .who = AUDIT_OURSELVES});
}

void audit_count(struct audit *audit, const struct audit_entry *entry, const char *reason,
                 bool stranger)
{
    CLEANUP(audit_draft_fini) struct audit_draft draft;
    char text[AUDIT_TEXT_MAX + 1];

    audit_draft(entry, &draft);
    draft.msg.at_ms = audit_now_ms(audit);
    if (reason != NULL) {
        draft.msg.outcome = MORTISE__V1__AUDIT_RECORD__OUTCOME__REFUSED;
        draft.msg.reason = audit_text(reason, text);
    }
    audit_counts_add(&audit->counts, &draft.msg, stranger, clock_mono_ms(audit->clock));
}

static void audit_write_counts(struct audit *audit, bool all)
{
    Mortise__V1__AuditRecord *due[AUDIT_COUNTS_MAX];
    const struct vault_batch none = {0};
    uint64_t now_ms = clock_mono_ms(audit->clock);
    size_t num = audit_counts_due(&audit->counts, now_ms, all, due);
    err_t err;

    if (num == 0)
        return;
    err = audit_commit(audit, &none, due, num);
    if (err_is_ok(err))
        audit_counts_written(&audit->counts, now_ms);
    else /* they stay counted */
        log_limited(LOG_WARN, "audit", "not_written",
                    (const struct log_field[]){LOG_ERR("error", err)}, 1);
}

void audit_flush(struct audit *audit)
{
    audit_write_counts(audit, false);
}

/* ---- reading ---- */

err_t audit_read(struct audit *audit, uint64_t seq, Mortise__V1__AuditRecord **out)
{
    ProtobufCMessage *msg = NULL;
    char path[VAULT_PATH_MAX];

    audit_path(seq, path);
    TRY(vault_get(audit->vault, path, &msg, NULL));
    *out = MSG_AS(Mortise__V1__AuditRecord, mortise__v1__audit_record__descriptor, msg);
    return OK;
}

const Mortise__V1__AuditHead *audit_head(const struct audit *audit)
{
    Mortise__V1__AuditHead *head = (Mortise__V1__AuditHead *)(uintptr_t)&audit->head; /* a cache */
    const struct audit_state *state = &audit->state;

    head->seq = state->seq;
    head->sha256 = msg_bytes(bytes_of(state->sha256, AUDIT_HASH));
    head->first_seq = state->first_seq;
    head->before_first_sha256 =
        msg_bytes(bytes_of(state->before_first, state->first_seq > 1 ? AUDIT_HASH : 0));
    head->checkpoint_seq = state->checkpoint_seq;
    head->checkpoint_at_ms = state->checkpoint_at_ms;
    head->shipped_seq = state->shipped_seq;
    return head;
}

struct bytes audit_public_key(const struct audit *audit)
{
    return bytes_of(audit->public_key, audit->public_key_len);
}

bool audit_is_broken(const struct audit *audit)
{
    return audit->broken;
}

/* ---- what goes ---- */

static err_t audit_hash_at(struct audit *audit, uint64_t seq, uint8_t out[AUDIT_HASH])
{
    Mortise__V1__AuditRecord *record;
    err_t err;

    TRY(audit_read(audit, seq, &record));
    err = audit_hash(record, out);
    pb_free(&record->base);
    return err;
}

err_t audit_purge(struct audit *audit, uint64_t seq, const struct audit_entry *by)
{
    static const struct audit_entry ourselves = {
        .action = AUDIT_AUDIT_PURGE, .who = AUDIT_OURSELVES, .message = "kept long enough"};
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    CLEANUP(audit_draft_fini) struct audit_draft draft;
    Mortise__V1__AuditRecord *record = &draft.msg;
    const struct audit_state *state = &audit->state;
    uint8_t sha256[AUDIT_HASH];
    char path[VAULT_PATH_MAX];

    audit_draft(by != NULL ? by : &ourselves, &draft);
    if (seq + AUDIT_PURGE_LEAVES > state->seq)
        seq = state->seq - AUDIT_PURGE_LEAVES;
    if (audit->ships && seq > state->shipped_seq)
        seq = state->shipped_seq;
    if (seq < state->first_seq)
        return OK;
    if (seq - state->first_seq >= AUDIT_PURGE_MAX)
        seq = state->first_seq + AUDIT_PURGE_MAX - 1;
    TRY(audit_hash_at(audit, seq, sha256));
    for (uint64_t at = state->first_seq; at <= seq; at++) {
        audit_path(at, path);
        vault_batch_delete(&batch, path, STORE_ANY);
    }
    record->purged_seq = seq;
    record->purged_sha256 = msg_bytes(bytes_of(sha256, sizeof(sha256)));
    return audit_commit(audit, &batch, &record, 1);
}

/* Up to which record the log is too old; 0: it is not. */
static uint64_t audit_too_old(struct audit *audit)
{
    const struct audit_state *state = &audit->state;
    uint64_t num = state->seq - state->first_seq + 1;
    uint64_t last = state->first_seq + AUDIT_PURGE_MAX - 1;
    Mortise__V1__AuditRecord *record;
    bool old;

    /* Some at a time: each purge is a record, too. */
    if (num > audit->keep + audit->keep / 10)
        return state->seq - audit->keep;
    if (num <= AUDIT_PURGE_MAX || audit->keep_s == 0 ||
        !err_is_ok(audit_read(audit, last, &record)))
        return 0;
    old = record->at_ms < audit_now_ms(audit) - audit->keep_s * 1000;
    pb_free(&record->base);
    return old ? last : 0;
}

void audit_set_ships(struct audit *audit, bool ships)
{
    audit->ships = ships;
}

void audit_note_shipped(struct audit *audit, uint64_t seq)
{
    audit->state.shipped_seq = seq; /* with the next transaction */
}

uint64_t audit_unshipped(const struct audit *audit)
{
    return audit->ships ? audit->state.seq - audit->state.shipped_seq : 0;
}

void audit_tick(struct audit *audit)
{
    uint64_t now_ms = clock_mono_ms(audit->clock);
    uint64_t old;
    err_t err = OK;

    audit_write_counts(audit, false);
    if (audit->unsigned_since_ms != 0 &&
        now_ms - audit->unsigned_since_ms >= (uint64_t)AUDIT_CHECKPOINT_MS)
        err = audit_checkpoint(audit);
    old = audit_too_old(audit);
    if (err_is_ok(err) && old != 0)
        err = audit_purge(audit, old, NULL);
    if (!err_is_ok(err))
        log_limited(LOG_WARN, "audit", "not_written",
                    (const struct log_field[]){LOG_ERR("error", err)}, 1);
}

/* ---- its beginning and its end ---- */

static err_t audit_put_key(struct vault *vault, struct vault_batch *batch, EVP_PKEY *key,
                           int64_t now_s)
{
    CLEANUP(buf_wipe_fini) struct buf der = {0};
    Mortise__Control__AuditKey record = MORTISE__CONTROL__AUDIT_KEY__INIT;
    uint8_t *public_der = NULL;
    size_t len = 0;
    CBB cbb;
    err_t err;

    if (!CBB_init(&cbb, 128) || !EVP_marshal_public_key(&cbb, key) ||
        !CBB_finish(&cbb, &public_der, &len)) {
        CBB_cleanup(&cbb);
        return FAIL(NO_MEMORY, 0);
    }
    err = key_der(key, &der);
    record.key = msg_bytes(buf_view(&der));
    record.public_key = msg_bytes(bytes_of(public_der, len));
    record.made_at = now_s;
    if (err_is_ok(err))
        err = vault_batch_put(vault, batch, VAULT_AUDIT_KEY, &record.base, STORE_ABSENT);
    OPENSSL_free(public_der);
    return err;
}

err_t audit_create(struct vault *vault, struct vault_batch *batch, const char *mesh, int64_t now_s)
{
    struct audit made = {.vault = vault, .version = STORE_ABSENT, .state = {.first_seq = 1}};
    Mortise__V1__AuditRecord record = MORTISE__V1__AUDIT_RECORD__INIT;
    EVP_PKEY *key = NULL;
    err_t err;

    record.action = msg_lend(audit_word(AUDIT_CONTROL_CREATE));
    record.outcome = MORTISE__V1__AUDIT_RECORD__OUTCOME__OK;
    record.who = msg_lend(AUDIT_OURSELVES);
    record.object = msg_lend(mesh);
    TRY(key_generate(&key));
    err = audit_put_key(vault, batch, key, now_s);
    if (err_is_ok(err))
        err = audit_seal(vault, batch, key, &made.state, &record, now_s * 1000);
    if (err_is_ok(err))
        err = audit_put_head(&made, batch, &made.state);
    EVP_PKEY_free(key);
    return err;
}

static err_t audit_load_head(struct audit *audit)
{
    struct audit_state *state = &audit->state;
    const Mortise__V1__AuditHead *head;
    ProtobufCMessage *msg = NULL;
    bool whole;

    TRY(vault_get(audit->vault, VAULT_AUDIT_HEAD, &msg, &audit->version));
    head = MSG_AS_CONST(Mortise__V1__AuditHead, mortise__v1__audit_head__descriptor, msg);
    whole = head->seq > 0 && head->first_seq > 0 && head->sha256.len == AUDIT_HASH &&
            (head->first_seq == 1 || head->before_first_sha256.len == AUDIT_HASH);
    if (whole) {
        state->seq = head->seq;
        state->first_seq = head->first_seq;
        state->checkpoint_seq = head->checkpoint_seq;
        state->checkpoint_at_ms = head->checkpoint_at_ms;
        state->shipped_seq = head->shipped_seq;
        memcpy(state->sha256, head->sha256.data, AUDIT_HASH);
        if (head->first_seq > 1)
            memcpy(state->before_first, head->before_first_sha256.data, AUDIT_HASH);
    }
    pb_free(msg);
    return whole ? OK : FAIL(STORE_CORRUPT, 0);
}

static err_t audit_load_key(struct audit *audit)
{
    const Mortise__Control__AuditKey *record;
    ProtobufCMessage *msg = NULL;
    err_t err;

    TRY(vault_get(audit->vault, VAULT_AUDIT_KEY, &msg, NULL));
    record = MSG_AS_CONST(Mortise__Control__AuditKey, mortise__control__audit_key__descriptor, msg);
    err = key_from_der(msg_view(record->key), &audit->key);
    audit->public_key = mem_dup(record->public_key.data, record->public_key.len);
    audit->public_key_len = record->public_key.len;
    mem_wipe(record->key.data, record->key.len);
    pb_free(msg);
    return err_is_ok(err) ? OK : FAIL(STORE_CORRUPT, err.sub);
}

/* The last record is the one that the head tells of, and nothing is behind it. */
static bool audit_ends_well(struct audit *audit)
{
    Mortise__V1__AuditRecord *record = NULL;
    uint8_t sha256[AUDIT_HASH];
    err_t err = audit_hash_at(audit, audit->state.seq, sha256);

    if (!err_is_ok(err) || memcmp(sha256, audit->state.sha256, sizeof(sha256)) != 0)
        return false;
    err = audit_read(audit, audit->state.seq + 1, &record);
    if (err_is_ok(err))
        pb_free(&record->base);
    return err_is(err, E_NOT_FOUND);
}

/* Whether there is anything at all of an audit log. */
static bool audit_has_parts(const struct audit *audit)
{
    static const char *const places[] = {VAULT_AUDIT_HEAD, VAULT_AUDIT_KEY, VAULT_AUDIT};
    size_t num = 0;

    for (size_t i = 0; i < ARRAY_LEN(places) && num == 0; i++) {
        struct store_items items;

        if (!err_is_ok(store_list_page(vault_store(audit->vault), places[i], "", 1, &items)))
            return true;
        num = items.num;
        store_items_fini(&items);
    }
    return num > 0;
}

/* A log is begun with the store and never later: one that begins by itself where there is none
 * would be the way to be rid of one. */
static err_t audit_load(struct audit *audit)
{
    err_t err = audit_load_head(audit);

    if (err_is_ok(err))
        err = audit_load_key(audit);
    if (err_is(err, E_NOT_FOUND))
        return FAIL(AUDIT_MISSING, audit_has_parts(audit) ? 1 : 0);
    TRY(err);
    audit->broken = !audit_ends_well(audit);
    if (audit->broken)
        log_error("audit", "end_is_missing", LOG_UINT("last", audit->state.seq));
    if (audit->state.seq > audit->state.checkpoint_seq)
        audit->unsigned_since_ms = clock_mono_ms(audit->clock);
    return OK;
}

err_t audit_open(const struct audit_params *params, struct audit **out)
{
    struct audit *audit = mem_zalloc(sizeof(*audit));
    err_t err;

    audit->vault = params->vault;
    audit->clock = params->clock;
    audit->keep = params->keep;
    audit->keep_s = params->keep_s;
    list_init(&audit->expected);
    audit_counts_init(&audit->counts);
    mortise__v1__audit_head__init(&audit->head);
    audit->watch =
        (struct store_watch){.prefix = VAULT_AUDIT_HEAD, .fn = audit_on_stored, .arg = audit};
    audit->journal =
        (struct vault_journal){.add = audit_on_transaction, .done = audit_on_done, .arg = audit};
    store_watch(vault_store(params->vault), &audit->watch);
    vault_set_journal(params->vault, &audit->journal);
    err = audit_load(audit);
    if (!err_is_ok(err)) {
        audit->num_own = 0;
        audit->unsigned_since_ms = 0;
        audit_close(audit);
        return err;
    }
    *out = audit;
    return OK;
}

void audit_close(struct audit *audit)
{
    if (audit == NULL)
        return;
    audit_write_counts(audit, true);
    if (audit->unsigned_since_ms != 0 && !err_is_ok(audit_checkpoint(audit)))
        log_warn("audit", "not_signed", LOG_UINT("last", audit->state.seq));
    vault_set_journal(audit->vault, NULL);
    store_unwatch(&audit->watch);
    while (!list_empty(&audit->expected))
        audit_expected_free(LIST_ITEM(audit->expected.next, struct audit_expected, link));
    audit_counts_fini(&audit->counts);
    EVP_PKEY_free(audit->key);
    mem_free(audit->public_key);
    mem_free(audit);
}
