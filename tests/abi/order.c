/* Random walks through the calls of a training state, beside a model of the order that the header states: every call
 * must come to what the model says, and a refused one must change neither weights nor the order. */
#include "world.h"

#include <stdio.h>
#include <string.h>

enum phase { BUILDING, IDLE, STEP, MICRO };

#define PARAMETERS 2

struct model {
    enum phase phase;
    uint32_t parameters, taken; /* steps */
    int ready[PARAMETERS], acquired[PARAMETERS], stepped;
};

static uint32_t noise = 12345;

static uint32_t random_below(uint32_t n) {
    noise = noise * 1664525u + 1013904223u;
    return (noise >> 8) % n;
}

/* The calls, and whether the header allows them now. */
enum call {
    ADD_GROUP,
    ADD_PARAMETER,
    SEAL,
    READ,
    READ_GRADIENT,
    WRITE,
    SET_STEP,
    ACQUIRE,
    RELEASE,
    BEGIN_STEP,
    BEGIN_MICRO,
    GRADIENT_READY,
    END_MICRO,
    TAKE_STEP,
    ABANDON,
    RESULT,
    CALLS
};

static const char *const names[CALLS] = {"add_group",     "add_parameter", "seal",         "read",
                                         "read gradient", "write",         "set_step",     "acquire",
                                         "release",       "begin_step",    "begin_micro",  "gradient_ready",
                                         "end_micro",     "step",          "abandon_step", "step_result_wait"};

static int is_allowed(const struct model *m, enum call call, uint32_t p) {
    int sealed = m->phase != BUILDING, in_step = m->phase == STEP || m->phase == MICRO;
    switch (call) {
    case ADD_GROUP:
    case ADD_PARAMETER:
    case SEAL:
        return !sealed;
    case READ:
        return sealed;
    case READ_GRADIENT:
        return in_step;
    case WRITE:
        return m->phase == IDLE && !m->acquired[p];
    case SET_STEP:
        return m->phase == IDLE;
    case ACQUIRE:
        return sealed;
    case RELEASE:
        return sealed && m->acquired[p];
    case BEGIN_STEP:
        return m->phase == IDLE;
    case BEGIN_MICRO:
        return m->phase == STEP;
    case GRADIENT_READY:
        return m->phase == MICRO && !m->ready[p];
    case END_MICRO:
        return m->phase == MICRO && m->ready[0] && m->ready[1];
    case TAKE_STEP:
        return m->phase == STEP && !m->acquired[0] && !m->acquired[1];
    case ABANDON:
        return in_step;
    default:
        return m->stepped;
    }
}

static void advance(struct model *m, enum call call, uint32_t p) {
    switch (call) {
    case SEAL:
        m->phase = IDLE;
        break;
    case ACQUIRE:
        m->acquired[p]++;
        break;
    case RELEASE:
        m->acquired[p]--;
        break;
    case SET_STEP:
        m->taken = 17;
        break;
    case BEGIN_STEP:
        m->phase = STEP;
        break;
    case BEGIN_MICRO:
        m->phase = MICRO;
        m->ready[0] = m->ready[1] = 0;
        break;
    case GRADIENT_READY:
        m->ready[p] = 1;
        break;
    case END_MICRO:
        m->phase = STEP;
        break;
    case TAKE_STEP:
        m->taken++;
        m->stepped = 1;
        m->phase = IDLE;
        break;
    case ABANDON:
        m->phase = IDLE;
        break;
    default:
        break;
    }
}

static scalert_status_t make(struct world *w, scalert_state_t *state, enum call call, uint32_t p, uint32_t *number,
                             scalert_tensor_t **tensors) {
    scalert_group_desc_t group = SCALERT_GROUP_DESC_INIT;
    scalert_step_desc_t step = SCALERT_STEP_DESC_INIT;
    scalert_step_result_t result = SCALERT_STEP_RESULT_INIT;
    scalert_tensor_t view;
    const int64_t shape[1] = {5};
    char name[16];
    step.learning_rate = 0.125f;
    switch (call) {
    case ADD_GROUP:
        return scalert_state_add_group(state, &group, number);
    case ADD_PARAMETER:
        snprintf(name, sizeof name, "p%u", (unsigned)random_below(1u << 20));
        return scalert_state_add_parameter(state, 0, name, 1, shape, number);
    case SEAL:
        return scalert_state_seal(state);
    case READ:
        return scalert_state_read(state, w->stream, p, SCALERT_PART_MASTER, tensors[0]);
    case READ_GRADIENT:
        return scalert_state_read(state, w->stream, p, SCALERT_PART_GRADIENT, tensors[0]);
    case WRITE:
        return scalert_state_write(state, w->stream, p, SCALERT_PART_MASTER, tensors[1]);
    case SET_STEP:
        return scalert_state_set_step(state, 17);
    case ACQUIRE:
        return scalert_state_acquire(state, p, w->stream, &view);
    case RELEASE:
        return scalert_state_release(state, p, w->stream);
    case BEGIN_STEP:
        return scalert_state_begin_step(state);
    case BEGIN_MICRO:
        return scalert_state_begin_micro(state);
    case GRADIENT_READY:
        return scalert_state_gradient_ready(state, w->stream, p, tensors[1], NULL);
    case END_MICRO:
        return scalert_state_end_micro(state);
    case TAKE_STEP:
        return scalert_state_step(state, w->stream, &step);
    case ABANDON:
        return scalert_state_abandon_step(state);
    default:
        return scalert_state_step_result_wait(state, &result);
    }
}

/* Master weights of both parameters. */
static void weights(struct world *w, scalert_state_t *state, const struct model *m, float values[2][5],
                    scalert_tensor_t *into) {
    memset(values, 0, sizeof(float[2][5]));
    for (uint32_t p = 0; p < PARAMETERS && m->phase != BUILDING; p++) {
        must(scalert_state_read(state, w->stream, p, SCALERT_PART_MASTER, into));
        memcpy(values[p], into->data, sizeof values[p]);
    }
}

static void walk(int calls) {
    struct world w;
    struct model m;
    scalert_state_desc_t desc = SCALERT_STATE_DESC_INIT;
    scalert_group_desc_t group = SCALERT_GROUP_DESC_INIT;
    const int64_t shape[1] = {5};
    scalert_state_t *state;
    scalert_tensor_t *tensors[2];
    uint32_t number;
    memset(&m, 0, sizeof m);
    world_open(&w);
    tensors[0] = singles(&w, 1, 5);
    tensors[1] = singles(&w, 1, 5);
    must(scalert_state_create(w.runtime, &desc, &state));
    must(scalert_state_add_group(state, &group, &number));
    must(scalert_state_add_parameter(state, 0, "first", 1, shape, &number));
    must(scalert_state_add_parameter(state, 0, "second", 1, shape, &number));
    for (int i = 0; i < calls; i++) {
        float before[2][5], after[2][5];
        uint32_t p = random_below(PARAMETERS);
        enum call call = (enum call)random_below(CALLS);
        int allowed;
        scalert_status_t status, expected;
        /* Sealing ends the building, which is over soon enough. */
        if ((call == SEAL || call == ADD_PARAMETER) && m.phase == BUILDING && i < 10) {
            call = RESULT;
        }
        /* Parameters that are added on the way would want gradients as well. */
        if (call == ADD_PARAMETER && m.phase == BUILDING) {
            continue;
        }
        allowed = is_allowed(&m, call, p);
        expected = allowed ? SCALERT_OK : SCALERT_FAILED_PRECONDITION;
        place(names[call], "call %d in phase %d", i, (int)m.phase);
        weights(&w, state, &m, before, tensors[0]);
        status = make(&w, state, call, p, &number, tensors);
        cases++;
        if (status != expected) {
            fail("gave %s, must be %s", scalert_status_name(status), scalert_status_name(expected));
            break;
        }
        if (allowed) {
            advance(&m, call, p);
        } else {
            char begin[64];
            const char *message = last_error().message;
            int length = (int)strcspn(names[call], " ");
            int n = snprintf(begin, sizeof begin, "state_%.*s: ", length, names[call]);
            if (strncmp(message, begin, (size_t)n) != 0 || strncmp(message + n, begin + 6, (size_t)n - 6) == 0) {
                fail("the message must begin with \"%s\", once", begin);
            }
        }
        weights(&w, state, &m, after, tensors[0]);
        if (!allowed && memcmp(before, after, sizeof before) != 0) {
            fail("a refused call changed weights");
        }
        if (allowed && call == TAKE_STEP) {
            scalert_step_result_t result = SCALERT_STEP_RESULT_INIT;
            must(scalert_state_step_result_wait(state, &result));
            if (result.step != m.taken || result.skipped) {
                fail("%u steps have been taken, not %u", (unsigned)result.step, (unsigned)m.taken);
            }
        }
    }
    scalert_state_destroy(state);
    world_close(&w);
}

int main(void) {
    for (int i = 0; i < 60; i++) {
        walk(200);
    }
    return summary("calls out of order");
}
