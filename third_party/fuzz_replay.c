/* fuzz_replay runs a fuzz target once for each file named on the command line: the corpus as a
 * regression test in every build. --config=fuzz links libFuzzer's main instead. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define INPUT_MAX (1U << 20) /* libFuzzer's own -max_len is 4096 unless a seed is longer */

static int run_file(const char *path)
{
    static uint8_t buf[INPUT_MAX];
    FILE *f = fopen(path, "rb");

    if (f == NULL) {
        perror(path);
        return -1;
    }
    size_t len = fread(buf, 1, sizeof buf, f);
    int bad = ferror(f) || !feof(f);
    (void)fclose(f);
    if (bad) {
        (void)fprintf(stderr, "%s: unreadable, or longer than %u bytes\n", path, INPUT_MAX);
        return -1;
    }
    /* A copy of the exact length: ASan sees a read past its end. */
    uint8_t *copy = malloc(len > 0 ? len : 1);
    if (copy == NULL) {
        return -1;
    }
    memcpy(copy, buf, len);
    (void)LLVMFuzzerTestOneInput(copy, len);
    free(copy);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        (void)fprintf(stderr, "%s: no input files: a replay of nothing proves nothing\n", argv[0]);
        return 1;
    }
    for (int i = 1; i < argc; i++) {
        if (run_file(argv[i]) != 0) {
            return 1;
        }
    }
    (void)printf("%d inputs\n", argc - 1);
    return 0;
}
