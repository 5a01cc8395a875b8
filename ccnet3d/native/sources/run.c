/* The entry point: lines of a clip over threads, rows first, then columns. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "problem.h"

typedef struct Work Work;
struct Work {
    const Problem *problem;
    const TimeGradients *gradients; /* or attention */
    const Kernel *kernel;
    void (*unit)(const Work *work, long index, void *scratch);
    long units, grain;
    size_t scratch_bytes;
    atomic_long next;
    atomic_int failed;
};

static Line frame_line(const Work *work, long b, long t) {
    const Problem *p = work->problem;
    const size_t size = work->kernel->element_bytes;
    Line line = {
        .query = (const char *)p->query + (b * p->query_strides[0] + t * p->query_strides[1]) * size,
        .key = (const char *)p->key + (b * p->key_strides[0] + t * p->key_strides[1]) * size,
        .value = (const char *)p->value + (b * p->value_strides[0] + t * p->value_strides[1]) * size,
        .output = (char *)p->output + (b * p->time + t) * p->height * p->width * p->value_channels * size,
        .log_sum_exp = p->log_sum_exp + (b * p->time + t) * p->height * p->width,
    };
    return line;
}

static void move(Line *line, const Work *work, long row, long column) {
    const Problem *p = work->problem;
    const size_t size = work->kernel->element_bytes;
    const long position = row * p->width + column;
    line->query += (row * p->query_strides[2] + column * p->query_strides[3]) * size;
    line->key += (row * p->key_strides[2] + column * p->key_strides[3]) * size;
    line->value += (row * p->value_strides[2] + column * p->value_strides[3]) * size;
    line->output += position * p->value_channels * size;
    line->log_sum_exp += position;
}

/* Rows of all frames at one height follow each other, because they read each other's values. */
static void attend_row(const Work *work, long index, void *scratch) {
    const Problem *p = work->problem;
    const size_t size = work->kernel->element_bytes;
    const long t = index % p->time, h = index / p->time % p->height, b = index / p->time / p->height;
    Line line = frame_line(work, b, t);
    move(&line, work, h, 0);
    line.length = p->width;
    line.query_step = p->query_strides[3];
    line.key_step = p->key_strides[3];
    line.value_step = p->value_strides[3];
    line.output_step = p->value_channels;
    line.log_sum_exp_step = 1;
    line.next_value = line.value + (t + 1 < p->time ? p->value_strides[1] : 0) * (long)size;
    line.frames = p->time > 1 ? p->time : 0;
    line.frame = t;
    line.frames_key_step = p->key_strides[1];
    line.frames_value_step = p->value_strides[1];
    line.frames_key = line.key - t * line.frames_key_step * (long)size;
    line.frames_value = line.value - t * line.frames_value_step * (long)size;
    work->kernel->attend(&line, p, scratch);
}

static void attend_column(const Work *work, long index, void *scratch) {
    const Problem *p = work->problem;
    const long w = index % p->width, t = index / p->width % p->time, b = index / p->width / p->time;
    Line line = frame_line(work, b, t);
    move(&line, work, 0, w);
    line.length = p->height;
    line.query_step = p->query_strides[2];
    line.key_step = p->key_strides[2];
    line.value_step = p->value_strides[2];
    line.output_step = p->width * p->value_channels;
    line.log_sum_exp_step = p->width;
    line.next_value = line.value + (w + 1 < p->width ? p->value_strides[3] : 0) * (long)work->kernel->element_bytes;
    line.is_column = 1;
    work->kernel->attend(&line, p, scratch);
}

static void time_gradients_of_row(const Work *work, long index, void *scratch) {
    (void)scratch;
    work->kernel->time_gradients(work->gradients, index);
}

static void run_units(void *argument) {
    Work *work = argument;
    void *scratch = aligned_alloc(64, ROUND_UP(work->scratch_bytes, 64));
    if (!scratch) {
        atomic_store(&work->failed, 1);
        return;
    }
    work->kernel->begin();
    for (;;) {
        const long first = atomic_fetch_add(&work->next, work->grain);
        if (first >= work->units) break;
        const long end = first + work->grain < work->units ? first + work->grain : work->units;
        for (long index = first; index < end; index++) work->unit(work, index, scratch);
    }
    work->kernel->end();
    free(scratch);
}

static void *run_units_in_thread(void *work) {
    run_units(work);
    return NULL;
}

/* PyTorch's OpenMP, if it has one: its threads spin for a while after PyTorch's own work, and would otherwise compete with
 * ours for the cores. */
extern void GOMP_parallel(void (*function)(void *), void *argument, unsigned threads, unsigned flags)
    __attribute__((weak));

static int run(Work *work, long threads) {
    const long most = (work->units + work->grain - 1) / work->grain;
    threads = threads < most ? threads : most;
    if (threads > 1 && GOMP_parallel) {
        GOMP_parallel(run_units, work, (unsigned)threads, 0);
        return atomic_load(&work->failed);
    }
    pthread_t others[256];
    long started = 0;
    while (started < threads - 1 && started < 256 && !pthread_create(&others[started], NULL, run_units_in_thread, work))
        started++;
    run_units(work);
    for (long i = 0; i < started; i++) pthread_join(others[i], NULL);
    return atomic_load(&work->failed);
}

/* Return the set of kernels of this CPU: 1 for float32, 2 for bfloat16. */
int ccnet3d_supported(void) {
    int kernels = 0;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) kernels |= 1;
    return kernels | (ccnet3d_amx_permitted() ? 2 : 0);
}

static int attend(const Problem *problem, const Kernel *kernel, long threads) {
    const long frames = problem->time > 1 ? problem->time : 0;
    Work rows = {.problem = problem, .kernel = kernel, .unit = attend_row, .grain = problem->time};
    rows.units = problem->batch * problem->time * problem->height;
    rows.scratch_bytes = kernel->scratch_bytes(problem->width, frames, problem->channels);
    if (run(&rows, threads)) return 1;
    if (problem->height == 1) return 0;
    Work columns = {.problem = problem, .kernel = kernel, .unit = attend_column, .grain = 8};
    columns.units = problem->batch * problem->time * problem->width;
    columns.scratch_bytes = kernel->scratch_bytes(problem->height, 0, problem->channels);
    return run(&columns, threads);
}

static const Kernel *float32_kernel(void) {
    const int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")
                  && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    return wide ? &ccnet3d_float32_avx512 : &ccnet3d_float32_avx2;
}

static int time_gradients(const TimeGradients *gradients, const Kernel *kernel, long threads) {
    Work rows = {.gradients = gradients, .kernel = kernel, .unit = time_gradients_of_row, .grain = 1};
    rows.units = gradients->clip.height;
    rows.scratch_bytes = 64;
    return run(&rows, threads);
}

/* All return 0, or 1 if there is not enough memory. */
int ccnet3d_attend(const Problem *problem, int is_bfloat16, long threads) {
    return attend(problem, is_bfloat16 ? &ccnet3d_bfloat16_amx : float32_kernel(), threads);
}

int ccnet3d_time_gradients(const TimeGradients *gradients, int is_bfloat16, long threads) {
    return time_gradients(gradients, is_bfloat16 ? &ccnet3d_bfloat16_amx : float32_kernel(), threads);
}

/* The same with the kernel of older CPUs, for tests. */
int ccnet3d_attend_avx2(const Problem *problem, int is_bfloat16, long threads) {
    (void)is_bfloat16;
    return attend(problem, &ccnet3d_float32_avx2, threads);
}

int ccnet3d_time_gradients_avx2(const TimeGradients *gradients, int is_bfloat16, long threads) {
    (void)is_bfloat16;
    return time_gradients(gradients, &ccnet3d_float32_avx2, threads);
}

/* A library that was compiled from other sources than the Python code expects is not used. */
int ccnet3d_interface(void) { return INTERFACE; }
