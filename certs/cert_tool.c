/* mortise-cert: certificates by hand, for operators and tests: make a root, an intermediate, a
 * leaf; show what a file holds; say what a TLS profile offers. See `usage` below. Exit status: 0
 * done, 1 failed, 2 wrong arguments. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/sha.h>

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/csr.h"
#include "certs/issue.h"
#include "certs/key.h"
#include "certs/pem.h"
#include "certs/tls_profile.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "lib/base/man.h"
#include "lib/base/process.h"
#include "lib/base/version.h"

#define TOOL_DNS_MAX 16
#define TOOL_LIST_MAX 64

static const char usage[] =
    "usage: mortise-cert COMMAND [OPTION...]\n"
    "\n"
    "  new-root --trust-domain TD --cert FILE --key FILE [--ttl DAYS]\n"
    "      Makes a P-384 root for spiffe://TD. --ttl: 3650 days unless told otherwise.\n"
    "  new-intermediate --issuer-cert FILE --issuer-key FILE --trust-domain TD --cert FILE\n"
    "                   --key FILE [--ttl DAYS]\n"
    "      Makes a P-256 CA that can sign for TD alone and for no further CA. 90 days.\n"
    "  issue --issuer-cert FILE --issuer-key FILE --cert FILE (--key FILE | --csr FILE)\n"
    "        [--spiffe-id ID] [--dns NAME]... [--ttl DAYS]\n"
    "      Makes a leaf, with a new P-256 key or for the key of a request (of which nothing else "
    "is\n"
    "      used), and writes it with its issuer behind it. 1 day; at most 7.\n"
    "  show FILE...\n"
    "      Says what is in PEM files: certificates, requests, kinds of keys.\n"
    "  profile [--name default-tls-client|default-tls-server]\n"
    "          [--role client|server] [--min VERSION] [--max VERSION] [--suites A,B...]\n"
    "          [--groups A,B...] [--signature-algorithms A,B...]\n"
    "      Says what a profile offers on the wire: a built-in one, or one made of the options.\n"
    "\n"
    "  -h, --help (--help=man: as a manual page); --version; --force: replace files that are "
    "there.\n"
    "Files are PEM. Keys are written with mode 0600.\n";

enum tool_option {
    TOOL_TRUST_DOMAIN = 256,
    TOOL_CERT,
    TOOL_KEY,
    TOOL_CSR,
    TOOL_ISSUER_CERT,
    TOOL_ISSUER_KEY,
    TOOL_SPIFFE_ID,
    TOOL_DNS,
    TOOL_TTL,
    TOOL_NAME,
    TOOL_ROLE,
    TOOL_MIN,
    TOOL_MAX,
    TOOL_SUITES,
    TOOL_GROUPS,
    TOOL_SIGALGS,
    TOOL_FORCE,
    TOOL_VERSION,
};

static const struct option tool_options[] = {
    {"trust-domain", required_argument, NULL, TOOL_TRUST_DOMAIN},
    {"cert", required_argument, NULL, TOOL_CERT},
    {"key", required_argument, NULL, TOOL_KEY},
    {"csr", required_argument, NULL, TOOL_CSR},
    {"issuer-cert", required_argument, NULL, TOOL_ISSUER_CERT},
    {"issuer-key", required_argument, NULL, TOOL_ISSUER_KEY},
    {"spiffe-id", required_argument, NULL, TOOL_SPIFFE_ID},
    {"dns", required_argument, NULL, TOOL_DNS},
    {"ttl", required_argument, NULL, TOOL_TTL},
    {"name", required_argument, NULL, TOOL_NAME},
    {"role", required_argument, NULL, TOOL_ROLE},
    {"min", required_argument, NULL, TOOL_MIN},
    {"max", required_argument, NULL, TOOL_MAX},
    {"suites", required_argument, NULL, TOOL_SUITES},
    {"groups", required_argument, NULL, TOOL_GROUPS},
    {"signature-algorithms", required_argument, NULL, TOOL_SIGALGS},
    {"force", no_argument, NULL, TOOL_FORCE},
    {"help", optional_argument, NULL, 'h'},
    {"version", no_argument, NULL, TOOL_VERSION},
    {NULL, 0, NULL, 0},
};

struct tool {
    const char *text[TOOL_FORCE - TOOL_TRUST_DOMAIN + 1]; /* by option */
    const char *dns[TOOL_DNS_MAX + 1];
    size_t num_dns;
    bool force;
};

static const char *tool_text(const struct tool *tool, enum tool_option option)
{
    return tool->text[option - TOOL_TRUST_DOMAIN];
}

static void tool_help(bool man)
{
    if (!man) {
        (void)fputs(usage, stdout);
        return;
    }
    man_begin(stdout, "mortise-cert", 1, "makes and shows certificates and TLS profiles");
    man_section(stdout, "SYNOPSIS");
    man_literal(stdout, usage + sizeof("usage: ") - 1);
    man_section(stdout, "EXIT STATUS");
    man_text(stdout, "0 done; 1 a file or an argument is not as it must be; 2 wrong use.");
}

/* tool_usage_error says what is wrong with the arguments and ends. */
_Noreturn static void tool_usage_error(const char *what, const char *which)
{
    (void)fprintf(stderr, "mortise-cert: %s%s%s\ntry: mortise-cert --help\n", what,
                  which != NULL ? " " : "", which != NULL ? which : "");
    exit(2);
}

static const char *tool_option_name(enum tool_option option)
{
    for (const struct option *row = tool_options; row->name != NULL; row++) {
        if (row->val == (int)option)
            return row->name;
    }
    return "";
}

/* tool_need ends unless the option was given. */
static const char *tool_need(const struct tool *tool, enum tool_option option)
{
    const char *text = tool_text(tool, option);

    if (text == NULL) {
        CLEANUP(mem_freep) char *name = mem_printf("--%s", tool_option_name(option));
        tool_usage_error("this command needs", name);
    }
    return text;
}

static int64_t tool_ttl_s(const struct tool *tool, int64_t days)
{
    const char *text = tool_text(tool, TOOL_TTL);
    char *end = NULL;

    if (text != NULL) {
        days = strtol(text, &end, 10);
        if (end == text || *end != '\0' || days < 1 || days > 10950)
            tool_usage_error("--ttl is a number of days, 1 to 10950, and not", text);
    }
    return days * 86400;
}

/* tool_fail says why a step failed: `what` is the file or thing it was about. */
static int tool_fail(err_t err, const char *what)
{
    (void)fprintf(stderr, "mortise-cert: %s: %s (%s, %d)\n", what, err_text(err.code),
                  err_name(err.code), (int)err.sub);
    return 1;
}

/* --- files --- */

static err_t tool_write(const struct tool *tool, const char *path, const struct buf *content,
                        mode_t mode)
{
    if (!tool->force && access(path, F_OK) == 0)
        return FAIL(EXISTS, 0);
    return file_write_atomic(path, buf_view(content), mode);
}

static err_t tool_write_key(const struct tool *tool, const char *path, const EVP_PKEY *key)
{
    CLEANUP(buf_wipe_fini) struct buf pem = {0};

    TRY(key_write_pem(key, &pem));
    return tool_write(tool, path, &pem, 0600);
}

/* tool_write_chain writes what was issued, and the issuer behind it unless that is a root. */
static err_t tool_write_chain(const struct tool *tool, const char *path,
                              const struct issued *issued, X509 *issuer)
{
    CLEANUP(buf_fini) struct buf pem = {0};
    CLEANUP(boring_buffer_freep) CRYPTO_BUFFER *der = NULL;

    TRY(pem_write("CERTIFICATE", bytes_of(issued->der, issued->der_len), &pem));
    if (issuer != NULL && X509_check_issued(issuer, issuer) != X509_V_OK) {
        TRY(cert_der(issuer, &der));
        TRY(pem_write("CERTIFICATE", bytes_of(CRYPTO_BUFFER_data(der), CRYPTO_BUFFER_len(der)),
                      &pem));
    }
    return tool_write(tool, path, &pem, 0644);
}

static void tool_issuer_fini(struct issuer *issuer)
{
    X509_free(issuer->cert);
    EVP_PKEY_free(issuer->key);
}

/* tool_read_issuer reads the first certificate of one file and the key of another. */
static err_t tool_read_issuer(const char *cert_path, const char *key_path, struct issuer *out)
{
    CLEANUP(buf_fini) struct buf cert_text = {0};
    CLEANUP(buf_wipe_fini) struct buf key_text = {0};
    CLEANUP(pem_fini) struct pem pem = {0};
    CLEANUP(boring_x509_freep) X509 *cert = NULL;

    TRY(file_read(cert_path, PEM_INPUT_MAX, &cert_text));
    TRY(pem_parse(buf_view(&cert_text), &pem));
    if (pem.num == 0 || !pem_is(&pem.blocks[0], "CERTIFICATE"))
        return FAIL(PEM_EMPTY, 0);
    TRY(cert_parse_bytes(bytes_of(pem.blocks[0].der, pem.blocks[0].der_len), &cert));
    TRY(file_read_private(key_path, PEM_INPUT_MAX, &key_text));
    TRY(key_parse(buf_view(&key_text), &out->key));
    out->cert = cert;
    cert = NULL;
    return OK;
}

/* tool_read_csr reads a request's public key. */
static err_t tool_read_csr(const char *path, EVP_PKEY **out)
{
    CLEANUP(buf_fini) struct buf text = {0};
    CLEANUP(pem_fini) struct pem pem = {0};

    TRY(file_read(path, PEM_INPUT_MAX, &text));
    TRY(pem_parse(buf_view(&text), &pem));
    if (pem.num != 1 || !pem_is(&pem.blocks[0], "CERTIFICATE REQUEST"))
        return FAIL(PEM_EMPTY, 0);
    return csr_parse(bytes_of(pem.blocks[0].der, pem.blocks[0].der_len), out);
}

/* --- new-root, new-intermediate, issue --- */

static int tool_new_root(const struct tool *tool)
{
    CLEANUP(boring_key_freep) EVP_PKEY *key = NULL;
    CLEANUP(issued_fini) struct issued issued = {0};
    const char *trust_domain = tool_need(tool, TOOL_TRUST_DOMAIN);
    const char *cert_path = tool_need(tool, TOOL_CERT);
    const char *key_path = tool_need(tool, TOOL_KEY);
    int64_t ttl_s = tool_ttl_s(tool, 3650);
    err_t err = key_generate_p384(&key);

    if (err_is_ok(err))
        err = issue_root(trust_domain, key, clock_wall_s(&clock_system), ttl_s, &issued);
    if (!err_is_ok(err))
        return tool_fail(err, trust_domain);
    err = tool_write_key(tool, key_path, key);
    if (!err_is_ok(err))
        return tool_fail(err, key_path);
    err = tool_write_chain(tool, cert_path, &issued, NULL);
    return err_is_ok(err) ? 0 : tool_fail(err, cert_path);
}

static int tool_new_intermediate(const struct tool *tool)
{
    CLEANUP(boring_key_freep) EVP_PKEY *key = NULL;
    CLEANUP(issued_fini) struct issued issued = {0};
    CLEANUP(tool_issuer_fini) struct issuer root = {0};
    const char *issuer_path = tool_need(tool, TOOL_ISSUER_CERT);
    const char *trust_domain = tool_need(tool, TOOL_TRUST_DOMAIN);
    const char *cert_path = tool_need(tool, TOOL_CERT);
    const char *key_path = tool_need(tool, TOOL_KEY);
    int64_t ttl_s = tool_ttl_s(tool, 90);
    err_t err = tool_read_issuer(issuer_path, tool_need(tool, TOOL_ISSUER_KEY), &root);

    if (!err_is_ok(err))
        return tool_fail(err, issuer_path);
    err = key_generate(&key);
    if (err_is_ok(err))
        err = issue_intermediate(&root, trust_domain, key, clock_wall_s(&clock_system), ttl_s,
                                 &issued);
    if (!err_is_ok(err))
        return tool_fail(err, trust_domain);
    err = tool_write_key(tool, key_path, key);
    if (!err_is_ok(err))
        return tool_fail(err, key_path);
    err = tool_write_chain(tool, cert_path, &issued, NULL);
    return err_is_ok(err) ? 0 : tool_fail(err, cert_path);
}

static int tool_issue(const struct tool *tool)
{
    CLEANUP(boring_key_freep) EVP_PKEY *key = NULL;
    CLEANUP(issued_fini) struct issued issued = {0};
    CLEANUP(tool_issuer_fini) struct issuer issuer = {0};
    const char *issuer_path = tool_need(tool, TOOL_ISSUER_CERT);
    const char *cert_path = tool_need(tool, TOOL_CERT);
    const char *spiffe_id = tool_text(tool, TOOL_SPIFFE_ID);
    const char *key_path = tool_text(tool, TOOL_KEY);
    const char *csr_path = tool_text(tool, TOOL_CSR);

    if ((key_path == NULL) == (csr_path == NULL))
        tool_usage_error("issue needs one of --key and --csr", NULL);
    if (spiffe_id == NULL && tool->num_dns == 0)
        tool_usage_error("issue needs --spiffe-id or --dns", NULL);
    struct issue_leaf leaf = {.spiffe_id = spiffe_id,
                              .dns_names = tool->dns,
                              .now_s = clock_wall_s(&clock_system),
                              .ttl_s = tool_ttl_s(tool, 1)};
    err_t err = tool_read_issuer(issuer_path, tool_need(tool, TOOL_ISSUER_KEY), &issuer);
    if (!err_is_ok(err))
        return tool_fail(err, issuer_path);
    err = csr_path != NULL ? tool_read_csr(csr_path, &key) : key_generate(&key);
    if (!err_is_ok(err))
        return tool_fail(err, csr_path != NULL ? csr_path : "key");
    leaf.public_key = key;
    err = issue_leaf(&issuer, &leaf, &issued);
    if (!err_is_ok(err))
        return tool_fail(err, spiffe_id != NULL ? spiffe_id : tool->dns[0]);
    if (key_path != NULL)
        err = tool_write_key(tool, key_path, key);
    if (!err_is_ok(err))
        return tool_fail(err, key_path);
    err = tool_write_chain(tool, cert_path, &issued, issuer.cert);
    return err_is_ok(err) ? 0 : tool_fail(err, cert_path);
}

/* --- show --- */

static const char *tool_key_kind(const EVP_PKEY *key, char out[32])
{
    if (EVP_PKEY_id(key) == EVP_PKEY_EC)
        (void)snprintf(out, 32, "EC %d", EVP_PKEY_bits(key));
    else if (EVP_PKEY_id(key) == EVP_PKEY_RSA)
        (void)snprintf(out, 32, "RSA %d", EVP_PKEY_bits(key));
    else
        (void)snprintf(out, 32, "of a kind not allowed"); /* whose size may not even be asked for */
    return out;
}

static err_t tool_show_names(X509 *cert)
{
    CLEANUP(cert_names_fini) struct cert_names names = {0};
    err_t err = cert_names_get(cert, &names);

    if (!err_is_ok(err)) {
        (void)printf("  names: none that can be used (%s)\n", err_name(err.code));
        return OK;
    }
    if (names.uri[0] != '\0')
        (void)printf("  spiffe id: %s\n", names.uri);
    for (char **dns = names.dns; *dns != NULL; dns++)
        (void)printf("  dns: %s\n", *dns);
    return OK;
}

static err_t tool_show_cert(struct bytes der)
{
    CLEANUP(boring_x509_freep) X509 *cert = NULL;
    CLEANUP(boring_key_freep) EVP_PKEY *key = NULL;
    CLEANUP(mem_freep) char *serial = NULL;
    uint8_t digest[SHA256_DIGEST_LENGTH];
    char hex[2 * sizeof digest + 1];
    char kind[32];
    char before[21];
    char after[21];
    int64_t not_before = 0;
    int64_t not_after = 0;

    TRY(cert_parse_bytes(der, &cert));
    TRY(cert_serial(cert, &serial));
    TRY(cert_times(cert, &not_before, &not_after));
    clock_format_utc(not_before, before);
    clock_format_utc(not_after, after);
    SHA256(der.ptr, der.len, digest);
    bytes_to_hex(bytes_of(digest, sizeof digest), hex);
    CLEANUP(mem_freep) char *issuer = cert_issuer_cn(cert);
    key = X509_get_pubkey(cert);
    ERR_clear_error();

    (void)printf("certificate%s\n", err_is_ok(cert_check_ca(cert)) ? " (CA)" : "");
    TRY(tool_show_names(cert));
    (void)printf("  serial: %s\n  issuer: %s\n  valid: %s to %s\n", serial, issuer, before, after);
    (void)printf("  key: %s\n  signature: %s\n  sha256: %s\n",
                 key != NULL ? tool_key_kind(key, kind) : "unknown",
                 err_is_ok(cert_check_signature(cert)) ? "strong" : "weak", hex);
    return OK;
}

static err_t tool_show_block(const struct pem_block *block)
{
    CLEANUP(boring_key_freep) EVP_PKEY *key = NULL;
    struct bytes der = bytes_of(block->der, block->der_len);
    uint8_t digest[SHA256_DIGEST_LENGTH];
    char hex[2 * sizeof digest + 1];
    char kind[32];

    if (pem_is(block, "CERTIFICATE"))
        return tool_show_cert(der);
    if (pem_is(block, "CERTIFICATE REQUEST")) {
        TRY(csr_parse(der, &key));
        (void)printf("certificate request\n");
    } else if (pem_is(block, "PRIVATE KEY")) {
        TRY(key_from_der(der, &key));
        (void)printf("private key\n");
    } else {
        (void)printf("%.*s: %zu bytes\n", (int)block->label.len, (const char *)block->label.ptr,
                     block->der_len);
        return OK;
    }
    TRY(key_spki_sha256(key, digest));
    bytes_to_hex(bytes_of(digest, sizeof digest), hex);
    (void)printf("  key: %s\n  public key sha256: %s\n", tool_key_kind(key, kind), hex);
    return OK;
}

static err_t tool_show_file(const char *path)
{
    CLEANUP(buf_wipe_fini) struct buf text = {0};
    CLEANUP(pem_fini) struct pem pem = {0};

    TRY(file_read(path, PEM_INPUT_MAX, &text));
    TRY(pem_parse(buf_view(&text), &pem));
    if (pem.num == 0)
        return FAIL(PEM_EMPTY, 0);
    for (size_t i = 0; i < pem.num; i++)
        TRY(tool_show_block(&pem.blocks[i]));
    return OK;
}

static int tool_show(char *const *paths)
{
    int status = 0;

    if (*paths == NULL)
        tool_usage_error("show needs files", NULL);
    for (; *paths != NULL; paths++) {
        err_t err = tool_show_file(*paths);
        if (!err_is_ok(err))
            status = tool_fail(err, *paths);
    }
    return status;
}

/* --- profile --- */

/* tool_split cuts `text` (owned by the caller) at commas into out[]. */
static size_t tool_split(char *text, char **out)
{
    size_t num = 0;
    char *rest = NULL;

    for (char *item = text != NULL ? strtok_r(text, ",", &rest) : NULL;
         item != NULL && num < TOOL_LIST_MAX; item = strtok_r(NULL, ",", &rest))
        out[num++] = item;
    return num;
}

static Mortise__V1__TlsVersion tool_version_of(const char *text)
{
    if (text == NULL)
        return MORTISE__V1__TLS_VERSION__TLS_VERSION_UNSPECIFIED;
    const ProtobufCEnumValue *value =
        protobuf_c_enum_descriptor_get_value_by_name(&mortise__v1__tls_version__descriptor, text);
    if (value == NULL)
        tool_usage_error("not a version such as TLS1_2:", text);
    return (Mortise__V1__TlsVersion)value->value;
}

static Mortise__V1__TlsProfile__Role tool_role_of(const char *text)
{
    if (text == NULL || strcmp(text, "client") == 0)
        return MORTISE__V1__TLS_PROFILE__ROLE__CLIENT;
    if (strcmp(text, "server") != 0)
        tool_usage_error("--role is client or server and not", text);
    return MORTISE__V1__TLS_PROFILE__ROLE__SERVER;
}

static char *tool_list_dup(const struct tool *tool, enum tool_option option)
{
    const char *text = tool_text(tool, option);

    return text != NULL ? mem_strdup(text) : NULL;
}

static int tool_profile_print(const Mortise__V1__TlsProfile *msg)
{
    CLEANUP(tls_profile_unrefp) struct tls_profile *profile = NULL;
    CLEANUP(buf_fini) struct buf text = {0};
    CLEANUP(faults_fini) struct faults faults = {0};
    struct fault_path path = {0};
    err_t err = tls_profile_compile(msg, &path, &faults, &profile);

    if (!err_is_ok(err)) {
        faults_text(&faults, &text);
        (void)fprintf(stderr, "%.*s", (int)buf_size(&text), (const char *)buf_view(&text).ptr);
        return 1;
    }
    err = tls_profile_describe(profile, &text);
    if (!err_is_ok(err))
        return tool_fail(err, msg->name);
    (void)printf("%.*s", (int)buf_size(&text), (const char *)buf_view(&text).ptr);
    return 0;
}

static int tool_profile_builtin(const char *name)
{
    Mortise__V1__TlsProfile *builtin = tls_profile_builtin(name);
    int status;

    if (builtin == NULL) {
        tool_usage_error("no built-in profile is called", name);
        return -1;
    }
    status = tool_profile_print(builtin);
    mortise__v1__tls_profile__free_unpacked(builtin, NULL);
    return status;
}

static int tool_profile(const struct tool *tool)
{
    Mortise__V1__TlsProfile msg = MORTISE__V1__TLS_PROFILE__INIT;
    CLEANUP(mem_freep) char *suites = tool_list_dup(tool, TOOL_SUITES);
    CLEANUP(mem_freep) char *groups = tool_list_dup(tool, TOOL_GROUPS);
    CLEANUP(mem_freep) char *sigalgs = tool_list_dup(tool, TOOL_SIGALGS);
    CLEANUP(mem_freep) char *name = mem_strdup("from-options");
    char *lists[3][TOOL_LIST_MAX];

    if (tool_text(tool, TOOL_NAME) != NULL)
        return tool_profile_builtin(tool_text(tool, TOOL_NAME));
    msg.name = name;
    msg.role = tool_role_of(tool_text(tool, TOOL_ROLE));
    msg.min_version = tool_version_of(tool_text(tool, TOOL_MIN));
    msg.max_version = tool_version_of(tool_text(tool, TOOL_MAX));
    msg.n_cipher_suites = tool_split(suites, lists[0]);
    msg.cipher_suites = lists[0];
    msg.n_groups = tool_split(groups, lists[1]);
    msg.groups = lists[1];
    msg.n_signature_algorithms = tool_split(sigalgs, lists[2]);
    msg.signature_algorithms = lists[2];
    return tool_profile_print(&msg);
}

/* --- main --- */

static void tool_parse(struct tool *tool, int argc, char **argv)
{
    int option;

    while ((option = getopt_long(argc, argv, "h", tool_options, NULL)) != -1) {
        switch (option) {
        case 'h':
            tool_help(optarg != NULL && strcmp(optarg, "man") == 0);
            exit(process_end("mortise-cert", 0));
        case TOOL_VERSION:
            (void)printf("mortise-cert %s\n", MORTISE_VERSION);
            exit(process_end("mortise-cert", 0));
        case TOOL_FORCE:
            tool->force = true;
            break;
        case TOOL_DNS:
            if (tool->num_dns == TOOL_DNS_MAX)
                tool_usage_error("too many --dns", NULL);
            tool->dns[tool->num_dns++] = optarg;
            break;
        case '?':
            (void)fputs("try: mortise-cert --help\n", stderr);
            exit(2);
        default:
            tool->text[option - TOOL_TRUST_DOMAIN] = optarg;
        }
    }
}

static int tool_run(int argc, char **argv)
{
    struct tool tool = {0};

    tool_parse(&tool, argc, argv);
    const char *command = argv[optind];
    if (command == NULL)
        tool_usage_error("a command is missing", NULL);
    if (strcmp(command, "show") == 0)
        return tool_show(argv + optind + 1);
    if (argv[optind + 1] != NULL)
        tool_usage_error("one argument too many:", argv[optind + 1]);
    if (strcmp(command, "new-root") == 0)
        return tool_new_root(&tool);
    if (strcmp(command, "new-intermediate") == 0)
        return tool_new_intermediate(&tool);
    if (strcmp(command, "issue") == 0)
        return tool_issue(&tool);
    if (strcmp(command, "profile") == 0)
        return tool_profile(&tool);
    tool_usage_error("no such command:", command);
}

int main(int argc, char **argv)
{
    process_begin();
    process_protect("mortise-cert");
    return process_end("mortise-cert", tool_run(argc, argv));
}
