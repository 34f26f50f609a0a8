// SPDX-License-Identifier: GPL-2.0
/*
 * UBLK_F_USER_COPY: the server reads and writes the data of its requests by pread() and pwrite() on
 * /dev/ublkcN, at an offset that names queue, tag and byte.
 */
#include <linux/fs.h>
#include <linux/uio.h>

#include "ublk_drv.h"

struct ublk_place {
	struct ublk_queue	*queue;
	struct ublk_io		*io;
	u32			offset;
	bool			integrity;	/* in the protection information, not the data */
};

static int ublk_find_place(struct ublk_device *dev, loff_t pos, struct ublk_place *place)
{
	u32 queue, tag;
	u64 at;

	place->integrity = pos > 0 && pos & UBLKSRV_IO_INTEGRITY_FLAG;
	if (place->integrity) {
		if (!(dev->flags_granted & UBLK_F_INTEGRITY))
			return -EINVAL;
		pos &= ~UBLKSRV_IO_INTEGRITY_FLAG;
	}
	at = pos - UBLKSRV_IO_BUF_OFFSET;
	if (pos < (loff_t)UBLKSRV_IO_BUF_OFFSET || at >> UBLKSRV_IO_BUF_TOTAL_BITS)
		return -EINVAL;
	place->offset = at & UBLK_IO_BUF_BITS_MASK;
	tag = (at >> UBLK_TAG_OFF) & UBLK_TAG_BITS_MASK;
	queue = (at >> UBLK_QID_OFF) & UBLK_QID_BITS_MASK;
	if (queue >= dev->nr_queues || tag >= dev->depth)
		return -EINVAL;
	place->queue = dev->queues[queue];
	place->io = &place->queue->ios[tag];
	return 0;
}

/* Data flows one way: out of writes, into everything that answers with data. */
static bool ublk_copy_is_allowed(const struct request *req, bool to_server)
{
	switch (req_op(req)) {
	case REQ_OP_WRITE:
	case REQ_OP_ZONE_APPEND:
		return to_server;
	case REQ_OP_READ:
	case REQ_OP_DRV_IN:
		return !to_server;
	default:
		return false;
	}
}

static ssize_t ublk_copy_request(struct request *req, struct iov_iter *iter,
				 const struct ublk_place *place, bool to_server)
{
	u32 bytes = place->integrity ? ublk_integrity_bytes(req) : blk_rq_bytes(req);
	u32 wanted, done;

	if (!ublk_copy_is_allowed(req, to_server))
		return -EACCES;
	if (place->offset > bytes)
		return -EINVAL;
	wanted = min_t(size_t, bytes - place->offset, iov_iter_count(iter));
	/* A request without protection information has no place for any. */
	if (!wanted)
		return 0;
	done = place->integrity ?
	       ublk_copy_integrity(req, iter, place->offset, wanted, to_server) :
	       ublk_copy(req, iter, place->offset, wanted, to_server);
	return done ?: -EFAULT;
}

static ssize_t ublk_user_copy(struct kiocb *kiocb, struct iov_iter *iter, bool to_server)
{
	struct ublk_device *dev = kiocb->ki_filp->private_data;
	struct ublk_place place;
	struct request *req;
	ssize_t ret;

	if (!(dev->flags_granted & UBLK_F_USER_COPY) || !user_backed_iter(iter))
		return -EACCES;
	if (READ_ONCE(dev->info.state) == UBLK_S_DEV_DEAD && !READ_ONCE(dev->starting))
		return -EACCES;
	ret = ublk_find_place(dev, kiocb->ki_pos, &place);
	if (ret)
		return ret;

	/* Nobody but its own task ends the server's part in the request: no reference needed. */
	if (READ_ONCE(place.io->task) == current) {
		if (READ_ONCE(place.io->state) != UBLK_IO_OWNED)
			return -EINVAL;
		return ublk_copy_request(place.io->req, iter, &place, to_server);
	}
	req = ublk_ref_get(place.io);
	if (!req)
		return -EINVAL;
	ret = ublk_copy_request(req, iter, &place, to_server);
	ublk_ref_put(place.queue, place.io);
	return ret;
}

ssize_t ublk_chan_read_iter(struct kiocb *kiocb, struct iov_iter *iter)
{
	return ublk_user_copy(kiocb, iter, true);
}

ssize_t ublk_chan_write_iter(struct kiocb *kiocb, struct iov_iter *iter)
{
	return ublk_user_copy(kiocb, iter, false);
}
