/* list: intrusive doubly linked list. */
#ifndef MORTISE_LIB_BASE_LIST_H
#define MORTISE_LIB_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/base/mem.h"

/* A head, or the link inside a member; a link in no list points to itself. */
struct list {
    struct list *next;
    struct list *prev;
};

static inline void list_init(struct list *list)
{
    list->next = list;
    list->prev = list;
}

static inline bool list_empty(const struct list *list)
{
    return list->next == list;
}

static inline void list_add_tail(struct list *head, struct list *link)
{
    link->prev = head->prev;
    link->next = head;
    head->prev->next = link;
    head->prev = link;
}

static inline void list_add_head(struct list *head, struct list *link)
{
    list_add_tail(head->next, link);
}

/* list_del may be called on a link in no list. */
static inline void list_del(struct list *link)
{
    link->next->prev = link->prev;
    link->prev->next = link->next;
    list_init(link);
}

#define LIST_ITEM(link, type, member) CONTAINER_OF(link, type, member)
/* The safe form: the current member may be removed. */
#define LIST_EACH(pos, tmp, head) \
    for (pos = (head)->next, tmp = pos->next; pos != (head); pos = tmp, tmp = pos->next)

#endif
