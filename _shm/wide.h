/* SPDX-License-Identifier: MIT */
/* How loops over pixels are compiled: for the vectors of newer processors too, where that can be chosen at run time. */

#ifndef VA_WIDE_H
#define VA_WIDE_H

#include <stdint.h> /* and with it __GLIBC__ */

#ifndef __has_attribute
#define __has_attribute(x) 0
#endif
#if defined(__x86_64__) && defined(__GLIBC__) && __has_attribute(target_clones)
#define VA_WIDE __attribute__((target_clones("avx2", "default"))) /* needs the loader of glibc */
#else
#define VA_WIDE
#endif
#define VA_INLINE static inline __attribute__((always_inline))

#endif
