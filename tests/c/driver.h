/* driver.h - the few functions of the CUDA driver that a host uses beside the library, found when a test runs. */
#ifndef DRIVER_H
#define DRIVER_H

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *handle;

static struct {
    int (*context_create)(handle *context, unsigned flags, int device);
    int (*context_destroy)(handle context);
    int (*context_current)(handle *context);
    int (*context_set)(handle context);
    int (*stream_create)(handle *stream, unsigned flags);
    int (*stream_destroy)(handle stream);
    int (*stream_synchronize)(handle stream);
    int (*begin_capture)(handle stream, int mode);
    int (*end_capture)(handle stream, handle *graph);
    int (*graph_instantiate)(handle *executable, handle graph, unsigned long long flags);
    int (*graph_launch)(handle executable, handle stream);
    int (*graph_executable_destroy)(handle executable);
    int (*graph_destroy)(handle graph);
} cu;

/* Ends the program unless the driver succeeds. */
#define CU(call) check_driver((call), #call, __FILE__, __LINE__)

static inline void check_driver(int status, const char *what, const char *file, int line) {
    if (status != 0) {
        fprintf(stderr, "%s:%d: %s returned CUresult %d\n", file, line, what, status);
        exit(1);
    }
}

static inline void find(void *library, const char *name, void *function) {
    void *address = library ? dlsym(library, name) : NULL;
    if (!address) {
        fprintf(stderr, "the CUDA driver has no %s\n", name);
        exit(1);
    }
    memcpy(function, &address, sizeof address);
}

static inline void open_driver(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    find(library, "cuCtxCreate_v2", &cu.context_create);
    find(library, "cuCtxDestroy_v2", &cu.context_destroy);
    find(library, "cuCtxGetCurrent", &cu.context_current);
    find(library, "cuCtxSetCurrent", &cu.context_set);
    find(library, "cuStreamCreate", &cu.stream_create);
    find(library, "cuStreamDestroy_v2", &cu.stream_destroy);
    find(library, "cuStreamSynchronize", &cu.stream_synchronize);
    find(library, "cuStreamBeginCapture_v2", &cu.begin_capture);
    find(library, "cuStreamEndCapture", &cu.end_capture);
    find(library, "cuGraphInstantiateWithFlags", &cu.graph_instantiate);
    find(library, "cuGraphLaunch", &cu.graph_launch);
    find(library, "cuGraphExecDestroy", &cu.graph_executable_destroy);
    find(library, "cuGraphDestroy", &cu.graph_destroy);
}

#endif /* DRIVER_H */
