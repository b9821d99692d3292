/* Threads that sleep between jobs.
 *
 * A job is a counter that threads draw task numbers from. Workers wait on a condition variable and
 * burn no time while there is nothing to do; one that wakes after the work is gone finds the job
 * closed and sleeps again. While one caller has the workers, another caller works alone. A forked
 * child has no workers and starts its own.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "job.h"

#define MOST 256 /* workers, whatever a caller asks for */

typedef struct {
  pool_work work;
  void *context;
  int64_t tasks;
  _Atomic int64_t next;
  int wanted; /* workers that may still join */
  int joined; /* workers that have */
  int active; /* workers at it now */
} job;

static struct {
  pthread_mutex_t lock;
  pthread_cond_t wake, done;
  job *open; /* the job that workers may join, or NULL */
  int started;
} pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0};

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void draw(job *j, int worker) {
  for (;;) {
    int64_t task = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed);
    if (task >= j->tasks) return;
    j->work(j->context, task, worker);
  }
}

static void *serve(void *unused) {
  (void)unused;
  pthread_mutex_lock(&pool.lock);
  for (;;) {
    while (!pool.open || pool.open->wanted == 0) pthread_cond_wait(&pool.wake, &pool.lock);
    job *j = pool.open;
    j->wanted--;
    j->active++;
    int worker = ++j->joined;
    pthread_mutex_unlock(&pool.lock);
    draw(j, worker);
    pthread_mutex_lock(&pool.lock);
    if (--j->active == 0) pthread_cond_signal(&pool.done);
  }
  return NULL;
}

static void forget_workers(void) { /* in a forked child: only the forking thread lives on */
  pthread_mutex_init(&pool.lock, NULL);
  pthread_cond_init(&pool.wake, NULL);
  pthread_cond_init(&pool.done, NULL);
  pool.open = NULL;
  pool.started = 0;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forget_workers); }

/* Start workers up to `count`, signals blocked so that the program's own threads get them. */
static void start(int count) {
  sigset_t all, before;
  pthread_attr_t detached;
  if (pool.started >= count) return;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_init(&detached);
  pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
  while (pool.started < count) {
    pthread_t thread;
    if (pthread_create(&thread, &detached, serve, NULL)) break; /* then with fewer */
    pool.started++;
  }
  pthread_attr_destroy(&detached);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void pool_run(int threads, int64_t tasks, pool_work work, void *context) {
  job j = {work, context, tasks, 0, 0, 0, 0};
  int64_t helpers = threads - 1 < tasks - 1 ? threads - 1 : tasks - 1;
  if (helpers > MOST) helpers = MOST;
  if (helpers < 1) {
    draw(&j, 0);
    return;
  }
  pthread_once(&once, watch_forks);
  pthread_mutex_lock(&pool.lock);
  int mine = pool.open == NULL;
  if (mine) {
    start((int)helpers);
    j.wanted = (int)helpers;
    pool.open = &j;
    for (int64_t i = 0; i < helpers; i++) pthread_cond_signal(&pool.wake);
  }
  pthread_mutex_unlock(&pool.lock);
  draw(&j, 0);
  if (!mine) return;
  pthread_mutex_lock(&pool.lock);
  pool.open = NULL;
  while (j.active) pthread_cond_wait(&pool.done, &pool.lock);
  pthread_mutex_unlock(&pool.lock);
}
