/* Streams and events on the CPU device, where work is done when a call returns. */
#include "check.h"

static void events(void) {
    scalert_runtime_t *runtime = cpu_runtime();
    scalert_stream_t *first = stream_of(runtime), *second = NULL;
    scalert_event_t *event = NULL;
    float values[4] = {0};
    scalert_tensor_t y = vector(values, 4);
    uint8_t complete = 0;
    OK(scalert_stream_wrap(runtime, NULL, &second));
    OK(scalert_event_create(runtime, &event));
    OK(scalert_event_query(event, &complete));
    CHECK(complete == 1); /* never recorded */
    OK(scalert_event_wait(event));
    OK(scalert_stream_follow(second, event));
    OK(scalert_fill(first, 3.0f, &y));
    OK(scalert_event_record(event, first));
    OK(scalert_stream_follow(second, event));
    OK(scalert_scale(second, 2.0f, &y, &y));
    OK(scalert_stream_wait(second));
    CHECK(values[0] == 6.0f && values[3] == 6.0f);
    OK(scalert_event_query(event, &complete));
    CHECK(complete == 1);
    OK(scalert_event_wait(event));
    scalert_event_destroy(event);
    scalert_event_destroy(NULL);
    scalert_stream_destroy(first);
    scalert_stream_destroy(second);
    scalert_stream_destroy(NULL);
    scalert_runtime_destroy(runtime);
}

static void a_cpu_wraps_no_native_stream(void) {
    scalert_runtime_t *runtime = cpu_runtime();
    scalert_stream_t *stream = NULL;
    int anything = 0;
    FAILS(scalert_stream_wrap(runtime, &anything, &stream), SCALERT_INVALID_ARGUMENT, "native");
    CHECK(scalert_stream_wait(NULL) == SCALERT_INVALID_ARGUMENT);
    scalert_runtime_destroy(runtime);
}

int main(void) {
    events();
    a_cpu_wraps_no_native_stream();
    return passed();
}
