/* What `resample.c` and `dct.c` share: how they are compiled, and how a finished row leaves them. */
#include <stdint.h>
#include <string.h>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

/* Sanitizers are not ready when the loader picks among clones. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

enum { CHANNELS = 3 };

/* Write past the caches: nobody reads a batch before it is complete, and by then it would have left them. */
INLINE void write_row(float *restrict to, const float *restrict row, long n) {
#ifdef __SSE__
    if ((uintptr_t)to % 16 == 0 && n % 4 == 0) {
        for (long i = 0; i < n; i += 4) _mm_stream_ps(to + i, _mm_loadu_ps(row + i));
        return;
    }
#endif
    memcpy(to, row, n * sizeof *to);
}

/* Complete the writes past the caches before a batch is reported as done. */
INLINE void finish_rows(void) {
#ifdef __SSE__
    _mm_sfence();
#endif
}
