/* A tensor that claims one element more than it has. A library under AddressSanitizer must end this program. */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>

int main(void) {
    scalert_runtime_desc_t desc = SCALERT_RUNTIME_DESC_INIT;
    scalert_runtime_t *runtime;
    scalert_stream_t *stream;
    scalert_tensor_t tensor = {NULL, SCALERT_F32, 1, {101, 0, 0, 0, 0}, {1, 0, 0, 0, 0}};
    desc.threads = 1;
    must(scalert_runtime_create(&desc, &runtime));
    must(scalert_stream_create(runtime, &stream));
    tensor.data = malloc(100 * sizeof(float));
    must(scalert_fill(stream, 1.0f, &tensor));
    printf("the overflow went unnoticed\n");
    free(tensor.data);
    scalert_stream_destroy(stream);
    scalert_runtime_destroy(runtime);
    return 0;
}
