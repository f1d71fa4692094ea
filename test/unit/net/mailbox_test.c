/* Mail crosses threads whole, in order and exactly once; what was not read is given back at the
 * end. Drives: R14, F3 */
#include "lib/net/mailbox.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "test/testlib/recorder.h"

#define THREADS 4
#define MAILS 5000

struct numbered {
    struct mail mail;
    unsigned sender;
    unsigned number;
};

struct receiver {
    struct mailbox *mailbox;
    unsigned next[THREADS]; /* number expected of each sender */
    unsigned total;
    unsigned close_at; /* closes the box in this callback; 0: not */
};

static unsigned dropped;

static void on_drop(struct mail *mail)
{
    dropped++;
    mem_free(CONTAINER_OF(mail, struct numbered, mail));
}

static void on_mail(void *arg, struct mail *mail)
{
    struct receiver *receiver = arg;
    struct numbered *numbered = CONTAINER_OF(mail, struct numbered, mail);

    assert_null(mail->next);
    assert_int_equal(numbered->number, receiver->next[numbered->sender]);
    receiver->next[numbered->sender]++;
    receiver->total++;
    mem_free(numbered);
    if (receiver->total == receiver->close_at)
        mailbox_close(receiver->mailbox, on_drop);
}

struct sender {
    struct mailbox *mailbox;
    unsigned id;
};

static void post(struct mailbox *mailbox, unsigned sender, unsigned number)
{
    struct numbered *numbered = mem_zalloc(sizeof(*numbered));

    numbered->sender = sender;
    numbered->number = number;
    mailbox_post(mailbox, &numbered->mail);
}

static void *send_all(void *arg)
{
    struct sender *sender = arg;

    for (unsigned i = 0; i < MAILS; i++)
        post(sender->mailbox, sender->id, i);
    return NULL;
}

static void test_mail_of_many_threads_arrives_in_order(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct receiver receiver = {0};
    struct sender senders[THREADS];
    pthread_t threads[THREADS];

    (void)state;
    dropped = 0;
    receiver.mailbox = mailbox_new(loop, on_mail, &receiver);
    for (unsigned i = 0; i < THREADS; i++) {
        senders[i] = (struct sender){receiver.mailbox, i};
        assert_int_equal(pthread_create(&threads[i], NULL, send_all, &senders[i]), 0);
    }
    LOOP_UNTIL(loop, receiver.total == THREADS * MAILS);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    mailbox_close(receiver.mailbox, on_drop);
    assert_int_equal(dropped, 0);
    loop_free(loop);
}

static void test_mail_not_read_is_dropped_at_close(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct receiver receiver = {0};

    (void)state;
    dropped = 0;
    receiver.mailbox = mailbox_new(loop, on_mail, &receiver);
    for (unsigned i = 0; i < 10; i++)
        post(receiver.mailbox, 0, i);
    mailbox_close(receiver.mailbox, on_drop);
    looptest_settle(loop);
    assert_int_equal(dropped, 10);
    assert_int_equal(receiver.total, 0);
    loop_free(loop);
}

static void test_close_in_the_callback_ends_the_delivery(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct receiver receiver = {.close_at = 3};

    (void)state;
    dropped = 0;
    receiver.mailbox = mailbox_new(loop, on_mail, &receiver);
    for (unsigned i = 0; i < 10; i++)
        post(receiver.mailbox, 0, i);
    LOOP_UNTIL(loop, receiver.total + dropped == 10);
    looptest_settle(loop);
    assert_int_equal(receiver.total, 3);
    assert_int_equal(dropped, 7);
    loop_free(loop);
}

static void test_mailbox_wakes_each_time_it_was_empty(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct receiver receiver = {0};

    (void)state;
    receiver.mailbox = mailbox_new(loop, on_mail, &receiver);
    post(receiver.mailbox, 0, 0);
    LOOP_UNTIL(loop, receiver.total == 1);
    post(receiver.mailbox, 0, 1);
    post(receiver.mailbox, 1, 0);
    LOOP_UNTIL(loop, receiver.total == 3);
    mailbox_close(receiver.mailbox, on_drop);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mail_of_many_threads_arrives_in_order),
        cmocka_unit_test(test_mail_not_read_is_dropped_at_close),
        cmocka_unit_test(test_close_in_the_callback_ends_the_delivery),
        cmocka_unit_test(test_mailbox_wakes_each_time_it_was_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
