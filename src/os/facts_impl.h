// What the files of facts share. Private to os/: facts.c has what is alike everywhere, facts_linux.c and
// facts_darwin.c what is not.
#ifndef OS_FACTS_IMPL_H
#define OS_FACTS_IMPL_H

#include "os/facts.h"

// The system's part: everything but GPUs of NVIDIA's and the count of usable cores.
void facts_system(const struct os_roots *roots, struct os_facts *f);
// A nic for the list, NULL when it is full.
struct os_nic *facts_nic_add(struct os_facts *f, const char *name);

#endif
