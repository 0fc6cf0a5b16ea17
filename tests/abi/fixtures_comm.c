/* One right call of every function of communicators. */
#include "functions.h"

#include <string.h>

static int32_t succeed(void *user, const scalert_comm_call_t *call) {
    (void)user, (void)call;
    return 0;
}

static void nothing(void *user) {
    (void)user;
}

static void fill(scalert_comm_vtable_t *vtable) {
    vtable->rank = 0;
    vtable->world = 2;
    vtable->deterministic = 1;
    vtable->all_gather = vtable->all_to_all = vtable->all_reduce = vtable->reduce = vtable->reduce_scatter = succeed;
    vtable->broadcast = vtable->send = vtable->receive = vtable->barrier = succeed;
    vtable->abort = vtable->release = nothing;
}

static scalert_comm_t *comm(struct world *w) {
    scalert_comm_t *comm;
    must(scalert_comm_create_single(w->runtime, &comm));
    world_owns(w, "scalert_comm_t", comm);
    return comm;
}

/* Of two ranks, the other of which does not exist. */
static scalert_comm_t *pair(struct world *w) {
    scalert_comm_vtable_t vtable = SCALERT_COMM_VTABLE_INIT;
    scalert_comm_desc_t desc = SCALERT_COMM_DESC_INIT;
    scalert_comm_t *comm;
    fill(&vtable);
    must(scalert_comm_create_from_vtable(w->runtime, &vtable, &desc, &comm));
    world_owns(w, "scalert_comm_t", comm);
    return comm;
}

static const char *text(struct world *w, const char *from) {
    return strcpy(world_memory(w, strlen(from) + 1), from);
}

void fixture_scalert_comm_create_single(struct world *w, struct args_scalert_comm_create_single *a) {
    a->runtime = w->runtime;
    a->out = world_memory(w, sizeof *a->out);
}

void fixture_scalert_comm_create_local(struct world *w, struct args_scalert_comm_create_local *a) {
    scalert_runtime_desc_t runtime = SCALERT_RUNTIME_DESC_INIT;
    scalert_runtime_t **runtimes = world_memory(w, 2 * sizeof *runtimes);
    scalert_comm_desc_t *desc = STRUCT(w, scalert_comm_desc_t);
    runtimes[0] = w->runtime;
    must(scalert_runtime_create(&runtime, &runtimes[1]));
    world_owns(w, "scalert_runtime_t", runtimes[1]);
    desc->timeout_ms = 1000;
    desc->checking = 1;
    a->runtimes = runtimes;
    a->world = 2;
    a->desc = desc;
    a->comms = world_memory(w, 2 * sizeof *a->comms);
}

void fixture_scalert_comm_create_from_vtable(struct world *w, struct args_scalert_comm_create_from_vtable *a) {
    scalert_comm_vtable_t *vtable = STRUCT(w, scalert_comm_vtable_t);
    scalert_comm_desc_t *desc = STRUCT(w, scalert_comm_desc_t);
    fill(vtable);
    vtable->user = w;
    desc->timeout_ms = 1000;
    desc->checking = 1;
    a->runtime = w->runtime;
    a->vtable = vtable;
    a->desc = desc;
    a->out = world_memory(w, sizeof *a->out);
    optional(w, "user");
    optional(w, "all_reduce");
    optional(w, "reduce");
    optional(w, "reduce_scatter");
    optional(w, "broadcast");
    optional(w, "send");
    optional(w, "receive");
    optional(w, "barrier");
    optional(w, "abort");
    optional(w, "release");
}

void fixture_scalert_comm_nccl_id(struct world *w, struct args_scalert_comm_nccl_id *a) {
    a->id = world_memory(w, SCALERT_NCCL_ID_BYTES);
    may_be_unavailable(w);
}

void fixture_scalert_comm_create_nccl(struct world *w, struct args_scalert_comm_create_nccl *a) {
    a->runtime = w->runtime; /* of the CPU, on which there is no NCCL */
    a->id = world_memory(w, SCALERT_NCCL_ID_BYTES);
    a->rank = 0;
    a->world = 1;
    a->desc = STRUCT(w, scalert_comm_desc_t);
    a->out = world_memory(w, sizeof *a->out);
    may_be_unavailable(w);
}

void fixture_scalert_comm_destroy(struct world *w, struct args_scalert_comm_destroy *a) {
    must(scalert_comm_create_single(w->runtime, &a->comm));
}

void fixture_scalert_comm_rank(struct world *w, struct args_scalert_comm_rank *a) {
    a->comm = comm(w);
    a->rank = world_memory(w, sizeof *a->rank);
}

void fixture_scalert_comm_world(struct world *w, struct args_scalert_comm_world *a) {
    a->comm = comm(w);
    a->world = world_memory(w, sizeof *a->world);
}

void fixture_scalert_comm_deterministic(struct world *w, struct args_scalert_comm_deterministic *a) {
    a->comm = comm(w);
    a->deterministic = world_memory(w, sizeof *a->deterministic);
}

void fixture_scalert_comm_set_tag(struct world *w, struct args_scalert_comm_set_tag *a) {
    a->comm = comm(w);
    a->tag = text(w, "layer 3");
}

void fixture_scalert_comm_all_reduce(struct world *w, struct args_scalert_comm_all_reduce *a) {
    a->comm = comm(w);
    a->stream = w->stream;
    a->x = floats(w, 1, 12);
    a->reduction = SCALERT_REDUCE_MEAN;
    output(w, "x");
    any_extent(w, "x", ANY_SHAPE);
}

void fixture_scalert_comm_reduce(struct world *w, struct args_scalert_comm_reduce *a) {
    a->comm = comm(w);
    a->stream = w->stream;
    a->input = floats(w, 2, 1, 12);
    a->output = floats(w, 2, 1, 12);
    a->reduction = SCALERT_REDUCE_MAX;
    a->root = 0;
    output(w, "output");
    may_be(w, "output", "input");
    any_extent(w, "input", ANY_NDIM);
    any_extent(w, "output", ANY_NDIM);
}

void fixture_scalert_comm_reduce_scatter(struct world *w, struct args_scalert_comm_reduce_scatter *a) {
    a->comm = comm(w);
    a->stream = w->stream;
    a->input = floats(w, 2, 1, 12);
    a->output = floats(w, 2, 1, 12);
    a->reduction = SCALERT_REDUCE_SUM;
    output(w, "output");
    may_be(w, "output", "input");
    any_extent(w, "input", ANY_NDIM);
    any_extent(w, "output", ANY_NDIM);
}

void fixture_scalert_comm_all_gather(struct world *w, struct args_scalert_comm_all_gather *a) {
    a->comm = comm(w);
    a->stream = w->stream;
    a->input = floats(w, 2, 1, 12);
    a->output = floats(w, 2, 1, 12);
    output(w, "output");
    may_be(w, "output", "input");
    any_extent(w, "input", ANY_NDIM);
    any_extent(w, "output", ANY_NDIM);
}

void fixture_scalert_comm_broadcast(struct world *w, struct args_scalert_comm_broadcast *a) {
    a->comm = comm(w);
    a->stream = w->stream;
    a->x = floats(w, 1, 12);
    a->root = 0;
    output(w, "x");
    any_extent(w, "x", ANY_SHAPE);
    any_extent(w, "x", ANY_DTYPE);
}

void fixture_scalert_comm_all_to_all(struct world *w, struct args_scalert_comm_all_to_all *a) {
    a->comm = comm(w);
    a->stream = w->stream;
    a->input = floats(w, 2, 1, 12);
    a->output = floats(w, 2, 1, 12);
    output(w, "output");
    any_extent(w, "input", ANY_NDIM);
    any_extent(w, "output", ANY_NDIM);
}

void fixture_scalert_comm_send(struct world *w, struct args_scalert_comm_send *a) {
    a->comm = pair(w);
    a->stream = w->stream;
    a->x = floats(w, 1, 12);
    a->to = 1;
    any_extent(w, "x", ANY_SHAPE);
    any_extent(w, "x", ANY_DTYPE);
}

void fixture_scalert_comm_receive(struct world *w, struct args_scalert_comm_receive *a) {
    a->comm = pair(w);
    a->stream = w->stream;
    a->x = floats(w, 1, 12);
    a->from = 1;
    output(w, "x");
    any_extent(w, "x", ANY_SHAPE);
    any_extent(w, "x", ANY_DTYPE);
}

void fixture_scalert_comm_barrier(struct world *w, struct args_scalert_comm_barrier *a) {
    a->comm = comm(w);
    a->stream = w->stream;
}

void fixture_scalert_comm_agree(struct world *w, struct args_scalert_comm_agree *a) {
    a->comm = comm(w);
    a->stream = w->stream;
    a->what = text(w, "parameters");
    a->words = world_memory(w, 3 * sizeof *a->words);
    a->count = 3;
}

void fixture_scalert_comm_abort(struct world *w, struct args_scalert_comm_abort *a) {
    a->comm = comm(w);
}

void fixture_scalert_comm_async_error(struct world *w, struct args_scalert_comm_async_error *a) {
    a->comm = comm(w);
}
