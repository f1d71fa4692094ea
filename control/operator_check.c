/* The call of control/operator_service.h that examines the installation. Each finding is one line
 * for all sidecars: with thousands of them the first few are named. */
#include <string.h>

#include "control/build.h"
#include "control/health.h"
#include "control/mesh_trust.h"
#include "control/msg.h"
#include "control/operator_service.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

#define CHECK_NAMED 5    /* of those that something is found of */
#define CHECK_WEAK 160   /* bytes of what is weak about one of them */
#define CHECK_INSTANCE 8 /* characters of an instance that tell it from others */
#define CHECK_ISSUER_LEFT_S (INT64_C(60) * 86400)
#define CHECK_BROUGHT_LEFT_S (14 * 86400)
#define CHECK_ROOT_LEFT_S (INT64_C(365) * 86400)
#define CHECK_CONTROL_LEFT_S (INT64_C(6) * 3600)
#define CHECK_STAGE_S 3600 /* that a stage of a rotation takes at most when nobody holds it up */

struct check {
    struct operator_service *service;
    int64_t now_s;
    struct faults reasons;           /* why the control plane is not ready */
    Mortise__V1__CheckReport report; /* findings owned; their names are lent */
};

typedef Mortise__V1__Finding__State check_state;
#define CHECK_OK MORTISE__V1__FINDING__STATE__OK
#define CHECK_WARNING MORTISE__V1__FINDING__STATE__WARNING
#define CHECK_FAILED MORTISE__V1__FINDING__STATE__FAILED

/* `text` is taken. */
static void check_add(struct check *check, const char *area, const char *name, check_state state,
                      char *text, const char *hint)
{
    Mortise__V1__CheckReport *report = &check->report;
    Mortise__V1__Finding *finding = mem_alloc(sizeof(*finding));

    mortise__v1__finding__init(finding);
    finding->area = msg_lend(area);
    finding->name = msg_lend(name);
    finding->state = state;
    finding->text = text;
    if (state != CHECK_OK)
        finding->hint = msg_lend(hint);
    report->findings =
        mem_realloc(report->findings, (report->n_findings + 1) * sizeof(*report->findings));
    report->findings[report->n_findings++] = finding;
}

static void check_fini(struct check *check)
{
    for (size_t i = 0; i < check->report.n_findings; i++) {
        mem_free(check->report.findings[i]->text);
        mem_free(check->report.findings[i]);
    }
    mem_free(check->report.findings);
    faults_fini(&check->reasons);
}

/* Names of those that are found: the first few, and how many there are. */
struct check_names {
    struct buf text;
    size_t num;
};

/* Of `detail` at most `max` bytes. */
static void check_name(struct check_names *names, const char *name, const char *detail, int max)
{
    if (names->num++ < CHECK_NAMED)
        CHECK(err_is_ok(buf_printf(&names->text, "%s%s (%.*s)", names->num > 1 ? ", " : "", name,
                                   max, detail)));
}

/* Ends `names`. */
static char *check_say(struct check_names *names, const char *what)
{
    char *text;

    if (names->num > CHECK_NAMED)
        CHECK(
            err_is_ok(buf_printf(&names->text, " and %zu more", names->num - (size_t)CHECK_NAMED)));
    text = mem_printf("%.*s %s", (int)buf_size(&names->text),
                      (const char *)buf_view(&names->text).ptr, what);
    buf_fini(&names->text);
    return text;
}

/* ------------------------------------------------------------- control plane */

static void check_health(struct check *check)
{
    const struct operator_service *service = check->service;
    const struct faults *reasons = &check->reasons;

    health_faults(service->ca, service->vault, service->cert, &check->reasons);
    for (size_t i = 0; i < reasons->num; i++)
        check_add(check, "control plane", reasons->items[i].path, CHECK_FAILED,
                  mem_strdup(reasons->items[i].message), "docs/troubleshoot.md");
    if (reasons->num == 0)
        check_add(check, "control plane", "ready", CHECK_OK,
                  mem_strdup("can issue certificates and change the mesh"), "");
}

/* -------------------------------------------------------------- certificates */

static void check_expiry(struct check *check, const char *name, int64_t not_after, int64_t enough_s,
                         const char *hint)
{
    int64_t left_s = not_after - check->now_s;
    check_state state = left_s <= 0 ? CHECK_FAILED : left_s < enough_s ? CHECK_WARNING : CHECK_OK;
    bool is_days = left_s >= 2 * 86400;

    if (left_s <= 0)
        check_add(check, "certificates", name, state, mem_strdup("has expired"), hint);
    else
        check_add(check, "certificates", name, state,
                  mem_printf("expires in %lld %s", (long long)(left_s / (is_days ? 86400 : 3600)),
                             is_days ? "days" : "hours"),
                  hint);
}

static void check_certificates(struct check *check)
{
    const struct operator_service *service = check->service;

    if (ca_is_empty(service->ca))
        return; /* which is told above */
    check_expiry(check, "root", ca_root_not_after(service->ca), CHECK_ROOT_LEFT_S,
                 ca_is_external(service->ca) ? "a new root, and an issuer of it: docs/rotate.md"
                                             : "mortisectl rotate root --wait");
    check_expiry(check, "issuer", ca_issuer_not_after(service->ca), CHECK_ISSUER_LEFT_S,
                 ca_is_external(service->ca) ? "mortisectl ca csr, have it signed, ca import"
                                             : "mortisectl rotate issuer --wait");
    check_expiry(check, "control plane's own", server_cert_not_after(service->cert),
                 CHECK_CONTROL_LEFT_S, "mortisectl rotate control");
}

/* Nobody but an operator renews what an operator has brought: the first of them to expire. */
static void check_brought(struct check *check)
{
    const Mortise__V1__Mesh *mesh = registry_mesh(check->service->registry);
    const char *name = NULL, *kind = NULL;
    int64_t first = 0;

    for (size_t i = 0; i < mesh->n_keystores + mesh->n_truststores; i++) {
        bool keystore = i < mesh->n_keystores;
        size_t at = keystore ? i : i - mesh->n_keystores;
        int64_t expires =
            keystore ? registry_keystore_expires(check->service->registry, mesh->keystores[at])
                     : mesh_truststore_expires(mesh->truststores[at]);

        if (expires == 0 || (first != 0 && expires >= first))
            continue;
        first = expires;
        kind = keystore ? "keystore" : "truststore";
        name = keystore ? mesh->keystores[at]->name : mesh->truststores[at]->name;
    }
    if (first == 0)
        return;
    check_add(check, "certificates", "keystores and truststores",
              first <= check->now_s                         ? CHECK_FAILED
              : first - check->now_s < CHECK_BROUGHT_LEFT_S ? CHECK_WARNING
                                                            : CHECK_OK,
              first <= check->now_s
                  ? mem_printf("%s \"%s\" has expired", kind, name)
                  : mem_printf("%s \"%s\" is the first to expire, in %lld days", kind, name,
                               (long long)((first - check->now_s) / 86400)),
              "bring another one: docs/keystores.md");
}

/* ------------------------------------------------------------------ sidecars */

static bool check_refuses(const struct check *check, const struct workload *workload)
{
    (void)check;
    return workload->refused != NULL;
}

static bool check_is_behind(const struct check *check, const struct workload *workload)
{
    (void)check;
    return workload->refused == NULL && workload->xds.acked_version != workload->xds.wanted_version;
}

static bool check_is_not_ready(const struct check *check, const struct workload *workload)
{
    (void)check;
    return workload->status != NULL && !workload->status->ready;
}

static bool check_clock_is_off(const struct check *check, const struct workload *workload)
{
    (void)check;
    return skew_beyond(&workload->skew, DISCOVERY_CLOCK_LIMIT_MS);
}

/* Renewal is due at half of the life; a quarter is left. */
static bool check_expires(const struct check *check, const struct workload *workload)
{
    const Mortise__V1__SidecarStatus *status = workload->status;

    return status != NULL && status->certificate_not_after != 0 &&
           4 * (status->certificate_not_after - check->now_s) <
               status->certificate_not_after - status->certificate_not_before;
}

static bool check_cannot_renew(const struct check *check, const struct workload *workload)
{
    (void)check;
    return workload->status != NULL && workload->status->renewal_error[0] != '\0';
}

static bool check_is_other_build(const struct check *check, const struct workload *workload)
{
    (void)check;
    return strcmp(workload->build, BUILD_VERSION) != 0;
}

static bool check_is_away(const struct check *check, const struct workload *workload)
{
    (void)check;
    return workload->lost;
}

static bool check_refuses_files(const struct check *check, const struct workload *workload)
{
    const Mortise__V1__SidecarStatus *status = workload->status;

    (void)check;
    for (size_t i = 0; status != NULL && i < status->n_keystores; i++) {
        if (status->keystores[i]->refused[0] != '\0')
            return true;
    }
    return false;
}

static const struct check_row {
    const char *name;
    bool (*is_bad)(const struct check *check, const struct workload *workload);
    check_state state;
    const char *good, *bad, *hint;
} check_rows[] = {
    {"readiness", check_is_not_ready, CHECK_FAILED, "all carry traffic", "carry none",
     "their /readyz page says why"},
    {"configuration", check_refuses, CHECK_FAILED, "all take what they ought to have",
     "refuse what they ought to have", "mortisectl get workloads names the field"},
    {"in sync", check_is_behind, CHECK_WARNING, "all have the newest", "do not have the newest yet",
     "mortisectl get workloads -o wide"},
    {"connected", check_is_away, CHECK_WARNING, "all that were there are",
     "left within the last minute", "the sidecar's log says why"},
    {"clocks", check_clock_is_off, CHECK_FAILED, "all agree with ours", "are off",
     "set the time there; mortisectl get workloads -o wide shows by how much"},
    {"expiry", check_expires, CHECK_FAILED, "no certificate is near its end",
     "have less than a quarter of their certificate's life left",
     "their log says why they cannot renew (renew_failed)"},
    {"renewal", check_cannot_renew, CHECK_WARNING, "no renewal has failed",
     "could not renew when they tried last", "mortisectl get workloads says why"},
    {"keystore files", check_refuses_files, CHECK_WARNING,
     "those on sidecars' disks are in force as they are",
     "refuse the files of a keystore on their disk, and show the former ones",
     "their log says why (keystore_refused); mortisectl get workloads -o json has it, too"},
    {"build", check_is_other_build, CHECK_WARNING, "all are of the control plane's version",
     "are of another version than the control plane", "finish the upgrade"},
};

static void check_sidecars_by(struct check *check, const struct check_row *row)
{
    struct check_names names = {.num = 0};
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, registry_workloads(check->service->registry)) {
        const struct workload *workload = LIST_ITEM(pos, struct workload, link);

        if ((!workload->lost || row->is_bad == check_is_away) && row->is_bad(check, workload))
            check_name(&names, workload->subsystem, workload->instance, CHECK_INSTANCE);
    }
    if (names.num == 0)
        check_add(check, "sidecars", row->name, CHECK_OK, mem_strdup(row->good), "");
    else
        check_add(check, "sidecars", row->name, row->state, check_say(&names, row->bad), row->hint);
}

/* Whether the subsystem has had a sidecar at some time. */
static bool check_was_there(const struct check *check, const char *subsystem)
{
    size_t num;

    (void)registry_addresses(check->service->registry, subsystem, &num);
    return num > 0;
}

/* A link that leads to nobody carries nothing. One that waits for its first sidecar is not broken:
 * a mesh begins with all of them like that. */
static void check_links(struct check *check)
{
    const Mortise__V1__Mesh *mesh = registry_mesh(check->service->registry);
    struct check_names names = {.num = 0}, waiting = {.num = 0};
    struct map present = {.entries = NULL};
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, registry_workloads(check->service->registry)) {
        struct workload *workload = LIST_ITEM(pos, struct workload, link);

        if (!workload->lost)
            (void)map_put(&present, workload->subsystem, workload);
    }
    for (size_t i = 0; i < mesh->n_links; i++) {
        const Mortise__V1__Link *link = mesh->links[i];

        const char *const ends[] = {link->server, link->client};
        const char *missing = NULL, *unborn = NULL;

        for (size_t j = ARRAY_LEN(ends); j-- > 0;) {
            if (map_get(&present, ends[j]) != NULL)
                continue;
            *(check_was_there(check, ends[j]) ? &missing : &unborn) = ends[j];
        }
        if (missing != NULL)
            check_name(&names, link->name, missing, MESH_NAME_MAX);
        else if (unborn != NULL)
            check_name(&waiting, link->name, unborn, MESH_NAME_MAX);
    }
    map_fini(&present);
    if (waiting.num > 0)
        check_add(check, "sidecars", "first sidecars", CHECK_WARNING,
                  check_say(&waiting, "wait for the first sidecar of an end"),
                  "start it, with a token of mortisectl token create, or remove a link that is not "
                  "wanted: mortisectl delete link");
    if (names.num == 0 && waiting.num == 0)
        check_add(check, "sidecars", "links", CHECK_OK,
                  mem_strdup("both ends of every link are connected"), "");
    else if (names.num > 0)
        check_add(check, "sidecars", "links", CHECK_FAILED,
                  check_say(&names, "lack a connected sidecar at an end"),
                  "start it, with a token of mortisectl token create, or remove a link that is not "
                  "wanted: mortisectl delete link");
}

static void check_sidecars(struct check *check)
{
    check_links(check);
    for (size_t i = 0; i < ARRAY_LEN(check_rows); i++)
        check_sidecars_by(check, &check_rows[i]);
}

/* ------------------------------------------------------------------ profiles */

/* Links that may be weaker than the defaults are: somebody has meant it, perhaps long ago. */
static void check_profiles(struct check *check)
{
    const Mortise__V1__Mesh *mesh = registry_mesh(check->service->registry);
    struct check_names names = {.num = 0};

    for (size_t i = 0; i < mesh->n_links; i++) {
        const Mortise__V1__Link *link = mesh->links[i];
        struct buf text = {0};

        CHECK(err_is_ok(mesh_link_weak(mesh, link, clock_wall_s(check->service->clock), &text)));
        CLEANUP(mem_freep) char *weak = buf_take_str(&text);
        if (weak[0] != '\0')
            check_name(&names, link->name, weak, CHECK_WEAK);
    }
    if (names.num == 0)
        check_add(check, "profiles", "links", CHECK_OK,
                  mem_strdup("none may be weaker than the built-in defaults"), "");
    else
        check_add(check, "profiles", "links", CHECK_WARNING,
                  check_say(&names, "may be weaker than the built-in defaults"),
                  "docs/profiles.md has what each of these gives away");
}

/* --------------------------------------------------------------------- trust */

static void check_rotation(struct check *check)
{
    struct root_rotation_state state = root_rotation_state(check->service->root_rotation);

    if (state.stage == ROTATION_IDLE)
        check_add(check, "trust", "rotation", CHECK_OK, mem_strdup("none is under way"), "");
    else
        check_add(check, "trust", "rotation",
                  check->now_s - state.stage_since > CHECK_STAGE_S ? CHECK_WARNING : CHECK_OK,
                  mem_printf("of the %s: %s for %lld minutes, %zu of %zu are through",
                             rotation_kind_name(state.kind), rotation_name(state.stage),
                             (long long)(check->now_s - state.stage_since) / 60, state.done,
                             state.total),
                  "mortisectl rotate status names who holds it up");
}

#define CHECK_UNSHIPPED 1000 /* one turn takes as many */

static void check_audit(struct check *check)
{
    const struct audit *audit = check->service->audit;
    uint64_t unshipped = audit_unshipped(audit);

    if (audit_is_broken(audit))
        check_add(
            check, "trust", "audit log", CHECK_FAILED,
            mem_strdup("at the last start it did not end as it was written: records are gone"),
            "mortisectl audit verify names the first one: docs/audit.md");
    else if (unshipped > CHECK_UNSHIPPED)
        check_add(
            check, "trust", "audit log", CHECK_WARNING,
            mem_printf("%llu records are not in the audit file", (unsigned long long)unshipped),
            "the log of the control plane says why (file_not_written)");
    else
        check_add(
            check, "trust", "audit log", CHECK_OK,
            mem_printf("%llu records were written", (unsigned long long)audit_head(audit)->seq),
            "");
}

static void check_trust(struct check *check)
{
    const struct operator_service *service = check->service;
    unsigned rolled_back = registry_totals(service->registry).rolled_back;
    int64_t next_update = crls_next_update(service->crls);
    size_t stale = vault_stale(service->vault);

    check_rotation(check);
    check_audit(check);
    if (rolled_back > 0)
        check_add(
            check, "trust", "history", CHECK_FAILED,
            mem_printf("%u sidecars have seen more than the store has, and refuse it", rolled_back),
            "the store was put back: docs/backup.md");
    else
        check_add(check, "trust", "history", CHECK_OK,
                  mem_strdup("nobody has seen more than the store has"), "");
    if (next_update != 0)
        check_add(check, "trust", "revocation lists",
                  next_update > check->now_s ? CHECK_OK : CHECK_FAILED,
                  mem_strdup(next_update > check->now_s ? "the published ones are fresh"
                                                        : "a published one is stale"),
                  "the log of the control plane says why (not_published)");
    check_add(check, "trust", "store key", stale > 0 ? CHECK_WARNING : CHECK_OK,
              stale > 0 ? mem_printf("%zu records are still sealed under another key", stale)
                        : mem_strdup("every record is sealed under the first key"),
              "mortisectl rotate status");
}

/* --------------------------------------------------------------------- whole */

void operator_on_check(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    struct check check = {
        .service = service,
        .now_s = clock_wall_s(service->clock),
        .report = MORTISE__V1__CHECK_REPORT__INIT,
    };

    (void)msg;
    (void)operator_fresh(service);
    check_health(&check);
    check_certificates(&check);
    check_brought(&check);
    check_sidecars(&check);
    check_profiles(&check);
    check_trust(&check);
    check.report.now_ms = clock_wall_us() / 1000;
    check.report.build = msg_lend(BUILD_VERSION);
    grpc_call_reply(call, &check.report.base);
    check_fini(&check);
}
