/* Ranks of MPI: every operation in pieces, sums with the bits of the order of ranks, and a rank that dies. */
#include "../c/check.h"
#include <scaleRT_mpi.h>

#include <signal.h>
#include <unistd.h>

static scalert_runtime_t *runtime;
static scalert_stream_t *stream;
static int rank, world;

static scalert_comm_t *comm_over_mpi(uint64_t timeout_ms, uint8_t checking) {
    scalert_comm_desc_t desc = SCALERT_COMM_DESC_INIT;
    scalert_comm_t *comm = NULL;
    desc.timeout_ms = timeout_ms;
    desc.checking = checking;
    OK(scalert_comm_create_mpi(runtime, MPI_COMM_WORLD, &desc, &comm));
    return comm;
}

/* What a rank has: values whose sum depends on its order. */
static float value(int of, int i) {
    return (float)(((int64_t)i * 7919 + of * 104729) % 1000) * (of % 2 ? -1e-3f : 1e5f) + 1.0f / (float)(of + 1);
}

static float sum(int i) {
    float y = value(0, i);
    for (int r = 1; r < world; r++) {
        y += value(r, i);
    }
    return y;
}

static void same(const float *x, const float *y, int n, const char *what) {
    for (int i = 0; i < n; i++) {
        if (memcmp(&x[i], &y[i], sizeof x[i]) != 0) {
            fprintf(stderr, "%s: element %d of %d is %.9g, not %.9g\n", what, i, n, (double)x[i], (double)y[i]);
            exit(1);
        }
    }
    checks_passed++;
}

static float *floats(int n) {
    float *x = (float *)malloc((size_t)(n + 1) * sizeof *x);
    CHECK(x != NULL);
    return x;
}

static void every_operation(scalert_comm_t *comm, int n) {
    const int all = n * world;
    float *x = floats(all), *y = floats(all), *expected = floats(all);
    scalert_tensor_t x_view = vector(x, all), y_view = vector(y, all);
    scalert_tensor_t part = vector(x, n), own = vector(y + rank * n, n);
    for (int i = 0; i < all; i++) {
        x[i] = value(rank, i);
        expected[i] = sum(i);
    }
    OK(scalert_comm_reduce_scatter(comm, stream, &x_view, &own, SCALERT_REDUCE_SUM));
    same(y + rank * n, expected + rank * n, n, "reduce_scatter");
    OK(scalert_comm_all_gather(comm, stream, &own, &y_view));
    same(y, expected, all, "all_gather in place");
    memset(y, 0, (size_t)all * sizeof *y);
    OK(scalert_comm_reduce(comm, stream, &x_view, rank == world - 1 ? &y_view : NULL, SCALERT_REDUCE_SUM,
                           (uint32_t)(world - 1)));
    if (rank == world - 1) {
        same(y, expected, all, "reduce");
    }
    OK(scalert_comm_all_to_all(comm, stream, &x_view, &y_view));
    for (int i = 0; i < all; i++) {
        expected[i] = value(n == 0 ? 0 : i / n, rank * n + (n == 0 ? 0 : i % n));
    }
    same(y, expected, all, "all_to_all");
    OK(scalert_comm_all_reduce(comm, stream, &x_view, SCALERT_REDUCE_SUM));
    for (int i = 0; i < all; i++) {
        expected[i] = sum(i);
    }
    same(x, expected, all, "all_reduce");
    for (int i = 0; i < n; i++) {
        x[i] = value(rank, i);
    }
    OK(scalert_comm_all_gather(comm, stream, &part, &y_view));
    for (int i = 0; i < all; i++) {
        expected[i] = value(i / n, i % n);
    }
    same(y, expected, all, "all_gather");
    OK(scalert_comm_broadcast(comm, stream, &part, (uint32_t)(world - 1)));
    same(x, expected + (world - 1) * n, n, "broadcast");
    if (world > 1 && rank < 2) {
        if (rank == 0) {
            OK(scalert_comm_send(comm, stream, &y_view, 1));
        } else {
            memset(y, 0, (size_t)all * sizeof *y);
            OK(scalert_comm_receive(comm, stream, &y_view, 0));
            same(y, expected, all, "message");
        }
    }
    OK(scalert_comm_barrier(comm, stream));
    free(x);
    free(y);
    free(expected);
}

static void other_types(scalert_comm_t *comm) {
    uint16_t half[3] = {0x3F80, 0x4000, 0x7FC0}; /* bf16 1, 2, NaN */
    int64_t words[2];
    uint64_t agreed[2] = {5, 6};
    scalert_tensor_t half_view = tensor(half, SCALERT_BF16, 1, 3, 0, 0, 0);
    scalert_tensor_t words_view = tensor(words, SCALERT_I64, 1, 2, 0, 0, 0);
    uint8_t deterministic = 0;
    OK(scalert_comm_deterministic(comm, &deterministic));
    CHECK(deterministic);
    OK(scalert_comm_all_reduce(comm, stream, &half_view, SCALERT_REDUCE_MEAN));
    CHECK(half[0] == 0x3F80 && half[1] == 0x4000 && (half[2] & 0x7FFF) > 0x7F80);
    words[0] = rank;
    words[1] = (int64_t)1 << 40;
    OK(scalert_comm_all_reduce(comm, stream, &words_view, SCALERT_REDUCE_SUM));
    CHECK(words[0] == world * (world - 1) / 2 && words[1] == (int64_t)world << 40);
    OK(scalert_comm_agree(comm, stream, "sizes", agreed, 2));
    agreed[1] += (uint64_t)rank;
    if (world > 1) {
        FAILS(scalert_comm_agree(comm, stream, "sizes", agreed, 2), SCALERT_FAILED_PRECONDITION,
              "sizes: word 1 is 6 on rank 0 and 7 on rank 1");
    }
}

static void other_calls(scalert_comm_t *comm) {
    float x[2] = {1, 2};
    scalert_tensor_t view = vector(x, rank == 0 ? 1 : 2);
    if (world > 1) {
        FAILS(scalert_comm_all_reduce(comm, stream, &view, SCALERT_REDUCE_SUM), SCALERT_FAILED_PRECONDITION,
              "rank 0 calls all_reduce (sum) of 1 f32 as operation 1, rank 1 calls all_reduce (sum) of 2 f32");
    }
    OK(scalert_comm_barrier(comm, stream));
    CHECK(x[0] == 1 && x[1] == 2);
}

/* The last rank dies; the others must get a status within their time. */
static int survive(void) {
    static float x[100000];
    scalert_comm_t *comm = comm_over_mpi(1500, 0);
    scalert_tensor_t view = vector(x, 100000);
    scalert_status_t status;
    double start;
    OK(scalert_comm_barrier(comm, stream));
    if (rank == world - 1) {
        raise(SIGKILL);
    }
    start = MPI_Wtime();
    status = scalert_comm_all_reduce(comm, stream, &view, SCALERT_REDUCE_SUM);
    CHECK(MPI_Wtime() - start < 10);
    CHECK(status == SCALERT_TIMEOUT || status == SCALERT_COMM_ERROR);
    FAILS(scalert_comm_barrier(comm, stream), SCALERT_COMM_ERROR, "the group has failed");
    scalert_comm_destroy(comm);
    printf("rank %d of %d survived with %s\n", rank, world, scalert_status_name(status));
    fflush(stdout);
    /* MPI would wait for the dead. */
    _exit(0);
}

int main(int argc, char **argv) {
    static const int sizes[] = {0, 1, 3, 100, 10000, 700001};
    scalert_comm_t *comm;
    int level;
    CHECK(MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &level) == MPI_SUCCESS);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    {
        scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
        desc.threads = 1;
        OK(scalert_runtime_create(&desc, &runtime));
    }
    stream = stream_of(runtime);
    if (argc > 1 && strcmp(argv[1], "kill") == 0) {
        return survive();
    }
    for (uint8_t checking = 0; checking < 2; checking++) {
        comm = comm_over_mpi(0, checking);
        if (checking) {
            other_calls(comm);
        }
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            /* The last fills the library's staging more than once: enough for one group. */
            if (sizes[i] < 700000 || (world == 2 && !checking)) {
                every_operation(comm, sizes[i]);
            }
        }
        other_types(comm);
        scalert_comm_destroy(comm);
    }
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
    CHECK(MPI_Finalize() == MPI_SUCCESS);
    return rank == 0 ? passed() : 0;
}
