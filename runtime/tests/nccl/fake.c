/* A libnccl.so.2 that computes nothing: it checks its arguments, writes down what it is asked for, and fails or is slow
 * when it is told to. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { SUCCESS, UNHANDLED_CUDA, SYSTEM, INTERNAL, INVALID_ARGUMENT, INVALID_USAGE, REMOTE, IN_PROGRESS };

typedef struct {
    char internal[128];
} ncclUniqueId;

typedef struct {
    size_t size;
    unsigned magic, version;
    int blocking;
} ncclConfig_t;

struct comm {
    int rank, world;
};

/* What has been called, each call on a line. */
char fake_log[8192];
/* The communicators that are there. */
int fake_live;
/* The next result of ncclCommGetAsyncError, and how many times it is IN_PROGRESS before; the result of operations. */
int fake_async, fake_busy, fake_result;

static int note(const char *text, struct comm *comm, size_t n, int type, int third, int fourth) {
    const size_t length = strlen(fake_log);
    if (comm == NULL || comm->world < 1)
        return INVALID_ARGUMENT;
    snprintf(fake_log + length, sizeof fake_log - length, "%s %zu %d %d %d\n", text, n, type, third, fourth);
    return fake_result;
}

int ncclGetVersion(int *version) {
    *version = 22703;
    return SUCCESS;
}

const char *ncclGetErrorString(int code) {
    return code == REMOTE ? "a remote process exited" : "something else";
}

int ncclGetUniqueId(ncclUniqueId *id) {
    memset(id, 0x5a, sizeof *id);
    return SUCCESS;
}

int ncclCommInitRankConfig(struct comm **comm, int world, ncclUniqueId id, int rank, const ncclConfig_t *config) {
    static struct comm one;
    for (size_t i = 0; i < sizeof id; i++)
        if (id.internal[i] != 0x5a)
            return INVALID_ARGUMENT;
    if (config->size != sizeof *config || config->magic != 0xcafebeef || config->version != 21400 || config->blocking)
        return INVALID_ARGUMENT;
    one.rank = rank;
    one.world = world;
    *comm = &one;
    fake_live++;
    return IN_PROGRESS;
}

int ncclCommGetAsyncError(struct comm *comm, int *error) {
    (void)comm;
    *error = fake_busy > 0 ? (fake_busy--, IN_PROGRESS) : fake_async;
    return SUCCESS;
}

int ncclCommFinalize(struct comm *comm) {
    return note("finalize", comm, 0, 0, 0, 0);
}

int ncclCommDestroy(struct comm *comm) {
    fake_live--;
    return note("destroy", comm, 0, 0, 0, 0);
}

int ncclCommAbort(struct comm *comm) {
    fake_live--;
    return note("abort", comm, 0, 0, 0, 0);
}

int ncclGroupStart(void) {
    static struct comm any = {0, 1};
    return note("start", &any, 0, 0, 0, 0);
}

int ncclGroupEnd(void) {
    static struct comm any = {0, 1};
    return note("end", &any, 0, 0, 0, 0);
}

int ncclAllReduce(const void *in, void *out, size_t n, int type, int op, struct comm *comm, void *stream) {
    return stream == NULL ? INVALID_ARGUMENT : note("all_reduce", comm, n, type, op, in == out);
}

int ncclReduce(const void *in, void *out, size_t n, int type, int op, int root, struct comm *comm, void *stream) {
    (void)in;
    return stream == NULL ? INVALID_ARGUMENT : note(out ? "reduce" : "reduce to none", comm, n, type, op, root);
}

int ncclReduceScatter(const void *in, void *out, size_t n, int type, int op, struct comm *comm, void *stream) {
    return stream == NULL ? INVALID_ARGUMENT : note("reduce_scatter", comm, n, type, op, in == out);
}

int ncclAllGather(const void *in, void *out, size_t n, int type, struct comm *comm, void *stream) {
    return stream == NULL ? INVALID_ARGUMENT : note("all_gather", comm, n, type, in == out, 0);
}

int ncclBroadcast(const void *in, void *out, size_t n, int type, int root, struct comm *comm, void *stream) {
    return stream == NULL ? INVALID_ARGUMENT : note("broadcast", comm, n, type, root, in == out);
}

int ncclSend(const void *in, size_t n, int type, int to, struct comm *comm, void *stream) {
    return stream == NULL || in == NULL ? INVALID_ARGUMENT : note("send", comm, n, type, to, 0);
}

int ncclRecv(void *out, size_t n, int type, int from, struct comm *comm, void *stream) {
    return stream == NULL || out == NULL ? INVALID_ARGUMENT : note("receive", comm, n, type, from, 0);
}
