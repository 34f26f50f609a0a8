/* SPDX-License-Identifier: GPL-2.0 */
/* The header that declares io_uring commands, wherever this kernel keeps it. */
#ifndef UBLK_COMPAT_URING_HEADER_H
#define UBLK_COMPAT_URING_HEADER_H

#ifdef UBLK_HAVE_URING_CMD_HEADER
#include <linux/io_uring/cmd.h>
#else
#include <linux/io_uring.h>
#include <linux/io_uring_types.h>
#endif

#endif
