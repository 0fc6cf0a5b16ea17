/* Communicators: ranks that are threads, a host's own table of callbacks, and groups that fail. */
#include "check.h"

#include <pthread.h>
#include <sched.h>

#define RANKS 3

/* ---- ranks that are threads -------------------------------------------------------------------------------------- */

struct rank {
    scalert_runtime_t *runtime;
    scalert_comm_t *comm;
    uint32_t rank, world;
    void (*body)(struct rank *rank, scalert_stream_t *stream);
};

static void *run(void *argument) {
    struct rank *rank = (struct rank *)argument;
    scalert_stream_t *stream = stream_of(rank->runtime);
    rank->body(rank, stream);
    scalert_comm_destroy(rank->comm);
    scalert_stream_destroy(stream);
    return NULL;
}

static void start(struct rank *ranks, uint32_t world) {
    pthread_t threads[RANKS];
    for (uint32_t r = 0; r < world; r++) {
        CHECK(pthread_create(&threads[r], NULL, run, &ranks[r]) == 0);
    }
    for (uint32_t r = 0; r < world; r++) {
        CHECK(pthread_join(threads[r], NULL) == 0);
        scalert_runtime_destroy(ranks[r].runtime);
    }
}

static void local(uint64_t timeout_ms, void (*body)(struct rank *rank, scalert_stream_t *stream)) {
    struct rank ranks[RANKS];
    scalert_runtime_t *runtimes[RANKS];
    scalert_comm_t *comms[RANKS];
    scalert_comm_desc_t desc = SCALERT_COMM_DESC_INIT;
    desc.timeout_ms = timeout_ms;
    for (uint32_t r = 0; r < RANKS; r++) {
        runtimes[r] = cpu_runtime();
    }
    OK(scalert_comm_create_local(runtimes, RANKS, &desc, comms));
    for (uint32_t r = 0; r < RANKS; r++) {
        struct rank rank = {runtimes[r], comms[r], r, RANKS, body};
        ranks[r] = rank;
    }
    start(ranks, RANKS);
}

/* ---- every operation --------------------------------------------------------------------------------------------- */

static void every_operation(struct rank *rank, scalert_stream_t *stream) {
    const uint32_t world = rank->world, me = rank->rank;
    float x[2 * RANKS], y[2 * RANKS], part[2];
    uint16_t half[1];
    int64_t words[1];
    scalert_tensor_t x_view = vector(x, 2 * world), y_view = vector(y, 2 * world), part_view = vector(part, 2);
    scalert_tensor_t half_view = tensor(half, SCALERT_F16, 1, 1, 0, 0, 0);
    scalert_tensor_t words_view = tensor(words, SCALERT_I64, 1, 1, 0, 0, 0);
    uint32_t number = 9;
    uint8_t deterministic = 0;
    OK(scalert_comm_rank(rank->comm, &number));
    CHECK(number == me);
    OK(scalert_comm_world(rank->comm, &number));
    CHECK(number == world);
    OK(scalert_comm_deterministic(rank->comm, &deterministic));
    CHECK(deterministic);
    for (uint32_t i = 0; i < 2 * world; i++) {
        x[i] = (float)(10 * me + i);
    }
    OK(scalert_comm_all_reduce(rank->comm, stream, &x_view, SCALERT_REDUCE_SUM));
    for (uint32_t i = 0; i < 2 * world; i++) {
        CHECK(x[i] == (float)(5 * world * (world - 1) + world * i));
        x[i] = (float)(10 * me + i);
    }
    OK(scalert_comm_reduce_scatter(rank->comm, stream, &x_view, &part_view, SCALERT_REDUCE_MEAN));
    CHECK(part[0] == 5.0f * (float)(world - 1) + 2.0f * (float)me && part[1] == part[0] + 1);
    OK(scalert_comm_all_gather(rank->comm, stream, &part_view, &y_view));
    for (uint32_t r = 0; r < world; r++) {
        CHECK(y[2 * r] == 5.0f * (float)(world - 1) + 2.0f * (float)r);
    }
    OK(scalert_comm_reduce(rank->comm, stream, &x_view, me == 1 ? &y_view : NULL, SCALERT_REDUCE_MAX, 1));
    CHECK(me != 1 || y[3] == (float)(10 * (world - 1) + 3));
    OK(scalert_comm_all_to_all(rank->comm, stream, &x_view, &y_view));
    for (uint32_t r = 0; r < world; r++) {
        CHECK(y[2 * r] == (float)(10 * r + 2 * me) && y[2 * r + 1] == y[2 * r] + 1);
    }
    OK(scalert_comm_broadcast(rank->comm, stream, &x_view, 1));
    CHECK(x[0] == 10.0f && x[1] == 11.0f);
    half[0] = 0x3C00; /* 1 */
    OK(scalert_comm_all_reduce(rank->comm, stream, &half_view, SCALERT_REDUCE_MEAN));
    CHECK(half[0] == 0x3C00);
    words[0] = (int64_t)1 << 62;
    OK(scalert_comm_all_reduce(rank->comm, stream, &words_view, SCALERT_REDUCE_SUM));
    CHECK(words[0] == (int64_t)((uint64_t)world << 62));
    part[0] = (float)me;
    if (me == 0) {
        OK(scalert_comm_send(rank->comm, stream, &part_view, 1));
    } else if (me == 1) {
        OK(scalert_comm_receive(rank->comm, stream, &part_view, 0));
        CHECK(part[0] == 0.0f);
    }
    OK(scalert_comm_barrier(rank->comm, stream));
    OK(scalert_stream_wait(stream));
}

static void agreement(struct rank *rank, scalert_stream_t *stream) {
    uint64_t words[2] = {7, 8};
    OK(scalert_comm_agree(rank->comm, stream, "sizes", words, 2));
    words[1] += rank->rank == 1;
    FAILS(scalert_comm_agree(rank->comm, stream, "sizes", words, 2), SCALERT_FAILED_PRECONDITION,
          "sizes: word 1 is 8 on rank 0 and 9 on rank 1");
    FAILS(scalert_comm_agree(rank->comm, stream, "sizes", NULL, 2), SCALERT_INVALID_ARGUMENT, "words");
    OK(scalert_comm_barrier(rank->comm, stream));
}

/* ---- groups that fail -------------------------------------------------------------------------------------------- */

static void other_calls(struct rank *rank, scalert_stream_t *stream) {
    float x[4] = {1, 2, 3, 4};
    scalert_tensor_t view = vector(x, rank->rank == 2 ? 3 : 4);
    FAILS(scalert_comm_all_reduce(rank->comm, stream, &view, SCALERT_REDUCE_SUM), SCALERT_FAILED_PRECONDITION,
          "rank 0 calls all_reduce (sum) of 4 f32, rank 2 calls all_reduce (sum) of 3 f32");
    OK(scalert_comm_set_tag(rank->comm, rank->rank == 1 ? "b" : "a"));
    FAILS(scalert_comm_barrier(rank->comm, stream), SCALERT_FAILED_PRECONDITION, "barrier tagged 'b'");
    OK(scalert_comm_set_tag(rank->comm, ""));
    OK(scalert_comm_async_error(rank->comm));
    OK(scalert_comm_barrier(rank->comm, stream));
    CHECK(x[0] == 1 && x[3] == 4);
}

static void late(struct rank *rank, scalert_stream_t *stream) {
    OK(scalert_comm_barrier(rank->comm, stream));
    if (rank->rank != 1) {
        FAILS(scalert_comm_barrier(rank->comm, stream), SCALERT_TIMEOUT, "barrier, operation 2 of the group: rank 1");
    } else {
        while (scalert_comm_async_error(rank->comm) == SCALERT_OK) {
            sched_yield();
        }
    }
    FAILS(scalert_comm_barrier(rank->comm, stream), SCALERT_COMM_ERROR, "rank 1 did not come within 1s");
}

static void gone(struct rank *rank, scalert_stream_t *stream) {
    if (rank->rank != 1) {
        FAILS(scalert_comm_barrier(rank->comm, stream), SCALERT_COMM_ERROR, "rank 1 has left the group");
    }
}

static void aborted(struct rank *rank, scalert_stream_t *stream) {
    if (rank->rank == 1) {
        OK(scalert_comm_abort(rank->comm));
    }
    FAILS(scalert_comm_barrier(rank->comm, stream), SCALERT_COMM_ERROR, "rank 1 has aborted the group");
}

/* ---- a host's own table: two ranks in turns over shared memory --------------------------------------------------- */

struct table {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    const void *input[2];
    uint32_t arrived, turn;
    int fails, aborts, releases;
};

struct member {
    struct table *table;
    uint32_t rank;
};

static size_t bytes_of(const scalert_comm_call_t *call) {
    size_t size = call->dtype == SCALERT_I64 ? 8 : call->dtype == SCALERT_F32 || call->dtype == SCALERT_I32 ? 4 : 2;
    return size * (size_t)call->count;
}

/* Waits for the other rank; the table is locked. */
static void meet(struct table *table) {
    uint32_t turn = table->turn;
    if (++table->arrived == 2) {
        table->arrived = 0;
        table->turn++;
        pthread_cond_broadcast(&table->changed);
    }
    while (table->turn == turn) {
        pthread_cond_wait(&table->changed, &table->mutex);
    }
}

static int32_t exchange(struct member *member, const scalert_comm_call_t *call, size_t part_of_input) {
    struct table *table = member->table;
    const size_t bytes = bytes_of(call);
    pthread_mutex_lock(&table->mutex);
    if (table->fails) {
        pthread_mutex_unlock(&table->mutex);
        snprintf(call->message, call->message_bytes, "the wire is cut");
        return 77;
    }
    table->input[member->rank] = call->input;
    meet(table);
    for (uint32_t r = 0; r < 2; r++) {
        memmove((char *)call->output + r * bytes, (const char *)table->input[r] + part_of_input * bytes, bytes);
    }
    meet(table);
    pthread_mutex_unlock(&table->mutex);
    return 0;
}

static int32_t all_gather(void *user, const scalert_comm_call_t *call) {
    return exchange((struct member *)user, call, 0);
}

static int32_t all_to_all(void *user, const scalert_comm_call_t *call) {
    struct member *member = (struct member *)user;
    return exchange(member, call, member->rank);
}

static void abort_table(void *user) {
    struct table *table = ((struct member *)user)->table;
    pthread_mutex_lock(&table->mutex);
    table->aborts++;
    pthread_mutex_unlock(&table->mutex);
}

static void release_table(void *user) {
    struct table *table = ((struct member *)user)->table;
    pthread_mutex_lock(&table->mutex);
    table->releases++;
    pthread_mutex_unlock(&table->mutex);
}

static struct table table = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, {NULL, NULL}, 0, 0, 0, 0, 0};

static void over_table(uint8_t checking, void (*body)(struct rank *rank, scalert_stream_t *stream)) {
    struct rank ranks[2];
    struct member members[2];
    scalert_comm_vtable_t vtable = SCALERT_COMM_VTABLE_INIT;
    scalert_comm_desc_t desc = SCALERT_COMM_DESC_INIT;
    table.fails = table.aborts = table.releases = 0;
    vtable.world = 2;
    vtable.all_gather = all_gather;
    vtable.all_to_all = all_to_all;
    vtable.abort = abort_table;
    vtable.release = release_table;
    desc.checking = checking;
    for (uint32_t r = 0; r < 2; r++) {
        struct rank rank = {cpu_runtime(), NULL, r, 2, body};
        members[r].table = &table;
        members[r].rank = r;
        vtable.user = &members[r];
        vtable.rank = r;
        OK(scalert_comm_create_from_vtable(rank.runtime, &vtable, &desc, &rank.comm));
        ranks[r] = rank;
    }
    start(ranks, 2);
    CHECK(table.releases == 2);
}

static void composed(struct rank *rank, scalert_stream_t *stream) {
    enum { MANY = 1500001 }; /* more than staging holds */
    const uint32_t me = rank->rank;
    float *many = (float *)malloc(MANY * sizeof *many), part[2], x[4], y[4];
    scalert_tensor_t many_view = vector(many, MANY), part_view = vector(part, 2);
    scalert_tensor_t x_view = vector(x, 4), y_view = vector(y, 4);
    uint8_t deterministic = 0;
    OK(scalert_comm_deterministic(rank->comm, &deterministic));
    CHECK(deterministic);
    for (int i = 0; i < MANY; i++) {
        many[i] = (float)(i % 1000 + (int)me);
    }
    OK(scalert_comm_all_reduce(rank->comm, stream, &many_view, SCALERT_REDUCE_SUM));
    for (int i = 0; i < MANY; i++) {
        if (many[i] != (float)(2 * (i % 1000) + 1)) {
            CHECK(!"a sum of the table");
        }
        many[i] = (float)(i % 1000 + (int)me);
    }
    OK(scalert_comm_broadcast(rank->comm, stream, &many_view, 1));
    CHECK(many[0] == 1 && many[MANY - 1] == (float)((MANY - 1) % 1000 + 1));
    free(many);
    for (int i = 0; i < 4; i++) {
        x[i] = (float)(10 * (int)me + i);
    }
    OK(scalert_comm_reduce_scatter(rank->comm, stream, &x_view, &part_view, SCALERT_REDUCE_MEAN));
    CHECK(part[0] == 5 + 2 * (float)me && part[1] == part[0] + 1);
    OK(scalert_comm_reduce(rank->comm, stream, &x_view, me == 0 ? &y_view : NULL, SCALERT_REDUCE_MAX, 0));
    CHECK(me != 0 || y[3] == 13);
    OK(scalert_comm_all_to_all(rank->comm, stream, &x_view, &y_view));
    CHECK(y[0] == 2 * (float)me && y[2] == 10 + 2 * (float)me);
    OK(scalert_comm_barrier(rank->comm, stream));
    FAILS(scalert_comm_send(rank->comm, stream, &x_view, 1 - me), SCALERT_UNAVAILABLE, "has no send");
    OK(scalert_comm_async_error(rank->comm));
}

static void checked(struct rank *rank, scalert_stream_t *stream) {
    float x[4] = {1, 2, 3, 4};
    scalert_tensor_t view = vector(x, 4);
    OK(scalert_comm_all_reduce(rank->comm, stream, &view, SCALERT_REDUCE_SUM));
    CHECK(x[3] == 8);
    if (rank->rank == 0) {
        FAILS(scalert_comm_broadcast(rank->comm, stream, &view, 0), SCALERT_FAILED_PRECONDITION,
              "rank 0 calls broadcast of 4 f32 from rank 0 as operation 2, rank 1 calls barrier as operation 2");
    } else {
        FAILS(scalert_comm_barrier(rank->comm, stream), SCALERT_FAILED_PRECONDITION, "rank 1 calls barrier");
    }
    OK(scalert_comm_barrier(rank->comm, stream));
}

static void broken(struct rank *rank, scalert_stream_t *stream) {
    scalert_error_t error = SCALERT_ERROR_INIT;
    OK(scalert_comm_barrier(rank->comm, stream));
    pthread_mutex_lock(&table.mutex);
    table.fails = 1;
    pthread_mutex_unlock(&table.mutex);
    FAILS(scalert_comm_barrier(rank->comm, stream), SCALERT_COMM_ERROR, "all_gather: the wire is cut");
    OK(scalert_last_error(&error));
    CHECK(error.native_domain == SCALERT_NATIVE_HOST_CALLBACK && error.native_code == 77);
    FAILS(scalert_comm_barrier(rank->comm, stream), SCALERT_COMM_ERROR, "the group has failed: COMM_ERROR: all_gather");
    OK(scalert_comm_abort(rank->comm));
    OK(scalert_comm_abort(rank->comm));
    pthread_mutex_lock(&table.mutex);
    CHECK(table.aborts >= 1 && table.aborts <= 2); /* once on each rank */
    pthread_mutex_unlock(&table.mutex);
}

/* The machine has NCCL or the status says what is missing; a CPU runtime has no rank of it in any case. */
static void nccl(scalert_runtime_t *runtime) {
    scalert_comm_desc_t desc = SCALERT_COMM_DESC_INIT;
    scalert_comm_t *comm = NULL;
    uint8_t id[SCALERT_NCCL_ID_BYTES];
    memset(id, 0, sizeof id);
    if (scalert_comm_nccl_id(id) != SCALERT_OK) {
        FAILS(scalert_comm_nccl_id(id), SCALERT_UNAVAILABLE, "NCCL");
    }
    FAILS(scalert_comm_create_nccl(runtime, id, 0, 1, &desc, &comm), SCALERT_UNAVAILABLE, "a runtime of a CUDA device");
    FAILS(scalert_comm_create_nccl(runtime, id, 1, 1, &desc, &comm), SCALERT_INVALID_ARGUMENT, "rank: 1");
    FAILS(scalert_comm_create_nccl(runtime, NULL, 0, 1, &desc, &comm), SCALERT_INVALID_ARGUMENT, "id");
}

int main(void) {
    scalert_runtime_t *runtime = cpu_runtime();
    struct rank alone = {runtime, NULL, 0, 1, NULL};
    scalert_comm_vtable_t vtable = SCALERT_COMM_VTABLE_INIT;
    scalert_comm_desc_t desc = SCALERT_COMM_DESC_INIT;
    scalert_comm_t *comm = NULL;
    scalert_runtime_t *twice[2];
    local(0, every_operation);
    local(0, agreement);
    local(0, other_calls);
    local(1000, late);
    local(0, gone);
    local(0, aborted);
    over_table(0, composed);
    over_table(1, composed);
    over_table(1, checked);
    over_table(0, agreement);
    over_table(0, broken);

    twice[0] = twice[1] = runtime;
    FAILS(scalert_comm_create_local(twice, 2, &desc, &comm), SCALERT_INVALID_ARGUMENT, "runtimes: [1] must not be [0]");
    FAILS(scalert_comm_create_local(twice, 0, &desc, &comm), SCALERT_INVALID_ARGUMENT, "world: 0 must be 1 to 1024");
    FAILS(scalert_comm_create_local(twice, 1025, &desc, &comm), SCALERT_INVALID_ARGUMENT, "world: 1025");
    vtable.rank = vtable.world = 2;
    FAILS(scalert_comm_create_from_vtable(runtime, &vtable, &desc, &comm), SCALERT_INVALID_ARGUMENT, "rank: 2");
    vtable.rank = 1;
    vtable.all_gather = all_gather;
    FAILS(scalert_comm_create_from_vtable(runtime, &vtable, &desc, &comm), SCALERT_INVALID_ARGUMENT, "all_to_all");

    nccl(runtime);
    OK(scalert_comm_create_single(runtime, &alone.comm));
    scalert_comm_destroy(alone.comm);
    scalert_comm_destroy(NULL);
    scalert_runtime_destroy(runtime);
    return passed();
}
