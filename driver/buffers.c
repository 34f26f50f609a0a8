// SPDX-License-Identifier: GPL-2.0
/*
 * Zero copy: the pages of a request as a registered buffer of the server's ring, so that the server
 * can have them read and written by other commands of that ring. By REGISTER_ and
 * UNREGISTER_IO_BUF, or, with UBLK_F_AUTO_BUF_REG, from delivery to commit.
 * Where io_uring can't do that (compat/uring.h), the flags are not offered and nothing gets here.
 */
#include "ublk_drv.h"

/* io_uring is done with the buffer. */
static void ublk_buffer_released(void *data)
{
	struct request *req = data;
	struct ublk_queue *q = req->mq_hctx->driver_data;

	ublk_ref_put(q, &q->ios[req->tag]);
}

/* REGISTER_IO_BUF, from any task: @index is where in the ring's table. */
int ublk_buffer_register(struct ublk_queue *q, struct ublk_io *io, struct io_uring_cmd *cmd,
			 u64 index, unsigned int issue_flags)
{
	struct request *req;
	int err;

	if (!(q->dev->flags_granted & UBLK_F_SUPPORT_ZERO_COPY) || index > UINT_MAX)
		return -EINVAL;
	req = ublk_ref_get(io);
	if (!req)
		return -EINVAL;
	err = ublk_rq_has_data(req) ?
	      ublk_uring_buffer_register(cmd, req, ublk_buffer_released, index, issue_flags) :
	      -EINVAL;
	if (err)
		ublk_ref_put(q, io);
	return err;
}

int ublk_buffer_unregister(struct ublk_queue *q, struct io_uring_cmd *cmd, u64 index,
			   unsigned int issue_flags)
{
	if (!(q->dev->flags_granted & UBLK_F_SUPPORT_ZERO_COPY) || index > UINT_MAX)
		return -EINVAL;
	return ublk_uring_buffer_unregister(cmd, index, issue_flags);
}

/*
 * Before delivery, in the server's task. Returns what the server is told: 0 that they are
 * registered, UBLK_IO_F_NEED_REG_BUF that it has to do without, as it said it can. Negative errno:
 * the request can't be served.
 */
int ublk_auto_register(struct ublk_queue *q, struct ublk_io *io, struct request *req,
		       struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	int err;

	/* The server's own is there, before and after. */
	atomic_inc(&io->refs);
	err = ublk_uring_buffer_register(cmd, req, ublk_buffer_released, io->auto_buf.index,
					 issue_flags);
	if (!err) {
		io->auto_buf.registered = true;
		if (q->batch)
			io->ring = ublk_uring_ring(cmd);
		return 0;
	}
	atomic_dec(&io->refs);
	return io->auto_buf.flags & UBLK_AUTO_BUF_REG_FALLBACK ? UBLK_IO_F_NEED_REG_BUF : err;
}
