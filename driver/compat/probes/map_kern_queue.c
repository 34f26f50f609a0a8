/* SPDX-License-Identifier: GPL-2.0 */
/* Kernel memory is mapped into a request with its queue named. */
#include <linux/blk-mq.h>
int probe(struct request *req, void *data) { return blk_rq_map_kern(req->q, req, data, 1, GFP_KERNEL); }
