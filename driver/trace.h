/* SPDX-License-Identifier: GPL-2.0 */
/* Tracepoints, in /sys/kernel/tracing/events/ublk. Off, each is one no-op instruction. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM ublk

#if !defined(UBLK_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define UBLK_TRACE_H

#include <linux/tracepoint.h>

/* The server is given a request: op_flags, sectors and start as in its descriptor. */
TRACE_EVENT(ublk_dispatch,
	TP_PROTO(u32 id, u16 queue, u16 tag, const struct ublksrv_io_desc *desc),
	TP_ARGS(id, queue, tag, desc),
	TP_STRUCT__entry(
		__field(u32, id)
		__field(u16, queue)
		__field(u16, tag)
		__field(u32, op_flags)
		__field(u32, sectors)
		__field(u64, start)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->queue = queue;
		__entry->tag = tag;
		__entry->op_flags = desc->op_flags;
		__entry->sectors = desc->nr_sectors;
		__entry->start = desc->start_sector;
	),
	TP_printk("ublk%u queue=%u tag=%u op_flags=%#x start=%llu sectors=%u", __entry->id,
		  __entry->queue, __entry->tag, __entry->op_flags, __entry->start,
		  __entry->sectors)
);

/* The server's result, and how many bytes of the request are done with it. */
TRACE_EVENT_CONDITION(ublk_commit,
	TP_PROTO(u32 id, u16 queue, u16 tag, int res, u32 bytes),
	TP_ARGS(id, queue, tag, res, bytes),
	/* What was given back has no result. */
	TP_CONDITION(res != UBLK_RES_GIVE_BACK),
	TP_STRUCT__entry(
		__field(u32, id)
		__field(u16, queue)
		__field(u16, tag)
		__field(int, res)
		__field(u32, bytes)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->queue = queue;
		__entry->tag = tag;
		__entry->res = res;
		__entry->bytes = bytes;
	),
	TP_printk("ublk%u queue=%u tag=%u res=%d bytes=%u", __entry->id, __entry->queue,
		  __entry->tag, __entry->res, __entry->bytes)
);

/* The end of a server is known; state is what the device had until now (UBLK_S_DEV_*). */
TRACE_EVENT(ublk_abort,
	TP_PROTO(u32 id, u16 state),
	TP_ARGS(id, state),
	TP_STRUCT__entry(
		__field(u32, id)
		__field(u16, state)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->state = state;
	),
	TP_printk("ublk%u state=%u", __entry->id, __entry->state)
);

/* A new server has taken over. */
TRACE_EVENT(ublk_recover,
	TP_PROTO(u32 id, int server),
	TP_ARGS(id, server),
	TP_STRUCT__entry(
		__field(u32, id)
		__field(int, server)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->server = server;
	),
	TP_printk("ublk%u server=%d", __entry->id, __entry->server)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
