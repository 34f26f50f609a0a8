/* SPDX-License-Identifier: GPL-2.0 */
/* io_uring_cmd_done() without a second result. */
#include "../uring_header.h"
void probe(struct io_uring_cmd *cmd) { io_uring_cmd_done(cmd, 0, 0); }
