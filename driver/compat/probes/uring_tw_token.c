/* SPDX-License-Identifier: GPL-2.0 */
/* Task work callbacks get a request and a token instead of a command and flags. */
#include "../uring_header.h"
static void callback(struct io_tw_req req, io_tw_token_t token) { }
void probe(struct io_uring_cmd *cmd) { io_uring_cmd_complete_in_task(cmd, callback); }
