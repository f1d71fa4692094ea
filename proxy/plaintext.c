#include "proxy/plaintext.h"

#include <pthread.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

struct plaintext_use {
    char *link;
    uint64_t number;
    uint64_t open;
    int64_t last_s;
    struct addr source;
};

struct plaintext {
    pthread_mutex_t lock;
    struct plaintext_use uses[PLAINTEXT_LINKS_MAX];
    size_t num;
    uint64_t total;
};

struct plaintext *plaintext_new(void)
{
    struct plaintext *plaintext = mem_zalloc(sizeof(*plaintext));

    CHECK(pthread_mutex_init(&plaintext->lock, NULL) == 0);
    return plaintext;
}

void plaintext_free(struct plaintext *plaintext)
{
    for (size_t i = 0; i < plaintext->num; i++)
        mem_free(plaintext->uses[i].link);
    (void)pthread_mutex_destroy(&plaintext->lock);
    mem_free(plaintext);
}

/* Its place, or the one that it takes. */
static struct plaintext_use *plaintext_use_of(struct plaintext *plaintext, const char *link)
{
    struct plaintext_use *oldest = &plaintext->uses[0];

    for (size_t i = 0; i < plaintext->num; i++) {
        struct plaintext_use *use = &plaintext->uses[i];

        if (strcmp(use->link, link) == 0)
            return use;
        if (use->last_s < oldest->last_s)
            oldest = use;
    }
    if (plaintext->num < PLAINTEXT_LINKS_MAX)
        oldest = &plaintext->uses[plaintext->num++];
    else
        mem_free(oldest->link);
    *oldest = (struct plaintext_use){.link = mem_strdup(link)};
    return oldest;
}

void plaintext_note(struct plaintext *plaintext, const char *link, int64_t now_s,
                    const struct addr *source)
{
    struct plaintext_use *use;

    CHECK(pthread_mutex_lock(&plaintext->lock) == 0);
    use = plaintext_use_of(plaintext, link);
    use->number++;
    use->open++;
    use->last_s = now_s;
    use->source = *source;
    plaintext->total++;
    CHECK(pthread_mutex_unlock(&plaintext->lock) == 0);
}

void plaintext_end(struct plaintext *plaintext, const char *link, int64_t now_s)
{
    CHECK(pthread_mutex_lock(&plaintext->lock) == 0);
    for (size_t i = 0; i < plaintext->num; i++) {
        struct plaintext_use *use = &plaintext->uses[i];

        if (strcmp(use->link, link) != 0 || use->open == 0) /* 0: forgotten since, begun anew */
            continue;
        use->open--;
        use->last_s = now_s;
        break;
    }
    plaintext->total++;
    CHECK(pthread_mutex_unlock(&plaintext->lock) == 0);
}

void plaintext_forget(struct plaintext *plaintext, const char *link)
{
    CHECK(pthread_mutex_lock(&plaintext->lock) == 0);
    for (size_t i = 0; i < plaintext->num; i++) {
        if (strcmp(plaintext->uses[i].link, link) != 0)
            continue;
        mem_free(plaintext->uses[i].link);
        plaintext->uses[i] = plaintext->uses[--plaintext->num];
        break;
    }
    CHECK(pthread_mutex_unlock(&plaintext->lock) == 0);
}

uint64_t plaintext_total(struct plaintext *plaintext)
{
    uint64_t total;

    CHECK(pthread_mutex_lock(&plaintext->lock) == 0);
    total = plaintext->total;
    CHECK(pthread_mutex_unlock(&plaintext->lock) == 0);
    return total;
}

bool plaintext_is_open(struct plaintext *plaintext)
{
    bool open = false;

    CHECK(pthread_mutex_lock(&plaintext->lock) == 0);
    for (size_t i = 0; i < plaintext->num; i++)
        open |= plaintext->uses[i].open > 0;
    CHECK(pthread_mutex_unlock(&plaintext->lock) == 0);
    return open;
}

static Mortise__V1__PlaintextUse *plaintext_message(const struct plaintext_use *use, int64_t now_s)
{
    Mortise__V1__PlaintextUse *out = mem_alloc(sizeof(*out));
    char source[ADDR_TEXT_MAX];

    addr_format(&use->source, source);
    mortise__v1__plaintext_use__init(out);
    out->link = mem_strdup(use->link);
    out->connections = use->number;
    out->last_at = use->open > 0 ? now_s : use->last_s;
    out->last_source = mem_strdup(source);
    return out;
}

void plaintext_fill(struct plaintext *plaintext, int64_t now_s, Mortise__V1__SidecarStatus *out)
{
    CHECK(pthread_mutex_lock(&plaintext->lock) == 0);
    out->plaintext = mem_array(plaintext->num, sizeof(*out->plaintext));
    for (size_t i = 0; i < plaintext->num; i++)
        out->plaintext[i] = plaintext_message(&plaintext->uses[i], now_s);
    out->n_plaintext = plaintext->num;
    CHECK(pthread_mutex_unlock(&plaintext->lock) == 0);
}

void plaintext_release(Mortise__V1__SidecarStatus *status)
{
    for (size_t i = 0; i < status->n_plaintext; i++)
        pb_free(&status->plaintext[i]->base);
    mem_free(status->plaintext);
    status->plaintext = NULL;
    status->n_plaintext = 0;
}
