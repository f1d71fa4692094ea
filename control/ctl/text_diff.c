#include "control/ctl/text_diff.h"

#include "lib/base/mem.h"

struct text_lines {
    struct bytes *items; /* with their newlines */
    bool *differs;       /* gone, or new */
    size_t num;
};

struct text_differ {
    struct text_lines a, b;
    struct buf *out;
};

static void text_split(struct bytes text, struct text_lines *out)
{
    size_t num = 0, at = 0;

    for (size_t i = 0; i < text.len; i++)
        num += text.ptr[i] == '\n';
    CHECK(text.len == 0 || text.ptr[text.len - 1] == '\n');
    *out = (struct text_lines){
        .items = mem_array(num, sizeof(*out->items)),
        .differs = mem_array(num, sizeof(*out->differs)),
        .num = num,
    };
    for (size_t line = 0; line < num; line++) {
        const uint8_t *end = memchr(text.ptr + at, '\n', text.len - at);
        size_t len = (size_t)(end - (text.ptr + at)) + 1;

        out->items[line] = bytes_of(text.ptr + at, len);
        at += len;
    }
}

static void text_lines_fini(struct text_lines *lines)
{
    mem_free(lines->items);
    mem_free(lines->differs);
}

/* ------------------------------------------------------------ what differs */

/* What lies between the first and the last difference. `x` counts lines of a, `y` of b, from
 * `from`; the diagonal k = x - y is at v[k + TEXT_DIFF_MAX + 1]. */
struct text_middle {
    struct text_differ *differ;
    size_t from;
    long num_a, num_b;
    long v[2 * TEXT_DIFF_MAX + 3];
    long *trace[TEXT_DIFF_MAX + 1]; /* v from -d to d, before step d */
};

static long *text_v(struct text_middle *middle, long k)
{
    return &middle->v[k + TEXT_DIFF_MAX + 1];
}

static bool text_same(const struct text_middle *middle, long x, long y)
{
    return bytes_equal(middle->differ->a.items[middle->from + (size_t)x],
                       middle->differ->b.items[middle->from + (size_t)y]);
}

/* The furthest that d differences lead to, on each diagonal; true when it is the end. */
static bool text_step(struct text_middle *middle, long d)
{
    for (long k = -d; k <= d; k += 2) {
        bool down = k == -d || (k != d && *text_v(middle, k - 1) < *text_v(middle, k + 1));
        long x = down ? *text_v(middle, k + 1) : *text_v(middle, k - 1) + 1;
        long y = x - k;

        while (x < middle->num_a && y < middle->num_b && text_same(middle, x, y)) {
            x++;
            y++;
        }
        *text_v(middle, k) = x;
        if (x >= middle->num_a && y >= middle->num_b)
            return true;
    }
    return false;
}

/* Goes the way back from the end, which took d differences, and marks them. */
static void text_mark(struct text_middle *middle, long d)
{
    long x = middle->num_a, y = middle->num_b;

    for (; d > 0; d--) {
        const long *v = middle->trace[d] + d; /* v[k] of before that step */
        long k = x - y;
        bool down = k == -d || (k != d && v[k - 1] < v[k + 1]);

        x = v[down ? k + 1 : k - 1];
        y = x - (down ? k + 1 : k - 1);
        if (down)
            middle->differ->b.differs[middle->from + (size_t)y] = true;
        else
            middle->differ->a.differs[middle->from + (size_t)x] = true;
    }
}

static void text_compare_middle(struct text_middle *middle)
{
    struct text_differ *differ = middle->differ;
    long d = 0;
    bool done = false;

    for (; d <= TEXT_DIFF_MAX && !done; d++) {
        middle->trace[d] = mem_dup(text_v(middle, -d), (2 * (size_t)d + 1) * sizeof(long));
        done = text_step(middle, d);
    }
    if (done)
        text_mark(middle, d - 1);
    for (long i = 0; i < middle->num_a && !done; i++)
        differ->a.differs[middle->from + (size_t)i] = true;
    for (long i = 0; i < middle->num_b && !done; i++)
        differ->b.differs[middle->from + (size_t)i] = true;
    for (long i = 0; i < d; i++)
        mem_free(middle->trace[i]);
}

static void text_compare(struct text_differ *differ)
{
    const struct text_lines *a = &differ->a, *b = &differ->b;
    size_t least = a->num < b->num ? a->num : b->num;
    size_t head = 0, tail = 0;
    struct text_middle *middle;

    while (head < least && bytes_equal(a->items[head], b->items[head]))
        head++;
    while (tail < least - head &&
           bytes_equal(a->items[a->num - 1 - tail], b->items[b->num - 1 - tail]))
        tail++;
    middle = mem_zalloc(sizeof(*middle));
    middle->differ = differ;
    middle->from = head;
    middle->num_a = (long)(a->num - head - tail);
    middle->num_b = (long)(b->num - head - tail);
    text_compare_middle(middle);
    mem_free(middle);
}

/* ------------------------------------------------------------------ writing */

/* Where a walk over both texts is. */
struct text_place {
    size_t a, b;
};

static bool text_is_same_at(const struct text_differ *differ, struct text_place at)
{
    return (at.a >= differ->a.num || !differ->a.differs[at.a]) &&
           (at.b >= differ->b.num || !differ->b.differs[at.b]);
}

static bool text_is_end(const struct text_differ *differ, struct text_place at)
{
    return at.a >= differ->a.num && at.b >= differ->b.num;
}

/* Behind the differences that begin at `at`. */
static struct text_place text_past(const struct text_differ *differ, struct text_place at)
{
    while (at.a < differ->a.num && differ->a.differs[at.a])
        at.a++;
    while (at.b < differ->b.num && differ->b.differs[at.b])
        at.b++;
    return at;
}

/* The end of a hunk whose differences begin at `at`: differences with no more than twice the
 * context between them are one hunk. */
static struct text_place text_hunk_end(const struct text_differ *differ, struct text_place at)
{
    struct text_place end = text_past(differ, at);
    struct text_place next = end;

    while (!text_is_end(differ, next) && next.a - end.a <= 2 * TEXT_DIFF_CONTEXT) {
        if (text_is_same_at(differ, next)) {
            next.a++;
            next.b++;
        } else {
            end = text_past(differ, next);
            next = end;
        }
    }
    for (size_t i = 0; i < TEXT_DIFF_CONTEXT && !text_is_end(differ, end); i++) {
        end.a++;
        end.b++;
    }
    return end;
}

static err_t text_line(struct text_differ *differ, char mark, struct bytes line)
{
    TRY(buf_add(differ->out, &mark, 1));
    return buf_add(differ->out, line.ptr, line.len);
}

static err_t text_hunk(struct text_differ *differ, struct text_place from, struct text_place end)
{
    size_t num_a = end.a - from.a, num_b = end.b - from.b;

    /* Of no lines the line before is named. */
    TRY(buf_printf(differ->out, "@@ -%zu,%zu +%zu,%zu @@\n", from.a + (num_a > 0), num_a,
                   from.b + (num_b > 0), num_b));
    while (from.a < end.a || from.b < end.b) {
        if (from.a < end.a && differ->a.differs[from.a]) {
            TRY(text_line(differ, '-', differ->a.items[from.a++]));
        } else if (from.b < end.b && differ->b.differs[from.b]) {
            TRY(text_line(differ, '+', differ->b.items[from.b++]));
        } else {
            TRY(text_line(differ, ' ', differ->a.items[from.a++]));
            from.b++;
        }
    }
    return OK;
}

static err_t text_write(struct text_differ *differ, const char *name_a, const char *name_b)
{
    struct text_place at = {0, 0};
    bool any = false;

    while (!text_is_end(differ, at)) {
        struct text_place from = at;
        size_t before = at.a < TEXT_DIFF_CONTEXT ? at.a : TEXT_DIFF_CONTEXT;

        if (text_is_same_at(differ, at)) {
            at.a++;
            at.b++;
            continue;
        }
        if (!any)
            TRY(buf_printf(differ->out, "--- %s\n+++ %s\n", name_a, name_b));
        any = true;
        from.a -= before;
        from.b -= before;
        at = text_hunk_end(differ, at);
        TRY(text_hunk(differ, from, at));
    }
    return OK;
}

err_t text_diff(const char *name_a, struct bytes a, const char *name_b, struct bytes b,
                struct buf *out)
{
    struct text_differ differ = {.out = out};
    err_t err;

    text_split(a, &differ.a);
    text_split(b, &differ.b);
    text_compare(&differ);
    err = text_write(&differ, name_a, name_b);
    text_lines_fini(&differ.a);
    text_lines_fini(&differ.b);
    return err;
}
