/* One right call of every function of the training state, each at its place in the order of calls. */
#include "functions.h"

#include <string.h>

/* How far a state has come. */
enum phase { BUILDING, SEALED, IN_STEP, IN_MICRO, GRADIENTS_GIVEN, MICRO_ENDED, STEPPED };

/* A state with one AdamW group and the parameters "weight" [2, 3] and "bias" [3]. */
static scalert_state_t *state(struct world *w, enum phase phase) {
    scalert_state_desc_t desc = SCALERT_STATE_DESC_INIT;
    scalert_group_desc_t group_desc = SCALERT_GROUP_DESC_INIT;
    scalert_step_desc_t step_desc = SCALERT_STEP_DESC_INIT;
    const int64_t shape[2] = {2, 3};
    uint32_t group, parameter;
    scalert_state_t *state;
    must(scalert_state_create(w->runtime, &desc, &state));
    world_owns(w, "scalert_state_t", state);
    must(scalert_state_add_group(state, &group_desc, &group));
    must(scalert_state_add_parameter(state, group, "weight", 2, shape, &parameter));
    must(scalert_state_add_parameter(state, group, "bias", 1, shape + 1, &parameter));
    if (phase >= SEALED) {
        must(scalert_state_seal(state));
    }
    if (phase >= IN_STEP) {
        must(scalert_state_begin_step(state));
    }
    if (phase >= IN_MICRO) {
        must(scalert_state_begin_micro(state));
    }
    if (phase >= GRADIENTS_GIVEN) {
        must(scalert_state_gradient_ready(state, w->stream, 0, floats(w, 2, 2, 3), NULL));
        must(scalert_state_gradient_ready(state, w->stream, 1, floats(w, 1, 3), NULL));
    }
    if (phase >= MICRO_ENDED) {
        must(scalert_state_end_micro(state));
    }
    if (phase >= STEPPED) {
        step_desc.learning_rate = 0.1f;
        must(scalert_state_step(state, w->stream, &step_desc));
    }
    return state;
}

void fixture_scalert_state_create(struct world *w, struct args_scalert_state_create *a) {
    scalert_state_desc_t *desc = STRUCT(w, scalert_state_desc_t);
    desc->gradient_dtype = SCALERT_F32;
    a->runtime = w->runtime;
    a->desc = desc;
    a->out = world_memory(w, sizeof *a->out);
}

void fixture_scalert_state_destroy(struct world *w, struct args_scalert_state_destroy *a) {
    scalert_state_desc_t desc = SCALERT_STATE_DESC_INIT;
    must(scalert_state_create(w->runtime, &desc, &a->state));
}

void fixture_scalert_state_add_group(struct world *w, struct args_scalert_state_add_group *a) {
    scalert_group_desc_t *desc = STRUCT(w, scalert_group_desc_t);
    desc->optimizer = SCALERT_OPTIMIZER_SGD;
    desc->weight_dtype = SCALERT_F16;
    desc->learning_rate_scale = 0.5f;
    desc->momentum = 0.9f;
    desc->weight_decay = 0.1f;
    desc->nesterov = 1;
    a->state = state(w, BUILDING);
    a->desc = desc;
    a->group = world_memory(w, sizeof *a->group);
}

void fixture_scalert_state_add_parameter(struct world *w, struct args_scalert_state_add_parameter *a) {
    int64_t *shape = world_memory(w, 2 * sizeof *shape);
    shape[0] = 4;
    shape[1] = 5;
    a->state = state(w, BUILDING);
    a->name = strcpy(world_memory(w, 4), "new");
    a->ndim = 2;
    a->shape = shape;
    a->parameter = world_memory(w, sizeof *a->parameter);
}

void fixture_scalert_state_memory(struct world *w, struct args_scalert_state_memory *a) {
    a->state = state(w, BUILDING);
    a->out = STRUCT(w, scalert_memory_report_t);
}

void fixture_scalert_state_seal(struct world *w, struct args_scalert_state_seal *a) {
    a->state = state(w, BUILDING);
}

void fixture_scalert_state_parameter_count(struct world *w, struct args_scalert_state_parameter_count *a) {
    a->state = state(w, SEALED);
    a->count = world_memory(w, sizeof *a->count);
}

void fixture_scalert_state_parameter_info(struct world *w, struct args_scalert_state_parameter_info *a) {
    a->state = state(w, SEALED);
    a->parameter = 1;
    a->out = STRUCT(w, scalert_parameter_info_t);
}

void fixture_scalert_state_read(struct world *w, struct args_scalert_state_read *a) {
    a->state = state(w, SEALED);
    a->stream = w->stream;
    a->part = SCALERT_PART_MOMENT2;
    a->destination = singles(w, 2, 2, 3);
}

void fixture_scalert_state_write(struct world *w, struct args_scalert_state_write *a) {
    a->state = state(w, SEALED);
    a->stream = w->stream;
    a->part = SCALERT_PART_MASTER;
    a->source = singles(w, 2, 2, 3);
}

void fixture_scalert_state_set_step(struct world *w, struct args_scalert_state_set_step *a) {
    a->state = state(w, SEALED);
    a->step = 17;
}

void fixture_scalert_state_acquire(struct world *w, struct args_scalert_state_acquire *a) {
    a->state = state(w, SEALED);
    a->stream = w->stream;
    a->weight = world_memory(w, sizeof *a->weight);
}

void fixture_scalert_state_release(struct world *w, struct args_scalert_state_release *a) {
    scalert_tensor_t weight;
    a->state = state(w, SEALED);
    a->parameter = 1;
    a->stream = w->stream;
    must(scalert_state_acquire(a->state, 1, w->stream, &weight));
}

void fixture_scalert_state_begin_step(struct world *w, struct args_scalert_state_begin_step *a) {
    a->state = state(w, SEALED);
}

void fixture_scalert_state_begin_micro(struct world *w, struct args_scalert_state_begin_micro *a) {
    a->state = state(w, IN_STEP);
}

void fixture_scalert_state_gradient_ready(struct world *w, struct args_scalert_state_gradient_ready *a) {
    a->state = state(w, IN_MICRO);
    a->stream = w->stream;
    a->gradient = floats(w, 2, 2, 3);
    must(scalert_event_create(w->runtime, &a->consumed));
    world_owns(w, "scalert_event_t", a->consumed);
    optional(w, "consumed");
}

void fixture_scalert_state_end_micro(struct world *w, struct args_scalert_state_end_micro *a) {
    a->state = state(w, GRADIENTS_GIVEN);
}

void fixture_scalert_state_step(struct world *w, struct args_scalert_state_step *a) {
    scalert_step_desc_t *desc = STRUCT(w, scalert_step_desc_t);
    scalert_scaler_desc_t scaler_desc = SCALERT_SCALER_DESC_INIT;
    desc->learning_rate = 0.1f;
    desc->max_norm = 1;
    desc->gradient_scale = 0.5f;
    must(scalert_scaler_create(w->runtime, &scaler_desc, &desc->scaler));
    world_owns(w, "scalert_scaler_t", desc->scaler);
    a->state = state(w, MICRO_ENDED);
    a->stream = w->stream;
    a->desc = desc;
    optional(w, "scaler");
}

void fixture_scalert_state_abandon_step(struct world *w, struct args_scalert_state_abandon_step *a) {
    a->state = state(w, GRADIENTS_GIVEN);
}

void fixture_scalert_state_step_result_wait(struct world *w, struct args_scalert_state_step_result_wait *a) {
    a->state = state(w, STEPPED);
    a->out = STRUCT(w, scalert_step_result_t);
}
