/* SPDX-License-Identifier: GPL-2.0 */
/* A command knows its whole SQE, not just the payload in it. */
#include "../uring_header.h"
const void *probe(struct io_uring_cmd *cmd) { return cmd->sqe->cmd; }
