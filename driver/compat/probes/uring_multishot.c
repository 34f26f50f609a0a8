/* SPDX-License-Identifier: GPL-2.0 */
/* Commands can be answered many times. */
#include "../uring_header.h"
int probe(struct io_uring_cmd *cmd)
{
	size_t bytes = 0;
	struct io_br_sel sel = io_uring_cmd_buffer_select(cmd, 0, &bytes, 0);

	return io_uring_mshot_cmd_post_cqe(cmd, &sel, IORING_URING_CMD_MULTISHOT);
}
