/* scaleRT_mpi.h - a communicator of libscaleRT over the host's MPI. Header-only: compile it with the host's mpicc.
 *
 * What moves goes through nonblocking operations of MPI, in pieces, so that any number of elements fits MPI's counts.
 * Reductions are the library's: it exchanges pieces with MPI and adds them itself, in the order of ranks and 16-bit
 * floats in f32. So a sum has the same bits every time, with any MPI, and MPI need not know bf16.
 *
 * Waiting polls with the deadline of the descriptor: a rank that died or does not come gives the others TIMEOUT, and
 * an MPI that notices it itself (ULFM, as mpirun --with-ft ulfm) gives them COMM_ERROR at once, with minus MPI's error
 * code as native code. MPI cannot take back what has begun: after a timeout it may still write to the tensors of that
 * operation, so keep their memory until the process ends, and do not expect MPI_Finalize to return.
 *
 * MPI must be initialised with MPI_THREAD_SERIALIZED where operations are called from different threads, and with
 * MPI_THREAD_MULTIPLE where the host uses MPI at the same time. */
#ifndef SCALERT_MPI_H
#define SCALERT_MPI_H

#include <mpi.h>
#include <scaleRT.h>

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes that one operation of MPI moves between two ranks at most. */
#ifndef SCALERT_MPI_PIECE
#define SCALERT_MPI_PIECE (1 << 28)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The user pointer of the callbacks below. */
typedef struct scalert_mpi {
    MPI_Comm comm;
    int rank;
    double timeout; /* seconds */
    volatile int is_aborted;
    int has_failed;
} scalert_mpi_t;

static inline size_t scalert_mpi_bytes(const scalert_comm_call_t *call) {
    switch (call->dtype) {
    case SCALERT_I64:
        return 8 * (size_t)call->count;
    case SCALERT_U8:
        return (size_t)call->count;
    case SCALERT_F32:
    case SCALERT_I32:
        return 4 * (size_t)call->count;
    default:
        return 2 * (size_t)call->count;
    }
}

/* What a callback returns for an error of MPI; its text goes to the caller. */
static inline int32_t scalert_mpi_failed(scalert_mpi_t *self, const scalert_comm_call_t *call, int error) {
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int length = 0;
    self->has_failed = 1;
    if (MPI_Error_string(error, text, &length) != MPI_SUCCESS)
        snprintf(text, sizeof text, "MPI error %d", error);
    snprintf(call->message, call->message_bytes, "%s", text);
    return error > 0 ? -error : -1;
}

/* Waits for a request that was started with this error. */
static inline int32_t scalert_mpi_wait(scalert_mpi_t *self, const scalert_comm_call_t *call, int error,
                                       MPI_Request *request) {
    const double deadline = MPI_Wtime() + self->timeout;
    int is_done = 0;
    if (error != MPI_SUCCESS)
        return scalert_mpi_failed(self, call, error);
    for (unsigned tries = 0;; tries++) {
        error = MPI_Test(request, &is_done, MPI_STATUS_IGNORE);
        if (error != MPI_SUCCESS)
            return scalert_mpi_failed(self, call, error);
        if (is_done)
            return 0;
        if (self->is_aborted) {
            self->has_failed = 1;
            snprintf(call->message, call->message_bytes, "rank %d has aborted the group", self->rank);
            return -1;
        }
        if (MPI_Wtime() > deadline) {
            self->has_failed = 1;
            snprintf(call->message, call->message_bytes, "another rank did not come within %.0f ms",
                     self->timeout * 1e3);
            return SCALERT_TIMEOUT;
        }
        if (tries > 1000)
            sched_yield();
    }
}

/* A type of length bytes, of which the next one begins stride bytes after it. */
static inline int scalert_mpi_part(int length, size_t stride, MPI_Datatype *part) {
    MPI_Datatype bytes;
    int error = MPI_Type_contiguous(length, MPI_BYTE, &bytes);
    if (error != MPI_SUCCESS)
        return error;
    error = MPI_Type_create_resized(bytes, 0, (MPI_Aint)stride, part);
    MPI_Type_free(&bytes);
    if (error != MPI_SUCCESS)
        return error;
    error = MPI_Type_commit(part);
    if (error != MPI_SUCCESS)
        MPI_Type_free(part);
    return error;
}

/* Bytes of the piece that begins at this one. */
static inline int scalert_mpi_piece(size_t bytes, size_t at) {
    return bytes - at < SCALERT_MPI_PIECE ? (int)(bytes - at) : SCALERT_MPI_PIECE;
}

static inline int32_t scalert_mpi_all_gather(void *user, const scalert_comm_call_t *call) {
    scalert_mpi_t *self = (scalert_mpi_t *)user;
    const size_t bytes = scalert_mpi_bytes(call);
    const char *input = (const char *)call->input;
    char *output = (char *)call->output;
    const int in_place = input == output + (size_t)self->rank * bytes;
    int32_t status = 0;
    for (size_t at = 0; at < bytes && status == 0; at += SCALERT_MPI_PIECE) {
        MPI_Request request = MPI_REQUEST_NULL;
        MPI_Datatype part;
        const int length = scalert_mpi_piece(bytes, at);
        int error = scalert_mpi_part(length, bytes, &part);
        if (error != MPI_SUCCESS)
            return scalert_mpi_failed(self, call, error);
        if (in_place)
            error = MPI_Iallgather(MPI_IN_PLACE, 0, MPI_BYTE, output + at, 1, part, self->comm, &request);
        else
            error = MPI_Iallgather(input + at, length, MPI_BYTE, output + at, 1, part, self->comm, &request);
        status = scalert_mpi_wait(self, call, error, &request);
        MPI_Type_free(&part);
    }
    return status;
}

static inline int32_t scalert_mpi_all_to_all(void *user, const scalert_comm_call_t *call) {
    scalert_mpi_t *self = (scalert_mpi_t *)user;
    const size_t bytes = scalert_mpi_bytes(call);
    int32_t status = 0;
    for (size_t at = 0; at < bytes && status == 0; at += SCALERT_MPI_PIECE) {
        MPI_Request request = MPI_REQUEST_NULL;
        MPI_Datatype part;
        int error = scalert_mpi_part(scalert_mpi_piece(bytes, at), bytes, &part);
        if (error != MPI_SUCCESS)
            return scalert_mpi_failed(self, call, error);
        error = MPI_Ialltoall((const char *)call->input + at, 1, part, (char *)call->output + at, 1, part, self->comm,
                              &request);
        status = scalert_mpi_wait(self, call, error, &request);
        MPI_Type_free(&part);
    }
    return status;
}

static inline int32_t scalert_mpi_broadcast(void *user, const scalert_comm_call_t *call) {
    scalert_mpi_t *self = (scalert_mpi_t *)user;
    const size_t bytes = scalert_mpi_bytes(call);
    int32_t status = 0;
    for (size_t at = 0; at < bytes && status == 0; at += SCALERT_MPI_PIECE) {
        MPI_Request request = MPI_REQUEST_NULL;
        const int error = MPI_Ibcast((char *)call->output + at, scalert_mpi_piece(bytes, at), MPI_BYTE, (int)call->peer,
                                     self->comm, &request);
        status = scalert_mpi_wait(self, call, error, &request);
    }
    return status;
}

static inline int32_t scalert_mpi_send(void *user, const scalert_comm_call_t *call) {
    scalert_mpi_t *self = (scalert_mpi_t *)user;
    const size_t bytes = scalert_mpi_bytes(call);
    int32_t status = 0;
    for (size_t at = 0; at < bytes && status == 0; at += SCALERT_MPI_PIECE) {
        MPI_Request request = MPI_REQUEST_NULL;
        const int error = MPI_Isend((const char *)call->input + at, scalert_mpi_piece(bytes, at), MPI_BYTE,
                                    (int)call->peer, 0, self->comm, &request);
        status = scalert_mpi_wait(self, call, error, &request);
    }
    return status;
}

static inline int32_t scalert_mpi_receive(void *user, const scalert_comm_call_t *call) {
    scalert_mpi_t *self = (scalert_mpi_t *)user;
    const size_t bytes = scalert_mpi_bytes(call);
    int32_t status = 0;
    for (size_t at = 0; at < bytes && status == 0; at += SCALERT_MPI_PIECE) {
        MPI_Request request = MPI_REQUEST_NULL;
        const int error = MPI_Irecv((char *)call->output + at, scalert_mpi_piece(bytes, at), MPI_BYTE, (int)call->peer,
                                    0, self->comm, &request);
        status = scalert_mpi_wait(self, call, error, &request);
    }
    return status;
}

static inline int32_t scalert_mpi_barrier(void *user, const scalert_comm_call_t *call) {
    scalert_mpi_t *self = (scalert_mpi_t *)user;
    MPI_Request request = MPI_REQUEST_NULL;
    const int error = MPI_Ibarrier(self->comm, &request);
    return scalert_mpi_wait(self, call, error, &request);
}

/* Ends this rank's wait: other processes notice by their own deadlines. */
static inline void scalert_mpi_abort(void *user) {
    ((scalert_mpi_t *)user)->is_aborted = 1;
}

static inline void scalert_mpi_release(void *user) {
    scalert_mpi_t *self = (scalert_mpi_t *)user;
    int is_finalized = 1;
    /* Freed only while every rank can take part; MPI itself frees the rest. */
    if (!self->has_failed && !self->is_aborted && MPI_Finalized(&is_finalized) == MPI_SUCCESS && !is_finalized)
        MPI_Comm_free(&self->comm);
    free(self);
}

/* A communicator of the ranks of comm, which is duplicated. Collective: every rank of comm calls it, and destroys the
 * result before MPI_Finalize. Runtimes are of the CPU. desc as of scalert_comm_create_from_vtable, with timeout_ms.
 * COMM_ERROR when MPI fails; scalert_last_error then knows nothing of it. [externally-synchronised] [sync] */
static inline scalert_status_t scalert_comm_create_mpi(scalert_runtime_t *runtime, MPI_Comm comm,
                                                       const scalert_comm_desc_t *desc, scalert_comm_t **out) {
    scalert_comm_vtable_t vtable = SCALERT_COMM_VTABLE_INIT;
    scalert_status_t status;
    int world = 0;
    scalert_mpi_t *self = (scalert_mpi_t *)calloc(1, sizeof *self);
    if (self == NULL)
        return SCALERT_OUT_OF_MEMORY;
    if (MPI_Comm_dup(comm, &self->comm) != MPI_SUCCESS) {
        free(self);
        return SCALERT_COMM_ERROR;
    }
    self->timeout = 600;
    if (desc != NULL && desc->struct_size >= offsetof(scalert_comm_desc_t, checking) && desc->timeout_ms != 0)
        self->timeout = (double)desc->timeout_ms / 1e3;
    if (MPI_Comm_set_errhandler(self->comm, MPI_ERRORS_RETURN) != MPI_SUCCESS ||
        MPI_Comm_rank(self->comm, &self->rank) != MPI_SUCCESS || MPI_Comm_size(self->comm, &world) != MPI_SUCCESS) {
        scalert_mpi_release(self);
        return SCALERT_COMM_ERROR;
    }
    vtable.user = self;
    vtable.rank = (uint32_t)self->rank;
    vtable.world = (uint32_t)world;
    vtable.all_gather = scalert_mpi_all_gather;
    vtable.all_to_all = scalert_mpi_all_to_all;
    vtable.broadcast = scalert_mpi_broadcast;
    vtable.send = scalert_mpi_send;
    vtable.receive = scalert_mpi_receive;
    vtable.barrier = scalert_mpi_barrier;
    vtable.abort = scalert_mpi_abort;
    vtable.release = scalert_mpi_release;
    status = scalert_comm_create_from_vtable(runtime, &vtable, desc, out);
    if (status != SCALERT_OK)
        scalert_mpi_release(self);
    return status;
}

#ifdef __cplusplus
}
#endif

#endif /* SCALERT_MPI_H */
