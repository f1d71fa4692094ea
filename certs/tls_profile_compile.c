/* tls_profile_compile: from the message to the profile, with every fault told. */
#include "certs/boring.h"
#include "certs/tls_profile_impl.h"
#include "lib/base/str.h"

#define TLS_PROFILE_LIST_MAX 64 /* names in one list; there are fewer than 32 */

/* TLS 1.3 suites: the library has no list for them, only policies that leave some out, and a choice
 * of its own among the rest. */

/* tls_13_offered: the most fitting of what the policies can say. Rather a part of what is allowed
 * than more; more only where no part can be said, and then tls_profile_allows judges what came of
 * it. */
static unsigned tls_13_offered(unsigned allowed)
{
    switch (allowed) {
    case TLS_13_AES256:
    case TLS_13_AES256 | TLS_13_CHACHA:
        return TLS_13_AES256;
    case TLS_13_AES128:
    case TLS_13_AES128 | TLS_13_AES256:
        return TLS_13_AES128 | TLS_13_AES256;
    default:
        return TLS_13_ALL;
    }
}

/* tls_fault_unknown proposes what would be accepted: `names` has NULL for what would not. */
static void tls_fault_unknown(struct tls_compile *compile, const char *what, const char *name,
                              const char *const *names, size_t num)
{
    int nearest = str_nearest(name, names, num);
    size_t first = 0;

    while (first + 1 < num && names[first] == NULL)
        first++;
    if (nearest >= 0)
        faults_add(compile->faults, compile->path->text, "unknown %s \"%s\"; did you mean \"%s\"?",
                   what, name, names[nearest]);
    else
        faults_add(compile->faults, compile->path->text, "unknown %s \"%s\"; one of them is \"%s\"",
                   what, name, names[first]);
}

static void tls_compile_unknown_suite(struct tls_compile *compile, const char *given)
{
    const struct tls_suite *other = tls_suite_find_openssl(given);
    const char *names[TLS_SUITES_NUM];

    if (other != NULL) {
        faults_add(compile->faults, compile->path->text,
                   "\"%s\" is OpenSSL's name; the IANA name is wanted: \"%s\"", given, other->name);
        return;
    }
    for (size_t i = 0; i < TLS_SUITES_NUM; i++)
        names[i] = tls_suite_available(&tls_suites[i]) ? tls_suites[i].name : NULL;
    tls_fault_unknown(compile, "cipher suite", given, names, TLS_SUITES_NUM);
}

static void tls_fault_twice(struct tls_compile *compile, const char *given)
{
    faults_add(compile->faults, compile->path->text, "\"%s\" stands there twice", given);
}

static void tls_tell_suite(const struct tls_suite *suite, const char *given, const char *how,
                           const struct fault_path *path, struct faults *out)
{
    faults_add(out, path->text,
               "%sthe TLS library does not have \"%s\": %s; the nearest available is \"%s\"", how,
               given, suite->lacking != NULL ? suite->lacking : "it was removed",
               suite->nearest != NULL ? suite->nearest : tls_suites[0].name);
}

static void tls_tell_group(const char *given, const char *how, const struct fault_path *path,
                           struct faults *out)
{
    faults_add(out, path->text,
               "%sthe TLS library does not have \"%s\"; the nearest available is \"%s\"", how,
               given, "X25519");
}

static void tls_compile_suite(struct tls_compile *compile, const char *given)
{
    const struct tls_suite *suite = tls_suite_find(given);
    struct tls_profile *profile = compile->profile;

    if (suite == NULL) {
        tls_compile_unknown_suite(compile, given);
        return;
    }
    if (!tls_suite_available(suite)) {
        if (!compile->ignore_unavailable)
            tls_tell_suite(suite, given, "", compile->path, compile->faults);
        return;
    }
    if ((suite->flags & TLS_SUITE_13) != 0) {
        unsigned bit = 1U << (suite - tls_suites);
        if ((profile->allowed13 & bit) != 0)
            tls_fault_twice(compile, given);
        profile->allowed13 |= bit;
        return;
    }
    for (size_t i = 0; i < profile->num_suites; i++) {
        if (profile->suites[i] == suite) {
            tls_fault_twice(compile, given);
            return;
        }
    }
    profile->suites[profile->num_suites++] = suite;
}

static void tls_compile_group(struct tls_compile *compile, const char *given)
{
    const struct tls_group *group = tls_group_find(given);
    struct tls_profile *profile = compile->profile;
    const char *names[TLS_GROUPS_NUM];

    if (group == NULL) {
        for (size_t i = 0; i < TLS_GROUPS_NUM; i++)
            names[i] = tls_group_available(&tls_groups[i]) ? tls_groups[i].name : NULL;
        tls_fault_unknown(compile, "group", given, names, TLS_GROUPS_NUM);
        return;
    }
    if (!tls_group_available(group)) {
        if (!compile->ignore_unavailable)
            tls_tell_group(given, "", compile->path, compile->faults);
        return;
    }
    for (size_t i = 0; i < profile->num_groups; i++) {
        if (profile->groups[i] == group) {
            tls_fault_twice(compile, given);
            return;
        }
    }
    profile->groups[profile->num_groups++] = group;
}

static void tls_compile_sigalg(struct tls_compile *compile, const char *given)
{
    const struct tls_sigalg *sigalg = tls_sigalg_find(given);
    struct tls_profile *profile = compile->profile;
    const char *names[TLS_SIGALGS_NUM];

    if (sigalg == NULL) {
        for (size_t i = 0; i < TLS_SIGALGS_NUM; i++)
            names[i] = tls_sigalgs[i].kind != TLS_SIGALG_REFUSED ? tls_sigalgs[i].name : NULL;
        tls_fault_unknown(compile, "signature algorithm", given, names, TLS_SIGALGS_NUM);
        return;
    }
    if (sigalg->kind == TLS_SIGALG_REFUSED) {
        faults_add(compile->faults, compile->path->text, "\"%s\" is not allowed: %s", given,
                   sigalg->why);
        return;
    }
    for (size_t i = 0; i < profile->num_sigalgs; i++) {
        if (profile->sigalgs[i] == sigalg) {
            tls_fault_twice(compile, given);
            return;
        }
    }
    profile->sigalgs[profile->num_sigalgs++] = sigalg;
}

static void tls_compile_list(struct tls_compile *compile, const char *field, char *const *names,
                             size_t num, void (*one)(struct tls_compile *compile, const char *name))
{
    size_t mark = fault_path_field(compile->path, field);

    if (num > TLS_PROFILE_LIST_MAX)
        faults_add(compile->faults, compile->path->text, "%zu names are too many: at most %d", num,
                   TLS_PROFILE_LIST_MAX);
    for (size_t i = 0; i < num && i < TLS_PROFILE_LIST_MAX; i++) {
        size_t at = fault_path_index(compile->path, i);
        one(compile, names[i]);
        fault_path_pop(compile->path, at);
    }
    fault_path_pop(compile->path, mark);
}

void tls_compile_fault(struct tls_compile *compile, const char *field, const char *text)
{
    size_t mark = fault_path_field(compile->path, field);

    faults_add(compile->faults, compile->path->text, "%s", text);
    fault_path_pop(compile->path, mark);
}

/* A version as the library has it; 0: unknown. */
static uint16_t tls_version_of(Mortise__V1__TlsVersion version, uint16_t otherwise)
{
    switch (version) {
    case MORTISE__V1__TLS_VERSION__TLS_VERSION_UNSPECIFIED:
        return otherwise;
    case MORTISE__V1__TLS_VERSION__TLS1_0:
        return TLS1_VERSION;
    case MORTISE__V1__TLS_VERSION__TLS1_1:
        return TLS1_1_VERSION;
    case MORTISE__V1__TLS_VERSION__TLS1_2:
        return TLS1_2_VERSION;
    case MORTISE__V1__TLS_VERSION__TLS1_3:
        return TLS1_3_VERSION;
    default:
        return 0;
    }
}

static uint16_t tls_compile_version(struct tls_compile *compile, const char *field,
                                    Mortise__V1__TlsVersion version, bool allow_legacy,
                                    uint16_t otherwise)
{
    uint16_t found = tls_version_of(version, otherwise);

    if (found == 0) {
        tls_compile_fault(compile, field, "unknown version: TLS1_2 or TLS1_3 is wanted");
        return otherwise;
    }
    if (found < TLS1_2_VERSION && !allow_legacy) {
        tls_compile_fault(
            compile, field,
            found == TLS1_VERSION
                ? "TLS1_0 is not allowed: TLS1_2 is the lowest (RFC 8996), unless the "
                  "profile says allow_legacy: true"
                : "TLS1_1 is not allowed: TLS1_2 is the lowest (RFC 8996), unless the "
                  "profile says allow_legacy: true");
        return otherwise;
    }
    return found;
}

/* A list of which all was left out must not become the default list. */
static void tls_compile_rests(struct tls_compile *compile, const Mortise__V1__TlsProfile *msg)
{
    const struct tls_profile *profile = compile->profile;

    if (msg->n_cipher_suites > 0 && profile->num_suites == 0 && profile->allowed13 == 0)
        tls_compile_fault(compile, "cipher_suites",
                          "nothing is left: the TLS library has none of these; name one that it "
                          "has, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 for example");
    if (msg->n_groups > 0 && profile->num_groups == 0)
        tls_compile_fault(compile, "groups",
                          "nothing is left: the TLS library has none of these; name one that it "
                          "has, X25519 for example");
}

/* tls_compile_defaults fills the lists that were left empty. */
static void tls_compile_defaults(struct tls_profile *profile, const Mortise__V1__TlsProfile *msg)
{
    if (profile->allowed13 == 0)
        profile->allowed13 = TLS_13_ALL;
    if (msg->n_cipher_suites == 0) {
        for (size_t i = TLS_13_NUM; i < TLS_SUITES_NUM; i++) {
            if ((tls_suites[i].flags & TLS_SUITE_GOOD) == TLS_SUITE_GOOD)
                profile->suites[profile->num_suites++] = &tls_suites[i];
        }
    }
    for (size_t i = 0; msg->n_groups == 0 && i < TLS_GROUPS_NUM; i++) {
        if (tls_group_available(&tls_groups[i]))
            profile->groups[profile->num_groups++] = &tls_groups[i];
    }
    for (size_t i = 0; msg->n_signature_algorithms == 0 && i < TLS_SIGALGS_NUM; i++) {
        if (tls_sigalgs[i].kind != TLS_SIGALG_REFUSED)
            profile->sigalgs[profile->num_sigalgs++] = &tls_sigalgs[i];
    }
}

/* Below TLS 1.2 there are few suites, and none of them is a default. */
static void tls_compile_legacy(struct tls_compile *compile)
{
    struct tls_profile *profile = compile->profile;
    size_t num_old = 0, num = 0;

    for (size_t i = 0; i < profile->num_suites; i++)
        num_old += (profile->suites[i]->flags & TLS_SUITE_OLD) != 0;
    if (num_old == 0)
        tls_compile_fault(compile, "cipher_suites",
                          "none of these exists below TLS1_2: name one that does, "
                          "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA or "
                          "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA for example");
    for (size_t i = 0; profile->max < TLS1_2_VERSION && i < profile->num_suites; i++) {
        if ((profile->suites[i]->flags & TLS_SUITE_OLD) != 0)
            profile->suites[num++] = profile->suites[i];
    }
    if (profile->max < TLS1_2_VERSION)
        profile->num_suites = num;
}

/* tls_compile_versions: a version of which nothing is left is not offered, so that the library does
 * not fall back to a default of its own. */
static void tls_compile_versions(struct tls_compile *compile)
{
    struct tls_profile *profile = compile->profile;
    bool non_pkcs1 = false;
    char text[64];

    if (profile->min > profile->max) {
        (void)snprintf(text, sizeof text, "%s is above max_version %s",
                       tls_version_name(profile->min), tls_version_name(profile->max));
        tls_compile_fault(compile, "min_version", text);
        return;
    }
    if (profile->min < TLS1_2_VERSION)
        tls_compile_legacy(compile);
    for (size_t i = 0; i < profile->num_sigalgs; i++)
        non_pkcs1 |= profile->sigalgs[i]->kind != TLS_SIGALG_PKCS1;
    if (profile->max == TLS1_3_VERSION && !non_pkcs1) {
        if (profile->min == TLS1_3_VERSION)
            tls_compile_fault(
                compile, "signature_algorithms",
                "TLS 1.3 has no use for rsa_pkcs1_…: name an ecdsa_… or rsa_pss_… too");
        profile->max = TLS1_2_VERSION;
    }
    if (profile->min == TLS1_2_VERSION && profile->num_suites == 0) {
        if (profile->max == TLS1_2_VERSION)
            tls_compile_fault(compile, "cipher_suites",
                              "nothing is left to negotiate: all of these are for TLS 1.3 only and "
                              "the highest version is TLS1_2");
        profile->min = TLS1_3_VERSION;
    }
    if (profile->max == TLS1_3_VERSION && profile->allowed13 == TLS_13_CHACHA)
        tls_compile_fault(
            compile, "cipher_suites",
            "TLS_CHACHA20_POLY1305_SHA256 alone cannot be had in TLS 1.3: between CPUs "
            "with AES instructions the library always chooses AES-GCM, and the "
            "connection would be refused; name TLS_AES_128_GCM_SHA256 as well, or set "
            "max_version: TLS1_2");
}

/* tls_compile_texts makes what the library is given at each context or session. */
static err_t tls_compile_texts(struct tls_profile *profile)
{
    CLEANUP(buf_fini) struct buf text = {0};

    for (size_t i = 0; i < profile->num_suites; i++)
        TRY(buf_printf(&text, "%s%s", i > 0 ? ":" : "", profile->suites[i]->name));
    if (profile->num_suites > 0)
        profile->suite_text = buf_take_str(&text);
    for (size_t i = 0; i < profile->num_groups; i++)
        TRY(buf_printf(&text, "%s%s", i > 0 ? ":" : "", profile->groups[i]->name));
    profile->group_text = buf_take_str(&text);
    for (size_t i = 0; i < profile->num_sigalgs; i++)
        profile->sigalg_ids[i] = profile->sigalgs[i]->id;
    return OK;
}

err_t tls_profile_compile(const Mortise__V1__TlsProfile *msg, struct fault_path *path,
                          struct faults *faults, struct tls_profile **out)
{
    BORING_SCOPE;
    CLEANUP(tls_profile_unrefp) struct tls_profile *profile = mem_zalloc(sizeof *profile);
    struct tls_compile compile = {.profile = profile,
                                  .path = path,
                                  .faults = faults,
                                  .ignore_unavailable = msg->ignore_unavailable};
    size_t before = faults->total;

    refs_init(&profile->refs);
    profile->name = mem_strdup(msg->name != NULL ? msg->name : "");
    profile->renegotiation = ssl_renegotiate_never;
    profile->server = msg->role == MORTISE__V1__TLS_PROFILE__ROLE__SERVER;
    if (!profile->server && msg->role != MORTISE__V1__TLS_PROFILE__ROLE__CLIENT)
        tls_compile_fault(&compile, "role",
                          "CLIENT or SERVER is wanted: a profile is for one side");
    profile->min = tls_compile_version(&compile, "min_version", msg->min_version, msg->allow_legacy,
                                       TLS1_2_VERSION);
    profile->max = tls_compile_version(&compile, "max_version", msg->max_version, msg->allow_legacy,
                                       TLS1_3_VERSION);
    tls_compile_list(&compile, "cipher_suites", msg->cipher_suites, msg->n_cipher_suites,
                     tls_compile_suite);
    tls_compile_list(&compile, "groups", msg->groups, msg->n_groups, tls_compile_group);
    tls_compile_list(&compile, "signature_algorithms", msg->signature_algorithms,
                     msg->n_signature_algorithms, tls_compile_sigalg);
    tls_compile_ends(&compile, msg);
    if (faults->total == before)
        tls_compile_rests(&compile, msg);
    tls_compile_defaults(profile, msg);
    if (faults->total == before) /* else it would tell what follows from the faults before */
        tls_compile_versions(&compile);
    profile->offered13 = tls_13_offered(profile->allowed13);
    if (faults->total != before)
        return FAIL(CONFIG_INVALID, faults->total - before);
    TRY(tls_compile_texts(profile));

    *out = profile;
    profile = NULL;
    return OK;
}

void tls_profile_left_out(const Mortise__V1__TlsProfile *msg, struct fault_path *path,
                          struct faults *warnings)
{
    size_t mark = fault_path_field(path, "cipher_suites");

    for (size_t i = 0; msg->ignore_unavailable && i < msg->n_cipher_suites; i++) {
        const struct tls_suite *suite = tls_suite_find(msg->cipher_suites[i]);
        size_t at = fault_path_index(path, i);

        if (suite != NULL && !tls_suite_available(suite))
            tls_tell_suite(suite, msg->cipher_suites[i], "left out: ", path, warnings);
        fault_path_pop(path, at);
    }
    fault_path_pop(path, mark);
    mark = fault_path_field(path, "groups");
    for (size_t i = 0; msg->ignore_unavailable && i < msg->n_groups; i++) {
        const struct tls_group *group = tls_group_find(msg->groups[i]);
        size_t at = fault_path_index(path, i);

        if (group != NULL && !tls_group_available(group))
            tls_tell_group(msg->groups[i], "left out: ", path, warnings);
        fault_path_pop(path, at);
    }
    fault_path_pop(path, mark);
}
