/* The audit log: each change with its record in one transaction or neither, refusals that cost
 * little however many there are, checkpoints, purges, and a verifier that names the first record
 * that is wrong, whatever was done to it. Drives: D6, R40, R51, R52. */
#include "control/audit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/bytestring.h>

#include "certs/key.h"
#include "control/msg.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"
#include "test/unit/control/fixture.h"

#define KEEP 2000

struct test {
    struct fixture *fixture;
    struct audit *audit;
};

static void test_open(struct test *test)
{
    const struct audit_params params = {
        .vault = test->fixture->vault,
        .clock = &test->fixture->clock.clock,
        .keep = KEEP,
        .keep_s = 86400,
    };

    assert_ok(audit_open(&params, &test->audit));
}

static int setup(void **state)
{
    struct test *test = mem_zalloc(sizeof(*test));
    struct vault_batch batch = {0};

    test->fixture = fixture_new();
    assert_ok(audit_create(test->fixture->vault, &batch, "mesh.test", FIXTURE_NOW_S));
    assert_ok(vault_commit(test->fixture->vault, &batch, NULL));
    vault_batch_fini(&batch);
    test_open(test);
    *state = test;
    return 0;
}

static int teardown(void **state)
{
    struct test *test = *state;

    fixture_stop(test->fixture);
    audit_close(test->audit);
    fixture_free(test->fixture);
    mem_free(test);
    return 0;
}

static Mortise__V1__AuditRecord *read_at(struct test *test, uint64_t seq)
{
    Mortise__V1__AuditRecord *record = NULL;

    assert_ok(audit_read(test->audit, seq, &record));
    return record;
}

static void assert_record(struct test *test, uint64_t seq, enum audit_action action,
                          const char *who, const char *object)
{
    Mortise__V1__AuditRecord *record = read_at(test, seq);

    assert_string_equal(record->action, audit_word(action));
    assert_string_equal(record->who, who);
    assert_string_equal(record->object, object);
    assert_int_equal(record->seq, seq);
    pb_free(&record->base);
}

static uint64_t last(const struct test *test)
{
    return audit_head(test->audit)->seq;
}

static EVP_PKEY *public_key(const struct test *test)
{
    struct bytes der = audit_public_key(test->audit);
    CBS cbs;
    EVP_PKEY *key;

    CBS_init(&cbs, der.ptr, der.len);
    key = EVP_parse_public_key(&cbs);
    assert_non_null(key);
    return key;
}

/* The whole log, as a list. */
struct chain {
    Mortise__V1__AuditRecord *records[KEEP * 2];
    size_t num;
};

static struct chain *chain_of(struct test *test)
{
    struct chain *chain = mem_zalloc(sizeof(*chain));

    for (uint64_t seq = audit_head(test->audit)->first_seq; seq <= last(test); seq++)
        chain->records[chain->num++] = read_at(test, seq);
    return chain;
}

static void chain_free(struct chain *chain)
{
    for (size_t i = 0; i < chain->num; i++)
        pb_free(&chain->records[i]->base);
    mem_free(chain);
}

/* 0: it is whole; otherwise the record that is named. */
static uint64_t chain_verify(struct test *test, const struct chain *chain, bool with_head)
{
    struct audit_verifier verifier = {.key = public_key(test)};
    bool ok = true;

    for (size_t i = 0; i < chain->num && ok; i++)
        ok = audit_verifier_take(&verifier, chain->records[i]);
    ok = ok && audit_verifier_end(&verifier, with_head ? audit_head(test->audit) : NULL, false);
    EVP_PKEY_free(verifier.key);
    assert_true(ok == (verifier.fault[0] == '\0'));
    return ok ? 0 : verifier.bad_seq;
}

static void assert_whole(struct test *test)
{
    struct chain *chain = chain_of(test);

    assert_int_equal(chain_verify(test, chain, true), 0);
    chain_free(chain);
}

static void put(struct test *test, const char *object)
{
    assert_ok(
        audit_put(test->audit,
                  &(struct audit_entry){.action = AUDIT_BACKUP, .who = "uid:0", .object = object}));
}

/* ---- changes ---- */

static void test_change_carries_its_record(void **state)
{
    struct test *test = *state;
    const char *const names[] = {"portal"};
    uint8_t before[AUDIT_HASH] = {1}, after[AUDIT_HASH] = {2};
    Mortise__V1__AuditRecord *record;
    char weaker[] = "link a: TLS1_3 -> TLS1_2";
    char *const lines[] = {weaker};
    uint64_t epoch;

    fixture_start(test->fixture);
    audit_expect(test->audit, VAULT_EPOCHS,
                 &(struct audit_entry){
                     .action = AUDIT_ROTATE,
                     .who = "spiffe://mesh.test/mortise/admin/alice",
                     .role = "operator",
                     .source = "192.0.2.1:4711",
                     .object = "portal",
                     .message = "why\nnot",
                     .before = before,
                     .after = after,
                     .weaker = lines,
                     .num_weaker = 1,
                     .version = 7,
                 });
    assert_non_null(audit_expected(test->audit, NULL));
    assert_ok(registry_rotate(test->fixture->registry, names, 1, 0, &epoch));
    assert_null(audit_expected(test->audit, NULL));
    record = read_at(test, last(test));
    assert_string_equal(record->who, "spiffe://mesh.test/mortise/admin/alice");
    assert_string_equal(record->role, "operator");
    assert_string_equal(record->source, "192.0.2.1:4711");
    assert_string_equal(record->action, "rotate");
    assert_string_equal(record->object, "portal");
    assert_string_equal(record->message, "why\\nnot");
    assert_int_equal(record->outcome, MORTISE__V1__AUDIT_RECORD__OUTCOME__OK);
    assert_memory_equal(record->before_sha256.data, before, AUDIT_HASH);
    assert_memory_equal(record->after_sha256.data, after, AUDIT_HASH);
    assert_int_equal(record->n_weaker, 1);
    assert_string_equal(record->weaker[0], weaker);
    assert_int_equal(record->version, 7);
    assert_int_equal(record->at_ms, FIXTURE_NOW_S * 1000);
    pb_free(&record->base);
    assert_whole(test);
}

static void test_change_that_nobody_announced_is_on_record(void **state)
{
    struct test *test = *state;
    const char *const names[] = {"portal"};
    uint64_t before, epoch;

    fixture_start(test->fixture);
    before = last(test);
    assert_ok(registry_rotate(test->fixture->registry, names, 1, 0, &epoch));
    assert_int_equal(last(test), before + 1);
    assert_record(test, before + 1, AUDIT_ROTATE, AUDIT_OURSELVES, VAULT_EPOCHS);
    /* What is no change of the mesh has none. */
    registry_tick(test->fixture->registry);
    assert_int_equal(last(test), before + 1);
    assert_whole(test);
}

static void test_entry_of_another_record_is_not_carried(void **state)
{
    struct test *test = *state;
    const char *const names[] = {"portal"};
    uint64_t epoch;

    fixture_start(test->fixture);
    audit_expect(test->audit, VAULT_ADMINS,
                 &(struct audit_entry){.action = AUDIT_ADMIN_ROTATE, .who = "uid:7"});
    assert_ok(registry_rotate(test->fixture->registry, names, 1, 0, &epoch));
    assert_record(test, last(test), AUDIT_ROTATE, AUDIT_OURSELVES, VAULT_EPOCHS);
    assert_non_null(audit_expected(test->audit, NULL));
    audit_forget(test->audit, NULL);
    assert_null(audit_expected(test->audit, NULL));
}

static void test_each_certificate_has_a_record(void **state)
{
    struct test *test = *state;
    Mortise__Control__Issuance issuance = MORTISE__CONTROL__ISSUANCE__INIT;
    struct vault_batch batches[3] = {{0}, {0}, {0}};
    const struct vault_batch *list[] = {&batches[0], &batches[1], &batches[2]};
    static const char *const paths[] = {"cert/0a", "cert/0b", "cert/0c"};
    uint64_t before;

    fixture_start(test->fixture);
    before = last(test);
    for (size_t i = 0; i < 3; i++)
        assert_ok(vault_batch_put(test->fixture->vault, &batches[i], paths[i], &issuance.base,
                                  STORE_ABSENT));
    audit_expect(test->audit, "cert/0c",
                 &(struct audit_entry){.action = AUDIT_CERTIFICATE_RENEW, .who = "c"});
    audit_expect(test->audit, "cert/0a",
                 &(struct audit_entry){.action = AUDIT_CERTIFICATE_RENEW, .who = "a"});
    assert_ok(vault_commit_all(test->fixture->vault, list, 3));
    assert_int_equal(last(test), before + 3);
    assert_record(test, before + 1, AUDIT_CERTIFICATE_RENEW, "a", "");
    assert_record(test, before + 2, AUDIT_CERTIFICATE_ISSUE, AUDIT_OURSELVES, "cert/0b");
    assert_record(test, before + 3, AUDIT_CERTIFICATE_RENEW, "c", "");
    for (size_t i = 0; i < 3; i++)
        vault_batch_fini(&batches[i]);
    assert_whole(test);
}

static void test_neither_change_nor_record_when_the_commit_fails(void **state)
{
    struct test *test = *state;
    Mortise__Control__AdminEpoch admins = MORTISE__CONTROL__ADMIN_EPOCH__INIT;
    uint64_t before;

    fixture_start(test->fixture);
    before = last(test);
    audit_expect(test->audit, VAULT_ADMINS,
                 &(struct audit_entry){.action = AUDIT_ADMIN_ROTATE, .who = "uid:7"});
    assert_code(vault_put(test->fixture->vault, VAULT_ADMINS, &admins.base, 12345, NULL),
                STORE_CONFLICT);
    assert_int_equal(last(test), before);
    assert_code(audit_read(test->audit, before + 1, &(Mortise__V1__AuditRecord *){NULL}),
                NOT_FOUND);
    /* It was not said in vain: the next one carries it. */
    assert_ok(vault_put(test->fixture->vault, VAULT_ADMINS, &admins.base, STORE_ABSENT, NULL));
    assert_record(test, before + 1, AUDIT_ADMIN_ROTATE, "uid:7", "");
    assert_whole(test);
}

static void test_full_disk_refuses_the_change_and_keeps_what_was_refused(void **state)
{
    struct test *test = *state;
    Mortise__Control__AdminEpoch admins = MORTISE__CONTROL__ADMIN_EPOCH__INIT;
    uint64_t before = last(test);

    store_mem_set_unwritable(test->fixture->store, true);
    assert_code(vault_put(test->fixture->vault, VAULT_ADMINS, &admins.base, STORE_ABSENT, NULL),
                STORE_UNWRITABLE);
    assert_code(audit_put(test->audit, &(struct audit_entry){.action = AUDIT_BACKUP}),
                STORE_UNWRITABLE);
    audit_count(test->audit, &(struct audit_entry){.action = AUDIT_ADMIN_ROTATE, .who = "uid:7"},
                "store_unwritable", false);
    audit_tick(test->audit);
    assert_int_equal(last(test), before);
    store_mem_set_unwritable(test->fixture->store, false);
    audit_tick(test->audit); /* it was refused, and that is told now */
    assert_record(test, before + 1, AUDIT_ADMIN_ROTATE, "uid:7", "");
    assert_whole(test);
}

/* A store that cannot take the record: here its head is another one than we know. */
static void test_change_is_refused_when_its_record_cannot_be_written(void **state)
{
    struct test *test = *state;
    Mortise__Control__AdminEpoch admins = MORTISE__CONTROL__ADMIN_EPOCH__INIT;
    struct buf value = {0};
    uint64_t before, version;

    fixture_start(test->fixture);
    before = last(test);
    assert_ok(store_get(test->fixture->store, VAULT_AUDIT_HEAD, &value, &version));
    /* A record is there already where the next one has to go. */
    assert_ok(store_put_if(test->fixture->store, "audit/00000000000000000099", buf_view(&value),
                           STORE_ABSENT, NULL));
    while (last(test) < 98)
        put(test, "");
    before = last(test);
    assert_code(vault_put(test->fixture->vault, VAULT_ADMINS, &admins.base, STORE_ABSENT, NULL),
                STORE_CONFLICT);
    assert_int_equal(last(test), before);
    buf_fini(&value);
    buf_init(&value, 0);
    assert_code(store_get(test->fixture->store, VAULT_ADMINS, &value, NULL), NOT_FOUND);
    buf_fini(&value);
    assert_ok(store_delete_if(test->fixture->store, "audit/00000000000000000099", STORE_ANY));
    assert_ok(vault_put(test->fixture->vault, VAULT_ADMINS, &admins.base, STORE_ABSENT, NULL));
    assert_int_equal(last(test), before + 1);
}

static void test_log_goes_on_after_a_restart(void **state)
{
    struct test *test = *state;
    uint64_t before;

    put(test, "one");
    audit_close(test->audit); /* signs */
    test_open(test);
    before = last(test);
    assert_int_equal(audit_head(test->audit)->checkpoint_seq, before);
    put(test, "two");
    assert_record(test, before + 1, AUDIT_BACKUP, "uid:0", "two");
    assert_false(audit_is_broken(test->audit));
    assert_whole(test);
}

/* A call that ends while another is about to commit takes nothing of it along. */
static void test_what_a_call_expects_is_dropped_at_its_own_end(void **state)
{
    struct test *test = *state;
    struct audit_entry entry = {.action = AUDIT_RESTORE_ACCEPT, .who = "uid:1"};
    int one, other;

    entry.object = "epochs";
    entry.call = &one;
    audit_expect(test->audit, VAULT_EPOCHS, &entry);
    entry.object = "store";
    audit_expect(test->audit, VAULT_HISTORY, &entry);
    entry.object = "not mine";
    entry.call = &other;
    audit_expect(test->audit, VAULT_ADMINS, &entry);
    assert_string_equal(audit_expected(test->audit, &other)->object, "not mine");
    audit_forget(test->audit, &other);
    assert_null(audit_expected(test->audit, &other));
    assert_string_equal(audit_expected(test->audit, &one)->object, "epochs");
    audit_forget(test->audit, &one);
    assert_null(audit_expected(test->audit, &one));

    assert_false(audit_has_only_asked(test->audit, NULL));
    audit_only_asks(test->audit, &one);
    audit_forget(test->audit, &other);
    assert_true(audit_has_only_asked(test->audit, &one));
    assert_false(audit_has_only_asked(test->audit, &other));
    audit_forget(test->audit, &one);
    assert_false(audit_has_only_asked(test->audit, &one));
}

static void test_store_without_a_log_does_not_open(void **state)
{
    struct test *test = *state;
    struct audit_params params = {.vault = test->fixture->vault,
                                  .clock = &test->fixture->clock.clock};
    struct store_items items;
    struct audit *audit;
    err_t err;

    audit_close(test->audit);
    assert_ok(store_delete_if(test->fixture->store, VAULT_AUDIT_HEAD, STORE_ANY));
    err = audit_open(&params, &audit);
    assert_int_equal(err.code, E_AUDIT_MISSING);
    assert_int_equal(err.sub, 1); /* records are there: it was cut */
    test->audit = NULL;
    /* All of it gone is no beginning. */
    assert_ok(store_list(test->fixture->store, VAULT_AUDIT, &items));
    for (size_t i = 0; i < items.num; i++)
        assert_ok(store_delete_if(test->fixture->store, items.items[i].key, STORE_ANY));
    store_items_fini(&items);
    assert_int_equal(audit_open(&params, &audit).sub, 1); /* its key is there */
    assert_ok(store_delete_if(test->fixture->store, VAULT_AUDIT_KEY, STORE_ANY));
    err = audit_open(&params, &audit);
    assert_int_equal(err.code, E_AUDIT_MISSING);
    assert_int_equal(err.sub, 0);
    assert_ok(store_list(test->fixture->store, "", &items));
    assert_int_equal(items.num, 0); /* nor was one begun */
    store_items_fini(&items);
}

/* ---- refusals ---- */

static void refuse(struct test *test, unsigned source, bool stranger)
{
    char host[32];

    (void)snprintf(host, sizeof(host), "192.0.%u.%u", source / 250, source % 250);
    audit_count(test->audit,
                &(struct audit_entry){
                    .action = AUDIT_CERTIFICATE_ISSUE, .who = AUDIT_STRANGER, .source = host},
                "token_unknown", stranger);
}

static void test_refusal_is_told_once_and_then_counted(void **state)
{
    struct test *test = *state;
    Mortise__V1__AuditRecord *record;
    uint64_t before = last(test);

    for (unsigned i = 0; i < 1000; i++)
        refuse(test, 1, true);
    audit_tick(test->audit);
    assert_int_equal(last(test), before + 1);
    record = read_at(test, before + 1);
    assert_int_equal(record->outcome, MORTISE__V1__AUDIT_RECORD__OUTCOME__REFUSED);
    assert_string_equal(record->reason, "token_unknown");
    assert_string_equal(record->source, "192.0.0.1");
    pb_free(&record->base);
    for (unsigned i = 0; i < 500; i++)
        refuse(test, 1, true);
    fixture_pass(test->fixture, 30);
    audit_tick(test->audit);
    assert_int_equal(last(test), before + 1);
    fixture_pass(test->fixture, AUDIT_WINDOW_MS / 1000);
    audit_flush(test->audit);
    record = read_at(test, before + 2);
    assert_int_equal(record->count, 500);
    assert_int_equal(record->since_ms, FIXTURE_NOW_S * 1000);
    pb_free(&record->base);
    /* Quiet for a while: forgotten, and the next one is told at once again. */
    fixture_pass(test->fixture, AUDIT_WINDOW_MS / 1000);
    audit_flush(test->audit);
    assert_int_equal(last(test), before + 2);
    refuse(test, 1, true);
    audit_flush(test->audit);
    assert_int_equal(last(test), before + 3);
    assert_whole(test);
}

static void test_flood_of_strangers_costs_little(void **state)
{
    struct test *test = *state;
    uint64_t before = last(test);

    for (unsigned round = 0; round < 60; round++) { /* five minutes of it */
        for (unsigned i = 0; i < 10000; i++)
            refuse(test, i, true);
        fixture_pass(test->fixture, 5);
        audit_flush(test->audit);
    }
    assert_in_range(last(test) - before, AUDIT_STRANGERS_MAX, 2 * (AUDIT_STRANGERS_MAX + 1));
    /* Whom we know is told of all the same. */
    before = last(test);
    audit_count(test->audit,
                &(struct audit_entry){.action = AUDIT_MESH_APPLY, .who = "uid:7", .source = "unix"},
                "mesh: is missing", false);
    audit_flush(test->audit);
    assert_record(test, last(test), AUDIT_MESH_APPLY, "uid:7", "");
    assert_whole(test);
}

/* ---- checkpoints and purges ---- */

static void test_checkpoint_comes_with_the_thousandth_record(void **state)
{
    struct test *test = *state;
    uint64_t signed_seq = audit_head(test->audit)->checkpoint_seq;

    while (audit_head(test->audit)->checkpoint_seq == signed_seq)
        put(test, "");
    assert_int_equal(last(test), signed_seq + AUDIT_CHECKPOINT_RECORDS + 1);
    assert_record(test, last(test), AUDIT_CHECKPOINT, AUDIT_OURSELVES, "");
    assert_whole(test);
}

static void test_checkpoint_comes_after_a_minute(void **state)
{
    struct test *test = *state;
    uint64_t before;

    put(test, "");
    before = last(test);
    fixture_pass(test->fixture, 59);
    audit_tick(test->audit);
    assert_int_equal(last(test), before);
    fixture_pass(test->fixture, 1);
    audit_tick(test->audit);
    assert_record(test, before + 1, AUDIT_CHECKPOINT, AUDIT_OURSELVES, "");
    /* And no other one while nothing happens. */
    fixture_pass(test->fixture, 3600);
    audit_tick(test->audit);
    assert_int_equal(last(test), before + 1);
    assert_whole(test);
}

static void test_purge_leaves_a_chain_that_is_whole(void **state)
{
    struct test *test = *state;
    struct chain *chain;

    for (unsigned i = 0; i < KEEP + KEEP / 10; i++)
        put(test, "");
    audit_tick(test->audit);
    assert_record(test, last(test), AUDIT_AUDIT_PURGE, AUDIT_OURSELVES, "");
    assert_true(audit_head(test->audit)->first_seq > 1);
    assert_in_range(last(test) - audit_head(test->audit)->first_seq, KEEP - 10, KEEP + 10);
    assert_code(audit_read(test->audit, 1, &(Mortise__V1__AuditRecord *){NULL}), NOT_FOUND);
    chain = chain_of(test);
    assert_int_equal(chain_verify(test, chain, true), 0);
    /* Without the record that tells of it, its beginning was cut off. */
    pb_free(&chain->records[--chain->num]->base);
    assert_int_equal(chain_verify(test, chain, false), audit_head(test->audit)->first_seq - 1);
    chain_free(chain);
    audit_close(test->audit);
    test_open(test);
    assert_whole(test);
}

static void test_purge_waits_for_what_is_not_shipped(void **state)
{
    struct test *test = *state;

    for (unsigned i = 0; i < 20; i++)
        put(test, "");
    audit_set_ships(test->audit, true);
    assert_ok(audit_purge(test->audit, 10, NULL));
    assert_int_equal(audit_head(test->audit)->first_seq, 1);
    audit_note_shipped(test->audit, 5);
    assert_ok(audit_purge(test->audit, 10, NULL));
    assert_int_equal(audit_head(test->audit)->first_seq, 6);
    assert_whole(test);
}

static void test_old_records_go_a_thousand_at_a_time(void **state)
{
    struct test *test = *state;

    for (unsigned i = 0; i < 1500; i++)
        put(test, "");
    audit_tick(test->audit);
    assert_int_equal(audit_head(test->audit)->first_seq, 1);
    fixture_pass(test->fixture, 86401);
    audit_tick(test->audit);
    assert_int_equal(audit_head(test->audit)->first_seq, AUDIT_PURGE_MAX + 1);
    audit_tick(test->audit);
    assert_int_equal(audit_head(test->audit)->first_seq, AUDIT_PURGE_MAX + 1);
    assert_whole(test);
}

/* ---- a log that was tampered with ---- */

/* Twenty records and a checkpoint. */
static struct chain *twenty(struct test *test)
{
    for (unsigned i = 0; i < 19; i++)
        put(test, "store");
    assert_ok(audit_put(test->audit,
                        &(struct audit_entry){.action = AUDIT_AUDIT_EXPORT, .who = "uid:0"}));
    return chain_of(test);
}

static void test_verifier_takes_what_is_whole(void **state)
{
    struct test *test = *state;
    struct chain *chain = twenty(test);

    assert_int_equal(chain->num, 21);
    assert_int_equal(chain_verify(test, chain, true), 0);
    assert_int_equal(chain_verify(test, chain, false), 0);
    chain_free(chain);
}

static void set_text(char **field, const char *text)
{
    if ((*field)[0] != '\0')
        mem_free(*field);
    *field = mem_strdup(text);
}

static void test_verifier_names_an_edited_record(void **state)
{
    struct test *test = *state;
    struct chain *chain = twenty(test);

    set_text(&chain->records[9]->who, "uid:1");
    assert_int_equal(chain_verify(test, chain, true), 10);
    assert_int_equal(chain_verify(test, chain, false), 10);
    chain_free(chain);
}

static void test_verifier_names_the_last_record_when_edited(void **state)
{
    struct test *test = *state;
    struct chain *chain = twenty(test);

    set_text(&chain->records[20]->who, "uid:1");
    assert_int_equal(chain_verify(test, chain, false), 21); /* its signature */
    chain_free(chain);
    put(test, "behind it");
    chain = chain_of(test);
    set_text(&chain->records[21]->who, "uid:1");
    assert_int_equal(chain_verify(test, chain, true), 22); /* the head */
    chain_free(chain);
}

static void test_verifier_names_a_deleted_record(void **state)
{
    struct test *test = *state;
    struct chain *chain = twenty(test);

    pb_free(&chain->records[9]->base);
    memmove(&chain->records[9], &chain->records[10], 11 * sizeof(chain->records[0]));
    chain->num--;
    assert_int_equal(chain_verify(test, chain, true), 10);
    chain_free(chain);
}

static void test_verifier_names_records_that_changed_places(void **state)
{
    struct test *test = *state;
    struct chain *chain = twenty(test);
    Mortise__V1__AuditRecord *other = chain->records[9];

    chain->records[9] = chain->records[10];
    chain->records[10] = other;
    assert_int_equal(chain_verify(test, chain, true), 10);
    /* Also when they were given each other's number. */
    chain->records[9]->seq = 10;
    chain->records[10]->seq = 11;
    assert_in_range(chain_verify(test, chain, true), 9, 10);
    chain_free(chain);
}

static void test_verifier_names_what_was_cut_off(void **state)
{
    struct test *test = *state;
    struct chain *chain = twenty(test);

    while (chain->num > 15)
        pb_free(&chain->records[--chain->num]->base);
    assert_int_equal(chain_verify(test, chain, true), 16);
    assert_int_equal(chain_verify(test, chain, false), 16);
    chain_free(chain);
}

static void test_verifier_names_a_beginning_that_was_cut_off(void **state)
{
    struct test *test = *state;
    struct chain *chain = twenty(test);

    for (size_t i = 0; i < 5; i++)
        pb_free(&chain->records[i]->base);
    chain->num -= 5;
    memmove(chain->records, &chain->records[5], chain->num * sizeof(chain->records[0]));
    assert_int_equal(chain_verify(test, chain, false), 5);
    chain_free(chain);
}

static void test_verifier_names_an_inserted_record(void **state)
{
    struct test *test = *state;
    struct chain *chain = twenty(test);

    memmove(&chain->records[11], &chain->records[10], 11 * sizeof(chain->records[0]));
    chain->records[10] = read_at(test, 10);
    chain->num++;
    assert_int_equal(chain_verify(test, chain, true), 10);
    chain_free(chain);
}

/* Who has no key can make a chain that fits together; it is not signed. */
static void test_verifier_refuses_a_chain_of_another_key(void **state)
{
    struct test *test = *state;
    struct chain *chain = twenty(test);
    EVP_PKEY *other = NULL;
    uint8_t sha256[AUDIT_HASH];

    set_text(&chain->records[9]->who, "uid:1");
    for (size_t i = 10; i < chain->num; i++) {
        assert_ok(audit_hash(chain->records[i - 1], sha256));
        memcpy(chain->records[i]->previous_sha256.data, sha256, AUDIT_HASH);
    }
    assert_int_equal(chain_verify(test, chain, false), 21);
    assert_ok(key_generate(&other));
    assert_false(audit_is_signed(other, chain->records[20]));
    EVP_PKEY_free(other);
    /* Nor is one without its signatures taken. */
    mem_free(chain->records[20]->signature.data);
    chain->records[20]->signature = (ProtobufCBinaryData){0, NULL};
    assert_int_equal(chain_verify(test, chain, false), 21);
    chain_free(chain);
}

static void test_purge_that_is_not_signed_excuses_nothing(void **state)
{
    struct test *test = *state;
    struct audit_verifier verifier = {.key = public_key(test)};
    struct chain *chain;

    for (unsigned i = 0; i < 20; i++)
        put(test, "");
    assert_ok(audit_purge(test->audit, 10, NULL));
    chain = chain_of(test);
    chain->records[chain->num - 1]->purged_seq = 9; /* as if nothing but 9 were gone */
    for (size_t i = 0; i + 1 < chain->num; i++)
        assert_true(audit_verifier_take(&verifier, chain->records[i]));
    assert_false(audit_verifier_take(&verifier, chain->records[chain->num - 1]));
    EVP_PKEY_free(verifier.key);
    chain_free(chain);
}

static void test_log_whose_end_was_cut_is_told_and_goes_on(void **state)
{
    struct test *test = *state;
    struct audit_verifier verifier = {.key = NULL};
    char path[64];
    uint64_t cut;

    put(test, "one");
    put(test, "two");
    audit_close(test->audit);
    test_open(test);
    cut = last(test);
    audit_close(test->audit);
    (void)snprintf(path, sizeof(path), "audit/%020llu", (unsigned long long)cut);
    assert_ok(store_delete_if(test->fixture->store, path, STORE_ANY));
    test_open(test);
    assert_true(audit_is_broken(test->audit));
    put(test, "three");
    for (uint64_t seq = 1; seq <= last(test); seq++) {
        Mortise__V1__AuditRecord *record;

        if (!err_is_ok(audit_read(test->audit, seq, &record)))
            continue;
        (void)audit_verifier_take(&verifier, record);
        pb_free(&record->base);
    }
    assert_false(audit_verifier_end(&verifier, audit_head(test->audit), false));
    assert_int_equal(verifier.bad_seq, cut);
}

static void test_record_in_json_is_the_same_record(void **state)
{
    struct test *test = *state;
    struct chain *chain = twenty(test);

    for (size_t i = 0; i < chain->num; i++) {
        CLEANUP(buf_fini) struct buf line = {0};
        struct faults faults = {.num = 0};
        ProtobufCMessage *msg = NULL;

        assert_ok(audit_json(chain->records[i], &line));
        assert_null(memchr(buf_view(&line).ptr, '\n', buf_view(&line).len - 1));
        assert_ok(json_pb_parse(JSON_PB_JSON, "line", buf_view(&line),
                                &mortise__v1__audit_record__descriptor, &faults, &msg));
        assert_true(pb_equal(msg, &chain->records[i]->base));
        pb_free(msg);
        faults_fini(&faults);
    }
    chain_free(chain);
}

static void test_words_are_told_apart(void **state)
{
    (void)state;
    for (unsigned i = 0; i < AUDIT_ACTION_NUM; i++) {
        assert_true(strlen(audit_about((enum audit_action)i)) > 0);
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(audit_word((enum audit_action)i),
                                    audit_word((enum audit_action)j));
    }
    assert_int_equal(audit_of_method("/mortise.v1.OperatorService/Apply"), AUDIT_MESH_APPLY);
    assert_int_equal(audit_of_method("/mortise.v1.OperatorService/Status"), AUDIT_ACTION_NUM);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_change_carries_its_record),
        TEST(test_change_that_nobody_announced_is_on_record),
        TEST(test_entry_of_another_record_is_not_carried),
        TEST(test_each_certificate_has_a_record),
        TEST(test_neither_change_nor_record_when_the_commit_fails),
        TEST(test_full_disk_refuses_the_change_and_keeps_what_was_refused),
        TEST(test_change_is_refused_when_its_record_cannot_be_written),
        TEST(test_log_goes_on_after_a_restart),
        TEST(test_what_a_call_expects_is_dropped_at_its_own_end),
        TEST(test_store_without_a_log_does_not_open),
        TEST(test_refusal_is_told_once_and_then_counted),
        TEST(test_flood_of_strangers_costs_little),
        TEST(test_checkpoint_comes_with_the_thousandth_record),
        TEST(test_checkpoint_comes_after_a_minute),
        TEST(test_purge_leaves_a_chain_that_is_whole),
        TEST(test_purge_waits_for_what_is_not_shipped),
        TEST(test_old_records_go_a_thousand_at_a_time),
        TEST(test_verifier_takes_what_is_whole),
        TEST(test_verifier_names_an_edited_record),
        TEST(test_verifier_names_the_last_record_when_edited),
        TEST(test_verifier_names_a_deleted_record),
        TEST(test_verifier_names_records_that_changed_places),
        TEST(test_verifier_names_what_was_cut_off),
        TEST(test_verifier_names_a_beginning_that_was_cut_off),
        TEST(test_verifier_names_an_inserted_record),
        TEST(test_verifier_refuses_a_chain_of_another_key),
        TEST(test_purge_that_is_not_signed_excuses_nothing),
        TEST(test_log_whose_end_was_cut_is_told_and_goes_on),
        TEST(test_record_in_json_is_the_same_record),
        cmocka_unit_test(test_words_are_told_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
