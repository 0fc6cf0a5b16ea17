/* A panic in every exported function in turn, in a library built for it: INTERNAL, the handle of the call refuses all
 * but its destruction, and everything else goes on working. */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct item *first_handle(const struct function *function) {
    for (size_t i = 0; i < function->count; i++) {
        if (function->items[i].kind == KIND_HANDLE) {
            return &function->items[i];
        }
    }
    return NULL;
}

static int32_t call_on_fresh(const struct function *function) {
    struct world world;
    unsigned char *arguments;
    int32_t status;
    world_open(&world);
    arguments = world_memory(&world, function->size);
    function->fixture(&world, arguments);
    status = function->call(arguments);
    status = is_right(&world, status) ? SCALERT_OK : status;
    discard_results(function, arguments);
    world_close(&world);
    return status;
}

static void panic_in(const struct function *function) {
    struct world world, bystander;
    unsigned char *arguments, *others;
    const struct item *handle = first_handle(function);
    int destroys = strstr(function->name, "_destroy") != NULL;
    scalert_memory_report_t report = SCALERT_MEMORY_REPORT_INIT;
    scalert_error_t error;
    int32_t status;
    place(function->name, "a panic");
    world_open(&world);
    world_open(&bystander);
    arguments = world_memory(&world, function->size);
    others = world_memory(&bystander, function->size);
    function->fixture(&world, arguments);
    function->fixture(&bystander, others);
    world_remember(&world);
    setenv("SCALERT_TEST_PANIC", function->name, 1);
    status = function->call(arguments);
    unsetenv("SCALERT_TEST_PANIC");
    error = last_error();
    cases++;
    if (status != SCALERT_INTERNAL) {
        fail("gave %s, must be INTERNAL: is it behind the fence?", scalert_status_name(status));
    }
    if (error.status != SCALERT_INTERNAL || strstr(error.message, "injected into ") == NULL ||
        strncmp(error.message, function->name + strlen("scalert_"), strlen(function->name) - strlen("scalert_")) != 0) {
        fail("the last error must tell of the panic");
    }
    if (!world_is_unchanged(&world)) {
        fail("memory changed");
    }
    status = function->call(arguments);
    if (handle != NULL && !destroys) {
        const char *argument = last_error().message + strlen(function->name) - strlen("scalert_") + 2;
        if (status != SCALERT_INTERNAL || strncmp(argument, handle->name, strlen(handle->name)) != 0) {
            fail("the next call gave %s: %s must be poisoned", scalert_status_name(status), handle->name);
        }
        if (strcmp(handle->handle, "scalert_runtime_t") != 0) {
            expect(scalert_runtime_memory(world.runtime, &report) == SCALERT_OK);
        }
        if (strcmp(handle->handle, "scalert_stream_t") != 0) {
            expect(scalert_stream_wait(world.stream) == SCALERT_OK);
        }
    } else if (!is_right(&world, status)) {
        fail("the next call gave %s: there is nothing to poison", scalert_status_name(status));
    }
    discard_results(function, arguments);
    world_close(&world);
    place(function->name, "other handles after a panic");
    if (!is_right(&bystander, status = function->call(others))) {
        fail("gave %s", scalert_status_name(status));
    }
    discard_results(function, others);
    world_close(&bystander);
    place(function->name, "new handles after a panic");
    if ((status = call_on_fresh(function)) != SCALERT_OK) {
        fail("gave %s", scalert_status_name(status));
    }
}

int main(void) {
    for (size_t i = 0; i < function_count; i++) {
        panic_in(&functions[i]);
    }
    return summary("panics");
}
