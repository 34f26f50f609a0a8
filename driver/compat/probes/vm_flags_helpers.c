/* SPDX-License-Identifier: GPL-2.0 */
/* Flags of a mapping are changed by functions only. */
#include <linux/mm.h>
void probe(struct vm_area_struct *vma) { vm_flags_set(vma, VM_DONTCOPY); }
