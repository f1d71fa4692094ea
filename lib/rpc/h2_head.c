#include "lib/rpc/h2_head.h"

#include "lib/base/mem.h"

/* Where name and value stand in the text; the value follows the name. */
struct h2_head_field {
    uint32_t at, name_len, value_len;
};

void h2_head_clear(struct h2_head *head)
{
    buf_wipe_fini(&head->text); /* as it may have credentials */
    mem_free(head->fields);
    *head = (struct h2_head){.max_fields = head->max_fields, .max_size = head->max_size};
}

void h2_head_add(struct h2_head *head, struct bytes name, struct bytes value)
{
    uint32_t at = (uint32_t)buf_size(&head->text);

    if (head->fields == NULL)
        head->fields = mem_array(head->max_fields, sizeof(*head->fields));
    head->size += name.len + value.len + H2_HEAD_FIELD_COST;
    if (head->too_large || head->num == head->max_fields || head->size > head->max_size ||
        !err_is_ok(buf_add(&head->text, name.ptr, name.len)) ||
        !err_is_ok(buf_add(&head->text, value.ptr, value.len))) {
        head->too_large = true;
        return;
    }
    head->fields[head->num++] = (struct h2_head_field){at, (uint32_t)name.len, (uint32_t)value.len};
}

struct h2_header *h2_head_list(const struct h2_head *head)
{
    struct h2_header *list = mem_array(head->num, sizeof(*list));
    const uint8_t *text = buf_view(&head->text).ptr;

    for (uint32_t i = 0; i < head->num; i++) {
        const struct h2_head_field *field = &head->fields[i];

        list[i].name = bytes_of(text + field->at, field->name_len);
        list[i].value = bytes_of(text + field->at + field->name_len, field->value_len);
    }
    return list;
}
