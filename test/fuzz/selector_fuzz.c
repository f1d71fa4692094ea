/* Selectors of labels: what is refused is refused at a place within it; what is accepted means the
 * same when it is said twice, and an item without labels is as one that is not there. Drives: R75,
 * D7. */
#include "control/selector.h"

#include <string.h>

#include "control/msg.h"
#include "lib/base/mem.h"
#include "proto/mesh/resource.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool matches_labelled(const struct selector *selector)
{
    Mortise__V1__Subsystem__LabelsEntry tier = MORTISE__V1__SUBSYSTEM__LABELS_ENTRY__INIT;
    Mortise__V1__Subsystem__LabelsEntry old = MORTISE__V1__SUBSYSTEM__LABELS_ENTRY__INIT;
    Mortise__V1__Subsystem__LabelsEntry *labels[] = {&old, &tier};
    Mortise__V1__Subsystem item = MORTISE__V1__SUBSYSTEM__INIT;

    tier.key = msg_lend("tier");
    tier.value = msg_lend("edge");
    old.key = msg_lend("old");
    item.labels = labels;
    item.n_labels = ARRAY_LEN(labels);
    return selector_matches(selector, &item.base);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const Mortise__V1__Subsystem bare = MORTISE__V1__SUBSYSTEM__INIT;
    CLEANUP(mem_freep) char *text = mem_strndup((const char *)data, size);
    CLEANUP(mem_freep) char *twice = mem_printf("%s , %s", text, text);
    CLEANUP(selector_freep) struct selector *selector = NULL;
    CLEANUP(selector_freep) struct selector *again = NULL;
    char why[SELECTOR_WHY_MAX] = "";
    err_t err;

    if (size > SELECTOR_TEXT_MAX / 2 - 2) /* the limit is of each */
        return 0;
    err = selector_parse(text, why, &selector);
    CHECK(err_is_ok(err) == (why[0] == '\0') && err_is_ok(err) == (selector != NULL));
    CHECK(strlen(why) < SELECTOR_WHY_MAX);
    if (!err_is_ok(err)) {
        CHECK(err.code == E_CONFIG_INVALID && err.sub >= 1 && (size_t)err.sub <= strlen(text) + 1);
        return 0;
    }
    err = selector_parse(twice, why, &again);
    CHECK(err_is_ok(err));
    CHECK(matches_labelled(selector) == matches_labelled(again));
    CHECK(selector_matches(selector, &bare.base) == selector_matches(selector, NULL));
    return 0;
}
