/* SPDX-License-Identifier: GPL-2.0 */
/* Pages of a request can be a registered buffer. */
#include "../uring_header.h"
int probe(struct io_uring_cmd *cmd, struct request *req, void (*released)(void *))
{
	return io_buffer_register_request(cmd, req, released, 0, 0);
}
