/* SPDX-License-Identifier: GPL-2.0 */
/*
 * io_uring commands, the same on every kernel.
 *
 * UBLK_CAN_CANCEL says whether io_uring calls back when the ring of a command goes away. Where it
 * does not, the driver has to find out by itself (abort.c).
 */
#ifndef UBLK_COMPAT_URING_H
#define UBLK_COMPAT_URING_H

#include <linux/blk-mq.h>

#include "../uapi/ublk_cmd.h"
#include "config.h"
#include "uring_header.h"

#ifdef UBLK_HAVE_URING_CANCEL
#define UBLK_CAN_CANCEL		true
#define UBLK_URING_F_CANCEL	IO_URING_F_CANCEL
static inline void ublk_uring_mark_cancelable(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	io_uring_cmd_mark_cancelable(cmd, issue_flags);
}
#else
#define UBLK_CAN_CANCEL		false
#define UBLK_URING_F_CANCEL	0U
static inline void ublk_uring_mark_cancelable(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
}
#endif

/* The payload. It may lie in memory that the submitter can write: read each field once. */
static inline const void *ublk_uring_payload(const struct io_uring_cmd *cmd)
{
#ifdef UBLK_HAVE_URING_CMD_SQE
	return cmd->sqe->cmd;
#else
	return cmd->cmd;
#endif
}

/* The address field of the SQE, read once; 0 where the kernel keeps only the payload. */
static inline u64 ublk_uring_sqe_addr(const struct io_uring_cmd *cmd)
{
#ifdef UBLK_HAVE_URING_CMD_SQE
	return READ_ONCE(cmd->sqe->addr);
#else
	return 0;
#endif
}

/*
 * Pages of a request as a registered buffer of the command's ring. UBLK_F_BUFFERS are the features
 * that need it: 0 where the kernel can't.
 */
#ifdef UBLK_HAVE_URING_BUFFERS
#define UBLK_F_BUFFERS	(UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG | UBLK_F_BUF_REG_OFF_DAEMON)

static inline int ublk_uring_buffer_register(struct io_uring_cmd *cmd, struct request *req,
					     void (*released)(void *req), unsigned int index,
					     unsigned int issue_flags)
{
	return io_buffer_register_request(cmd, req, released, index, issue_flags);
}

static inline int ublk_uring_buffer_unregister(struct io_uring_cmd *cmd, unsigned int index,
					       unsigned int issue_flags)
{
	return io_buffer_unregister(cmd, index, issue_flags);
}
#else
#define UBLK_F_BUFFERS	0ULL

static inline int ublk_uring_buffer_register(struct io_uring_cmd *cmd, struct request *req,
					     void (*released)(void *req), unsigned int index,
					     unsigned int issue_flags)
{
	return -EOPNOTSUPP;
}

static inline int ublk_uring_buffer_unregister(struct io_uring_cmd *cmd, unsigned int index,
					       unsigned int issue_flags)
{
	return -EOPNOTSUPP;
}
#endif

/*
 * Commands that stay and are answered many times, each time with a provided buffer. UBLK_F_BATCH is
 * UBLK_F_BATCH_IO where the kernel has them, else 0.
 */
#ifdef UBLK_HAVE_URING_MULTISHOT
#define UBLK_F_BATCH	UBLK_F_BATCH_IO

struct ublk_uring_buffer {
	struct io_br_sel	sel;
	void __user		*addr;
	size_t			bytes;
};

static inline bool ublk_uring_is_multishot(const struct io_uring_cmd *cmd)
{
	return cmd->flags & IORING_URING_CMD_MULTISHOT;
}

static inline u16 ublk_uring_sqe_buf_index(const struct io_uring_cmd *cmd)
{
	return READ_ONCE(cmd->sqe->buf_index);
}

/* Take a buffer of the group. 0 or negative errno. */
static inline int ublk_uring_buffer_select(struct io_uring_cmd *cmd, u16 group,
					   struct ublk_uring_buffer *b, unsigned int issue_flags)
{
	b->bytes = 0;
	b->sel = io_uring_cmd_buffer_select(cmd, group, &b->bytes, issue_flags);
	if (b->sel.val < 0)
		return b->sel.val;
	b->addr = b->sel.addr;
	return b->addr ? 0 : -ENOBUFS;
}

/* Answer with the first @bytes of the buffer. False if the ring can't take it. */
static inline bool ublk_uring_buffer_post(struct io_uring_cmd *cmd, struct ublk_uring_buffer *b,
					  size_t bytes, unsigned int issue_flags)
{
	b->sel.val = bytes;
	return !io_uring_mshot_cmd_post_cqe(cmd, &b->sel, issue_flags);
}

/* The buffer goes back, unused and without an answer. */
static inline void ublk_uring_buffer_give_back(struct io_uring_cmd *cmd,
					       struct ublk_uring_buffer *b,
					       unsigned int issue_flags)
{
	b->sel.val = 0;
	io_uring_mshot_cmd_post_cqe(cmd, &b->sel, issue_flags);
}
#else
#define UBLK_F_BATCH	0ULL

struct ublk_uring_buffer {
	void __user		*addr;
	size_t			bytes;
};

static inline bool ublk_uring_is_multishot(const struct io_uring_cmd *cmd)
{
	return false;
}

static inline u16 ublk_uring_sqe_buf_index(const struct io_uring_cmd *cmd)
{
	return 0;
}

static inline int ublk_uring_buffer_select(struct io_uring_cmd *cmd, u16 group,
					   struct ublk_uring_buffer *b, unsigned int issue_flags)
{
	return -EOPNOTSUPP;
}

static inline bool ublk_uring_buffer_post(struct io_uring_cmd *cmd, struct ublk_uring_buffer *b,
					  size_t bytes, unsigned int issue_flags)
{
	return false;
}

static inline void ublk_uring_buffer_give_back(struct io_uring_cmd *cmd,
					       struct ublk_uring_buffer *b,
					       unsigned int issue_flags)
{
}
#endif

/* 32 bytes inside the command that belong to us as long as we hold it. */
static inline void *ublk_uring_private(struct io_uring_cmd *cmd)
{
	return cmd->pdu;
}

/* Post the CQE. The command is gone afterwards. */
static inline void ublk_uring_done(struct io_uring_cmd *cmd, int res, unsigned int issue_flags)
{
#ifdef UBLK_HAVE_URING_DONE_SHORT
	io_uring_cmd_done(cmd, res, issue_flags);
#else
	io_uring_cmd_done(cmd, res, 0, issue_flags);
#endif
}

/* The task that task work of this command runs in. */
static inline struct task_struct *ublk_uring_task(struct io_uring_cmd *cmd)
{
#ifdef UBLK_HAVE_URING_REQ_TCTX
	return cmd_to_io_kiocb(cmd)->tctx->task;
#else
	return cmd_to_io_kiocb(cmd)->task;
#endif
}

/* Names the ring of a command; for comparison only. */
static inline void *ublk_uring_ring(struct io_uring_cmd *cmd)
{
	return cmd_to_io_kiocb(cmd)->ctx;
}

/*
 * Is the ring polled for completions? Nobody would poll for ours; some kernels refuse commands on
 * such a ring by themselves, others by IO_URING_F_IOPOLL, the rest leave it to us.
 */
static inline bool ublk_uring_ring_is_polled(struct io_uring_cmd *cmd)
{
	return cmd_to_io_kiocb(cmd)->ctx->flags & IORING_SETUP_IOPOLL;
}

/*
 * Has the ring been closed? The caller must hold the command. Only asked where io_uring does not
 * say it by itself.
 */
static inline bool ublk_uring_ring_is_dying(struct io_uring_cmd *cmd)
{
	return !UBLK_CAN_CANCEL && percpu_ref_is_dying(&cmd_to_io_kiocb(cmd)->ctx->refs);
}

/*
 * Task work: UBLK_URING_TASK_WORK(name) starts the definition of a function
 * (struct io_uring_cmd *cmd, unsigned int issue_flags) that can be given to
 * ublk_uring_run_in_task() as `name`. It runs in the task of the command, or in a kernel worker
 * when that task is dying.
 */
#ifdef UBLK_HAVE_URING_TW_TOKEN
#define UBLK_URING_TASK_WORK(name)							\
static void name##_body(struct io_uring_cmd *cmd, unsigned int issue_flags);		\
static void name(struct io_tw_req req, io_tw_token_t token)				\
{											\
	name##_body(io_uring_cmd_from_tw(req), IO_URING_CMD_TASK_WORK_ISSUE_FLAGS);	\
}											\
static void name##_body(struct io_uring_cmd *cmd, unsigned int issue_flags)
#else
#define UBLK_URING_TASK_WORK(name)							\
static void name(struct io_uring_cmd *cmd, unsigned int issue_flags)
#endif
#define ublk_uring_run_in_task(cmd, callback)	io_uring_cmd_complete_in_task(cmd, callback)

#endif
