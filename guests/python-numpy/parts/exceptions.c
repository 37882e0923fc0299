/* What C++ code calls to throw. The guest's C++ library is built without exceptions, so nothing could catch one:
 * a throw ends the instance, as running out of memory inside that library does. The gate sees a trap. */
#include <stdlib.h>

#define HIDDEN __attribute__((visibility("hidden")))

HIDDEN void *__cxa_allocate_exception(size_t size) { return malloc(size ? size : 1); }

HIDDEN void __cxa_free_exception(void *thrown) { free(thrown); }

HIDDEN __attribute__((noreturn)) void __cxa_throw(void *thrown, void *type, void (*destroy)(void *))
{
    (void)thrown;
    (void)type;
    (void)destroy;
    abort();
}
