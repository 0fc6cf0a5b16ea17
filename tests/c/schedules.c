/* Learning-rate schedules at steps whose values are known. */
#include "check.h"

static double at(const scalert_schedule_t *schedule, uint64_t step) {
    float rate = -1.0f;
    OK(scalert_schedule_learning_rate(schedule, step, &rate));
    return rate;
}

int main(void) {
    scalert_schedule_t s = SCALERT_SCHEDULE_INIT;
    float rate = 0.0f;
    s.peak = 1.0f;
    NEAR(at(&s, 0), 1, 0);
    NEAR(at(&s, 1000000), 1, 0);

    s.warmup_steps = 10;
    NEAR(at(&s, 0), 0.1, 1e-7);
    NEAR(at(&s, 1), 0.1, 1e-7);
    NEAR(at(&s, 5), 0.5, 1e-7);
    NEAR(at(&s, 10), 1, 1e-7);
    NEAR(at(&s, 11), 1, 1e-7);

    s.kind = SCALERT_SCHEDULE_LINEAR;
    s.floor = 0.2f;
    s.total_steps = 110;
    NEAR(at(&s, 10), 1, 1e-6);
    NEAR(at(&s, 60), 0.6, 1e-6);
    NEAR(at(&s, 110), 0.2, 1e-6);
    NEAR(at(&s, 9999), 0.2, 1e-6);

    s.kind = SCALERT_SCHEDULE_COSINE;
    NEAR(at(&s, 35), 0.2 + 0.8 * 0.5 * (1 + cos(0.25 * 3.14159265358979)), 1e-6);
    NEAR(at(&s, 60), 0.6, 1e-6);
    NEAR(at(&s, 110), 0.2, 1e-6);

    s.kind = SCALERT_SCHEDULE_INVERSE_SQUARE_ROOT;
    NEAR(at(&s, 10), 1, 1e-6);
    NEAR(at(&s, 40), 0.5, 1e-6);
    NEAR(at(&s, 1000), 0.2, 1e-6); /* 0.1 is below the floor */

    s.kind = SCALERT_SCHEDULE_WARMUP_STABLE_DECAY;
    s.decay_steps = 50;
    NEAR(at(&s, 30), 1, 1e-6);
    NEAR(at(&s, 60), 1, 1e-6);
    NEAR(at(&s, 85), 0.6, 1e-6);
    NEAR(at(&s, 110), 0.2, 1e-6);

    s.floor = 2.0f;
    FAILS(scalert_schedule_learning_rate(&s, 1, &rate), SCALERT_INVALID_ARGUMENT, "floor");
    s.floor = 0.0f;
    s.kind = 99;
    FAILS(scalert_schedule_learning_rate(&s, 1, &rate), SCALERT_INVALID_ARGUMENT, "kind");
    return passed();
}
