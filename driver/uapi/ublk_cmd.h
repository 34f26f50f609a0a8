/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * The ublk interface between a kernel driver and the server of a block device.
 *
 * Numbers and layouts are those of Linux' <linux/ublk_cmd.h>, so that any server written for one
 * runs on the other. Usable from kernel C, C and C++. Sizes are checked at the end of this file.
 *
 *   /dev/ublk-control   control commands: IORING_OP_URING_CMD on a ring with 128-byte SQEs,
 *                       payload struct ublksrv_ctrl_cmd
 *   /dev/ublkcN         I/O commands of device N, payload struct ublksrv_io_cmd (or ublk_batch_io);
 *                       mmap gives the request descriptors, pread/pwrite the data in user copy mode
 *   /dev/ublkbN         the block device
 */
#ifndef UBLKD_UAPI_UBLK_CMD_H
#define UBLKD_UAPI_UBLK_CMD_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * Control commands, plain numbers. They are accepted as they are (the old form) and wrapped by
 * the ioctl macros (the form that new servers use, UBLK_U_CMD_*).
 */
#define UBLK_CMD_GET_QUEUE_AFFINITY	0x01	/* CPUs of queue data[0] into addr/len */
#define UBLK_CMD_GET_DEV_INFO		0x02	/* struct ublksrv_ctrl_dev_info into addr/len */
#define UBLK_CMD_ADD_DEV		0x04	/* in and out: ublksrv_ctrl_dev_info */
#define UBLK_CMD_DEL_DEV		0x05	/* returns when the id is free again */
#define UBLK_CMD_START_DEV		0x06	/* data[0]: pid of the server; shows the disk */
#define UBLK_CMD_STOP_DEV		0x07	/* removes the disk, aborts fetched commands */
#define UBLK_CMD_SET_PARAMS		0x08	/* struct ublk_params, before START_DEV only */
#define UBLK_CMD_GET_PARAMS		0x09
#define UBLK_CMD_START_USER_RECOVERY	0x10	/* a new server may take over */
#define UBLK_CMD_END_USER_RECOVERY	0x11	/* data[0]: pid of the new server */
#define UBLK_CMD_GET_DEV_INFO2		0x12	/* as GET_DEV_INFO, addr starts with a path */

#define UBLK_U_CMD_GET_QUEUE_AFFINITY	\
	_IOR('u', UBLK_CMD_GET_QUEUE_AFFINITY, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_GET_DEV_INFO		\
	_IOR('u', UBLK_CMD_GET_DEV_INFO, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_ADD_DEV		\
	_IOWR('u', UBLK_CMD_ADD_DEV, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_DEL_DEV		\
	_IOWR('u', UBLK_CMD_DEL_DEV, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_START_DEV		\
	_IOWR('u', UBLK_CMD_START_DEV, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_STOP_DEV		\
	_IOWR('u', UBLK_CMD_STOP_DEV, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_SET_PARAMS		\
	_IOWR('u', UBLK_CMD_SET_PARAMS, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_GET_PARAMS		\
	_IOR('u', UBLK_CMD_GET_PARAMS, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_START_USER_RECOVERY	\
	_IOWR('u', UBLK_CMD_START_USER_RECOVERY, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_END_USER_RECOVERY	\
	_IOWR('u', UBLK_CMD_END_USER_RECOVERY, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_GET_DEV_INFO2	\
	_IOR('u', UBLK_CMD_GET_DEV_INFO2, struct ublksrv_ctrl_cmd)
/* Commands without an old form. */
#define UBLK_U_CMD_GET_FEATURES		_IOR('u', 0x13, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_DEL_DEV_ASYNC	_IOR('u', 0x14, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_UPDATE_SIZE		_IOWR('u', 0x15, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_QUIESCE_DEV		_IOWR('u', 0x16, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_TRY_STOP_DEV		_IOWR('u', 0x17, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_REG_BUF		_IOWR('u', 0x18, struct ublksrv_ctrl_cmd)
#define UBLK_U_CMD_UNREG_BUF		_IOWR('u', 0x19, struct ublksrv_ctrl_cmd)

/* Argument of REG_BUF: memory of the server that its clients may use for direct I/O. */
struct ublk_shmem_buf_reg {
	__u64	addr;		/* page aligned address in the server */
	__u64	len;		/* bytes, whole pages, up to 4 GiB */
	__u32	flags;		/* UBLK_SHMEM_BUF_* */
	__u32	reserved;	/* 0 */
};

#define UBLK_SHMEM_BUF_READ_ONLY	(1U << 0)	/* the server only reads it */

/* Bytes of the answer to GET_FEATURES: one little bit mask of UBLK_F_*. */
#define UBLK_FEATURES_LEN		8

/* I/O commands on /dev/ublkcN, plain numbers and their wrapped form. */
#define UBLK_IO_FETCH_REQ		0x20	/* hand over a tag to the driver, once */
#define UBLK_IO_COMMIT_AND_FETCH_REQ	0x21	/* result of a request, and wait for the next */
#define UBLK_IO_NEED_GET_DATA		0x22	/* buffer for a write, answered with its data */

#define UBLK_U_IO_FETCH_REQ		\
	_IOWR('u', UBLK_IO_FETCH_REQ, struct ublksrv_io_cmd)
#define UBLK_U_IO_COMMIT_AND_FETCH_REQ	\
	_IOWR('u', UBLK_IO_COMMIT_AND_FETCH_REQ, struct ublksrv_io_cmd)
#define UBLK_U_IO_NEED_GET_DATA		\
	_IOWR('u', UBLK_IO_NEED_GET_DATA, struct ublksrv_io_cmd)
#define UBLK_U_IO_REGISTER_IO_BUF	_IOWR('u', 0x23, struct ublksrv_io_cmd)
#define UBLK_U_IO_UNREGISTER_IO_BUF	_IOWR('u', 0x24, struct ublksrv_io_cmd)
/* Batched form: arm tags, commit results (returns bytes handled), receive tags (multishot). */
#define UBLK_U_IO_PREP_IO_CMDS		_IOWR('u', 0x25, struct ublk_batch_io)
#define UBLK_U_IO_COMMIT_IO_CMDS	_IOWR('u', 0x26, struct ublk_batch_io)
#define UBLK_U_IO_FETCH_IO_CMDS		_IOWR('u', 0x27, struct ublk_batch_io)

/* Results of a FETCH or COMMIT_AND_FETCH. */
#define UBLK_IO_RES_OK			0	/* a request is in the descriptor */
#define UBLK_IO_RES_NEED_GET_DATA	1	/* a write; send NEED_GET_DATA first */
#define UBLK_IO_RES_ABORT		(-ENODEV)	/* no more requests for this tag */

/* Offsets on /dev/ublkcN: mmap of descriptors, pread/pwrite of request data. */
#define UBLKSRV_CMD_BUF_OFFSET		0
#define UBLKSRV_IO_BUF_OFFSET		0x80000000

#define UBLK_MAX_QUEUE_DEPTH		4096

/* A data offset is UBLKSRV_IO_BUF_OFFSET + (queue << QID_OFF | tag << TAG_OFF | byte). */
#define UBLK_IO_BUF_OFF			0
#define UBLK_IO_BUF_BITS		25
#define UBLK_IO_BUF_BITS_MASK		((1ULL << UBLK_IO_BUF_BITS) - 1)
#define UBLK_TAG_OFF			UBLK_IO_BUF_BITS
#define UBLK_TAG_BITS			16
#define UBLK_TAG_BITS_MASK		((1ULL << UBLK_TAG_BITS) - 1)
#define UBLK_QID_OFF			(UBLK_TAG_OFF + UBLK_TAG_BITS)
#define UBLK_QID_BITS			12
#define UBLK_QID_BITS_MASK		((1ULL << UBLK_QID_BITS) - 1)
#define UBLK_MAX_NR_QUEUES		(1U << UBLK_QID_BITS)
#define UBLKSRV_IO_BUF_TOTAL_BITS	(UBLK_QID_OFF + UBLK_QID_BITS)
#define UBLKSRV_IO_BUF_TOTAL_SIZE	(1ULL << UBLKSRV_IO_BUF_TOTAL_BITS)
/* With this bit the offset means the integrity bytes of the request, not its data. */
#define UBLK_INTEGRITY_FLAG_OFF		62
#define UBLKSRV_IO_INTEGRITY_FLAG	(1ULL << UBLK_INTEGRITY_FLAG_OFF)

/*
 * Features. ADD_DEV is given those wanted and answers with those granted; GET_FEATURES tells
 * what the driver can do on this kernel.
 */
#define UBLK_F_SUPPORT_ZERO_COPY	(1ULL << 0)	/* request pages as registered buffers */
#define UBLK_F_URING_CMD_COMP_IN_TASK	(1ULL << 1)	/* deliver by task work; always on */
#define UBLK_F_NEED_GET_DATA		(1ULL << 2)	/* ask for a buffer before a write */
#define UBLK_F_USER_RECOVERY		(1ULL << 3)	/* the disk survives its server */
#define UBLK_F_USER_RECOVERY_REISSUE	(1ULL << 4)	/* ... and so do its requests */
#define UBLK_F_UNPRIVILEGED_DEV		(1ULL << 5)	/* made and served by an ordinary user */
#define UBLK_F_CMD_IOCTL_ENCODE		(1ULL << 6)	/* UBLK_U_* forms; always on */
#define UBLK_F_USER_COPY		(1ULL << 7)	/* data by pread/pwrite on /dev/ublkcN */
#define UBLK_F_ZONED			(1ULL << 8)	/* zoned block device */
#define UBLK_F_USER_RECOVERY_FAIL_IO	(1ULL << 9)	/* recoverable, but I/O fails meanwhile */
#define UBLK_F_UPDATE_SIZE		(1ULL << 10)	/* UPDATE_SIZE of a running device */
#define UBLK_F_AUTO_BUF_REG		(1ULL << 11)	/* zero copy without extra commands */
#define UBLK_F_QUIESCE			(1ULL << 12)	/* QUIESCE_DEV, planned handover */
#define UBLK_F_PER_IO_DAEMON		(1ULL << 13)	/* tags of a queue may have several tasks */
#define UBLK_F_BUF_REG_OFF_DAEMON	(1ULL << 14)	/* buffers registered by any task */
#define UBLK_F_BATCH_IO			(1ULL << 15)	/* PREP/COMMIT/FETCH_IO_CMDS */
#define UBLK_F_INTEGRITY		(1ULL << 16)	/* protection information */
#define UBLK_F_SAFE_STOP_DEV		(1ULL << 17)	/* TRY_STOP_DEV */
#define UBLK_F_NO_AUTO_PART_SCAN	(1ULL << 18)	/* no partition scan at START_DEV */
#define UBLK_F_SHMEM_ZC			(1ULL << 19)	/* direct I/O from registered memory */
#define UBLK_F_IO_DESC_SIZE		(1ULL << 20)	/* descriptor slots of io_desc_size bytes */

/* Device states in ublksrv_ctrl_dev_info. */
#define UBLK_S_DEV_DEAD			0	/* no disk */
#define UBLK_S_DEV_LIVE			1	/* disk and server */
#define UBLK_S_DEV_QUIESCED		2	/* disk waits for a server, I/O waits too */
#define UBLK_S_DEV_FAIL_IO		3	/* disk waits for a server, I/O fails */

/* Payload of a control command: the last 80 bytes of a 128-byte SQE start with it. */
struct ublksrv_ctrl_cmd {
	__u32	dev_id;		/* (__u32)-1 with ADD_DEV: any free id */
	__u16	queue_id;	/* (__u16)-1 unless the command is about a queue */
	__u16	len;		/* bytes at addr */
	__u64	addr;		/* in or out, by command */
	__u64	data[1];	/* small argument, by command */
	__u16	dev_path_len;	/* unprivileged: bytes of the path that addr starts with, with NUL */
	__u16	pad;
	__u32	reserved;
};

struct ublksrv_ctrl_dev_info {
	__u16	nr_hw_queues;
	__u16	queue_depth;
	__u16	state;		/* UBLK_S_DEV_*, written by the driver */
	__u16	io_desc_size;	/* with UBLK_F_IO_DESC_SIZE: 24..256, a multiple of 8 */

	__u32	max_io_buf_bytes;	/* largest request, rounded down to pages */
	__u32	dev_id;

	__s32	ublksrv_pid;	/* as seen by the caller, -1 for none; written by the driver */
	__u32	pad1;

	__u64	flags;		/* UBLK_F_* */
	__u64	ublksrv_flags;	/* the server's own, kept and not looked at */

	__u32	owner_uid;	/* written by the driver */
	__u32	owner_gid;
	__u64	reserved1;
	__u64	reserved2;
};

/* Operations in ublksrv_io_desc.op_flags, bits 0 to 7. */
#define UBLK_IO_OP_READ			0
#define UBLK_IO_OP_WRITE		1
#define UBLK_IO_OP_FLUSH		2
#define UBLK_IO_OP_DISCARD		3
#define UBLK_IO_OP_WRITE_SAME		4
#define UBLK_IO_OP_WRITE_ZEROES		5
#define UBLK_IO_OP_ZONE_OPEN		10
#define UBLK_IO_OP_ZONE_CLOSE		11
#define UBLK_IO_OP_ZONE_FINISH		12
#define UBLK_IO_OP_ZONE_APPEND		13
#define UBLK_IO_OP_ZONE_RESET_ALL	14
#define UBLK_IO_OP_ZONE_RESET		15
#define UBLK_IO_OP_REPORT_ZONES		18	/* answer: array of struct blk_zone */

/* Flags in ublksrv_io_desc.op_flags, bits 8 to 31. */
#define UBLK_IO_F_FAILFAST_DEV		(1U << 8)
#define UBLK_IO_F_FAILFAST_TRANSPORT	(1U << 9)
#define UBLK_IO_F_FAILFAST_DRIVER	(1U << 10)
#define UBLK_IO_F_META			(1U << 11)
#define UBLK_IO_F_FUA			(1U << 13)
#define UBLK_IO_F_NOUNMAP		(1U << 15)
#define UBLK_IO_F_SWAP			(1U << 16)
#define UBLK_IO_F_NEED_REG_BUF		(1U << 17)	/* auto registration failed, do it */
#define UBLK_IO_F_INTEGRITY		(1U << 18)	/* has protection information */
#define UBLK_IO_F_SHMEM_ZC		(1U << 19)	/* addr is index and offset, see below */

/* One request. Slot `tag` of a queue's mapping; stable from the CQE until the commit. */
struct ublksrv_io_desc {
	__u32	op_flags;
	union {
		__u32	nr_sectors;	/* 512 bytes each */
		__u32	nr_zones;	/* REPORT_ZONES */
	};
	__u64	start_sector;
	__u64	addr;			/* of the buffer, in the server */
};

static inline __u8 ublksrv_get_op(const struct ublksrv_io_desc *iod)
{
	return iod->op_flags & 0xff;
}

static inline __u32 ublksrv_get_flags(const struct ublksrv_io_desc *iod)
{
	return iod->op_flags >> 8;
}

/* Argument of automatic buffer registration, carried in sqe->addr (index is the low word). */
#define UBLK_AUTO_BUF_REG_FALLBACK	(1 << 0)
#define UBLK_AUTO_BUF_REG_F_MASK	UBLK_AUTO_BUF_REG_FALLBACK

struct ublk_auto_buf_reg {
	__u16	index;
	__u8	flags;
	__u8	reserved0;
	__u32	reserved1;
};

static inline struct ublk_auto_buf_reg ublk_sqe_addr_to_auto_buf_reg(__u64 sqe_addr)
{
	struct ublk_auto_buf_reg reg;

	reg.index = sqe_addr & 0xffff;
	reg.flags = (sqe_addr >> 16) & 0xff;
	reg.reserved0 = (sqe_addr >> 24) & 0xff;
	reg.reserved1 = sqe_addr >> 32;
	return reg;
}

static inline __u64 ublk_auto_buf_reg_to_sqe_addr(const struct ublk_auto_buf_reg *reg)
{
	__u64 high = reg->reserved1;
	__u32 low = reg->reserved0;

	low = low << 24 | reg->flags << 16 | reg->index;
	return high << 32 | low;
}

/* Payload of an I/O command. */
struct ublksrv_io_cmd {
	__u16	q_id;
	__u16	tag;
	__s32	result;		/* commit: bytes done or -errno */
	union {
		__u64	addr;			/* buffer for the tag; 0 in the modes without one */
		__u64	zone_append_lba;	/* commit of ZONE_APPEND: where it went */
	};
};

/* One tag in the buffer of a batched command; optional words follow as the flags say. */
struct ublk_elem_header {
	__u16	tag;
	__u16	buf_index;	/* with UBLK_F_AUTO_BUF_REG */
	__s32	result;		/* commit only */
};

#define UBLK_BATCH_F_HAS_ZONE_LBA		(1 << 0)
#define UBLK_BATCH_F_HAS_BUF_ADDR		(1 << 1)
#define UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK	(1 << 2)

/* Payload of a batched command. */
struct ublk_batch_io {
	__u16	q_id;
	__u16	flags;		/* UBLK_BATCH_F_* */
	__u16	nr_elem;
	__u8	elem_bytes;
	__u8	reserved;
	__u64	reserved2;
};

#define UBLK_ATTR_READ_ONLY		(1 << 0)
#define UBLK_ATTR_ROTATIONAL		(1 << 1)
#define UBLK_ATTR_VOLATILE_CACHE	(1 << 2)	/* FLUSH is sent */
#define UBLK_ATTR_FUA			(1 << 3)	/* UBLK_IO_F_FUA is sent */

struct ublk_param_basic {
	__u32	attrs;			/* UBLK_ATTR_* */
	__u8	logical_bs_shift;	/* 9 to the page shift */
	__u8	physical_bs_shift;
	__u8	io_opt_shift;
	__u8	io_min_shift;

	__u32	max_sectors;		/* of one request */
	__u32	chunk_sectors;		/* no request crosses a multiple; 0 for none */

	__u64	dev_sectors;		/* size of the disk, 512 bytes each */
	__u64	virt_boundary_mask;
};

struct ublk_param_discard {
	__u32	discard_alignment;
	__u32	discard_granularity;
	__u32	max_discard_sectors;
	__u32	max_write_zeroes_sectors;
	__u16	max_discard_segments;	/* 1 */
	__u16	reserved0;
};

/* Answered by GET_PARAMS, refused by SET_PARAMS; the disk numbers are 0 before START_DEV. */
struct ublk_param_devt {
	__u32	char_major;
	__u32	char_minor;
	__u32	disk_major;
	__u32	disk_minor;
};

struct ublk_param_zoned {
	__u32	max_open_zones;
	__u32	max_active_zones;
	__u32	max_zone_append_sectors;
	__u8	reserved[20];
};

struct ublk_param_dma_align {
	__u32	alignment;		/* mask, smaller than a page */
	__u8	pad[4];
};

#define UBLK_MIN_SEGMENT_SIZE		4096

struct ublk_param_segment {
	__u64	seg_boundary_mask;	/* power of two minus one, 4095 or more */
	__u32	max_segment_size;	/* UBLK_MIN_SEGMENT_SIZE or more */
	__u16	max_segments;
	__u8	pad[2];
};

/* Protection information: what LBMD_PI_* of linux/fs.h are, where that has them. */
#define UBLK_PI_CAP_INTEGRITY		(1 << 0)	/* the server checks it */
#define UBLK_PI_CAP_REFTAG		(1 << 1)	/* it has reference tags */
#define UBLK_PI_CSUM_NONE		0
#define UBLK_PI_CSUM_IP			1
#define UBLK_PI_CSUM_CRC16		2
#define UBLK_PI_CSUM_CRC64		4

struct ublk_param_integrity {
	__u32	flags;			/* LBMD_PI_CAP_* */
	__u16	max_integrity_segments;	/* 0 for no limit */
	__u8	interval_exp;
	__u8	metadata_size;
	__u8	pi_offset;
	__u8	csum_type;		/* LBMD_PI_CSUM_* */
	__u8	tag_size;
	__u8	pad[5];
};

#define UBLK_PARAM_TYPE_BASIC		(1 << 0)
#define UBLK_PARAM_TYPE_DISCARD		(1 << 1)
#define UBLK_PARAM_TYPE_DEVT		(1 << 2)
#define UBLK_PARAM_TYPE_ZONED		(1 << 3)
#define UBLK_PARAM_TYPE_DMA_ALIGN	(1 << 4)
#define UBLK_PARAM_TYPE_SEGMENT		(1 << 5)
#define UBLK_PARAM_TYPE_INTEGRITY	(1 << 6)

/* Grows at the end: `len` is what the caller knows, and what of it was used. */
struct ublk_params {
	__u32	len;
	__u32	types;			/* UBLK_PARAM_TYPE_*: which parts below count */

	struct ublk_param_basic		basic;
	struct ublk_param_discard	discard;
	struct ublk_param_devt		devt;
	struct ublk_param_zoned		zoned;
	struct ublk_param_dma_align	dma;
	struct ublk_param_segment	seg;
	struct ublk_param_integrity	integrity;
};

/* ublksrv_io_desc.addr with UBLK_IO_F_SHMEM_ZC: offset in bits 0-31, buffer index in 32-47. */
#define UBLK_SHMEM_ZC_OFF_MASK		0xffffffffULL
#define UBLK_SHMEM_ZC_IDX_OFF		32
#define UBLK_SHMEM_ZC_IDX_MASK		0xffffULL

static inline __u64 ublk_shmem_zc_addr(__u16 index, __u32 offset)
{
	__u64 high = index;

	return high << UBLK_SHMEM_ZC_IDX_OFF | offset;
}

static inline __u16 ublk_shmem_zc_index(__u64 addr)
{
	return (addr >> UBLK_SHMEM_ZC_IDX_OFF) & UBLK_SHMEM_ZC_IDX_MASK;
}

static inline __u32 ublk_shmem_zc_offset(__u64 addr)
{
	return addr & UBLK_SHMEM_ZC_OFF_MASK;
}

#ifdef __cplusplus
#define UBLK_ABI_ASSERT(cond)	static_assert(cond, #cond)
#else
#define UBLK_ABI_ASSERT(cond)	_Static_assert(cond, #cond)
#endif
UBLK_ABI_ASSERT(sizeof(struct ublksrv_ctrl_cmd) == 32);
UBLK_ABI_ASSERT(sizeof(struct ublksrv_ctrl_dev_info) == 64);
UBLK_ABI_ASSERT(sizeof(struct ublksrv_io_desc) == 24);
UBLK_ABI_ASSERT(sizeof(struct ublksrv_io_cmd) == 16);
UBLK_ABI_ASSERT(sizeof(struct ublk_elem_header) == 8);
UBLK_ABI_ASSERT(sizeof(struct ublk_batch_io) == 16);
UBLK_ABI_ASSERT(sizeof(struct ublk_auto_buf_reg) == 8);
UBLK_ABI_ASSERT(sizeof(struct ublk_shmem_buf_reg) == 24);
UBLK_ABI_ASSERT(sizeof(struct ublk_params) == 152);
#undef UBLK_ABI_ASSERT

#endif
