#include "proto/permission_table.h"

#include "proto/descriptor_set.pb-c.h"

struct table {
    FILE *out;
    FILE *err;
    size_t rows;
    bool failed;
};

static void table_add(struct table *table, const Mortise__Build__File *file,
                      const Mortise__Build__Service *service, const Mortise__Build__Method *method)
{
    if (method->options == NULL || method->options->permission == 0) {
        fprintf(table->err,
                "%s: rpc %s.%s: does not say who may call it: wanted is "
                "option (mortise.v1.permission) = …, see proto/mesh/permission.proto\n",
                file->name, service->name, method->name);
        table->failed = true;
        return;
    }
    fprintf(table->out, "ROW(\"/%s.%s/%s\", %d)\n", file->package, service->name, method->name,
            method->options->permission);
    table->rows++;
}

static void table_add_file(struct table *table, const Mortise__Build__File *file)
{
    for (size_t i = 0; i < file->n_service; i++) {
        for (size_t j = 0; j < file->service[i]->n_method; j++)
            table_add(table, file, file->service[i], file->service[i]->method[j]);
    }
}

bool permission_table(const uint8_t *set, size_t len, FILE *out, FILE *err)
{
    struct table table = {.out = out, .err = err};
    Mortise__Build__FileSet *files = mortise__build__file_set__unpack(NULL, len, set);

    if (files == NULL) {
        fprintf(err, "not a descriptor set\n");
        return false;
    }
    fprintf(out,
            "/* Made from the schemas: who may call what. Included several times; no guard. */\n");
    for (size_t i = 0; i < files->n_file; i++)
        table_add_file(&table, files->file[i]);
    mortise__build__file_set__free_unpacked(files, NULL);
    if (!table.failed && table.rows == 0) {
        fprintf(err, "no rpc in these schemas\n");
        table.failed = true;
    }
    return !table.failed;
}
