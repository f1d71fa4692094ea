#include "proxy/watch.h"

#include <string.h>

#include "lib/base/mem.h"

struct watch {
    struct loop *loop;
    struct timer timer;
    struct watch_files *files;
    void (*on_change)(void *arg);
    void *arg;
};

static void watch_look(const char *path, struct watch_file *out)
{
    struct stat st;

    memset(out, 0, sizeof(*out));
    if (stat(path, &st) != 0) /* follows links: it is the file behind them that counts */
        return;
    out->there = true;
    out->dev = st.st_dev;
    out->ino = st.st_ino;
    out->size = st.st_size;
    out->mtime = st.st_mtim;
    out->ctime = st.st_ctim;
}

static bool watch_same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool watch_same(const struct watch_file *a, const struct watch_file *b)
{
    return a->there == b->there && a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
           watch_same_time(a->mtime, b->mtime) && watch_same_time(a->ctime, b->ctime);
}

void watch_files_add(struct watch_files *files, const char *path)
{
    struct watch_file *file;

    files->items = mem_realloc(files->items, (files->num + 1) * sizeof(*files->items));
    file = &files->items[files->num++];
    watch_look(path, file);
    file->path = mem_strdup(path);
}

void watch_files_clear(struct watch_files *files)
{
    for (size_t i = 0; i < files->num; i++)
        mem_free(files->items[i].path);
    mem_free(files->items);
    *files = (struct watch_files){.items = NULL};
}

bool watch_files_changed(struct watch_files *files)
{
    bool changed = false;

    for (size_t i = 0; i < files->num; i++) {
        struct watch_file now;

        watch_look(files->items[i].path, &now);
        if (watch_same(&now, &files->items[i]))
            continue;
        changed = true;
        now.path = files->items[i].path;
        files->items[i] = now;
    }
    return changed;
}

static void watch_on_timer(void *arg)
{
    struct watch *watch = arg;

    timer_start(watch->loop, &watch->timer, WATCH_EVERY_MS, watch_on_timer, watch);
    if (watch_files_changed(watch->files))
        watch->on_change(watch->arg);
}

struct watch *watch_new(struct loop *loop, struct watch_files *files, void (*on_change)(void *arg),
                        void *arg)
{
    struct watch *watch = mem_zalloc(sizeof(*watch));

    watch->loop = loop;
    watch->files = files;
    watch->on_change = on_change;
    watch->arg = arg;
    timer_start(loop, &watch->timer, WATCH_EVERY_MS, watch_on_timer, watch);
    return watch;
}

void watch_free(struct watch *watch)
{
    timer_stop(watch->loop, &watch->timer);
    mem_free(watch);
}
