/* The intrusive list: order, removal while walking, removal twice.
 *
 * Drives: none of its own. */
#include "lib/base/list.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct item {
    int value;
    struct list link; /* not the first member: LIST_ITEM must subtract */
};

static void assert_values(const struct list *head, const int *want, size_t num)
{
    const struct list *pos = head->next;

    for (size_t i = 0; i < num; i++, pos = pos->next) {
        assert_ptr_not_equal(pos, head);
        assert_int_equal(
            ((const struct item *)((const char *)pos - offsetof(struct item, link)))->value,
            want[i]);
        assert_ptr_equal(pos->next->prev, pos);
    }
    assert_ptr_equal(pos, head);
}

static void test_tail_and_head_keep_their_order(void **state)
{
    struct item a = {1, {0}}, b = {2, {0}}, c = {3, {0}};
    struct list head;

    (void)state;
    list_init(&head);
    assert_true(list_empty(&head));
    list_add_tail(&head, &b.link);
    list_add_tail(&head, &c.link);
    list_add_head(&head, &a.link);
    assert_false(list_empty(&head));
    assert_values(&head, (const int[]){1, 2, 3}, 3);
}

static void test_the_current_member_may_be_removed_while_walking(void **state)
{
    struct item items[5];
    struct list head, *pos, *tmp;
    int sum = 0;

    (void)state;
    list_init(&head);
    for (int i = 0; i < 5; i++) {
        items[i].value = i;
        list_add_tail(&head, &items[i].link);
    }
    LIST_EACH (pos, tmp, &head) {
        struct item *item = LIST_ITEM(pos, struct item, link);

        sum += item->value;
        if (item->value % 2 == 0)
            list_del(pos);
    }
    assert_int_equal(sum, 10);
    assert_values(&head, (const int[]){1, 3}, 2);
    LIST_EACH (pos, tmp, &head)
        list_del(pos);
    assert_true(list_empty(&head));
    LIST_EACH (pos, tmp, &head)
        fail();
}

static void test_removing_twice_does_not_harm_the_list(void **state)
{
    struct item a = {1, {0}}, b = {2, {0}};
    struct list head;

    (void)state;
    list_init(&head);
    list_add_tail(&head, &a.link);
    list_add_tail(&head, &b.link);
    list_del(&a.link);
    list_del(&a.link);
    assert_values(&head, (const int[]){2}, 1);
    assert_true(list_empty(&a.link));
    list_add_tail(&head, &a.link);
    assert_values(&head, (const int[]){2, 1}, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tail_and_head_keep_their_order),
        cmocka_unit_test(test_the_current_member_may_be_removed_while_walking),
        cmocka_unit_test(test_removing_twice_does_not_harm_the_list),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
