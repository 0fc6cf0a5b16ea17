/* fork: a child computes with its parent's runtime, streams and state, and gets the same bits; both may destroy them.
 */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROWS = 256, WIDTH = 256 };

struct host {
    scalert_runtime_t *runtime;
    scalert_stream_t *stream;
    scalert_state_t *state;
    struct world world; /* memory only */
    scalert_tensor_t *a, *b, *c, *weight;
};

static void setup(struct host *host) {
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_state_desc_t state_desc = SCALERT_STATE_DESC_INIT;
    scalert_group_desc_t group_desc = SCALERT_GROUP_DESC_INIT;
    const int64_t shape[2] = {ROWS, WIDTH};
    uint32_t number;
    memset(host, 0, sizeof *host);
    desc.threads = 3;
    must(scalert_runtime_create(&desc, &host->runtime));
    must(scalert_stream_create(host->runtime, &host->stream));
    must(scalert_state_create(host->runtime, &state_desc, &host->state));
    must(scalert_state_add_group(host->state, &group_desc, &number));
    must(scalert_state_add_parameter(host->state, 0, "weight", 2, shape, &number));
    must(scalert_state_seal(host->state));
    host->a = floats(&host->world, 2, ROWS, WIDTH);
    host->b = floats(&host->world, 2, WIDTH, WIDTH);
    host->c = singles(&host->world, 2, ROWS, WIDTH);
    host->weight = singles(&host->world, 2, ROWS, WIDTH);
}

/* A product on all threads, and a training step on it. */
static void compute(struct host *host) {
    scalert_step_desc_t step = SCALERT_STEP_DESC_INIT;
    step.learning_rate = 0.1f;
    must(scalert_gemm(host->stream, 0, 0, host->a, host->b, host->c, NULL));
    must(scalert_state_begin_step(host->state));
    must(scalert_state_begin_micro(host->state));
    must(scalert_state_gradient_ready(host->state, host->stream, 0, host->c, NULL));
    must(scalert_state_end_micro(host->state));
    must(scalert_state_step(host->state, host->stream, &step));
    must(scalert_state_read(host->state, host->stream, 0, SCALERT_PART_MASTER, host->weight));
}

static void teardown(struct host *host) {
    scalert_runtime_destroy(host->runtime);
    scalert_stream_destroy(host->stream);
    scalert_state_destroy(host->state);
    for (size_t i = 0; i < host->world.memory_count; i++) {
        free(host->world.memories[i].bytes);
        free(host->world.memories[i].copy);
        free(host->world.memories[i].first);
    }
}

/* Computes in a child and gives its exit status; what it computed comes through a pipe. */
static int in_child(struct host *host, float *product, float *weight) {
    int ends[2], status = 0;
    pid_t child;
    fflush(stdout);
    if (pipe(ends) != 0 || (child = fork()) < 0) {
        exit(3);
    }
    if (child == 0) {
        size_t bytes = ROWS * WIDTH * sizeof(float);
        FILE *out = fdopen(ends[1], "w");
        close(ends[0]);
        alarm(60); /* rather than hang on threads that are not there */
        compute(host);
        fwrite(host->c->data, 1, bytes, out);
        fwrite(host->weight->data, 1, bytes, out);
        fclose(out);
        teardown(host);
        setup(host); /* and a runtime of its own */
        compute(host);
        teardown(host);
        fflush(stdout);
        _exit(failures != 0);
    }
    close(ends[1]);
    {
        FILE *in = fdopen(ends[0], "r");
        size_t n = ROWS * WIDTH;
        expect(fread(product, sizeof(float), n, in) == n && fread(weight, sizeof(float), n, in) == n);
        fclose(in);
    }
    waitpid(child, &status, 0);
    return status;
}

int main(void) {
    static float product[ROWS * WIDTH], weight[ROWS * WIDTH];
    static struct host host;
    /* Before and after the parent's threads have been started. */
    for (int started = 0; started < 2; started++) {
        place("fork", started ? "after threads were started" : "before threads were started");
        setup(&host);
        if (started) {
            must(scalert_gemm(host.stream, 0, 0, host.a, host.b, host.c, NULL));
        }
        expect(in_child(&host, product, weight) == 0);
        compute(&host);
        expect(memcmp(product, host.c->data, sizeof product) == 0);
        expect(memcmp(weight, host.weight->data, sizeof weight) == 0);
        teardown(&host);
    }
    return summary("processes");
}
