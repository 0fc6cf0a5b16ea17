/* dlopen and dlclose, twice, with threads that have used the library ending after it was closed. Not linked to it. */
#include "scaleRT.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int holds, const char *what) {
    if (!holds) {
        printf("FAILED loading: %s\n", what);
        exit(1);
    }
}

static void *library;

/* A function of the library, without a cast between pointers to data and to functions. */
#define FUNCTION(name)                                                                                                 \
    do {                                                                                                               \
        void *symbol = dlsym(library, "scalert_" #name);                                                               \
        check(symbol != NULL, "a symbol is missing: " #name);                                                          \
        memcpy(&name, &symbol, sizeof symbol);                                                                         \
    } while (0)

static uint32_t (*version)(void);
static scalert_status_t (*runtime_create)(const scalert_runtime_desc_t *desc, scalert_runtime_t **out);
static void (*runtime_destroy)(scalert_runtime_t *runtime);
static scalert_status_t (*stream_create)(scalert_runtime_t *runtime, scalert_stream_t **out);
static void (*stream_destroy)(scalert_stream_t *stream);
static scalert_status_t (*fill)(scalert_stream_t *stream, float value, const scalert_tensor_t *y);

static pthread_mutex_t closed = PTHREAD_MUTEX_INITIALIZER;

/* Fails a call, so that this thread keeps a message, and ends when the library has been closed. */
static void *fail_and_linger(void *p) {
    scalert_runtime_t *runtime;
    check(runtime_create(NULL, &runtime) == SCALERT_INVALID_ARGUMENT, "NULL was accepted");
    pthread_mutex_unlock(p);
    pthread_mutex_lock(&closed);
    pthread_mutex_unlock(&closed);
    return NULL;
}

int main(int argc, char **argv) {
    static float data[100000];
    check(argc == 2, "usage: loading LIBRARY");
    for (int round = 0; round < 2; round++) {
        scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
        scalert_tensor_t y = {data, SCALERT_F32, 1, {100000, 0, 0, 0, 0}, {1, 0, 0, 0, 0}};
        scalert_runtime_t *runtime;
        scalert_stream_t *stream;
        pthread_mutex_t failed = PTHREAD_MUTEX_INITIALIZER;
        pthread_t thread;
        library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        check(library != NULL, "dlopen");
        FUNCTION(version);
        FUNCTION(runtime_create);
        FUNCTION(runtime_destroy);
        FUNCTION(stream_create);
        FUNCTION(stream_destroy);
        FUNCTION(fill);
        check(version() == SCALERT_VERSION, "the version");
        desc.threads = 4;
        check(runtime_create(&desc, &runtime) == SCALERT_OK, "runtime_create");
        check(stream_create(runtime, &stream) == SCALERT_OK, "stream_create");
        check(fill(stream, 1.0f + (float)round, &y) == SCALERT_OK && data[99999] == 1.0f + (float)round, "fill");
        stream_destroy(stream);
        runtime_destroy(runtime);
        pthread_mutex_lock(&closed);
        pthread_mutex_lock(&failed);
        check(pthread_create(&thread, NULL, fail_and_linger, &failed) == 0, "a thread");
        pthread_mutex_lock(&failed);
        check(dlclose(library) == 0, "dlclose");
        pthread_mutex_unlock(&closed);
        pthread_join(thread, NULL);
    }
    printf("loading: loaded and closed twice\n");
    return 0;
}
