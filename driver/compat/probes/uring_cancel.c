/* SPDX-License-Identifier: GPL-2.0 */
/* io_uring tells the owner of a command that its ring goes away. */
#include "../uring_header.h"
int probe(struct io_uring_cmd *cmd)
{
	io_uring_cmd_mark_cancelable(cmd, 0);
	return IO_URING_F_CANCEL;
}
