/* How fast threads read memory, for serve.py: sums 1 GiB a few times and prints the best, in GB/s.
 *
 *   bandwidth THREADS
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { PASSES = 7, LANES = 32 };
static const size_t BYTES = (size_t)1 << 30;
static uint64_t *numbers;
static int threads;
static uint64_t sums[256];

static uint64_t sum(const uint64_t *from, size_t count) {
  uint64_t lanes[LANES] = {0}, all = 0;
  for (size_t at = 0; at + LANES <= count; at += LANES)
    for (int lane = 0; lane < LANES; lane++) lanes[lane] += from[at + lane];
  for (int lane = 0; lane < LANES; lane++) all += lanes[lane];
  return all;
}

static void *share(void *index) {
  size_t own = (size_t)(intptr_t)index, count = BYTES / sizeof *numbers / threads;
  sums[own] = sum(numbers + own * count, count);
  return NULL;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec * 1e-9;
}

int main(int count, char **arguments) {
  threads = count > 1 ? atoi(arguments[1]) : 1;
  if (threads < 1 || threads > 256 || !(numbers = aligned_alloc(4096, BYTES))) return 1;
  for (size_t at = 0; at < BYTES / sizeof *numbers; at++) numbers[at] = at;
  double best = 1e9;
  uint64_t check = 0;
  for (int pass = 0; pass < PASSES; pass++) {
    pthread_t others[256];
    double began = now();
    for (int thread = 1; thread < threads; thread++)
      if (pthread_create(&others[thread], NULL, share, (void *)(intptr_t)thread)) return 1;
    share(0);
    for (int thread = 1; thread < threads; thread++) pthread_join(others[thread], NULL);
    double took = now() - began;
    for (int thread = 0; thread < threads; thread++) check += sums[thread];
    if (took < best) best = took;
  }
  fprintf(stderr, "%llu\n", (unsigned long long)check); /* or nothing would be read */
  printf("%.2f\n", BYTES / best / 1e9);
  return 0;
}
