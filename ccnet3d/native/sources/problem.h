/* One call of criss-cross attention, and the parts that every instruction set implements.
 *
 * Axes: B batch, T time, H height, W width, D query/key channels, Dv value channels. The lines of a unit of work are
 * computed in a fixed order of additions, so results depend neither on the number of threads nor on the batch. */
#ifndef CCNET3D_PROBLEM_H
#define CCNET3D_PROBLEM_H

#include <stddef.h>

/* To be raised, here and in library.py, whenever a function or a structure that Python fills changes. */
#define INTERFACE 2

typedef struct {
    const void *query, *key, *value; /* [B, T, H, W, .], channels contiguous */
    void *output;                    /* [B, T, H, W, Dv], contiguous */
    float *log_sum_exp;              /* [B, T, H, W], contiguous */
    long batch, time, height, width, channels, value_channels;
    long query_strides[4], key_strides[4], value_strides[4]; /* of B, T, H, W, in elements */
} Problem;

/* The time axis' part of the gradients of one clip. With weights P and their gradients dP = grad . value it writes, for
 * each position, P and dP, the sums of P dP to the other frames, and P' grad, the value's gradient, to the output. */
typedef struct {
    Problem clip; /* batch is 1, and log_sum_exp given; at most MOST_FRAMES */
    const void *grad;
    long grad_strides[4];
    float *delta;                   /* [T, H, W] */
    float *weights, *grad_weights; /* [H, W, T, T] */
} TimeGradients;

#define MOST_FRAMES 16

/* n positions along one axis of a frame. Rows also have the T - 1 keys of the same place in the other frames, whose
 * scores are behind those of the line; columns merge with the result of the rows, which the output already holds. */
typedef struct {
    const char *query, *key, *value; /* of the first position */
    char *output;
    float *log_sum_exp;
    long query_step, key_step, value_step, output_step, log_sum_exp_step; /* between positions, in elements */
    long length;
    const char *frames_key, *frames_value; /* of the first position, in frame 0 */
    long frames_key_step, frames_value_step, frames, frame; /* frames is 0 where the time axis does not count */
    int is_column;
    const char *next_value; /* of the line that this thread computes next, probably */
} Line;

typedef struct {
    size_t (*scratch_bytes)(long length, long frames, long channels);
    void (*attend)(const Line *line, const Problem *problem, void *scratch);
    void (*time_gradients)(const TimeGradients *gradients, long row);
    void (*begin)(void); /* called by every thread before and after its lines */
    void (*end)(void);
    size_t element_bytes;
} Kernel;

#define BLOCK 132 /* queries whose scores are in memory together; a multiple of 4 and 6 */
#define ROUND_UP(n, to) (((n) + (to) - 1) / (to) * (to))

extern const Kernel ccnet3d_float32_avx2, ccnet3d_float32_avx512, ccnet3d_bfloat16_amx;

int ccnet3d_amx_permitted(void);

#endif
