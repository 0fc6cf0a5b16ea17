// Philox4x32-10, the bits of philox.rs: the random word of an element is a function of (seed, step, tensor, index).
#pragma once
#include <cstdint>

// A stream of random words: `Stream` in elementwise.rs.
struct Philox {
    uint32_t key[2];
    uint32_t step[2]; // the low word, and the bits above it where the counter has them
    uint32_t tensor;
    uint32_t padding;
    uint64_t first; // index in the stream of the first element

    // The words of elements 4 block, ..., 4 block + 3.
    __device__ __forceinline__ void block(uint64_t block, uint32_t (&word)[4]) const {
        uint32_t c0 = (uint32_t)block, c1 = ((uint32_t)(block >> 32) & 0x3fffffffu) | step[1], c2 = step[0],
                 c3 = tensor;
#pragma unroll
        for (uint32_t round = 0; round < 10; round++) {
            uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
            c0 = (uint32_t)(b >> 32) ^ c1 ^ (key[0] + 0x9E3779B9u * round);
            c1 = (uint32_t)b;
            c2 = (uint32_t)(a >> 32) ^ c3 ^ (key[1] + 0xBB67AE85u * round);
            c3 = (uint32_t)a;
        }
        word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
    }

    // The words of N elements from `index` of the stream on, each block of four changed by draw(block). N is 1, or a
    // multiple of 4 as then is index.
    template <int N, typename Draw>
    __device__ __forceinline__ void words(uint64_t index, const Draw &draw, uint32_t (&word)[N]) const {
#pragma unroll
        for (int b = 0; b < (N + 3) / 4; b++) {
            uint32_t four[4];
            block(index / 4 + b, four);
            draw(four);
            if constexpr (N == 1) {
                uint32_t low = index & 1 ? four[1] : four[0], high = index & 1 ? four[3] : four[2];
                word[0] = index & 2 ? high : low;
            } else {
#pragma unroll
                for (int j = 0; j < 4; j++)
                    word[4 * b + j] = four[j];
            }
        }
    }
};

static_assert(sizeof(Philox) == 32, "Stream in elementwise.rs has this layout");
