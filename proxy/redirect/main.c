/* mortise-redirect: has the kernel hand an application's connections to its sidecar. Runs once,
 * with CAP_NET_ADMIN, and ends. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

#include "lib/base/buf.h"
#include "lib/base/command.h"
#include "lib/base/faults.h"
#include "lib/base/mem.h"
#include "lib/base/process.h"
#include "lib/base/version.h"
#include "proxy/redirect/rules.h"

#define MAIN_NAME "mortise-redirect"
#define MAIN_SAID_MAX ((size_t)1 << 20)
#define MAIN_NFT_MS 30000

enum main_exit { MAIN_DONE = 0, MAIN_NOT_IN_FORCE = 1, MAIN_SETTINGS = 2 };

extern char **environ;

static void main_print_faults(const struct faults *faults)
{
    for (size_t i = 0; i < faults->num; i++)
        (void)fprintf(stderr, MAIN_NAME ": %s: %s\n", faults->items[i].path,
                      faults->items[i].message);
}

/* ---- nft ---- */

/* Of what nft says when it fails the first line is for people; what follows repeats the rules. */
static void main_tell_failure(const struct rules *rules, err_t err, struct buf *said)
{
    struct bytes words = buf_view(said);
    const char *end = words.len > 0 ? memchr(words.ptr, '\n', words.len) : NULL;
    int len = end != NULL ? (int)(end - (const char *)words.ptr) : (int)words.len;

    if (err_is(err, E_COMMAND_START))
        (void)fprintf(stderr, MAIN_NAME ": --nft: %s cannot be run: %s\n", rules->nft,
                      strerror(err.sub));
    else if (err_is(err, E_COMMAND_FAILED) && err.sub < 0)
        (void)fprintf(stderr, MAIN_NAME ": %s was ended by signal %d\n", rules->nft, -(int)err.sub);
    else if (err_is(err, E_COMMAND_FAILED) && len > 0)
        (void)fprintf(stderr, MAIN_NAME ": %s: %.*s%s\n", rules->nft, len, (const char *)words.ptr,
                      strstr((const char *)words.ptr, "not permitted") != NULL
                          ? " (it takes CAP_NET_ADMIN)"
                          : "");
    else
        (void)fprintf(stderr, MAIN_NAME ": %s: %s\n", rules->nft, err_text(err.code));
}

/* The text is one word, which nft reads as it would a file: one transaction. */
static bool main_change(const struct rules *rules, struct buf *text)
{
    CLEANUP(mem_freep) char *word = buf_take_str(text);
    const char *argv[] = {rules->nft, word, NULL};
    struct buf said = {.data = NULL};
    err_t err = command_report(argv, environ, MAIN_SAID_MAX, MAIN_NFT_MS, &said);

    if (!err_is_ok(err)) {
        CHECK(err_is_ok(buf_add(&said, "", 1)));
        main_tell_failure(rules, err, &said);
    }
    buf_fini(&said);
    return err_is_ok(err);
}

static err_t main_list(const struct rules *rules, struct buf *out)
{
    static const char command[] = "list table " RULES_TABLE;
    const char *argv[] = {rules->nft, "-n", "-s", command, NULL};

    return command_report(argv, environ, MAIN_SAID_MAX, MAIN_NFT_MS, out);
}

/* ---- what it does ---- */

static int main_dry_run(const struct rules *rules)
{
    struct buf text = {.data = NULL};

    rules_text(rules, &text);
    (void)fwrite(text.data, 1, text.len, stdout);
    buf_fini(&text);
    return MAIN_DONE;
}

static int main_remove(const struct rules *rules)
{
    struct buf text = {.data = NULL};

    rules_removal(&text);
    if (!main_change(rules, &text))
        return MAIN_NOT_IN_FORCE;
    (void)printf("table " RULES_TABLE " is gone\n");
    return MAIN_DONE;
}

static void main_tell_in_force(const struct rules *rules)
{
    struct buf shown = {.data = NULL};
    CLEANUP(mem_freep) char *text = NULL;

    rules_shown(rules, &shown);
    text = buf_take_str(&shown);
    (void)printf("table " RULES_TABLE " is in force (%s)\n", text);
}

static int main_check(const struct rules *rules)
{
    static const char *const texts[] = {
        [RULES_OTHER_SETTINGS] = "is of other settings than these",
        [RULES_CHANGED] = "was changed since it was made",
        [RULES_UNSEALED] = "was not made to the end",
    };
    struct buf listing = {.data = NULL};
    enum rules_state state = RULES_IN_FORCE;
    err_t err = main_list(rules, &listing);

    if (err_is_ok(err)) {
        state = rules_judge(rules, buf_view(&listing));
        if (state == RULES_IN_FORCE)
            main_tell_in_force(rules);
        else
            (void)fprintf(stderr, MAIN_NAME ": table " RULES_TABLE " %s; run it without --check\n",
                          texts[state]);
    } else if (err_is(err, E_COMMAND_FAILED) && buf_add(&listing, "", 1).code == E_OK &&
               strstr((const char *)listing.data, "No such file") != NULL) {
        (void)fprintf(stderr, MAIN_NAME ": there is no table " RULES_TABLE "\n");
    } else {
        main_tell_failure(rules, err, &listing);
    }
    buf_fini(&listing);
    return err_is_ok(err) && state == RULES_IN_FORCE ? MAIN_DONE : MAIN_NOT_IN_FORCE;
}

/* Who else changes the table meanwhile waits, where the kernel can make him. */
static void main_lock(void)
{
    int fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

    if (fd >= 0)
        (void)flock(fd, LOCK_EX); /* until we end */
}

/* That the kernel has them is what it lists, not what somebody says. */
static int main_apply(const struct rules *rules)
{
    struct buf text = {.data = NULL}, listing = {.data = NULL};
    bool good;
    err_t err;

    main_lock();
    rules_text(rules, &text);
    if (!main_change(rules, &text))
        return MAIN_NOT_IN_FORCE;
    err = main_list(rules, &listing);
    good = err_is_ok(err);
    if (good) {
        rules_seal(buf_view(&listing), &text);
        good = main_change(rules, &text);
    }
    buf_fini(&listing);
    buf_fini(&text);
    return good ? main_check(rules) : MAIN_NOT_IN_FORCE;
}

static int main_run(const struct rules *rules)
{
    if (rules->dry_run)
        return main_dry_run(rules);
    if (rules->remove)
        return main_remove(rules);
    return rules->check ? main_check(rules) : main_apply(rules);
}

int main(int argc, char **argv)
{
    struct rules rules = {.nft = NULL};
    struct options_result result = {.help = false};
    struct faults faults = {.num = 0};
    int status = MAIN_DONE;

    process_begin();
    process_ignore_signals();
    if (!err_is_ok(rules_parse(argc, argv, &rules, &result, &faults))) {
        main_print_faults(&faults);
        status = MAIN_SETTINGS;
    } else if (result.help) {
        rules_help(result.man, stdout);
    } else if (result.version) {
        (void)printf(MAIN_NAME " %s\n", MORTISE_VERSION);
    } else {
        status = main_run(&rules);
    }
    faults_fini(&faults);
    rules_free(&rules);
    return process_end(MAIN_NAME, status);
}
