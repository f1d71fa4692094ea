#include "lib/net/mailbox.h"

#include "lib/base/mem.h"

struct mailbox {
    uv_async_t async;
    uv_mutex_t mutex;
    struct loop *loop;
    struct mail *first; /* under mutex, as is last */
    struct mail *last;
    struct mail *open; /* taken out, being delivered; the receiver's alone */
    mailbox_cb cb;
    void *arg;
    bool closed;
};

static struct mail *mailbox_take_all(struct mailbox *mailbox)
{
    struct mail *mail;

    uv_mutex_lock(&mailbox->mutex);
    mail = mailbox->first;
    mailbox->first = mailbox->last = NULL;
    uv_mutex_unlock(&mailbox->mutex);
    return mail;
}

static void mailbox_on_async(uv_async_t *async)
{
    struct mailbox *mailbox = async->data;

    mailbox->open = mailbox_take_all(mailbox);
    while (mailbox->open != NULL) {
        struct mail *mail = mailbox->open;

        mailbox->open = mail->next;
        mail->next = NULL;
        mailbox->cb(mailbox->arg, mail);
    }
}

struct mailbox *mailbox_new(struct loop *loop, mailbox_cb cb, void *arg)
{
    struct mailbox *mailbox = mem_zalloc(sizeof(*mailbox));

    mailbox->loop = loop;
    mailbox->cb = cb;
    mailbox->arg = arg;
    CHECK(uv_mutex_init(&mailbox->mutex) == 0);
    CHECK(uv_async_init(loop_uv(loop), &mailbox->async, mailbox_on_async) == 0);
    mailbox->async.data = mailbox;
    return mailbox;
}

void mailbox_post(struct mailbox *mailbox, struct mail *mail)
{
    bool was_empty;

    mail->next = NULL;
    uv_mutex_lock(&mailbox->mutex);
    was_empty = mailbox->first == NULL;
    if (was_empty)
        mailbox->first = mail;
    else
        mailbox->last->next = mail;
    mailbox->last = mail;
    /* Inside the lock: once it is released the receiver may have read the mail and closed the box.
     */
    if (was_empty)
        (void)uv_async_send(&mailbox->async);
    uv_mutex_unlock(&mailbox->mutex);
}

static void mailbox_on_closed(uv_handle_t *handle)
{
    struct mailbox *mailbox = handle->data;

    uv_mutex_destroy(&mailbox->mutex);
    mem_free(mailbox);
}

static void mailbox_drop(struct mail *mail, void (*drop)(struct mail *mail))
{
    while (mail != NULL) {
        struct mail *next = mail->next;

        mail->next = NULL;
        drop(mail);
        mail = next;
    }
}

void mailbox_close(struct mailbox *mailbox, void (*drop)(struct mail *mail))
{
    struct mail *open = mailbox->open;

    CHECK(!mailbox->closed);
    mailbox->closed = true;
    mailbox->open = NULL; /* ends a delivery that we are called from */
    mailbox_drop(open, drop);
    mailbox_drop(mailbox_take_all(mailbox), drop);
    (void)loop_uv(mailbox->loop);
    uv_close((uv_handle_t *)&mailbox->async, mailbox_on_closed);
}
