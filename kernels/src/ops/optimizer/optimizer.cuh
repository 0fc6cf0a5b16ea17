// What the optimizers' kernels share: `Parameters` of optimizer.rs, and one pass that updates in place.
//
// A `Rule` has the constants of a call. at_step(step) makes them those of a step that the device has counted, and
// update(gradient, master, moments) gives the new master and changes the moments: every rounding of it that of cpu.rs.
#pragma once
#include "elementwise.cuh"
#include "../step_control/control.cuh"

template <int TENSORS, typename Rule> struct Parameters {
    Tensors<TENSORS> tensors;
    const Control *control; // null: the call's own figures
    float gradient_scale;
    Rule rule;
};

// The tensors: the gradient is read, the master and the moments are updated, and the weight is written.
template <int MOMENTS, typename G, typename... W> struct Update;
template <typename G, typename... W> struct Update<0, G, W...> {
    using In = Types<G, float>;
    using Out = Types<float, W...>;
};
template <typename G, typename... W> struct Update<1, G, W...> {
    using In = Types<G, float, float>;
    using Out = Types<float, float, W...>;
};
template <typename G, typename... W> struct Update<2, G, W...> {
    using In = Types<G, float, float, float>;
    using Out = Types<float, float, float, W...>;
};

template <int MOMENTS, bool WEIGHT, typename Rule> struct UpdateOne {
    Rule rule;
    float gradient_scale;

    __device__ __forceinline__ void operator()(const float *x, float *y) const {
        float moment[MOMENTS + 1];
#pragma unroll
        for (int i = 0; i < MOMENTS; i++)
            moment[i] = x[2 + i];
        float master = rule.update(__fmul_rn(x[0], gradient_scale), x[1], moment);
        y[0] = master;
#pragma unroll
        for (int i = 0; i < MOMENTS; i++)
            y[1 + i] = moment[i];
        if constexpr (WEIGHT)
            y[1 + MOMENTS] = master;
    }
};

template <int MOMENTS, typename Rule, typename G, typename... W>
__device__ __forceinline__ void update(const Parameters<2 + MOMENTS + sizeof...(W), Rule> &p) {
    UpdateOne<MOMENTS, sizeof...(W) == 1, Rule> one = {p.rule, p.gradient_scale};
    if (p.control) {
        if (p.control->skipped)
            return;
        one.gradient_scale = p.control->gradient_scale;
        one.rule.at_step(p.control->step);
    }
    using Lists = Update<MOMENTS, G, W...>;
    elementwise<typename Lists::In, typename Lists::Out>(p.tensors, one);
}

// Declares the kernels `name`_gradient and `name`_gradient_weight of a rule.
#define OPTIMIZER_KERNEL(name, MOMENTS, Rule, suffix, ...)                                                             \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        name##_##suffix(const __grid_constant__ OPTIMIZER_PARAMETERS(MOMENTS, Rule, __VA_ARGS__) p) {                  \
        update<MOMENTS, Rule, __VA_ARGS__>(p);                                                                         \
    }
#define OPTIMIZER_PARAMETERS(MOMENTS, Rule, ...) Parameters<1 + MOMENTS + Types<__VA_ARGS__>::COUNT, Rule>
#define OPTIMIZER_KERNELS_OF(name, MOMENTS, Rule, suffix, type)                                                        \
    OPTIMIZER_KERNEL(name, MOMENTS, Rule, suffix, type)                                                                \
    OPTIMIZER_KERNEL(name, MOMENTS, Rule, suffix##_f32, type, float)                                                   \
    OPTIMIZER_KERNEL(name, MOMENTS, Rule, suffix##_bf16, type, bf16_away)                                              \
    OPTIMIZER_KERNEL(name, MOMENTS, Rule, suffix##_f16, type, f16)
#define OPTIMIZER_KERNELS(name, MOMENTS, Rule)                                                                         \
    OPTIMIZER_KERNELS_OF(name, MOMENTS, Rule, f32, float)                                                              \
    OPTIMIZER_KERNELS_OF(name, MOMENTS, Rule, bf16, bf16)                                                              \
    OPTIMIZER_KERNELS_OF(name, MOMENTS, Rule, f16, f16)
