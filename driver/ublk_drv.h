/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Inside of the ublk driver: its objects, who owns them and which lock protects what.
 * README.md draws the same picture as text.
 *
 *   ublk_device  one /dev/ublkcN and, while started, /dev/ublkbN. Reference counted by its
 *                struct device; the id is free again when the last reference is gone.
 *   ublk_queue   one hardware queue: descriptors for the server and the state of each tag.
 *   ublk_io      one tag.
 *   ublk_lane    one (task, ring) that serves tags of a queue: requests wait there for the task.
 *
 * Locks, outermost first:
 *   dev->stop_lock   one at a time removes the disk; held while I/O drains
 *   ring uring_lock  (io_uring's) held around every command of a server
 *   dev->mutex       all of dev that is not marked otherwise; never held while waiting for I/O,
 *                    for user memory or for a server, and no command is completed under it,
 *                    because that may take a uring_lock
 *   dev->shmem_lock  the table of shared memory
 *   ublk_watched_lock  the list of devices that are polled
 *   ublk_ids_lock    the table of ids
 * The I/O path takes none of them.
 */
#ifndef UBLK_DRV_H
#define UBLK_DRV_H

#include <linux/blk-mq.h>
#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/idr.h>
#include <linux/llist.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "compat/block.h"
#include "compat/integrity.h"
#include "compat/uring.h"
#include "compat/zones.h"
#include "uapi/ublk_cmd.h"

#define UBLK_MAX_DEVICES	(1U << 20)
#define UBLK_NO_ID		U32_MAX
#define UBLK_MAX_DESC_BYTES	256

/* How long a request may be with a server until we look at the server, or kill an untrusted one. */
#define UBLK_LOOK_TIMEOUT	HZ
#define UBLK_USER_TIMEOUT	(30 * HZ)

/* Granted whether asked for or not. */
#define UBLK_F_ALWAYS		(UBLK_F_URING_CMD_COMP_IN_TASK | UBLK_F_CMD_IOCTL_ENCODE | \
				 UBLK_F_PER_IO_DAEMON | UBLK_F_SAFE_STOP_DEV |		\
				 (UBLK_F_BUFFERS & UBLK_F_BUF_REG_OFF_DAEMON))
/* The modes in which the server gets at the data by itself, without a buffer for each tag. */
#define UBLK_F_OWN_ACCESS	(UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG)
/* The ways in which a disk outlives its server. */
#define UBLK_F_RECOVERY_MODES	(UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE |	\
				 UBLK_F_USER_RECOVERY_FAIL_IO)
/* What this driver does on this kernel. ADD_DEV drops all else. */
#define UBLK_F_SUPPORTED	(UBLK_F_ALWAYS | UBLK_F_NEED_GET_DATA |			\
				 UBLK_F_RECOVERY_MODES | UBLK_F_QUIESCE |		\
				 UBLK_F_UNPRIVILEGED_DEV | UBLK_F_UPDATE_SIZE |		\
				 UBLK_F_NO_AUTO_PART_SCAN | UBLK_F_IO_DESC_SIZE |	\
				 UBLK_F_USER_COPY | UBLK_F_SHMEM_ZC | UBLK_F_ZONES |	\
				 UBLK_F_BUFFERS | UBLK_F_BATCH | UBLK_F_PROTECTION)

#define UBLK_PARAMS_SUPPORTED	(UBLK_PARAM_TYPE_BASIC | UBLK_PARAM_TYPE_DISCARD |	\
				 UBLK_PARAM_TYPE_DEVT | UBLK_PARAM_TYPE_DMA_ALIGN |	\
				 UBLK_PARAM_TYPE_SEGMENT |				\
				 (UBLK_F_ZONES ? UBLK_PARAM_TYPE_ZONED : 0) |		\
				 (UBLK_F_PROTECTION ? UBLK_PARAM_TYPE_INTEGRITY : 0))

struct ublk_device;
struct ublk_queue;

/*
 * State of a tag. Each transition has one place:
 *
 *   IDLE -> ACTIVE       FETCH, under dev->mutex (chan.c)
 *   ACTIVE -> QUEUED     a request arrives, in queue_rq with the gate open (dispatch.c)
 *   QUEUED -> OWNED      the task is given the request (dispatch.c)
 *   QUEUED -> WANT_DATA  the task is asked for a buffer first (dispatch.c)
 *   WANT_DATA -> OWNED   NEED_GET_DATA, in the task (chan.c)
 *   OWNED, WANT_DATA -> ACTIVE   COMMIT_AND_FETCH, in the task (chan.c)
 *   QUEUED -> ACTIVE     the task is dead or its buffer faults: the request went back (dispatch.c)
 *   ACTIVE -> CANCELED   cmpxchg by whoever completes the command with ABORT (abort.c)
 *   OWNED, WANT_DATA -> CANCELED the task is gone: its request is given back (abort.c)
 *   OWNED -> COMMITS -> ACTIVE   COMMIT_IO_CMDS, from any task (batch.c)
 *   OWNED -> QUEUED      FETCH_IO_CMDS could not tell the server (batch.c)
 *   QUEUED -> CANCELED   likewise, but task work has the command and completes it (dispatch.c)
 *   any -> IDLE          the char device was released and nobody else is left (abort.c)
 *
 * Only ACTIVE -> QUEUED and ACTIVE -> CANCELED start from the same state. The gate keeps them
 * apart: a command is cancelled only after its queue's gate was closed and an RCU grace period
 * went by, and both queue_rq and arming a command look at the gate inside an RCU read section.
 */
enum ublk_io_state {
	UBLK_IO_IDLE,
	UBLK_IO_ACTIVE,
	UBLK_IO_QUEUED,
	UBLK_IO_OWNED,
	UBLK_IO_WANT_DATA,
	UBLK_IO_COMMITS,
	UBLK_IO_CANCELED,
};

struct ublk_io {
	union {
		struct io_uring_cmd *cmd;	/* ours while ACTIVE or QUEUED */
		void		*ring;	/* with queue->batch: where auto_buf is registered */
	};
	struct request		*req;	/* while QUEUED, OWNED or WANT_DATA */
	struct ublk_lane	*lane;	/* set by FETCH, until the char device is released */
	struct task_struct	*task;	/* lane->task, the only one that may commit; NULL: any */
	u64			addr;	/* the server's buffer; written by its task */
	u32			state;	/* enum ublk_io_state */
	u32			bytes;	/* of the request as the server knows it; by its task */

	/* With queue->counts_refs (end.c) */
	atomic_t		refs;
	int			res;	/* what the request ends with, and of how many bytes */
	struct {			/* UBLK_F_AUTO_BUF_REG, by its task */
		u16		index;
		u8		flags;
		bool		registered;
	} auto_buf;
} ____cacheline_aligned_in_smp;

/* ublk_io::res of a request that no server answers (ublk_give_back). */
#define UBLK_RES_GIVE_BACK	INT_MIN

/*
 * Requests on their way to one task of the server.
 *
 * Anybody may push. Whoever finds the list empty schedules one task work, carried by the command
 * of the (oldest) request it pushed, and that task work takes the whole list once. So there is at most one
 * task work per list, its command cannot go away before it runs, and order is first in, first out
 * whatever order io_uring runs its task work in.
 */
struct ublk_lane {
	struct llist_head	pending;	/* struct ublk_rq::link, newest first */
	/* fixed after creation */
	struct task_struct	*task ____cacheline_aligned_in_smp;	/* holds a reference */
	void			*ring;
	struct ublk_queue	*queue;
	struct ublk_lane	*next;		/* queue->lanes, under dev->mutex */
	unsigned int		seen_in_exec;	/* by the monitor: polls that found task in exec */
};

/*
 * What becomes of a request that arrives, and of a command that is armed. Written under dev->mutex
 * (gate.c). With the first two, commands are cancelled.
 */
enum ublk_gate {
	UBLK_GATE_FAIL,		/* no server and none expected: it fails */
	UBLK_GATE_HOLD,		/* the next server gets it: it waits on the requeue list */
	UBLK_GATE_PAUSE,	/* it waits likewise, but the server's commands stay armed */
	UBLK_GATE_OPEN,		/* the server gets it */
};

struct ublk_queue {
	/* fixed after creation */
	struct ublk_device	*dev;
	void			*descs;		/* mapped by the server, a slot for each tag */
	unsigned int		descs_order;
	u16			desc_bytes;	/* of a slot */
	u16			id;
	u16			depth;
	bool			asks_for_buffer;	/* UBLK_F_NEED_GET_DATA */
	bool			copies;		/* we copy data from and to the server's buffers */
	bool			counts_refs;	/* others may hold a request (end.c) */
	bool			registers;	/* UBLK_F_AUTO_BUF_REG */
	bool			shares_memory;	/* UBLK_F_SHMEM_ZC */
	bool			protects;	/* UBLK_F_INTEGRITY */

	u8			gate;		/* enum ublk_gate */

	/* under dev->mutex */
	u16			nr_fetched;
	struct ublk_lane	*lanes;

	struct ublk_batch_queue	*batch;		/* instead of lanes; fixed after creation */

	struct ublk_io		ios[];
};

/* Our part of a request. */
struct ublk_rq {
	struct llist_node	link;		/* lane->pending */
	u32			op_flags;	/* as in ublksrv_io_desc */
	u32			nr_zones;	/* REPORT_ZONES */
	struct ublk_shmem_buf	*shmem;		/* with queue->shares_memory: where the data is */
};

/* Our part of an armed command. */
struct ublk_cmd {
	union {
		struct ublk_io	*io;
		struct {		/* FETCH_IO_CMDS */
			struct ublk_queue	*queue;
			struct ublk_fetcher	*fetcher;
		};
	};
};

/* Bits of dev->flags, changed atomically. */
enum ublk_dev_flag {
	UBLK_DEV_OPEN,		/* the char device has an opener, or its release is not done yet */
	UBLK_DEV_DELETED,	/* DEL_DEV was accepted: no new users */
	UBLK_DEV_REMOVED,	/* the char device was removed */
	UBLK_DEV_UNTRUSTED,	/* a task without CAP_SYS_ADMIN fetched: no partition scan */
	UBLK_DEV_FLUSHED,	/* somebody closed the char device since the monitor looked */
};

/* What went wrong in the life of a device, and was mended. Shown in sysfs. */
struct ublk_counters {
	atomic_long_t		aborted;	/* requests failed for want of a server */
	atomic_long_t		requeued;	/* requests kept for the next server */
	atomic_long_t		recovered;	/* servers that took over */
};

struct ublk_device {
	/* fixed after creation */
	struct ublk_queue	**queues;
	u64			flags_granted;	/* info.flags, for the readers without the mutex */
	u16			nr_queues;
	u16			depth;
	u16			desc_bytes;
	u32			id;
	kuid_t			owner_uid;	/* who made it, for unprivileged devices */
	kgid_t			owner_gid;
	u64			serial;		/* tells devices apart that had the same id */
	struct blk_mq_tag_set	tag_set;
	struct cdev		cdev;
	struct device		cdev_dev;

	unsigned long		flags;		/* enum ublk_dev_flag */

	struct mutex		stop_lock;
	struct mutex		mutex;
	/* under mutex */
	struct ublksrv_ctrl_dev_info info;
	struct ublk_params	params;
	struct gendisk		*disk;		/* from START_DEV until it is stopped */
	struct pid		*server;	/* thread group that opened the char device */
	bool			starting;	/* START_DEV is making the disk */
	bool			stopping;	/* the disk is being removed */
	bool			canceling;	/* FETCH is refused until the char device is released */
	u16			nr_ready;	/* queues with every tag fetched */
	struct list_head	waiters;	/* START_DEV and END_USER_RECOVERY (start.c) */
	u32			stops;		/* counts STOP_DEV and DEL_DEV */
	u32			stop_asked;	/* the last ticket for stop_work */
	u32			stop_done;	/* the last ticket that was served */
	bool			stop_any;	/* asked: to stop whatever disk is there */
	struct gendisk		*stop_only;	/* asked: to stop this one alone; with a reference */

	wait_queue_head_t	wait;		/* nr_ready, waiters, state or a paused tag changed */
	struct mm_struct	*mm;		/* that mapped descriptors; cmpxchg, compared only */

	bool			released;	/* release_work runs: nobody has the char device */
	struct work_struct	release_work;	/* last close of the char device */
	struct work_struct	stop_work;	/* STOP_DEV, TRY_STOP_DEV and DEL_DEV */
	struct work_struct	cancel_work;	/* stage 1 for commands; see ublk_cancel_start() */
	struct work_struct	scan_work;	/* partition scan */
	struct work_struct	monitor_work;	/* looks for a dead server */
	struct list_head	watched;	/* polled (abort.c) */

	struct ublk_shmem_table __rcu *shmem;	/* written under shmem_lock */
	struct mutex		shmem_lock;	/* innermost */
	struct ida		shmem_ids;	/* indexes of buffers */

	struct ublk_counters	counters;
};

/* One control command, copied out of the SQE. */
struct ublk_ctrl {
	struct ublksrv_ctrl_cmd	cmd;
	unsigned int		issue_flags;
};

/* main.c */
extern struct workqueue_struct *ublk_wq;
extern struct workqueue_struct *ublk_wait_wq;
extern struct class *ublk_char_class;
extern dev_t ublk_char_devt;

/* dev.c */
struct ublk_device *ublk_dev_create(struct ublksrv_ctrl_dev_info *info);
struct ublk_device *ublk_dev_find(u32 id);
void ublk_dev_get(struct ublk_device *dev);
void ublk_dev_put(struct ublk_device *dev);
bool ublk_dev_id_in_use(u32 id, u64 serial);
void ublk_dev_delete_all(void);
extern wait_queue_head_t ublk_id_wait;

/* ctrl.c */
int ublk_ctrl_register(void);
void ublk_ctrl_unregister(void);

/* access.c */
int ublk_access_new(struct ublksrv_ctrl_dev_info *info);
int ublk_access_check(struct ublk_device *dev, struct ublk_ctrl *c, bool writes, bool has_path);
bool ublk_access_may_open(const struct ublk_device *dev);
bool ublk_quota_take(void);
void ublk_quota_give_back(void);

/* start.c */
void ublk_waiters_end(struct ublk_device *dev, const struct pid *server);
int ublk_ctrl_start(struct ublk_device *dev, struct ublk_ctrl *c);
int ublk_ctrl_start_recovery(struct ublk_device *dev, struct ublk_ctrl *c);
int ublk_ctrl_end_recovery(struct ublk_device *dev, struct ublk_ctrl *c);

/* quiesce.c */
int ublk_ctrl_quiesce(struct ublk_device *dev, struct ublk_ctrl *c);

/* gate.c */
void ublk_gates_open(struct ublk_device *dev);
void ublk_gates_close(struct ublk_device *dev);
void ublk_gates_pause(struct ublk_device *dev);
bool ublk_gates_are(const struct ublk_device *dev, enum ublk_gate gate);

/* stats.c */
extern const struct attribute_group *ublk_dev_groups[];

/* params.c */
int ublk_params_check_size(const struct ublk_param_basic *p, u64 sectors);
int ublk_params_check(const struct ublk_device *dev, const struct ublk_params *p);
void ublk_params_to_limits(const struct ublk_params *p, struct ublk_disk_limits *lim);

/* chan.c */
extern const struct file_operations ublk_chan_fops;
void ublk_queue_ready(struct ublk_device *dev);
u32 ublk_bytes_done(struct ublk_queue *q, struct ublk_io *io, struct request *req, int res,
		    u64 addr);

/* queue.c */
struct ublk_queue *ublk_queue_create(struct ublk_device *dev, u16 id);
void ublk_queue_destroy(struct ublk_queue *q);
size_t ublk_queue_map_bytes(const struct ublk_device *dev, u16 depth);
struct ublk_lane *ublk_lane_get(struct ublk_queue *q, struct task_struct *task, void *ring);
void ublk_lanes_free(struct ublk_queue *q);
bool ublk_published_late(struct ublk_queue *q, u8 gate);
bool ublk_cancel_io(struct ublk_io *io, unsigned int issue_flags);

/* dispatch.c */
extern const struct blk_mq_ops ublk_mq_ops;
bool ublk_prepare(struct ublk_queue *q, struct ublk_io *io, struct request *req,
		  struct io_uring_cmd *cmd, unsigned int issue_flags);
void ublk_hand_over(struct ublk_queue *q, struct ublk_io *io, struct request *req,
		    struct io_uring_cmd *cmd, unsigned int issue_flags);
void ublk_lane_give_back(struct ublk_lane *lane);
bool ublk_give_back(struct ublk_device *dev, struct request *req, bool reissue);
void ublk_kick(struct ublk_device *dev);

/* end.c */
void ublk_end(struct ublk_queue *q, struct ublk_io *io, int res, unsigned int bytes,
	      struct request *req);
struct request *ublk_ref_get(struct ublk_io *io);
void ublk_ref_end(struct ublk_queue *q, struct ublk_io *io);
bool ublk_ref_undo(struct ublk_io *io);
void ublk_refs_drain(struct ublk_device *dev);

/* usercopy.c */
ssize_t ublk_chan_read_iter(struct kiocb *kiocb, struct iov_iter *iter);
ssize_t ublk_chan_write_iter(struct kiocb *kiocb, struct iov_iter *iter);

/* buffers.c */
int ublk_buffer_register(struct ublk_queue *q, struct ublk_io *io, struct io_uring_cmd *cmd,
			 u64 index, unsigned int issue_flags);
int ublk_buffer_unregister(struct ublk_queue *q, struct io_uring_cmd *cmd, u64 index,
			   unsigned int issue_flags);
int ublk_auto_register(struct ublk_queue *q, struct ublk_io *io, struct request *req,
		       struct io_uring_cmd *cmd, unsigned int issue_flags);

/* batch.c */
struct ublk_batch_queue *ublk_batch_create(void);
void ublk_batch_destroy(struct ublk_batch_queue *batch);
int ublk_batch_cmd(struct ublk_device *dev, struct io_uring_cmd *cmd, unsigned int issue_flags);
void ublk_batch_push(struct ublk_queue *q, struct llist_node *newest, struct llist_node *oldest);
void ublk_batch_cancel(struct ublk_queue *q, unsigned int issue_flags);
void ublk_batch_cancel_one(struct io_uring_cmd *cmd, unsigned int issue_flags);

/* shmem.c */
#define UBLK_NO_SHMEM	U64_MAX
u64 ublk_shmem_take(struct ublk_device *dev, struct request *req);
void ublk_shmem_done(struct ublk_device *dev, struct request *req);
int ublk_ctrl_reg_buf(struct ublk_device *dev, struct ublk_ctrl *c);
int ublk_ctrl_unreg_buf(struct ublk_device *dev, struct ublk_ctrl *c);
void ublk_shmem_clear(struct ublk_device *dev);

/* zones.c */
int ublk_zones_check(const struct ublk_params *p);
UBLK_ZONES_REPORT_FN(ublk_zones_report);

/* copy.c */
unsigned int ublk_copy(struct request *req, struct iov_iter *iter, unsigned int offset,
		       unsigned int bytes, bool to_server);
unsigned int ublk_copy_integrity(struct request *req, struct iov_iter *iter, unsigned int offset,
				 unsigned int bytes, bool to_server);
unsigned int ublk_copy_to_server(struct request *req, u64 addr);
unsigned int ublk_copy_from_server(struct request *req, u64 addr, unsigned int bytes);

/* disk.c */
int ublk_disk_start(struct ublk_device *dev);
void ublk_disk_stop(struct ublk_device *dev);
void ublk_disk_remove(struct ublk_device *dev);
struct gendisk *ublk_disk_get(struct ublk_device *dev);
bool ublk_disk_close_unused(struct gendisk *disk);
int ublk_disk_resize(struct ublk_device *dev, u64 sectors);
void ublk_scan_work(struct work_struct *work);

/* stop.c */
int ublk_dev_stop(struct ublk_device *dev);
int ublk_dev_stop_unused(struct ublk_device *dev);
int ublk_dev_delete(struct ublk_device *dev);
void ublk_dev_delete_now(struct ublk_device *dev);
void ublk_stop_work(struct work_struct *work);

/* abort.c */
void ublk_cancel_begin_locked(struct ublk_device *dev);
void ublk_cancel_begin(struct ublk_device *dev);
void ublk_cancel_start(struct ublk_device *dev);
void ublk_cancel_all(struct ublk_device *dev);
void ublk_cancel_work(struct work_struct *work);
void ublk_watch(struct ublk_device *dev);
void ublk_monitor_kick(struct ublk_device *dev);
void ublk_monitor_work(struct work_struct *work);
void ublk_release_work(struct work_struct *work);

static inline struct ublk_rq *ublk_rq(struct request *req)
{
	return blk_mq_rq_to_pdu(req);
}

static inline struct request *ublk_rq_from_link(struct llist_node *link)
{
	return blk_mq_rq_from_pdu(llist_entry(link, struct ublk_rq, link));
}

static inline struct ublk_cmd *ublk_cmd(struct io_uring_cmd *cmd)
{
	BUILD_BUG_ON(sizeof(struct ublk_cmd) > sizeof(cmd->pdu));
	return ublk_uring_private(cmd);
}

/*
 * Give the tag a command to answer its next request with (none with queue->batch). Afterwards the
 * command, and with it the tag, may be used or cancelled by others at any time.
 *
 * Returns false if the queue is closed. Without preemption is a read section of RCU, and the
 * cheapest; it pairs with the grace period of a change of the gate: either we see the change, or
 * whoever made it sees the tag ACTIVE.
 */
static inline bool ublk_publish(struct ublk_queue *q, struct ublk_io *io, struct io_uring_cmd *cmd)
{
	u8 gate;

	if (likely(cmd))
		ublk_cmd(cmd)->io = io;
	preempt_disable();
	io->cmd = cmd;
	smp_store_release(&io->state, UBLK_IO_ACTIVE);
	gate = READ_ONCE(q->gate);
	preempt_enable();
	return likely(gate == UBLK_GATE_OPEN) || ublk_published_late(q, gate);
}

/* As above; cancels the command at once if the queue is closed, and returns false then. */
static inline bool ublk_arm(struct ublk_queue *q, struct ublk_io *io, struct io_uring_cmd *cmd,
			    unsigned int issue_flags)
{
	if (likely(ublk_publish(q, io, cmd)))
		return true;
	ublk_cancel_io(io, issue_flags);
	return false;
}

static inline bool ublk_rq_has_data(const struct request *req)
{
	return bio_has_data(req->bio);
}

static inline u16 ublk_io_tag(const struct ublk_queue *q, const struct ublk_io *io)
{
	return io - q->ios;
}

/* io->refs (end.c). */
#define UBLK_REF_FREE	0	/* nobody has a request */
#define UBLK_REF_ENDS	1	/* the last reference is gone, and the request is being ended */
#define UBLK_REF_SERVER	2	/* or more: one for the server, until it commits or is found
				 * dead, and one for each copy and each buffer */

/* Drop one. The result that the request ends with was stored in io by whoever had the server's. */
static inline void ublk_ref_put(struct ublk_queue *q, struct ublk_io *io)
{
	if (atomic_dec_return(&io->refs) == UBLK_REF_ENDS)
		ublk_ref_end(q, io);
}

/*
 * What a FETCH or COMMIT says about the buffer of its next request, for ublk_auto_set(): its index,
 * and flags above that; or -EINVAL.
 */
static inline int ublk_auto_parse(const struct io_uring_cmd *cmd)
{
	/* A struct ublk_auto_buf_reg, of which the rest is reserved. */
	u64 reg = ublk_uring_sqe_addr(cmd);

	return likely(!(reg & ~(u64)(UBLK_AUTO_BUF_REG_F_MASK << 16 | U16_MAX))) ? reg : -EINVAL;
}

/* @buffer is from ublk_auto_parse(). */
static inline void ublk_auto_set(struct ublk_io *io, int buffer)
{
	io->auto_buf.index = buffer & U16_MAX;
	io->auto_buf.flags = buffer >> 16;
}

/* At commit: only @ring, in which it was registered, knows the buffer. */
static inline void ublk_auto_unregister(struct ublk_io *io, const void *ring,
					struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	if (io->auto_buf.registered && ring == ublk_uring_ring(cmd))
		ublk_uring_buffer_unregister(cmd, io->auto_buf.index, issue_flags);
	io->auto_buf.registered = false;
}

/* Is a request on its way to the server, or with it? */
static inline bool ublk_io_has_request(const struct ublk_io *io)
{
	u32 state = READ_ONCE(io->state);

	return state == UBLK_IO_QUEUED || state == UBLK_IO_OWNED || state == UBLK_IO_WANT_DATA;
}

static inline struct ublksrv_io_desc *ublk_desc(const struct ublk_queue *q, u16 tag)
{
	return q->descs + (size_t)tag * q->desc_bytes;
}

/* A thread of the server that died alone. */
static inline bool ublk_task_is_dying(const struct ublk_io *io)
{
	const struct task_struct *task = READ_ONCE(io->task);

	return task && READ_ONCE(task->flags) & PF_EXITING;
}

/* Does the disk outlive its server? */
static inline bool ublk_dev_recoverable(const struct ublk_device *dev)
{
	return dev->flags_granted & UBLK_F_USER_RECOVERY;
}

/* ... and do its requests wait for the next one meanwhile? */
static inline bool ublk_dev_holds_requests(const struct ublk_device *dev)
{
	return ublk_dev_recoverable(dev) && !(dev->flags_granted & UBLK_F_USER_RECOVERY_FAIL_IO);
}

#endif
