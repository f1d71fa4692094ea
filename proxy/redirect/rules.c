#include "proxy/redirect/rules.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/net/cidr.h"
#include "proxy/redirect/probe_port.h"

#define RULES_SEAL "seal_"
#define RULES_ID_MAX 4294967294U /* (uid_t)-1 is nobody */

/* Lists are bounded, so what is printed never reaches the buffer's end. */
#define PUT(out, ...) CHECK(err_is_ok(buf_printf((out), __VA_ARGS__)))

enum rules_not_tcp { RULES_NOT_TCP_ALLOW, RULES_NOT_TCP_DNS, RULES_NOT_TCP_DENY };
enum rules_inbound { RULES_INBOUND_STRICT, RULES_INBOUND_OPEN };

static const char *const rules_words_not_tcp[] = {"allow", "dns", "deny", NULL};
static const char *const rules_words_inbound[] = {"strict", "open", NULL};

static const struct option rules_options[] = {
#define HEADING(text) OPTIONS_HEADING(text),
#define ROW(...) OPTIONS_ROW(struct rules, rules_words, __VA_ARGS__),
#include "proxy/redirect/rules_tbl.h"
#undef HEADING
#undef ROW
    {.name = NULL},
};

void rules_help(bool man, FILE *out)
{
    const struct options_page page = {
        .name = "mortise-redirect",
        .section = 8,
        .summary = "has the kernel hand an application's connections to its sidecar",
        .usage = "mortise-redirect [--check | --dry-run | --remove] [SETTING…]",
        .about =
            "Makes the application's TCP connections arrive at the sidecar beside it, IPv4 and "
            "IPv6 alike, and keeps others from reaching the application but through the "
            "sidecar. It runs once, before both, with the right to change the network "
            "(CAP_NET_ADMIN), and ends; the sidecar needs no right. The rules are one table "
            "of nftables, replaced as a whole.\n\n"
            "Example: mortise-redirect --dry-run\n"
            "mortise-redirect --uid 1337 --exclude-port 22 --open-port 9100\n"
            "mortise-redirect --check --uid 1337 --exclude-port 22 --open-port 9100",
        .exit_status = "0 the rules are in force (or gone, with --remove); 1 they are not; 2 a "
                       "setting is wrong.",
    };

    options_help(rules_options, &page, man, out);
}

void rules_free(struct rules *rules)
{
    options_free(rules_options, rules);
}

/* ---- checking ---- */

/* Decimal digits, `least` to `most`. */
static bool rules_is_number(const char *text, uint64_t least, uint64_t most)
{
    char *end = NULL;
    unsigned long long value;

    if (text[0] < '0' || text[0] > '9' || (text[0] == '0' && text[1] != '\0'))
        return false;
    errno = 0;
    value = strtoull(text, &end, 10);
    return errno == 0 && *end == '\0' && value >= least && value <= most;
}

static void rules_check_numbers(const char *flag, const struct option_list *list, uint64_t least,
                                uint64_t most, struct faults *faults)
{
    if (list->num > RULES_LIST_MAX)
        faults_add(faults, flag, "%zu entries; at most %d", list->num, RULES_LIST_MAX);
    for (size_t i = 0; i < list->num; i++) {
        if (!rules_is_number(list->items[i], least, most))
            faults_add(faults, flag, "\"%s\" is no number from %" PRIu64 " to %" PRIu64,
                       list->items[i], least, most);
    }
}

/* `everything`: 0.0.0.0/0 and ::/0 may be in it. */
static void rules_check_ranges(const char *flag, const struct option_list *list, bool everything,
                               struct faults *faults)
{
    struct cidr cidr;

    if (list->num > RULES_LIST_MAX)
        faults_add(faults, flag, "%zu entries; at most %d", list->num, RULES_LIST_MAX);
    for (size_t i = 0; i < list->num; i++) {
        if (!err_is_ok(cidr_parse(list->items[i], &cidr)))
            faults_add(faults, flag,
                       "\"%s\" is no range of addresses: 10.0.0.0/8, fd00::/8 (bits behind the "
                       "prefix are 0), or one address",
                       list->items[i]);
        else if (cidr_meets_loopback(&cidr) && !(everything && cidr.prefix == 0))
            faults_add(faults, flag, "\"%s\" has loopback in it, which is never captured",
                       list->items[i]);
    }
}

static bool rules_has_port(const struct option_list *list, int64_t port)
{
    for (size_t i = 0; i < list->num; i++) {
        if (strtoll(list->items[i], NULL, 10) == port)
            return true;
    }
    return false;
}

/* What the sidecar's capture needs for itself. */
static void rules_check_ports(const struct rules *rules, struct faults *faults)
{
    if (rules->capture_port == REDIRECT_PROBE_PORT)
        faults_add(faults, "--capture-port", "%d is where the sidecar tries the capture",
                   REDIRECT_PROBE_PORT);
    if (rules_has_port(&rules->inbound_port, rules->capture_port) ||
        rules_has_port(&rules->open_port, rules->capture_port))
        faults_add(faults, "--capture-port", "%" PRId64 " is open to others, too",
                   rules->capture_port);
    if (rules_has_port(&rules->exclude_port, REDIRECT_PROBE_PORT))
        faults_add(faults, "--exclude-port", "%d is where the sidecar tries the capture",
                   REDIRECT_PROBE_PORT);
}

/* "8080:15080". */
static bool rules_split_ports(const char *text, uint16_t *out_from, uint16_t *out_to)
{
    const char *colon = strchr(text, ':');
    CLEANUP(mem_freep) char *from = NULL;

    if (colon == NULL)
        return false;
    from = mem_strndup(text, (size_t)(colon - text));
    if (!rules_is_number(from, 1, UINT16_MAX) || !rules_is_number(colon + 1, 1, UINT16_MAX))
        return false;
    *out_from = (uint16_t)strtoul(from, NULL, 10);
    *out_to = (uint16_t)strtoul(colon + 1, NULL, 10);
    return true;
}

static void rules_check_pairs(const char *flag, const struct option_list *list,
                              struct faults *faults)
{
    uint16_t from, to, other, other_to;

    if (list->num > RULES_LIST_MAX)
        faults_add(faults, flag, "%zu entries; at most %d", list->num, RULES_LIST_MAX);
    for (size_t i = 0; i < list->num && i < RULES_LIST_MAX; i++) {
        if (!rules_split_ports(list->items[i], &from, &to)) {
            faults_add(faults, flag, "\"%s\" is not PORT:PORT, as 8080:15080", list->items[i]);
            continue;
        }
        if (from == to)
            faults_add(faults, flag, "\"%s\" leads to where it comes from", list->items[i]);
        for (size_t j = 0; j < i; j++) {
            if (rules_split_ports(list->items[j], &other, &other_to) && other == from)
                faults_add(faults, flag, "\"%s\": port %u is taken by \"%s\" already",
                           list->items[i], from, list->items[j]);
        }
    }
}

static err_t rules_check(const struct rules *rules, struct faults *faults)
{
    if (rules->check + rules->dry_run + rules->remove > 1)
        faults_add(faults, "--check", "one of --check, --dry-run and --remove");
    if (rules->uid.num + rules->gid.num == 0)
        faults_add(faults, "--uid",
                   "is empty, and so is --gid: the sidecar's own connections would be captured");
    rules_check_numbers("--uid", &rules->uid, 0, RULES_ID_MAX, faults);
    rules_check_numbers("--gid", &rules->gid, 0, RULES_ID_MAX, faults);
    rules_check_numbers("--inbound-port", &rules->inbound_port, 1, UINT16_MAX, faults);
    rules_check_numbers("--exclude-port", &rules->exclude_port, 1, UINT16_MAX, faults);
    rules_check_numbers("--open-port", &rules->open_port, 1, UINT16_MAX, faults);
    rules_check_pairs("--take-port", &rules->take_port, faults);
    rules_check_ranges("--capture-cidr", &rules->capture_cidr, true, faults);
    rules_check_ranges("--exclude-cidr", &rules->exclude_cidr, false, faults);
    rules_check_ports(rules, faults);
    if (rules->nft == NULL || rules->nft[0] != '/')
        faults_add(faults, "--nft", "must be a full path, as /usr/sbin/nft");
    return faults_err(faults);
}

err_t rules_parse(int argc, char **argv, struct rules *out, struct options_result *out_result,
                  struct faults *faults)
{
    static char *const nothing[] = {NULL};

    TRY(options_parse(rules_options, argc, argv, nothing, out, out_result, faults));
    if (out_result->help || out_result->version)
        return OK;
    if (out_result->first_operand < argc)
        faults_add(faults, argv[out_result->first_operand],
                   "unexpected; every setting is a flag (see --help)");
    return rules_check(out, faults);
}

/* ---- text ---- */

static int rules_by_number(const void *a, const void *b)
{
    const uint64_t *left = a, *right = b;

    return (*left > *right) - (*left < *right);
}

/* "        WHAT { 22, 443 } VERDICT" of both lists, sorted, none twice; nothing without any. */
static void rules_put_both(struct buf *out, const char *what, const struct option_list *a,
                           const struct option_list *b, const char *verdict)
{
    const size_t num = a->num + b->num;
    uint64_t *values = mem_array(num + 1, sizeof(*values));
    bool first = true;

    for (size_t i = 0; i < num; i++)
        values[i] = strtoull(i < a->num ? a->items[i] : b->items[i - a->num], NULL, 10);
    qsort(values, num, sizeof(*values), rules_by_number);
    for (size_t i = 0; i < num; i++) {
        if (i > 0 && values[i] == values[i - 1])
            continue;
        if (first)
            PUT(out, "        %s { ", what);
        PUT(out, "%s%" PRIu64, first ? "" : ", ", values[i]);
        first = false;
    }
    if (!first)
        PUT(out, " } %s\n", verdict);
    mem_free(values);
}

static void rules_put_numbers(struct buf *out, const char *what, const struct option_list *list,
                              const char *verdict)
{
    static const struct option_list none;

    rules_put_both(out, what, list, &none, verdict);
}

/* Those of one family, and `more` (NULL: none); what lies in another range of the list is left out,
 * as nft refuses it. */
static void rules_put_ranges(struct buf *out, int family, const struct option_list *list,
                             const char *more, const char *verdict)
{
    struct cidr *cidrs = mem_array(list->num + 1, sizeof(*cidrs));
    bool everything = false, first;

    for (size_t i = 0; i < list->num; i++) {
        CHECK(err_is_ok(cidr_parse(list->items[i], &cidrs[i])));
        everything |= cidrs[i].family == family && cidrs[i].prefix == 0;
    }
    first = more == NULL || everything;
    if (!first)
        PUT(out, "        %s daddr { %s", family == AF_INET ? "ip" : "ip6", more);
    for (size_t i = 0; i < list->num; i++) {
        char text[CIDR_TEXT_MAX];
        bool held = cidrs[i].family != family;

        for (size_t j = 0; j < list->num && !held; j++)
            held = i != j && cidr_holds(&cidrs[j], &cidrs[i]) &&
                   (j < i || !cidr_holds(&cidrs[i], &cidrs[j]));
        if (held)
            continue;
        cidr_format(&cidrs[i], text);
        if (first)
            PUT(out, "        %s daddr { ", family == AF_INET ? "ip" : "ip6");
        PUT(out, "%s%s", first ? "" : ", ", text);
        first = false;
    }
    if (!first)
        PUT(out, " } %s\n", verdict);
    mem_free(cidrs);
}

/* The sidecar's own return, but for its trial. */
static void rules_put_own(struct buf *out, const char *what, const struct option_list *list)
{
    rules_put_numbers(out, what, list, "ip daddr != 127.0.0.1 return");
    rules_put_numbers(out, what, list, "ip6 daddr != ::1 return");
}

static void rules_put_outbound(const struct rules *rules, struct buf *out)
{
    PUT(out, "    chain outbound {\n"
             "        type nat hook output priority -101; policy accept;\n");
    rules_put_own(out, "meta skuid", &rules->uid);
    rules_put_own(out, "meta skgid", &rules->gid);
    PUT(out, "        fib daddr type local tcp dport != %d return\n", REDIRECT_PROBE_PORT);
    rules_put_ranges(out, AF_INET, &rules->exclude_cidr, NULL, "return");
    rules_put_ranges(out, AF_INET6, &rules->exclude_cidr, NULL, "return");
    rules_put_numbers(out, "tcp dport", &rules->exclude_port, "return");
    if (rules->capture_cidr.num > 0) {
        rules_put_ranges(out, AF_INET, &rules->capture_cidr, "127.0.0.1", "goto captured");
        rules_put_ranges(out, AF_INET6, &rules->capture_cidr, "::1", "goto captured");
    } else {
        PUT(out, "        goto captured\n");
    }
    PUT(out,
        "    }\n"
        "    chain captured {\n"
        "        meta l4proto tcp redirect to :%" PRId64 "\n"
        "    }\n",
        rules->capture_port);
}

/* Behind that the connection is to the second port, for `inbound` too. */
static void rules_put_taken(const struct rules *rules, struct buf *out)
{
    uint16_t from = 0, to = 0;

    if (rules->take_port.num == 0)
        return;
    PUT(out, "    chain taken {\n"
             "        type nat hook prerouting priority -101; policy accept;\n");
    for (size_t i = 0; i < rules->take_port.num; i++) {
        CHECK(rules_split_ports(rules->take_port.items[i], &from, &to));
        PUT(out, "        fib daddr type local tcp dport %u redirect to :%u\n", from, to);
    }
    PUT(out, "    }\n");
}

static void rules_put_inbound(const struct rules *rules, struct buf *out)
{
    uint16_t from = 0, to = 0;

    if (rules->inbound != RULES_INBOUND_STRICT)
        return;
    PUT(out, "    chain inbound {\n"
             "        type filter hook input priority 0; policy accept;\n"
             "        iif \"lo\" accept\n"
             "        ct state established,related accept\n");
    rules_put_both(out, "tcp dport", &rules->inbound_port, &rules->open_port, "accept");
    for (size_t i = 0; i < rules->take_port.num; i++) {
        CHECK(rules_split_ports(rules->take_port.items[i], &from, &to));
        PUT(out, "        tcp dport %u ct status dnat accept\n", to);
    }
    PUT(out, "        meta l4proto tcp counter reject with tcp reset\n"
             "    }\n");
}

static void rules_put_others(const struct rules *rules, struct buf *out)
{
    if (rules->not_tcp == RULES_NOT_TCP_ALLOW)
        return;
    PUT(out, "    chain others {\n"
             "        type filter hook output priority 0; policy accept;\n"
             "        oif \"lo\" accept\n"
             "        meta l4proto { icmp, tcp, ipv6-icmp } accept\n"
             "        ct state established,related accept\n");
    if (rules->not_tcp == RULES_NOT_TCP_DNS)
        PUT(out, "        udp dport 53 accept\n");
    PUT(out, "        counter reject with icmpx admin-prohibited\n"
             "    }\n"
             "    chain others_inbound {\n"
             "        type filter hook input priority 0; policy accept;\n"
             "        iif \"lo\" accept\n"
             "        meta l4proto { icmp, tcp, ipv6-icmp } accept\n"
             "        ct state established,related accept\n"
             "        counter drop\n"
             "    }\n");
}

/* FNV-1a: what differs by accident differs in it. */
static uint64_t rules_digest(struct bytes in)
{
    uint64_t digest = 0xcbf29ce484222325U;

    for (size_t i = 0; i < in.len; i++)
        digest = (digest ^ in.ptr[i]) * 0x100000001b3U;
    return digest;
}

static void rules_put_chains(const struct rules *rules, struct buf *out)
{
    rules_put_outbound(rules, out);
    rules_put_taken(rules, out);
    rules_put_inbound(rules, out);
    rules_put_others(rules, out);
}

static uint64_t rules_settings(const struct rules *rules)
{
    struct buf chains = {.data = NULL};
    uint64_t digest;

    rules_put_chains(rules, &chains);
    digest = rules_digest(buf_view(&chains));
    buf_fini(&chains);
    return digest;
}

void rules_shown(const struct rules *rules, struct buf *out)
{
    for (size_t i = 0; i < rules->uid.num; i++)
        PUT(out, "%s%s", i == 0 ? "uid " : ", ", rules->uid.items[i]);
    for (size_t i = 0; i < rules->gid.num; i++)
        PUT(out, "%s%s",
            i > 0                ? ", "
            : rules->uid.num > 0 ? "; gid "
                                 : "gid ",
            rules->gid.items[i]);
    PUT(out, "; inbound %s", rules_words_inbound[rules->inbound]);
}

void rules_removal(struct buf *out)
{
    PUT(out, "table " RULES_TABLE " { }\ndelete table " RULES_TABLE "\n");
}

#define RULES_COMMENT "comment \"mortise-redirect %016" PRIx64 "\""

void rules_text(const struct rules *rules, struct buf *out)
{
    rules_removal(out);
    PUT(out, "table " RULES_TABLE " {\n    " RULES_COMMENT "\n", rules_settings(rules));
    rules_put_chains(rules, out);
    PUT(out, "}\n");
}

/* ---- judging ---- */

void rules_seal(struct bytes listing, struct buf *out)
{
    PUT(out, "add chain " RULES_TABLE " " RULES_SEAL "%016" PRIx64 "\n", rules_digest(listing));
}

/* The listing as it was before it was sealed: chains come in the order in which they were made. */
static bool rules_unseal(const char *sealed, struct buf *out, uint64_t *out_digest)
{
    static const char head[] = "\n\tchain " RULES_SEAL;
    const char *at = strstr(sealed, head);
    char *end = NULL;

    if (at == NULL)
        return false;
    *out_digest = strtoull(at + sizeof(head) - 1, &end, 16);
    if (end != at + sizeof(head) - 1 + 16 || strcmp(end, " {\n\t}\n}\n") != 0)
        return false;
    PUT(out, "%.*s}\n", (int)(at - sealed), sealed);
    return true;
}

enum rules_state rules_judge(const struct rules *rules, struct bytes listing)
{
    CLEANUP(mem_freep) char *comment = mem_printf(RULES_COMMENT, rules_settings(rules));
    CLEANUP(mem_freep)
    char *sealed = mem_printf("%.*s", (int)listing.len, (const char *)listing.ptr);
    struct buf before = {.data = NULL};
    enum rules_state state = RULES_IN_FORCE;
    uint64_t digest = 0;

    if (strstr(sealed, comment) == NULL)
        state = RULES_OTHER_SETTINGS;
    else if (strstr(sealed, RULES_SEAL) == NULL)
        state = RULES_UNSEALED;
    else if (!rules_unseal(sealed, &before, &digest) || digest != rules_digest(buf_view(&before)))
        state = RULES_CHANGED;
    buf_fini(&before);
    return state;
}
